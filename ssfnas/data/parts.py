"""What a source hands over, before long-tailing and statistics."""

from __future__ import annotations

from dataclasses import dataclass

from ssfnas.data.imageset import ImageSet


@dataclass(frozen=True, eq=False)
class DataParts:
    """The parts of a data set as they were read; see :class:`ssfnas.data.imageset.ImageData`."""

    name: str
    train: ImageSet
    validation: ImageSet | None
    test: ImageSet | None
    class_names: tuple[str, ...]
