"""A cell's entry in plain PyTorch: ReLU and a 1x1 convolution of several tensors side by side.

    z = W relu(concat(x_1, ..., x_T))

for x_t [N, I, H, W] and W [O, T I, 1, 1]. The backward pass takes the gradient of z as
dz = p_c grad + q_c z + r_c (:mod:`ssfnas.ops.norm_coefficients`); coefficients and statistics are
[1, O], float32 (float64 for float64).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ssfnas.kernels.layout import accumulator
from ssfnas.ops.torch_candidates import channel_moments
from ssfnas.ops.torch_sums import per_channel


def pointwise_forward(xs: Sequence[Tensor], weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """z [N, O, H, W], and the mean and biased variance [1, O] of each of its channels.

    Args:
        xs: T tensors [N, I, H, W].
        weight: [O, T I, 1, 1], any floating dtype.
    """
    x = torch.cat(list(xs), dim=1)
    z = F.conv2d(x.relu(), weight.to(x.dtype))
    mean, var = channel_moments(z)
    return z, mean[None], var[None]


def pointwise_backward(
    xs: Sequence[Tensor],
    z: Tensor,
    grad: Tensor,
    p: Tensor,
    q: Tensor | None,
    r: Tensor | None,
    weight: Tensor,
    *,
    needs_x: bool = True,
    needs_weight: bool = True,
    into: Sequence[Tensor] | None = None,
) -> tuple[list[Tensor] | None, Tensor | None]:
    """Gradients of :func:`pointwise_forward`.

    Args:
        xs, weight: as in the forward pass.
        z: its first result; not looked at where ``q`` is None.
        grad: in the shape of ``z``.
        p, q, r: [1, O]; ``q`` and ``r`` may be None, for zeros.
        needs_x, needs_weight: which gradients are wanted.
        into: tensors like ``xs``, left as they are: the gradients of ``xs`` are added to them.

    Returns:
        The gradients of all ``xs``, and of ``weight`` in its shape, in the dtype of sums.
    """
    x = torch.cat(list(xs), dim=1)
    dz = per_channel(p[0], z) * grad
    if q is not None and r is not None:
        dz = dz + per_channel(q[0], z) * z + per_channel(r[0], z)
    dz = dz.to(x.dtype)
    dxs = d_weight = None
    if needs_weight:
        wide = accumulator(x.dtype)
        d_weight = torch.einsum("nohw,nihw->oi", dz.to(wide), x.relu().to(wide))[:, :, None, None]
    if needs_x:
        dx = F.conv2d(dz, weight.to(x.dtype).transpose(0, 1))
        dx = torch.ops.aten.threshold_backward(dx, x, 0)
        nhwc = torch.channels_last
        dxs = [part.contiguous(memory_format=nhwc) for part in dx.tensor_split(len(xs), dim=1)]
        if into is not None:
            dxs = [total + part for total, part in zip(into, dxs, strict=True)]
    return dxs, d_weight
