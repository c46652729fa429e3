"""CIFAR-10 and CIFAR-100 as torchvision downloads them."""

from __future__ import annotations

from pathlib import Path

import torch
import torchvision

from ssfnas.data.imageset import ImageSet
from ssfnas.data.parts import DataParts
from ssfnas.errors import RequestError

_ARCHIVES = {
    "cifar10": ("CIFAR10", "cifar-10-python.tar.gz"),
    "cifar100": ("CIFAR100", "cifar-100-python.tar.gz"),
}


def read_torchvision(name: str, data_dir: Path) -> DataParts:
    """CIFAR-10 or CIFAR-100, downloaded to ``data_dir`` where it is not there yet.

    The archives hold pickles; torchvision reads them only after their md5 sums have been found to
    be those of the published files.

    Args:
        name: ``"cifar10"`` or ``"cifar100"``.
        data_dir: folder of the archive.

    Raises:
        RequestError: the archive is not there and cannot be downloaded, or is damaged.
    """
    class_name, archive = _ARCHIVES[name]
    kind = getattr(torchvision.datasets, class_name)
    try:
        parts = [kind(str(data_dir), train=train, download=True) for train in (True, False)]
    except Exception as error:
        # urllib, tarfile and torchvision's checks raise a dozen types between them.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RequestError(
            f"{name} is not in {data_dir} and could not be downloaded ({reason}): put {archive} "
            "there, or name its folder with --data-dir"
        ) from error
    sets = [
        ImageSet(torch.from_numpy(part.data), torch.tensor(part.targets, dtype=torch.int64))
        for part in parts
    ]
    return DataParts(name, sets[0], None, sets[1], tuple(parts[0].classes))
