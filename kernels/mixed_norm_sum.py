"""The passes of a sum of normalized tensors that write tensors: forward, and gradients of inputs.

With a_kc = w_k rstd_kc and b_c = -sum_k a_kc mean_kc the sum is out = sum_k a_kc z_k + b_c; its
gradient needs S0_c = sum g and S1_kc = sum g (z_k - mean_kc) rstd_kc, and is then
dz_k = p_kc g + q_kc z_k + r_kc. The coefficients [K, C] are the caller's (``ssfnas.ops``), who can
reduce statistics and sums (``mixed_norm_sum_reductions``) over processes between the passes.
"""

# mypy: allow-untyped-defs
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssfnas.kernels.layout import Extent, accumulator, in_one_layout, memory_format, on_device
from ssfnas.kernels.tiles import tile
from ssfnas.kernels.walks import GROUP, find_tile, per_channel, walk, walk_images


@triton.jit
def _forward_kernel(
    zs,
    a,
    b,
    out,
    outer,
    channels,
    inner,
    blocks,
    lane_tiles,
    inputs,
    factors,
    images,
    image_tiles,
    K: tl.constexpr,
    TOGETHER: tl.constexpr,
    CHANNELS_INNER: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    ACC: tl.constexpr,
):
    """out = sum_k a_kc z_k + b_c, or sum_k f_kn (a_kc z_k + b_kc)."""
    start, offsets, mask, channel, live, number = find_tile(
        outer, channels, inner, blocks, lane_tiles, image_tiles, CHANNELS_INNER, ROWS, LANES
    )
    total = tl.zeros([ROWS, LANES], ACC)
    if factors is None:
        total += per_channel(b, channel, live, CHANNELS_INNER).to(ACC)
    else:
        factors += number // image_tiles
    for first in tl.static_range(0, K, TOGETHER):
        if first < inputs:
            for k in tl.static_range(first, first + TOGETHER):
                if k < K:
                    z = tl.load(zs[k] + start + offsets, mask=mask, other=0.0).to(ACC)
                    scale = per_channel(a + k * channels, channel, live, CHANNELS_INNER)
                    if factors is None:
                        total += scale.to(ACC) * z
                    else:
                        shift = per_channel(b + k * channels, channel, live, CHANNELS_INNER)
                        factor = tl.load(factors + k * images).to(ACC)
                        total += (factor * scale.to(ACC)) * z + factor * shift.to(ACC)
    tl.store(out + start + offsets, total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _apply_kernel(
    grad,
    zs,
    p,
    q,
    r,
    dzs,
    outer,
    channels,
    inner,
    blocks,
    lane_tiles,
    K: tl.constexpr,
    CHANNELS_INNER: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    ACC: tl.constexpr,
):
    """dz_k = p_kc g + q_kc z_k + r_kc where dzs[k] is given."""
    start, offsets, mask, channel, live, _ = find_tile(
        outer, channels, inner, blocks, lane_tiles, None, CHANNELS_INNER, ROWS, LANES
    )
    g = tl.load(grad + start + offsets, mask=mask, other=0.0).to(ACC)
    for k in tl.static_range(K):
        if dzs[k] is not None:
            z = tl.load(zs[k] + start + offsets, mask=mask, other=0.0).to(ACC)
            dz = per_channel(p + k * channels, channel, live, CHANNELS_INNER).to(ACC) * g
            dz += per_channel(q + k * channels, channel, live, CHANNELS_INNER).to(ACC) * z
            dz += per_channel(r + k * channels, channel, live, CHANNELS_INNER).to(ACC)
            tl.store(dzs[k] + start + offsets, dz.to(dzs[k].dtype.element_ty), mask=mask)


def norm_sum_forward(
    zs: Sequence[Tensor], a: Tensor, b: Tensor, factors: Tensor | None = None
) -> Tensor:
    """out = sum_k a_kc z_k + b_c, or, with factors f, sum_k f_kn (a_kc z_k + b_kc).

    Args:
        zs: K tensors [N, C, ...] of one shape and dtype.
        a: [K, C], float32 (float64 for float64 tensors).
        b: [C], of the dtype of ``a``; [K, C] where there are factors.
        factors: of each input's images, [K, N], of the dtype of ``a``.

    Returns:
        The sum in the dtype and layout of ``zs[0]``.
    """
    zs = in_one_layout(zs)
    out = torch.empty_like(zs[0])
    if out.numel() == 0:
        return out
    # A tile has a factor, so none has parts of two images.
    images = 1 if factors is None else out.shape[0]
    extent = Extent.of(out).of_one(images)
    size = tile(extent, out.dtype, reduces=False)
    with on_device(out):
        _forward_kernel[(size.programs * images,)](
            tuple(zs),
            a.contiguous(),
            b.contiguous(),
            out,
            inputs=len(zs),
            **walk_images(factors, images, size),
            K=len(zs),
            # Each input brings two more numbers a lane: groups of half the size keep to registers.
            TOGETHER=GROUP.value if factors is None else GROUP.value // 2,
            **walk(extent, size, accumulator(out.dtype)),
        )
    return out


def norm_sum_apply(
    grad: Tensor,
    zs: Sequence[Tensor],
    p: Tensor,
    q: Tensor,
    r: Tensor,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """dz_k = p_kc g + q_kc z_k + r_kc.

    Args:
        grad: gradient of the sum, [N, C, ...].
        zs: the K tensors of that shape.
        p: [K, C], float32 (float64 for float64 tensors).
        q: [K, C].
        r: [K, C].
        needs: which inputs want a gradient; the others are neither read nor written.

    Returns:
        The K gradients in the layout of ``zs[0]``, None where unwanted.
    """
    zs = in_one_layout(zs)
    first = zs[0]
    grad = grad.contiguous(memory_format=memory_format(first))
    dzs = [torch.empty_like(z) if needed else None for z, needed in zip(zs, needs, strict=True)]
    if first.numel() == 0 or not any(needs):
        return dzs
    extent = Extent.of(first)
    size = tile(extent, first.dtype, reduces=False)
    with on_device(first):
        _apply_kernel[(size.programs,)](
            grad,
            tuple(zs),
            p.contiguous(),
            q.contiguous(),
            r.contiguous(),
            tuple(dzs),
            K=len(zs),
            **walk(extent, size, accumulator(first.dtype)),
        )
    return dzs
