"""Rows of a cell's tables: what is read together stands together, and no two things in one row."""

from __future__ import annotations

import itertools

import pytest
import torch

from ssfnas.fused.cell_layout import POOLS, CellLayout
from ssfnas.fused.cell_tables import CellTables
from ssfnas.layers.cells import CellPlan, SearchCell
from ssfnas.ops.norm_coefficients import MEAN, RSTD, SHIFT
from ssfnas.spaces import DARTS_OPERATIONS, FAIRDARTS_OPERATIONS

PLANS = {kind: CellPlan(kind, 4, False) for kind in ("normal", "reduce")}
CELLS = pytest.mark.parametrize(
    ("kind", "operations", "nodes"),
    [
        ("normal", FAIRDARTS_OPERATIONS, 4),
        ("reduce", DARTS_OPERATIONS, 4),
        ("normal", ("skip_connect", "avg_pool_3x3"), 3),
        ("reduce", ("sep_conv_3x3",), 1),
        ("normal", ("dil_conv_5x5", "none", "max_pool_3x3"), 2),
    ],
)


def tables_of(kind, operations, nodes):
    return CellTables(
        CellLayout(SearchCell(PLANS[kind], (4, 4), nodes, operations)), len(operations)
    )


@CELLS
def test_statistics_have_a_row_for_every_batchnorm(kind, operations, nodes):
    tables = tables_of(kind, operations, nodes)
    table = tables.statistics(torch.zeros(1), 4)
    assert table.shape == (4, 1 + len(tables.layout.norm_rows), 4)
    # What is not normalized has mean 0, and a factor of 1.
    assert (table[MEAN, 0] == 0).all()
    assert (table[SHIFT, 0] == 0).all()
    assert (table[RSTD, 0] == 1).all()
    indices = tables.indices(torch.device("cpu"))
    for node, terms in enumerate(tables.layout.terms):
        for term, row in zip(terms, indices.statistics[node].tolist(), strict=True):
            source = tables.layout.sources[term.source]
            norms = {
                "single": lambda s, t: [s.single[t.position].norm],
                "second": lambda s, t: [s.second[t.position].norm],
                "reduce": lambda s, t: [s.reduces[t.position].norm],
                "max": lambda s, t: s.pools["max"],
                "avg": lambda s, t: s.pools["avg"],
            }.get(term.kind)
            assert (row == 0) == (norms is None)
            if norms is not None:
                assert tables.layout.norm_rows[row - 1] == norms(source, term)


@CELLS
def test_gradients_of_terms_have_rows_of_their_own(kind, operations, nodes):
    tables = tables_of(kind, operations, nodes)
    indices = tables.indices(torch.device("cpu"))
    of_p = [row for node in indices.gradients for row in node[0].tolist()]
    of_p += [row for rows in indices.paired if rows.numel() for row in rows[0].tolist()]
    assert len(set(of_p)) == len(of_p)
    # Within a node (one launch) no row is written twice, and none of p is one of q or r.
    for node in indices.gradients:
        rows = node.flatten().tolist()
        assert len(set(rows)) == len(rows)
        assert not set(node[1:].flatten().tolist()) & set(of_p)
    table = tables.gradients(torch.zeros(1), 4)
    assert (table[of_p] == 0).all()
    assert (table[0] == 0).all()


@CELLS
def test_what_a_source_reads_is_a_slice(kind, operations, nodes):
    tables = tables_of(kind, operations, nodes)
    indices = tables.indices(torch.device("cpu"))
    ones = tables.gradients(torch.zeros(1), 4)[:, 0].nonzero().flatten().tolist()
    for state, (uses, blocks) in enumerate(zip(tables.uses, tables.blocks, strict=True)):
        paired = len(tables.layout.sources[state].paired)
        for name, terms in uses.items():
            block = blocks["first" if name == "single" else name]
            skipped = paired if name == "single" else 0
            for number, (node, k) in enumerate(terms):
                p, q, r = indices.gradients[node][:, k].tolist()
                assert p == block.p.start + skipped + number * (2 if name == "reduce" else 1)
                if name in POOLS:
                    # Those of p and the one of q are the factors of a single sum.
                    assert (q, r) == (block.p.stop, block.p.stop + 1)
                elif name == "reduce":
                    assert q == p + 1
                    assert r == block.r.start + number
                else:
                    assert (q - p, r - q) == (
                        block.q.start - block.p.start,
                        block.r.start - block.q.start,
                    )
            if name == "skip":
                assert block.p.stop in ones
        if paired:
            found = indices.paired[state].tolist()
            assert found == [
                list(range(part.start, part.start + paired)) for part in blocks["first"]
            ]
    skips = sum("skip" in uses for uses in tables.uses)
    assert len(ones) == skips


@CELLS
def test_weights_are_found_by_edge_and_operation(kind, operations, nodes):
    tables = tables_of(kind, operations, nodes)
    indices = tables.indices(torch.device("cpu"))
    places = list(itertools.chain(*(node.tolist() for node in indices.weights)))
    terms = itertools.chain(*tables.layout.terms)
    edges = nodes * (nodes + 3) // 2
    assert places == [term.place[0] * len(operations) + term.place[1] for term in terms]
    assert len(places) == edges * sum(name != "none" for name in operations)
