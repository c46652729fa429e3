"""Edges that see a part of the channels, against the formula written out, in float64."""

from __future__ import annotations

import definitions
import pytest
import torch

from ssfnas.declarations.strategies import DARTS_OPERATIONS, FAIRDARTS_OPERATIONS
from ssfnas.errors import RequestError
from ssfnas.layers.cells import CellPlan, MixedEdge, SearchCell
from ssfnas.layers.partial_channels import bypass, check_partial_channels, shuffle_channels


def drawn(*shape, seed):
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draws, dtype=torch.float64)


def shuffled(x, share):
    """Channel by channel, as the definition numbers them."""
    part = x.shape[1] // share
    return torch.stack([x[:, (j % share) * part + j // share] for j in range(x.shape[1])], 1)


def passed_by(x, stride):
    """Pixel by pixel: the largest of those of a 2x2 window that are inside."""
    if stride == 1:
        return x
    rows = [
        [x[:, :, u : u + 2, v : v + 2].flatten(2).max(2).values for v in range(0, x.shape[3], 2)]
        for u in range(0, x.shape[2], 2)
    ]
    return torch.stack([torch.stack(row, 2) for row in rows], 2)


def mixed_on(edge, names, x, weights):
    """Sum over o of w_o o(x) by definitions."""
    return sum(
        weights[o]
        * definitions.operation(name, x, list(module.parameters()), edge.stride, searching=True)
        for o, (name, module) in enumerate(zip(names, edge.operations, strict=True))
    )


def edge_written_out(edge, names, x, weights, factor):
    part = x.shape[1] // edge.share
    mixed = mixed_on(edge, names, x[:, :part], weights)
    return shuffled(torch.cat([mixed, factor * passed_by(x[:, part:], edge.stride)], 1), edge.share)


def test_the_shuffle_takes_one_channel_of_each_group_in_turn():
    x = torch.arange(8.0).view(1, 8, 1, 1)
    assert shuffle_channels(x, 4).flatten().tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert shuffle_channels(x, 2).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert torch.equal(shuffle_channels(x, 1), x)
    x = drawn(2, 12, 3, 2, seed=0)
    assert torch.equal(shuffle_channels(x, 3), shuffled(x, 3))


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 1), (2, 3)])
def test_what_passes_by_is_pooled_where_operations_halve(size):
    x = drawn(2, 3, *size, seed=1)
    assert bypass(x, 1) is x
    found = bypass(x, 2)
    assert found.shape == (2, 3, -(-size[0] // 2), -(-size[1] // 2))
    assert torch.equal(found, passed_by(x, 2))


@pytest.mark.parametrize("share", [2, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_an_edge_is_its_formula(stride, share):
    edge = MixedEdge(DARTS_OPERATIONS, 8, stride, share).double()
    x, factor = drawn(2, 8, 7, 5, seed=2).requires_grad_(), drawn(1, seed=4)[0].requires_grad_()
    weights = drawn(8, seed=3).requires_grad_()
    inputs = [x, weights, factor, *edge.parameters()]
    found = edge(x, weights, factor)
    wanted = edge_written_out(edge, DARTS_OPERATIONS, x, weights, factor)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
    cotangent = drawn(*found.shape, seed=5)
    pairs = zip(
        torch.autograd.grad((found * cotangent).sum(), inputs),
        torch.autograd.grad((wanted * cotangent).sum(), inputs),
        strict=True,
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    plain = edge(x, weights)
    wanted = edge_written_out(edge, DARTS_OPERATIONS, x, weights, 1)
    torch.testing.assert_close(plain, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("share", [2, 4])
def test_the_gradient_of_what_passes_by_is_the_factor_times_the_nodes(share):
    edge = MixedEdge(FAIRDARTS_OPERATIONS, 8, 1, share).double()
    x = drawn(2, 8, 4, 5, seed=2).requires_grad_()
    found = edge(x, drawn(7, seed=3), torch.tensor(0.3, dtype=torch.float64))
    cotangent = drawn(*found.shape, seed=5)
    (gradient,) = torch.autograd.grad(found, x, cotangent)
    part = 8 // share
    for i in range(part, 8):
        (place,) = (j for j in range(8) if (j % share) * part + j // share == i)
        torch.testing.assert_close(gradient[:, i], 0.3 * cotangent[:, place])


@pytest.mark.parametrize("kind", ["normal", "reduce"])
@pytest.mark.parametrize("share", [2, 4])
def test_a_cell_is_its_formula(kind, share):
    names = ("none", "skip_connect", "max_pool_3x3", "sep_conv_3x3")
    cell = SearchCell(CellPlan(kind, 8, False), (5, 6), 3, names, share).double()
    s0, s1 = drawn(2, 5, 7, 6, seed=1), drawn(2, 6, 7, 6, seed=2)
    weights, edges = drawn(9, 4, seed=3), drawn(9, seed=4)
    states = [cell.preprocess0(s0), cell.preprocess1(s1)]
    for j in range(2, 5):
        first = sum(range(2, j))
        states.append(
            sum(
                edge_written_out(cell.edges[e], names, states[i], weights[e], edges[e])
                for i, e in enumerate(range(first, first + j))
            )
        )
    found, wanted = cell(s0, s1, weights, edges), torch.cat(states[2:], 1)
    assert found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
    ones = torch.ones(9, dtype=torch.float64)
    assert torch.equal(cell(s0, s1, weights), cell(s0, s1, weights, ones))


def test_a_share_of_one_is_an_edge_on_all_channels():
    names = FAIRDARTS_OPERATIONS
    edge = MixedEdge(names, 4, 1).double()
    x, weights = drawn(2, 4, 5, 5, seed=1), drawn(7, seed=2)
    wanted = weights[0] * edge.operations[0](x)
    for weight, operation in zip(weights[1:], edge.operations[1:], strict=True):
        wanted = wanted + weight * operation(x)
    assert torch.equal(edge(x, weights), wanted)
    cell = SearchCell(CellPlan("normal", 4, False), (4, 4), 2, names, 1).double()
    table = drawn(5, 7, seed=3)
    assert torch.equal(cell(x, x, table), cell(x, x, table, drawn(5, seed=4)))


def test_second_derivatives_are_right():
    edge = MixedEdge(("skip_connect", "avg_pool_3x3"), 4, 1, 2).double()
    x, weights = drawn(2, 4, 3, 3, seed=1).requires_grad_(), drawn(2, seed=2).requires_grad_()
    factor = drawn(1, seed=3)[0].requires_grad_()
    assert torch.autograd.gradgradcheck(edge, (x, weights, factor))


def test_a_share_divides_the_channels():
    for share in (1, 2, 4, 8, 16):
        check_partial_channels(share, 16)
    with pytest.raises(RequestError) as raised:
        check_partial_channels(3, 16)
    assert str(raised.value) == (
        "partial_channels is 3: channels 16 cannot be divided by it: use 1, 2, 4, 8 or 16"
    )
    with pytest.raises(RequestError, match=r"channels 1 cannot be divided by it: use 1$"):
        check_partial_channels(2, 1)
