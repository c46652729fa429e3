"""New images become what a network takes, whatever they are, and what was done is counted."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pytest
import torch
from image_files import write_png
from PIL import Image
from torch.nn.functional import interpolate

from ssfnas.data.image_file import decode_image
from ssfnas.data.image_places import given_images, named_images
from ssfnas.data.new_images import CHUNK, ImageFiles, ImageForm, read_ahead
from ssfnas.data.resizing import resize_and_cut, resize_square
from ssfnas.errors import RequestError

RGB, GRAY = ImageForm(8, 8, 3), ImageForm(8, 8, 1)


def noise(*shape: int, high: int = 256, dtype=np.uint8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def luminance(pixels: np.ndarray) -> np.ndarray:
    """ITU-R BT.601 in fixed point of 16 bits, rounded, as Pillow documents it."""
    weights = np.array([19595, 38470, 7471])
    return ((pixels.astype(np.int64) @ weights + 0x8000) >> 16).astype(np.uint8)


def taken(path, form):
    result = ImageFiles([str(path)], form)[[0]]
    assert result.problems == [""]
    return result.pixels[0].numpy(), result.done


class TestKinds:
    """Gray and colored, transparent, deep, turned."""

    def test_an_image_as_it_is(self, tmp_path):
        pixels = noise(8, 8, 3)
        result, done = taken(write_png(tmp_path / "a.png", pixels), RGB)
        assert np.array_equal(result, pixels)
        assert done == Counter()

    def test_gray_for_rgb(self, tmp_path):
        pixels = noise(8, 8, 1)
        result, done = taken(write_png(tmp_path / "a.png", pixels), RGB)
        assert np.array_equal(result, pixels.repeat(3, 2))
        assert done == Counter(gray=1)

    def test_color_for_gray(self, tmp_path):
        pixels = noise(8, 8, 3)
        result, done = taken(write_png(tmp_path / "a.png", pixels), GRAY)
        assert np.array_equal(result[..., 0], luminance(pixels))
        assert done == Counter(color=1)

    def test_transparent_color_for_gray_on_each_background(self, tmp_path):
        pixels = noise(8, 8, 4)
        path = write_png(tmp_path / "a.png", pixels)
        opacity = pixels[..., 3] / 255
        for background, level in (("white", 255), ("gray", 128), ("black", 0)):
            result, done = taken(path, ImageForm(8, 8, 1, background))
            expected = luminance(pixels[..., :3]) * opacity + level * (1 - opacity)
            assert np.abs(result[..., 0] - expected).max() <= 0.5 + 1e-9
            assert done == Counter(color=1, composed=1)

    def test_an_opaque_alpha_channel_is_not_spoken_of(self, tmp_path):
        pixels = noise(8, 8, 4)
        pixels[..., 3] = 255
        result, done = taken(write_png(tmp_path / "a.png", pixels), RGB)
        assert np.array_equal(result, pixels[..., :3])
        assert done == Counter()

    @pytest.mark.parametrize("channels", [1, 3])
    def test_sixteen_bits_for_eight_are_taken_by_their_whole_range(self, tmp_path, channels):
        pixels = noise(8, 8, channels, high=1 << 16, dtype=np.uint16)
        result, done = taken(write_png(tmp_path / "a.png", pixels), ImageForm(8, 8, channels))
        assert np.array_equal(result, np.rint(pixels / 257).astype(np.uint8))
        assert done == Counter(whole=1)

    def test_sixteen_bits_are_scaled_by_the_range_that_was_trained_on(self, tmp_path):
        pixels = noise(8, 8, 1, high=1 << 16, dtype=np.uint16)
        form = ImageForm(8, 8, 1, pixel_range=(1000.0, 3000.0))
        result, done = taken(write_png(tmp_path / "a.png", pixels), form)
        expected = np.rint((pixels.astype(float) - 1000).clip(0, 2000) / 2000 * 255)
        assert np.array_equal(result, expected)
        assert done == Counter(scaled=1)

    def test_deep_colors_for_gray(self, tmp_path):
        pixels = noise(8, 8, 3, high=1 << 16, dtype=np.uint16)
        result, done = taken(write_png(tmp_path / "a.png", pixels), GRAY)
        assert np.array_equal(result[..., 0], luminance(np.rint(pixels / 257).astype(np.uint8)))
        assert done == Counter(whole=1, color=1)

    def test_eight_bits_for_deep_are_taken_as_they_are(self, tmp_path):
        pixels = noise(8, 8, 1)
        form = ImageForm(8, 8, 1, pixel_range=(0.0, 4000.0))
        result, done = taken(write_png(tmp_path / "a.png", pixels), form)
        assert np.array_equal(result, pixels)
        assert done == Counter(shallow=1)

    def test_floats_for_eight_bits_are_a_problem_of_that_file(self, tmp_path):
        Image.fromarray(noise(8, 8).astype(np.float32)).save(tmp_path / "a.tif")
        result = ImageFiles([str(tmp_path / "a.tif")], GRAY)[[0]]
        assert "floating-point numbers, and the network was trained on 8 bits" in result.problems[0]
        assert result.pixels.sum() == 0

    def test_turned_as_its_metadata_say(self, tmp_path):
        pixels = noise(8, 8, 3)
        exif = Image.Exif()
        exif[274] = 6  # to be turned a quarter clockwise
        Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
        result, done = taken(tmp_path / "a.png", RGB)
        assert np.array_equal(result, np.rot90(pixels, -1))
        assert done == Counter(turned=1)

    def test_what_a_training_reads_is_read_alike(self, tmp_path):
        path = write_png(tmp_path / "a.png", noise(8, 8, 4))
        assert np.array_equal(taken(path, RGB)[0], decode_image(path, 3))


class TestSizes:
    """Resized to cover what is asked for, the middle cut out."""

    @pytest.mark.parametrize("size", [(30, 20), (20, 30), (9, 8), (5, 40), (8, 8), (3, 3)])
    def test_squares_are_resized_as_for_a_training(self, tmp_path, size):
        pixels = noise(*size, 3)
        result, done = taken(write_png(tmp_path / "a.png", pixels), RGB)
        assert np.array_equal(result, resize_square(torch.from_numpy(pixels)[None], 8)[0])
        assert done == (Counter() if size == (8, 8) else Counter(resized=1))

    @pytest.mark.parametrize("own", [(40, 40), (60, 20), (20, 90), (12, 20)])
    def test_networks_that_take_no_squares(self, own):
        height, width = 12, 20
        images = torch.from_numpy(noise(2, *own, 3))
        result = resize_and_cut(images, height, width)
        # Both sides are covered, and one of them just so.
        factor = max(height / own[0], width / own[1])
        new = [
            max(side, round(factor * one)) for side, one in zip((height, width), own, strict=True)
        ]
        whole = interpolate(
            images.permute(0, 3, 1, 2).double(), new, mode="bilinear", antialias=True
        )
        top, left = (new[0] - height) // 2, (new[1] - width) // 2
        expected = whole[:, :, top : top + height, left : left + width].permute(0, 2, 3, 1)
        assert result.shape == (2, height, width, 3)
        assert (result - expected).abs().max() < 1  # fixed point, and rounded

    def test_the_same_in_an_array_and_one_by_one(self):
        images = noise(3, 20, 14, 3)
        (together,) = given_images(images, RGB)
        (single,) = given_images(list(images), RGB)
        assert torch.equal(together[[0, 1, 2]].pixels, single[[0, 1, 2]].pixels)
        assert together[[0, 1, 2]].done == single[[0, 1, 2]].done == Counter(resized=3)


class TestPlaces:
    """Where images are, and in which order they are read."""

    @pytest.fixture
    def folder(self, tmp_path):
        names = ["b/2.png", "b/10.png", "a/x.png", "c.png", "a/deep/er/y.png"]
        for number, name in enumerate(names):
            (tmp_path / "f" / name).parent.mkdir(parents=True, exist_ok=True)
            write_png(tmp_path / "f" / name, np.full((8, 8, 3), number, np.uint8))
        (tmp_path / "f" / "notes.txt").write_text("no image")
        return tmp_path / "f"

    def test_a_folder_is_walked_in_sorted_order(self, folder):
        (found,), notes = named_images([str(folder)], RGB)
        names = [os.path.relpath(found.name(place).file, folder) for place in range(len(found))]
        assert names == ["a/deep/er/y.png", "a/x.png", "b/10.png", "b/2.png", "c.png"]
        assert notes == ["1 file left aside, by the ending no image: 1 .txt"]

    def test_places_stay_in_the_order_in_which_they_are_named(self, folder, tmp_path):
        np.savez(tmp_path / "n.npz", images=noise(2, 8, 8))
        places = [str(folder / "c.png"), str(folder / "a"), str(tmp_path / "n.npz")]
        places += [str(folder / "b" / "2.png")] * 2
        sources, _ = named_images(places, RGB)
        names = [source.name(place) for source in sources for place in range(len(source))]
        files = [os.path.basename(name.file) for name in names]
        assert files == ["c.png", "y.png", "x.png", "n.npz", "n.npz", "2.png", "2.png"]
        assert [name.index for name in names] == [None, None, None, 0, 1, None, None]

    def test_odd_names(self, tmp_path):
        odd = [os.fsdecode(b"\xff.png"), "a\nb.png", " c .png", "ä😀.png"]
        for number, name in enumerate(odd):
            (tmp_path / name).write_bytes(
                write_png(tmp_path / "made", np.full((8, 8, 3), number, np.uint8)).read_bytes()
            )
        (tmp_path / "made").unlink()
        (found,), _ = named_images([str(tmp_path)], RGB)
        (directly,), _ = named_images([str(tmp_path / name) for name in odd], RGB)
        assert {os.path.basename(found.name(place).file) for place in range(4)} == set(odd)
        pixels = directly[[0, 1, 2, 3]].pixels
        assert pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3]

    def test_which_arrays_of_a_file(self, tmp_path):
        path = tmp_path / "a.npz"
        parts = {f"{part}_images": noise(2, 8, 8, 3, seed=n) for n, part in enumerate("xyz")}
        renamed = dict(
            zip(("train_images", "val_images", "test_images"), parts.values(), strict=True)
        )
        np.savez(path, **renamed)
        for part in ("train", "val", "test"):
            ((found,), notes) = named_images([str(path)], RGB, part)
            assert np.array_equal(found[[0, 1]].pixels, renamed[f"{part}_images"])
            assert notes == []
        ((found,), notes) = named_images([str(path)], RGB)
        assert np.array_equal(found[[0, 1]].pixels, renamed["test_images"])
        assert notes == [f"{path}: its test images; --part val takes others"]

    def test_a_chunk_at_a_time_by_processes_as_without(self, tmp_path):
        for number in range(2 * CHUNK + 3):
            write_png(tmp_path / f"{number:03}.png", np.full((8, 8, 3), number, np.uint8))
        (bad := tmp_path / "040.png").write_bytes(b"no image")
        (found,), _ = named_images([str(tmp_path)], RGB)
        for workers in (0, 2):
            read = list(read_ahead(found, workers=workers, pin=False))
            assert [place for places, _ in read for place in places] == [*range(2 * CHUNK + 3)]
            assert max(len(one.pixels) for _, one in read) == CHUNK
            problems = [text for _, one in read for text in one.problems]
            assert [number for number, text in enumerate(problems) if text] == [40]
            assert str(bad) in problems[40]
            values = torch.cat([one.pixels for _, one in read])[:, 0, 0, 0].tolist()
            assert values == [n if n != 40 else 0 for n in range(2 * CHUNK + 3)]

    @pytest.mark.parametrize(
        ("make", "expected"),
        [
            (lambda p: p / "absent", "no such file or folder"),
            (lambda p: p, "no images (.apng"),
            (lambda p: write_text(p / "a.txt"), "by its ending no image"),
            (lambda p: write_text(p / "a.cr2"), "unreadable here"),
            (lambda p: write_text(p / "a.npz"), "cannot be read"),
            (lambda p: write_npz(p, labels=np.zeros(2)), "no images: an array is to be called"),
            (lambda p: write_npz(p, images=np.zeros((2, 3, 8, 8), np.uint8)), "come last"),
            (lambda p: write_npz(p, images=np.zeros((0, 8, 8), np.uint8)), "holds no images"),
            (lambda p: write_npz(p, images=np.zeros((2, 8, 8), bool)), "pixels of type bool"),
            (lambda p: write_npz(p, images=np.array([{}] * 2)), "Python objects"),
        ],
    )
    def test_places_that_hold_nothing(self, tmp_path, make, expected):
        with pytest.raises(RequestError) as caught:
            named_images([str(make(tmp_path))], RGB)
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_part_without_a_file_of_parts(self, tmp_path):
        path = write_png(tmp_path / "a.png", noise(8, 8, 3))
        with pytest.raises(RequestError, match="--part val is about"):
            named_images([str(path)], RGB, "val")


class TestHandedOver:
    """From Python: paths, images of Pillow, arrays, tensors."""

    def test_all_kinds_of_the_same_image(self, tmp_path):
        pixels = noise(12, 10, 3)
        path = write_png(tmp_path / "a.png", pixels)
        given = [path, Image.fromarray(pixels), pixels, torch.from_numpy(pixels), str(path)]
        read = [source[list(range(len(source)))] for source in given_images(given, RGB)]
        results = torch.cat([one.pixels for one in read])
        assert len(results) == len(given)
        assert all(torch.equal(one, results[0]) for one in results)
        alone = [given_images(one, RGB)[0][[0]].pixels[0] for one in given[:2]]
        assert all(torch.equal(one, results[0]) for one in alone)

    @pytest.mark.parametrize(
        ("given", "expected"),
        [([], "an empty list"), (3, "a int"), (np.zeros((8, 8), np.uint8), "[N, H, W]")],
        ids=["nothing", "a number", "an array of two axes"],
    )
    def test_wrong_things(self, given, expected):
        with pytest.raises(RequestError) as caught:
            given_images(given, RGB)
        assert expected in str(caught.value)


def test_what_was_done_is_told_in_lines():
    form = ImageForm(8, 12, 3, "black")
    lines = form.notes(Counter(resized=5, gray=2, composed=1), 5)
    assert lines == [
        "all images: resized to 12 x 8 pixels, and cut around the middle where too long",
        "1 of the images: transparent: composed on black",
        "2 of the images: gray, for a network that takes RGB: the same value in each channel",
    ]


def write_text(path):
    path.write_text("no image")
    return path


def write_npz(folder, **arrays):
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"
