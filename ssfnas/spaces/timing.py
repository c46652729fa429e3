"""How long a module takes."""

from __future__ import annotations

import statistics
import time

import torch
from torch import nn

TIMED_IMAGES = 32
_UNTIMED, _TIMED = 2, 5


def milliseconds(
    module: nn.Module, shape: tuple[int, ...], device: torch.device | str = "cpu"
) -> float:
    """Median time of a few forward passes in evaluation, for one image of a batch of 32.

    Args:
        module: moved to the device, and left there in evaluation mode.
        shape: [1, C, H, W] of what one image is to it; memory is channels_last.
        device: where to compute.
    """
    device = torch.device(device)
    module.eval().to(device)
    batch = torch.ones(TIMED_IMAGES, *shape[1:], device=device)
    batch = batch.contiguous(memory_format=torch.channels_last)
    times = []
    with torch.no_grad():
        for _ in range(_UNTIMED + _TIMED):
            started = _now(device)
            module(batch)
            times.append(_now(device) - started)
    return 1000 * statistics.median(times[_UNTIMED:]) / TIMED_IMAGES


def _now(device: torch.device) -> float:
    """Seconds, when all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
