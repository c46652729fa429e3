"""From which logit on a label is decided to be there, chosen label by label."""

from __future__ import annotations

import torch
from torch import Tensor

from ssfnas.runs.run_files import RunFiles, evaluation_file


def f1_scores(decided: Tensor, labels: Tensor) -> list[float | None]:
    """F1 = 2 TP / (2 TP + FP + FN) of each label; None for one that no image is known to have.

    Args:
        decided: bool [N, L].
        labels: 0 or 1 floating [N, L], NaN where it is not known.
    """
    known, members = ~labels.isnan(), labels > 0.5
    hits = (decided & members).sum(0).double()
    named = ((decided & known).sum(0) + members.sum(0)).double()
    scores = (2 * hits / named.clamp_min(1)).tolist()
    present = members.any(0).tolist()
    return [score if there else None for score, there in zip(scores, present, strict=True)]


def macro_f1(decided: Tensor, labels: Tensor) -> float | None:
    """Mean F1 over the labels that an image has; see :func:`f1_scores`."""
    scores = [score for score in f1_scores(decided, labels) if score is not None]
    return sum(scores) / len(scores) if scores else None


def best_thresholds(logits: Tensor, labels: Tensor) -> Tensor:
    """For each label the logit above which deciding for it maximizes F1.

    Thresholds lie midway between neighboring logits; of equals the one nearest to 0 counts, where
    the probability is 0.5. A label that no image has keeps 0.

    Args:
        logits: floating [N, L].
        labels: 0 or 1 [N, L].

    Returns:
        float64 [L].
    """
    return torch.stack(
        [
            _best(scores, members)
            for scores, members in zip(logits.double().T, labels.T, strict=True)
        ]
    )


def chosen_thresholds(run: RunFiles, which: str) -> list[float] | None:
    """For each label the logit to decide at that the validation part of a run chose.

    Args:
        run: a retraining on images with several labels.
        which: of its weights.

    Returns:
        None where the evaluation of these weights has chosen none, or has not been made.
    """
    file = evaluation_file(which)
    if not (run.path / file).is_file():
        return None
    choice = run.read_json(file).get("choices", {}).get("thresholds")
    return None if choice is None else [float(logit) for logit in choice["chosen"]["logit"]]


def _best(scores: Tensor, labels: Tensor) -> Tensor:
    scores, order = scores.sort(descending=True)
    members = (labels[order] > 0.5).double()
    if not bool(members.any()):
        return scores.new_zeros(())
    taken = torch.arange(1, len(scores) + 1, dtype=scores.dtype, device=scores.device)
    f1 = 2 * members.cumsum(0) / (taken + members.sum())
    below = torch.cat([scores[1:], scores[-1:] - 1])
    middle = (scores + below) / 2
    f1[scores == below] = -1  # no threshold tells equal scores apart
    # Whatever lies between two scores decides alike: 0 itself, where it does.
    middle = torch.where((scores > 0) & (below <= 0), 0.0, middle)
    best = f1 == f1.max()
    return middle[best][middle[best].abs().argmin()]
