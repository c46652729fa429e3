"""What is measured: one op at one size, forward and backward, with what it moves and computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ssfnas import ops
from ssfnas.ops.candidate_operations import Candidates
from ssfnas.seeding import generator

Inputs = list[Tensor]
Function = Callable[[Inputs], Tensor | Sequence[Tensor]]

# Sizes and dilations of the separable convolutions on an edge.
_UNITS = ((3, 1), (5, 1), (3, 2), (5, 2))


@dataclass(frozen=True)
class Case:
    """One op at one size.

    Attributes:
        op: ``"mixed_sum"``, ``"mixed_norm_sum"``, ``"barlow_twins_loss"`` or
            ``"candidate_operations"``.
        label: the size, for people.
        dtype: of the tensors that are summed or compared.
        make: draws a fresh set of inputs on a device from a number; all of them want gradients.
        function: the op, as dispatched by ``ssfnas.ops``.
        reference: its definition.
        bytes_moved: what forward and backward together have to move, at the least: a model.
        operations: multiplications and additions, 0 where memory is what counts.
    """

    op: str
    label: str
    dtype: torch.dtype
    make: Callable[[torch.device, int], Inputs]
    function: Function
    reference: Function
    bytes_moved: int
    operations: int = 0

    @property
    def name(self) -> str:
        """Op, size and dtype in one line."""
        return f"{self.op} {self.label} {str(self.dtype).removeprefix('torch.')}"


def _sum_inputs(
    shape: Sequence[int],
    count: int,
    dtype: torch.dtype,
    channels_last: bool,
    device: torch.device,
    number: int,
) -> Inputs:
    rng = generator(number, "benchmark", device=str(device))
    xs = [torch.randn(*shape, generator=rng, device=device).to(dtype) for _ in range(count)]
    if channels_last:
        xs = [x.contiguous(memory_format=torch.channels_last) for x in xs]
    weights = torch.rand(count, generator=rng, device=device)
    return [x.requires_grad_() for x in (*xs, weights)]


def _feature_inputs(
    size: Sequence[int], dtype: torch.dtype, device: torch.device, number: int
) -> Inputs:
    rng = generator(number, "benchmark", device=str(device))
    z1, noise = (torch.randn(*size, generator=rng, device=device) for _ in range(2))
    return [z.to(dtype).requires_grad_() for z in (z1, z1 + noise)]


def _mixed_sum(inputs: Inputs, op: Callable[..., Tensor]) -> Tensor:
    return op(inputs[:-1], inputs[-1])


def _barlow_twins(inputs: Inputs, op: Callable[..., Tensor]) -> Tensor:
    return op(*inputs)


def _sum_case(
    op: str, shape: Sequence[int], count: int, dtype: torch.dtype, channels_last: bool
) -> Case:
    function, reference, passes = {
        "mixed_sum": (ops.mixed_sum, ops.mixed_sum_reference, 3 * count + 2),
        "mixed_norm_sum": (ops.mixed_norm_sum, ops.mixed_norm_sum_reference, 5 * count + 3),
    }[op]
    layout = "NHWC" if channels_last else "NCHW"
    return Case(
        op=op,
        label=f"K={count} {'x'.join(map(str, shape))} {layout}",
        dtype=dtype,
        make=partial(_sum_inputs, shape, count, dtype, channels_last),
        function=partial(_mixed_sum, op=function),
        reference=partial(_mixed_sum, op=reference),
        bytes_moved=passes * torch.Size(shape).numel() * dtype.itemsize,
    )


def _barlow_case(size: tuple[int, int], dtype: torch.dtype) -> Case:
    n, d = size
    return Case(
        op="barlow_twins_loss",
        label=f"N={n} D={d}",
        dtype=dtype,
        make=partial(_feature_inputs, size, dtype),
        function=partial(_barlow_twins, op=ops.barlow_twins_loss),
        reference=partial(_barlow_twins, op=ops.barlow_twins_loss_reference),
        # Both views are read forward, read again backward, and their gradients written.
        bytes_moved=6 * n * d * dtype.itemsize,
        operations=min(8 * n * n * d, 6 * n * d * d),
    )


def _candidate_inputs(
    shape: Sequence[int], edges: int, dtype: torch.dtype, device: torch.device, number: int
) -> Inputs:
    rng = generator(number, "benchmark", device=str(device))
    channels = shape[1]
    s = torch.randn(*shape, generator=rng, device=device).to(dtype)
    inputs = [s.contiguous(memory_format=torch.channels_last)]
    for size, _ in _UNITS * edges:
        filters = torch.randn(channels, 1, size, size, generator=rng, device=device)
        inputs.append(filters / size)
    for _ in _UNITS * edges:
        mixing = torch.randn(channels, channels, 1, 1, generator=rng, device=device)
        inputs.append(mixing / channels**0.5)
    return [x.requires_grad_() for x in inputs]


def _stencils(inputs: Inputs, op: Callable[..., Candidates], stride: int) -> list[Tensor]:
    s, *filters = inputs
    groups = len(filters) // 2
    dilations = [dilation for _, dilation in _UNITS] * (groups // len(_UNITS))
    zs, largest, average = op(
        s, filters[:groups], filters[groups:], dilations=dilations, stride=stride
    )
    return [*zs, largest, average]


def _candidate_case(
    shape: Sequence[int], edges: int, dtype: torch.dtype = torch.float32, *, stride: int = 1
) -> Case:
    samples, channels, height, width = shape
    groups = edges * len(_UNITS)
    pixels = samples * -(-height // stride) * -(-width // stride)
    products = pixels * channels * edges * sum(size**2 + channels for size, _ in _UNITS)
    values = pixels * channels
    return Case(
        op="candidate_operations",
        label=f"{groups} units {'x'.join(map(str, shape))} stride {stride}",
        dtype=dtype,
        make=partial(_candidate_inputs, shape, edges, dtype),
        function=partial(_stencils, op=ops.candidate_operations, stride=stride),
        reference=partial(_stencils, op=ops.candidate_operations_reference, stride=stride),
        # The source is read twice, its gradient written; results are written, their gradients read.
        bytes_moved=(3 * torch.Size(shape).numel() + 2 * (groups + 2) * values) * dtype.itemsize,
        # Each product of the forward pass stands for one of each gradient; to add counts too.
        operations=2 * 3 * products,
    )


def cases(op: str, *, quick: bool = False, cpu: bool = False) -> list[Case]:
    """Sizes of the search and its reductions, and a sweep over K.

    Args:
        op: which op.
        quick: a few small sizes, for a look at whether everything runs.
        cpu: those of a search on a CPU: batches of 32 in single precision, in place of
            128 in half precision.
    """
    if op == "barlow_twins_loss":
        return _barlow_cases(quick, cpu)
    if op == "candidate_operations":
        return _candidate_cases(quick, cpu)
    if quick:
        return [_sum_case(op, (4, 16, 16, 16), count, torch.float32, False) for count in (2, 7)]
    batch, dtype = (32, torch.float32) if cpu else (128, torch.bfloat16)
    first, second, third = (batch, 16, 32, 32), (batch, 32, 16, 16), (batch, 64, 8, 8)
    counts = (2, 7, 35) if cpu else (2, 7, 14, 21, 28, 35)
    sweep = [_sum_case(op, first, count, dtype, True) for count in counts]
    others = [
        _sum_case(op, first, 7, torch.float32, False),
        _sum_case(op, first, 35, torch.float32, False),
        _sum_case(op, first, 35, torch.bfloat16, False),
        _sum_case(op, second, 35, dtype, True),
        _sum_case(op, third, 35, dtype, True),
    ]
    return sweep + others


def _barlow_cases(quick: bool, cpu: bool) -> list[Case]:
    if quick:
        return [_barlow_case((32, 128), torch.float32), _barlow_case((64, 32), torch.float32)]
    sizes = [(128, 2048), (256, 2048), (128, 8192), (2048, 2048)]
    if not cpu:  # on which the references of these take many minutes
        sizes += [(256, 8192), (2048, 8192)]
    rounded = [_barlow_case((256, 2048), torch.bfloat16)]
    return [_barlow_case(size, torch.float32) for size in sizes] + rounded


def _candidate_cases(quick: bool, cpu: bool) -> list[Case]:
    if quick:
        return [_candidate_case((2, 16, 8, 8), 1), _candidate_case((2, 8, 9, 7), 1, stride=2)]
    batch, dtype = (32, torch.float32) if cpu else (128, torch.bfloat16)
    return [
        _candidate_case((batch, 16, 32, 32), 4, dtype),
        _candidate_case((batch, 32, 16, 16), 4, dtype),
        _candidate_case((batch, 64, 8, 8), 4, dtype),
        _candidate_case((batch, 32, 32, 32), 4, dtype, stride=2),
        _candidate_case((batch, 16, 32, 32), 4, torch.bfloat16 if cpu else torch.float32),
    ]


OPS = ("mixed_sum", "mixed_norm_sum", "barlow_twins_loss", "candidate_operations")
