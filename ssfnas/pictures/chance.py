"""What predictions are worth that know nothing of the image, to stand beside results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ssfnas.runs.run_files import RunFiles


@dataclass(frozen=True)
class Chance:
    """What predictions are worth that know nothing of the image.

    Attributes:
        uniform: share that is right of classes drawn alike, and mean over classes of any guess.
        largest: share that is right where the largest class is named each time; None: not known.
    """

    uniform: float
    largest: float | None

    @property
    def best(self) -> float:
        """The better of both."""
        return max(self.uniform, self.largest or 0.0)


def chance_of(run: RunFiles, classes: int) -> Chance:
    """Chance on the test part of data with one label an image.

    Args:
        run: a retraining.
        classes: how many there are.
    """
    images, counts = _test_images(run), run.class_counts
    largest = None
    if sum(images) and len(images) == len(counts) == classes:
        largest = images[max(range(classes), key=lambda number: counts[number])] / sum(images)
    return Chance(1 / classes, largest)


def chance_levels(run: RunFiles) -> dict[str, float]:
    """What chance gives by the name of the measure, as shares of 1."""
    classes = len(run.class_names)
    if run.data.get("multi_label") or classes < 2:
        return {"auc": 0.5}
    chance = chance_of(run, classes)
    return {"top1": chance.best, "balanced_accuracy": chance.uniform, "auc": 0.5}


def _test_images(run: RunFiles) -> list[int]:
    """Of each class, as far as the run says."""
    confusions = run.evaluation.get("confusions")
    measured = confusions.get("images") if isinstance(confusions, Mapping) else None
    images = measured or run.data.get("test_counts")
    return images if isinstance(images, list) else []
