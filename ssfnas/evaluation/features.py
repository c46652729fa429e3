"""Features of a network in timm's form: what comes before its classifier."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn


def pooled(net: nn.Module, x: Tensor) -> Tensor:
    """Features [N, F] before the classifier, for images [N, C, H, W]."""
    timm_like = cast(Any, net)
    features: Tensor = timm_like.forward_head(timm_like.forward_features(x), pre_logits=True)
    return features


def features_of(net: nn.Module) -> int:
    """F, the number of pooled features that the classifier sees."""
    timm_like = cast(Any, net)
    return int(getattr(timm_like, "head_hidden_size", None) or timm_like.num_features)


def classifier_of(net: nn.Module) -> nn.Module:
    """The last layer, from features to logits."""
    classifier: nn.Module = cast(Any, net).get_classifier()
    return classifier
