"""The primitives of partial channels against their formula written out, in float64."""

from __future__ import annotations

import pytest
import torch

from ssfnas.ops import torch_partial_channels as ops

CASES = pytest.mark.parametrize(
    ("channels", "share", "size"),
    [(4, 2, (3, 4)), (8, 4, (5, 3)), (6, 3, (1, 1)), (12, 4, (4, 4)), (4, 4, (2, 7))],
)


def drawn(*shape, seed):
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=draws, dtype=torch.float64)
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def maxima(x):
    """Of 2x2 pixels, of fewer at the end of an odd side."""
    n, c, h, w = x.shape
    padded = x.new_full((n, c, h + h % 2, w + w % 2), -torch.inf)
    padded[:, :, :h, :w] = x
    return padded.view(n, c, padded.shape[2] // 2, 2, padded.shape[3] // 2, 2).amax((3, 5))


def node_written_out(mixed, rests, b, share):
    both = torch.cat([mixed, sum(factor * rest for factor, rest in zip(b, rests, strict=True))], 1)
    part = both.shape[1] // share
    places = [(j % share) * part + j // share for j in range(both.shape[1])]
    return both[:, places]


def dense(x):
    return x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("stride", [1, 2])
@CASES
def test_splitting_and_its_gradient(channels, share, size, stride):
    part = channels // share
    x = drawn(2, channels, *size, seed=1).requires_grad_()
    wanted = maxima(x[:, part:]) if stride == 2 else x[:, part:]
    head, passing = ops.split_forward(x.detach(), share, stride)
    assert torch.equal(head, x[:, :part])
    assert dense(head)
    assert torch.equal(passing[:, part - channels :], wanted)
    d_head = drawn(*head.shape, seed=2)
    d_rests = [drawn(*wanted.shape, seed=3 + t) for t in range(3)]
    b = drawn(3, seed=9)
    loss = (x[:, :part] * d_head).sum()
    loss = loss + sum(f * (wanted * d).sum() for f, d in zip(b, d_rests, strict=True))
    (dx,) = torch.autograd.grad(loss, x)
    found = ops.split_backward(x.detach(), d_head, d_rests, b, share, stride)
    torch.testing.assert_close(found, dx, rtol=1e-12, atol=1e-12)
    assert dense(found)
    without = ops.split_backward(x.detach(), None, d_rests, b, share, stride)
    assert torch.equal(without[:, part:], found[:, part:])
    assert not without[:, :part].any()


@CASES
def test_the_gradient_of_a_maximum_goes_to_the_first_of_equal_pixels(channels, share, size):
    x = torch.zeros(1, channels, *size, dtype=torch.float64)
    rows, columns = -(-size[0] // 2), -(-size[1] // 2)
    part = channels // share
    d_rest = torch.ones(1, channels - part, rows, columns, dtype=torch.float64)
    found = ops.split_backward(x, None, [d_rest], d_rest.new_ones(1), share, 2)
    wanted = torch.zeros_like(x)
    wanted[:, part:, ::2, ::2] = 1
    assert torch.equal(found, wanted)


def arrivals(channels, share, size, requires_grad=False):
    """What arrives at a node: two dense rests and a whole state, and the rests of all."""
    rest = channels - channels // share
    passing = [
        drawn(2, count, *size, seed=seed).requires_grad_(requires_grad)
        for seed, count in enumerate((rest, rest, channels))
    ]
    return passing, [x[:, -rest:] for x in passing]


@CASES
def test_merging(channels, share, size):
    passing, rests = arrivals(channels, share, size)
    mixed, b = drawn(2, channels // share, *size, seed=5), drawn(3, seed=6)
    node, head = ops.merge_forward(passing, mixed, b, channels, share)
    wanted = node_written_out(mixed, rests, b, share)
    torch.testing.assert_close(node, wanted, rtol=1e-13, atol=1e-13)
    assert torch.equal(head, node[:, : channels // share])
    assert dense(node)
    assert dense(head)
    node, _ = ops.merge_forward(passing, None, b, channels, share)
    wanted = node_written_out(torch.zeros_like(mixed), rests, b, share)
    torch.testing.assert_close(node, wanted, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("readers", ["outside", "head", "later", "all"])
@CASES
def test_the_gradient_of_merging(channels, share, size, readers):
    passing, rests = arrivals(channels, share, size, requires_grad=True)
    part = channels // share
    mixed = drawn(2, part, *size, seed=5).requires_grad_()
    b = drawn(3, seed=6).requires_grad_()
    total = sum(factor * rest for factor, rest in zip(b, rests, strict=True))
    total.retain_grad()
    both = torch.cat([mixed, total], 1)
    node = both[:, [(j % share) * part + j // share for j in range(channels)]]
    outside = drawn(2, channels, *size, seed=7) if readers in ("outside", "all") else None
    d_head = drawn(2, part, *size, seed=8) if readers in ("head", "all") else None
    later = readers in ("later", "all")
    d_rests = [drawn(2, channels - part, *size, seed=9 + t) for t in range(2)] if later else []
    beyond = drawn(2, seed=20) if later else None
    loss = sum(
        ([] if outside is None else [(node * outside).sum()])
        + ([] if d_head is None else [(node[:, :part] * d_head).sum()])
        + [beyond[t] * (node[:, part:] * d).sum() for t, d in enumerate(d_rests)]
    )
    loss.backward()
    given = [x.detach() for x in passing], outside, d_head, d_rests, beyond, channels, share
    d_mixed, d_rest, d_b = ops.merge_backward(*given, True)
    torch.testing.assert_close(d_mixed, mixed.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(d_rest, total.grad, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(d_b, b.grad, rtol=1e-12, atol=1e-12)
    assert dense(d_mixed)
    assert dense(d_rest)
    # What passes by on an edge is multiplied by its factor, and by nothing else.
    for factor, rest, whole in zip(b.detach(), rests, passing, strict=True):
        assert torch.equal(whole.grad[:, -rest.shape[1] :], factor * total.grad)
    assert ops.merge_backward(*given, False)[2] is None
