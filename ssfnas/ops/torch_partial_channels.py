"""Partial channels in plain PyTorch: how states are split, and nodes merged (arXiv 1907.05737).

With a share K, operations see the *head* of a state x, its first P = C / K channels; the *rest*,
R = C - P channels, passes by, times a factor b of its edge:

    node = shuffle(cat(mixed, sum_e b_e passing_e))
    shuffle(y)[:, j] = y[:, (j mod K) P + j div K]

where ``mixed`` is the sum of all operations' results, and ``passing_e`` the rest of a state, or its
2x2 maxima where the edge halves. The shuffle is one of whole nodes, since it is the same on every
edge. Heads are dense copies, as operations read them.

All tensors are [N, channels, H, W], results channels_last; factors and their gradients are float32
(float64 for float64).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ssfnas.kernels.layout import accumulator

NHWC = torch.channels_last


def split_forward(x: Tensor, share: int, stride: int) -> tuple[Tensor, Tensor]:
    """The head of a state, and what passes by on its edges.

    Args:
        x: the state [N, C, H, W].
        share: K, which divides C.
        stride: of the edges that leave the state.

    Returns:
        The head [N, P, H, W]; at stride 1 ``x`` itself, whose last R channels pass by, and at
        stride 2 the maxima [N, R, ceil(H / 2), ceil(W / 2)] of 2x2 pixels of these, of fewer where
        an odd side ends.
    """
    part = x.shape[1] // share
    head = x[:, :part].contiguous(memory_format=NHWC)
    if stride == 1:
        return head, x
    rest = x[:, part:].contiguous(memory_format=NHWC)
    return head, F.max_pool2d(rest, 2, stride=2, ceil_mode=True).contiguous(memory_format=NHWC)


def split_backward(
    x: Tensor, d_head: Tensor | None, d_rests: list[Tensor], b: Tensor, share: int, stride: int
) -> Tensor:
    """The gradient of a state, from those of its head and of the nodes that its rest comes to.

    Args:
        x: the state [N, C, H, W]; at stride 1 only its shape is looked at.
        d_head: of the head [N, P, H, W]; None: zeros.
        d_rests: of the sum of what passes by to each of T nodes, [N, R, h, w].
        b: factors of the edges to these, [T].
        share, stride: as they were in the forward pass. A maximum's gradient goes to the first of
            equal pixels, row by row.
    """
    part = x.shape[1] // share
    d_passing = _weighted_sum(d_rests, b).to(x.dtype)
    if stride == 2:
        rest = x[:, part:].contiguous(memory_format=NHWC)
        _, indices = F.max_pool2d(rest, 2, stride=2, ceil_mode=True, return_indices=True)
        d_passing = torch.ops.aten.max_pool2d_with_indices_backward(
            d_passing, rest, [2, 2], [2, 2], [0, 0], [1, 1], True, indices
        )
    if d_head is None:
        d_head = torch.zeros_like(x[:, :part])
    return torch.cat([d_head, d_passing], 1).contiguous(memory_format=NHWC)


def merge_forward(
    passing: list[Tensor], mixed: Tensor | None, b: Tensor, channels: int, share: int
) -> tuple[Tensor, Tensor]:
    """A node, and its head.

    Args:
        passing: of E states, [N, C, h, w] or [N, R, h, w]; the last R channels of each.
        mixed: the sum of the operations [N, P, h, w]; None: zeros.
        b: [E].
        channels, share: C and K.
    """
    part = channels // share
    total = _weighted_sum([x[:, part - channels :] for x in passing], b).to(passing[0].dtype)
    if mixed is None:
        mixed = torch.zeros_like(total[:, :1]).expand(-1, part, -1, -1)
    both = torch.cat([mixed, total], 1)
    node = both.unflatten(1, (share, part)).transpose(1, 2).flatten(1, 2)
    return node.contiguous(memory_format=NHWC), node[:, :part].contiguous(memory_format=NHWC)


def merge_backward(
    passing: list[Tensor],
    outside: Tensor | None,
    d_head: Tensor | None,
    d_rests: list[Tensor],
    b: Tensor | None,
    channels: int,
    share: int,
    needs_factors: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of what a node is merged of, from all that reads the node.

    The gradient of the node is the sum of one from outside, that of its head, and b times those of
    the nodes that its rest comes to; results are in the order before the shuffle.

    Args:
        passing: as in the forward pass; looked at for the factors' gradients alone.
        outside: a gradient of the whole node [N, C, h, w]; None: zeros.
        d_head: of its head [N, P, h, w]; None: zeros.
        d_rests: of the sum of what passes by to each of T later nodes, [N, R, h, w].
        b: factors of the edges to these, [T]; None where there are none.
        channels, share: C and K.
        needs_factors: whether the gradients of the factors in the forward pass are wanted.

    Returns:
        The gradient of ``mixed`` [N, P, h, w], of the sum of what passes by [N, R, h, w], and
        <that, passing_e> [E], or None.
    """
    first, part = passing[0], channels // share
    samples, _, *sides = first.shape
    dtype = accumulator(first.dtype)
    g = torch.zeros(samples, channels, *sides, dtype=dtype, device=first.device)
    if outside is not None:
        g += outside
    if d_head is not None:
        g[:, :part] += d_head
    if b is not None:
        g[:, part:] += _weighted_sum(d_rests, b)
    g = g.unflatten(1, (part, share)).transpose(1, 2).flatten(1, 2)
    d_mixed, d_rest = (
        piece.to(first.dtype).contiguous(memory_format=NHWC) for piece in (g[:, :part], g[:, part:])
    )
    if not needs_factors:
        return d_mixed, d_rest, None
    sums = [(g[:, part:] * x[:, part - channels :]).sum() for x in passing]
    return d_mixed, d_rest, torch.stack(sums)


def _weighted_sum(xs: Sequence[Tensor], b: Tensor) -> Tensor:
    """sum_e b_e x_e, in the dtype of the factors."""
    total = xs[0].to(b.dtype) * b[0]
    for e in range(1, len(xs)):
        total.addcmul_(xs[e], b[e])
    return total
