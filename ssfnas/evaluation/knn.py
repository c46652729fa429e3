"""Weighted nearest-neighbor classification of frozen features, as a measure of their quality."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot

from ssfnas.errors import NumericalError

_SIMILARITIES_A_CHUNK = 1 << 24


@torch.no_grad()
def knn_accuracy(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    num_classes: int,
    *,
    k: int = 20,
    temperature: float = 0.07,
    prior_correction: bool = False,
) -> dict[str, float]:
    """Accuracy of votes among the ``k`` nearest training features.

    Similarity is the cosine; each neighbor votes for its class with weight exp(sim / temperature)
    (Wu et al., 2018). With ``prior_correction`` a class's votes are divided by its share of the
    training features, as long-tailed data give frequent classes more neighbors everywhere. Equal
    votes go to the lower class.

    Args:
        train_features: float32 or float64 [N, F].
        train_labels: int64 [N].
        test_features: [M, F], same dtype and device.
        test_labels: int64 [M].
        num_classes: C.
        k: neighbors, at most N are used.
        temperature: of the votes.
        prior_correction: whether votes are divided by the class's share.

    Returns:
        ``top1`` and ``balanced`` (mean over the classes in ``test_labels``), both in 0..1.

    Raises:
        NumericalError: a feature is not finite.
        ValueError: there are no training or no test features.
    """
    if len(train_features) == 0 or len(test_features) == 0:
        raise ValueError("nearest neighbors need training and test features")
    for name, features in (("training", train_features), ("test", test_features)):
        if not bool(torch.isfinite(features).all()):
            raise NumericalError(f"a {name} feature of the nearest-neighbor monitor is not finite")
    bank, queries = normalize(train_features, dim=1), normalize(test_features, dim=1)
    shares = one_hot(train_labels, num_classes).to(bank.dtype).mean(0)
    k = min(k, len(bank))
    chunk = max(1, _SIMILARITIES_A_CHUNK // len(bank))
    hits = []
    for rows, labels in zip(queries.split(chunk), test_labels.split(chunk), strict=True):
        similarity, neighbors = (rows @ bank.T).topk(k, dim=1)
        # Relative to a similarity of 1, so that no small temperature overflows.
        weights = ((similarity - 1) / temperature).exp()
        votes = rows.new_zeros(len(rows), num_classes)
        votes.scatter_add_(1, train_labels[neighbors], weights)
        if prior_correction:
            votes = votes / torch.where(shares > 0, shares, 1)
        hits.append(votes.argmax(1) == labels)
    right = torch.cat(hits).double()
    sizes = torch.bincount(test_labels, minlength=num_classes)
    per_class = torch.bincount(test_labels, weights=right, minlength=num_classes)
    recalls = (per_class / sizes)[sizes > 0]
    return {"top1": float(right.mean()), "balanced": float(recalls.mean())}
