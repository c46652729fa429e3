import math

import pytest
import torch
import torchvision.transforms.v2.functional as F

from ssfnas.data import VIEWS, Views, make_views, usual_cutout
from ssfnas.data.color import jitter_color, shift_hue, to_gray
from ssfnas.data.crops import draw_resized_crops, resized_crops, shifted_crops
from ssfnas.errors import RequestError

SIZES = [(32, 32), (28, 28), (33, 31), (8, 8)]
NAMES = ["none", "crop_flip", "autoaugment", "trivialaugment", "barlow_twins"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def some_images(n, size, channels, seed=0):
    shape = (n, *size, channels)
    return torch.randint(0, 256, shape, generator=seeded(seed)).to(torch.uint8)


def built(name, size, channels, cutout=0):
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.25, 0.3)[:channels]
    return make_views(name, image_size=size, mean=mean, std=std, cutout=cutout)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_views_of_any_rows_are_those_of_all(name, size, channels):
    views = built(name, size, channels, cutout=5)
    images = some_images(24, size, channels)
    parameters = views.draw(24, seeded(3))
    whole = views.apply(images, parameters, dtype=torch.float64)
    assert len(whole) == views.count
    rows = torch.randperm(24, generator=seeded(4))[:7]
    part = views.apply(
        images[rows], {k: v[rows] for k, v in parameters.items()}, dtype=torch.float64
    )
    for all_rows, some_rows in zip(whole, part, strict=True):
        assert all_rows.shape == (24, channels, *size)
        assert all_rows.is_contiguous()
        assert torch.isfinite(all_rows).all()
        torch.testing.assert_close(all_rows[rows], some_rows, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_images_and_the_global_generator_are_left_alone(name):
    views = built(name, (32, 32), 3, cutout=8)
    images = some_images(16, (32, 32), 3)
    before, state = images.clone(), torch.get_rng_state()
    views.apply(images, views.draw(16, seeded()))
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", NAMES)
def test_pixels_stay_in_their_range(name):
    views = make_views(name, image_size=(19, 23), mean=(0.0,) * 3, std=(1.0,) * 3)
    images = some_images(64, (19, 23), 3)
    for view in views.apply(images, views.draw(64, seeded(1)), dtype=torch.float64):
        assert view.min() >= 0
        assert view.max() <= 1


def test_no_views_are_the_normalized_image():
    images = some_images(5, (6, 7), 3)
    views = built("none", (6, 7), 3)
    (view,) = views.apply(images, views.draw(5, seeded()), dtype=torch.float64)
    for channel in range(3):
        expected = (images[..., channel].double() / 255 - views.mean[channel]) / views.std[channel]
        torch.testing.assert_close(view[:, channel], expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_views_have_the_type_asked_for(dtype):
    images = some_images(4, (32, 32), 3)
    views = built("barlow_twins", (32, 32), 3)
    parameters = views.draw(4, seeded())
    exact = views.apply(images, parameters, dtype=torch.float64)
    for view, reference in zip(views.apply(images, parameters, dtype=dtype), exact, strict=True):
        assert view.dtype == dtype
        torch.testing.assert_close(view.double(), reference, rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize("size", SIZES)
def test_crop_and_flip_are_those_of_one_image_at_a_time(size):
    height, width = size
    views = built("crop_flip", size, 3)
    vertical, horizontal = views.padding
    images = some_images(40, size, 3)
    parameters = views.draw(40, seeded(2))
    (view,) = views.apply(images, parameters, dtype=torch.float64)
    for i in range(40):
        padded = torch.zeros(height + 2 * vertical, width + 2 * horizontal, 3)
        padded[vertical : vertical + height, horizontal : horizontal + width] = images[i]
        top, left = int(parameters["top"][i]), int(parameters["left"][i])
        crop = padded[top : top + height, left : left + width]
        if parameters["flip"][i]:
            crop = torch.flip(crop, [1])
        expected = (crop.double() / 255 - torch.tensor(views.mean).double()) / torch.tensor(
            views.std, dtype=torch.float64
        )
        torch.testing.assert_close(view[i], expected.permute(2, 0, 1), rtol=0, atol=1e-6)


def test_padding_grows_with_the_image():
    assert built("crop_flip", (32, 32), 3).padding == (4, 4)
    assert built("crop_flip", (28, 28), 1).padding == (4, 4)
    assert built("crop_flip", (64, 224), 3).padding == (8, 28)


def test_every_shift_and_both_mirrorings_are_drawn_alike():
    views = built("crop_flip", (32, 32), 3)
    n = 90_000
    parameters = views.draw(n, seeded())
    for key, values in (("top", 9), ("left", 9), ("flip", 2)):
        share = torch.bincount(parameters[key].long(), minlength=values) / n
        assert len(share) == values
        assert (share - 1 / values).abs().max() < 5 * math.sqrt(1 / values / n)


def test_cutout_is_a_square_cut_off_at_the_border():
    views = make_views("none", image_size=(12, 16), mean=(0.5,), std=(0.25,), cutout=5)
    images = torch.full((400, 12, 16, 1), 255, dtype=torch.uint8)
    parameters = views.draw(400, seeded())
    (view,) = views.apply(images, parameters)
    centers = parameters["cutout"][:, 0]
    seen = set()
    for i in range(400):
        y, x = int(centers[i, 0] * 12), int(centers[i, 1] * 16)
        expected = torch.full((12, 16), 2.0)
        expected[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3] = 0
        assert torch.equal(view[i, 0], expected)
        seen.add((y, x))
    assert {y for y, _ in seen} == set(range(12))
    assert {x for _, x in seen} == set(range(16))


def test_resized_crops_are_those_of_one_image_at_a_time():
    pixels = torch.rand((60, 3, 33, 31), generator=seeded(), dtype=torch.float64)
    boxes = draw_resized_crops(60, (33, 31), seeded(1), scale=(0.08, 1), ratio=(3 / 4, 4 / 3))
    flip = torch.arange(60) % 2 == 0
    result = resized_crops(pixels, boxes, flip)
    for i in range(60):
        top, left, height, width = boxes[i].tolist()
        expected = F.resized_crop(pixels[i], top, left, height, width, [33, 31], antialias=False)
        if flip[i]:
            expected = F.horizontal_flip(expected)
        torch.testing.assert_close(result[i], expected, rtol=0, atol=1e-5)


def test_a_box_of_the_whole_image_is_the_image():
    pixels = torch.rand((3, 1, 12, 9), generator=seeded(), dtype=torch.float64)
    boxes = torch.tensor([[0, 0, 12, 9]]).expand(3, 4)
    result = resized_crops(pixels, boxes, torch.zeros(3, dtype=torch.bool))
    torch.testing.assert_close(result, pixels, rtol=0, atol=1e-12)


def test_boxes_fit_and_have_the_area_and_shape_asked_for():
    boxes = draw_resized_crops(40_000, (200, 300), seeded(), scale=(0.08, 1), ratio=(3 / 4, 4 / 3))
    top, left, height, width = boxes.double().unbind(1)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 200).all()
    assert (left + width <= 300).all()
    shape, area = width / height, height * width / 60_000
    assert shape.min() > 0.73
    assert shape.max() < 1.36
    assert area.min() > 0.075
    # The largest square has 2/3 of this image; boxes above it are drawn again. Below, uniform.
    small = area[area < 0.5]
    assert abs(float(small.mean()) - 0.29) < 0.01
    assert abs(float(shape.log().mean())) < 0.05


def test_a_long_image_gets_the_central_box_where_nothing_fits():
    boxes = draw_resized_crops(50, (4, 100), seeded(), scale=(0.9, 1), ratio=(3 / 4, 4 / 3))
    assert torch.equal(boxes, torch.tensor([[0, 47, 4, 5]]).expand(50, 4))


def test_color_jitter_is_that_of_one_image_at_a_time():
    n = 96
    pixels = torch.rand((n, 3, 9, 11), generator=seeded(), dtype=torch.float64)
    pixels[5] = pixels[5, :1]  # gray: no hue
    uniform = torch.rand((n, 4), generator=seeded(1), dtype=torch.float64)
    factors = torch.cat([0.6 + 0.8 * uniform[:, :3], uniform[:, 3:] - 0.5], 1)
    order = torch.rand((n, 4), generator=seeded(2)).argsort(1)
    apply = torch.arange(n) % 5 != 0
    result = jitter_color(pixels, factors, order, apply)
    functions = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    for i in range(n):
        expected = pixels[i]
        if apply[i]:
            for operation in order[i].tolist():
                expected = functions[operation](expected, float(factors[i, operation]))
        # torchvision rounds the weight of red to 0.2989.
        torch.testing.assert_close(result[i], expected, rtol=0, atol=3e-3)
    assert torch.equal(result[::5], pixels[::5])


def test_hue_turns_red_to_green_to_blue_and_round():
    red = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64).view(1, 3, 1, 1)
    for turns, expected in ((1 / 3, (0, 1, 0)), (-1 / 3, (0, 0, 1)), (1.0, (1, 0, 0))):
        turned = shift_hue(red, torch.tensor([turns], dtype=torch.float64))
        torch.testing.assert_close(
            turned.flatten(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12
        )


def test_hue_is_that_of_one_image_at_a_time():
    pixels = torch.rand((20, 3, 8, 8), generator=seeded(), dtype=torch.float64)
    turns = torch.linspace(-0.5, 0.5, 20, dtype=torch.float64)
    result = shift_hue(pixels, turns)
    for i in range(20):
        expected = F.adjust_hue(pixels[i], float(turns[i]))
        torch.testing.assert_close(result[i], expected, rtol=0, atol=1e-5)


def test_jitter_of_gray_images_leaves_saturation_and_hue_out():
    pixels = torch.rand((30, 1, 8, 8), generator=seeded(), dtype=torch.float64)
    factors = torch.tensor([1.3, 0.7, 0.1, 0.4]).expand(30, 4)
    order = torch.rand((30, 4), generator=seeded(2)).argsort(1)
    result = jitter_color(pixels, factors, order, torch.ones(30, dtype=torch.bool))
    for i in range(30):
        expected = pixels[i]
        for operation in order[i].tolist():
            if operation == 0:
                expected = F.adjust_brightness(expected, float(factors[i, 0]))
            elif operation == 1:
                expected = F.adjust_contrast(expected, float(factors[i, 1]))
        torch.testing.assert_close(result[i], expected, rtol=0, atol=1e-12)


def test_barlow_twins_views_are_their_operations_one_image_at_a_time():
    n = 80
    views = make_views("barlow_twins", image_size=20, mean=(0.0,) * 3, std=(1.0,) * 3)
    images = some_images(n, (20, 20), 3)
    parameters = views.draw(n, seeded(9))
    result = views.apply(images, parameters, dtype=torch.float64)
    for number in range(2):
        for i in range(n):
            own = {key: value[i : i + 1, number] for key, value in parameters.items()}
            x = images[i].permute(2, 0, 1)[None].double() / 255
            x = resized_crops(x, own["box"], own["flip"])
            x = jitter_color(x, own["factors"], own["order"], own["jitter"])
            if own["gray"]:
                x = to_gray(x).repeat(1, 3, 1, 1)
            if own["solarize"]:
                x = F.solarize(x, 0.5)
            torch.testing.assert_close(result[number][i], x[0], rtol=0, atol=1e-12)


def test_barlow_twins_parameters_have_the_recipe_s_probabilities():
    n = 40_000
    drawn = built("barlow_twins", (32, 32), 3).draw(n, seeded())
    for key, number, probability in (
        ("flip", 0, 0.5),
        ("flip", 1, 0.5),
        ("jitter", 0, 0.8),
        ("jitter", 1, 0.8),
        ("gray", 0, 0.2),
        ("gray", 1, 0.2),
        ("solarize", 0, 0.0),
        ("solarize", 1, 0.2),
    ):
        assert abs(float(drawn[key][:, number].double().mean()) - probability) < 0.013
    factors = drawn["factors"].flatten(0, 1)
    for column, low, high in ((0, 0.6, 1.4), (1, 0.6, 1.4), (2, 0.8, 1.2), (3, -0.1, 0.1)):
        assert factors[:, column].min() >= low
        assert factors[:, column].max() <= high
        assert abs(float(factors[:, column].mean()) - (low + high) / 2) < 0.01
    orders = torch.unique(drawn["order"].flatten(0, 1), dim=0, return_counts=True)
    assert len(orders[0]) == 24
    assert (orders[1] / (2 * n) - 1 / 24).abs().max() < 0.005
    assert not torch.equal(drawn["box"][:, 0], drawn["box"][:, 1])


@pytest.mark.parametrize("name", NAMES[1:])
def test_draws_are_a_function_of_the_generator(name):
    views = built(name, (32, 32), 3, cutout=4)
    one, same, other = (views.draw(50, seeded(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_shifted_crops_bring_in_zeros():
    images = torch.full((1, 4, 4, 1), 9, dtype=torch.uint8)
    zero = torch.zeros(1, dtype=torch.int64)
    result = shifted_crops(images, zero, zero + 4, zero.bool(), (2, 2))
    assert result[0, :, :, 0].tolist() == [[0] * 4, [0] * 4, [9, 9, 0, 0], [9, 9, 0, 0]]


def test_unknown_views_are_refused():
    with pytest.raises(RequestError, match="did you mean 'autoaugment'"):
        make_views("autoaugmet", image_size=32, mean=(0.5,), std=(0.2,))


@pytest.mark.parametrize(
    ("mean", "std", "cutout", "words"),
    [
        ((0.5,) * 2, (0.2,) * 2, 0, "RGB"),
        ((0.5,), (0.2,) * 3, 0, "RGB"),
        ((0.5,), (1.0,), -1, "-1"),
    ],
)
def test_views_refuse(mean, std, cutout, words):
    with pytest.raises(RequestError, match=words):
        make_views("none", image_size=32, mean=mean, std=std, cutout=cutout)


def test_images_of_another_shape_are_refused():
    views = built("none", (32, 32), 3)
    with pytest.raises(ValueError, match="uint8"):
        views.apply(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), {})


def test_registered_views_can_be_made():
    assert set(NAMES) <= set(VIEWS)
    assert all(issubclass(VIEWS.get(name), Views) for name in NAMES)


@pytest.mark.parametrize("size", [(8, 8), (12, 20), (16, 16), (28, 28), (32, 32), (64, 64)])
def test_the_usual_cutout_leaves_three_quarters_of_every_image(size):
    side = usual_cutout(size)
    assert side == min(16, min(size) // 2)
    views = make_views("none", image_size=size, mean=(0.0,), std=(1.0,), cutout=side)
    white = torch.full((500, *size, 1), 255, dtype=torch.uint8)
    draws = torch.Generator().manual_seed(0)
    (view,) = views.apply(white, views.draw(500, draws))
    left = (view > 0).double().mean((1, 2, 3))
    assert float(left.min()) >= 0.75
    inside = 1 - side**2 / (size[0] * size[1])  # of squares that lie within the image
    assert float(left.min()) == pytest.approx(inside)
    assert float(left.max()) < 1
