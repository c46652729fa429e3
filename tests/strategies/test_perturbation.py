"""Selection by perturbation on measures whose answers are known."""

from __future__ import annotations

import json

import pytest
import torch

from ssfnas.errors import NumericalError, RequestError
from ssfnas.layers.cells import cell_edges, edge_count
from ssfnas.seeding import generator
from ssfnas.strategies.derivation import derive
from ssfnas.strategies.perturbation import PerturbationSelection, select

NAMES = ("none", "skip_connect", "sep_conv_3x3", "max_pool_3x3")
SKIP, SEP, POOL = 1, 2, 3


def start(nodes=3, names=NAMES, seed=0):
    draws = generator(seed, "start")
    shape = 2, edge_count(nodes), len(names)
    both = torch.rand(*shape, generator=draws, dtype=torch.float64).softmax(2)
    return {"normal": both[0], "reduce": both[1]}


def worths(nodes=3, seed=1):
    """What each entry is worth, all different."""
    draws = generator(seed, "worth")
    both = 1 + torch.rand(2, edge_count(nodes), len(NAMES), generator=draws, dtype=torch.float64)
    return {"normal": both[0], "reduce": both[1]}


def worth_of_what_is_there(worth):
    """A measure that is the sum over all entries that are not taken away."""
    return lambda tables: float(sum((worth[cell] * (tables[cell] > 0)).sum() for cell in worth))


def wanted(worth, nodes=3):
    """By definition: of each edge the entry of the largest worth, of each node the best two."""
    found = {}
    for cell, table in worth.items():
        result = torch.zeros_like(table)
        best = [max((SKIP, SEP, POOL), key=lambda o, row=row: float(row[o])) for row in table]
        edges = cell_edges(nodes)
        for node in range(2, nodes + 2):
            rows = [row for row, (_, to) in enumerate(edges) if to == node]
            # An edge that goes takes its one operation along.
            rows.sort(key=lambda row, t=table, b=best: -float(t[row, b[row]]))
            for row in rows[:2]:
                result[row, best[row]] = 1
        found[cell] = result
    return found


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_what_is_missed_most_stays(nodes):
    worth = worths(nodes)
    tables = start(nodes)
    before = {cell: table.clone() for cell, table in tables.items()}
    told = []
    found = select(
        tables, NAMES, worth_of_what_is_there(worth), seed=3, progress=lambda *a: told.append(a)
    )
    expected = wanted(worth, nodes)
    assert all(torch.equal(found[cell], expected[cell]) for cell in found)
    assert all(torch.equal(tables[cell], before[cell]) for cell in tables)
    entering = sum(n for n in range(3, nodes + 2))
    total = 2 * (3 * edge_count(nodes) + entering)
    assert told == [(done, total) for done in range(1, total + 1)]
    # The rule of two edges a node reads them.
    genotype = derive(found, NAMES, "darts")
    assert {(start, to) for _, start, to in genotype.normal} == {
        edge
        for edge, row in zip(cell_edges(nodes), expected["normal"], strict=True)
        if bool(row.any())
    }


def test_of_a_network_that_needs_one_operation_alone_that_is_found_and_its_edge():
    for cell, row, column in (("normal", 8, SEP), ("reduce", 4, POOL)):
        found = select(start(), NAMES, lambda t, c=cell, p=(row, column): float(t[c][p]), seed=5)
        assert found[cell][row].tolist() == [float(column == o) for o in range(len(NAMES))]
        # All else is equal: the lowest operation stays, and of each node the lowest edges.
        other = found["reduce" if cell == "normal" else "normal"]
        first = torch.tensor([0.0, 1.0, 0.0, 0.0]).double()
        for edge, (state, to) in enumerate(cell_edges(3)):
            kept = first if state < 2 else 0 * first
            assert torch.equal(other[edge], kept), (edge, to)


def test_nothing_is_renormalized_and_cells_take_turns_with_what_is_decided():
    tables = start()
    seen = []

    def measure(given):
        seen.append({cell: table.clone() for cell, table in given.items()})
        return float(len(seen))  # what was taken away first is missed most

    found = select(tables, NAMES, measure, seed=1)
    current = {cell: table.clone() for cell, table in tables.items()}
    place, turns = 0, []
    for _ in range(2 * edge_count(3)):
        differing = {c for c in current if not torch.equal(seen[place][c], current[c])}
        (cell,) = differing
        turns.append(cell)
        (row,) = (seen[place][cell] != current[cell]).any(1).nonzero().flatten().tolist()
        assert torch.equal(current[cell][row], tables[cell][row])
        for column in (SKIP, SEP, POOL):
            changed = current[cell].clone()
            changed[row, column] = 0  # all other weights are as they were
            assert torch.equal(seen[place][cell], changed)
            place += 1
        current[cell][row] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert turns == ["normal", "reduce"] * edge_count(3)
    nodes = {3: (2, 3, 4), 4: (5, 6, 7, 8)}
    turns = []
    for _ in range(4):
        (cell,) = {c for c in current if not torch.equal(seen[place][c], current[c])}
        (row,) = (seen[place][cell] != current[cell]).any(1).nonzero().flatten().tolist()
        rows = next(rows for rows in nodes.values() if row in rows)
        turns.append(cell)
        for gone in rows:  # one at a time: those before are back
            changed = current[cell].clone()
            changed[gone] = 0
            assert torch.equal(seen[place][cell], changed)
            place += 1
        for gone in rows[2:]:
            current[cell][gone] = 0
    assert turns == ["normal", "reduce"] * 2
    assert place == len(seen)
    assert all(torch.equal(found[cell], current[cell]) for cell in found)


def places(selection):
    return [(decision.cell, decision.place) for decision in selection.decisions]


def test_the_order_is_a_function_of_the_seed():
    orders = [places(PerturbationSelection(start(), NAMES, seed=seed)) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])
    edges, nodes = orders[0][:18], orders[0][18:]
    assert sorted(p for c, p in edges if c == "reduce") == sorted(cell_edges(3))
    assert sorted(p for c, p in nodes if c == "normal") == [(3,), (4,)]
    assert [p for c, p in edges if c == "normal"] != [p for c, p in edges if c == "reduce"]
    other = PerturbationSelection(start(seed=7), NAMES, seed=1)
    assert places(other) == orders[0]  # and of nothing else


def test_stopped_anywhere_and_gone_on_with_it_equals_the_whole():
    measure = worth_of_what_is_there(worths())
    whole = PerturbationSelection(start(), NAMES, seed=4)
    asked = 0
    while not whole.finished:
        whole.step(measure)
    for stop in range(0, whole.total + 1, 5):
        first = PerturbationSelection(start(), NAMES, seed=4)
        for _ in range(stop):
            first.step(measure)
        state = json.loads(json.dumps(first.state_dict()))
        again = PerturbationSelection(start(), NAMES, seed=4)
        again.load_state_dict(state)
        assert again.done == stop
        assert all(torch.equal(again.tables[c], first.tables[c]) for c in again.tables)
        asked = 0
        while not again.finished:
            again.step(measure)
            asked += 1
        assert asked == whole.total - stop
        assert again.state_dict() == whole.state_dict()
        assert all(torch.equal(again.tables[c], whole.tables[c]) for c in again.tables)


def test_the_state_of_another_selection_and_a_damaged_one_are_refused():
    selection = PerturbationSelection(start(), NAMES, seed=4)
    for _ in range(7):
        selection.step(lambda tables: 1.0)
    state = selection.state_dict()
    for other in (
        PerturbationSelection(start(), NAMES, seed=5),
        PerturbationSelection(start(seed=1), NAMES, seed=4),
        PerturbationSelection(start(), (*NAMES[:3], "avg_pool_3x3"), seed=4),
    ):
        with pytest.raises(RequestError, match="is another one"):
            other.load_state_dict(state)
    one, two, three = state["decisions"]
    for decisions in (
        [one, three, two],
        [two, one, three],
        [{**one, "measured": {"skip_connect": 1.0}}, two, three],
        [{**one, "measured": {**one["measured"], "sep_conv_3x3": "x"}}, two, three],
        None,
        [{}],
    ):
        with pytest.raises(RequestError, match="is damaged"):
            PerturbationSelection(start(), NAMES, seed=4).load_state_dict(
                {**state, "decisions": decisions}
            )


def test_closed_operations_and_edges_without_any_are_not_asked_about():
    tables = start(2)
    is_open = {cell: torch.ones(5, 4, dtype=torch.bool) for cell in tables}
    is_open["normal"][0] = torch.tensor([True, False, False, True])  # one: nothing to choose
    is_open["normal"][2] = torch.tensor([True, False, False, False])  # none alone: no edge
    is_open["normal"][4, SKIP] = False
    selection = PerturbationSelection(tables, NAMES, seed=0, is_open=is_open)
    assert selection.tables["normal"][0].tolist() == [0, 0, 0, 1]
    assert not selection.tables["normal"][2].any()
    assert selection.total == (3 + 3 + 2) + 5 * 3 + 3  # of normal node 3 two edges are there
    while not selection.finished:
        selection.step(lambda tables: 0.0)
    rows = selection.tables["normal"].argmax(1).tolist()
    assert rows == [POOL, SKIP, 0, SKIP, SEP]
    assert selection.tables["normal"].sum(1).tolist() == [1, 1, 0, 1, 1]


def test_a_measure_that_is_no_number_is_told_with_its_place():
    selection = PerturbationSelection(start(1), NAMES, seed=0)
    with pytest.raises(NumericalError, match=r"without skip_connect at \d -> 2 of the normal cell"):
        selection.step(lambda tables: float("nan"))
    assert selection.done == 0
    selection.step(lambda tables: 1.0)
    assert selection.done == 1
