"""How many images each class keeps in a long-tailed training part, and which ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ssfnas.errors import RequestError


def _exponential(n_max: int, num_classes: int, ratio: float) -> list[float]:
    last = max(num_classes - 1, 1)
    return [n_max * (1 / ratio) ** (i / last) for i in range(num_classes)]


def _step(n_max: int, num_classes: int, ratio: float) -> list[float]:
    full = max(num_classes // 2, 1)
    return [float(n_max)] * full + [n_max / ratio] * (num_classes - full)


_PROFILES = {"exp": _exponential, "step": _step}


def long_tail_counts(
    n_max: int, num_classes: int, imbalance_ratio: float, profile: str = "exp"
) -> list[int]:
    """Images a class of a long-tailed data set, classes in label order.

    Args:
        n_max: images of the largest class (the first).
        num_classes: number of classes C.
        imbalance_ratio: rho = largest class over smallest, at least 1.
        profile: ``"exp"``: class i keeps ``int(n_max * (1 / rho) ** (i / (C - 1)))`` (Cui et al.,
            2019); ``"step"``: the first ``C // 2`` classes keep ``n_max``, the others
            ``int(n_max / rho)`` (Buda et al., 2018).

    Returns:
        C counts, never rising, each at least 1.

    Raises:
        RequestError: an argument out of range, or a ratio that leaves a class without images.
    """
    if profile not in _PROFILES:
        raise RequestError(f"unknown profile '{profile}': it is one of {', '.join(_PROFILES)}")
    if n_max < 1 or num_classes < 1:
        raise RequestError(
            f"{num_classes} classes of at most {n_max} images: both must be at least 1"
        )
    if not (math.isfinite(imbalance_ratio) and imbalance_ratio >= 1):
        raise RequestError(
            f"imbalance ratio {imbalance_ratio:g}: it must be a number of at least 1"
        )
    sizes = _PROFILES[profile](n_max, num_classes, imbalance_ratio)
    # 49 * (1 / 49) is below 1 in floating point: what is whole but for rounding stays whole.
    counts = [math.floor(size * (1 + 1e-12)) for size in sizes]
    if counts[-1] < 1:
        raise RequestError(
            f"imbalance ratio {imbalance_ratio:g} leaves class {counts.index(0)} without images: "
            f"with {n_max} images in the largest class it must be at most {n_max}"
        )
    return counts


def long_tail_indices(
    labels: npt.ArrayLike, counts: Sequence[int], seed: int = 0
) -> npt.NDArray[np.int64]:
    """The images that a long-tailed subset keeps: with seed 0 the LDAM subset of most papers.

    One ``numpy.random.RandomState(seed)`` shuffles the positions of each class in label order, and
    the first ``counts[c]`` of them are kept (Cao et al., 2019).

    Args:
        labels: integer labels [N].
        counts: images to keep of each class.
        seed: 0 to 2**32 - 1.

    Returns:
        int64 indices [sum(counts)], class by class, as drawn.

    Raises:
        RequestError: labels that are not one dimension of integers, a class with fewer images than
            its count, or a seed out of range.
    """
    array = np.asarray(labels)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise RequestError(
            f"labels of shape {list(array.shape)} and type {array.dtype}: a long-tailed subset "
            "needs one integer label an image"
        )
    if not 0 <= seed < 2**32:
        raise RequestError(f"data seed {seed}: it must be from 0 to {2**32 - 1}")
    # The subset that papers share is defined by this legacy generator.
    random = np.random.RandomState(seed)
    kept = []
    for label, count in enumerate(counts):
        positions = np.where(array == label)[0].astype(np.int64)
        if count < 0 or len(positions) < count:
            raise RequestError(
                f"class {label} has {len(positions)} images and cannot give {count}: "
                "take another imbalance ratio or profile"
            )
        random.shuffle(positions)
        kept.append(positions[:count])
    return np.concatenate(kept) if kept else np.empty(0, dtype=np.int64)
