"""``import ssfnas.timm_models`` tells timm how to build the networks that ssfnas exports.

After it ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads what
``python -m ssfnas.export --format timm`` wrote, and ``timm.create_model("ssfnas_network",
genotype=...)`` makes a new network. Exported models of timm's own need no import.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, register_model
from torch import nn

from ssfnas.exports.architecture import build

__all__ = ["ssfnas_network"]

default_cfgs = {"ssfnas_network": {"first_conv": "stem.0", "classifier": "classifier"}}


@register_model
def ssfnas_network(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """A derived network, or a model of timm's with a classifier by cosines.

    Args:
        pretrained: load the weights of the folder that is named.
        kwargs: see :func:`ssfnas.exports.architecture.build`.
    """
    net: nn.Module = build_model_with_cfg(build, "ssfnas_network", pretrained, **kwargs)
    return net
