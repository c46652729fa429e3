"""Halves of the training part: one for the weights, one for the architecture parameters."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssfnas.seeding import derive_seed, generator


def stratified_halves(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Two disjoint halves of a training part in which every class is halved.

    A class of odd size gives its extra image to the weights' half, so a class with a single image
    is in that half only, with a warning. Images with several labels are paired with the image whose
    labels are most alike (the rarest label counts first), and one of each pair goes to either half,
    so each label set is halved, and each label as nearly as pairs allow.

    Args:
        labels: int64 [N], or zeros and ones [N, L].
        seed: the halves are a function of the labels and of it.

    Returns:
        int64 positions for the weights (D_w) and for the alphas (D_alpha), each rising.
    """
    labels = labels.detach().cpu()
    if labels.ndim == 2:
        return _paired_halves(labels.numpy() > 0, seed)
    weights, alphas, single = [], [], []
    for label in torch.unique(labels).tolist():
        positions = torch.nonzero(labels == label).flatten()
        order = torch.randperm(len(positions), generator=generator(seed, "halves", int(label)))
        middle = (len(positions) + 1) // 2
        weights.append(positions[order[:middle]])
        alphas.append(positions[order[middle:]])
        if len(positions) == 1:
            single.append(int(label))
    if single:
        _warn_single(single, "class", "image")
    empty = torch.empty(0, dtype=torch.int64)
    return torch.cat([empty, *weights]).sort().values, torch.cat([empty, *alphas]).sort().values


def _paired_halves(labels: npt.NDArray[np.bool_], seed: int) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(derive_seed(seed, "halves"))
    count = len(labels)
    frequency = labels.sum(0)
    rarest_first = np.argsort(frequency, kind="stable")
    # np.lexsort takes the most significant key last; random numbers settle ties.
    keys = [random.random(count), *(labels[:, c] for c in rarest_first[::-1])]
    order = np.lexsort(keys)
    swap = random.random((count + 1) // 2) < 0.5
    first, second = order[0::2].copy(), order[1::2].copy()
    single = np.flatnonzero(frequency == 1)
    pairs = len(second)
    # A label with a single image goes where the weights are trained.
    must: npt.NDArray[np.bool_] = np.any(labels[:, single], axis=1)
    swap[:pairs] = np.where(must[second] != must[first[:pairs]], must[second], swap[:pairs])
    swap[pairs:] = False
    swapped = np.flatnonzero(swap)
    first[swapped], second[swapped] = second[swapped], first[swapped].copy()
    if len(single):
        _warn_single(single.tolist(), "label", "positive image")
    return torch.from_numpy(np.sort(first)), torch.from_numpy(np.sort(second))


def _warn_single(classes: list[int], kind: str, image: str) -> None:
    named = ", ".join(str(label) for label in classes[:10]) + (", ..." if len(classes) > 10 else "")
    warnings.warn(
        f"{kind} {named}: a single training {image}, used for the weights only; the architecture "
        f"parameters never see that {kind}",
        stacklevel=3,
    )
