"""What is measured: one op at one size, forward and backward, with what it moves and computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor

from benchmarks.timing import cache_bytes
from ssfnas import ops
from ssfnas.seeding import generator

Inputs = list[Tensor]
Outputs = Tensor | Sequence[Tensor]
Op = Callable[..., Any]

OPS = ("mixed_sum", "mixed_norm_sum", "barlow_twins_loss", "candidate_operations")
# Sizes and dilations of the separable convolutions on an edge.
_UNITS = ((3, 1), (5, 1), (3, 2), (5, 2))
_MOST_SETS = 16


@dataclass(frozen=True)
class Case:
    """One op at one size.

    Attributes:
        op: one of ``OPS``.
        label: the size, for people.
        dtype: of the tensors that are summed or compared.
        draw: a fresh set of inputs, on the generator's device.
        call: calls the op, or its definition, on such inputs.
        bytes_moved: what forward and backward together have to move, at the least: a model.
        operations: multiplications and additions, 0 where memory is what counts.
    """

    op: str
    label: str
    dtype: torch.dtype
    draw: Callable[[Generator], Inputs]
    call: Callable[[Op, Inputs], Outputs]
    bytes_moved: int
    operations: int = 0

    @property
    def name(self) -> str:
        """Op, size and dtype in one line."""
        return f"{self.op} {self.label} {str(self.dtype).removeprefix('torch.')}"

    @property
    def function(self) -> Callable[[Inputs], Outputs]:
        """The op, as dispatched by ``ssfnas.ops``."""
        return partial(self.call, getattr(ops, self.op))

    @property
    def reference(self) -> Callable[[Inputs], Outputs]:
        """Its definition."""
        return partial(self.call, getattr(ops, f"{self.op}_reference"))

    def inputs(self, device: torch.device, number: int = 0) -> Inputs:
        """The set of inputs of that number; all of them want gradients."""
        rng = generator(number, "benchmark", device=str(device))
        return [x.requires_grad_() for x in self.draw(rng)]

    def input_sets(self, device: torch.device) -> list[Inputs]:
        """As many sets of inputs as it takes to push each other out of the last cache."""
        first = self.inputs(device)
        size = sum(x.nbytes for x in first)
        count = min(_MOST_SETS, max(1, -(-3 * cache_bytes(device) // size)))
        return [first, *(self.inputs(device, number) for number in range(1, count))]


def _normal(rng: Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=rng, device=rng.device)


def _sum_case(
    op: str, shape: Sequence[int], count: int, dtype: torch.dtype, channels_last: bool
) -> Case:
    def draw(rng: Generator) -> Inputs:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        xs = [_normal(rng, *shape).to(dtype).contiguous(memory_format=layout) for _ in range(count)]
        return [*xs, torch.rand(count, generator=rng, device=rng.device)]

    passes = {"mixed_sum": 3 * count + 2, "mixed_norm_sum": 5 * count + 3}[op]
    layout = "NHWC" if channels_last else "NCHW"
    return Case(
        op=op,
        label=f"K={count} {'x'.join(map(str, shape))} {layout}",
        dtype=dtype,
        draw=draw,
        call=lambda function, inputs: function(inputs[:-1], inputs[-1]),
        bytes_moved=passes * torch.Size(shape).numel() * dtype.itemsize,
    )


def _barlow_case(n: int, d: int, dtype: torch.dtype = torch.float32) -> Case:
    def draw(rng: Generator) -> Inputs:
        z1, noise = (_normal(rng, n, d) for _ in range(2))
        return [z.to(dtype) for z in (z1, z1 + noise)]

    return Case(
        op="barlow_twins_loss",
        label=f"N={n} D={d}",
        dtype=dtype,
        draw=draw,
        call=lambda function, inputs: function(*inputs),
        # Both views are read forward, read again backward, and their gradients written.
        bytes_moved=6 * n * d * dtype.itemsize,
        operations=min(8 * n * n * d, 6 * n * d * d),
    )


def _candidate_case(
    shape: Sequence[int], edges: int, dtype: torch.dtype = torch.float32, *, stride: int = 1
) -> Case:
    samples, channels, height, width = shape
    units = _UNITS * edges

    def draw(rng: Generator) -> Inputs:
        s = _normal(rng, *shape).to(dtype).contiguous(memory_format=torch.channels_last)
        filters = [_normal(rng, channels, 1, size, size) / size for size, _ in units]
        mixing = [_normal(rng, channels, channels, 1, 1) / channels**0.5 for _ in units]
        return [s, *filters, *mixing]

    dilations = [dilation for _, dilation in units]

    def call(function: Op, inputs: Inputs) -> list[Tensor]:
        s, *filters = inputs
        depthwise, mixing = filters[: len(units)], filters[len(units) :]
        zs, largest, average = function(s, depthwise, mixing, dilations=dilations, stride=stride)
        return [*zs, largest, average]

    values = samples * -(-height // stride) * -(-width // stride) * channels
    products = values * edges * sum(size**2 + channels for size, _ in _UNITS)
    moved = 3 * torch.Size(shape).numel() + 2 * (len(units) + 2) * values
    return Case(
        op="candidate_operations",
        label=f"{len(units)} units {'x'.join(map(str, shape))} stride {stride}",
        dtype=dtype,
        draw=draw,
        call=call,
        # The source is read twice, its gradient written; results are written, their gradients read.
        bytes_moved=moved * dtype.itemsize,
        # Each product of the forward pass stands for one of each gradient; to add counts too.
        operations=2 * 3 * products,
    )


def cases(op: str, *, quick: bool = False, cpu: bool = False) -> list[Case]:
    """Sizes of the search and its reductions, and a sweep over K.

    Args:
        op: one of ``OPS``.
        quick: a few small sizes, for a look at whether everything runs.
        cpu: those of a search on a CPU: batches of 32 in single precision, in place of
            128 in half precision.
    """
    batch, dtype = (32, torch.float32) if cpu else (128, torch.bfloat16)
    if op == "barlow_twins_loss":
        return _barlow_cases(quick, cpu)
    if op == "candidate_operations":
        return _candidate_cases(quick, batch, dtype)
    if quick:
        return [_sum_case(op, (4, 16, 16, 16), count, torch.float32, False) for count in (2, 7)]
    first, second, third = (batch, 16, 32, 32), (batch, 32, 16, 16), (batch, 64, 8, 8)
    counts = (2, 7, 35) if cpu else (2, 7, 14, 21, 28, 35)
    return [
        *(_sum_case(op, first, count, dtype, True) for count in counts),
        _sum_case(op, first, 7, torch.float32, False),
        _sum_case(op, first, 35, torch.float32, False),
        _sum_case(op, first, 35, torch.bfloat16, False),
        _sum_case(op, second, 35, dtype, True),
        _sum_case(op, third, 35, dtype, True),
    ]


def _barlow_cases(quick: bool, cpu: bool) -> list[Case]:
    if quick:
        return [_barlow_case(32, 128), _barlow_case(64, 32)]
    sizes = [(128, 2048), (256, 2048), (128, 8192), (2048, 2048)]
    if not cpu:  # on which the references of these take many minutes
        sizes += [(256, 8192), (2048, 8192)]
    return [*(_barlow_case(*size) for size in sizes), _barlow_case(256, 2048, torch.bfloat16)]


def _candidate_cases(quick: bool, batch: int, dtype: torch.dtype) -> list[Case]:
    if quick:
        return [_candidate_case((2, 16, 8, 8), 1), _candidate_case((2, 8, 9, 7), 1, stride=2)]
    other = torch.bfloat16 if dtype == torch.float32 else torch.float32
    return [
        _candidate_case((batch, 16, 32, 32), 4, dtype),
        _candidate_case((batch, 32, 16, 16), 4, dtype),
        _candidate_case((batch, 64, 8, 8), 4, dtype),
        _candidate_case((batch, 32, 32, 32), 4, dtype, stride=2),
        _candidate_case((batch, 16, 32, 32), 4, other),
    ]
