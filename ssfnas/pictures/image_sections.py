"""The parts of a report that show images: what a network sees, and what it gets wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ssfnas.evaluation.measure_names import shown
from ssfnas.pictures.class_bars import HALF_WIDTH
from ssfnas.pictures.gallery import Picture, gallery
from ssfnas.pictures.heat_maps import confusion_matrix
from ssfnas.pictures.markup import joined, table, tag
from ssfnas.pictures.numbers import tenths
from ssfnas.pictures.page_parts import Section, paragraph
from ssfnas.runs.run_files import RunFiles

Arrays = dict[str, NDArray[Any]]

_CONFIDENT = 24
_MISSED = 12
_PAIRS = 8
_LISTED = 10
_OF_A_PAIR = 2
_LABELS = 3


def samples_section(run: RunFiles) -> Section | None:
    """A few training images beside their views; None where the run kept none."""
    samples = run.samples
    if not len(samples.get("images", ())):
        return None
    number = samples["views"].shape[1]
    pictures = [
        Picture(
            [image, *samples["views"][row]],
            _label_lines(run, samples, row),
            f"{_labels(run, samples['labels'][row])}: the image and what the network sees of it",
        )
        for row, image in enumerate(samples["images"])
    ]
    if run.command == "search":
        what = "its two views, of which the search compares the features" if number == 2 else (
            "its view" if number == 1 else "its views"
        )  # fmt: skip
    else:
        what = {
            1: "its view in the first epoch",
            3: "its two views in the pre-training, then that in the training with labels",
        }.get(number, "its views in the first epoch")
    text = f"At the left the image, beside it {what}: each epoch draws others."
    if "shares" in samples:
        text += " Images are mixed with another of their batch, and so are their labels."
    known = sum(count > 0 for count in run.class_counts)
    shown_classes = len(_classes_in(samples["labels"]))
    if known > shown_classes:
        text += f" {shown_classes} of {known} classes: the largest, the middle and the smallest."
    return Section(
        "images", "Images as the network sees them", joined([paragraph(text), gallery(pictures)])
    )


def _classes_in(labels: NDArray[Any]) -> set[int]:
    if labels.ndim == 2:
        return set(np.flatnonzero((labels > 0.5).any(0)).tolist())
    return set(labels.tolist())


def _name(run: RunFiles, number: int) -> str:
    names = run.class_names
    return names[number] if number < len(names) else str(number)


def _labels(run: RunFiles, label: NDArray[Any]) -> str:
    if label.ndim == 0:
        return _name(run, int(label))
    present = np.flatnonzero(label > 0.5).tolist()
    return ", ".join(_name(run, number) for number in present) or "no label"


def _label_lines(run: RunFiles, samples: Arrays, row: int) -> list[object]:
    lines: list[object] = [tag("b", _labels(run, samples["labels"][row]))]
    if "shares" in samples:
        shares = samples["shares"][row]
        mixed = sorted(np.flatnonzero(shares > 0.005).tolist(), key=lambda number: -shares[number])
        if len(mixed) > 1:
            lines += [f"{100 * shares[number]:.0f} % {_name(run, number)}" for number in mixed]
    return lines


def mistakes_section(run: RunFiles) -> Section | None:
    """Test images that went wrong; None where the run kept none."""
    mistakes = run.mistakes
    if not len(mistakes.get("images", ())):
        return None
    parts = (_wrong_labels if mistakes["labels"].ndim == 2 else _wrong_classes)(run, mistakes)
    note = paragraph(
        "Images of the test part, by the last weights. The number is the image's place in the part."
    )
    return Section("mistakes", "Mistakes", joined([note, *parts]))


def _wrong_classes(run: RunFiles, mistakes: Arrays) -> list[Markup]:
    def pictures(rows: Sequence[int]) -> Markup:
        return gallery(_mistake(run, mistakes, row) for row in rows)

    labels, predicted = mistakes["labels"], mistakes["predicted"]
    parts = [
        tag("h3", "The most confident mistakes"),
        pictures(np.argsort(-mistakes["scores"], kind="stable")[:_CONFIDENT].tolist()),
    ]
    never = [number for number in _never_right(run) if (labels == number).any()]
    if never:
        listed = len(_never_right(run))
        some = "" if listed <= _MISSED else f", {min(len(never), _MISSED)} of {listed}"
        parts.append(tag("h3", f"Classes that it never gets right{some}"))
        rows = [np.flatnonzero(labels == number)[:3] for number in never[:_MISSED]]
        parts.append(pictures(np.concatenate(rows).tolist()))
    pairs = _pairs(run)[:_PAIRS]
    rows = [
        np.flatnonzero((labels == pair["true"]) & (predicted == pair["predicted"]))[:_OF_A_PAIR]
        for pair in pairs
    ]
    if any(map(len, rows)):
        parts.append(tag("h3", "What is confused most often"))
        parts.append(pictures(np.concatenate(rows).tolist()))
    return parts


def _mistake(run: RunFiles, mistakes: Arrays, row: int) -> Picture:
    true, taken = (_name(run, int(mistakes[key][row])) for key in ("labels", "predicted"))
    lines = [
        tag("b", f"{taken} {tenths(mistakes['scores'][row])}"),
        f"is {true} {tenths(mistakes['label_scores'][row])}",
        tag("small", f"image {int(mistakes['positions'][row]):,}"),
    ]
    return Picture([mistakes["images"][row]], lines, f"{true}, taken for {taken}")


def _never_right(run: RunFiles) -> list[int]:
    last = run.evaluation.get("last_epoch")
    values = last.get("per_class") if isinstance(last, Mapping) else None
    return [number for number, value in enumerate(values or []) if value == 0]


def _confusions(run: RunFiles) -> Mapping[str, Any]:
    found = run.evaluation.get("confusions")
    return found if isinstance(found, Mapping) else {}


def _pairs(run: RunFiles) -> list[dict[str, int]]:
    return list(_confusions(run).get("pairs", []))


def _wrong_labels(run: RunFiles, mistakes: Arrays) -> list[Markup]:
    scores, at = mistakes["scores"], mistakes["thresholds"]
    present = mistakes["labels"] > 0.5
    pictures = []
    for row, image in enumerate(mistakes["images"]):
        decided = scores[row] > at
        wrong = (decided != present[row]) & ~np.isnan(mistakes["labels"][row])
        order = sorted(np.flatnonzero(wrong).tolist(), key=lambda n: -abs(scores[row][n] - at[n]))
        lines: list[object] = [tag("b", _labels(run, mistakes["labels"][row]))]
        for number in order[:_LABELS]:
            kind = "not found" if present[row][number] else "wrongly found"
            lines.append(f"{kind}: {_name(run, number)} {tenths(scores[row][number])}")
        if len(order) > _LABELS:
            lines.append(f"and {len(order) - _LABELS} more")
        lines.append(tag("small", f"image {int(mistakes['positions'][row]):,}"))
        pictures.append(Picture([image], lines, f"has {_labels(run, mistakes['labels'][row])}"))
    decided_at = "a probability of 0.5" if bool((at == 0.5).all()) else (
        "the thresholds that the validation part chose"
    )  # fmt: skip
    text = (
        f"A label is decided at {decided_at}. First the most confident wrong decisions, then "
        "images of labels that are never found, those that come nearest to it."
    )
    return [paragraph(text), gallery(pictures)]


def confusions_section(run: RunFiles) -> Section | None:
    """The confusion matrix, between groups and between classes; None where there is none."""
    found = _confusions(run)
    if not found.get("counts"):
        return None
    names = [_name(run, number) for number in found["classes"]]
    text = "Test images of each class (rows) by what they were taken for (columns)."
    all_classes = len(found.get("images", names))
    if len(names) < all_classes:
        text += f" The {len(names)} of {all_classes:,} classes that are confused most."
    matrix = [paragraph(text), confusion_matrix(names, found["counts"], found["elsewhere"])]
    lists = [_between_groups(found.get("groups", {})), _frequent(run)]
    if len(names) > HALF_WIDTH:
        return Section(
            "confusions", "Confusions", joined([*matrix, tag("div", *lists, class_="beside")])
        )
    body = tag("div", tag("div", *matrix), tag("div", *lists), class_="beside")
    return Section("confusions", "Confusions", body)


def _between_groups(groups: Mapping[str, Mapping[str, int]]) -> Markup | None:
    """How the images of each group were decided."""
    if len(groups) < 2:
        return None
    rows = []
    for name, taken in groups.items():
        total = sum(taken.values())
        shares = [shown("top1", taken.get(key, 0) / total) if total else "-"
                  for key in ("right", *groups)]  # fmt: skip
        rows.append((name, f"{total:,}", *shares))
    head = ("classes with images", "test images", "right", *(f"wrong: {key}" for key in groups))
    text = paragraph("By the training images of the class: what is right, and where the rest went.")
    return tag("div", text, table(head, rows, class_="numbers"))


def _frequent(run: RunFiles) -> Markup | None:
    images = _confusions(run).get("images", [])
    rows = [
        (_name(run, pair["true"]), _name(run, pair["predicted"]), f"{pair['images']:,}",
         shown("top1", pair["images"] / images[pair["true"]]))
        for pair in _pairs(run)[:_LISTED]
    ]  # fmt: skip
    if not rows:
        return None
    head = ("class", "is taken for", "images", "of its images")
    text = paragraph("The most frequent confusions.")
    return tag("div", text, table(head, rows, class_="numbers"))
