"""What the validation part chooses; the test part never chooses anything.

A choice is a dict for JSON: ``chosen`` (what), ``on`` (which part), ``by`` (which metric),
``among`` (what there was to choose from), ``value`` (of the metric there), and later ``test``, what
the test part then gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PART = "validation"
_WEIGHTS = {"val": "model", "val_ema": "ema"}


def choosing_metric(multi_label: bool) -> str:
    """What is chosen by: balanced accuracy, since top-1 would choose for the large classes."""
    return "auc" if multi_label else "balanced_accuracy"


def chosen_epoch(metrics: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any] | None:
    """The epoch whose weights, or whose average of them, were best on the validation part.

    Of equals the earlier epoch counts, and in it the weights before their average.

    Args:
        metrics: what a retraining has logged, in order.
        metric: see :func:`choosing_metric`.

    Returns:
        A choice whose ``chosen`` has ``epoch``, ``weights`` (``"model"`` or ``"ema"``), ``phase``,
        and where the run defers its re-weighting, ``reweighted``; None without a validation part.
    """
    measured = [line for line in metrics if f"val/{metric}" in line]
    candidates = [
        (line[f"{side}/{metric}"], line, weights)
        for line in measured
        for side, weights in _WEIGHTS.items()
        if f"{side}/{metric}" in line
    ]
    if not candidates:
        return None
    value, line, weights = max(candidates, key=lambda candidate: candidate[0])
    place = {key: line[key] for key in ("epoch", "phase", "reweighted") if key in line}
    epochs = [entry["epoch"] for entry in measured]
    return _choice({**place, "weights": weights}, metric, epochs, value)


def chosen_classifier(metrics: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any] | None:
    """The learning rate whose re-trained classifier is kept, the first of equals.

    Returns:
        A choice among the rates, by what their classifiers gave after their last epochs, each with
        its value; ``first_stage`` is that of the classifier that was trained with the backbone.
        None without a validation part or without classifier re-training.
    """
    key = f"val/{metric}"
    last: dict[float, float] = {}
    first_stage = None
    for line in metrics:
        if key in line and line.get("phase") == "crt" and "crt_lr" in line:
            last[line["crt_lr"]] = line[key]
        elif key in line:
            first_stage = line[key]
    if not last:
        return None
    rate = max(last, key=lambda one: last[one])
    among = [{"crt_lr": one, metric: value} for one, value in last.items()]
    return {**_choice({"crt_lr": rate}, metric, among, last[rate]), "first_stage": first_stage}


def chosen_strength(rows: Sequence[Mapping[str, float]], metric: str) -> dict[str, Any]:
    """The strength ``tau`` of a correction that is best on the validation part.

    Of equals the smallest counts, which changes the network least.

    Args:
        rows: for each strength ``tau``, rising, what the validation part gives.
        metric: see :func:`choosing_metric`.
    """
    best = max(rows, key=lambda row: row[metric])
    return _choice({"tau": best["tau"]}, metric, [row["tau"] for row in rows], best[metric])


def _choice(chosen: Any, metric: str, among: Any, value: float) -> dict[str, Any]:
    return {"chosen": chosen, "on": PART, "by": metric, "among": among, "value": value}
