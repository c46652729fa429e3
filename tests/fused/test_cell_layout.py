"""What a cell is made of, and its rows in the tables: no two things share one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssfnas.fused.cell_layout import INPUTS
from ssfnas.fused.cell_tables import ONES, PLAIN, ZEROS
from ssfnas.fused.families import Modules
from ssfnas.fused.families.entries import Entries
from ssfnas.fused.families.pools import Pools
from ssfnas.fused.families.reduces import Reduces
from ssfnas.fused.families.separable_units import SeparableUnits
from ssfnas.fused.families.skips import Skips
from ssfnas.fused.families.zeros import Zeros
from ssfnas.layers.normalization import BatchNorm2d
from ssfnas.layers.operations import MaxPool
from ssfnas.ops.norm_coefficients import MEAN, RSTD, SCALE, SHIFT
from ssfnas.spaces import DARTS_OPERATIONS, FAIRDARTS_OPERATIONS, DerivedNetwork, Genotype, Supernet


def fused_cells(net):
    fused = net._fused_cells()
    return [fused.fused(number) for number in range(len(net.cells))]


NETWORKS = {
    "fairdarts": lambda: Supernet(channels=4, layers=3, operations=FAIRDARTS_OPERATIONS),
    "darts": lambda: Supernet(channels=4, layers=3, operations=DARTS_OPERATIONS),
    "one node": lambda: Supernet(channels=4, layers=2, nodes=1, operations=("sep_conv_3x3",)),
    "no filters": lambda: Supernet(
        channels=4, layers=3, nodes=2, operations=("skip_connect", "max_pool_3x3")
    ),
    "partial": lambda: Supernet(channels=4, layers=3, partial_channels=2),
    "derived": lambda: DerivedNetwork(Genotype.load("DARTS_V2"), channels=4, layers=6),
}
CELLS = pytest.mark.parametrize("name", NETWORKS)


def norm_of(module):
    """The BatchNorm that a candidate ends in, or None."""
    norms = [part for part in module.modules() if isinstance(part, BatchNorm2d)]
    return norms[-1] if norms else None


@CELLS
def test_statistics_have_a_row_for_every_batchnorm(name):
    net = NETWORKS[name]()
    for cell, fused in zip(net.cells, fused_cells(net), strict=True):
        layout = fused.layout
        found = [norm for row in layout.norms for norm in row]
        wanted = [part for part in cell.modules() if isinstance(part, BatchNorm2d)]
        assert sorted(map(id, found)) == sorted(map(id, wanted))
        for term in (term for terms in layout.terms for term in terms):
            norm = norm_of(term.candidate.module)
            assert (term.row == PLAIN) == (norm is None)
            if norm is not None:
                is_entry = term.candidate.start < INPUTS
                rows = layout.entry_rows if is_entry else layout.rows
                assert any(norm is each for each in rows.norms[term.row - 1])
        table = fused.tables.statistics(torch.zeros(1))
        # What is not normalized has mean 0, and a factor of 1.
        assert [float(table[kind, PLAIN, 0]) for kind in (MEAN, RSTD, SCALE, SHIFT)] == [0, 1, 1, 0]


@CELLS
def test_gradients_of_summands_have_rows_of_their_own(name):
    for fused in fused_cells(NETWORKS[name]()):
        layout = fused.layout
        rows = [
            [term.family.gradient_rows(term.number) for term in terms] for terms in layout.terms
        ]
        if layout.entry_rows is not layout.rows:
            rows = rows[2 * INPUTS :]  # those of the preprocessing are in tables of their own
        of_p = [p for terms in rows for p, _, _ in terms]
        assert len(set(of_p)) == len(of_p)
        # Within a state (one call) no row is written twice, and none of p is one of q or r.
        for terms in rows:
            every = [row for three in terms for row in three]
            assert len(set(every)) == len(every)
            assert not {row for _, *others in terms for row in others} & set(of_p)
        taken = {row for terms in rows for three in terms for row in three}
        assert not taken & {ZEROS, ONES}
        assert max(taken) < layout.rows.gradients
        table = fused.tables.gradients(torch.zeros(1))
        assert bool((table[ZEROS] == 0).all())
        assert bool((table[ONES] == 1).all())


@CELLS
def test_a_family_knows_its_candidates_and_their_nodes(name):
    net = NETWORKS[name]()
    for cell, fused in zip(net.cells, fused_cells(net), strict=True):
        layout = fused.layout
        for slot, uses in enumerate(layout.uses):
            terms = [layout.terms[state][place] for state, place in uses]
            assert [term.slot for term in terms] == [slot] * len(terms)
            assert [term.number for term in terms] == list(range(len(terms)))
            assert len({term.candidate.start for term in terms}) == 1
        weights = [t.candidate.weight for terms in layout.terms[2 * INPUTS - 2 :] for t in terms]
        weights = [weight for weight in weights if weight is not None]
        assert len(set(weights)) == len(weights)
        if isinstance(net, Supernet):
            modules = [module for edge in cell.edges for module in edge.operations]
            for term in (term for terms in layout.terms for term in terms):
                if term.candidate.weight is not None:
                    assert modules[term.candidate.weight] is term.candidate.module


def test_built_in_candidates_are_none_of_them_modules():
    kinds = set()
    for name, make in NETWORKS.items():
        for fused in fused_cells(make()):
            kinds |= {type(family) for family in fused.layout.families}
            assert not any(isinstance(f, Modules) for f in fused.layout.families), name
    assert kinds == {Skips, Reduces, Pools, Entries, SeparableUnits}


@pytest.mark.parametrize(
    ("place", "change"),
    [
        ((0, 3), lambda c: c.insert(0, nn.Identity())),
        ((0, 3), lambda c: setattr(c[1], "padding", (2, 2))),
        ((0, 3), lambda c: setattr(c[2], "bias", nn.Parameter(torch.zeros(4)))),
        ((0, 5), lambda c: setattr(c[1], "padding_mode", "reflect")),
        ((1, 0), lambda c: c.__setitem__(1, BatchNorm2d(4))),
        ((1, 0), lambda c: c.__setitem__(0, nn.MaxPool2d(3, 1, 1))),
    ],
)
def test_what_is_almost_built_in_is_a_module(place, change):
    net = Supernet(channels=4, layers=3)
    edge, operation = place
    candidate = net.cells[0].edges[edge].operations[operation]
    before = [type(f) for f in fused_cells(net)[0].layout.families]
    assert Modules not in before
    change(candidate)
    net._fused = None  # attributes are not looked at again
    families = fused_cells(net)[0].layout.families
    (own,) = [family for family in families if isinstance(family, Modules)]
    assert own._modules == [candidate]


def test_none_is_a_summand_where_a_node_has_nothing_else():
    net = Supernet(channels=4, layers=3, nodes=2, operations=("none", "skip_connect"))
    only_none, only_skip = (True, False), (False, True)
    fused = net._fused_cells()
    layout = fused.fused(0, (only_none, only_none, only_skip, only_none, only_none)).layout
    kinds = [[type(term.family) for term in terms] for terms in layout.terms[2 * INPUTS :]]
    assert kinds == [[Zeros], [Skips]]
    layout = fused.fused(0, (only_skip, only_none, only_skip, only_none, only_skip)).layout
    kinds = [[type(term.family) for term in terms] for terms in layout.terms[2 * INPUTS :]]
    assert kinds == [[Skips], [Skips, Skips]]


def test_a_pool_without_a_batchnorm_beside_others_is_left_as_it_is():
    net = Supernet(channels=4, layers=3)
    net.cells[0].edges[0].operations[0] = MaxPool(1)
    layout = fused_cells(net)[0].layout
    rows = [t.row for terms in layout.terms for t in terms if type(t.family) is Pools]
    assert rows.count(PLAIN) == 1
