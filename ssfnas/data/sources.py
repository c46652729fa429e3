"""From what a command was asked for to a data set that can be trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from ssfnas.config import DataOptions
from ssfnas.data.folder import read_folder
from ssfnas.data.imageset import ImageData, ImageSet, channel_statistics
from ssfnas.data.mini import MINI, read_mini
from ssfnas.data.npz import read_npz
from ssfnas.data.parts import DataParts
from ssfnas.data.profiles import long_tail_counts, long_tail_indices
from ssfnas.data.resizing import resize_square
from ssfnas.data.torchvision_sets import read_torchvision
from ssfnas.errors import RequestError, did_you_mean
from ssfnas.registry import Registry

DATASETS: Registry[Callable[[DataOptions], DataParts]] = Registry("data set")


@DATASETS.register(MINI)
def _mini(options: DataOptions) -> DataParts:
    return read_mini()


@DATASETS.register("cifar10")
@DATASETS.register("cifar100")
def _cifar(options: DataOptions) -> DataParts:
    return read_torchvision(options.dataset, Path(options.data_dir))


def load_data(options: DataOptions) -> ImageData:
    """The data set that ``options.dataset`` names, or that its path holds.

    The training part is long-tailed where an imbalance ratio is given, images are resized where a
    size is given, and mean and standard deviation are then those of the training part.

    Raises:
        RequestError: an unknown name, a file or folder that is not a data set, or an imbalance
            ratio that the data cannot have.
    """
    parts = _read(options)
    if options.imbalance_ratio is not None and options.imbalance_ratio != 1:
        parts = dataclasses.replace(parts, train=_long_tailed(parts, options))
    if options.image_size is not None:
        parts = _resized(parts, options.image_size)
    mean, std = channel_statistics(parts.train)
    return ImageData(
        name=parts.name,
        train=parts.train,
        validation=parts.validation,
        test=parts.test,
        class_names=parts.class_names,
        multi_label=parts.train.multi_label,
        mean=mean,
        std=std,
    )


def _read(options: DataOptions) -> DataParts:
    name = options.dataset
    if name in DATASETS:
        return DATASETS.get(name)(options)
    path = Path(name).expanduser()
    if path.is_dir():
        return read_folder(path, image_size=options.image_size, seed=options.data_seed)
    if path.suffix.lower() == ".npz":
        if not path.is_file():
            raise RequestError(f"--dataset {name}: there is no such file")
        return read_npz(path)
    hint = did_you_mean(f"'{name}'", [f"'{known}'" for known in DATASETS])
    raise RequestError(
        f"--dataset {name}: no such data set{hint}: it is one of {', '.join(DATASETS)}, an .npz "
        "file, or an image folder"
    )


def _long_tailed(parts: DataParts, options: DataOptions) -> ImageSet:
    ratio = options.imbalance_ratio
    assert ratio is not None
    train = parts.train
    if train.multi_label:
        raise RequestError(
            f"--imbalance-ratio {ratio:g} with several labels an image ({parts.name}): a class "
            "cannot be cut without cutting others, leave it out"
        )
    available = train.class_counts(len(parts.class_names))
    counts = long_tail_counts(max(available), len(available), ratio, options.profile)
    for name, have, count in zip(parts.class_names, available, counts, strict=True):
        if have < count:
            raise RequestError(
                f"--imbalance-ratio {ratio:g} ({options.profile}) keeps {count} images of class "
                f"'{name}', which has {have}: take a larger ratio, or leave it out to use the data "
                "as they are"
            )
    return train.subset(long_tail_indices(train.labels.numpy(), counts, options.data_seed))


def _resized(parts: DataParts, size: int) -> DataParts:
    def resized(part: ImageSet | None) -> ImageSet | None:
        if part is None or not isinstance(part.images, torch.Tensor):
            return part
        return ImageSet(resize_square(part.images, size), part.labels)

    train = resized(parts.train)
    assert train is not None
    return dataclasses.replace(
        parts, train=train, validation=resized(parts.validation), test=resized(parts.test)
    )
