"""Ways to compute a case, and whether each is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from benchmarks import checks
from benchmarks.cases import Case, Inputs, Outputs
from benchmarks.pages import COMPILED, EAGER
from ssfnas import ops
from ssfnas.ops.selection import has_op


@dataclass(frozen=True)
class Variant:
    """One way to compute a case: ``run(inputs)`` gives the outputs and all gradients."""

    name: str
    run: Callable[[Inputs], list[Tensor]]


def _with_gradients(forward: Callable[[Inputs], Outputs], inputs: Inputs) -> list[Tensor]:
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
    reference = case.reference
    found = [Variant(EAGER, lambda inputs: _with_gradients(reference, inputs))]
    if compiled:
        # Sizes are fixed, and each case is compiled for itself.
        torch.compiler.reset()
        quick = torch.compile(reference, dynamic=False, fullgraph=True)
        found.append(Variant(COMPILED, lambda inputs: _with_gradients(quick, inputs)))
    for name, unavailable in ops.backends().items():
        # Triton's interpreter on a CPU is for tests.
        interpreted = name == "triton" and device.type == "cpu"
        if unavailable is None and has_op(name, case.op) and not interpreted:
            found.append(_of_backend(case, name))
    return found


def _of_backend(case: Case, name: str) -> Variant:
    function = case.function

    def run(inputs: Inputs) -> list[Tensor]:
        with ops.backend(name):
            return _with_gradients(function, inputs)

    return Variant(name, run)


def expected(case: Case, inputs: Inputs) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients of the reference in float64, and in the inputs' own dtype."""
    exact = [x.detach().double().requires_grad_() for x in inputs]
    return _with_gradients(case.reference, exact), _with_gradients(case.reference, inputs)


def check(
    case: Case, chosen: Variant, inputs: Inputs, known: tuple[list[Tensor], list[Tensor]]
) -> None:
    """Refuse a variant whose error is larger than twice the reference's, plus rounding of its own.

    Truth is the reference in float64. Another order of summing n numbers may cost a random walk of
    roundings, sqrt(n), of which an eighth is granted.

    Args:
        case, chosen: what is computed, and how.
        inputs: of the case.
        known: their :func:`expected` results.

    Raises:
        WrongResultError: names the result (outputs from 0 on, then gradients) and both errors.
    """
    truth, plain, found = (
        {f"result {place}": x for place, x in enumerate(each)}
        for each in (*known, chosen.run(inputs))
    )

    def granted(result: str) -> float:
        summed = max(1, inputs[0].numel() // max(1, truth[result].numel()))
        return float(torch.finfo(torch.float32).eps * (16 + summed**0.5 / 8))

    name = f"{case.name}: {chosen.name}"
    checks.check(name, found, plain, truth, granted, precision="its dtype")
