import dataclasses
import json
import warnings

import pytest
import torch

from ssfnas.data import ImageData, ImageSet
from ssfnas.errors import RequestError
from ssfnas.runs.data_card import DataCard


def some_data(pixel_range=None, name="birds"):
    part = ImageSet(torch.zeros(4, 3, 5, 1, dtype=torch.uint8), torch.tensor([0, 1, 1, 0]))
    return ImageData(
        name, part, None, part, ("a", "b"), (0.5,), (0.2,), pixel_range=pixel_range
    )  # fmt: skip


@pytest.mark.parametrize("pixel_range", [None, (-1.5, 4095.0)])
def test_a_card_comes_back_from_json(pixel_range):
    card = DataCard.of(some_data(pixel_range))
    assert card.pixel_range == pixel_range
    assert card.image_size == (3, 5)
    assert DataCard.from_dict(json.loads(json.dumps(card.to_dict()))) == card


def test_cards_from_before_there_were_ranges_have_none():
    values = DataCard.of(some_data()).to_dict()
    del values["pixel_range"]
    assert DataCard.from_dict(values).pixel_range is None
    del values["mean"]
    with pytest.raises(RequestError, match="does not hold"):
        DataCard.from_dict(values)


def test_another_depth_is_warned_of():
    shallow, deep = some_data(), some_data((0.0, 4095.0), "scans")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DataCard.of(shallow).warn_of_another_depth(shallow)
        DataCard.of(deep).warn_of_another_depth(deep)
    with pytest.warns(UserWarning, match="birds has pixels of 8 bits.* 0 to 4095 became"):
        DataCard.of(deep).warn_of_another_depth(shallow)
    with pytest.warns(UserWarning, match="scans has pixels of more than 8 bits"):
        DataCard.of(shallow).warn_of_another_depth(deep)


@pytest.mark.parametrize(
    ("mean", "std", "warned"),
    [
        (0.45, 0.1, False),
        (0.5, 0.015, True),  # all nearly one gray
        (0.95, 0.1, True),  # most of it clipped
        (0.0, 1.0, True),  # all black: a channel that never varies has the deviation 1
    ],
)
def test_deep_pixels_of_another_scale_are_warned_of(mean, std, warned):
    card = DataCard.of(some_data((0.0, 4095.0), "scans"))
    other = dataclasses.replace(some_data((0.0, 4095.0), "floats"), mean=(mean,), std=(std,))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        card.warn_of_another_depth(other)
    assert len(found) == warned
    if warned:
        assert f"its mean there is {255 * mean:.0f} in place of 128" in str(found[0].message)
