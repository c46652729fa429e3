"""What whoever uses an exported network has to know of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ssfnas.errors import RequestError
from ssfnas.runs.data_card import DataCard

RESIZING = (
    "the shorter side is resized to that of input_size (bilinear, antialiased, rounded to 8 bits) "
    "and the middle cut out"
)


@dataclass(frozen=True, kw_only=True)
class NetworkCard:
    """What goes with the weights of a network wherever they go.

    Attributes:
        data: names of classes, size and statistics of images, and the range of deeper pixels.
        background: what transparent pixels were composed on: white, gray or black.
        model: ``"derived"``, or ``"timm:NAME"``.
        weights: ``"last"``, ``"best"`` or ``"ema"``.
        thresholds: of images with several labels, the probability to decide each label at, as the
            validation part chose it; None: nothing was chosen, so 0.5.
        version: of the ssfnas that trained it.
    """

    data: DataCard
    background: str
    model: str
    weights: str
    version: str
    thresholds: tuple[float, ...] | None = None

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        return self.data.in_channels, *self.data.image_size

    def facts(self) -> dict[str, Any]:
        """For JSON: what to do with images before the network, and what comes out of it."""
        data = self.data
        return {
            "ssfnas": self.version,
            "model": self.model,
            "weights": self.weights,
            "dataset": data.name,
            "class_names": list(data.class_names),
            "multi_label": data.multi_label,
            "thresholds": None if self.thresholds is None else list(self.thresholds),
            "input_size": list(self.input_size),
            "mean": list(data.mean),
            "std": list(data.std),
            "background": self.background,
            "pixel_range": None if data.pixel_range is None else list(data.pixel_range),
            "resizing": RESIZING,
        }

    def to_dict(self) -> dict[str, Any]:
        """For JSON, all of it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> NetworkCard:
        """What :meth:`to_dict` gave.

        Raises:
            RequestError: a field is missing.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        needed = [name for name in names if name != "thresholds"]
        if not isinstance(values, dict) or any(values.get(name) is None for name in needed):
            raise RequestError(f"it does not hold {', '.join(needed)} of a network of ssfnas")
        known: dict[str, Any] = {name: values.get(name) for name in names}
        known["data"] = DataCard.from_dict(known["data"])
        if known["thresholds"] is not None:
            known["thresholds"] = tuple(known["thresholds"])
        return cls(**known)
