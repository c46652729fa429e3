"""The data set that the package brings along; see ``mini/README.md`` for how it was cut."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ssfnas.data.npz import read_npz
from ssfnas.data.parts import DataParts

MINI = "cifar10-lt-mini"
_FILE = Path(__file__).parent / "mini" / "cifar10_lt_mini.npz"


def read_mini() -> DataParts:
    """804 training images of CIFAR-10 at imbalance ratio 25, and 40 test images of each class."""
    return dataclasses.replace(read_npz(_FILE), name=MINI)
