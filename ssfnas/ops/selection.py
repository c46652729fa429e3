"""Which implementation computes an op: the fastest that can run here, or the one asked for."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from ssfnas.errors import RequestError

AUTO = "auto"
REFERENCE = "reference"
VARIABLE = "SSFNAS_BACKEND"

# From the fastest to the slowest where they run as they should: Triton's interpreter on a CPU is
# for tests, so nobody gets it without asking.
_ORDER = {"cuda": ("triton", "native", "torch"), "cpu": ("native", "torch")}
# Where a backend's functions are; the first module says whether, and on what tensors, it can run.
_MODULES = {
    "torch": (
        "ssfnas.ops.torch_sums",
        "ssfnas.ops.norm_coefficients",
        "ssfnas.ops.torch_barlow_twins",
        "ssfnas.ops.torch_candidates",
        "ssfnas.ops.torch_pointwise",
        "ssfnas.ops.torch_reduces",
        "ssfnas.ops.torch_partial_channels",
    ),
    "native": (
        "ssfnas.ops.native",
        "ssfnas.ops.native_candidates",
        "ssfnas.ops.native_pointwise",
        "ssfnas.ops.native_reduces",
        "ssfnas.ops.native_partial_channels",
        "ssfnas.ops.native_coefficients",
    ),
    "triton": ("ssfnas.kernels", "ssfnas.ops.triton_reduces"),
}
# Ops that a backend has on devices of one type alone.
_ONLY_ON = {
    ("native", op): "cpu"
    for op in ("norm_coefficients", "pointwise", "reduces", "partial_channels")
}
_PRIMITIVES = {
    "mixed_sum": ("mixed_sum_forward", "mixed_sum_backward"),
    "mixed_norm_sum": (
        "norm_statistics",
        "norm_sum_forward",
        "norm_sum_reduce",
        "norm_sum_apply",
    ),
    "norm_coefficients": ("enter_statistics", "node_coefficients", "gradient_coefficients"),
    "barlow_twins_loss": ("barlow_twins_forward", "barlow_twins_backward"),
    "candidate_operations": (
        "separable_forward",
        "separable_backward",
        "pools_forward",
        "pools_backward",
    ),
    "pointwise": ("pointwise_forward", "pointwise_backward"),
    "reduces": ("reduces_forward", "reduces_backward"),
    "partial_channels": ("split_forward", "split_backward", "merge_forward", "merge_backward"),
}

_forced: str | None = None


class BackendError(RequestError, RuntimeError):
    """A backend was asked for that is not known, or cannot run here or on these tensors."""


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Compute the ops with one backend inside a ``with`` block, or in a decorated function.

    It holds for all threads of the process, and goes before the environment variable
    ``SSFNAS_BACKEND``, which takes the same names. Code compiled by ``torch.compile`` keeps the
    backend under which it was traced, until it is called under another ``backend(...)``.

    Args:
        name: ``"torch"``, ``"native"`` or ``"triton"``; ``"auto"`` for the fastest that can run;
            ``"reference"`` for the plain definitions, which are differentiable any number of times.

    Raises:
        BackendError: there is no such backend, or it cannot run on this machine. One that cannot
            take the tensors of a call raises it then.
    """
    global _forced
    _checked(name, f"backend('{name}')")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def backends() -> dict[str, str | None]:
    """Each backend's name, with the reason why it cannot run on this machine, or None if it can."""
    return {name: why_unavailable(name) for name in _MODULES}


def requested() -> str:
    """The backend that :func:`backend` or the environment asks for, by default ``"auto"``."""
    if _forced is not None:
        return _forced
    return os.environ.get(VARIABLE) or AUTO


def wants_reference() -> bool:
    """Whether the plain definitions are asked for."""
    return requested() == REFERENCE


def choose(op: str, tensors: Sequence[Tensor], name: str) -> str:
    """The backend that computes ``op`` on these tensors.

    Args:
        op: ``"mixed_sum"``, ``"mixed_norm_sum"``, ``"norm_coefficients"``, ``"pointwise"``,
            ``"reduces"``, ``"partial_channels"``, ``"barlow_twins_loss"`` or
            ``"candidate_operations"``.
        tensors: those that are summed, the two embeddings, or sources; one dtype, one device.
        name: what was asked for.

    Raises:
        BackendError: a backend was asked for by name and cannot take these tensors.
    """
    if name != AUTO:
        _checked(name, f"{VARIABLE}={name}")
        reason = why_unsupported(name, op, tensors)
        if reason is not None:
            raise BackendError(f"backend '{name}' cannot compute {op} here: {reason}")
        return name
    # Fake and other wrapped tensors have no memory that a kernel could read.
    if all(type(x) is Tensor or type(x) is nn.Parameter for x in tensors):
        for candidate in _ORDER.get(tensors[0].device.type, ()):
            if why_unsupported(candidate, op, tensors) is None:
                return candidate
    return "torch"


def primitive(name: str, function: str) -> Callable[..., Any]:
    """The function of that name of a backend that can run."""
    return _primitives(name)[function]


def op_of(function: str) -> str:
    """The op that a backend's function of that name is a part of."""
    return next(op for op, functions in _PRIMITIVES.items() if function in functions)


def has_op(name: str, op: str, device: str | None = None) -> bool:
    """Whether a backend computes the op at all, on devices of a type; None: somewhere."""
    only = _ONLY_ON.get((name, op), device)
    return name in _MODULES and _has(name, op) and device in (None, only)


@functools.cache
def why_unavailable(name: str) -> str | None:
    """Why the backend cannot run in this process, or None if it can."""
    try:
        reason: str | None = _modules(name)[0].unavailable()
    except ImportError as error:
        return f"{_MODULES[name][0]} cannot be imported ({error})"
    return reason


def why_unsupported(name: str, op: str, tensors: Sequence[Tensor]) -> str | None:
    """Why the backend cannot compute ``op`` on these tensors, or None if it can."""
    reason = why_unavailable(name)
    if reason is not None:
        return reason
    device = tensors[0].device.type if tensors else None
    if not has_op(name, op, device):
        return f"it has no {op}" + (f" on '{device}'" if _has(name, op) else "")
    unsupported: str | None = _modules(name)[0].unsupported(op, tensors)
    return unsupported


@functools.cache
def _modules(name: str) -> list[ModuleType]:
    return [importlib.import_module(module) for module in _MODULES[name]]


@functools.cache
def _has(name: str, op: str) -> bool:
    return all(function in _primitives(name) for function in _PRIMITIVES[op])


@functools.cache
def _primitives(name: str) -> dict[str, Callable[..., Any]]:
    """The functions of a backend by name; a module that is asked for one may load it only then."""
    return {
        function: getattr(module, function)
        for module in _modules(name)
        for functions in _PRIMITIVES.values()
        for function in functions
        if hasattr(module, function)
    }


def _checked(name: str, where: str) -> None:
    if name in (AUTO, REFERENCE):
        return
    if name not in _MODULES:
        known = ", ".join((AUTO, *_MODULES, REFERENCE))
        raise BackendError(f"{where}: there is no such backend: it is one of {known}")
    reason = why_unavailable(name)
    if reason is not None:
        raise BackendError(f"{where}: the backend cannot run here: {reason}")
