"""Rules of derivation on tables small enough to derive by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssfnas.declarations.strategies import DARTS_OPERATIONS, FAIRDARTS_OPERATIONS
from ssfnas.errors import NumericalError, RequestError
from ssfnas.layers.cells import cell_edges
from ssfnas.pictures import draw_cell
from ssfnas.seeding import generator
from ssfnas.spaces import NETWORKS, Genotype, ReferenceDerivedNetwork
from ssfnas.spaces.reference_derived import DerivedCell
from ssfnas.strategies import DERIVATIONS
from ssfnas.strategies.derivation import derive, limit

NAMES = ("none", "skip_connect", "sep_conv_3x3")
SKIP, SEP = NAMES[1:]

# Two nodes; edges 0->2, 1->2, 0->3, 1->3, 2->3.
TABLE = [
    [0.99, 0.30, 0.90],
    [0.99, 0.86, 0.10],
    [0.99, 0.87, 0.88],
    [0.99, 0.20, 0.84],
    [0.99, 0.95, 0.91],
]
OTHER = [
    [0.1, 0.9, 0.2],
    [0.1, 0.3, 0.2],
    [0.1, 0.1, 0.2],
    [0.1, 0.3, 0.2],
    [0.1, 0.1, 0.86],
]


def both(normal=TABLE, reduce=OTHER, dtype=torch.float32):
    return {
        "normal": torch.tensor(normal, dtype=dtype),
        "reduce": torch.tensor(reduce, dtype=dtype),
    }


def test_darts():
    genotype = derive(both(), NAMES, "darts")
    assert genotype == Genotype(
        normal=((SEP, 0, 2), (SKIP, 1, 2), (SKIP, 2, 3), (SEP, 0, 3)),
        normal_concat=(2, 3),
        reduce=((SKIP, 0, 2), (SKIP, 1, 2), (SEP, 2, 3), (SKIP, 1, 3)),
        reduce_concat=(2, 3),
    )
    # The threshold has no part in it.
    assert derive(both(), NAMES, "darts", 1.0) == genotype


def test_threshold():
    assert derive(both(), NAMES, "threshold", 0.85) == Genotype(
        normal=((SEP, 0, 2), (SKIP, 1, 2), (SKIP, 2, 3), (SEP, 0, 3)),
        normal_concat=(2, 3),
        reduce=((SKIP, 0, 2), (SEP, 2, 3)),
        reduce_concat=(2, 3),
    )
    assert derive(both(), NAMES, "threshold", 0.89).normal == ((SEP, 0, 2), (SKIP, 2, 3))


def test_threshold_edge():
    assert derive(both(), NAMES, "threshold_edge", 0.85) == Genotype(
        normal=((SEP, 0, 2), (SKIP, 1, 2), (SEP, 0, 3), (SKIP, 0, 3), (SKIP, 2, 3), (SEP, 2, 3)),
        normal_concat=(2, 3),
        reduce=((SKIP, 0, 2), (SEP, 2, 3)),
        reduce_concat=(2, 3),
    )


def test_threshold_edge_takes_at_most_two_of_an_edge():
    weights = torch.full((2, 7), 0.1)
    weights[1, [0, 3, 4, 6]] = torch.tensor([0.90, 0.95, 0.95, 0.99])
    genotype = derive(
        {"normal": weights, "reduce": weights}, FAIRDARTS_OPERATIONS, "threshold_edge"
    )
    assert genotype.normal == (("dil_conv_5x5", 1, 2), ("sep_conv_3x3", 1, 2))


def test_gdas_takes_the_two_largest_of_a_node():
    # Of node 3 both 0.95 and 0.91 are of the edge 2 -> 3; of node 2 one of either edge.
    assert derive(both(), NAMES, "gdas") == Genotype(
        normal=((SEP, 0, 2), (SKIP, 1, 2), (SKIP, 2, 3), (SEP, 2, 3)),
        normal_concat=(2, 3),
        reduce=((SKIP, 0, 2), (SKIP, 1, 2), (SEP, 2, 3), (SKIP, 1, 3)),
        reduce_concat=(2, 3),
    )
    flat = {cell: torch.full((2, 8), 0.9) for cell in ("normal", "reduce")}
    genotype = derive(flat, DARTS_OPERATIONS, "gdas")
    # Of equal weights the lowest edge, then the lowest operation.
    assert genotype.normal == (("max_pool_3x3", 0, 2), ("avg_pool_3x3", 0, 2))


def test_two_operations_on_one_edge_are_written_built_and_drawn():
    genotype = derive(both(), NAMES, "gdas")
    assert genotype == genotype.pruned()
    assert Genotype.from_json(genotype.to_json()) == genotype
    assert Genotype.from_text(genotype.to_text()) == genotype
    assert draw_cell(genotype, "normal").axes
    twice = Genotype(((SKIP, 0, 2), (SKIP, 0, 2)), (2,), ((SEP, 0, 2), (SKIP, 0, 2)), (2,))
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=generator(3, "images"))
    logits = []
    for form in NETWORKS.values():
        net = form(twice, 3, channels=4, layers=3, generator=generator(3, "net")).double().eval()
        assert [len(cell.operations) for cell in net.cells] == [2, 2, 2]
        logits.append(net(images))
    assert torch.allclose(*logits, rtol=1e-10, atol=0)
    cell = ReferenceDerivedNetwork(twice, 3, channels=4, layers=3).double().eval().cells[0]
    assert isinstance(cell, DerivedCell)
    s0 = torch.randn(2, 12, 8, 8, dtype=torch.float64, generator=generator(3, "state"))
    assert torch.equal(cell(s0, s0), 2 * cell.preprocess0(s0))


FOUR = ("none", "skip_connect", "sep_conv_3x3", "max_pool_3x3")
POOL = FOUR[3]


def limited(normal, most, names=FOUR, rule="darts", reduce=None, threshold=0.85):
    reduce = normal if reduce is None else reduce
    return derive(both(normal, reduce, torch.float64), names, rule, threshold, most)


def test_the_edge_of_a_skip_that_is_taken_out_loses_its_place_to_a_third():
    # Node 3 keeps skips of 0 -> 3 and 1 -> 3; without its skip 1 -> 3 has 0.1, and 2 -> 3 0.3.
    table = [
        [0, 0.1, 0.5, 0.2],
        [0, 0.1, 0.5, 0.2],
        [0, 0.8, 0.1, 0.1],
        [0, 0.7, 0.1, 0.1],
        [0, 0.1, 0.3, 0.2],
    ]
    start = ((SEP, 0, 2), (SEP, 1, 2))
    assert limited(table, None).normal == (*start, (SKIP, 0, 3), (SKIP, 1, 3))
    assert limited(table, 2) == limited(table, 9) == limited(table, None)
    found = limited(table, 1)
    assert found.normal == (*start, (SKIP, 0, 3), (SEP, 2, 3))
    # The reduction cell, of the same weights, stays.
    assert found.reduce == limited(table, None).reduce
    assert limited(table, 0).normal == (*start, (SEP, 2, 3), (SEP, 0, 3))


def test_a_skip_that_moves_up_goes_too():
    # Without the skip of 1 -> 3 that of 2 -> 3 is among the two best: it is the weakest then.
    table = [
        [0, 0.1, 0.5, 0.2],
        [0, 0.1, 0.5, 0.2],
        [0, 0.8, 0.2, 0.1],
        [0, 0.7, 0.1, 0.3],
        [0, 0.6, 0.1, 0.2],
    ]
    start = ((SEP, 0, 2), (SEP, 1, 2))
    assert limited(table, 1).normal == (*start, (SKIP, 0, 3), (POOL, 1, 3))
    assert limited(table, 0).normal == (*start, (POOL, 1, 3), (SEP, 0, 3))


def test_of_equal_skips_the_last_goes_first():
    table = [[0, 0.5, 0.3, 0.2]] * 5
    # 1 -> 3 first, whose place 2 -> 3 takes, then that.
    assert limited(table, 3).normal[-2:] == ((SKIP, 0, 3), (SEP, 1, 3))
    assert limited(table, 1).normal == ((SKIP, 0, 2), (SEP, 1, 2), (SEP, 0, 3), (SEP, 1, 3))


def test_a_node_of_which_all_edges_have_only_a_skip_is_left_out():
    names = ("none", "skip_connect")
    table = [[0, 0.5], [0, 0.6], [0, 0.7], [0, 0.2], [0, 0.9]]
    # 0.5, then 0.6 empty node 2, and with it goes 2 -> 3; 1 -> 3 comes in its place.
    assert limited(table, 3, names).normal == ((SKIP, 1, 2), (SKIP, 2, 3), (SKIP, 0, 3))
    found = limited(table, 1, names)
    assert found.normal == ((SKIP, 0, 3),)
    assert found.normal_concat == (3,)
    for rule in DERIVATIONS:
        with pytest.raises(RequestError, match="normal cell would be empty with at most 0 skip"):
            limited(table, 0, names, rule, threshold=0.0)
    with pytest.raises(RequestError, match="max_skips is -1"):
        limited(table, -1, names)


def weakest_taken_out(values, operations, rule, most):
    """P-DARTS' loop on the matrix itself: what is taken out becomes 0, where all else is more."""
    values = {cell: table.clone() for cell, table in values.items()}
    normal, skip = values["normal"], operations.index("skip_connect")
    while True:
        genotype = derive(values, operations, rule, 0.3)
        kept = [(start, to) for name, start, to in genotype.normal if name == "skip_connect"]
        if len(kept) <= most:
            return genotype.normal
        rows = [sum(range(2, to)) + start for start, to in kept]
        normal[min(rows, key=lambda row: float(normal[row, skip])), skip] = 0.0


@given(st.integers(0, 10**6), st.integers(2, 4), st.sampled_from(DERIVATIONS.names()))
@settings(deadline=None, max_examples=30)
def test_fewer_skips_are_what_zeroing_the_weakest_gives(seed, nodes, rule):
    draws = torch.Generator().manual_seed(seed)
    shape = (2, nodes * (nodes + 3) // 2, 8)
    table = 0.1 + torch.rand(*shape, generator=draws, dtype=torch.float64)
    table[:, :, DARTS_OPERATIONS.index("skip_connect")] += 0.5
    values = {"normal": table[0], "reduce": table[1]}
    free, counts = derive(values, DARTS_OPERATIONS, rule, 0.3), []
    for most in range(4 * nodes, -1, -1):
        genotype = derive(values, DARTS_OPERATIONS, rule, 0.3, most)
        assert genotype.normal == weakest_taken_out(values, DARTS_OPERATIONS, rule, most)
        assert genotype.reduce == free.reduce
        counts.append(sum(name == SKIP for name, _, _ in genotype.normal))
        assert counts[-1] <= most
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize("rule", ["darts", "threshold"])
def test_ties_go_to_the_lowest_index(rule):
    flat = {cell: torch.full((9, 8), 0.9) for cell in ("normal", "reduce")}
    genotype = derive(flat, DARTS_OPERATIONS, rule)
    wanted = tuple(("max_pool_3x3", start, to) for to in (2, 3, 4) for start in (0, 1))
    assert genotype.normal == genotype.reduce == wanted
    assert genotype.normal_concat == (2, 3, 4)
    last = derive(flat, DARTS_OPERATIONS, "threshold_edge").normal[-2:]
    assert last == (("max_pool_3x3", 3, 4), ("avg_pool_3x3", 3, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_weight_equal_to_the_threshold_is_kept(dtype):
    genotype = derive(both([[0, 0.9, 0]] * 2, [[0, 0, 0.9]] * 2, dtype), NAMES, "threshold", 0.9)
    assert genotype.normal == ((SKIP, 0, 2), (SKIP, 1, 2))


def test_nodes_that_nothing_reaches_are_left_out_with_what_only_they_feed():
    # Node 2 keeps nothing; 3 only hears 2; 4 hears 3 and input 1.
    table = [[0, 0.1, 0.1]] * 9
    table[4] = [0, 0.1, 0.9]  # 2 -> 3
    table[6] = [0, 0.95, 0.1]  # 1 -> 4
    table[8] = [0, 0.9, 0.1]  # 3 -> 4
    genotype = derive(both(table, table), NAMES, "threshold")
    assert genotype == Genotype(((SKIP, 1, 4),), (4,), ((SKIP, 1, 4),), (4,))


@pytest.mark.parametrize("rule", ["threshold", "threshold_edge"])
def test_an_empty_cell_says_what_to_do(rule):
    table = [[0.99, 0.3, 0.61234], [0.99, 0.7, 0.1]]
    with pytest.raises(RequestError) as error:
        derive(both([[0, 0.9, 0.9]] * 2, table), NAMES, rule, 0.85)
    text = str(error.value)
    assert text.startswith("the reduce cell would be empty")
    assert "threshold 0.85" in text
    assert "0.7000 (skip_connect 1 -> 2), 0.6123 (sep_conv_3x3 0 -> 2), 0.3000" in text
    assert "0.99" not in text
    assert "python -m ssfnas.derive --run DIR --derive darts" in text
    assert "\n" not in text


def test_a_cell_of_which_the_inputs_reach_nothing_is_empty():
    table = [[0, 0.1, 0.1]] * 5
    table[4] = [0, 0.9, 0.1]
    with pytest.raises(RequestError, match="the normal cell would be empty"):
        derive(both(table, OTHER), NAMES, "threshold")


def test_wrong_requests():
    with pytest.raises(RequestError, match="unknown derivation 'best'"):
        derive(both(), NAMES, "best")
    with pytest.raises(RequestError, match="no cell has 4 edges"):
        derive(both(TABLE[:4]), NAMES, "darts")
    with pytest.raises(RequestError, match=r"shape \(5, 3\).*\[edges, 2\]"):
        derive(both(), NAMES[1:], "darts")
    with pytest.raises(RequestError, match="reduce cell are missing"):
        derive({"normal": torch.ones(2, 3)}, NAMES, "darts")
    with pytest.raises(RequestError, match="besides 'none'"):
        derive(both([[0.5]] * 2, [[0.5]] * 2), ("none",), "darts")
    for bad in (float("nan"), float("inf")):
        with pytest.raises(NumericalError, match="the normal cell is NaN or infinite"):
            derive(both([[0, bad, 0]] * 2), NAMES, "darts")


@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from(DERIVATIONS.names()))
@settings(deadline=None, max_examples=60)
def test_any_weights_give_what_the_rule_promises(seed, nodes, rule):
    edges = nodes * (nodes + 3) // 2
    draws = torch.Generator().manual_seed(seed)
    # Few distinct values: many ties.
    table = torch.randint(0, 4, (2, edges, 8), generator=draws) / 3
    weights = {"normal": table[0], "reduce": table[1]}
    try:
        genotype = derive(weights, DARTS_OPERATIONS, rule, 0.6)
    except RequestError:
        assert rule not in ("darts", "gdas")
        from_inputs = [edge for edge, (start, _) in enumerate(cell_edges(nodes)) if start < 2]
        best = table[:, :, 1:].amax(2)
        nothing = (best[:, from_inputs] < 0.6).all(1)
        # The rules of two edges a node may prefer edges from nodes that are absent themselves.
        assert nothing.any() or rule == "threshold"
        return
    assert genotype == genotype.pruned()
    assert derive(weights, DARTS_OPERATIONS, rule, 0.6) == genotype
    for cell in ("normal", "reduce"):
        assert "none" not in {name for name, _, _ in genotype.edges(cell)}
        targets = [to for _, _, to in genotype.edges(cell)]
        assert set(genotype.concat(cell)) == set(targets)
        for name, start, to in genotype.edges(cell):
            row = weights[cell][sum(range(2, to)) + start]
            weight = row[DARTS_OPERATIONS.index(name)]
            if rule in ("darts", "gdas"):
                assert targets.count(to) == 2
            else:
                assert weight >= 0.6
            stronger = (row[1:] > weight).sum()
            assert stronger <= (1 if rule in ("threshold_edge", "gdas") else 0)


def seen(accept):
    """A ``fits`` that keeps what it was asked."""
    asked = []

    def fits(genotype):
        asked.append(genotype)
        return accept(genotype)

    return fits, asked


def size(genotype):
    return len(genotype.normal) + len(genotype.reduce)


def test_limit_drops_the_weakest_first():
    weights = both()
    genotype = derive(weights, NAMES, "darts")
    fits, asked = seen(lambda candidate: size(candidate) <= 4)
    found = limit(genotype, weights, NAMES, fits)
    assert asked[0] == genotype
    # In order: reduce 1->3 and 1->2 (both 0.3, the last first), then 0.86 twice (the reduction
    # cell's first).
    assert [asked[i].reduce for i in (1, 2, 3)] == [
        ((SKIP, 0, 2), (SKIP, 1, 2), (SEP, 2, 3)),
        ((SKIP, 0, 2), (SEP, 2, 3)),
        ((SKIP, 0, 2),),
    ]
    assert found.reduce == ((SKIP, 0, 2),)
    assert found.reduce_concat == (2,)
    assert found.normal == ((SEP, 0, 2), (SKIP, 2, 3), (SEP, 0, 3))


def test_limit_changes_nothing_that_fits():
    genotype = derive(both(), NAMES, "threshold")
    assert limit(genotype, both(), NAMES, lambda _: True) == genotype


def test_limit_never_empties_a_cell():
    weights = both()
    genotype = derive(weights, NAMES, "darts")
    found = limit(genotype, weights, NAMES, lambda candidate: size(candidate) <= 2)
    # 0 -> 2 has 0.90 and 2 -> 3 has 0.95, but without 0 -> 2 nothing reaches node 2.
    assert found.normal == ((SEP, 0, 2),)
    assert found.reduce == ((SKIP, 0, 2),)
    assert size(found) == 2
    found.check()
    with pytest.raises(RequestError, match="raise --max-params or --max-flops"):
        limit(genotype, weights, NAMES, lambda _: False)


def test_limit_prunes_what_a_dropped_operation_fed():
    # 0 -> 2 is the weakest and all that node 2 has; 2 -> 3 goes with it.
    table = [[0, 0.86, 0], [0, 0, 0], [0, 0.9, 0], [0, 0, 0], [0, 0.99, 0]]
    weights = both(table, [[0, 0.95, 0], *table[1:]])
    genotype = derive(weights, NAMES, "threshold")
    fits, asked = seen(lambda candidate: len(candidate.normal) < 3)
    found = limit(genotype, weights, NAMES, fits)
    assert genotype.normal == ((SKIP, 0, 2), (SKIP, 2, 3), (SKIP, 0, 3))
    assert found.normal == ((SKIP, 0, 3),)
    assert found.normal_concat == (3,)
    assert found.reduce == genotype.reduce
    assert len(asked) == 2
