"""Data sets in one ``.npz`` file, in MedMNIST's convention. Nothing in the file is unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ssfnas.data.imageset import DataParts, ImageSet
from ssfnas.errors import RequestError

Array = npt.NDArray[Any]

_KEYS = ("train_images", "train_labels", "test_images", "test_labels")
_CONVENTION = (
    "an .npz file holds train_images, train_labels, test_images, test_labels, "
    "optionally val_images, val_labels and class_names"
)


def read_npz(path: Path) -> DataParts:
    """A data set from an ``.npz`` file.

    Images are uint8, [N, H, W] (gray) or [N, H, W, C] with C 1 or 3. Labels are integers [N] or
    [N, 1], or zeros and ones [N, L] where an image may have several of L >= 2 labels. Optional:
    ``val_images`` with ``val_labels``, and ``class_names``, strings [classes].

    Args:
        path: the file.

    Raises:
        RequestError: whatever is missing, damaged, or of another type, shape or range.
    """
    arrays = _read_arrays(path)
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        raise RequestError(f"{path}: no {', '.join(missing)}: {_CONVENTION}")
    if ("val_images" in arrays) != ("val_labels" in arrays):
        raise RequestError(f"{path}: val_images and val_labels belong together: give both or none")
    parts = ("train", "val", "test") if "val_images" in arrays else ("train", "test")
    images = {part: _images(path, f"{part}_images", arrays) for part in parts}
    for part in parts[1:]:
        if images[part].shape[1:] != images["train"].shape[1:]:
            raise RequestError(
                f"{path}: {part}_images have shape {_shape(images[part])}, train_images "
                f"{_shape(images['train'])}: height, width and channels must be the same"
            )
    labels = {part: _labels(path, f"{part}_labels", arrays, len(images[part])) for part in parts}
    multi_label = labels["train"].ndim == 2
    for part in parts[1:]:
        if labels[part].shape[1:] != labels["train"].shape[1:]:
            raise RequestError(
                f"{path}: {part}_labels have shape {_shape(labels[part])}, train_labels "
                f"{_shape(labels['train'])}: one column a label in every part"
            )
    num_classes = labels["train"].shape[1] if multi_label else int(labels["train"].max()) + 1
    names = _class_names(path, arrays, num_classes)
    if not multi_label:
        _check_classes(path, {f"{part}_labels": labels[part] for part in parts}, len(names))
    sets = {
        part: ImageSet(
            torch.from_numpy(images[part]),
            torch.from_numpy(labels[part].astype(np.float32 if multi_label else np.int64)),
        )
        for part in parts
    }
    return DataParts(path.stem, sets["train"], sets.get("val"), sets["test"], names)


def _read_arrays(path: Path) -> dict[str, Array]:
    wanted = (*_KEYS, "val_images", "val_labels", "class_names")
    try:
        with path.open("rb") as stream:
            if stream.read(4) != b"PK\x03\x04":
                raise RequestError(f"{path}: not an .npz file: {_CONVENTION}")
    except OSError as error:
        raise RequestError(f"{path}: cannot be read ({error.strerror or error})") from error
    key = "its table of contents"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {}
            for key in wanted:
                if key in file.files:
                    arrays[key] = np.asarray(file[key])
            return arrays
    except Exception as error:
        # zipfile, zlib and numpy's header parser each raise several types on damaged bytes.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(
            f"{path}: {key} cannot be read ({reason}): the file is damaged, or holds Python "
            "objects instead of plain arrays"
        ) from error


def _shape(array: Array) -> str:
    return f"[{', '.join(str(size) for size in array.shape)}]"


def _images(path: Path, key: str, arrays: dict[str, Array]) -> Array:
    array = arrays[key]
    if array.dtype != np.uint8:
        raise RequestError(f"{path}: {key} are {array.dtype}: images must be uint8, from 0 to 255")
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] not in (1, 3):
        raise RequestError(
            f"{path}: {key} have shape {_shape(arrays[key])}: it must be [N, H, W] for gray images "
            "or [N, H, W, C] with 1 or 3 channels last"
        )
    if 0 in array.shape:
        raise RequestError(f"{path}: {key} have shape {_shape(arrays[key])}: they are empty")
    return np.ascontiguousarray(array)


def _labels(path: Path, key: str, arrays: dict[str, Array], images: int) -> Array:
    """Labels [N] of any integer type, or zeros and ones [N, L]."""
    array = arrays[key]
    if array.dtype.kind not in "iub":
        raise RequestError(f"{path}: {key} are {array.dtype}: labels must be integers")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim not in (1, 2) or (array.ndim == 2 and array.shape[1] == 0):
        raise RequestError(
            f"{path}: {key} have shape {_shape(array)}: it must be [N], [N, 1], or [N, L] of "
            "zeros and ones"
        )
    if len(array) != images:
        name = key.replace("labels", "images")
        raise RequestError(
            f"{path}: {key} has {len(array)} rows and {name} {images}: one label row an image"
        )
    if array.dtype.kind == "i" and array.min() < 0:
        raise RequestError(f"{path}: {key} holds {array.min()}: labels count from 0")
    if array.ndim == 2 and array.max() > 1:
        raise RequestError(
            f"{path}: {key} holds {array.max()} in {array.shape[1]} columns: several labels an "
            "image are columns of zeros and ones"
        )
    return array


def _check_classes(path: Path, labels: dict[str, Array], num_classes: int) -> None:
    """Every label has a class, and every class a training image."""
    train = labels["train_labels"]
    for key, array in labels.items():
        if int(array.max()) >= num_classes:
            raise RequestError(
                f"{path}: {key} holds {array.max()}, but there are {num_classes} classes: labels "
                f"go from 0 to {num_classes - 1}"
            )
    present = np.unique(train)
    if len(present) < num_classes:
        # The first gap: with 0, 1, 3 present it is position 2.
        absent = next(c for c, have in enumerate([*present.tolist(), -1]) if c != have)
        raise RequestError(
            f"{path}: class {absent} of {num_classes} has no training image: number the classes "
            "that there are from 0 without gaps"
        )
    if num_classes < 2:
        raise RequestError(f"{path}: all training labels are {train[0]}: give two classes or more")


def _class_names(path: Path, arrays: dict[str, Array], num_classes: int) -> tuple[str, ...]:
    names = arrays.get("class_names")
    if names is None:
        if num_classes > len(arrays["train_labels"]):
            # More classes than images: told with the first class that is absent, without a list.
            raise RequestError(
                f"{path}: train_labels holds {num_classes - 1}, but there are only "
                f"{len(arrays['train_labels'])} images: number the classes that there are from 0 "
                "without gaps"
            )
        return tuple(str(label) for label in range(num_classes))
    if names.ndim != 1 or names.dtype.kind != "U":
        raise RequestError(
            f"{path}: class_names are {names.dtype} {_shape(names)}: one string a class"
        )
    multi_label = arrays["train_labels"].ndim == 2 and arrays["train_labels"].shape[1] > 1
    if len(names) < num_classes or (multi_label and len(names) != num_classes):
        raise RequestError(
            f"{path}: {len(names)} class_names for {num_classes} classes: one string a class"
        )
    return tuple(str(name) for name in names)
