import io
import pickle
import warnings
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ssfnas.data.npz import read_npz
from ssfnas.errors import RequestError


def arrays(**changes):
    """A sound data set, with entries replaced, or left out where the change is None."""
    random = np.random.default_rng(0)
    sound = {
        "train_images": random.integers(0, 256, (12, 6, 5, 3), dtype=np.uint8),
        "train_labels": np.arange(12) % 3,
        "test_images": random.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8),
        "test_labels": np.array([0, 1, 2, 2]),
    }
    return {key: value for key, value in {**sound, **changes}.items() if value is not None}


def saved(folder, **changes):
    path = folder / "some.npz"
    np.savez(path, **arrays(**changes))
    return path


def refused(path):
    with pytest.raises(RequestError) as caught:
        read_npz(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def test_a_sound_file_is_read_as_it_is(tmp_path):
    parts = read_npz(saved(tmp_path))
    expected = arrays()
    assert parts.name == "some"
    assert parts.class_names == ("0", "1", "2")
    assert parts.validation is None
    assert torch.equal(parts.train.images, torch.from_numpy(expected["train_images"]))
    assert parts.train.labels.dtype == torch.int64
    assert parts.train.labels.tolist() == [0, 1, 2] * 4
    assert torch.equal(parts.test.images, torch.from_numpy(expected["test_images"]))
    assert parts.test.labels.tolist() == [0, 1, 2, 2]


def test_gray_images_column_labels_validation_and_names(tmp_path):
    images = np.arange(12 * 30, dtype=np.uint8).reshape(12, 6, 5)
    path = saved(
        tmp_path,
        train_images=images,
        train_labels=(np.arange(12) % 3).astype(np.uint8)[:, None],
        test_images=images[:4],
        test_labels=np.array([0, 1, 2, 2], dtype=">i2")[:, None],
        val_images=np.asfortranarray(images[:2]),
        val_labels=np.array([[1], [0]]),
        class_names=np.array(["cat", "dog", "größe"]),
    )
    parts = read_npz(path)
    assert parts.class_names == ("cat", "dog", "größe")
    assert parts.train.images.shape == (12, 6, 5, 1)
    assert torch.equal(parts.train.images[..., 0], torch.from_numpy(images))
    assert torch.equal(parts.validation.images[..., 0], torch.from_numpy(images[:2]))
    assert parts.validation.labels.tolist() == [1, 0]
    assert parts.test.labels.tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("kind", [np.uint8, bool, np.int64])
def test_several_labels_an_image_are_columns(tmp_path, kind):
    labels = (np.arange(36).reshape(12, 3) % 5 == 0).astype(kind)
    parts = read_npz(saved(tmp_path, train_labels=labels, test_labels=labels[:4]))
    assert parts.train.labels.dtype == torch.float32
    assert np.array_equal(parts.train.labels.numpy(), labels.astype(np.float32))
    assert parts.class_names == ("0", "1", "2")
    assert parts.train.multi_label


def deep(dtype, seed=0):
    """Images of several values of a type, and their test images, which reach beyond them."""
    random = np.random.default_rng(seed)
    train, test = random.normal(0, 1, (12, 6, 5)), random.normal(0, 2, (4, 6, 5))
    if np.dtype(dtype).kind == "f":
        return train.astype(dtype), test.astype(dtype)
    middle = 0 if np.dtype(dtype).kind == "i" else 30_000
    return (train * 900 + middle).astype(dtype), (test * 900 + middle).astype(dtype)


@pytest.mark.parametrize(
    "dtype", ["uint16", "int16", "float16", "float32", "float64", ">u2", ">f4"]
)
def test_deep_images_are_scaled_by_the_training_part(tmp_path, dtype):
    train, test = deep(dtype)
    validation = test[:2].astype(np.dtype(dtype).newbyteorder("="))
    parts = read_npz(
        saved(
            tmp_path, train_images=train, test_images=test, val_images=validation,
            val_labels=np.array([0, 1]),
        )
    )  # fmt: skip
    low, high = float(train.min()), float(train.max())
    assert float(test.min()) < low < high < float(test.max())
    assert parts.pixel_range == (low, high)
    for images, pixels in (
        (parts.train.images, train),
        (parts.test.images, test),
        (parts.validation.images, test[:2]),
    ):
        expected = 255 * ((pixels.astype(np.float64) - low) / (high - low)).clip(0, 1)
        assert images.dtype == torch.uint8
        assert np.abs(images[..., 0].numpy() - expected).max() <= 0.5 + 1e-9
    assert parts.train.images.min() == 0
    assert parts.train.images.max() == 255
    (note,) = parts.notes
    assert note.startswith(
        f"pixels are {np.dtype(dtype).name}; {low:.10g} to {high:.10g} became 0 to "
    )
    assert note.endswith("the training part's own range")


def test_whole_numbers_of_8_bits_have_no_range(tmp_path):
    parts = read_npz(saved(tmp_path))
    assert parts.pixel_range is None
    assert parts.notes == ()


def test_a_given_range_takes_the_place_of_the_own_one(tmp_path):
    train, test = deep("float64")
    path = saved(tmp_path, train_images=train, test_images=test)
    parts = read_npz(path, pixel_range=(-1.0, 3.0))
    assert parts.pixel_range == (-1.0, 3.0)
    expected = 255 * ((train + 1) / 4).clip(0, 1)
    assert np.abs(parts.train.images[..., 0].numpy() - expected).max() <= 0.5 + 1e-9
    huge = np.where(train > 0, 1.7e308, -1.7e308)
    assert read_npz(saved(tmp_path, train_images=huge, test_images=test)).train.images.max() == 255


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", ["train_images", "test_images"])
def test_pixels_that_are_no_numbers_are_named(tmp_path, key, value):
    train, test = deep("float32")
    images = {"train_images": train, "test_images": test}
    images[key][3, 1, 4] = value
    message = refused(saved(tmp_path, **images))
    assert f"{key}: the value at [3, 1, 4, 0] is {value}" in message


def test_pixels_of_a_single_value_are_refused(tmp_path):
    train, test = deep("uint16")
    assert "all training pixels are 7" in refused(
        saved(tmp_path, train_images=np.full_like(train, 7), test_images=test)
    )


def test_one_hot_labels_warn(tmp_path):
    labels = np.eye(3, dtype=np.uint8)[np.arange(12) % 3]
    test_labels = labels[:4].copy()
    with pytest.warns(UserWarning, match=r"exactly one of 3 labels.*labels\.argmax\(1\)"):
        parts = read_npz(saved(tmp_path, train_labels=labels, test_labels=test_labels))
    assert parts.train.multi_label
    test_labels[2] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_npz(saved(tmp_path, train_labels=labels, test_labels=test_labels))


def test_class_names_have_one_form_of_unicode(tmp_path):
    parts = read_npz(saved(tmp_path, class_names=np.array(["e\u0301", "b", "c"])))
    assert parts.class_names == ("\u00e9", "b", "c")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_labels": None}, "no train_labels"),
        ({"train_images": None, "test_labels": None}, "no train_images, test_labels"),
        ({"train_images": np.zeros((12, 6, 5, 3), np.float32)}, "no common scale"),
        (
            {"test_images": np.zeros((4, 6, 5, 3), np.uint16)},
            "test_images are uint16, train_images",
        ),
        ({"test_images": np.zeros((4, 6, 5, 3), np.int8)}, "test_images are int8"),
        ({"train_images": np.zeros((12, 6, 5, 3), np.int64)}, "uint8"),
        ({"train_images": np.zeros((12, 3, 6, 5), np.uint8)}, "channels last"),
        ({"train_images": np.zeros((12, 28, 28, 28), np.uint8)}, "channels last"),
        ({"train_images": np.zeros((12, 30), np.uint8)}, "[12, 30]"),
        ({"train_images": np.zeros((0, 6, 5, 3), np.uint8)}, "empty"),
        ({"test_images": np.zeros((4, 0, 5, 3), np.uint8)}, "empty"),
        ({"test_images": np.zeros((4, 6, 4, 3), np.uint8)}, "must be the same"),
        ({"test_images": np.zeros((4, 6, 5), np.uint8)}, "must be the same"),
        ({"train_labels": np.arange(11) % 3}, "11 rows and train_images 12"),
        ({"train_labels": np.zeros(12)}, "integers"),
        ({"train_labels": np.array(["a"] * 12)}, "integers"),
        ({"train_labels": np.arange(12) % 3 - 1}, "holds -1"),
        ({"test_labels": np.array([0, 1, 2, 3])}, "test_labels holds 3"),
        ({"train_labels": np.zeros((12, 2, 2), int)}, "[12, 2, 2]"),
        ({"train_labels": np.zeros((12, 0), int)}, "[12, 0]"),
        ({"train_labels": np.array(3)}, "[N]"),
        ({"train_labels": np.full((12, 3), 2)}, "zeros and ones"),
        ({"train_labels": np.eye(12, 3, dtype=int)}, "one column a label"),
        ({"train_labels": np.array([0, 1, 3] * 4)}, "class 2 of 4"),
        ({"train_labels": np.zeros(12, int), "test_labels": np.zeros(4, int)}, "two classes"),
        ({"train_labels": np.full(12, 2**63, np.uint64)}, "without gaps"),
        ({"val_images": np.zeros((1, 6, 5, 3), np.uint8)}, "belong together"),
        ({"val_labels": np.zeros(1, int)}, "belong together"),
        ({"class_names": np.array(["a", "b"])}, "2 class_names for 3"),
        ({"class_names": np.array(["a", "b", "a"])}, "class_names holds 'a' 2 times"),
        ({"class_names": np.array(["\u00e9", "b", "e\u0301"])}, "2 times"),
        ({"class_names": np.array(["a", "b", "c", "d"])}, "class 3 of 4"),
        ({"class_names": np.arange(3)}, "one string a class"),
        ({"class_names": np.array(["a", None, "c"], dtype=object)}, "Python objects"),
        ({"train_images": np.array([None] * 12, dtype=object)}, "Python objects"),
    ],
)
def test_what_is_wrong_is_told(tmp_path, changes, words):
    assert words in refused(saved(tmp_path, **changes))


def test_other_files_are_told(tmp_path):
    path = tmp_path / "some.npz"
    assert "cannot be read" in refused(path)
    for content in (b"", b"PK", b"hello, this is text", pickle.dumps({"train_images": 1})):
        path.write_bytes(content)
        assert "not an .npz file" in refused(path)
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))
    assert "not an .npz file" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_images.npy", b"not an array")
    assert "train_images" in refused(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    assert "no train_images" in refused(path)


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    content = io.BytesIO()
    np.lib.format.write_array(content, np.array([Trap()] * 12, dtype=object), allow_pickle=True)
    path = tmp_path / "some.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for key in arrays():
            archive.writestr(f"{key}.npy", content.getvalue())
    refused(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_files_are_told(tmp_path, compressed):
    path = tmp_path / "some.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays())
    sound = path.read_bytes()
    for length in range(4, len(sound), 97):
        path.write_bytes(sound[:length])
        assert "damaged" in refused(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(position=st.integers(0, 10**6), value=st.integers(0, 255), compressed=st.booleans())
def test_a_changed_byte_is_told_or_harmless(tmp_path_factory, position, value, compressed):
    path = tmp_path_factory.mktemp("npz") / "some.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays())
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(content)
    loads_or_refuses(path)


KEYS = [*arrays(), "val_images", "val_labels", "class_names"]
SHAPES = st.one_of(
    hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4),
    st.sampled_from([(4, 3, 3), (4, 3, 3, 1), (4, 3, 3, 3), (4,), (4, 1), (4, 2)]),
)
DTYPES = st.one_of(
    st.just(np.dtype(np.uint8)),
    hnp.integer_dtypes(),
    hnp.unsigned_integer_dtypes(),
    hnp.floating_dtypes(),
    hnp.boolean_dtypes(),
    hnp.unicode_string_dtypes(max_len=3),
    hnp.byte_string_dtypes(max_len=3),
    hnp.complex_number_dtypes(),
    hnp.datetime64_dtypes(),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    changes=st.dictionaries(
        st.sampled_from(KEYS),
        st.one_of(st.none(), hnp.arrays(DTYPES, SHAPES, fill=st.nothing())),
        max_size=4,
    )
)
def test_any_arrays_are_read_or_refused(tmp_path_factory, changes):
    loads_or_refuses(saved(tmp_path_factory.mktemp("npz"), **changes))


LABELS = hnp.arrays(
    np.int64, st.sampled_from([(4,), (4, 1), (4, 2), (5,)]), elements=st.integers(-1, 3)
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(train=LABELS, test=LABELS)
def test_any_labels_are_read_or_refused(tmp_path_factory, train, test):
    images = np.zeros((4, 3, 3), np.uint8)
    folder = tmp_path_factory.mktemp("npz")
    loads_or_refuses(
        saved(folder, train_images=images, test_images=images, train_labels=train, test_labels=test)
    )


def loads_or_refuses(path):
    try:
        parts = read_npz(path)
    except RequestError:
        return
    for part in (parts.train, parts.validation, parts.test):
        if part is None:
            continue
        assert len(part) > 0
        assert part.images.dtype == torch.uint8
        assert part.image_size == parts.train.image_size
        assert part.in_channels == parts.train.in_channels
        assert part.in_channels in (1, 3)
        if parts.train.multi_label:
            assert part.labels.shape == (len(part), len(parts.class_names))
            assert set(part.labels.flatten().tolist()) <= {0.0, 1.0}
        else:
            assert part.labels.min() >= 0
            assert part.labels.max() < len(parts.class_names)
    if not parts.train.multi_label:
        assert min(parts.train.class_counts(len(parts.class_names))) >= 1
