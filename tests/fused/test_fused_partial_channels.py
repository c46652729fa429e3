"""Fused cells of partial channels against the textbook's, in float64."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from partial_cell_of_a_rank import run
from partial_cells import CHANNELS, arguments, drawn, fused, gradients, make_cell
from torch import nn

from ssfnas.declarations.strategies import DARTS_OPERATIONS, FAIRDARTS_OPERATIONS
from ssfnas.layers.operations import Zero

SKIPS = ("skip_connect", "none")


def assert_close(found, wanted, tolerance=1e-11):
    for one, other in zip(found, wanted, strict=True):
        one, other = one.detach(), other.detach()
        assert one.shape == other.shape
        assert float((one - other).norm()) <= tolerance * max(float(other.norm()), 1e-3)


def assert_same(cell, given, wanted=None, tolerance=1e-11):
    """Output, all gradients and all buffers of both forms."""
    other = copy.deepcopy(cell)
    wanted = given if wanted is None else wanted
    textbook, fast = cell(*given), fused(other, *given)
    assert_close([fast], [textbook], tolerance)
    found = gradients(fast, [*wanted, *other.parameters()])
    assert_close(found, gradients(textbook, [*wanted, *cell.parameters()]), tolerance)
    assert_close(
        [buffer.double() for buffer in other.buffers()],
        [buffer.double() for buffer in cell.buffers()],
        tolerance,
    )


@pytest.mark.parametrize(
    ("kind", "share", "nodes", "names", "size", "fine"),
    [
        ("normal", 2, 4, FAIRDARTS_OPERATIONS, (5, 6), False),
        ("normal", 4, 3, DARTS_OPERATIONS, (7, 5), True),
        ("normal", 4, 1, FAIRDARTS_OPERATIONS, (4, 4), False),
        ("normal", 2, 2, SKIPS, (3, 3), False),
        ("normal", 8, 2, ("sep_conv_3x3", "max_pool_3x3"), (4, 5), False),
        ("reduce", 4, 4, FAIRDARTS_OPERATIONS, (8, 6), False),
        ("reduce", 2, 3, DARTS_OPERATIONS, (7, 9), True),
        ("reduce", 4, 2, SKIPS, (5, 4), False),
        ("reduce", 2, 1, ("dil_conv_5x5",), (1, 2), False),
    ],
)
def test_both_forms_are_one_function(kind, share, nodes, names, size, fine):
    assert_same(make_cell(kind, share, nodes, names, fine), arguments(nodes, names, size, fine))


@pytest.mark.parametrize("kind", ["normal", "reduce"])
@pytest.mark.parametrize("missing", ["weights", "edges", "inputs", "parameters", "all but edges"])
def test_gradients_that_nobody_wants_change_no_other(kind, missing):
    cell = make_cell(kind, 4, 3, FAIRDARTS_OPERATIONS, False)
    given = arguments(3, FAIRDARTS_OPERATIONS, (6, 7), False)
    s0, s1, weights, edges = given
    left_out = {
        "weights": [weights],
        "edges": [edges],
        "inputs": [s0, s1],
        "parameters": list(cell.parameters()),
        "all but edges": [s0, s1, weights, *cell.parameters()],
    }
    for x in left_out[missing]:
        x.requires_grad_(False)
    assert_same(cell, given)


@pytest.mark.parametrize("kind", ["normal", "reduce"])
def test_without_factors_of_edges_they_are_ones(kind):
    cell = make_cell(kind, 4, 3, FAIRDARTS_OPERATIONS, False)
    *given, edges = arguments(3, FAIRDARTS_OPERATIONS, (6, 7), False)
    assert_same(cell, [*given, None], given)
    with torch.no_grad():
        plain, ones = fused(cell, *given, None), fused(cell, *given, torch.ones_like(edges))
    assert torch.equal(plain, ones)


@pytest.mark.parametrize("kind", ["normal", "reduce"])
def test_in_evaluation_running_statistics_are_constants(kind):
    cell = make_cell(kind, 2, 3, DARTS_OPERATIONS, False)
    with torch.no_grad():
        cell(*(3 * x + 1 for x in arguments(3, DARTS_OPERATIONS, (5, 6), False)))
    assert_same(cell.eval(), arguments(3, DARTS_OPERATIONS, (5, 6), False))


@pytest.mark.parametrize("kind", ["normal", "reduce"])
def test_a_module_of_a_users_sees_the_first_channels(kind):
    cell = make_cell(kind, 4, 3, FAIRDARTS_OPERATIONS, False)
    part = CHANNELS // 4
    for edge, operation in ((0, 0), (5, 4), (8, 2)):
        stride = cell.edges[edge].stride
        cell.edges[edge].operations[operation] = nn.Conv2d(part, part, 3, stride, 1).double()
    assert_same(cell, arguments(3, FAIRDARTS_OPERATIONS, (5, 6), False))


def test_batchnorms_with_weights_of_their_own_are_of_their_tables():
    cell = make_cell("normal", 4, 2, FAIRDARTS_OPERATIONS, False)
    for parent, place, channels in (
        (cell.preprocess1, 2, CHANNELS),
        (cell.edges[0].operations[3], 7, 2),
        (cell.edges[3].operations[5], 3, 2),
    ):
        norm = type(parent[place])(channels, affine=True).double()
        for seed, parameter in enumerate(norm.parameters()):
            parameter.data = drawn(channels, seed=seed)
        parent[place] = norm
    assert_same(cell, arguments(2, FAIRDARTS_OPERATIONS, (5, 4), False))


@pytest.mark.parametrize("kind", ["normal", "reduce"])
@pytest.mark.parametrize("closed", ["an edge", "a node", "a state", "all"])
def test_an_edge_without_operations_still_has_its_bypass(kind, closed):
    """Edges of three nodes: to node 2 from states 0, 1; to 3 from 0, 1, 2; to 4 from 0, 1, 2, 3."""
    cell = make_cell(kind, 4, 3, FAIRDARTS_OPERATIONS, False)
    edges = {"an edge": [3], "a node": [2, 3, 4], "a state": [1, 3, 6], "all": range(9)}[closed]
    for edge in edges:
        operations = cell.edges[edge].operations
        for place in range(len(operations)):
            operations[place] = Zero(cell.edges[edge].stride)
    given = arguments(3, FAIRDARTS_OPERATIONS, (5, 6), False)
    assert_same(cell, given)


def test_a_node_that_is_not_read_changes_nothing():
    cell = make_cell("normal", 4, 3, FAIRDARTS_OPERATIONS, False)
    given = arguments(3, FAIRDARTS_OPERATIONS, (5, 6), False)
    first = slice(0, 2 * CHANNELS)
    wanted = gradients(cell(*given)[:, first], [*given, *cell.parameters()])
    found = gradients(fused(cell, *given)[:, first], [*given, *cell.parameters()])
    assert_close(found, wanted)


@pytest.mark.parametrize("kind", ["normal", "reduce"])
def test_what_comes_back_by_a_bypass_is_the_factor_times_the_gradient(kind):
    """With nothing but bypasses a cell is linear, or piecewise so, and can be written out."""
    cell = make_cell(kind, 4, 1, ("none", "skip_connect"), False)
    for edge in cell.edges:
        edge.operations[1] = Zero(edge.stride)
    s0, s1, weights, edges = arguments(1, ("none", "skip_connect"), (4, 6), False)
    out = fused(cell, s0, s1, weights, edges)
    passed = [cell.preprocess0(s0), cell.preprocess1(s1)]
    if kind == "reduce":
        passed = [nn.functional.max_pool2d(x, 2) for x in passed]
    for j in range(CHANNELS):
        place = (j % 4) * 2 + j // 4
        wanted = sum(b * x[:, place] for b, x in zip(edges, passed, strict=True))
        torch.testing.assert_close(out[:, j], wanted if place >= 2 else 0 * wanted)


@pytest.mark.parametrize("kind", ["normal", "reduce"])
def test_in_bfloat16_it_is_as_close_as_the_textbook(kind):
    given = arguments(4, FAIRDARTS_OPERATIONS, (8, 8), False)
    cell = make_cell(kind, 4, 4, FAIRDARTS_OPERATIONS, False)
    exact = cell(*given)
    truth = gradients(exact, given)
    low = [x.detach().bfloat16().requires_grad_() for x in given[:2]]
    low += [x.detach().float().requires_grad_() for x in given[2:]]
    errors = []
    for form in (lambda c, *x: c(*x), fused):
        # The fused form keeps its parameters in float32.
        low_cell = copy.deepcopy(cell).to(torch.float32 if form is fused else torch.bfloat16)
        out = form(low_cell, *low)
        found = gradients(out.double(), low)
        errors.append(
            [
                float((a - b).norm() / b.norm())
                for a, b in zip([out.detach(), *found], [exact.detach(), *truth], strict=True)
            ]
        )
    for textbook, fast in zip(*errors, strict=True):
        assert fast <= 2 * textbook + 1e-3
        assert fast < 0.2


def test_two_processes_are_one_on_the_whole_batch(tmp_path):
    script = Path(__file__).with_name("partial_cell_of_a_rank.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), "2", tmp_path / "meeting", tmp_path / f"{rank}.pt"],
            env=environment,
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for kind in ("normal", "reduce"):
        whole, found = run(kind, slice(None), None), [rank[kind] for rank in ranks]
        for one, other in zip(found[0]["same"], found[1]["same"], strict=True):
            assert torch.equal(one, other)
        assert_close(found[0]["same"], whole["same"], 1e-10)
        rows = zip(found[0]["rows"], found[1]["rows"], strict=True)
        assert_close([torch.cat(both) for both in rows], whole["rows"], 1e-10)
        # The loss is the sum over the processes, which average gradients later.
        shared = zip(found[0]["shared"], found[1]["shared"], strict=True)
        assert_close([one + other for one, other in shared], whole["shared"], 1e-10)
