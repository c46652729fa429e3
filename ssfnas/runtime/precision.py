"""Arithmetic of the forward pass: fp32, bf16, or fp16 with a scaled loss."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from ssfnas.errors import RequestError
from ssfnas.ops import native

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse what the device cannot do.

    Raises:
        RequestError: fp16 on a CPU, or bf16 on a GPU without it.
    """
    if precision != "fp32" and precision not in _HALVES:
        raise RequestError(f"--precision {precision}: expected fp32, bf16 or fp16")
    if precision == "fp16" and device.type != "cuda":
        raise RequestError("--precision fp16 needs a GPU: use bf16 or fp32 on a CPU")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise RequestError("--precision bf16: this GPU has none: use fp16 or fp32")


def what_bf16_gains(precision: str, device: torch.device) -> str | None:
    """One line on what bfloat16 is worth on this CPU; None where nothing has to be said."""
    if precision != "bf16" or device.type != "cpu":
        return None
    if native.unavailable() is None and native.instruction_set() == "amx":
        return "bf16: products over channels run on the CPU's matrix unit (AMX)"
    return (
        "bf16: this CPU has no matrix unit that ssfnas can use (AMX): it saves memory, and time "
        "only where memory is what limits"
    )


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context for forward passes; parameters, losses and sums stay in float32.

    With fp32 it does nothing, so float64 networks stay in float64.

    Raises:
        RequestError: see :func:`check_precision`.
    """
    check_precision(precision, device)
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=_HALVES[precision])


def make_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler | None:
    """A new scaler of losses for fp16, whose small gradients would vanish; None otherwise.

    Raises:
        RequestError: see :func:`check_precision`.
    """
    check_precision(precision, device)
    return torch.amp.GradScaler(device.type) if precision == "fp16" else None
