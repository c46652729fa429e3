"""Mixing of training images."""

from __future__ import annotations

from dataclasses import dataclass

from ssfnas.options import option
from ssfnas.registry import Component


@dataclass(kw_only=True)
class MixupEnd:
    """The end of mixup."""

    mixup_off_epochs: int = option(
        0, "last epochs without mixup, of the training and of each later stage", minimum=0
    )


MIXUP = Component("ssfnas.data.stream:ImageStream", (MixupEnd,))
