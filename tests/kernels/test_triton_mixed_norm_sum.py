"""The passes of a sum of normalized tensors, by Triton, against their definitions."""

from __future__ import annotations

import pytest
import torch
from kernel_checks import DTYPES, accumulator, assert_close, error, normal, wide
from torch import Tensor

from ssfnas.kernels import norm_statistics, norm_sum_apply, norm_sum_forward, norm_sum_reduce

# Samples, channels, places: one and several tiles, channel blocks and rows of each walk.
SHAPES = [(1, 1, 1, 2), (7, 3), (4, 6, 5), (3, 5, 7, 9), (2, 40, 1, 1), (5, 20, 9, 11)]
BOTH_WALKS = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])


def by_channel(z: Tensor) -> Tensor:
    """[C, M]."""
    return z.transpose(0, 1).reshape(z.shape[1], -1)


def spread(values: Tensor, z: Tensor) -> Tensor:
    """[C] as [1, C, 1, ...]."""
    return values.to(z.dtype).view(1, -1, *[1] * (z.dim() - 2))


def statistics(zs: list[Tensor]) -> tuple[Tensor, Tensor]:
    rows = [by_channel(z) for z in zs]
    mean = torch.stack([row.mean(1) for row in rows])
    return mean, torch.stack([row.var(1, correction=0) for row in rows])


def forward(zs: list[Tensor], a: Tensor, b: Tensor) -> Tensor:
    return sum(spread(a[k], z) * z for k, z in enumerate(zs)) + spread(b, zs[0])


def sums(grad: Tensor, zs: list[Tensor], mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    g = by_channel(grad)
    rows = [(g * (by_channel(z) - mean[k, :, None])).sum(1) * rstd[k] for k, z in enumerate(zs)]
    return g.sum(1), torch.stack(rows)


def apply(grad: Tensor, zs: list[Tensor], p: Tensor, q: Tensor, r: Tensor) -> list[Tensor]:
    rows = zip(zs, p, q, r, strict=True)
    return [spread(i, z) * grad + spread(j, z) * z + spread(h, z) for z, i, j, h in rows]


def check_factors(zs: list[Tensor], grad: Tensor, rng: torch.Generator) -> None:
    """Each image's share is what the definition without factors gives for that image alone."""
    device, dtype, count = zs[0].device, accumulator(zs[0].dtype), len(zs)
    images, channels = zs[0].shape[:2]
    values = [normal((count, channels), dtype, device, rng) for _ in range(4)]
    # Paths of some images are dropped.
    factors = normal((count, images), dtype, device, rng).clamp_min(0)

    def by_images(zs, grad, a, b, mean, rstd, factors):
        outs, totals, sizes = [], [], []
        for n in range(images):
            own, g, f = [z[n : n + 1] for z in zs], grad[n : n + 1], factors[:, n, None]
            outs.append(forward(own, f * a, (f * b).sum(0)))
            s0, s1 = sums(g, own, mean, rstd)
            totals.append((f * s0, f * s1))
            s0, s1 = sums(g.abs(), [z.abs() for z in own], -mean.abs(), rstd.abs())
            sizes.append((f * s0, f * s1))
        return torch.cat(outs), *(
            [sum(each) for each in zip(*rows, strict=True)] for rows in (totals, sizes)
        )

    found = norm_sum_forward(zs, *values[:2], factors)
    plain, _, _ = by_images(zs, grad, *values, factors)
    truth, true_sums, sizes = by_images(wide(*zs), *wide(grad, *values, factors))
    assert found.dtype == zs[0].dtype
    assert_close(found, plain, truth)
    found_sums = norm_sum_reduce(grad, zs, *values[2:], factors)
    for total, true_total, size in zip(found_sums, true_sums, sizes, strict=True):
        assert total.dtype == dtype
        assert total.shape == (count, channels)
        distance = (total.double().cpu() - true_total).abs()
        assert (distance <= 4 * torch.finfo(dtype).eps * size).all()


def inputs(shape, count, dtype, device, rng, *, channels_last=False, mean=0.0) -> list[Tensor]:
    last = channels_last and len(shape) == 4
    return [normal(shape, dtype, device, rng, channels_last=last, mean=mean) for _ in range(count)]


def check(zs: list[Tensor], grad: Tensor, rng: torch.Generator) -> None:
    device, dtype = zs[0].device, accumulator(zs[0].dtype)
    count, channels = len(zs), zs[0].shape[1]
    exact, (exact_grad,) = wide(*zs), wide(grad)
    plain = [z.to(dtype) for z in zs]

    mean, var = norm_statistics(zs, [True] * count)
    assert mean.dtype == var.dtype == dtype
    (plain_mean, plain_var), (true_mean, true_var) = statistics(plain), statistics(exact)
    length = by_channel(grad).shape[1]
    assert_close(var, plain_var, true_var, length)
    # A mean may come out near zero: it is compared with the values that it is of.
    size = torch.stack([by_channel(z).abs().mean(1) for z in exact])
    distance = (mean.double().cpu() - true_mean).abs()
    assert (distance <= 4 * torch.finfo(dtype).eps * size).all()
    assert mean.shape == plain_mean.shape

    values = [normal((count, channels), dtype, device, rng) for _ in range(5)]
    a, p, q, r, rstd = values
    rstd = rstd.abs() + 0.5
    out = norm_sum_forward(zs, a, a[0])
    assert out.dtype == zs[0].dtype
    exact_a, exact_p, exact_q, exact_r, exact_rstd, exact_mean = wide(a, p, q, r, rstd, mean)
    assert_close(out, forward(zs, a, a[0]), forward(exact, exact_a, exact_a[0]))

    found_sums = norm_sum_reduce(grad, zs, mean, rstd)
    true_sums = sums(exact_grad, exact, exact_mean, exact_rstd)
    sizes = sums(exact_grad.abs(), [z.abs() for z in exact], -exact_mean.abs(), exact_rstd)
    for found, truth, size in zip(found_sums, true_sums, sizes, strict=True):
        assert found.dtype == dtype
        assert found.shape == truth.shape
        distance = (found.double().cpu() - truth).abs()
        assert (distance <= 4 * torch.finfo(dtype).eps * size).all()

    dzs = norm_sum_apply(grad, zs, p, q, r, [True] * count)
    plain_dzs = apply(grad, zs, p, q, r)
    true_dzs = apply(exact_grad, exact, exact_p, exact_q, exact_r)
    for dz, one, truth in zip(dzs, plain_dzs, true_dzs, strict=True):
        assert_close(dz, one, truth)


@pytest.mark.parametrize(
    ("shape", "channels_last"),
    [(shape, last) for last in (False, True) for shape in SHAPES if len(shape) == 4 or not last],
    ids=str,
)
def test_agrees_with_definition(device, rng, shape, channels_last):
    zs = inputs(shape, 3, torch.float32, device, rng, channels_last=channels_last)
    grad = normal(shape, torch.float32, device, rng)
    check(zs, grad, rng)
    check_factors(zs, grad, rng)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@BOTH_WALKS
def test_other_dtypes(device, rng, dtype, channels_last):
    shape = (3, 5, 7, 9)
    zs = inputs(shape, 3, dtype, device, rng, channels_last=channels_last)
    grad = normal(shape, dtype, device, rng)
    check(zs, grad, rng)
    check_factors(zs, grad, rng)


@pytest.mark.parametrize("count", [1, 8, 9, 35])
@BOTH_WALKS
def test_any_number_of_inputs(device, rng, count, channels_last):
    shape = (2, 3, 4, 4)
    zs = inputs(shape, count, torch.float32, device, rng, channels_last=channels_last)
    check(zs, zs[0] + 1, rng)
    check_factors(zs, zs[0] + 1, rng)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 33, 33, 65), (2, 144, 8, 8), (70, 16, 7, 7)], ids=str)
@BOTH_WALKS
def test_large(device, rng, shape, dtype, channels_last):
    zs = inputs(shape, 2, dtype, device, rng, channels_last=channels_last)
    grad = normal(shape, dtype, device, rng)
    check(zs, grad, rng)
    check_factors(zs, grad, rng)


@BOTH_WALKS
def test_variance_beside_a_large_mean(device, rng, channels_last):
    """E[x^2] - E[x]^2 would leave nothing of it in float32."""
    shape = (5, 20, 9, 11)
    zs = inputs(shape, 2, torch.float32, device, rng, channels_last=channels_last, mean=3000.0)
    mean, var = norm_statistics(zs, [True, True])
    true_mean, true_var = statistics(wide(*zs))
    assert error(mean, true_mean) < 1e-6
    assert error(var, true_var) < 1e-4


@BOTH_WALKS
def test_inputs_left_as_they_are(device, rng, channels_last):
    """They have mean 0 and variance 1, and are not read."""
    shape = (3, 5, 7, 9)
    zs = inputs(shape, 3, torch.float32, device, rng, channels_last=channels_last)
    all_mean, all_var = norm_statistics(zs, [True] * 3)
    zs[1] = torch.full_like(zs[1], float("nan"))
    mean, var = norm_statistics(zs, [True, False, True])
    assert torch.equal(mean[1], torch.zeros(5, device=device))
    assert torch.equal(var[1], torch.ones(5, device=device))
    assert torch.equal(mean[[0, 2]], all_mean[[0, 2]])
    assert torch.equal(var[[0, 2]], all_var[[0, 2]])
    mean, var = norm_statistics(zs, [False] * 3)
    assert torch.equal(mean, torch.zeros(3, 5, device=device))
    assert torch.equal(var, torch.ones(3, 5, device=device))


def test_layouts_and_views(device, rng):
    """Others come to the first one's layout, wherever they lie."""
    shape = (2, 6, 5, 7)
    last = normal(shape, torch.float32, device, rng, channels_last=True)
    first = normal(shape, torch.float32, device, rng)
    odd = normal((2 * 6 * 5 * 7 + 1,), torch.float32, device, rng)[1:].view(shape)
    part = normal((2, 12, 5, 7), torch.float32, device, rng)[:, 6:]
    grad = torch.full((), 0.5, device=device).expand(shape)
    for zs in ([last, first, odd, part], [part, odd, last, first]):
        check(zs, grad, rng)
        check_factors(zs, grad, rng)
        out = norm_sum_forward(zs, torch.ones(4, 6, device=device), torch.zeros(6, device=device))
        assert out.is_contiguous() == (zs[0] is not last)


def test_only_wanted_gradients(device, rng):
    shape = (2, 3, 4, 5)
    zs = inputs(shape, 3, torch.float32, device, rng)
    p, q, r = (normal((3, 3), torch.float32, device, rng) for _ in range(3))
    everything = norm_sum_apply(zs[2], zs, p, q, r, [True] * 3)
    some = norm_sum_apply(zs[2], zs, p, q, r, [False, True, False])
    assert some[0] is None
    assert some[2] is None
    assert torch.equal(some[1], everything[1])
    assert norm_sum_apply(zs[2], zs, p, q, r, [False] * 3) == [None] * 3


def test_empty(device):
    zs = [torch.zeros(0, 3, 4, 4, device=device) for _ in range(2)]
    a = torch.ones(2, 3, device=device)
    mean, var = norm_statistics(zs, [True, False])
    assert mean[0].isnan().all()
    assert var[0].isnan().all()
    assert torch.equal(mean[1], torch.zeros(3, device=device))
    assert torch.equal(var[1], torch.ones(3, device=device))
    assert norm_sum_forward(zs, a, a[0]).shape == (0, 3, 4, 4)
    s0, s1 = norm_sum_reduce(zs[0], zs, a, a)
    assert torch.equal(s0, torch.zeros(3, device=device))
    assert torch.equal(s1, torch.zeros(2, 3, device=device))
    factors = torch.ones(2, 0, device=device)
    assert norm_sum_forward(zs, a, a, factors).shape == (0, 3, 4, 4)
    for total in norm_sum_reduce(zs[0], zs, a, a, factors):
        assert torch.equal(total, torch.zeros(2, 3, device=device))
    dzs = norm_sum_apply(zs[0], zs, a, a, a, [True, False])
    assert dzs[0].shape == (0, 3, 4, 4)
    assert dzs[1] is None
