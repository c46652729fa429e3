"""Separable convolutions: units of ReLU, depthwise and 1x1 convolution, and BatchNorm."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ssfnas.fused.cell_statistics import Statistics
from ssfnas.fused.cell_tables import Block, Rows
from ssfnas.fused.families.family import (
    Backward,
    Family,
    Gradients,
    Parts,
    has_both_or_none,
    has_values,
    is_pointwise,
    none_of,
)
from ssfnas.layers.normalization import BatchNorm2d
from ssfnas.layers.operations import DilConv, SepConv
from ssfnas.ops.norm_coefficients import MEAN, RSTD, SCALE, SHIFT
from ssfnas.ops.primitives import separable_backward, separable_forward


@dataclass(frozen=True)
class Unit:
    """ReLU, depthwise convolution of a dilation, 1x1 convolution and the BatchNorm behind them."""

    depthwise: nn.Conv2d
    pointwise: nn.Conv2d
    norm: BatchNorm2d
    dilation: int

    @staticmethod
    def of(layers: Sequence[nn.Module], stride: int) -> Unit | None:
        """These four layers as a unit, or None where they are something else."""
        if [type(layer) for layer in layers] != [nn.ReLU, nn.Conv2d, nn.Conv2d, BatchNorm2d]:
            return None
        _, depthwise, pointwise, norm = layers
        assert isinstance(depthwise, nn.Conv2d)
        assert isinstance(pointwise, nn.Conv2d)
        assert isinstance(norm, BatchNorm2d)
        channels = norm.num_features
        size, dilation = depthwise.kernel_size[0], depthwise.dilation[0]
        expected = {
            "in_channels": channels,
            "groups": channels,
            "kernel_size": (size, size),
            "dilation": (dilation, dilation),
            "stride": (stride, stride),
            "padding": (dilation * (size // 2),) * 2,
            "padding_mode": "zeros",
            "bias": None,
        }
        if size % 2 == 0 or not has_values(depthwise, expected):
            return None
        if not is_pointwise(pointwise) or not has_both_or_none(norm):
            return None
        return Unit(depthwise, pointwise, norm, int(dilation))


class Results(NamedTuple):
    """Before their BatchNorms: of the units that read the state, and of those behind them."""

    first: list[Tensor]
    second: list[Tensor]


class SeparableUnits(Family):
    """Separable convolutions, of two units, and dilated ones, of one.

    The units that read the state are computed together: the first units of separable convolutions
    (*paired*), then dilated convolutions (*single*). So are the second units, each of which reads
    the normalized result of the first in its place. Parameters are the depthwise and the 1x1
    filters of the former, then those of the latter.
    """

    def __init__(self, stride: int) -> None:
        super().__init__(stride)
        self._paired: list[Unit] = []
        self._second: list[Unit] = []
        self._single: list[Unit] = []
        # For each candidate whether it is a pair, and its number among those.
        self._candidates: list[tuple[bool, int]] = []

    @staticmethod
    def form(module: nn.Module, stride: int) -> list[Unit] | None:
        """One unit, or two."""
        layers = list(module) if isinstance(module, nn.Sequential) else []
        if type(module) is DilConv:
            units = [Unit.of(layers, stride)]
        elif type(module) is SepConv:
            units = [Unit.of(layers[:4], stride), Unit.of(layers[4:], 1)]
        else:
            return None
        known = [unit for unit in units if unit is not None]
        return known if len(known) == len(units) else None

    def accept(self, form: list[Unit]) -> int:
        """The next number."""
        first, *second = form
        read_by = self._paired if second else self._single
        self._candidates.append((bool(second), len(read_by)))
        read_by.append(first)
        self._second += second
        return len(self._candidates) - 1

    def take_rows(self, rows: Rows) -> None:
        """One of each kind for every unit; those of units that are computed together adjoin."""
        first, second = [*self._paired, *self._single], self._second
        self._pairs = [number for number, (paired, _) in enumerate(self._candidates) if paired]
        self._singles = [
            number for number, (paired, _) in enumerate(self._candidates) if not paired
        ]
        self._of_first = rows.take_statistics([[unit.norm] for unit in first])
        self._of_second = rows.take_statistics([[unit.norm] for unit in second])
        self._first_block = rows.take_block(len(first))
        self._second_block = rows.take_block(len(second))
        start = self._of_first.start
        # Of the first units that have a second.
        self._inner = slice(start, start + len(second))
        self._inner_rows = [self._first_block.rows(number) for number in range(len(second))]
        self._indices: dict[torch.device, Tensor] = {}
        self._dilations = [[unit.dilation for unit in units] for units in (first, second)]
        # A module looks for its parameters in several places, and there are thousands.
        self._of_filters: list[dict[str, Any]] = [
            convolution._parameters
            for units in (first, second)
            for kind in ("depthwise", "pointwise")
            for convolution in (getattr(unit, kind) for unit in units)
        ]

    def parameters(self) -> list[Tensor]:
        """Filters."""
        return [own["weight"] for own in self._of_filters]

    def statistics_row(self, number: int) -> int:
        """That of its last unit."""
        paired, place = self._candidates[number]
        if paired:
            return self._of_second.start + place
        return self._of_first.start + len(self._paired) + place

    def gradient_rows(self, number: int) -> tuple[int, int, int]:
        """Those of its last unit."""
        block, place = self._last(number)
        return block.rows(place)

    def _last(self, number: int) -> tuple[Block, int]:
        paired, place = self._candidates[number]
        if paired:
            return self._second_block, place
        return self._first_block, len(self._paired) + place

    def _filters(self, parameters: Sequence[Tensor]) -> tuple[Sequence[Tensor], ...]:
        """Depthwise and 1x1 filters of the units that read the state, and of the second ones."""
        first, second = map(len, self._dilations)
        bounds = [0, first, 2 * first, 2 * first + second, 2 * (first + second)]
        return tuple(parameters[start:stop] for start, stop in itertools.pairwise(bounds))

    def forward(
        self, parts: Parts, parameters: Sequence[Tensor], statistics: Statistics
    ) -> Results:
        """All units; the second ones normalize what they read."""
        depthwise, pointwise, depthwise2, pointwise2 = self._filters(parameters)
        first, mean, var = separable_forward(
            parts,
            depthwise,
            pointwise,
            stride=self.stride,
            dilations=self._dilations[0],
        )
        statistics.enter(self._of_first, mean, var, first[0])
        second: list[Tensor] = []
        if self._second:
            second, mean, var = separable_forward(
                first[: len(self._second)],
                depthwise2,
                pointwise2,
                stride=1,
                dilations=self._dilations[1],
                scale=statistics.table[SCALE, self._inner],
                shift=statistics.table[SHIFT, self._inner],
            )
            statistics.enter(self._of_second, mean, var, second[0])
        return Results(first, second)

    def result(self, results: Results, number: int) -> Tensor:
        """That of its last unit."""
        paired, place = self._candidates[number]
        return results.second[place] if paired else results.first[len(self._paired) + place]

    def backward(self, given: Backward, total: Parts | None) -> tuple[Parts | None, Gradients]:
        """Those of the second units first: they are the gradients of the paired ones' results."""
        depthwise, pointwise, *_ = self._filters(given.parameters)
        inner, of_second = self._backward_second(given)
        factors = given.factors(self._singles)
        if factors is not None:
            factors = torch.cat([factors.new_ones(len(inner), factors.shape[1]), factors])
        dxs, _, *found = separable_backward(
            given.parts,
            given.results.first,
            [*inner, *(given.uses[number].grad for number in self._singles)],
            *given.coefficients.rows_of(self._first_block),
            depthwise,
            pointwise,
            stride=self.stride,
            dilations=self._dilations[0],
            needs_weights=given.needs_parameters,
            into=None if total is None else total[0],
            factors=factors,
        )
        return dxs, [*_gradients(found, depthwise), *of_second]

    def _backward_second(self, given: Backward) -> tuple[list[Tensor], Gradients]:
        """Gradients of the first units' normalized results, and of the second units' filters.

        Enters the coefficients of the first units, and the gradients of their weights.
        """
        if not self._second:
            return [], []
        _, _, depthwise, pointwise = self._filters(given.parameters)
        first, inner = given.results.first[: len(self._pairs)], self._inner
        mean, rstd, scale, shift = (
            given.statistics[kind, inner] for kind in (MEAN, RSTD, SCALE, SHIFT)
        )
        dus, sums, *found = separable_backward(
            first,
            given.results.second,
            [given.uses[number].grad for number in self._pairs],
            *given.coefficients.rows_of(self._second_block),
            depthwise,
            pointwise,
            stride=1,
            dilations=self._dilations[1],
            scale=scale,
            shift=shift,
            center=mean,
            needs_weights=given.needs_parameters,
            factors=given.factors(self._pairs),
        )
        assert sums is not None
        s0, s1 = sums[0], sums[1] * rstd
        if given.affine_gradients is not None:
            given.affine_gradients[:, inner] = torch.stack([s1, s0])
        rows = self._rows_on(mean.device)
        given.coefficients.enter(rows, scale, mean, rstd, s0, s1, first[0])
        return dus, _gradients(found, depthwise)

    def _rows_on(self, device: torch.device) -> Tensor:
        """int64 [3, G]: rows of p, q and r of the first units that have a second."""
        if device not in self._indices:
            rows = torch.tensor(self._inner_rows, dtype=torch.int64, device=device)
            self._indices[device] = rows.T.contiguous()
        return self._indices[device]


def _gradients(kinds: Sequence[list[Tensor] | None], filters: Sequence[Tensor]) -> Gradients:
    """Gradients of depthwise and of 1x1 filters, as many as ``filters`` each, or None for each."""
    return [gradient for kind in kinds for gradient in kind or none_of(filters)]
