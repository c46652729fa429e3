"""What passes by a cell's candidates, where they see a part of the channels (arXiv 1907.05737).

A preprocessed input is *split*: candidates read its head, and its rest comes to the nodes, pooled
once for all edges where these halve. A node is *merged* from the sum of its candidates and of the
rests that come to it; its own head is a copy that the same pass writes
(:mod:`ssfnas.ops.torch_partial_channels`).

The gradient of a node is never written: the pass that makes it, of what comes from outside, from
its head and from the nodes beyond, leaves it in the order before the shuffle, as the gradients of
the candidates' sum and of what passes by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ssfnas.fused.cell_layout import INPUTS, PREPROCESSED, Bypass, CellLayout
from ssfnas.fused.families import Parts
from ssfnas.ops.primitives import merge_backward, merge_forward, split_backward, split_forward

_FIRST_NODE = INPUTS + PREPROCESSED


class _Places(NamedTuple):
    """Where factors of a state's bypasses are among those of all edges, as int64 tensors.

    Attributes:
        coming, leaving: of those that come to the state, and of those that leave it.
    """

    coming: Tensor
    leaving: Tensor


class Passing(NamedTuple):
    """What the forward pass of :class:`Bypasses` leaves for the backward pass.

    Attributes:
        factors: of all edges, [E].
        heads: of all states that candidates read.
        rests: of the preprocessed inputs of a reduction, as they pass by; others pass as they are.
    """

    factors: Tensor
    heads: dict[int, Tensor]
    rests: dict[int, Tensor]


class Bypasses:
    """The bypasses of a cell, by state.

    Args:
        layout: of the cell, with K above 1.
        channels: of each of its states.

    Attributes:
        channels, share: C and K.
        coming, leaving: for each state, the bypasses that come to it and that leave it.
        edges: how many there are in all.
    """

    def __init__(self, layout: CellLayout, channels: int) -> None:
        self.channels, self.share = channels, layout.share
        states = range(len(layout.sources))
        self.edges = len(layout.bypasses)
        self.coming = [[b for b in layout.bypasses if b.to == state] for state in states]
        self.leaving = [[b for b in layout.bypasses if b.start == state] for state in states]
        self._places: dict[torch.device, list[_Places]] = {}

    def stride(self, state: int) -> int:
        """Of the edges that leave a state."""
        return self.leaving[state][0].stride if self.leaving[state] else 1

    def places(self, state: int, device: torch.device) -> _Places:
        """Those of a state's bypasses on a device; made once."""

        def index(bypasses: Sequence[Bypass]) -> Tensor:
            return torch.tensor([b.edge for b in bypasses], dtype=torch.int64, device=device)

        if device not in self._places:
            both = zip(self.coming, self.leaving, strict=True)
            self._places[device] = [_Places(index(to), index(off)) for to, off in both]
        return self._places[device][state]

    def forward(
        self, passing: Passing, state: int, mixed: Tensor | None, states: Mapping[int, Parts]
    ) -> tuple[Tensor, Tensor]:
        """A state and its head.

        Args:
            passing: gets what the state's edges and the backward pass need.
            state: a preprocessed input, or a node.
            mixed: the input itself [N, C, H, W]; of a node the sum of its candidates
                [N, C / K, h, w], or None where it has none.
            states: those before.
        """
        if state < _FIRST_NODE:
            assert mixed is not None
            x, (head, rest) = mixed, split_forward(mixed, self.share, self.stride(state))
            if rest is not x:
                passing.rests[state] = rest
        else:
            arriving = self.arriving(passing, state, states)
            factors = passing.factors.index_select(
                0, self.places(state, passing.factors.device).coming
            )
            x, head = merge_forward(arriving, mixed, factors, self.channels, self.share)
        passing.heads[state] = head
        return x, head

    def arriving(self, passing: Passing, state: int, states: Mapping[int, Parts]) -> list[Tensor]:
        """What passes by to a node."""
        starts = [b.start for b in self.coming[state]]
        return [passing.rests[s] if s in passing.rests else states[s][0] for s in starts]


class BypassGradients:
    """The backward pass of :class:`Bypasses`, from the last state to the first.

    Args:
        bypasses, passing: of the forward pass.
        states: of the cell.
        needs_factors: whether the gradients of the factors are wanted.

    Attributes:
        of_factors: these, [E].
    """

    def __init__(
        self,
        bypasses: Bypasses,
        passing: Passing,
        states: Mapping[int, Parts],
        needs_factors: bool,
    ) -> None:
        self._bypasses, self._passing, self._states = bypasses, passing, states
        self._needs_factors = needs_factors
        self.of_factors = torch.zeros_like(passing.factors)
        self._of_rests: dict[int, Tensor] = {}

    def through(self, state: int, outside: Tensor | None, d_head: Tensor | None) -> Tensor | None:
        """The gradient of what a state is a sum of, once all that reads it has been passed.

        Args:
            state: a preprocessed input, or a node.
            outside: the gradient of a node from outside of the cell.
            d_head: of the state's head, from the candidates that read it.

        Returns:
            Of a preprocessed input its own, of a node that of the candidates' sum; None where
            nothing comes back.
        """
        own, given = self._bypasses, self._passing
        back = [b for b in own.leaving[state] if b.to in self._of_rests]
        d_rests = [self._of_rests[b.to] for b in back]
        if outside is None and d_head is None and not back:
            return None
        factors = self._factors(state, back) if back else None
        if state < _FIRST_NODE:
            assert factors is not None  # a head is never read without its rest
            (x,) = self._states[state]
            return split_backward(x, d_head, d_rests, factors, own.share, own.stride(state))
        d_mixed, self._of_rests[state], of_factors = merge_backward(
            own.arriving(given, state, self._states),
            outside,
            d_head,
            d_rests,
            factors,
            own.channels,
            own.share,
            self._needs_factors,
        )
        if of_factors is not None:
            places = own.places(state, of_factors.device).coming
            self.of_factors.index_copy_(0, places, of_factors)
        return d_mixed

    def _factors(self, state: int, back: Sequence[Bypass]) -> Tensor:
        """Of these bypasses, which leave a state."""
        factors = self._passing.factors
        if len(back) == len(self._bypasses.leaving[state]):
            return factors.index_select(0, self._bypasses.places(state, factors.device).leaving)
        return torch.stack([factors[b.edge] for b in back])
