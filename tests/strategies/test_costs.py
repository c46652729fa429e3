"""The expected cost against the counts of derived networks, and against sums by hand."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from recorders import NoLooking
from torch import nn

from ssfnas.declarations.costs import CostOptions
from ssfnas.declarations.strategies import DARTS_OPERATIONS
from ssfnas.errors import RequestError
from ssfnas.layers.cells import cell_edges, edge_count
from ssfnas.seeding import generator
from ssfnas.spaces import (
    OPERATIONS,
    BatchNorm2d,
    DerivedNetwork,
    Genotype,
    count_multiply_adds,
    count_parameters,
    register_operation,
)
from ssfnas.spaces.timing import TIMED_IMAGES, milliseconds
from ssfnas.strategies.costs import (
    CostModel,
    Counted,
    cost_model,
    cost_target,
    cost_terms,
    penalty,
)
from ssfnas.strategies.derivation import derive

SMALL = Counted(
    operations=DARTS_OPERATIONS,
    nodes=3,
    num_classes=7,
    in_channels=2,
    image_size=(9, 12),
    channels=4,
    layers=5,
)


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """A copy of the entries, so that tests leave nothing behind."""
    monkeypatch.setattr(OPERATIONS, "_entries", OPERATIONS.entries())


def drawn(counted, seed):
    """A table with two equal weights at each node, at most one an edge and none of ``none``."""
    draws = generator(seed, "tables")
    tables = {}
    for cell in ("normal", "reduce"):
        table = torch.zeros(edge_count(counted.nodes), len(counted.operations)).double()
        first = 0
        for inputs in range(2, counted.nodes + 2):
            for edge in torch.randperm(inputs, generator=draws)[:2].tolist():
                open_ = [i for i, name in enumerate(counted.operations) if name != "none"]
                place = torch.randint(len(open_), (), generator=draws)
                table[first + edge, open_[int(place)]] = 0.3
            first += inputs
        tables[cell] = table
    return tables


def built(genotype, counted):
    return DerivedNetwork(
        genotype,
        counted.num_classes,
        in_channels=counted.in_channels,
        channels=counted.channels,
        layers=counted.layers,
        image_size=counted.image_size,
        auxiliary=True,
    )


def count(net, unit, counted):
    if unit == "params":
        return count_parameters(net)
    return count_multiply_adds(net, counted.image_size, counted.in_channels)


@pytest.mark.parametrize("unit", ["flops", "params"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layers": 1, "channels": 2},
        {"layers": 3, "nodes": 4, "image_size": (8, 8), "in_channels": 3},
        {"layers": 2, "nodes": 1, "image_size": (70, 150)},  # a stem of two strides
    ],
    ids=str,
)
def test_of_two_operations_a_node_it_is_the_count_of_their_network(unit, changes):
    counted = Counted(**{**asdict(SMALL), **changes})
    model = cost_model(unit, counted)
    for seed in range(4):
        tables = drawn(counted, seed)
        genotype = derive(tables, counted.operations, "darts")
        assert genotype.normal_concat == tuple(range(2, counted.nodes + 2))
        wanted = count(built(genotype, counted), unit, counted)
        assert model.expected(tables) == wanted
        # What stands on none is no one's.
        for table in tables.values():
            table[:, counted.operations.index("none")] = 5.0
        assert model.expected(tables) == wanted


def test_two_operations_on_one_edge_and_an_operation_of_ones_own():
    @register_operation("my_conv")
    def conv(channels, stride, affine):
        return nn.Sequential(
            nn.Conv2d(channels, channels, 3, stride=stride, padding=1),
            BatchNorm2d(channels, affine=affine),
        )

    names = ("skip_connect", "my_conv", "none")
    counted = Counted(operations=names, nodes=1, image_size=(10, 10), channels=4, layers=3)
    table = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).double()
    weights = {"normal": table, "reduce": table}
    edges = (("skip_connect", 0, 2), ("my_conv", 0, 2))
    assert derive(weights, names, "gdas") == Genotype(edges, (2,), edges, (2,))
    net = built(Genotype(edges, (2,), edges, (2,)), counted)
    for unit in ("flops", "params"):
        assert cost_model(unit, counted).expected(weights) == count(net, unit, counted)
    # A convolution with bias and the two weights of BatchNorm, in cells of 4, 8 and 16 channels.
    params = cost_model("params", counted).tables
    assert params["normal"].tolist() == [[0.0, 9 * 16 + 3 * 4, 0.0]] * 2
    assert float(params["reduce"][0, 1]) == 9 * 64 + 3 * 8 + 9 * 256 + 3 * 16
    # The skip of a reduction is two 1x1 convolutions, of 8 and of 16 channels.
    assert float(params["reduce"][0, 0]) == 64 + 16 + 256 + 32
    flops = cost_model("flops", counted).tables
    assert float(flops["normal"][0, 1]) == 9 * 16 * 100
    assert float(flops["reduce"][1, 1]) == 9 * 64 * 25 + 9 * 256 * 9


def random_model(seed, names=("none", "a", "b"), nodes=2):
    draws = generator(seed, "model")
    shape = 2, edge_count(nodes), len(names)
    costs = torch.rand(*shape, generator=draws, dtype=torch.float64)
    costs[:, :, 0] = 0
    counted = Counted(operations=names, nodes=nodes)
    tables = {"normal": costs[0], "reduce": costs[1]}
    weights = 0.1 + torch.rand(*shape, generator=draws, dtype=torch.float64)
    return CostModel("flops", counted, tables, 7.5), weights


def by_hand(model, weights):
    """The formula, an entry at a time."""
    edges = cell_edges(model.counted.nodes)
    total = model.fixed
    for kind, table in zip(("normal", "reduce"), weights.tolist(), strict=True):
        for row, (_, to) in enumerate(edges):
            rows = [other for other, edge in enumerate(edges) if edge[1] == to]
            everything = sum(sum(table[other][1:]) for other in rows)
            for column in (1, 2):
                chance = min(1.0, 2 * table[row][column] / everything)
                total += chance * float(model.tables[kind][row, column])
    return total


def test_the_expectation_is_the_formulas_and_so_is_its_gradient():
    for seed in range(5):
        model, weights = random_model(seed)
        # One of node 2 is sure to be kept.
        weights[0, 0, 1] = 9.0
        named = {"normal": weights[0], "reduce": weights[1]}
        assert float(model.expected(named)) == pytest.approx(by_hand(model, weights), rel=1e-13)
        weights.requires_grad_(True)
        (gradient,) = torch.autograd.grad(
            model.expected({"normal": weights[0], "reduce": weights[1]}), weights
        )
        weights = weights.detach()
        for place in ((0, 0, 1), (0, 0, 2), (0, 3, 1), (1, 4, 2), (1, 1, 1), (1, 2, 0)):
            step = torch.zeros_like(weights)
            step[place] = 1e-6
            slope = (by_hand(model, weights + step) - by_hand(model, weights - step)) / 2e-6
            assert float(gradient[place]) == pytest.approx(slope, abs=1e-8)
        assert bool((gradient[:, :, 0] == 0).all())


def test_where_all_candidates_cost_the_same_nothing_is_to_be_gained():
    counted = Counted(operations=("none", "a", "b", "c"), nodes=2)
    tables = {cell: torch.full((5, 4), 3.0).double() for cell in ("normal", "reduce")}
    model = CostModel("ms", counted, tables, 1.0)
    draws = generator(0, "alphas")
    alphas = torch.randn(2, 5, 4, generator=draws, dtype=torch.float64, requires_grad=True)
    softmax = alphas.softmax(2)
    # Chances of a node sum to 2 as long as none is above 1.
    expected = model.expected({"normal": softmax[0] + 1, "reduce": softmax[1] + 1})
    assert float(expected.detach()) == pytest.approx(1.0 + 2 * 2 * 2 * 3.0, rel=1e-12)
    (gradient,) = torch.autograd.grad(expected, alphas)
    assert float(gradient.abs().max()) < 1e-12


def test_nothing_open_at_a_node_costs_nothing():
    model, weights = random_model(0)
    weights = torch.zeros_like(weights)
    weights[:, :, 0] = 1.0
    assert float(model.expected({"normal": weights[0], "reduce": weights[1]})) == 7.5


def test_the_penalty_asks_nothing_of_what_is_small_enough():
    expected = torch.tensor(30.0, dtype=torch.float64, requires_grad=True)
    assert penalty(expected, 20.0, 4.0) == 2.0
    assert torch.autograd.grad(penalty(expected, 20.0, 4.0), expected)[0] == 4.0 / 20
    assert penalty(expected, 30.0) == 0.0
    assert torch.autograd.grad(penalty(expected, 31.0), expected)[0] == 0.0


def test_terms_and_that_nothing_waits_for_the_device():
    model, weights = random_model(1)
    named = {"normal": weights[0].float(), "reduce": weights[1].float()}
    cost = float(cost_terms(model, named, 8.0, 2.0)["cost"])  # tables are placed by this
    with NoLooking():
        terms = cost_terms(model, named, 8.0, 2.0)
    assert {name: value.dtype for name, value in terms.items()} == dict.fromkeys(
        ("loss", "cost", "cost_penalty"), torch.float32
    )
    assert cost == pytest.approx(by_hand(model, weights), rel=1e-6)
    assert float(terms["cost_penalty"]) == float(terms["loss"]) == pytest.approx(cost / 4 - 2)


def test_a_target_below_the_smallest_network_is_refused():
    model = cost_model("params", SMALL)
    pools = (("max_pool_3x3", 0, 2), ("avg_pool_3x3", 1, 2))
    pools += tuple(("max_pool_3x3", start, to) for to in (3, 4) for start in (0, 1))
    smallest = count_parameters(built(Genotype(pools, (2, 3, 4), pools, (2, 3, 4)), SMALL))
    assert model.smallest == smallest == model.fixed
    model.require_reachable(smallest)
    with pytest.raises(
        RequestError,
        match=rf"--target-params {smallest - 1:,} .* has {smallest:,} parameters \(4 c",
    ):
        model.require_reachable(smallest - 1)
    # Without a free operation the two cheapest of each node count.
    names = ("none", "sep_conv_3x3", "sep_conv_5x5")
    counted = Counted(**{**asdict(SMALL), "operations": names})
    edges = tuple(("sep_conv_3x3", start, to) for to in (2, 3, 4) for start in (0, 1))
    wanted = count_parameters(built(Genotype(edges, (2, 3, 4), edges, (2, 3, 4)), counted))
    assert cost_model("params", counted).smallest == wanted


def test_times_are_those_of_each_part_where_it_stands_and_none_is_taken_twice():
    asked = []

    def measure(module, shape):
        asked.append((str(module), shape))
        assert next(module.parameters(), torch.ones(())).device.type == "cpu"
        return 1.0

    counted = Counted(
        operations=("none", "skip_connect", "sep_conv_3x3"),
        nodes=2,
        image_size=(9, 12),
        channels=4,
        layers=4,
    )
    model = cost_model("ms", counted, measure=measure)
    # Cells: normal, reduce, reduce, normal. Ten candidates at places that differ; stem, head, and
    # of eight inputs seven that differ.
    assert len(asked) == 10 + 9
    assert model.tables["normal"].tolist() == [[0.0, 2.0, 2.0]] * 5
    assert model.tables["reduce"].tolist() == [[0.0, 2.0, 2.0]] * 5
    assert model.fixed == 1 + 4 * 2 + 1
    skips = [shape for text, shape in asked if text == "Identity()"]
    assert skips == [(1, 4, 9, 12), (1, 8, 5, 6), (1, 16, 3, 3)]
    reduces = [shape for text, shape in asked if text.startswith("FactorizedReduce")]
    # Those of skip connections and of the inputs after a reduction.
    assert reduces == [(1, 8, 9, 12), (1, 16, 5, 6), (1, 8, 9, 12), (1, 16, 5, 6)]
    stored = json.loads(json.dumps(model.to_dict()))
    again = CostModel.from_dict(stored)
    assert again.counted == counted
    assert (again.unit, again.fixed) == ("ms", model.fixed)
    assert all(torch.equal(again.tables[cell], model.tables[cell]) for cell in model.tables)
    for broken in ({**stored, "normal": [[0.0]]}, {**stored, "unit": "s"}, {"unit": "ms"}):
        with pytest.raises(RequestError, match="table of costs is damaged"):
            CostModel.from_dict(broken)


def test_a_time_is_of_evaluation_and_of_one_image():
    seen = []

    class Watched(nn.Module):
        def forward(self, x):
            assert not self.training
            assert not torch.is_grad_enabled()
            seen.append(x.shape)
            return x

    assert milliseconds(Watched(), (1, 3, 5, 4)) > 0
    assert set(seen) == {(TIMED_IMAGES, 3, 5, 4)}
    assert cost_model("ms", Counted(operations=("skip_connect",), nodes=1, layers=1)).fixed > 0


def test_one_target_at_most():
    assert cost_target(CostOptions()) is None
    assert cost_target(CostOptions(target_params=5)) == ("params", 5.0)
    assert cost_target(CostOptions(target_ms=0.25)) == ("ms", 0.25)
    with pytest.raises(RequestError, match="--target-flops and --target-ms stand together"):
        cost_target(CostOptions(target_flops=5, target_ms=1.0))
    with pytest.raises(ValueError, match="unit is 'bytes'"):
        cost_model("bytes", SMALL)


def test_global_generators_are_left_alone():
    before = torch.get_rng_state()
    for unit in ("flops", "ms"):
        cost_model(unit, SMALL, measure=lambda module, shape: 1.0)
    assert torch.equal(before, torch.get_rng_state())
