import os
import unicodedata
import warnings

import pytest
from PIL import Image

from ssfnas.data.endings import readable_endings
from ssfnas.data.folder import read_folder
from ssfnas.data.layout import read_layout
from ssfnas.errors import RequestError


def put(root, *names):
    """A tiny image under each name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path, "PNG")
    return root


def files(root, part="train"):
    """The files of each class of a part, relative to the root."""
    layout = read_layout(root)
    found = [[str(path.relative_to(root)) for path in paths] for paths in layout.parts[part]]
    return dict(zip(layout.names, found, strict=True))


def refused(root):
    with pytest.raises(RequestError) as caught:
        read_layout(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("train", "test", "validation"),
    [
        ("train", "test", "val"),
        ("Training", "Testing", "Validation"),
        ("TRAIN", "TEST", "VALID"),
        ("training", "Test", "Val"),
    ],
)
def test_parts_are_known_by_their_usual_spellings(tmp_path, train, test, validation):
    put(
        tmp_path, f"{train}/a/0.png", f"{train}/b/1.png", f"{test}/a/2.png", f"{validation}/b/3.png"
    )
    assert files(tmp_path) == {"a": [f"{train}/a/0.png"], "b": [f"{train}/b/1.png"]}
    assert files(tmp_path, "test") == {"a": [f"{test}/a/2.png"], "b": []}
    assert files(tmp_path, "val") == {"a": [], "b": [f"{validation}/b/3.png"]}
    assert read_layout(tmp_path).notes == ()


def test_without_a_test_folder_the_validation_folder_is_the_test_part(tmp_path):
    put(tmp_path, "train/a/0.png", "train/b/1.png", "Val/a/2.png")
    layout = read_layout(tmp_path)
    assert sorted(layout.parts) == ["test", "train"]
    assert layout.parts["test"] == [[tmp_path / "Val" / "a" / "2.png"], []]
    assert layout.notes == (
        "no test folder: Val is the test part, and there is no validation part",
    )


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["Train/a/0.png", "training/b/1.png", "test/a/2.png"], "Train and training are both"),
        (["train/a/0.png", "val/b/1.png", "valid/a/2.png"], "val and valid are both"),
        (["test/a/0.png", "valid/b/1.png"], "test and valid without a train folder"),
        (["TEST/a/0.png", "TEST/b/1.png"], "TEST without a train folder"),
        (["train/a/0.png", "train/b/1.png"], "train but no test folder"),
        (["data/train/a/0.png", "data/test/a/1.png"], "lie in data: give"),
        (["train/a/0.png", "train/b/0.png", "test/0.png"], "test: no class folders"),
        (["train/0.png", "test/1.png"], "no class folders"),
        (["a/0.png", "b/1.png", "test/1.png"], "test: no class folders"),
        (["a/train/0.png", "a/test/0.png", "b/train/0.png", "b/test/1.png"], "train/a/*"),
        (["trn/a/0.png", "trn/b/0.png", "tst/a/0.png", "tst/b/1.png"], "trn, tst each hold"),
        (["one/Ant/0.png", "one/Bee/0.png", "two/ant/0.png", "two/bee/1.png"], "(Ant, Bee)"),
        (["p1/a/0.png", "p1/b/0.png", "p1/c/0.png", "p2/a/0.png", "p2/b/1.png"], "(a, b)"),
        (["photos/a/0.png", "photos/b/1.png"], "only the class 'photos'"),
    ],
)  # fmt: skip
def test_parts_that_are_none_are_told(tmp_path, names, words):
    assert words in refused(put(tmp_path, *names))


def test_a_folder_too_high_up_names_the_right_one(tmp_path):
    put(tmp_path, "photos/a/0.png", "photos/b/1.png")
    assert str(tmp_path / "photos") in refused(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    put(tmp_path, "car/0.png", "train/1.png", "bus/2.png")
    assert files(tmp_path) == {"bus": ["bus/2.png"], "car": ["car/0.png"], "train": ["train/1.png"]}


def test_classes_that_share_one_folder_are_classes(tmp_path):
    put(tmp_path, "a/raw/0.png", "a/x/1.png", "b/raw/2.png", "b/y/3.png")
    assert files(tmp_path)["b"] == ["b/raw/2.png", "b/y/3.png"]


def test_hidden_things_are_left_aside_at_every_depth(tmp_path):
    put(
        tmp_path,
        *("a/0.png", "a/.1.png", "a/.ipynb_checkpoints/0-checkpoint.png", "b/deep/2.png"),
        *("b/deep/@eaDir/2.png/thumb.png", "b/__MACOSX/3.png", "@Recycle/4.png", ".cache/5.png"),
        *("__MACOSX/6.png", "b/#recycle/7.png"),
    )
    assert files(tmp_path) == {"a": ["a/0.png"], "b": ["b/deep/2.png"]}
    hidden, one_file = read_layout(tmp_path).notes
    assert hidden.startswith("7 hidden folders left aside: 2 __MACOSX, ")
    assert one_file == "1 hidden file left aside"


def test_what_is_no_image_is_counted(tmp_path):
    put(tmp_path, "train/a/0.png", "train/b/1.png", "test/a/2.png", "train/stray.png")
    for name in ("a/x.txt", "a/y.TXT", "b/z.csv", "b/README", "b/raw.NEF"):
        (tmp_path / "train" / name).write_text("x")
    (tmp_path / "docs").mkdir()
    assert read_layout(tmp_path).notes == (
        "1 image left aside, unreadable here (1 .nef): convert to PNG or JPEG, or add a plugin of "
        "Pillow",
        "4 files left aside, by the ending no image: 2 .txt, 1 without one, 1 .csv",
        "1 image left aside, beside the folders of classes",
        "1 folder left aside beside those of the parts: docs",
    )
    assert read_folder(tmp_path).notes == read_layout(tmp_path).notes


@pytest.mark.parametrize(
    ("ending", "format"),
    [
        ("jfif", "JPEG"), ("jpe", "JPEG"), ("JPG", "JPEG"), ("avif", "AVIF"), ("jp2", "JPEG2000"),
        ("j2k", "JPEG2000"), ("tga", "TGA"), ("pbm", "PPM"), ("pnm", "PPM"), ("dib", "DIB"),
        ("qoi", "QOI"), ("webp", "WEBP"), ("mpo", "JPEG"), ("apng", "PNG"), ("pcx", "PCX"),
    ],
)  # fmt: skip
def test_endings_of_photographs_are_read(tmp_path, ending, format):
    put(tmp_path, "a/0.png", "b/1.png")
    name = f"x.{ending}"
    if f".{ending.lower()}" not in readable_endings():
        pytest.skip(f"this Pillow has no {format}")
    mode = "1" if ending == "pbm" else "RGB"
    Image.new(mode, (4, 4), 1).save(tmp_path / "a" / name, format)
    assert files(tmp_path)["a"] == ["a/0.png", f"a/{name}"]
    assert len(read_folder(tmp_path).train) + len(read_folder(tmp_path).test) == 3


def test_an_ending_that_this_pillow_lacks_is_named(tmp_path, monkeypatch):
    put(tmp_path, "a/0.png", "b/1.avif")
    put(tmp_path, "c/2.png", "c/3.avif", "c/4.heic")
    readable_endings()  # all formats are registered by now
    monkeypatch.delitem(Image.EXTENSION, ".avif", raising=False)
    monkeypatch.delitem(Image.EXTENSION, ".heic", raising=False)
    message = refused(tmp_path)
    assert str(tmp_path / "b") in message
    assert "1 image left aside, unreadable here (1 .avif)" in message
    put(tmp_path, "b/1.png")
    assert (
        "3 images left aside, unreadable here (2 .avif, 1 .heic)"
        in (read_layout(tmp_path).notes[0])
    )


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def test_links_are_followed(tmp_path):
    root = put(tmp_path / "photos", "a/0.png", "b/1.png")
    put(tmp_path / "elsewhere", "more/2.png", "more/deep/3.png", "4.png")
    link(root / "a" / "batch", tmp_path / "elsewhere" / "more")
    link(root / "a" / "one.png", tmp_path / "elsewhere" / "4.png")
    link(root / "c", tmp_path / "elsewhere" / "more" / "deep")
    with pytest.warns(UserWarning, match=r"linked into two classes: 1, such as .*'a' and 'c'"):
        found = files(root)
    assert found == {
        "a": ["a/0.png", "a/batch/2.png", "a/batch/deep/3.png", "a/one.png"],
        "b": ["b/1.png"],
        "c": ["c/3.png"],
    }


def test_links_in_circles_end(tmp_path):
    root = put(tmp_path, "a/0.png", "a/deep/1.png", "b/2.png")
    link(root / "a" / "deep" / "up", root / "a")
    link(root / "a" / "top", root)
    link(root / "all", root)
    link(root / "a" / "itself", "itself")
    link(root / "a" / "nowhere", root / "no" / "such")
    put(tmp_path.parent / f"{tmp_path.name}-other", "x/3.png")
    link(root / "b" / "other", tmp_path.parent / f"{tmp_path.name}-other")
    link(tmp_path.parent / f"{tmp_path.name}-other" / "back", root)
    assert files(root) == {
        "a": ["a/0.png", "a/deep/1.png"],
        "b": ["b/2.png", "b/other/x/3.png"],
    }
    again, broken = read_layout(root).notes
    assert again.startswith("4 folders or files that links lead to once more")
    assert broken.startswith("2 links to nowhere left aside, such as ")


def test_what_is_reached_twice_in_a_class_is_read_once_under_its_own_name(tmp_path):
    root = put(tmp_path, "a/z/0.png", "b/1.png", "b/2.png")
    link(root / "a" / "first", root / "a" / "z")
    link(root / "b" / "0.png", root / "b" / "2.png")
    assert files(root) == {"a": ["a/z/0.png"], "b": ["b/1.png", "b/2.png"]}
    assert read_layout(root).notes[0].startswith("2 folders or files")


def test_an_image_of_two_parts_is_warned_of(tmp_path):
    root = put(tmp_path, "train/a/0.png", "train/b/1.png", "val/a/2.png")
    link(root / "test", root / "train")
    with pytest.warns(UserWarning, match="linked into the training and the test part: 2, such as"):
        read_layout(root)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (root / "test").unlink()
        read_layout(root)


def test_class_names_have_one_form_of_unicode(tmp_path):
    composed, parted = (unicodedata.normalize(form, "größe") for form in ("NFC", "NFD"))
    assert composed != parted
    put(tmp_path, f"train/{parted}/0.png", "train/a/1.png", f"test/{composed}/2.png")
    assert files(tmp_path)[composed] == [f"train/{parted}/0.png"]
    assert files(tmp_path, "test")[composed] == [f"test/{composed}/2.png"]
    put(tmp_path, f"train/{composed}/3.png")
    message = refused(tmp_path)
    assert "two forms of Unicode" in message
    assert ascii(parted) in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    root = put(tmp_path, "a/0.png", "b/1.png")
    (root / "b").chmod(0)
    try:
        assert f"{root / 'b'}: cannot be read" in refused(root)
    finally:
        (root / "b").chmod(0o700)
