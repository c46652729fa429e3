"""What a cell is made of, sorted by the state that each candidate starts from.

States are the two inputs as they come, both as the cell's preprocessing leaves them, and the nodes.
Every state but the inputs is a sum of what arrives: a preprocessed input is a sum of one. With
partial channels candidates see a part of a state's channels, and so their tables are narrower than
those of the preprocessing (:mod:`ssfnas.fused.partial_channels`).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ssfnas.fused.cell_tables import PLAIN, Rows
from ssfnas.fused.families import FAMILIES, OF_PARTS, Family, Modules
from ssfnas.layers.cells import OpenOperations
from ssfnas.layers.normalization import BatchNorm2d
from ssfnas.layers.operations import Zero

INPUTS = 2
PREPROCESSED = 2


@dataclass(frozen=True)
class Candidate:
    """A module on an edge.

    Attributes:
        start, to: states: 0 and 1 are the inputs, 2 and 3 those after preprocessing, then the
            nodes.
        module: the operation.
        stride: of the edge.
        weight: place of its weight among those of the cell; None: always 1.
        path: place of its factors among those of the cell's paths; None: never dropped.
    """

    start: int
    to: int
    module: nn.Module
    stride: int = 1
    weight: int | None = None
    path: int | None = None

    @functools.cached_property
    def forms(self) -> list[tuple[type[Family], Any]]:
        """Families of its kind and what each has to know of it, in the order to be asked."""
        kinds = FAMILIES if self.start >= INPUTS else OF_PARTS
        changed = any("forward" in vars(part) for part in self.module.modules())
        asked: list[type[Family]] = [Modules]
        if not changed:
            asked = [*(kind for kind in kinds if kind is not Modules), *asked]
        found = [(kind, kind.form(self.module, self.stride)) for kind in asked]
        return [(kind, form) for kind, form in found if form is not None]


@dataclass(frozen=True)
class Bypass:
    """What passes by on an edge of partial channels, beside its candidates.

    Attributes:
        start, to: states, as those of a :class:`Candidate`.
        stride: of the edge.
        edge: place of its factor among those of the cell's edges.
    """

    start: int
    to: int
    stride: int
    edge: int


@dataclass(frozen=True)
class Term:
    """One summand of a state.

    Attributes:
        candidate: what it is.
        family: which computes it, and by which ``number`` it knows it.
        slot: the place of that family among all of the cell.
    """

    candidate: Candidate
    family: Family
    number: int
    slot: int

    @property
    def row(self) -> int:
        """Of its statistics."""
        return self.family.statistics_row(self.number)

    @property
    def is_normalized(self) -> bool:
        """Whether there are any."""
        return self.row != PLAIN


@dataclass(frozen=True)
class Fusible:
    """A cell that can be fused.

    Attributes:
        candidates: all its modules.
        output: the states that its output is made of, in order.
        weights, paths: how many weights its candidates have, and how many may be dropped.
        share, bypasses: K, and what passes by.
    """

    candidates: Sequence[Candidate]
    output: Sequence[int]
    weights: int = 0
    paths: int = 0
    share: int = 1
    bypasses: Sequence[Bypass] = ()

    def layout(self, chosen: OpenOperations | None = None) -> CellLayout | None:
        """Of all candidates, or of the chosen ones; None where modules have to be called."""
        candidates = self.candidates
        if chosen is not None:
            flat = list(itertools.chain.from_iterable(chosen))
            candidates = [c for c in candidates if c.weight is None or flat[c.weight]]
        layout = CellLayout(candidates, self.output, self.share, self.bypasses)
        return layout if layout.is_complete else None


class CellLayout:
    """Families and sums of one cell.

    Args:
        candidates: all modules of the cell.
        output: the states that the output is made of, in order.
        share: K, where candidates see one K-th of a preprocessed input's or a node's channels.
        bypasses: of every edge, where K is above 1.

    Attributes:
        families: in the order of the states that they start from.
        sources: for each state, the slots of the families that leave it.
        terms: for each state, its summands; none for the inputs.
        uses: for each family, its candidates' (state, place among its summands), by number.
        output, share, bypasses: as given.
        rows: of both tables.
        entry_rows: of both tables of the preprocessing; ``rows`` itself where K is 1.
    """

    def __init__(
        self,
        candidates: Sequence[Candidate],
        output: Sequence[int],
        share: int = 1,
        bypasses: Sequence[Bypass] = (),
    ) -> None:
        self.output, self.share, self.bypasses = tuple(output), share, tuple(bypasses)
        states = 1 + max([c.to for c in candidates] + [bypass.to for bypass in self.bypasses])
        candidates = _that_count(candidates, needed=share == 1)
        self.families: list[Family] = []
        self.sources: list[list[int]] = [[] for _ in range(states)]
        self.terms: list[list[Term]] = [[] for _ in range(states)]
        for state in range(states):
            self._add_source(state, [c for c in candidates if c.start == state])
        # Sums add in the order of the candidates.
        order = {id(candidate): place for place, candidate in enumerate(candidates)}
        for terms in self.terms:
            terms.sort(key=lambda term: order[id(term.candidate)])
        self.rows = Rows()
        self.entry_rows = self.rows if share == 1 else Rows()
        for state, slots in enumerate(self.sources):
            for slot in slots:
                self.families[slot].take_rows(self.entry_rows if state < INPUTS else self.rows)
        self.uses: list[list[tuple[int, int]]] = [[] for _ in self.families]
        found = [
            (term.slot, term.number, (state, place))
            for state, terms in enumerate(self.terms)
            for place, term in enumerate(terms)
        ]
        for slot, _, use in sorted(found):
            self.uses[slot].append(use)

    @property
    def norms(self) -> list[list[BatchNorm2d]]:
        """All BatchNorms, row by row of the statistics."""
        if self.entry_rows is self.rows:
            return self.rows.norms
        return [*self.entry_rows.norms, *self.rows.norms]

    @property
    def is_complete(self) -> bool:
        """Whether there are BatchNorms to begin with, and every state is a sum of something."""
        summed = self.terms[INPUTS:] if self.share == 1 else self.terms[INPUTS:][:PREPROCESSED]
        return bool(self.entry_rows.norms) and all(summed)

    def _add_source(self, state: int, leaving: Sequence[Candidate]) -> None:
        if not leaving:
            return
        stride = leaving[0].stride
        families: dict[type[Family], Family] = {}
        accepted: list[tuple[Candidate, type[Family], int]] = []
        for candidate in leaving:
            for kind, form in candidate.forms:
                if kind not in families:
                    families[kind] = kind(stride)
                number = families[kind].accept(form)
                if number is not None:
                    accepted.append((candidate, kind, number))
                    break
        for kind in FAMILIES:
            own = [(candidate, number) for candidate, k, number in accepted if k is kind]
            if not own:
                continue
            slot, family = len(self.families), families[kind]
            self.families.append(family)
            self.sources[state].append(slot)
            for candidate, number in own:
                self.terms[candidate.to].append(Term(candidate, family, number, slot))


def _that_count(candidates: Sequence[Candidate], *, needed: bool) -> list[Candidate]:
    """All through which something passes.

    Where each state needs one, of a state that has none of these the first other.
    """
    filled = {candidate.to for candidate in candidates if type(candidate.module) is not Zero}
    found = []
    for candidate in candidates:
        if type(candidate.module) is not Zero or (needed and candidate.to not in filled):
            found.append(candidate)
            filled.add(candidate.to)
    return found


def is_hooked(module: nn.Module) -> bool:
    """Whether anything is called when the module, or a part of it, is."""
    return any(hooks for part in module.modules() for hooks in hooks_of(part))


def hooks_of(module: nn.Module) -> tuple[dict, ...]:
    """All that is called when a module is; each is the same dict for the module's life."""
    return (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
