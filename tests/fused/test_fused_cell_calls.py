"""What a fused cell asks of a device: on a GPU each operator is a launch, however small."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ssfnas.fused import fused_cell
from ssfnas.ops import primitives
from ssfnas.spaces import FAIRDARTS_OPERATIONS, PUBLISHED, DerivedNetwork, Genotype, Supernet

# Make or look at memory, and launch nothing.
FREE = {
    "alias", "as_strided", "detach", "empty", "empty_like", "expand", "new_empty", "permute",
    "select", "slice", "split", "t", "transpose", "unbind", "unsqueeze", "view",
}  # fmt: skip


def _forget_choices():
    for function in vars(primitives).values():
        if forget := getattr(function, "forget", None):
            forget()


@pytest.fixture(autouse=True)
def choose_again():
    yield
    _forget_choices()


class Counted(TorchDispatchMode):
    """Counts the primitives of backends, and operators between them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.primitives: Counter[str] = Counter()
        self.operators: Counter[str] = Counter()
        self._inside = False
        found = primitives.primitive

        def watched(backend, name):
            function = found(backend, name)

            def call(*args, **options):
                self.primitives[name] += 1
                self._inside = True
                try:
                    return function(*args, **options)
                finally:
                    self._inside = False

            return call

        monkeypatch.setattr(primitives, "primitive", watched)
        _forget_choices()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if not self._inside and name not in FREE:
            self.operators[name] += 1
        return func(*args, **(kwargs or {}))


def first_cell(net, *more):
    """The function of a network's first cell, and what it takes."""
    x = torch.randn(2, 12, 6, 6).contiguous(memory_format=torch.channels_last)
    fused = net._fused_cells().fused(0)
    return fused, [[x.clone().requires_grad_()] for _ in range(2)], *more


def counted_passes(fused, states, weights, monkeypatch):
    """Primitives and operators of the forward and of the backward pass."""
    call = fused_cell.Call(True, 1e-5, None)
    # Once before: tables of rows are made on first use.
    sum(node.sum() for node in fused(call, *states, weights)[0]).backward()
    counted = Counted(monkeypatch)
    with counted:
        out, _ = fused(call, *states, weights)
    forward = counted.primitives.copy(), counted.operators.copy()
    counted.primitives.clear()
    counted.operators.clear()
    gradient = [torch.ones_like(node) for node in out]
    wanted = [x for x in (*states[0], *states[1], weights, *fused.parameters()) if x is not None]
    with counted:
        torch.autograd.grad(out, wanted, gradient, allow_unused=True)
    return forward, (counted.primitives, counted.operators)


def test_few_operators_stand_between_primitives_of_a_search_cell(monkeypatch):
    net = Supernet(channels=4, layers=3, num_classes=2)
    weights = torch.rand(14, len(FAIRDARTS_OPERATIONS)).requires_grad_()
    forward, backward = counted_passes(*first_cell(net, weights), monkeypatch)
    nodes, sources, entries = 4, 5, 2
    assert forward[0] == {
        "pointwise_forward": entries,
        "separable_forward": 2 * sources,
        "pools_forward": sources,
        "enter_statistics": 3 * sources + entries,
        "node_coefficients": nodes + entries,
        "norm_sum_forward": nodes + entries,
    }
    # A one behind the weights, and the table of statistics' first row.
    assert sum(forward[1].values()) <= 3, forward[1]
    assert backward[0] == {
        "norm_sum_reduce": nodes + entries,
        "gradient_coefficients": nodes + entries + sources,
        # One for skip connections and each pool.
        "norm_sum_forward": 3 * sources,
        "pools_backward": sources,
        "separable_backward": 2 * sources,
        "pointwise_backward": entries,
    }
    # The gradients of a node's weights are summed and entered; sums of first units are brought to
    # scale; two tables are begun.
    assert sum(backward[1].values()) <= 2 * nodes + sources + 2, backward[1]


def test_partial_channels_are_split_and_merged_once_a_state(monkeypatch):
    net = Supernet(channels=4, layers=3, num_classes=2, partial_channels=2)
    weights = torch.rand(14, len(FAIRDARTS_OPERATIONS)).requires_grad_()
    forward, backward = counted_passes(*first_cell(net, weights), monkeypatch)
    nodes, sources, entries = 4, 5, 2
    assert forward[0] == {
        "pointwise_forward": entries,
        "separable_forward": 2 * sources,
        "pools_forward": sources,
        "enter_statistics": 3 * sources + entries,
        "node_coefficients": nodes + entries,
        "norm_sum_forward": nodes + entries,
        "split_forward": entries,
        "merge_forward": nodes,
    }
    # Beside those of a whole cell: the factors of each node's edges, the statistics' first row of a
    # second table.
    assert sum(forward[1].values()) <= nodes + 4, forward[1]
    assert backward[0]["split_backward"] == entries
    assert backward[0]["merge_backward"] == nodes
    assert backward[0]["norm_sum_forward"] == 3 * sources
    # Factors of the edges that leave a state, but for the last; a second table, and factors' sums.
    assert sum(backward[1].values()) <= 2 * nodes + sources + 2 + sources + 2, backward[1]


def test_a_derived_cell_computes_its_edges_alone(monkeypatch):
    net = DerivedNetwork(Genotype.load("DARTS_V2"), 2, channels=4, layers=3)
    forward, backward = counted_passes(*first_cell(net, None), monkeypatch)
    # Separable convolutions leave both inputs, a dilated one the first node; the others are skips.
    nodes, entries = 4, 2
    assert forward[0]["separable_forward"] == 2 * 2 + 1
    assert forward[0]["pools_forward"] == 0
    assert forward[0]["norm_sum_forward"] == nodes + entries
    assert backward[0]["norm_sum_reduce"] == nodes + entries
    assert backward[0]["pointwise_backward"] == entries


def test_the_reduces_of_a_state_are_one_call_that_leaves_no_gradients_between(monkeypatch):
    net = Supernet(channels=4, layers=3, num_classes=2)
    weights = torch.rand(14, len(FAIRDARTS_OPERATIONS)).requires_grad_()
    fused = net._fused_cells().fused(1)
    states = [
        [
            torch.randn(2, channels, 6, 6).contiguous(memory_format=torch.channels_last)
            for channels in of_state
        ]
        for of_state in ([12], [4] * 4)
    ]
    for x in (*states[0], *states[1]):
        x.requires_grad_()
    forward, backward = counted_passes(fused, states, weights, monkeypatch)
    inputs, sources = 2, 5
    assert forward[0]["reduces_forward"] == inputs
    assert backward[0]["reduces_backward"] == inputs
    # One for each pool, and one for the skip connections of each node that is a source.
    assert backward[0]["norm_sum_forward"] == 2 * sources + (sources - inputs)


def test_gradients_of_what_two_cells_read_are_added_where_they_are_made(monkeypatch):
    net = DerivedNetwork(PUBLISHED["DARTS_V2"], 2, channels=4, layers=6)
    out = net(torch.randn(2, 3, 8, 8))
    counted = Counted(monkeypatch)
    with counted:
        torch.autograd.grad(out.sum(), list(net.cells.parameters()), allow_unused=True)
    # Not a cell's output, of four nodes each, has one; the stem's has, which a cell reads twice.
    assert counted.operators["add"] + counted.operators["add_"] <= 1


def test_what_nobody_differentiates_is_handed_on_as_it_is():
    net = DerivedNetwork(PUBLISHED["DARTS_V2"], 2, channels=4, layers=3)
    fused, (s0, s1) = first_cell(net)
    call = fused_cell.Call(True, 1e-5, None)
    _, handed = fused(call, s0, s1)
    assert handed[0].grad_fn is not None
    assert handed[0].data_ptr() == s1[0].data_ptr()
    with torch.no_grad():
        assert fused(call, s0, s1)[1][0] is s1[0]
    plain = [x.detach() for x in s1]
    assert fused(call, s0, plain)[1][0] is plain[0]


def test_gradients_from_outside_are_left_as_they_were():
    net = Supernet(channels=4, layers=3, num_classes=2)
    weights = torch.rand(14, len(FAIRDARTS_OPERATIONS)).requires_grad_()
    fused, (s0, s1), weights = first_cell(net, weights)
    nodes, handed = fused(fused_cell.Call(True, 1e-5, None), s0, s1, weights)
    given = [torch.randn_like(x) for x in (*nodes, *handed)]
    kept = [grad.clone() for grad in given]
    (of_both,) = torch.autograd.grad((*nodes, *handed), s1, given, retain_graph=True)
    assert all(torch.equal(grad, was) for grad, was in zip(given, kept, strict=True))
    (of_nodes,) = torch.autograd.grad(nodes, s1, given[:-1], retain_graph=True)
    torch.testing.assert_close(of_both, of_nodes + given[-1])
    # Alone it is what comes back.
    (alone,) = torch.autograd.grad(handed, s1, given[-1:])
    torch.testing.assert_close(alone, given[-1])
