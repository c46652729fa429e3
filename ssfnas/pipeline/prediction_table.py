"""Predictions as people read them on a screen: the first ones, and how many of each class."""

from __future__ import annotations

from collections import Counter

from rich.cells import cell_len, set_cell_size

from ssfnas.errors import printable
from ssfnas.evaluation.measure_names import shown
from ssfnas.evaluation.predictor import PredictedBatch
from ssfnas.pipeline.prediction_files import ranked

SHOWN = 20
"""Images that are listed."""
_CLASSES = 20
_WIDEST = 60


class PredictionTable:
    """Takes predictions and makes lines of them.

    Args:
        class_names: in label order.
        top_k: classes to name for each image.
        multi_label: whether an image may have several labels.

    Attributes:
        counts: how many images were decided for each class; with several labels an image counts
            for each of its labels.
        images: how many there were, those that could not be read included.
        none: with several labels: how many images have none.
        unread: how many could not be read.
    """

    def __init__(self, class_names: tuple[str, ...], top_k: int, multi_label: bool) -> None:
        self._names, self._top_k, self._several = class_names, top_k, multi_label
        self._rows: list[list[str]] = []
        self.counts: Counter[int] = Counter()
        self.images = self.none = self.unread = 0

    def add(self, batch: PredictedBatch) -> None:
        """Count a batch, and keep the first of all images to list them."""
        self.counts += Counter(dict(enumerate(batch.decided.sum(0).tolist())))
        self.images += len(batch.names)
        read = [not problem for problem in batch.problems]
        self.unread += read.count(False)
        self.none += sum(
            there and not some
            for there, some in zip(read, batch.decided.any(1).tolist(), strict=True)
        )
        missing = SHOWN - len(self._rows)
        if missing <= 0:
            return
        told = self._labels(batch) if self._several else self._classes(batch)
        for name, problem, columns in zip(
            batch.names[:missing], batch.problems, told, strict=False
        ):
            file = name.file + ("" if name.index is None else f"[{name.index}]")
            self._rows.append([printable(file), *(["could not be read"] if problem else columns)])

    def _classes(self, batch: PredictedBatch) -> list[list[str]]:
        return [
            [text for name, value in pairs for text in (printable(name), _percent(value))]
            for pairs in ranked(batch, self._names, self._top_k)
        ]

    def _labels(self, batch: PredictedBatch) -> list[list[str]]:
        rows = zip(batch.decided.tolist(), batch.probabilities.tolist(), strict=True)
        return [
            [
                ", ".join(
                    f"{printable(name)} {shown('probability', value)}"
                    for name, there, value in zip(self._names, decided, values, strict=True)
                    if there
                )
                or "none of the labels"
            ]
            for decided, values in rows
        ]

    def lines(self, all_in: str | None) -> list[str]:
        """What is shown.

        Args:
            all_in: the file that holds all predictions; None: there is none.
        """
        head = ["file", "classes"] if self._several else ["file", "class", "probability"]
        for place in range(2, self._top_k + 1):
            head += [f"class {place}", f"probability {place}"]
        lines = _aligned([head, *self._rows])
        if self.images > len(self._rows):
            where = f"{all_in} has all" if all_in else "--out FILE.csv or FILE.json writes all"
            lines.append(f"... and {self.images - len(self._rows):,} more: {where}")
        if self.images > 1:
            found = [(number, count) for number, count in self.counts.most_common() if count]
            told = [f"{printable(self._names[number])}: {count:,}" for number, count in found]
            if len(told) > _CLASSES:
                told = [*told[:_CLASSES], f"and {len(told) - _CLASSES:,} classes more"]
            told += [f"none of them: {self.none:,}"] if self._several and self.none else []
            told += [f"could not be read: {self.unread:,}"] if self.unread else []
            lines += ["", f"{self.images:,} images, by class: {', '.join(told)}"]
        return lines


def _percent(probability: float) -> str:
    return shown("probability", probability)


def _aligned(rows: list[list[str]]) -> list[str]:
    """Rows as lines, in columns of their own width."""
    count = max(map(len, rows))
    widths = [
        min(_WIDEST, max(cell_len(row[place]) for row in rows if place < len(row) - 1))
        for place in range(count - 1)
    ]
    return ["  ".join([*map(_fitting, row[:-1], widths), row[-1]]).rstrip() for row in rows if row]


def _fitting(text: str, width: int) -> str:
    """Padded to so many cells; of a longer one the end, which tells paths apart."""
    while cell_len(text) > width:
        text = "…" + text[1 + (text[0] == "…") :] if len(text) > 1 else ""
    return set_cell_size(text, width)
