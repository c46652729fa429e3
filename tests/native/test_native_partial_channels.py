"""Native partial channels against their definition in float64, on each instruction set."""

from __future__ import annotations

import pytest
import torch
from candidate_calls import assert_right
from native_checks import DTYPES, SETS, Draws, displaced, needs_native, on, wide

from ssfnas.errors import RequestError
from ssfnas.ops import native_partial_channels, torch_partial_channels

pytestmark = needs_native

# Shape of a state, share, edges that come to it and that leave it.
CASES = (
    ((2, 16, 8, 6), 4, 5, 4), ((1, 8, 7, 5), 2, 2, 1), ((2, 32, 5, 9), 4, 3, 2),
    ((3, 4, 1, 1), 4, 2, 1), ((2, 40, 3, 1), 5, 2, 3), ((1, 16, 9, 8), 8, 4, 2),
    ((2, 18, 6, 7), 2, 3, 1), ((1, 64, 33, 4), 4, 2, 2),
)  # fmt: skip


class Partial:
    """What all four functions take; some of what arrives at a node are whole states."""

    def __init__(self, dtype, shape, share, coming, leaving):
        draws, (n, c, h, w) = Draws(dtype, "channels_last"), shape
        self.share, self.channels = share, c
        part = c // share
        rest, halves = (n, c - part, h, w), (n, c - part, -(-h // 2), -(-w // 2))
        self.x, self.outside = draws.tensors(2, shape)
        self.mixed, self.d_head = draws.tensors(2, (n, part, h, w))
        self.passing = [draws.tensor(rest if e < 2 else shape) for e in range(coming)]
        self.d_rests, self.d_maxima = draws.tensors(leaving, rest), draws.tensors(leaving, halves)
        self.b, self.beyond = draws.values(coming), draws.values(leaving)

    def double(self):
        other = object.__new__(Partial)
        for name, value in vars(self).items():
            if isinstance(value, list):
                value = [wide(x) for x in value]
            setattr(other, name, wide(value) if isinstance(value, torch.Tensor) else value)
        return other

    def everything(self, module):
        sizes = self.channels, self.share
        found = [*module.merge_forward(self.passing, self.mixed, self.b, *sizes)]
        found += module.merge_forward(self.passing, None, self.b, *sizes)
        for outside, d_head, d_rests in (
            (self.outside, self.d_head, self.d_rests),
            (None, self.d_head, self.d_rests),
            (self.outside, None, []),
        ):
            beyond = self.beyond if d_rests else None
            found += module.merge_backward(
                self.passing, outside, d_head, d_rests, beyond, *sizes, True
            )
        for stride, d_rests in ((1, self.d_rests), (2, self.d_maxima)):
            found += module.split_forward(self.x, self.share, stride)
            for d_head in (self.d_head, None):
                given = self.x, d_head, d_rests, self.beyond, self.share, stride
                found.append(module.split_backward(*given))
        return found


@pytest.mark.parametrize("place", SETS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
def test_partial_channels_are_their_definition(place, dtype):
    for case in CASES:
        given = Partial(dtype, *case)
        with on(place):
            found = given.everything(native_partial_channels)
        assert all(
            x.is_contiguous(memory_format=torch.channels_last) for x in found if x.dim() == 4
        )
        assert_right(found, given.double().everything(torch_partial_channels), dtype, f"{case}")


@pytest.mark.parametrize("place", SETS)
def test_results_do_not_depend_on_the_number_of_threads(threads, place):
    given = Partial(torch.float32, (9, 16, 41, 40), 4, 4, 2)
    with on(place):
        threads(1)
        alone = given.everything(native_partial_channels)
        for count in (2, 3):
            threads(count)
            found = given.everything(native_partial_channels)
            assert all(torch.equal(a, b) for a, b in zip(alone, found, strict=True))


@pytest.mark.parametrize("place", SETS)
def test_maxima_are_those_of_torch_with_nan_and_equal_pixels(place):
    x = torch.randint(-2, 3, (2, 8, 7, 9), generator=torch.Generator().manual_seed(1)).float()
    x[0, :, 2, 3], x[1, 2:, 4:6, 4:6] = float("nan"), float("-inf")
    x = x.contiguous(memory_format=torch.channels_last)
    d_rests = [torch.ones(2, 6, 4, 5).contiguous(memory_format=torch.channels_last)]
    with on(place):
        head, rest = native_partial_channels.split_forward(x, 4, 2)
        dx = native_partial_channels.split_backward(x, None, d_rests, torch.ones(1), 4, 2)
    wanted = torch_partial_channels.split_forward(x, 4, 2)
    torch.testing.assert_close([head, rest], [*wanted], rtol=0, atol=0, equal_nan=True)
    truth = torch_partial_channels.split_backward(x, None, d_rests, torch.ones(1), 4, 2)
    assert torch.equal(dx[:, :, [0, 1, 4, 5, 6]], truth[:, :, [0, 1, 4, 5, 6]])
    assert torch.equal(dx[1], truth[1])


def test_memory_may_begin_anywhere_and_be_in_any_order():
    given = Partial(torch.float32, (2, 16, 5, 7), 4, 3, 2)
    expected = given.everything(native_partial_channels)
    for change in (displaced, torch.Tensor.contiguous):
        for name, value in vars(given).items():
            if isinstance(value, list):
                setattr(given, name, [change(x) for x in value])
            elif isinstance(value, torch.Tensor):
                setattr(given, name, change(value))
        found = given.everything(native_partial_channels)
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_factors_without_gradients_leave_what_passes_by_unread():
    given = Partial(torch.float32, (2, 16, 5, 7), 4, 3, 2)
    rest = given.outside, given.d_head, given.d_rests, given.beyond, 16, 4, False
    expected = native_partial_channels.merge_backward(given.passing, *rest)
    unread = [torch.full_like(x, float("nan")) for x in given.passing]
    found = native_partial_channels.merge_backward(unread, *rest)
    assert expected[2] is None
    assert found[2] is None
    assert all(torch.equal(a, b) for a, b in zip(expected[:2], found[:2], strict=True))


def test_without_pixels_there_is_nothing():
    given = Partial(torch.float32, (0, 8, 5, 7), 4, 3, 2)
    found = given.everything(native_partial_channels)
    truth = given.everything(torch_partial_channels)
    assert [x.shape for x in found] == [x.shape for x in truth]


def test_wrong_tensors_are_refused_before_memory_is_read():
    given = Partial(torch.float32, (2, 8, 6, 5), 4, 3, 2)
    merge, split = native_partial_channels.merge_forward, native_partial_channels.split_backward
    for arguments, words in [
        (([given.x[:, :3]], given.mixed, given.b[:1], 8, 4), "8 or 6 fit"),
        ((given.passing, given.x, given.b, 8, 4), "fits"),
        ((given.passing, given.mixed, given.b[:1], 8, 4), "coefficients"),
        ((given.passing, given.mixed.double(), given.b, 8, 4), "fits"),
        ((given.passing, given.mixed, given.b, 8, 3), "share of 3"),
        ((given.passing, given.mixed, given.b, 8, 1), "share of 1"),
        (([x.to("meta") for x in given.passing], given.mixed, given.b, 8, 4), "meta"),
    ]:
        with pytest.raises(RequestError, match=words):
            merge(*arguments)
    for arguments, words in [
        ((given.x, given.x, given.d_rests, given.beyond, 4, 1), "fits"),
        ((given.x, given.d_head, given.d_rests, given.beyond, 4, 2), "fits"),
        ((given.x, given.d_head, given.d_maxima, given.beyond[:1], 4, 2), "coefficients"),
    ]:
        with pytest.raises(RequestError, match=words):
            split(*arguments)
    with pytest.raises(RequestError, match="fits"):
        native_partial_channels.merge_backward(
            given.passing, given.mixed, None, [], None, 8, 4, True
        )
