"""Whether a variant is right: a wrong one is not timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

Results = Mapping[str, Any]
"""Name -> a tensor or an array."""


class WrongResultError(RuntimeError):
    """A variant's error is larger than its dtype explains."""


class WorkerError(RuntimeError):
    """A variant could not be built or run, ended by itself, or took too long: one line."""


def check(
    variant: str,
    found: Results,
    plain: Results,
    truth: Results,
    granted: Callable[[str], float],
    precision: str,
) -> None:
    """Refuse a variant whose error is larger than twice the reference's, plus a constant.

    Args:
        variant: its name.
        found, plain, truth: results of the variant, of the reference in the same precision, and of
            the reference in float64.
        granted: the constant for a result of that name.
        precision: what it is called.

    Raises:
        WrongResultError: names the result and both errors.
    """
    for name, exact in truth.items():
        mine, own = error(found[name], exact), error(plain[name], exact)
        if not mine <= 2 * own + granted(name):
            raise WrongResultError(
                f"{variant}: {name} has error {mine:.1e}, the reference in {precision} {own:.1e}"
            )


def error(x: Any, truth: Any) -> float:
    """Relative, by norm."""
    x, truth = (torch.as_tensor(each).double() for each in (x, truth))
    return float((x - truth).norm() / truth.norm().clamp_min(1e-30))


def one_line(error: Exception) -> str:
    """The kind of an error, and the first line of what it says; a worker said both."""
    if isinstance(error, WorkerError):
        return str(error)
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}"
