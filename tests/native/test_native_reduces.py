"""Native factorized reduces against their definition in float64, on each instruction set."""

from __future__ import annotations

import pytest
import torch
from candidate_calls import assert_right
from native_checks import DTYPES, SETS, Draws, displaced, needs_native, on, wide

from ssfnas.errors import RequestError
from ssfnas.ops import native_reduces, torch_reduces

pytestmark = needs_native

# Of each tensor, how many there are, output channels of even and of odd pixels, edges.
CASES = (((2, 1, 1, 1), 1, (1, 1), 1), ((2, 3, 7, 5), 2, (4, 3), 2), ((1, 8, 2, 9), 4, (8, 8), 3),
         ((3, 17, 5, 11), 1, (17, 17), 2), ((2, 16, 20, 21), 4, (16, 16), 2),
         ((1, 20, 9, 8), 3, (33, 32), 1))  # fmt: skip


class Reduces:
    """What both passes take."""

    def __init__(self, dtype, shape, parts, outputs, edges):
        draws, (n, c, h, w), count = Draws(dtype, "channels_last"), shape, sum(outputs)
        result, inputs = (n, count, -(-h // 2), -(-w // 2)), parts * c
        self.xs, self.into = draws.tensors(parts, shape), draws.tensors(parts, shape)
        self.even, self.odd = (
            [draws.values(o, inputs, 1, 1) / inputs**0.5 for _ in range(edges)] for o in outputs
        )
        self.zs, self.grads = draws.tensors(edges, result), draws.tensors(edges, result)
        self.rows = [draws.values(edges, count) for _ in range(3)]
        self.factors = draws.values(edges, n).clamp_min(0)

    def double(self):
        other = object.__new__(Reduces)
        for name, value in vars(self).items():
            doubled = [wide(x) for x in value] if isinstance(value, list) else wide(value)
            setattr(other, name, doubled)
        return other

    def forward(self, module):
        zs, mean, var = module.reduces_forward(self.xs, self.even, self.odd)
        return [*zs, mean, var]

    def backward(self, module, **options):
        return module.reduces_backward(
            self.xs, self.zs, self.grads, *self.rows, self.even, self.odd, factors=self.factors,
            **options,
        )  # fmt: skip

    def everything(self, module):
        found = self.forward(module)
        for into in (None, [x.clone() for x in self.into]):
            dxs, of_even, of_odd = self.backward(module, into=into)
            found += [*dxs, *of_even, *of_odd]
        return found


@pytest.mark.parametrize("place", SETS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_reduces_are_their_definition(place, dtype):
    for case in CASES:
        given = Reduces(dtype, *case)
        with on(place):
            found = given.everything(native_reduces)
        # The matrix unit rounds what it multiplies, so that sums are no more exact than results.
        scale = 2 if place == "amx" and dtype == torch.bfloat16 else 1
        truth = given.double().everything(torch_reduces)
        assert_right(found, truth, dtype, f"{case}", scale)


@pytest.mark.parametrize("place", SETS)
def test_results_do_not_depend_on_the_number_of_threads(threads, place):
    # Few images and many; each is enough work for several threads.
    for shape in ((2, 17, 81, 80), (54, 8, 25, 24)):
        given = Reduces(torch.float32, shape, 2, (9, 8), 2)
        with on(place):
            threads(1)
            alone = given.everything(native_reduces)
            for count in (2, 3):
                threads(count)
                found = given.everything(native_reduces)
                for expected, value in zip(alone, found, strict=True):
                    assert torch.equal(expected, value), (shape, count)


@pytest.fixture
def filled_memory():
    """Memory that nothing was written to holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("shape", [(2, 3, 6, 4), (2, 3, 5, 7), (1, 3, 1, 6), (1, 3, 5, 1)], ids=str)
def test_pixels_that_are_not_read_get_zeros(shape, filled_memory):
    assert torch.empty(shape).isnan().all()
    given = Reduces(torch.float32, shape, 2, (2, 2), 2)
    dxs, _, _ = given.backward(native_reduces)
    for dx in dxs:
        assert dx.isfinite().all()
        assert torch.count_nonzero(dx[:, :, 1::2, ::2]) == 0
        assert torch.count_nonzero(dx[:, :, ::2, 1::2]) == 0


def test_memory_may_begin_anywhere_and_be_in_any_order():
    given = Reduces(torch.float32, (2, 17, 5, 11), 2, (9, 9), 2)
    expected = given.everything(native_reduces)
    for change in (displaced, torch.Tensor.contiguous, lambda x: torch.cat([x, x], 1)[:, ::2]):
        for name in ("xs", "zs", "grads", "into", "even", "odd"):
            old = getattr(given, name)
            new = [displaced(x) if name in ("even", "odd") else change(x) for x in old]
            if change not in (displaced, torch.Tensor.contiguous):
                new = [torch.empty_like(x).copy_(own) for x, own in zip(new, old, strict=True)]
            setattr(given, name, new)
        found = given.everything(native_reduces)
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_a_coefficient_of_results_that_is_none_leaves_them_unread():
    given, expected = (Reduces(torch.float32, (2, 5, 6, 7), 1, (3, 3), 2) for _ in range(2))
    given.rows[1:] = None, None
    given.zs = [torch.full_like(z, float("nan")) for z in given.zs]
    expected.rows[1:] = [torch.zeros_like(row) for row in expected.rows[1:]]
    for found, wanted in zip(
        given.backward(native_reduces), expected.backward(native_reduces), strict=True
    ):
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_wrong_tensors_are_refused_before_memory_is_read():
    given = Reduces(torch.float32, (2, 3, 6, 5), 2, (4, 3), 2)
    xs, even, odd = given.xs, given.even, given.odd
    forward = native_reduces.reduces_forward
    for wrong, words in [
        (([xs[0], xs[1][:, :2]], even, odd), "fits"),
        (([xs[0], xs[1].double()], even, odd), "fits"),
        (([x[0] for x in xs], even, odd), r"\[N, C, H, W\]"),
        (([x.to("meta") for x in xs], even, odd), "meta"),
        ((xs[:1], even, odd), "coefficients"),
        ((xs, even, odd[:1]), "2 filters of even pixels and 1"),
        ((xs, [], []), "0 filters"),
        ((xs, [even[0], odd[0]], odd), "coefficients"),
    ]:
        with pytest.raises(RequestError, match=words):
            forward(*wrong)
    for change, words in [
        ({"zs": given.zs[:1]}, "2 are needed"),
        ({"grads": [grad[:, :, :2] for grad in given.grads]}, "fits"),
        ({"rows": [given.rows[0][:1], *given.rows[1:]]}, "coefficients"),
        ({"rows": [*given.rows[:2], given.rows[2][:, :4]]}, "coefficients"),
        ({"factors": given.factors[:, :1]}, "coefficients"),
    ]:
        other = Reduces(torch.float32, (2, 3, 6, 5), 2, (4, 3), 2)
        for name, value in change.items():
            setattr(other, name, value)
        with pytest.raises(RequestError, match=words):
            other.backward(native_reduces)
    for into in (given.into[:1], [x[:1] for x in given.into]):
        with pytest.raises(RequestError, match=r"are needed|fits"):
            given.backward(native_reduces, into=into)
