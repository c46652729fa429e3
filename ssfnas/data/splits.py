"""Parts of the training part: halves for weights and alphas, and what is held out to choose on."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssfnas.seeding import derive_seed, generator


def stratified_halves(
    labels: Tensor, seed: int, names: Sequence[str] = ()
) -> tuple[Tensor, Tensor]:
    """Two disjoint halves of a training part in which every class is halved.

    A class of odd size gives its extra image to the weights' half, so a class with a single image
    is in that half only, with a warning. Images with several labels are paired with the image whose
    labels are most alike (the rarest label counts first), and one of each pair goes to either half,
    so each label set is halved, and each label as nearly as pairs allow.

    Args:
        labels: int64 [N], or zeros and ones [N, L].
        seed: the halves are a function of the labels and of it.
        names: of the classes, for the warning.

    Returns:
        int64 positions for the weights (D_w) and for the alphas (D_alpha), each rising.
    """
    labels = labels.detach().cpu()
    if labels.ndim == 2:
        return _paired_halves(labels.numpy() > 0, seed, names)
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
        _warn_single(single, names, "class", "image")
    empty = torch.empty(0, dtype=torch.int64)
    return torch.cat([empty, *weights]).sort().values, torch.cat([empty, *alphas]).sort().values


def half_sizes(labels: Tensor) -> tuple[int, int]:
    """How many images :func:`stratified_halves` gives the weights, and the alphas."""
    if labels.ndim == 2:
        return (len(labels) + 1) // 2, len(labels) // 2
    alphas = int((torch.bincount(labels.detach().cpu()) // 2).sum())
    return len(labels) - alphas, alphas


def _paired_halves(
    labels: npt.NDArray[np.bool_], seed: int, names: Sequence[str]
) -> tuple[Tensor, Tensor]:
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
        _warn_single(single.tolist(), names, "label", "positive image")
    return torch.from_numpy(np.sort(first)), torch.from_numpy(np.sort(second))


def held_out(
    labels: Tensor, share: float, seed: int, names: Sequence[str] = ()
) -> tuple[Tensor, Tensor]:
    """What is trained on, and a share of every class that is held out for validation.

    A class of n images gives ``share n`` of them, rounded, but at least one and never all; one of a
    single image gives none, with a warning. Images with several labels are dealt out one by one to
    the part that lacks most of their rarest label (iterative stratification), so that each label is
    split as nearly in that proportion as its company allows.

    Args:
        labels: int64 [N], or zeros and ones [N, L].
        share: above 0 and below 1.
        seed: the split is a function of the labels, the share and it.
        names: of the classes, for the warning.

    Returns:
        int64 positions to train on, and to validate on, each rising.

    Source: iterative stratification is Sechidis et al., ECML PKDD 2011.
    """
    labels = labels.detach().cpu()
    if labels.ndim == 2:
        chosen = _dealt(labels.numpy() > 0, share, seed, names)
    else:
        chosen = np.zeros(len(labels), dtype=bool)
        for label in torch.unique(labels).tolist():
            positions = torch.nonzero(labels == label).flatten()
            draws = generator(seed, "validation", int(label))
            order = torch.randperm(len(positions), generator=draws)
            chosen[positions[order[: _share_of(len(positions), share)]].numpy()] = True
        frequency = torch.bincount(labels).numpy()
        _warn_not_held_out(np.flatnonzero(frequency == 1).tolist(), names, "class", "image")
    return torch.from_numpy(np.flatnonzero(~chosen)), torch.from_numpy(np.flatnonzero(chosen))


def _share_of(count: int, share: float) -> int:
    """How many of ``count`` images are held out."""
    return 0 if count < 2 else min(max(round(share * count), 1), count - 1)


def _dealt(
    labels: npt.NDArray[np.bool_], share: float, seed: int, names: Sequence[str]
) -> npt.NDArray[np.bool_]:
    """Which images with several labels are held out, bool [N]."""
    random = np.random.default_rng(derive_seed(seed, "validation"))
    frequency = labels.sum(0)
    # Rows: to train on, to validate on; the last column counts images.
    held = np.array([_share_of(int(count), share) for count in (*frequency, len(labels))])
    wanted = np.stack([[*frequency, len(labels)] - held, held]).astype(float)
    chosen = np.zeros(len(labels), dtype=bool)
    free = np.ones(len(labels), dtype=bool)

    def deal(image: int, column: int) -> None:
        # The part that lacks most of the label, then most images; even lots fall by chance.
        lots = [(wanted[part, column], wanted[part, -1], random.random()) for part in (0, 1)]
        part = int(lots[1] > lots[0])
        chosen[image], free[image] = part == 1, False
        wanted[part, np.append(labels[image], True)] -= 1

    remaining = frequency.copy()
    while (remaining > 0).any():
        column = int(np.argmin(np.where(remaining > 0, remaining, len(labels) + 1)))
        for image in random.permutation(np.flatnonzero(free & labels[:, column])):
            deal(image, column)
        remaining = labels[free].sum(0)
    for image in random.permutation(np.flatnonzero(free)):
        deal(image, -1)
    # A label has to be trained on above all.
    for column in np.flatnonzero((frequency > 0) & ~labels[~chosen].any(0)).tolist():
        chosen[np.flatnonzero(labels[:, column])[0]] = False
    absent = np.flatnonzero((frequency > 0) & ~labels[chosen].any(0))
    _warn_not_held_out(absent.tolist(), names, "label", "positive image")
    return chosen


def _warn_not_held_out(classes: list[int], names: Sequence[str], kind: str, image: str) -> None:
    if classes:
        warnings.warn(
            f"{kind} {_listed(classes, names)}: too few {image}s to hold one out for validation",
            stacklevel=3,
        )


def _listed(classes: list[int], names: Sequence[str]) -> str:
    shown = [f"'{names[c]}'" if names else str(c) for c in classes[:10]]
    return ", ".join(shown) + (", ..." if len(classes) > 10 else "")


def _warn_single(classes: list[int], names: Sequence[str], kind: str, image: str) -> None:
    warnings.warn(
        f"{kind} {_listed(classes, names)}: a single training {image}, used for the weights only; "
        f"the architecture parameters never see that {kind}",
        stacklevel=3,
    )
