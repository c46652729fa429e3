"""Measures as people read them, wherever they stand: one name each, and values with their units."""

from __future__ import annotations

import math

_NAMES = {
    "top1": "top-1 accuracy",
    "balanced": "balanced accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "worst_class": "worst class",
    "g_mean": "G-mean",
    "ece": "calibration error (ECE, 15 bins)",
    "auc": "AUC (macro)",
    "mean_average_precision": "mAP",
    "average_precision": "average precision",
    "f1": "F1",
    "loss": "loss",
    "zero_one": "zero-one loss",
    "barlow_twins": "Barlow Twins",
    "cross_entropy": "cross-entropy",
    "entropy": "entropy of the weights",
    "open": "operations that are left",
    "cost": "expected cost of the derived network",
    "cost_penalty": "excess of the cost",
    "skips": "skip connections among the best operations",
    "knn": "nearest neighbors",
    "knn_corrected": "nearest neighbors, prior-corrected votes",
    "hessian": "Hessian of the search",
    "top_eigenvalue": "top eigenvalue",
    "lr": "learning rate",
    "score": "loss on held-out images",
    "best_score": "lowest loss on held-out images",
    "val": "validation",
    "val_best": "validation, best so far",
    "val_ema": "validation, averaged weights",
    "test": "test",
    "test_ema": "test, averaged weights",
    "crt": "classifier re-training",
    "pretrain": "pre-training",
    "train": "training",
    "weight": "weights' step",
    "alpha": "alphas' step",
    "normal": "normal cell",
    "reduce": "reduction cell",
    "many": "classes with many images",
    "medium": "classes with a medium number",
    "few": "classes with few images",
    "accuracy": "share of right decisions",
    "long_tailed": "on the long-tailed labels",
    "logit_adjustment": "post-hoc logit adjustment",
    "tau_normalization": "tau-normalization of the classifier",
    "last_epoch": "last epoch",
    "best": "epoch chosen on the validation part",
    "ema": "last epoch, averaged weights",
    "training_images": "training images",
    "multiply_adds": "multiply-adds",
}
_SHARES = {
    "top1", "balanced", "balanced_accuracy", "macro_f1", "worst_class", "g_mean", "ece", "auc",
    "many", "medium", "few", "accuracy", "per_class", "mean_average_precision",
    "average_precision", "f1", "per_class_average_precision", "per_class_auc", "per_class_f1",
}  # fmt: skip
# What is measured stands before where: "loss (training)".
_SIDES = {
    "alpha", "weight", "pretrain", "train", "crt", "val", "val_best", "val_ema", "test", "test_ema",
}  # fmt: skip


def named(key: str) -> str:
    """What people call ``key``; each part of ``a/b`` by itself."""
    first, *rest = key.split("/")
    names = [_NAMES.get(part, part.replace("_", " ")) for part in (first, *rest)]
    if not rest or first not in _SIDES:
        return ", ".join(names)
    measure = ", ".join(names[1:])
    if measure.endswith(")"):
        return f"{measure[:-1]}, {names[0]})"
    return f"{measure} ({names[0]})"


def is_number(value: object) -> bool:
    """Whether ``value`` is an int or a float, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_share(key: str) -> bool:
    """Whether values of ``key`` are shares: 0..1 in files, in percent for people."""
    return key.rpartition("/")[2] in _SHARES


def shown(key: str, value: object) -> str:
    """A value for people: ``71.35 %``, ``1,930,618``, ``0.0251``."""
    if value is None:
        return "-"
    if not is_number(value):
        return str(value)
    assert isinstance(value, (int, float))
    if not math.isfinite(value):
        return "-" if math.isnan(value) else str(value)
    if is_share(key):
        return f"{100 * value:.2f} %"
    if isinstance(value, int):
        return f"{value:,}"
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.3g}"
    value += 0.0  # nobody wants to read -0
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"


def told(key: str, value: object) -> str:
    """Name and value: ``balanced accuracy (validation) 71.35 %``."""
    return f"{named(key)} {shown(key, value)}"
