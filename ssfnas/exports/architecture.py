"""The architecture of a trained network in a few plain values, and a network of them."""

from __future__ import annotations

from typing import Any

from torch import nn

from ssfnas.config import RetrainConfig
from ssfnas.errors import RequestError
from ssfnas.evaluation.features import classifier_of, features_of
from ssfnas.evaluation.networks import replace_classifier, timm_model
from ssfnas.objectives import CosineClassifier
from ssfnas.spaces import DerivedNetwork, Genotype, ReferenceDerivedNetwork
from ssfnas.spaces.genotype_text import FIELDS

ARCHITECTURE = "ssfnas_network"
"""How timm calls what it cannot build by itself: all but its own models with linear classifiers."""


def describe(
    net: nn.Module, config: RetrainConfig, in_channels: int, image_size: tuple[int, int]
) -> tuple[str, dict[str, Any]]:
    """The name that timm knows a network by, and the arguments that rebuild it.

    Args:
        net: of a finished retraining.
        config: of the retraining.
        in_channels, image_size: of its images; pixels (height, width).
    """
    arguments: dict[str, Any] = {"in_chans": in_channels}
    classifier = classifier_of(net)
    scale = classifier.scale if isinstance(classifier, CosineClassifier) else None
    if isinstance(net, ReferenceDerivedNetwork):
        genotype = net.genotype
        arguments |= {
            "genotype": {name: getattr(genotype, name) for name in FIELDS},
            "channels": config.channels,
            "layers": config.layers,
            "image_size": list(image_size),
        }
        return ARCHITECTURE, arguments | ({} if scale is None else {"cosine_scale": scale})
    _, tagged, more = timm_model(config, 1, in_channels, image_size)
    name = tagged.partition(".")[0]  # behind it is the name of published weights
    if scale is None:
        return name, arguments | more
    return ARCHITECTURE, {**arguments, "model": name, "model_args": more, "cosine_scale": scale}


def build(
    num_classes: int = 10,
    in_chans: int = 3,
    *,
    genotype: Any = None,
    channels: int = 36,
    layers: int = 20,
    image_size: int | tuple[int, int] | list[int] = 32,
    model: str | None = None,
    model_args: dict[str, Any] | None = None,
    cosine_scale: float | None = None,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
) -> nn.Module:
    """A network with new weights; arguments are called as in timm.

    Args:
        num_classes: logits; 0: the pooled features come out.
        in_chans: of the images.
        genotype: of a derived network, as :class:`~ssfnas.spaces.Genotype` or as a dict of its
            parts.
        channels, layers, image_size: see :class:`~ssfnas.spaces.DerivedNetwork`.
        model: a model of timm's in place of a derived network.
        model_args: of that.
        cosine_scale: of a classifier by cosines; None: it is linear.
        drop_rate, drop_path_rate: 0; these networks have no dropout, and paths are dropped by
            ``set_drop_path``.

    Raises:
        RequestError: a number out of range, an unknown operation, or an empty cell.
    """
    if drop_rate or drop_path_rate:
        raise RequestError(
            "drop_rate and drop_path_rate have to be 0: net.set_drop_path drops paths, step by step"
        )
    if model is not None:
        import timm

        net = timm.create_model(
            model, num_classes=num_classes, in_chans=in_chans, **(model_args or {})
        )
    else:
        if isinstance(genotype, dict):
            genotype = Genotype(**genotype)
        if not isinstance(genotype, Genotype):
            raise RequestError(f"{ARCHITECTURE} needs genotype=, a Genotype or its parts")
        size = image_size if isinstance(image_size, int) else max(image_size)
        derived = DerivedNetwork(
            genotype,
            max(num_classes, 1),
            in_channels=in_chans,
            channels=channels,
            layers=layers,
            image_size=size,
        )
        if num_classes < 1:
            derived.reset_classifier(0)
        net = derived
    if cosine_scale is not None and num_classes > 0:
        replace_classifier(net, CosineClassifier(features_of(net), num_classes, scale=cosine_scale))
    return net
