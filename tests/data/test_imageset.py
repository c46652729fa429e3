import dataclasses

import numpy as np
import pytest
import torch

from ssfnas.data import ImageData, ImageSet, channel_statistics


def some_set(n=10, channels=3, seed=0):
    random = np.random.default_rng(seed)
    images = torch.from_numpy(random.integers(0, 256, (n, 7, 9, channels), dtype=np.uint8))
    return ImageSet(images, torch.arange(n) % 3)


def test_subset_takes_images_with_their_labels():
    images = some_set()
    for indices in ([3, 1, 1], np.array([3, 1, 1]), torch.tensor([3, 1, 1])):
        part = images.subset(indices)
        assert torch.equal(part.images, images.images[[3, 1, 1]])
        assert part.labels.tolist() == [0, 1, 1]


def test_class_counts_cover_absent_classes():
    assert some_set().class_counts(5) == [4, 3, 3, 0, 0]
    labels = torch.tensor([[1.0, 0, 1], [1, 0, 0]])
    assert ImageSet(some_set(2).images, labels).class_counts(3) == [2, 0, 1]


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_are_numpy_s(channels):
    images = some_set(50, channels)
    mean, std = channel_statistics(images)
    pixels = images.images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean, pixels.mean((0, 1, 2)), rtol=1e-13)
    np.testing.assert_allclose(std, pixels.std((0, 1, 2)), rtol=1e-12)


def test_statistics_of_a_flat_channel_divide_by_one():
    images = ImageSet(torch.full((4, 3, 3, 1), 51, dtype=torch.uint8), torch.zeros(4).long())
    assert channel_statistics(images) == ((51 / 255,), (1.0,))


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (torch.zeros(2, 3, 3, 1, dtype=torch.uint8), torch.zeros(3).long(), "2 images with 3"),
        (torch.zeros(2, 3, 3, 1), torch.zeros(2).long(), "not uint8"),
        (torch.zeros(2, 3, 3, dtype=torch.uint8), torch.zeros(2).long(), "not uint8"),
        (torch.zeros(2, 3, 3, 1, dtype=torch.uint8), torch.zeros(2), "int64"),
        (torch.zeros(2, 3, 3, 1, dtype=torch.uint8), torch.zeros(2, 2).long(), "float32"),
    ],
)
def test_other_tensors_are_refused(images, labels, words):
    with pytest.raises(ValueError, match=words):
        ImageSet(images, labels)


def test_data_describe_themselves():
    part = some_set()
    data = ImageData(
        name="birds",
        train=part,
        validation=None,
        test=part.subset([0, 1]),
        class_names=("finch", "tit", "owl"),
        mean=(0.5,) * 3,
        std=(0.2,) * 3,
    )
    assert data.num_classes == 3
    assert data.in_channels == 3
    assert data.image_size == (7, 9)
    assert data.class_counts == [4, 3, 3]
    assert data.summary().splitlines() == [
        "birds: 3 classes, 9 x 7 pixels, RGB",
        "  training    10 images, imbalance ratio 1.333",
        "              finch 4, tit 3, owl 3",
        "  test        2 images",
    ]
    many = dataclasses.replace(data, class_names=tuple(f"c{i}" for i in range(40)))
    assert "c0 4, c1 3, c2 3, c3 0, c4 0, ..., c35 0" in many.summary()


def test_data_move_as_a_whole():
    part = some_set()
    data = ImageData("x", part, part, None, ("a", "b", "c"), (0.5,) * 3, (0.2,) * 3)
    moved = data.to("meta")
    assert moved.train.images.device.type == "meta"
    assert moved.validation.labels.device.type == "meta"
    assert moved.test is None
