"""Measurements as reports show them: names for people, shares in percent, means with spreads."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_NAMES = {
    "top1": "top-1 accuracy",
    "balanced": "balanced accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "worst_class": "worst class",
    "g_mean": "G-mean",
    "ece": "calibration error (ECE, 15 bins)",
    "auc": "AUC (macro)",
    "loss": "loss",
    "zero_one": "zero-one loss",
    "barlow_twins": "Barlow Twins",
    "cross_entropy": "cross-entropy",
    "entropy": "entropy of the weights",
    "skips": "skip connections among the best operations",
    "knn": "nearest neighbors",
    "knn_corrected": "nearest neighbors, prior-corrected votes",
    "hessian": "Hessian of the search",
    "top_eigenvalue": "top eigenvalue",
    "lr": "learning rate",
    "score": "loss on held-out images",
    "val": "validation",
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
    "many", "medium", "few", "accuracy", "per_class",
}  # fmt: skip


def named(key: str) -> str:
    """What people call ``key``; each part of ``a/b`` by itself."""
    return ", ".join(_NAMES.get(part, part.replace("_", " ")) for part in key.split("/"))


def is_number(value: object) -> bool:
    """Whether ``value`` is an int or a float, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_share(key: str) -> bool:
    """Whether values of ``key`` are shares of 1, shown in percent."""
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
    return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"


def whole(value: float) -> str:
    """The nearest whole number, halves up, as everybody rounds; empty where there is none."""
    # What is a half in decimals need not be one in binary: 100 * 0.285 is a little less than 28.5.
    return str(math.floor(round(value, 6) + 0.5)) if math.isfinite(value) else ""


def spread(key: str, values: Sequence[float]) -> str:
    """Mean and sample standard deviation of several runs; one value as it is."""
    if len(set(values)) == 1 and (len(values) == 1 or isinstance(values[0], int)):
        return shown(key, values[0])
    factor, unit, digits = (100, " %", 2) if is_share(key) else (1, "", 4)
    mean = factor * statistics.fmean(values)
    deviation = factor * statistics.stdev(values)
    if unit:
        return f"{mean:.{digits}f} ± {deviation:.{digits}f}{unit}"
    return f"{mean:,.{digits}g} ± {deviation:,.2g}"


def scalars(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """All numbers in nested mappings, under the ``/``-joined keys that lead to them."""
    found: dict[str, float] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            found.update(scalars(value, f"{name}/"))
        elif is_number(value):
            found[name] = value
    return found


def all_keys(mappings: Iterable[Iterable[str]]) -> list[str]:
    """Every key of several mappings once, in the order in which they first come."""
    return list(dict.fromkeys(key for mapping in mappings for key in mapping))


def duration(seconds: float) -> str:
    """``2 h 05 min``, ``3 min 20 s``, ``45 s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    if whole >= 60:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
