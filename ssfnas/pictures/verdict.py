"""What a run came to, in a few sentences, beside what chance would give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssfnas.evaluation.classification_metrics import GROUPS
from ssfnas.evaluation.measure_names import is_number, shown
from ssfnas.pictures.chance import chance_of
from ssfnas.runs.run_files import RunFiles

_MOST_NAMES = 3
_CLEARLY = 2.0
"""Standard errors by which a share of right predictions has to exceed chance."""
_HARDLY = 0.05
"""An AUC of one half and no more than this is called no better than chance."""


@dataclass(frozen=True)
class Verdict:
    """Sentences, and whether they say that something is amiss."""

    sentences: Sequence[str]
    alert: bool = False


def retrain_verdict(run: RunFiles, last: Mapping[str, Any]) -> Verdict | None:
    """What the last weights are worth on the test part; None where nothing was measured.

    Args:
        run: a retraining.
        last: its metrics.
    """
    if is_number(last.get("top1")):
        return _of_classes(run, last)
    if is_number(last.get("auc")):
        return _of_labels(run, last)
    return None


def _of_classes(run: RunFiles, last: Mapping[str, Any]) -> Verdict:
    per_class = last.get("per_class") or []
    classes = len(per_class) or len(run.class_names)
    if classes < 2:
        return Verdict([f"Right on {shown('top1', last['top1'])} of the test images."])
    chance, top1 = chance_of(run, classes), float(last["top1"])
    number = _number_of_images(run)
    images = f"{number:,} test images" if number else "the test images"
    same = chance.largest is None or math.isclose(chance.largest, chance.uniform, abs_tol=5e-4)
    guess = f"guessing gives {shown('top1', chance.uniform)}"
    if not same:
        assert chance.largest is not None
        largest = f"naming the largest class each time gives {shown('top1', chance.largest)}"
        guess = f"{largest}, and {guess}"
    sentences = [f"Right on {shown('top1', top1)} of {images}; {guess}."]
    error = math.sqrt(chance.best * (1 - chance.best) / number) if number else 0.0
    alert = top1 <= chance.best + _CLEARLY * error
    balanced = last.get("balanced_accuracy")
    if is_number(balanced):
        sentences.append(
            f"Every class counted alike: {shown('top1', balanced)} (chance "
            f"{shown('top1', chance.uniform)})."
        )
    if alert:
        better = balanced is not None and balanced > chance.uniform + _CLEARLY * error
        sentences.append(
            "That is no better than chance over all images"
            + (", but the classes that have few of them are told apart." if better else ".")
        )
    groups = [f"{name} {shown(name, last[name])}" for name in GROUPS if is_number(last.get(name))]
    if len(groups) > 1:
        sentences.append(f"By the training images of a class: {', '.join(groups)}.")
    sentences += _weakest(run.class_names, per_class, "right")
    sentences += _drawn_to_large(run)
    return Verdict(sentences, alert)


def _number_of_images(run: RunFiles) -> int | None:
    data = run.evaluation.get("data")
    number = data.get("test_images") if isinstance(data, Mapping) else None
    return number if isinstance(number, int) else None


def _weakest(names: Sequence[str], values: Sequence[Any], what: str) -> list[str]:
    known = [
        (value, names[place] if place < len(names) else str(place))
        for place, value in enumerate(values)
        if is_number(value)
    ]
    never = [name for value, name in known if value == 0]
    if never:
        more = len(never) - _MOST_NAMES
        listed = ", ".join(never[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
        return [f"Never {what}: {listed} ({len(never)} of {len(known)} classes)."]
    if not known:
        return []
    value, name = min(known)
    return [f"Weakest: {name}, {shown('top1', value)}."]


def _drawn_to_large(run: RunFiles) -> list[str]:
    """Says where most images of the classes with few are taken for classes with many."""
    confusions = run.evaluation.get("confusions")
    groups = confusions.get("groups") if isinstance(confusions, Mapping) else None
    few = groups.get("few") if isinstance(groups, Mapping) else None
    if not isinstance(few, Mapping) or not is_number(few.get("many")) or not sum(few.values()):
        return []
    share = few["many"] / sum(few.values())
    if share < 1 / 3:
        return []
    return [
        f"{shown('top1', share)} of the test images of classes with few training images are taken "
        "for classes with many."
    ]


def _of_labels(run: RunFiles, last: Mapping[str, Any]) -> Verdict:
    auc = float(last["auc"])
    sentences = [
        f"An image that has a label is ranked before one that has not in {shown('auc', auc)} of "
        "the cases, on average over labels (AUC; chance 50 %)."
    ]
    alert = auc <= 0.5 + _HARDLY
    if alert:
        sentences.append("That is hardly better than chance.")
    areas = [
        (value, run.class_names[place] if place < len(run.class_names) else str(place))
        for place, value in enumerate(last.get("per_class_auc") or [])
        if is_number(value)
    ]
    if areas:
        (low, weak), (high, strong) = min(areas), max(areas)
        sentences.append(
            f"Best: {strong}, {shown('auc', high)}; weakest: {weak}, {shown('auc', low)}."
        )
        guessed = [name for value, name in areas if value <= 0.5]
        if guessed and not alert:
            more = len(guessed) - _MOST_NAMES
            listed = ", ".join(guessed[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
            sentences.append(f"Not better than chance: {listed}.")
    return Verdict(sentences, alert)


def search_verdict(run: RunFiles) -> Verdict | None:
    """What a search found, and how decided it was; None before it has come to its end."""
    genotype = run.genotype
    if genotype is None:
        return None
    edges = [*genotype.normal, *genotype.reduce]
    skips = sum(operation == "skip_connect" for operation, _, _ in edges)
    sentences = [
        f"Found a normal cell of {_operations(len(genotype.normal))} and a reduction cell of "
        f"{_operations(len(genotype.reduce))}; {skips or 'none'} of the {len(edges)} "
        f"{'is a skip connection' if skips == 1 else 'are skip connections'}."
    ]
    alert = 2 * skips > len(edges)
    if alert:
        sentences.append(
            "Mostly skip connections: such networks have few weights and rarely train well."
        )
    weights = [values[-1] for values in run.weights.values()]
    if weights:
        sentence, undecided = _decidedness(weights)
        sentences.append(sentence)
        alert |= undecided
    return Verdict([*sentences, *_neighbors(run)], alert)


def _operations(number: int) -> str:
    return f"{number} operation{'s' * (number != 1)}"


def _decidedness(tables: Sequence[NDArray[np.floating]]) -> tuple[str, bool]:
    """How far the weights at the end are from undecided ones, and whether they are not."""
    weights = np.concatenate([table.reshape(-1, table.shape[-1]) for table in tables])
    if np.allclose(weights.sum(1), 1, atol=1e-3):
        top, alike = float(weights.max(1).mean()), 1 / weights.shape[1]
        undecided = top < 1.5 * alike
        said = (
            f"The largest weight of an edge is {top:.2f} on average, where operations that are "
            f"worth the same have {alike:.2f} each"
        )
    else:
        decided = float(((weights < 0.1) | (weights > 0.9)).mean())
        undecided = decided < 0.2
        said = f"{shown('top1', decided)} of the weights are decided (below 0.1 or above 0.9)"
        if undecided:
            said += f"; they lie from {weights.min():.2f} to {weights.max():.2f}"
    if undecided:
        said += ": the search was too short to tell most operations apart"
    return said + ".", undecided


def _neighbors(run: RunFiles) -> list[str]:
    value, classes = run.last("knn/balanced"), len(run.class_names)
    if not is_number(value) or classes < 2:
        return []
    return [
        f"Nearest neighbors by its features: {shown('top1', value)}, every class counted alike "
        f"(chance {shown('top1', 1 / classes)})."
    ]
