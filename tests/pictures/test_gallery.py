import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from ssfnas.pictures.gallery import MOST_PIXELS, Picture, gallery, image_element, reduced

RANDOM = np.random.default_rng(0)


def noise(*shape):
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def decoded(element):
    """What a browser finds in an <img>, and the size at which it shows it."""
    kind, text = re.search(r'src="data:image/(\w+);base64,([^"]+)"', element).groups()
    image = Image.open(io.BytesIO(base64.b64decode(text)))
    assert image.format == kind.upper()
    shown = tuple(int(re.search(rf'{side}="(\d+)"', element)[1]) for side in ("width", "height"))
    return np.asarray(image), shown


@pytest.mark.parametrize("shape", [(32, 32, 3), (28, 28, 1), (28, 28), (9, 40, 3), (64, 64, 3)])
def test_small_images_are_kept_to_the_bit_and_enlarged_by_a_whole_factor(shape):
    pixels = noise(*shape)
    element = image_element(pixels, "a cat")
    kept, (width, height) = decoded(element)
    np.testing.assert_array_equal(kept, pixels.squeeze())
    factor = width // shape[1]
    assert (width, height) == (factor * shape[1], factor * shape[0])
    assert factor > 1
    assert 'class="enlarged"' in element


@pytest.mark.parametrize("shape", [(500, 375, 3), (90, 200), (1, 4000, 3), (161, 161, 1)])
def test_large_images_are_reduced_in_their_own_proportions(shape):
    gradient = np.broadcast_to(
        np.linspace(0, 255, shape[1]).astype(np.uint8).reshape(1, -1, *[1] * (len(shape) - 2)),
        shape,
    ).copy()
    kept, (width, height) = decoded(image_element(gradient, ""))
    longest = max(shape[:2])
    wanted = tuple(max(1, round(side * MOST_PIXELS / longest)) for side in shape[:2])
    assert kept.shape[:2] == wanted
    assert width <= 120
    assert height <= 120
    # The same picture: dark at the left, bright at the right, and even in between.
    columns = kept.reshape(*wanted, -1).mean((0, 2))
    expected = (np.arange(wanted[1]) + 0.5) / wanted[1] * 255
    assert abs(columns - expected).max() < 8


def test_reducing_averages_and_leaves_small_images_alone():
    pixels = noise(2, 320, 3)
    halves = pixels.astype(float).reshape(1, 2, 160, 2, 3).mean((1, 3))
    assert abs(reduced(pixels) - halves).max() <= 1  # rounded twice
    small = noise(20, 10, 3)
    assert reduced(small) is small


def test_captions_and_labels_are_text():
    nasty = '<b>&"'
    page = gallery([Picture([noise(8, 8), noise(8, 8)], [nasty, "two"], nasty)])
    assert page.count("<img") == 2
    assert "<b>" not in page
    assert "<span>&lt;b&gt;&amp;&#34;</span><span>two</span>" in page
    assert 'alt="&lt;b&gt;&amp;&#34;"' in page
    assert gallery([]) == ""


def test_a_hundred_photographs_take_less_than_a_megabyte():
    # Smooth, as photographs are, with some noise.
    y, x = np.mgrid[0:600, 0:800]
    photo = np.stack([x / 4, y / 3, 127 + 100 * np.sin(x / 30)], -1) + RANDOM.normal(
        0, 8, (600, 800, 3)
    )
    element = image_element(photo.clip(0, 255).astype(np.uint8), "")
    assert len(element) < 10_000
