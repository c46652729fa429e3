"""What a trained network has to know of its data: names, sizes, statistics."""

from __future__ import annotations

import dataclasses
from typing import Any

from ssfnas.data import ImageData
from ssfnas.errors import RequestError


@dataclasses.dataclass(frozen=True)
class DataCard:
    """The part of a data set that is saved with a run, in ``data.json``.

    Attributes:
        name: of the data set.
        class_names: in label order.
        class_counts: training images of each class.
        multi_label: whether an image can have several labels.
        in_channels: of an image.
        image_size: (height, width) in pixels.
        mean, std: of the training part by channel, of pixels in 0 .. 1.
    """

    name: str
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    multi_label: bool
    in_channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, data: ImageData) -> DataCard:
        """The card of a data set."""
        height, width = data.image_size
        return cls(
            name=data.name,
            class_names=tuple(data.class_names),
            class_counts=tuple(int(count) for count in data.class_counts),
            multi_label=data.multi_label,
            in_channels=data.in_channels,
            image_size=(int(height), int(width)),
            mean=tuple(float(value) for value in data.mean),
            std=tuple(float(value) for value in data.std),
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> DataCard:
        """From JSON.

        Raises:
            RequestError: a field is missing.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, dict) or any(name not in values for name in names):
            raise RequestError("data.json is damaged: it does not hold " + ", ".join(names))
        plain: dict[str, Any] = {
            name: tuple(values[name]) if isinstance(values[name], list) else values[name]
            for name in names
        }
        return cls(**plain)
