"""Both passes of separable units and pools on drawn numbers, and how far results may be off."""

from __future__ import annotations

import torch
from native_checks import Draws, scalar, wide

KINDS = ((3, 1), (5, 1), (3, 2), (5, 2), (7, 1))
SHAPES = ((2, 1, 1, 1), (2, 3, 7, 5), (1, 8, 2, 9), (2, 16, 12, 12), (3, 17, 5, 11), (1, 40, 9, 8))
# Relative, by norm: storing a result costs half an ulp, and sums little more.
TOLERANCES = {
    torch.float64: 1e-13,
    torch.float32: 3e-6,
    torch.bfloat16: 2.0**-8,
    torch.float16: 2.0**-11 + 3e-6,
}


class Calls:
    """Arguments of both passes of separable units, and of both pools."""

    def __init__(self, dtype, shape, *, stride, shared, layout="channels_last", kinds=KINDS):
        draws, (n, c, h, w), groups = Draws(dtype, layout), shape, len(kinds)
        output = (n, c, -(-h // stride), -(-w // stride))
        self.xs = draws.tensors(1 if shared else groups, shape)
        self.depthwise = [draws.values(c, 1, k, k) / k for k, _ in kinds]
        self.pointwise = [draws.values(c, c, 1, 1) / c**0.5 for _ in kinds]
        self.keywords = {"stride": stride, "dilations": [d for _, d in kinds]}
        if not shared:
            self.keywords |= {"scale": draws.values(groups, c), "shift": draws.values(groups, c)}
        self.backward = {"factors": draws.values(groups, n).clamp_min(0)}
        if not shared:
            self.backward["center"] = draws.values(groups, c)
        self.zs, self.grads = draws.tensors(groups, output), draws.tensors(groups, output)
        self.p, self.q, self.r = (draws.values(groups, c) for _ in range(3))
        self.into = draws.tensor(shape) if shared else None

    def double(self):
        other = object.__new__(Calls)
        for name, value in vars(self).items():
            setattr(other, name, _double(value))
        return other

    def separable(self, module):
        zs, mean, var = module.separable_forward(
            self.xs, self.depthwise, self.pointwise, **self.keywords
        )
        into = None if self.into is None else self.into.clone()
        dxs, sums, d_depthwise, d_pointwise = module.separable_backward(
            self.xs, self.zs, self.grads, self.p, self.q, self.r, self.depthwise,
            self.pointwise, **self.keywords, **self.backward, into=into,
        )  # fmt: skip
        return [*zs, mean, var, *dxs, *(sums or ()), *d_depthwise, *d_pointwise]

    def pools(self, module):
        x, stride = self.xs[0], self.keywords["stride"]
        results = [*module.pools_forward(x, stride)]
        for given in (self.grads[:2], [self.grads[0], None], [None, self.grads[1]]):
            results.append(module.pools_backward(x, *given, stride))
        return results


def _double(value):
    if isinstance(value, torch.Tensor):
        return wide(value)
    if isinstance(value, list):
        return [_double(each) for each in value]
    if isinstance(value, dict):
        return {name: _double(each) for name, each in value.items()}
    return value


def assert_right(found, truth, dtype, what, scale=1):
    for place, (value, expected) in enumerate(zip(found, truth, strict=True)):
        assert value.shape == expected.shape, f"{what}: {place}"
        assert value.dtype == (dtype if value.dtype == dtype else scalar(dtype)), what
        error = (wide(value) - expected).norm() / expected.norm().clamp_min(1e-2)
        allowed = scale * TOLERANCES[dtype if scale > 1 else value.dtype]
        assert error <= allowed, f"{what}: result {place} errs by {error:.1e}"
