"""What a network takes for what: confusion matrices that stay small, and the worst mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

MOST_CLASSES = 40
"""A matrix of more classes is cut down to those that are confused most."""
_MOST_PAIRS = 20

_MOST_MISTAKES = 24
_MOST_MISSED = 12
_MISSED_EACH = 3
_SHOWN_PAIRS, _PAIR_EACH = 8, 2


def confusions(
    predicted: Tensor, labels: Tensor, num_classes: int, groups: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """Which classes were predicted of the images of which, as plain values for JSON.

    Args:
        predicted, labels: int64 [N].
        num_classes: C.
        groups: name -> its classes.

    Returns:
        ``classes``, all in label order, or the 40 with the most images that are taken for another
        class or are of another; ``counts`` of them, a row for each true class and a column for
        each predicted one; ``elsewhere``, images of each that are predicted as classes that are not
        among them; ``pairs``, the at most 20 most frequent confusions, each with ``true``,
        ``predicted`` and ``images``; ``groups``, name -> of its images how many were ``right``, and
        of the others how many were predicted as a class of each group; ``images`` of each class in
        the part, all classes.
    """
    predicted, labels = predicted.cpu(), labels.cpu()
    cells, images = (labels * num_classes + predicted).unique(return_counts=True)
    true, taken = cells // num_classes, cells % num_classes
    wrong = true != taken
    # Sorting is stable: of equals the pair of lower classes comes first.
    order = torch.argsort(-images[wrong], stable=True)[:_MOST_PAIRS]
    pairs = torch.stack([true[wrong], taken[wrong], images[wrong]], 1)[order]
    kept = torch.arange(num_classes)
    if num_classes > MOST_CLASSES:
        involved = torch.zeros(num_classes, dtype=torch.int64)
        for side in (true[wrong], taken[wrong]):
            involved.index_add_(0, side, images[wrong])
        kept = torch.argsort(-involved, stable=True)[:MOST_CLASSES].sort().values
    place = torch.full((num_classes,), -1)
    place[kept] = torch.arange(len(kept))
    row, column = place[true], place[taken]
    counts = torch.zeros((len(kept), len(kept) + 1), dtype=torch.int64)
    inside = row >= 0
    counts.index_put_((row[inside], column[inside]), images[inside], accumulate=True)
    return {
        "classes": kept.tolist(),
        "counts": counts[:, :-1].tolist(),
        "elsewhere": counts[:, -1].tolist(),
        "pairs": [
            dict(zip(("true", "predicted", "images"), p, strict=True)) for p in pairs.tolist()
        ],
        "groups": _between_groups(predicted, labels, num_classes, groups),
        "images": torch.bincount(labels, minlength=num_classes).tolist(),
    }


def _between_groups(
    predicted: Tensor, labels: Tensor, num_classes: int, groups: Mapping[str, Sequence[int]]
) -> dict[str, dict[str, int]]:
    names = list(groups)
    group = torch.full((num_classes,), len(names))
    for number, classes in enumerate(groups.values()):
        group[list(classes)] = number
    right = predicted == labels
    found = {}
    for number, name in enumerate(names):
        own = group[labels] == number
        taken = torch.bincount(group[predicted[own & ~right]], minlength=len(names)).tolist()
        found[name] = {"right": int((own & right).sum()), **dict(zip(names, taken, strict=False))}
    return found


def worst_mistakes(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Positions of the images that a report shows of what went wrong.

    The most confident mistakes; of classes without a single right prediction, and of the most
    frequent confusions, the most confident ones each.

    Args:
        probabilities: floating [N, C].
        labels: int64 [N].

    Returns:
        int64 [n], the most confident mistake first; of equals the earlier image.
    """
    confidence, predicted = probabilities.cpu().max(1)
    labels = labels.cpu()
    wrong = (predicted != labels).nonzero()[:, 0]
    wrong = wrong[torch.argsort(-confidence[wrong], stable=True)]
    chosen = wrong[:_MOST_MISTAKES].tolist()
    right = labels[predicted == labels]
    never = sorted(set(labels.tolist()) - set(right.tolist()))
    for number in never[:_MOST_MISSED]:
        chosen += wrong[labels[wrong] == number][:_MISSED_EACH].tolist()
    found = confusions(predicted, labels, probabilities.shape[1], {})["pairs"]
    for pair in found[:_SHOWN_PAIRS]:
        members = (labels[wrong] == pair["true"]) & (predicted[wrong] == pair["predicted"])
        chosen += wrong[members][:_PAIR_EACH].tolist()
    kept = set(chosen)
    return torch.tensor([i for i in wrong.tolist() if i in kept], dtype=torch.int64)


def worst_decisions(margins: Tensor, labels: Tensor) -> Tensor:
    """As :func:`worst_mistakes`, of images with several labels.

    Args:
        margins: floating [N, L], above 0 where a label is decided to be there.
        labels: 0 or 1 floating [N, L], NaN where it is not known.

    Returns:
        int64 [n]: the images with the most confident wrong decisions, first the worst, and of
        labels that are never found those that come nearest to it.
    """
    margins, labels = margins.cpu(), labels.cpu()
    known, there = ~labels.isnan(), labels > 0.5
    wrong = ((margins > 0) != there) & known
    worst = torch.where(wrong, margins.abs(), -1.0).max(1).values
    order = torch.argsort(-worst, stable=True)[:_MOST_MISTAKES]
    chosen = order[worst[order] >= 0].tolist()
    never = there.any(0) & ~(there & (margins > 0)).any(0)
    for number in never.nonzero()[:_MOST_MISSED, 0].tolist():
        members = there[:, number].nonzero()[:, 0]
        nearest = members[torch.argsort(-margins[members, number], stable=True)]
        chosen += nearest[:_MISSED_EACH].tolist()
    return torch.tensor(list(dict.fromkeys(chosen)), dtype=torch.int64)
