"""The page of a prediction: how many of each class, and images with what the network says."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePath

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ssfnas.errors import printable
from ssfnas.evaluation.predictor import PredictedBatch
from ssfnas.pictures.gallery import Picture, gallery, reduced
from ssfnas.pictures.html import predictions_html
from ssfnas.pictures.markup import joined, table, tag
from ssfnas.pictures.numbers import tenths
from ssfnas.pictures.page_parts import Section, paragraph, tiles

_EXTREMES = 12
"""Images that are most certain, and as many that are least."""
_EACH_CLASS = 4
_CLASSES = 24
_KEPT = 400
_UNREAD = 50
_NAMED = 3

Kept = tuple[float, int, Picture]
"""Certainty, the number of the image, which tells equals apart, and how it is shown."""


class PredictionPage:
    """Takes predictions, and keeps the few images that the page shows.

    Certain is what has a high probability of its class; with several labels an image, where every
    probability is far from the threshold of its label.

    Args:
        class_names: in label order.
        multi_label: whether an image may have several labels.
        thresholds: with several labels, the probability of each from which it is decided for.
    """

    def __init__(
        self, class_names: Sequence[str], multi_label: bool, thresholds: Sequence[float] = ()
    ) -> None:
        self._names, self._several = class_names, multi_label
        self._thresholds = np.asarray(thresholds)
        self._images = 0
        self._counts: Counter[int] = Counter()
        self._most: list[Kept] = []
        self._least: list[Kept] = []
        self._of_class: dict[int, list[Picture]] = {}
        self._each = max(1, min(_EACH_CLASS, _KEPT // len(class_names)))
        self._unread: list[str] = []
        self._unread_count = 0

    def add(self, batch: PredictedBatch) -> None:
        """Count a batch, and keep what may be shown of it."""
        probabilities = batch.probabilities.numpy()
        decided = batch.decided.numpy()
        certainty = probabilities.max(1)
        if self._several:
            certainty = np.abs(probabilities - self._thresholds).min(1)
        for row, problem in enumerate(batch.problems):
            self._images += 1
            if problem:
                self._unread_count += 1
                if len(self._unread) < _UNREAD:
                    self._unread.append(problem)
                continue
            classes = np.flatnonzero(decided[row]).tolist()
            self._counts.update(classes)
            certain = float(certainty[row])
            wanted = [c for c in classes if len(self._of_class.get(c, ())) < self._each]
            most = len(self._most) < _EXTREMES or certain > self._most[0][0]
            least = len(self._least) < _EXTREMES or -certain > self._least[0][0]
            if not (wanted or most or least):
                continue
            picture = self._picture(batch, row, probabilities[row], classes)
            for number in wanted:
                self._of_class.setdefault(number, []).append(picture)
            for there, heap, value in ((most, self._most, certain), (least, self._least, -certain)):
                if there:
                    heapq.heappush(heap, (value, -self._images, picture))
                    if len(heap) > _EXTREMES:
                        heapq.heappop(heap)

    def _picture(
        self, batch: PredictedBatch, row: int, values: NDArray[np.float64], classes: list[int]
    ) -> Picture:
        name = batch.names[row]
        place = "" if name.index is None else f"[{name.index}]"
        file = printable(PurePath(name.file).name) + place
        told = classes if self._several else np.argsort(-values, kind="stable")[:_NAMED].tolist()
        lines = [
            tag("b", text) if number in classes else text
            for number in told
            for text in [f"{self._names[number]}: {tenths(values[number])}"]
        ]
        if self._several and not classes:
            lines = ["none of the labels"]
        pixels = reduced(batch.pixels[row].numpy()).copy()
        return Picture([pixels], [*lines, tag("small", file)], printable(name.file) + place)

    def html(self, title: str, run: str, weights: str, notes: Sequence[str]) -> str:
        """The page.

        Args:
            title: of the page.
            run: the directory of the network.
            weights: which of its weights were used.
            notes: how it was done, a line each.
        """
        return predictions_html(
            title,
            run,
            [
                self._summary(weights, notes),
                self._class_counts(),
                self._certain(),
                self._classes(),
                self._problems(),
            ],
        )

    def _summary(self, weights: str, notes: Sequence[str]) -> Section:
        facts = [
            ("images", f"{self._images:,}"),
            ("could not be read", f"{self._unread_count:,}" if self._unread_count else None),
            ("classes that were found", f"{len(self._counts):,} of {len(self._names):,}"),
            ("weights", weights),
        ]
        said = [tag("li", note) for note in notes]
        body = [tiles(facts), tag("ul", *said) if said else None]
        body.append(
            paragraph(
                "Nothing here says how often the network is right: that is measured on labeled "
                "images (python -m ssfnas.evaluate)."
            )
        )
        return Section("summary", "Summary", joined(body))

    def _class_counts(self) -> Section:
        read = max(1, self._images - self._unread_count)
        rows = [
            (self._names[number], f"{count:,}", f"{100 * count / read:.2f} %")
            for number, count in self._counts.most_common()
        ]
        head = ("label" if self._several else "predicted class", "images", "share")
        listing: Markup = table(head, rows, class_="numbers")
        if len(rows) > _CLASSES:
            first = table(head, rows[:_CLASSES], class_="numbers")
            more = tag("details", tag("summary", f"All {len(rows):,}"), listing)
            listing = joined([first, more])
        missing = [name for number, name in enumerate(self._names) if not self._counts.get(number)]
        absent = None
        if missing:
            listed = ", ".join(missing[:_CLASSES])
            more_text = f" and {len(missing) - _CLASSES:,} more" if len(missing) > _CLASSES else ""
            absent = paragraph(f"Never predicted: {listed}{more_text}.")
        return Section("counts", "How many of each", joined([listing, absent]))

    def _certain(self) -> Section | None:
        if not self._most:
            return None
        what = (
            "By how far the probability that is nearest to its label's threshold lies from it."
            if self._several
            else "By the probability of the class that was predicted."
        )
        shown = [
            (title, gallery(picture for _, _, picture in sorted(heap, reverse=True)))
            for title, heap in (("Most certain", self._most), ("Least certain", self._least))
        ]
        parts = [tag("h3", title) + pictures for title, pictures in shown]
        return Section("certain", "Most and least certain", joined([paragraph(what), *parts]))

    def _classes(self) -> Section | None:
        numbers = [number for number, _ in self._counts.most_common(_CLASSES)]
        if not numbers:
            return None
        parts = []
        for number in numbers:
            pictures, count = self._of_class[number], self._counts[number]
            head = f"{self._names[number]} ({len(pictures):,} of {count:,})"
            parts += [tag("h3", head), gallery(pictures)]
        said = "The first images of each class, as the network saw them"
        if len(self._counts) > len(numbers):
            said += f"; of {len(self._counts):,} classes the {len(numbers)} with the most images"
        return Section("classes", "Images of each class", joined([paragraph(f"{said}."), *parts]))

    def _problems(self) -> Section | None:
        if not self._unread:
            return None
        rest = self._unread_count - len(self._unread)
        more = [f"and {rest:,} more"] if rest else []
        lines = [tag("li", printable(text)) for text in [*self._unread, *more]]
        return Section("unread", "Could not be read", tag("ul", *lines), alert=True)
