import numpy as np
import pytest
import torch
from PIL import Image

from ssfnas.data.folder import read_folder
from ssfnas.errors import RequestError


def some_folder(root, counts=(("train", 4), ("test", 3))):
    for part, count in counts:
        for label, name in enumerate("ab"):
            for number in range(count):
                path = root / part / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.effect_noise((8, 8), 50 + label).save(path)
    return root


def damage(path, kept=0.7):
    """Cut a file so that its header is whole and its pixels are not."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    return path


def refused(root, **options):
    with pytest.raises(RequestError) as caught:
        read_folder(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("in_memory_bytes", [0, 1 << 30])
def test_files_that_cannot_be_read_are_left_out_and_listed(tmp_path, in_memory_bytes):
    root = some_folder(tmp_path)
    whole = read_folder(root)
    bad = [
        damage(root / "train" / "a" / "1.png"),
        damage(root / "train" / "b" / "3.png", 0),
        damage(root / "test" / "b" / "0.png"),
    ]
    parts = read_folder(root, skip_corrupt=3, in_memory_bytes=in_memory_bytes)
    assert parts.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert parts.test.labels.tolist() == [0, 0, 0, 1, 1]
    left = [0, 2, 3, 4, 5, 6]
    assert parts.train.gather(torch.arange(6)).equal(whole.train.images[left])
    head, *listed = parts.notes
    assert head == (
        "all 14 files were decoded once (--skip-corrupt); 3 cannot be read and were left out:"
    )
    assert listed == [f"  {path}" for path in bad]
    assert parts.skipped == tuple(map(str, bad))


def test_only_so_many_are_left_out(tmp_path):
    root = some_folder(tmp_path)
    bad = damage(root / "train" / "a" / "1.png")
    assert f"{bad}: cannot be decoded" in refused(root)
    assert "--skip-corrupt" in refused(root)
    damage(root / "test" / "a" / "1.png")
    message = refused(root, skip_corrupt=1)
    assert "2 of the first 14 files cannot be read, more than --skip-corrupt 1" in message
    assert str(bad) in message


def test_a_class_keeps_a_training_image(tmp_path):
    root = some_folder(tmp_path)
    for path in (root / "train" / "b").iterdir():
        damage(path)
    message = refused(root, skip_corrupt=9)
    assert "no training image of class 'b' can be read" in message
    assert str(root / "train" / "b" / "0.png") in message


@pytest.mark.parametrize(("part", "called"), [("val", "validation"), ("test", "test")])
def test_each_part_keeps_an_image(tmp_path, part, called):
    root = some_folder(tmp_path, (("train", 2), ("val", 1), ("test", 1)))
    for path in (root / part).rglob("*.png"):
        damage(path)
    message = refused(root, skip_corrupt=9)
    assert f"no {called} image can be read" in message
    assert str(root / part / "a" / "0.png") in message


def test_long_lists_are_cut(tmp_path):
    root = some_folder(tmp_path, (("train", 9), ("test", 1)))
    for number in range(8):
        for name in "ab":
            damage(root / "train" / name / f"{number}.png")
    parts = read_folder(root, skip_corrupt=16)
    assert len(parts.notes) == 12
    assert parts.notes[-1].startswith("  ... and 6 more")
    assert len(parts.skipped) == 16
    assert read_folder(some_folder(tmp_path / "whole"), skip_corrupt=2).notes == (
        "all 14 files were decoded once (--skip-corrupt): each can be read",
    )


def test_files_with_values_that_are_no_numbers_are_left_out(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        for number in range(5):
            pixels = np.full((4, 4), number, np.float32)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.tif")
    pixels[1, 2] = np.nan
    Image.fromarray(pixels).save(tmp_path / "b" / "4.tif")
    assert "4.tif: the value at [1, 2, 0] is nan" in refused(tmp_path)
    assert read_folder(tmp_path, skip_corrupt=1).skipped == (str(tmp_path / "b" / "4.tif"),)


def test_what_is_left_out_does_not_move_the_split(tmp_path):
    root = tmp_path
    some_folder(root / "all", (("x", 10),))
    root = root / "all" / "x"
    before = read_folder(root, in_memory_bytes=0)
    bad = damage(before.train.images.paths[0])
    after = read_folder(root, in_memory_bytes=0, skip_corrupt=1)
    assert after.test.images.paths == before.test.images.paths
    assert after.train.images.paths == tuple(p for p in before.train.images.paths if p != bad)
