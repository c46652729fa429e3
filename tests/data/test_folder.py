import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from ssfnas.data import ImageStream, channel_statistics, iterate, make_views
from ssfnas.data.decoding import FolderImages
from ssfnas.data.folder import read_folder
from ssfnas.data.resizing import resize_square
from ssfnas.errors import RequestError


def draw(path, size=(8, 8), mode="RGB", seed=0, **options):
    """An image of noise at ``path``; its pixels."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    shape = (*size, channels) if channels > 1 else size
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return pixels


def some_folder(root, train=(5, 3), test=(2, 1), **options):
    seed = 0
    for part, counts in (("train", train), ("test", test)):
        for label, count in enumerate(counts):
            for number in range(count):
                draw(root / part / f"class{label}" / f"{number}.png", seed=seed, **options)
                seed += 1
    return root


def refused(root, **options):
    with pytest.raises(RequestError) as caught:
        read_folder(root, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_train_and_test_folders_are_read_as_they_are(tmp_path):
    root = tmp_path / "birds"
    pixels = {}
    for part, name, number in (
        ("train", "tit", 0),
        ("train", "finch", 0),
        ("train", "finch", 1),
        ("test", "tit", 0),
        ("valid", "finch", 0),
    ):
        key = (part, name, number)
        pixels[key] = draw(root / part / name / f"{number}.png", (6, 9), seed=len(pixels))
    (root / "train" / "finch" / "notes.txt").write_text("not an image")
    parts = read_folder(root)
    assert parts.name == "birds"
    assert parts.class_names == ("finch", "tit")
    assert parts.train.labels.tolist() == [0, 0, 1]
    assert np.array_equal(parts.train.images[1].numpy(), pixels["train", "finch", 1])
    assert np.array_equal(parts.test.images[0].numpy(), pixels["test", "tit", 0])
    assert parts.test.labels.tolist() == [1]
    assert parts.validation.labels.tolist() == [0]
    assert parts.train.image_size == (6, 9)


def test_folders_of_one_level_are_split_class_by_class(tmp_path):
    seen = {}
    for name, count in (("a", 10), ("b", 4), ("c", 1)):
        for number in range(count):
            pixels = draw(tmp_path / name / f"{number}.png", seed=len(seen))
            seen[pixels.tobytes()] = name
    parts = read_folder(tmp_path)
    assert parts.train.class_counts(3) == [8, 3, 1]
    assert parts.test.class_counts(3) == [2, 1, 0]
    together = [
        image.numpy().tobytes() for part in (parts.train, parts.test) for image in part.images
    ]
    assert sorted(together) == sorted(seen)
    again, other = read_folder(tmp_path), read_folder(tmp_path, seed=1)
    assert torch.equal(again.test.images, parts.test.images)
    assert not torch.equal(other.test.images, parts.test.images)


def test_images_are_found_at_any_depth(tmp_path):
    root = some_folder(tmp_path)
    draw(root / "train" / "class1" / "deeper" / "still" / "x.png")
    assert read_folder(root).train.class_counts(2) == [5, 4]


def test_gray_stays_gray_only_where_all_are(tmp_path):
    root = some_folder(tmp_path, mode="L")
    gray = read_folder(root)
    assert gray.train.in_channels == 1
    pixels = draw(root / "test" / "class1" / "color.png")
    color = read_folder(root)
    assert color.train.in_channels == 3
    assert torch.equal(color.train.images, gray.train.images.expand(-1, -1, -1, 3))
    assert np.array_equal(color.test.images[-1].numpy(), pixels)


def test_images_of_several_sizes_need_one_to_be_given(tmp_path):
    root = some_folder(tmp_path)
    pixels = draw(root / "train" / "class1" / "z.png", (12, 20))
    message = refused(root)
    assert "z.png: 20 x 12 pixels" in message
    assert "--image-size" in message
    parts = read_folder(root, image_size=8)
    assert parts.train.image_size == (8, 8)
    expected = resize_square(torch.from_numpy(pixels)[None], 8)
    assert torch.equal(parts.train.images[-1:], expected)


def test_resizing_keeps_the_middle_and_its_proportions():
    ramp = torch.arange(0, 240, 2, dtype=torch.uint8).expand(60, 120)[None, :, :, None]
    small = resize_square(ramp, 30)
    assert small.shape == (1, 30, 30, 1)
    # Half the size: columns 30 ... 90 of the image, two at a time, far from its edges.
    expected = torch.arange(30) * 4 + 61
    assert (small[0, 15, :, 0].int() - expected).abs().max() <= 1
    assert resize_square(ramp, 60).shape == (1, 60, 60, 1)
    same = torch.zeros(2, 5, 5, 3, dtype=torch.uint8)
    assert resize_square(same, 5) is same


def test_layouts_that_are_none_are_told(tmp_path):
    assert "no class folders" in refused(tmp_path)
    draw(tmp_path / "only" / "a.png")
    assert "only the class 'only'" in refused(tmp_path) or "single image" in refused(tmp_path)
    draw(tmp_path / "other" / "a.png")
    assert "single image" in refused(tmp_path)
    (tmp_path / "void").mkdir()
    assert str(tmp_path / "void") in refused(tmp_path)


def test_parts_that_do_not_fit_are_told(tmp_path):
    root = some_folder(tmp_path)
    (root / "train" / "class9").mkdir()
    assert str(root / "train" / "class9") in refused(root)
    (root / "train" / "class9").rmdir()
    draw(root / "test" / "class7" / "a.png")
    assert "'class7' has no training images" in refused(root)
    (root / "test" / "class7" / "a.png").unlink()
    (root / "test" / "class7").rmdir()
    (root / "test").rename(root / "tests")
    assert "no test folder" in refused(root)
    (root / "test").mkdir()
    assert str(root / "test") in refused(root)


@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
def test_damaged_images_are_named(tmp_path, damage):
    root = some_folder(tmp_path)
    path = root / "train" / "class0" / "3.png"
    content = path.read_bytes()
    path.write_bytes({"text": b"hello", "cut": content[: len(content) // 2], "empty": b""}[damage])
    message = refused(root)
    assert f"{path}: cannot be decoded" in message
    assert "--skip-corrupt" in message


def deep_folder(root):
    """Folders of 16 bits; path -> pixels. Test images reach beyond the training part's range."""
    random, found = np.random.default_rng(0), {}
    for part, count, low, high in (
        ("train", 3, 500, 900),
        ("val", 1, 0, 2000),
        ("test", 2, 0, 999),
    ):
        for name in "ab":
            for number in range(count):
                path = root / part / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                found[path] = random.integers(low, high, (8, 8), dtype=np.uint16)
                Image.fromarray(found[path]).save(path)
    return found


@pytest.mark.parametrize("in_memory_bytes", [0, 1 << 30])
def test_deep_images_are_scaled_by_the_training_part(tmp_path, in_memory_bytes):
    pixels = deep_folder(tmp_path)
    training = np.stack([image for path, image in pixels.items() if "train" in path.parts])
    low, high = int(training.min()), int(training.max())
    parts = read_folder(tmp_path, in_memory_bytes=in_memory_bytes)
    assert parts.pixel_range == (low, high)
    assert parts.train.in_channels == 1
    assert parts.notes == (
        f"pixels are integers of more than 8 bits; {low} to {high} became 0 to 255, the training "
        "part's own range",
    )
    for part, folder in ((parts.train, "train"), (parts.validation, "val"), (parts.test, "test")):
        images = np.stack([image for path, image in pixels.items() if folder in path.parts])
        expected = 255 * ((images.astype(np.float64) - low) / (high - low)).clip(0, 1)
        read = part.gather(torch.arange(len(part)))[..., 0].numpy()
        assert np.abs(read - expected).max() <= 0.5 + 1e-9
    given = read_folder(tmp_path, pixel_range=(0.0, 2000.0), in_memory_bytes=in_memory_bytes)
    assert given.pixel_range == (0.0, 2000.0)
    read = given.train.gather(torch.arange(6))[..., 0].numpy()
    assert np.abs(read - 255 * training.astype(float) / 2000).max() <= 0.5 + 1e-9


def test_depths_do_not_mix(tmp_path):
    deep_folder(tmp_path)
    draw(tmp_path / "test" / "b" / "x.png", mode="L")
    message = refused(tmp_path)
    assert f"{tmp_path / 'test' / 'b' / 'x.png'}: pixels of 8 bits, but" in message
    assert "no common scale" in message
    Image.fromarray(np.zeros((8, 8), np.float32)).save(tmp_path / "test" / "b" / "x.tif")
    (tmp_path / "test" / "b" / "x.png").unlink()
    assert "x.tif: pixels of floating-point numbers, but" in refused(tmp_path)


def test_a_long_pass_is_said_beforehand(tmp_path, monkeypatch):
    deep_folder(tmp_path)
    monkeypatch.setattr("ssfnas.data.folder._LONG_PASS", 6)
    with pytest.warns(UserWarning, match="decoding 6 images once, for the range of their values"):
        read_folder(tmp_path)


def test_transparent_pixels_lie_on_the_background(tmp_path):
    root = some_folder(tmp_path, mode="RGBA")
    pixels = np.stack(
        [np.asarray(Image.open(path)) for path in sorted((root / "train").rglob("*.png"))]
    ).astype(np.float64)
    share = pixels[..., 3:] / 255
    for background, value in (("white", 255), ("black", 0)):
        for in_memory_bytes in (0, 1 << 30):
            train = read_folder(root, background=background, in_memory_bytes=in_memory_bytes).train
            read = train.gather(torch.arange(len(train))).numpy()
            expected = pixels[..., :3] * share + value * (1 - share)
            assert np.abs(read - expected).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("in_memory_bytes", [0, 1 << 30])
def test_images_that_may_be_transparent_are_counted(tmp_path, in_memory_bytes):
    root = some_folder(tmp_path, mode="RGB")
    assert not any("alpha" in note for note in read_folder(root).notes)
    first, second = sorted((root / "train").rglob("*.png"))[:2]
    with_alpha = Image.open(first).convert("RGBA")
    with_alpha.save(first)
    (note,) = read_folder(root, in_memory_bytes=in_memory_bytes, background="gray").notes
    assert note == (
        f"1 file has an alpha channel, such as {first.name}: transparent pixels are laid on gray "
        "(--background)"
    )
    with_alpha.convert("P").save(second, transparency=0)
    (note,) = read_folder(root, in_memory_bytes=in_memory_bytes).notes
    assert note.startswith("2 files have an alpha channel")


def lazy_and_resident(root, **options):
    lazy = read_folder(root, in_memory_bytes=0, **options)
    resident = read_folder(root, **options)
    assert isinstance(lazy.train.images, FolderImages)
    assert isinstance(resident.train.images, torch.Tensor)
    return lazy, resident


@pytest.mark.parametrize("image_size", [None, 6])
def test_images_left_in_their_files_are_the_same(tmp_path, image_size):
    lazy, resident = lazy_and_resident(some_folder(tmp_path), image_size=image_size)
    assert torch.equal(lazy.train.images.decoded(), resident.train.images)
    assert lazy.train.image_size == resident.train.image_size
    assert lazy.train.in_channels == 3
    indices = torch.tensor([4, 0, 7])
    assert torch.equal(lazy.train.gather(indices), resident.train.gather(indices))
    some, same = lazy.train.subset(indices), resident.train.subset(indices)
    assert torch.equal(some.images.decoded(), same.images)
    assert torch.equal(some.labels, same.labels)
    assert channel_statistics(lazy.train) == channel_statistics(resident.train)
    assert lazy.train.lazy
    assert not resident.train.lazy


@pytest.mark.parametrize("workers", [0, 2])
def test_images_in_order_are_the_same(tmp_path, workers):
    lazy, resident = lazy_and_resident(some_folder(tmp_path))
    given = {"mean": (0.5,) * 3, "std": (0.2,) * 3, "device": "cpu", "workers": workers}
    for batch_size in (4, 100):
        ours, theirs = (list(iterate(part.train, batch_size, **given)) for part in (lazy, resident))
        assert len(ours) == len(theirs) == -(-len(lazy.train) // batch_size)
        for one, other in zip(ours, theirs, strict=True):
            assert all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def stream(images, views, batch_size=4, **settings):
    made = make_views(views, image_size=8, mean=(0.5,) * 3, std=(0.2,) * 3)
    indices = torch.arange(len(images))
    return ImageStream(images, indices, batch_size, made, seed=1, device="cpu", **settings)


@pytest.mark.parametrize("workers", [0, 2])
def test_streams_of_files_are_those_of_memory(tmp_path, workers):
    lazy, resident = lazy_and_resident(some_folder(tmp_path, train=(9, 6)))
    state = torch.get_rng_state()
    settings = {"mixup": 0.5, "num_classes": 2, "world_size": 2, "rank": 1, "chunk": 4}
    ours, theirs = (
        stream(part.train, "barlow_twins", dtype=torch.float64, workers=workers, **settings)
        for part in (lazy, resident)
    )

    def same(batches):
        for _ in range(batches):
            one, other = ours.next(), theirs.next()
            assert torch.equal(one.indices, other.indices)
            assert torch.equal(one.labels, other.labels)
            assert all(torch.equal(x, y) for x, y in zip(one.views, other.views, strict=True))

    same(6)
    for batches in (ours, theirs):
        batches.load_state_dict({**batches.state_dict(), "position": 3})
    same(4)
    ours.close()
    same(2)
    ours.close()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupting_is_left_to_the_parent(tmp_path, number):
    lazy, resident = lazy_and_resident(some_folder(tmp_path))
    ours, theirs = (
        stream(part.train, "crop_flip", workers=1, chunk=4) for part in (lazy, resident)
    )
    before = set(multiprocessing.active_children())
    batches = [ours.next()]
    started = set(multiprocessing.active_children()) - before
    assert len(started) == 1
    for process in started:
        os.kill(process.pid, number)
    batches += [ours.next() for _ in range(12)]
    assert all(process.is_alive() for process in started)
    for batch in batches:
        assert torch.equal(batch.views[0], theirs.next().views[0])
    ours.close()
    assert not any(process.is_alive() for process in started)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_damaged_later_is_named(tmp_path, workers):
    lazy, _ = lazy_and_resident(some_folder(tmp_path))
    path = lazy.train.images.paths[2]
    path.write_bytes(path.read_bytes()[:60])
    batches = stream(lazy.train, "none", 8, workers=workers)
    with pytest.raises(RequestError) as caught:
        batches.next()
    batches.close()
    assert str(caught.value).startswith(f"{path}: cannot be decoded")
    assert "\n" not in str(caught.value)


def test_an_image_of_another_size_later_is_named(tmp_path):
    lazy, _ = lazy_and_resident(some_folder(tmp_path))
    path = lazy.train.images.paths[1]
    draw(path, (9, 8))
    with pytest.raises(RequestError, match="8 x 9 pixels"):
        lazy.train.gather(torch.tensor([1]))


@pytest.mark.parametrize("few", [2_000, 1])  # read by this process, or by forked ones
def test_a_warning_of_files_is_said_once_a_folder(tmp_path, monkeypatch, few):
    monkeypatch.setattr("ssfnas.data.many_files._FEW", few)
    root = some_folder(tmp_path, exif=b"Exif\0\0no header of TIFF")
    for options in ({}, {"in_memory_bytes": 0}, {"skip_corrupt": 1}):
        with pytest.warns(
            UserWarning, match=r"cannot be read.* \(and so 10 more files\)$"
        ) as found:
            read_folder(root, **options)
        assert len(found) == 1


def test_a_test_part_that_was_drawn_is_said(tmp_path):
    for label in range(2):
        for number in range(5):
            draw(tmp_path / str(label) / f"{number}.png")
    (note,) = read_folder(tmp_path, seed=4).notes
    assert note == "no folders of parts: a fifth of each class is the test part (--data-seed 4)"
