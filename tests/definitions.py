"""What layers mean, written out with sums over shifted images: the tests' independent truth."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def shifted(x: Tensor, kernel: int, stride: int, dilation: int, fill: float) -> list[list[Tensor]]:
    """``[u][v]`` is what each output pixel sees at offset (u, v) of its window ('same' padding)."""
    pad = dilation * (kernel - 1) // 2
    n, c, h, w = x.shape
    padded = x.new_full((n, c, h + 2 * pad, w + 2 * pad), fill)
    padded[:, :, pad : pad + h, pad : pad + w] = x
    last_row, last_column = stride * ((h - 1) // stride) + 1, stride * ((w - 1) // stride) + 1
    return [
        [
            padded[:, :, u * dilation :, v * dilation :][
                :, :, :last_row:stride, :last_column:stride
            ]
            for v in range(kernel)
        ]
        for u in range(kernel)
    ]


def depthwise(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    kernel = weight.shape[-1]
    views = shifted(x, kernel, stride, dilation, 0.0)
    return sum(
        weight[:, 0, u, v][None, :, None, None] * views[u][v]
        for u in range(kernel)
        for v in range(kernel)
    )


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("oi,nihw->nohw", weight[:, :, 0, 0], x)


def batch_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    mean = x.mean((0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    y = (x - mean) / torch.sqrt(variance + 1e-5)
    if weight is None or bias is None:
        return y
    return y * weight[None, :, None, None] + bias[None, :, None, None]


def relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.zeros_like(x))


def _norm_parameters(parameters: Iterator[Tensor], affine: bool) -> tuple[Tensor, ...]:
    return (next(parameters), next(parameters)) if affine else ()


def separable(x, parameters, stride, dilation, affine):
    y = depthwise(relu(x), next(parameters), stride, dilation)
    y = pointwise(y, next(parameters))
    return batch_norm(y, *_norm_parameters(parameters, affine))


def factorized_reduce(x: Tensor, parameters: Iterator[Tensor], affine: bool) -> Tensor:
    n, c, h, w = x.shape
    even = x.new_zeros(n, c, h + h % 2, w + w % 2)
    even[:, :, :h, :w] = relu(x)
    first, second = next(parameters), next(parameters)
    halves = [pointwise(even[:, :, ::2, ::2], first), pointwise(even[:, :, 1::2, 1::2], second)]
    return batch_norm(torch.cat(halves, 1), *_norm_parameters(parameters, affine))


def pool(x: Tensor, kind: str, stride: int) -> Tensor:
    if kind == "max":
        views = shifted(x, 3, stride, 1, float("-inf"))
        return torch.stack([view for row in views for view in row]).amax(0)
    views, counts = shifted(x, 3, stride, 1, 0.0), shifted(torch.ones_like(x), 3, stride, 1, 0.0)
    return sum(map(sum, views)) / sum(map(sum, counts))


def operation(
    name: str, x: Tensor, weights: list[Tensor], stride: int, *, searching: bool
) -> Tensor:
    """An operation of the DARTS space, given its weights in the order of its layers."""
    parameters, affine = iter(weights), not searching
    if name == "none":
        return torch.zeros_like(x)[:, :, ::stride, ::stride]
    if name == "skip_connect":
        return x if stride == 1 else factorized_reduce(x, parameters, affine)
    kind = name.split("_")[0]
    if name.endswith("pool_3x3"):
        y = pool(x, kind, stride)
        return batch_norm(y) if searching else y
    if kind == "dil":
        return separable(x, parameters, stride, 2, affine)
    y = separable(x, parameters, stride, 1, affine)
    return separable(y, parameters, 1, 1, affine)
