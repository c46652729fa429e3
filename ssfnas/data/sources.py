"""From what a command was asked for to a data set that can be trained on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from ssfnas.config import DataOptions
from ssfnas.data.endings import IMAGES
from ssfnas.data.folder import read_folder
from ssfnas.data.imageset import DataParts, ImageData, ImageSet, channel_statistics
from ssfnas.data.npz import read_npz
from ssfnas.data.pixel_range import PixelRange
from ssfnas.data.profiles import long_tail_counts, long_tail_indices
from ssfnas.data.resizing import resize_square
from ssfnas.data.splits import held_out
from ssfnas.errors import RequestError, did_you_mean
from ssfnas.registry import Registry

DATASETS: Registry[Callable[[DataOptions], DataParts]] = Registry("data set")

_OTHER_KINDS = (
    (
        "a table",
        {".csv", ".tsv", ".txt", ".json", ".jsonl", ".xls", ".xlsx", ".parquet", ".arrow"},
        "is not read: sort the images that it names into a folder for each class "
        "(train/CLASS/*, test/CLASS/*); with several labels an image, write images and labels to "
        "an .npz file",
    ),
    (
        "an archive",
        {".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar"},
        "is not read as it is: unpack it, and give the folder that has a folder of images for each "
        "class",
    ),
    (
        "arrays of another format",
        {".npy", ".pt", ".pth", ".pkl", ".pickle", ".mat", ".h5", ".hdf5", ".tfrecord", ".lmdb"},
        "are not read: write them to an .npz file (numpy.savez: train_images uint8 [N, H, W, C], "
        "train_labels [N], test_images, test_labels)",
    ),
)
"""Files that hold images or name them, by their endings, and what to do with them."""

_MINI = "cifar10-lt-mini"
_MINI_FILE = Path(__file__).parent / "mini" / "cifar10_lt_mini.npz"


@DATASETS.register(_MINI)
def read_mini(options: DataOptions) -> DataParts:
    """The sample in the package; see ``mini/README.md`` for how it was cut.

    804 training images of CIFAR-10 at imbalance ratio 25, and 40 test images of each class.
    """
    _refuse_flags_of_folders(options)
    return dataclasses.replace(read_npz(_MINI_FILE), name=_MINI)


@DATASETS.register("cifar10")
@DATASETS.register("cifar100")
def read_cifar(options: DataOptions) -> DataParts:
    """CIFAR-10 or CIFAR-100, downloaded to ``options.data_dir`` where it is not there yet.

    The archives hold pickles; torchvision reads them only after their md5 sums have been found to
    be those of the published files.

    Raises:
        RequestError: the archive is not there and cannot be downloaded, or is damaged.
    """
    import torchvision

    _refuse_flags_of_folders(options)
    name, folder = options.dataset, Path(options.data_dir)
    kind = getattr(torchvision.datasets, name.upper())
    try:
        parts = [kind(str(folder), train=train, download=True) for train in (True, False)]
    except Exception as error:
        # urllib, tarfile and torchvision's checks raise a dozen types between them.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(
            f"{name} is not in {folder} and could not be downloaded ({reason}): put "
            f"{name.replace('cifar', 'cifar-')}-python.tar.gz there, or name its folder with "
            "--data-dir"
        ) from error
    train, test = (
        ImageSet(torch.from_numpy(part.data), torch.tensor(part.targets, dtype=torch.int64))
        for part in parts
    )
    return DataParts(name, train, None, test, tuple(parts[0].classes))


def load_data(
    options: DataOptions,
    *,
    pixel_range: PixelRange | None = None,
    largest: int | None = None,
    preview: bool = False,
) -> ImageData:
    """The data set that ``options.dataset`` names, or that its path holds.

    The training part is long-tailed where an imbalance ratio is given, a share of what remains is
    held out for validation where that is asked for, images are resized where a size is given, and
    mean and standard deviation are then those of the training part.

    Args:
        options: which data.
        pixel_range: of a file or folder whose pixels have more than 8 bits, what becomes 0 and 255;
            None: the range of its own training part, before that is long-tailed.
        largest: where no size is given, images whose longer side has more pixels than this are
            resized to squares of it, and ``original_size`` says what they were.
        preview: a folder's images stay in their files, however few they are, and mean and standard
            deviation are those of 64 of them: for a look that is not trained on.

    Raises:
        RequestError: an unknown name, a file or folder that is not a data set, an imbalance ratio
            that the data cannot have, or a validation share of data that have such a part.
    """
    parts = _read(options, pixel_range, largest, preview)
    ratio, size = options.imbalance_ratio, options.image_size
    if ratio is not None and ratio != 1:
        parts = dataclasses.replace(parts, train=_long_tailed(parts, ratio, options))
    if size is None and largest is not None and max(parts.train.image_size) > largest:
        size = largest
        parts = dataclasses.replace(parts, original_size=parts.train.image_size)
    if options.validation_share > 0:
        parts = _with_validation(parts, options)
    if size is not None:
        parts = parts.with_each(lambda part: _resized(part, size))
    mean, std = channel_statistics(parts.train, **({"most_decoded": 64} if preview else {}))
    return ImageData(**vars(parts), mean=mean, std=std)


def _read(
    options: DataOptions, pixel_range: PixelRange | None, largest: int | None, preview: bool
) -> DataParts:
    name = options.dataset
    if name in DATASETS:
        return DATASETS.get(name)(options)
    path = Path(name).expanduser()
    if path.is_dir():
        return read_folder(
            path,
            image_size=options.image_size,
            seed=options.data_seed,
            background=options.background,
            skip_corrupt=options.skip_corrupt,
            pixel_range=pixel_range,
            largest=largest,
            preview=preview,
        )
    if path.suffix.lower() == ".npz":
        if not path.is_file():
            raise RequestError(f"--dataset {name}: there is no such file")
        _refuse_flags_of_folders(options)
        return read_npz(path, pixel_range=pixel_range)
    if path.is_file():
        raise RequestError(f"--dataset {name}: {_instead(path)}")
    if path.suffix or len(path.parts) > 1:
        raise RequestError(
            f"--dataset {name}: there is no such file or folder: it is an .npz file, an image "
            f"folder, or one of {', '.join(DATASETS)}"
        )
    hint = did_you_mean(f"'{name}'", [f"'{known}'" for known in DATASETS])
    raise RequestError(
        f"--dataset {name}: no such data set{hint}: it is one of {', '.join(DATASETS)}, an .npz "
        "file, or an image folder"
    )


def _instead(path: Path) -> str:
    """What to do with a file that is no data set."""
    ending = path.suffix.lower()
    if ending in IMAGES:
        return "a single image: give the folder that has a folder of images for each class"
    for kind, endings, advice in _OTHER_KINDS:
        if ending in endings:
            return f"{kind} {advice}"
    return "no data set: it is an .npz file, or an image folder with a folder for each class"


def _refuse_flags_of_folders(options: DataOptions) -> None:
    """Refuse what a data set that is no folder of image files does not read."""
    for name in ("background", "skip_corrupt"):
        value = getattr(options, name)
        if value != getattr(DataOptions(), name):
            raise RequestError(
                f"--{name.replace('_', '-')} {value} is about folders of image files, and "
                f"{options.dataset} is none: leave it out"
            )


def _long_tailed(parts: DataParts, ratio: float, options: DataOptions) -> ImageSet:
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


def _with_validation(parts: DataParts, options: DataOptions) -> DataParts:
    share, train = options.validation_share, parts.train
    if parts.validation is not None:
        raise RequestError(
            f"--validation-share {share:g}: {parts.name} has a validation part of "
            f"{len(parts.validation)} images already: leave it out"
        )
    kept, chosen = held_out(train.labels, share, options.data_seed, parts.class_names)
    if not len(chosen):
        raise RequestError(
            f"--validation-share {share:g}: no class of {parts.name} has two training images, of "
            "which one could be held out: leave it out"
        )
    return dataclasses.replace(parts, train=train.subset(kept), validation=train.subset(chosen))


def _resized(part: ImageSet, size: int) -> ImageSet:
    if not isinstance(part.images, torch.Tensor):
        return part  # a folder's images are resized as they are decoded
    return ImageSet(resize_square(part.images, size), part.labels)
