"""Ways to compute a case, and whether each is right: a wrong one is not timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from benchmarks.cases import Case, Inputs
from ssfnas import ops
from ssfnas.ops.selection import has_op

EAGER, COMPILED = "reference, eager", "reference, compiled"


@dataclass(frozen=True)
class Variant:
    """One way to compute a case: ``run(inputs)`` gives the outputs and all gradients."""

    name: str
    run: Callable[[Inputs], list[Tensor]]


class WrongResultError(RuntimeError):
    """A variant's error is larger than its dtype explains."""


def _with_gradients(
    forward: Callable[[Inputs], Tensor | Sequence[Tensor]], inputs: Inputs
) -> list[Tensor]:
    found = forward(inputs)
    outs = [found] if isinstance(found, Tensor) else list(found)
    first = _rolled(inputs[0])
    gradients = {out.shape: _gradient(out, first) for out in outs}
    given = torch.autograd.grad(outs, inputs, [gradients[out.shape] for out in outs])
    return [*(out.detach() for out in outs), *given]


_ROLLED = WeakTensorKeyDictionary()


def _rolled(first: Tensor) -> Tensor:
    """The first input, images in another order; made once, since it is not what is measured.

    As it is, it would not do: normalizing it has no gradient in its own direction.
    """
    if first not in _ROLLED:
        _ROLLED[first] = torch.empty_like(first.detach()).copy_(first.detach().roll(1, 0))
    return _ROLLED[first]


def _gradient(out: Tensor, first: Tensor) -> Tensor:
    """Numbers in the shape of ``out``: those of ``first``, or a part of it."""
    if out.dim() == 0:
        return torch.ones_like(out)
    if out.shape == first.shape:
        return first
    part = first[tuple(slice(size) for size in out.shape)]
    return torch.empty_like(out).copy_(part)


def variants(case: Case, device: torch.device, *, compiled: bool = True) -> list[Variant]:
    """The reference in eager mode and compiled, and every backend that runs on this device."""
    found = [Variant(EAGER, lambda inputs: _with_gradients(case.reference, inputs))]
    if compiled:
        # Sizes are fixed, and each case is compiled for itself.
        torch.compiler.reset()
        quick = torch.compile(case.reference, dynamic=False, fullgraph=True)
        found.append(Variant(COMPILED, lambda inputs: _with_gradients(quick, inputs)))
    for name, reason in ops.backends().items():
        if reason is not None or not has_op(name, case.op):
            continue
        if not (name == "triton" and device.type == "cpu"):
            found.append(_of_backend(case, name))
    return found


def _of_backend(case: Case, name: str) -> Variant:
    def run(inputs: Inputs) -> list[Tensor]:
        with ops.backend(name):
            return _with_gradients(case.function, inputs)

    return Variant(name, run)


def expected(case: Case, inputs: Inputs) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients of the reference in float64, and in the inputs' own dtype."""
    exact = [x.detach().double().requires_grad_() for x in inputs]
    return _with_gradients(case.reference, exact), _with_gradients(case.reference, inputs)


def check(
    case: Case,
    chosen: Variant,
    inputs: Inputs,
    known: tuple[list[Tensor], list[Tensor]] | None = None,
) -> None:
    """Refuse a variant whose error exceeds twice that of the reference, plus rounding of its own.

    Truth is the reference in float64. Another order of summing n numbers may cost a random walk of
    roundings, sqrt(n), of which an eighth is granted.

    Args:
        case, chosen: what is computed, and how.
        inputs: of the case.
        known: their :func:`expected` results, where they have been computed before.

    Raises:
        WrongResultError: names the result (outputs from 0 on, then gradients) and both errors.
    """
    truth, plain = expected(case, inputs) if known is None else known
    found = chosen.run(inputs)
    eps = torch.finfo(torch.float32).eps
    for place, (x, y, t) in enumerate(zip(found, plain, truth, strict=True)):
        mine, own = _error(x, t), _error(y, t)
        summed = max(1, inputs[0].numel() // max(1, t.numel()))
        tiny = eps * (16 + summed**0.5 / 8)
        if not mine <= 2 * own + tiny:
            raise WrongResultError(
                f"{case.name}: {chosen.name}: result {place} has error {mine:.1e}, the reference "
                f"in its dtype {own:.1e}"
            )


def _error(x: Tensor, truth: Tensor) -> float:
    return float((x.double() - truth).norm() / truth.norm().clamp_min(1e-30))
