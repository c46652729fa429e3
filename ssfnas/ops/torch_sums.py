"""Sums in plain PyTorch: they run on every device and dtype, and other backends replace them.

This is the definition of these functions. Sums are kept in float32 (float64 for float64), and so
are weights [K], statistics and coefficients [K, C]. The K tensors, and a gradient of their sum,
have one shape [N, C, ...], dtype and dense layout, which results have too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssfnas.kernels.layout import accumulator


def unavailable() -> str | None:
    """None: PyTorch always runs."""
    return None


def unsupported(op: str, tensors: Sequence[Tensor]) -> str | None:
    """None: it takes all tensors."""
    return None


def mixed_sum_forward(xs: Sequence[Tensor], weights: Tensor) -> Tensor:
    """sum_k w_k x_k; the tensors may have any shape."""
    total = xs[0].to(weights.dtype) * weights[0]
    for k in range(1, len(xs)):
        total.addcmul_(xs[k], weights[k])
    return total.to(xs[0].dtype)


def mixed_sum_backward(
    grad: Tensor,
    xs: Sequence[Tensor],
    weights: Tensor,
    needs_x: Sequence[bool],
    needs_weights: bool,
) -> tuple[list[Tensor | None], Tensor | None]:
    """dx_k = w_k grad where wanted, and dw_k = <grad, x_k> [K] where wanted.

    Of ``xs`` only the first is looked at where the weights need no gradient.
    """
    wide = grad.to(weights.dtype)
    dxs = [
        (wide * weights[k]).to(xs[0].dtype) if needed else None for k, needed in enumerate(needs_x)
    ]
    if not needs_weights:
        return dxs, None
    return dxs, torch.stack([(wide * x).sum() for x in xs])


def norm_statistics(zs: Sequence[Tensor], normalize: Sequence[bool]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [K, C] of each input and channel; 0 and 1 where not wanted.

    In two passes, each vectorized; a single Welford pass of PyTorch's is 30 times slower on a CPU.
    """
    first = zs[0]
    dtype = accumulator(first.dtype)
    mean = torch.zeros(len(zs), first.shape[1], dtype=dtype, device=first.device)
    var = torch.ones_like(mean)
    axes = _all_but_channels(first)
    for k, (z, normalized) in enumerate(zip(zs, normalize, strict=True)):
        if normalized:
            mean[k] = z.mean(axes, dtype=dtype)
            var[k] = (z - per_channel(mean[k], z)).square_().mean(axes)
    return mean, var


def norm_sum_forward(
    zs: Sequence[Tensor], a: Tensor, b: Tensor, factors: Tensor | None = None
) -> Tensor:
    """sum_k a_kc z_k + b_c for a [K, C] and b [C].

    With ``factors`` f [K, N], for b [K, C]: sum_k f_kn (a_kc z_k + b_kc).
    """
    if factors is not None:
        scale, shift = (f[:, :, None] * x[:, None] for f, x in ((factors, a), (factors, b)))
        shape = (*zs[0].shape[:2], *[1] * (zs[0].dim() - 2))
        total = shift.sum(0).view(shape).expand_as(zs[0])
        for k, z in enumerate(zs):
            total = torch.addcmul(total, z, scale[k].view(shape))
        return total.to(zs[0])
    total = torch.addcmul(per_channel(b, zs[0]), zs[0], per_channel(a[0], zs[0]))
    for k in range(1, len(zs)):
        total.addcmul_(zs[k], per_channel(a[k], zs[k]))
    return total.to(zs[0].dtype)


def norm_sum_reduce(
    grad: Tensor,
    zs: Sequence[Tensor],
    mean: Tensor,
    rstd: Tensor,
    factors: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """S0 [C] = sum grad and S1 [K, C] = sum grad (z_k - mean_kc) rstd_kc.

    With ``factors`` f [K, N], S0 [K, C] and S1 of f_kn grad in the place of grad.
    """
    axes = _all_but_channels(grad)
    grad = grad.to(mean.dtype)
    if factors is not None:
        shape = (-1, *[1] * (grad.dim() - 1))
        found = [
            norm_sum_reduce(grad * factors[k].view(shape), [z], mean[k : k + 1], rstd[k : k + 1])
            for k, z in enumerate(zs)
        ]
        return torch.stack([s0 for s0, _ in found]), torch.cat([s1 for _, s1 in found])
    # Without the shift the difference of two large sums would be left where means are large.
    sums = [((z - per_channel(mean[k], z)) * grad).sum(axes) for k, z in enumerate(zs)]
    return grad.sum(axes), torch.stack(sums) * rstd


def norm_sum_apply(
    grad: Tensor,
    zs: Sequence[Tensor],
    p: Tensor,
    q: Tensor,
    r: Tensor,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """dz_k = p_kc grad + q_kc z_k + r_kc for coefficients [K, C], where wanted."""
    dzs: list[Tensor | None] = []
    for k, z in enumerate(zs):
        if not needs[k]:
            dzs.append(None)
            continue
        dz = torch.addcmul(per_channel(r[k], z), z, per_channel(q[k], z))
        dzs.append(dz.addcmul_(grad, per_channel(p[k], z)).to(z.dtype))
    return dzs


def per_channel(values: Tensor, like: Tensor) -> Tensor:
    """Values [C] in the shape that broadcasts over ``like`` [N, C, ...]."""
    return values.view(-1, *[1] * (like.dim() - 2))


def _all_but_channels(x: Tensor) -> list[int]:
    return [axis for axis in range(x.dim()) if axis != 1]
