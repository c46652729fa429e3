"""What every family of candidates does, and what it is given for that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from ssfnas.fused.cell_statistics import Coefficients, Statistics
from ssfnas.fused.cell_tables import PLAIN, Rows
from ssfnas.layers.normalization import BatchNorm2d
from ssfnas.ops.primitives import norm_sum_forward

# Tensors side by side whose channels are those of a state: a cell's input has several, every other
# state has one.
Parts = list[Tensor]
Gradients = list[Tensor | None]


class Use(NamedTuple):
    """What comes back to a candidate from its node.

    Attributes:
        grad: the node's gradient [N, C, H, W].
        factor: of the candidate's path for each image, [N]; None: ones.
    """

    grad: Tensor
    factor: Tensor | None


class Backward(NamedTuple):
    """What a family's gradients are made of.

    Attributes:
        parts: of the state that its candidates start from, [N, C, H, W].
        parameters: as in the forward pass.
        results: what the forward pass gave.
        uses: of each candidate.
        statistics: [5, R, C], filled.
        coefficients: of the cell; holds those of all candidates.
        affine_gradients: rows [2, R, C] for the gradients of BatchNorms' weights and biases.
        needs_x, needs_parameters: which gradients are wanted.
    """

    parts: Parts
    parameters: Sequence[Tensor]
    results: Any
    uses: Sequence[Use]
    statistics: Tensor
    coefficients: Coefficients
    affine_gradients: Tensor | None
    needs_x: bool
    needs_parameters: bool

    @property
    def x(self) -> Tensor:
        """The state, of one part."""
        (x,) = self.parts
        return x

    def sum(self, xs: list[Tensor], a: slice, b: int, factors: Tensor | None = None) -> Tensor:
        """sum_k a_k x_k + b, by rows of coefficients; with factors [K, N] each is its images'."""
        table = self.coefficients.table
        if factors is None:
            return norm_sum_forward(xs, table[a], table[b])
        offsets = table.new_zeros(len(xs), table.shape[1])
        offsets[-1] = table[b]  # of the last, whose factors are ones
        return norm_sum_forward(xs, table[a], offsets, factors)

    def factors(self, numbers: Sequence[int], more: int = 0) -> Tensor | None:
        """Those of some candidates and, behind them, so many rows of ones; None for ones alone."""
        found = [self.uses[number].factor for number in numbers]
        known = [factor for factor in found if factor is not None]
        if not known:
            return None
        ones = torch.ones_like(known[0])
        return torch.stack([*(ones if f is None else f for f in found), *[ones] * more])


class Family(ABC):
    """Candidates of one kind that leave one state.

    A candidate has a number, by which its family knows it. Where it is normalized, its result is
    that before the BatchNorm, whose factors are the node's (:mod:`ssfnas.ops.norm_coefficients`).

    Args:
        stride: of the candidates.

    Attributes:
        overwrites: whether :meth:`backward` adds to ``total`` in place, which then has to be the
            cell's own; otherwise the sum is a new tensor.
    """

    overwrites: ClassVar[bool] = True

    def __init__(self, stride: int) -> None:
        self.stride = stride

    @staticmethod
    @abstractmethod
    def form(module: nn.Module, stride: int) -> Any | None:
        """What the family has to know of a module that is one of its kind; None of any other."""

    @abstractmethod
    def accept(self, form: Any) -> int | None:
        """The number of a candidate of this form; None where there is no place for another."""

    @abstractmethod
    def take_rows(self, rows: Rows) -> None:
        """Take rows of both tables, once all candidates are there."""

    def parameters(self) -> list[Tensor]:
        """Filters and the like, in an order of the family's."""
        return []

    def statistics_row(self, number: int) -> int:
        """The row of a candidate's statistics; that of what is not normalized by default."""
        return PLAIN

    @abstractmethod
    def gradient_rows(self, number: int) -> tuple[int, int, int]:
        """The rows of a candidate's p, q and r."""

    @abstractmethod
    def forward(self, parts: Parts, parameters: Sequence[Tensor], statistics: Statistics) -> Any:
        """The results of all candidates, as a tree of tensors; enters their statistics."""

    @abstractmethod
    def result(self, results: Any, number: int) -> Tensor | None:
        """A candidate's summand, [N, C, H', W']; None for the state itself."""

    def kept(self, results: Any) -> Any:
        """What of the results the backward pass needs."""
        return results

    @abstractmethod
    def backward(self, given: Backward, total: Parts | None) -> tuple[Parts | None, Gradients]:
        """The gradient of the state, added to ``total`` or in its place, and of the parameters."""


def none_of(parameters: Sequence[Tensor]) -> Gradients:
    """No gradients."""
    return [None] * len(parameters)


def has_values(module: nn.Module, expected: Mapping[str, Any]) -> bool:
    """Whether a module's attributes are these."""
    return all(getattr(module, name) == value for name, value in expected.items())


def is_pointwise(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Whether it is a 1x1 convolution of all channels, without a bias."""
    expected = {"kernel_size": (1, 1), "stride": (1, 1), "padding": (0, 0), "groups": 1}
    return type(module) is nn.Conv2d and module.bias is None and has_values(module, expected)


def has_both_or_none(norm: BatchNorm2d) -> bool:
    """Whether a BatchNorm has a weight and a bias, or neither."""
    return (norm.weight is None) == (norm.bias is None)
