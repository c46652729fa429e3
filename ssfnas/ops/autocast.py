"""Whether autocast is on, and computing as if it were not."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def autocasts(x: Tensor) -> bool:
    """Whether operations on the device of ``x`` may change the dtypes that they are given."""
    device = x.device.type
    # Meta tensors know no autocast, and asking whether a device does cannot be compiled.
    return device != "meta" and torch.is_autocast_enabled(device)


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """A context in which operations on the device of ``x`` keep the dtypes that they are given."""
    return torch.autocast(x.device.type, enabled=False) if autocasts(x) else nullcontext()
