"""What a trained network has to know of its data: names, sizes, statistics."""

from __future__ import annotations

import dataclasses
import math
import unicodedata
import warnings
from collections.abc import Sequence
from typing import Any

from ssfnas.data import ImageData
from ssfnas.errors import RequestError

# Decoders of two versions may differ in the last bits of a pixel, other images in more than that.
SAME_PIXELS = 1e-3
# Of values in 0 .. 1; a channel that never varies is given more.
_LARGEST_STD = 0.5


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
        pixel_range: the values that became 0 and 255 where pixels had more than 8 bits; None: they
            had 8.
        original_size: (height, width) that the images have in their source, where a search took
            them smaller by itself.
        skipped: files that could not be read and were left out.
        training_images, validation_images, test_images: how many there are; None: it was written
            before they were noted.
        test_counts: test images of each class; None: likewise, or there is no test part.
    """

    name: str
    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    multi_label: bool
    in_channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pixel_range: tuple[float, float] | None = None
    original_size: tuple[int, int] | None = None
    skipped: tuple[str, ...] = ()
    training_images: int | None = None
    validation_images: int | None = None
    test_images: int | None = None
    test_counts: tuple[int, ...] | None = None

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
            pixel_range=data.pixel_range,
            original_size=data.original_size,
            skipped=data.skipped,
            training_images=len(data.train),
            validation_images=0 if data.validation is None else len(data.validation),
            test_images=0 if data.test is None else len(data.test),
            test_counts=(
                None if data.test is None else tuple(data.test.class_counts(data.num_classes))
            ),
        )

    def difference(self, other: DataCard) -> str | None:
        """The first thing that ``other`` has differently, in words; None where there is none.

        What the data set is called does not count.
        """
        for what, own, others in (
            ("labels an image", _labels(self), _labels(other)),
            ("classes", len(self.class_names), len(other.class_names)),
            *(
                (f"class {number}", own, others)
                for number, (own, others) in enumerate(
                    zip(*map(normalized, (self.class_names, other.class_names)), strict=False)
                )
            ),
            ("channels", self.in_channels, other.in_channels),
            ("pixels", *("{1} x {0}".format(*card.image_size) for card in (self, other))),
            ("range of pixels", self.pixel_range, other.pixel_range),
            *(
                (f"training images of class '{name}'", count, others)
                for name, count, others in zip(
                    self.class_names, self.class_counts, other.class_counts, strict=False
                )
            ),
        ):
            if own != others:
                return f"{what}: {others} in place of {own}"
        pairs = zip((*self.mean, *self.std), (*other.mean, *other.std), strict=True)
        if not all(math.isclose(a, b, rel_tol=0, abs_tol=SAME_PIXELS) for a, b in pairs):
            return "as many training images, but others: mean and deviation of their pixels differ"
        return None

    def warn_of_another_depth(self, data: ImageData) -> None:
        """Warn where the values of other images have no scale in common with those trained on.

        That is so where 8 bits meet deeper pixels, and where deeper ones lie so far from the range
        of this card that they become nearly one color (12 bits beside 16, floats beside integers).
        """
        low, high = self.pixel_range or (0, 0)
        if self.pixel_range is None and data.pixel_range is None:
            return
        if data.pixel_range is None:
            text = (
                f"{data.name} has pixels of 8 bits, taken as they are; {self.name}, which was "
                f"trained on, had deeper ones, of which {low:g} to {high:g} became 0 to 255"
            )
        elif self.pixel_range is None:
            text = (
                f"{data.name} has pixels of more than 8 bits, scaled by their own range; "
                f"{self.name}, which was trained on, had 8 bits"
            )
        elif self._far_from(data):
            text = (
                f"{data.name} lies far from the pixels of {self.name}, which was trained on and of "
                f"which {low:g} to {high:g} became 0 to 255: its mean there is "
                f"{_levels(data.mean)} in place of {_levels(self.mean)}; are its values on the "
                "same scale?"
            )
        else:
            return
        warnings.warn(text, stacklevel=2)

    def _far_from(self, data: ImageData) -> bool:
        """Whether a channel hardly varies, or lies two standard deviations off."""
        for mean, spread, own, own_spread in zip(
            data.mean, data.std, self.mean, self.std, strict=False
        ):
            alike = own_spread / 10 <= spread <= _LARGEST_STD and abs(mean - own) <= 2 * own_spread
            if own_spread <= _LARGEST_STD and not alike:
                return True
        return False

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> DataCard:
        """From JSON.

        Raises:
            RequestError: a field is missing.
        """
        fields = dataclasses.fields(cls)
        names = [field.name for field in fields if field.default is dataclasses.MISSING]
        if not isinstance(values, dict) or any(values.get(name) is None for name in names):
            raise RequestError("data.json is damaged: it does not hold " + ", ".join(names))
        plain: dict[str, Any] = {
            field.name: tuple(value) if isinstance(value, list) else value
            for field in fields
            if (value := values.get(field.name)) is not None
        }
        return cls(**plain)


def normalized(names: Sequence[str]) -> tuple[str, ...]:
    """Names in Unicode's composed form (NFC), in which those that look alike are equal."""
    return tuple(unicodedata.normalize("NFC", name) for name in names)


def _levels(mean: Sequence[float]) -> str:
    return ", ".join(f"{255 * value:.0f}" for value in mean)


def _labels(card: DataCard) -> str:
    return "several" if card.multi_label else "one"
