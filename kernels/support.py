"""Where the Triton kernels can run: asked before any of them is imported."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Sequence

import torch
from torch import Tensor

MAX_INPUTS = 48
"""Most tensors that one sum takes: they are unrolled, so that each one costs compile time."""

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_FIRST_TRITON = (3, 3)
_FIRST_CAPABILITY = (8, 0)


def interpreting() -> bool:
    """Whether kernels are interpreted on the CPU (``TRITON_INTERPRET=1`` in the environment)."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "y", "yes")


@functools.cache
def unavailable() -> str | None:
    """Why no kernel can run in this process, or None if they can."""
    try:
        version: str = importlib.import_module("triton").__version__
    except ImportError as error:
        return f"Triton, which comes with PyTorch on Linux, cannot be imported ({error})"
    if tuple(int(part) for part in version.split(".")[:2]) < _FIRST_TRITON:
        return f"Triton {version} is too old: tuples of tensors need 3.3"
    if interpreting():
        return None
    if not torch.cuda.is_available():
        return (
            "no CUDA device is visible (TRITON_INTERPRET=1, set before Python starts, "
            "interprets the kernels on the CPU, slowly)"
        )
    return None


def unsupported(op: str, tensors: Sequence[Tensor]) -> str | None:
    """Why ``op`` cannot run on these tensors, or None if it can.

    Args:
        op: ``"mixed_sum"``, ``"mixed_norm_sum"`` or ``"barlow_twins_loss"``.
        tensors: the tensors that are summed, or the two feature matrices; one dtype, one device.
    """
    if not tensors:
        return None
    device, dtype = tensors[0].device, tensors[0].dtype
    if device.type != "cuda" and not (interpreting() and device.type == "cpu"):
        return f"Triton kernels take CUDA tensors, and these are on '{device}'"
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < _FIRST_CAPABILITY:
            found = ".".join(map(str, capability))
            return f"Triton needs compute capability 8.0 or newer, and {device} has {found}"
    if dtype not in DTYPES:
        return f"dtype {dtype} is none of {', '.join(str(d) for d in DTYPES)}"
    if op.startswith("mixed") and len(tensors) > MAX_INPUTS:
        return f"{len(tensors)} tensors are more than the {MAX_INPUTS} that one kernel takes"
    return None
