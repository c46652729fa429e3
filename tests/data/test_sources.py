import types
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import ssfnas.data
from ssfnas.config import DataOptions
from ssfnas.data import channel_statistics, load_data, long_tail_counts, long_tail_indices
from ssfnas.data.sources import DATASETS
from ssfnas.errors import RequestError

MINI_COUNTS = [250, 174, 122, 85, 59, 41, 29, 20, 14, 10]


def balanced_npz(folder, n=40, classes=4, size=(10, 10), multi_label=False):
    random = np.random.default_rng(0)
    path = folder / "balanced.npz"
    labels = np.arange(n * classes) % classes
    if multi_label:
        labels = np.eye(classes, dtype=np.uint8)[labels]
        labels[0] = 1
    np.savez(
        path,
        train_images=random.integers(0, 256, (n * classes, *size, 3), dtype=np.uint8),
        train_labels=labels,
        test_images=random.integers(0, 256, (classes, *size, 3), dtype=np.uint8),
        test_labels=labels[:classes],
    )
    return str(path)


@pytest.mark.parametrize("kind", ["npz", "folder"])
@pytest.mark.parametrize(
    ("size", "largest", "taken"),
    [
        ((20, 20), 12, (12, 12)),
        ((10, 20), 12, (12, 12)),
        ((12, 10), 12, None),
        ((20, 9), None, None),
    ],
)
def test_images_above_the_largest_size_become_squares_of_it(tmp_path, kind, size, largest, taken):
    path = balanced_npz(tmp_path, size=size)
    if kind == "folder":
        with np.load(path) as file:
            for part in ("train", "test"):
                for number, label in enumerate(file[f"{part}_labels"].ravel()):
                    folder = tmp_path / "photos" / part / str(label)
                    folder.mkdir(parents=True, exist_ok=True)
                    image = Image.fromarray(file[f"{part}_images"][number])
                    image.save(folder / f"{number}.png")
        path = str(tmp_path / "photos")
    data = load_data(DataOptions(dataset=path), largest=largest)
    assert data.image_size == (taken or size)
    assert data.original_size == (size if taken else None)
    asked = load_data(DataOptions(dataset=path, image_size=taken and largest), largest=8)
    if taken:  # a size that is asked for goes before
        assert asked.original_size is None
        assert torch.equal(asked.train.images, data.train.images)
        assert (asked.mean, asked.std) == (data.mean, data.std)


def test_the_embedded_sample_is_a_long_tailed_cifar10():
    data = load_data(DataOptions())
    assert data.name == "cifar10-lt-mini"
    assert data.class_counts == MINI_COUNTS == long_tail_counts(250, 10, 25)
    assert data.test.class_counts(10) == [40] * 10
    assert data.image_size == (32, 32)
    assert data.class_names[0] == "airplane"
    assert data.class_names[9] == "truck"
    assert len(torch.unique(data.train.images.flatten(1), dim=0)) == 804
    # CIFAR-10's channels have means near 0.491, 0.482, 0.447.
    assert all(abs(m - c) < 0.04 for m, c in zip(data.mean, (0.491, 0.482, 0.447), strict=True))
    # The first test image of CIFAR-10 is a cat; these are its first pixel.
    first_cat = data.test.images[data.test.labels == 3][0]
    assert first_cat[0, 0].tolist() == [158, 112, 49]


def test_the_embedded_sample_is_small():
    path = Path(ssfnas.data.__file__).parent / "mini" / "cifar10_lt_mini.npz"
    assert path.stat().st_size < 4 * 2**20


@pytest.mark.parametrize("profile", ["exp", "step"])
def test_the_training_part_is_long_tailed_and_measured_after_that(tmp_path, profile):
    path = balanced_npz(tmp_path)
    whole = load_data(DataOptions(dataset=path))
    data = load_data(DataOptions(dataset=path, imbalance_ratio=8, profile=profile, data_seed=3))
    counts = long_tail_counts(40, 4, 8, profile)
    assert data.class_counts == counts
    kept = long_tail_indices(whole.train.labels.numpy(), counts, seed=3)
    assert torch.equal(data.train.images, whole.train.images[kept])
    assert torch.equal(data.train.labels, whole.train.labels[kept])
    assert torch.equal(data.test.images, whole.test.images)
    assert (data.mean, data.std) == channel_statistics(data.train)
    assert data.mean != whole.mean


@pytest.mark.parametrize("ratio", [None, 1, 1.0])
def test_no_ratio_leaves_the_data(ratio):
    assert load_data(DataOptions(imbalance_ratio=ratio)).class_counts == MINI_COUNTS


def test_images_are_resized(tmp_path):
    data = load_data(DataOptions(dataset=balanced_npz(tmp_path, size=(10, 12)), image_size=8))
    assert data.image_size == (8, 8)
    assert data.test.image_size == (8, 8)
    assert (data.mean, data.std) == channel_statistics(data.train)


def test_folders_are_read_long_tailed_and_resized(tmp_path):
    for label, name in enumerate("ab"):
        for number in range(20):
            path = tmp_path / name / f"{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (12, 9 + number % 2), (label * 90, number, 7)).save(path)
    data = load_data(
        DataOptions(dataset=str(tmp_path), image_size=8, imbalance_ratio=4, data_seed=1)
    )
    assert data.class_counts == [16, 4]
    assert data.image_size == (8, 8)
    assert data.train.images[data.train.labels == 1][:, :, :, 0].unique().tolist() == [90]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dataset": "cifar10-lt"}, "did you mean 'cifar10"),
        ({"dataset": "nowhere.npz"}, "no such file"),
        ({"dataset": "no/where"}, "image folder"),
        ({"background": "black"}, "--background black is about folders"),
        ({"dataset": "cifar10", "skip_corrupt": 2}, "--skip-corrupt 2 is about folders"),
        ({"imbalance_ratio": 5}, "209 images of class 'automobile', which has 174"),
        ({"imbalance_ratio": 300}, "at most 250"),
        ({"imbalance_ratio": 50, "data_seed": 2**32}, "data seed"),
    ],
)
def test_requests_that_cannot_be_met_are_told(options, words):
    with pytest.raises(RequestError) as caught:
        load_data(DataOptions(**options))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_ratio_on_several_labels_is_refused(tmp_path):
    path = balanced_npz(tmp_path, multi_label=True)
    assert load_data(DataOptions(dataset=path)).multi_label
    with pytest.raises(RequestError, match="several labels"):
        load_data(DataOptions(dataset=path, imbalance_ratio=10))


def test_torchvision_s_data_are_taken_over(monkeypatch, tmp_path):
    asked = []

    def cifar(root, train, download):
        asked.append((root, train, download))
        n = 60 if train else 6
        return types.SimpleNamespace(
            data=np.full((n, 32, 32, 3), n, np.uint8),
            targets=[i % 3 for i in range(n)],
            classes=["a", "b", "c"],
        )

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", cifar)
    data = load_data(DataOptions(dataset="cifar100", data_dir=str(tmp_path), imbalance_ratio=10))
    assert asked == [(str(tmp_path), True, True), (str(tmp_path), False, True)]
    assert data.class_counts == [20, 6, 2]
    assert data.class_names == ("a", "b", "c")
    assert data.test.images.unique().tolist() == [6]


def test_a_failed_download_says_where_the_file_goes(monkeypatch, tmp_path):
    def cifar(root, train, download):
        raise urllib.error.URLError("no\nnetwork")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", cifar)
    with pytest.raises(RequestError) as caught:
        load_data(DataOptions(dataset="cifar10", data_dir=str(tmp_path)))
    message = str(caught.value)
    assert "cifar-10-python.tar.gz" in message
    assert str(tmp_path) in message
    assert "\n" not in message


def test_data_sets_are_registered():
    assert {"cifar10-lt-mini", "cifar10", "cifar100"} <= set(DATASETS)


def test_folders_are_read_with_their_flags(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(4):
            pixels = np.full((9, 9, 4), (7, 7, 7, 0), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    (tmp_path / "a" / "bad.png").write_text("x")
    data = load_data(DataOptions(dataset=str(tmp_path), background="gray", skip_corrupt=1))
    assert data.train.images.unique().tolist() == [128]
    assert "1 cannot be read" in data.summary()
    assert len(data.train) + len(data.test) == 8


def test_a_range_is_taken_over_from_a_run(tmp_path):
    path = balanced_npz(tmp_path)
    with np.load(path) as arrays:
        deep = {key: arrays[key].astype(np.uint16) * 10 for key in arrays if "images" in key}
        np.savez(path, **{**arrays, **deep})
    own = load_data(DataOptions(dataset=path))
    assert own.pixel_range == (0.0, 2550.0)
    given = load_data(DataOptions(dataset=path), pixel_range=(0.0, 5100.0))
    assert given.pixel_range == (0.0, 5100.0)
    expected = (own.train.images.double() / 2).round()
    assert (given.train.images - expected).abs().max() <= 1
    assert "0 to 5100 became 0 to 255, the range of the run's training images" in given.summary()
    # The range is that of the file, however long-tailed the training part is made.
    assert load_data(DataOptions(dataset=path, imbalance_ratio=20)).pixel_range == (0.0, 2550.0)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("labels.csv", "a table is not read: sort the images .* into a folder for each class"),
        ("data.Parquet", "a table is not read"),
        ("data.zip", "an archive .* unpack it"),
        ("data.tar.gz", "an archive .* unpack it"),
        ("cat.JPG", "a single image: give the folder"),
        ("x.npy", r"arrays .* to an .npz file \(numpy.savez: train_images"),
        ("x.what", "no data set: it is an .npz file, or an image folder"),
    ],
)
def test_what_to_do_with_files_of_other_kinds(tmp_path, name, advice):
    path = tmp_path / name
    path.write_bytes(b"something")
    with pytest.raises(RequestError, match=f"--dataset .*{name}: {advice}"):
        load_data(DataOptions(dataset=str(path)))
    path.unlink()
    with pytest.raises(RequestError, match="there is no such file or folder"):
        load_data(DataOptions(dataset=str(path)))
