"""What predictions on long-tailed data are worth: overall, per class, per group of classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ssfnas.errors import NumericalError
from ssfnas.evaluation.thresholds import f1_scores

CALIBRATION_BINS = 15
GROUPS = ("many", "medium", "few")


def group_of(count: int) -> str:
    """``many`` (over 100 training images), ``medium`` (20 to 100) or ``few``."""
    return "many" if count > 100 else "medium" if count >= 20 else "few"


def class_groups(class_counts: Sequence[int], thirds: bool = False) -> dict[str, list[int]]:
    """Classes of each group ``many``, ``medium`` and ``few``; empty groups are absent.

    Args:
        class_counts: training images of each class.
        thirds: a third of the classes each by size, earlier groups and lower classes first where
            that leaves a choice; else more than 100, 20 to 100, and fewer than 20 images.
    """
    if thirds:
        order = sorted(range(len(class_counts)), key=lambda c: -class_counts[c])
        groups = [sorted(third.tolist()) for third in np.array_split(order, 3)]
    else:
        own = [group_of(count) for count in class_counts]
        groups = [[c for c, name in enumerate(own) if name == group] for group in GROUPS]
    return {name: classes for name, classes in zip(GROUPS, groups, strict=True) if classes}


def evaluate_predictions(
    logits: Tensor,
    labels: Tensor,
    class_counts: Sequence[int],
    *,
    multi_label: bool = False,
    thirds: bool = False,
) -> dict[str, Any]:
    """All metrics of logits against labels, as plain values for JSON; accuracies in 0..1.

    Args:
        logits: floating [N, C], N at least 1.
        labels: int64 [N]; with ``multi_label`` 0 or 1 floating [N, C], NaN where it is not known.
        class_counts: training images of each class.
        multi_label: whether an image may be of several classes.
        thirds: see :func:`class_groups`.

    Returns:
        Single-label: ``top1``, ``balanced_accuracy`` (mean of the class accuracies), ``macro_f1``,
        ``worst_class``, ``g_mean`` (geometric mean of the class accuracies), ``ece`` (expected
        calibration error of the softmax, 15 bins), ``auc`` (mean over classes of one against the
        rest), and where classes are in such groups ``many``, ``medium``, ``few`` (means of the
        class accuracies); lists over classes ``per_class`` and ``per_class_auc``; ``groups``, name
        -> classes. Multi-label: ``mean_average_precision`` (mean over labels of the average
        precision, the sum over thresholds of precision times gain in recall), ``auc``,
        ``macro_f1`` and ``accuracy`` (of decisions at 0.5), and lists over labels
        ``per_class_average_precision``, ``per_class_auc`` and ``per_class_f1``. A class without
        test images (an AUC: without images in or out of it) has None in lists and is left out of
        means; a mean over nothing is absent.

    Raises:
        NumericalError: a logit is not finite.
        ValueError: there are no predictions, or fewer than two classes to tell apart.
    """
    if len(logits) == 0:
        raise ValueError("no predictions to evaluate")
    if not bool(torch.isfinite(logits).all()):
        raise NumericalError("a logit of the evaluation is not finite")
    logits = logits.detach().double()
    if multi_label:
        return _multi_label(logits, labels)
    return _single_label(logits, labels, class_counts, thirds)


def _multi_label(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    decided, members = logits > 0, labels > 0.5
    precisions, areas = _average_precisions(logits, members), _areas(logits, members)
    f1 = f1_scores(decided, labels)
    right = (decided == members)[~labels.isnan()].double()
    return {
        **_mean("mean_average_precision", precisions),
        **_mean("auc", areas),
        **_mean("macro_f1", f1),
        "accuracy": float(right.mean()),
        "per_class_average_precision": precisions,
        "per_class_auc": areas,
        "per_class_f1": f1,
    }


def _mean(name: str, values: Sequence[float | None]) -> dict[str, float]:
    """The mean of those that are defined, where there are any."""
    defined = [value for value in values if value is not None]
    return {name: math.fsum(defined) / len(defined)} if defined else {}


def _single_label(
    logits: Tensor, labels: Tensor, class_counts: Sequence[int], thirds: bool
) -> dict[str, Any]:
    # Here and below: to import it takes as long as to measure thousands of images.
    from torchmetrics.functional.classification import multiclass_f1_score

    num_classes = logits.shape[1]
    if num_classes < 2:
        raise ValueError("a single class leaves nothing to predict")
    predicted = logits.argmax(1)
    right = (predicted == labels).double()
    sizes = torch.bincount(labels, minlength=num_classes)
    hits = torch.bincount(labels, weights=right, minlength=num_classes)
    per_class = [
        float(hit / size) if size else None
        for hit, size in zip(hits.tolist(), sizes.tolist(), strict=True)
    ]
    present = [value for value in per_class if value is not None]
    probabilities = logits.softmax(1)
    f1 = multiclass_f1_score(predicted, labels, num_classes, average=None)
    groups = class_groups(class_counts, thirds)
    result: dict[str, Any] = {
        "top1": float(right.mean()),
        "balanced_accuracy": math.fsum(present) / len(present),
        "macro_f1": float(f1[sizes > 0].double().mean()),
        "worst_class": min(present),
        "g_mean": math.prod(value ** (1 / len(present)) for value in present),
        "ece": _calibration_error(probabilities.amax(1), right),
    }
    for name, classes in groups.items():
        measured = [value for c in classes if (value := per_class[c]) is not None]
        if measured:
            result[name] = math.fsum(measured) / len(measured)
    members = labels[:, None] == torch.arange(num_classes, device=labels.device)
    areas = _areas(probabilities, members)
    return {
        **result,
        **_mean("auc", areas),
        "per_class_auc": areas,
        "per_class": per_class,
        "groups": groups,
    }


def _calibration_error(confidences: Tensor, right: Tensor) -> float:
    """Expected calibration error, over bins of equal width ``(k/15, (k + 1)/15]``.

    The last bin holds a confidence of exactly 1, which saturated logits have. Torchmetrics gives
    those a bin of their own.

    Args:
        confidences: floating [N], the largest probability of each prediction.
        right: 1 where the prediction is right, else 0, [N].

    Source: Guo et al., arXiv 1706.04599.
    """
    edges = torch.arange(1, CALIBRATION_BINS, dtype=confidences.dtype, device=confidences.device)
    bins = torch.bucketize(confidences, edges / CALIBRATION_BINS)
    gaps = torch.bincount(bins, weights=right - confidences, minlength=CALIBRATION_BINS)
    return float(gaps.abs().sum() / len(confidences))


def _areas(scores: Tensor, members: Tensor) -> list[float | None]:
    """Areas under the ROC curves of scores [N, C] against membership bool [N, C], by class."""
    from torchmetrics.functional.classification import binary_auroc

    areas: list[float | None] = []
    for score, member in zip(scores.T, members.T, strict=True):
        if bool(member.all()) or not bool(member.any()):
            areas.append(None)
            continue
        areas.append(float(binary_auroc(_places(score), member.long())))
    return areas


def _average_precisions(scores: Tensor, members: Tensor) -> list[float | None]:
    """Average precisions of scores [N, C] against membership bool [N, C], by class."""
    from torchmetrics.functional.classification import binary_average_precision

    return [
        float(binary_average_precision(_places(score), member.long())) if member.any() else None
        for score, member in zip(scores.T, members.T, strict=True)
    ]


def _places(scores: Tensor) -> Tensor:
    """Places in the order, in 0..1, which stand for scores where only their order matters.

    None of it is lost, as it would be where a sigmoid saturates.
    """
    places = scores.unique(return_inverse=True)[1].double()
    return places / max(1.0, float(places.max()))
