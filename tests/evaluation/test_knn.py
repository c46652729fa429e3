"""Nearest-neighbor accuracy against its definition, written out with loops."""

import math

import numpy as np
import pytest
import torch

from ssfnas.errors import NumericalError
from ssfnas.evaluation import knn
from ssfnas.evaluation.knn import knn_accuracy


def brute_force(bank, bank_labels, queries, labels, classes, k, temperature, corrected):
    right, by_class = [], {}
    for query, label in zip(queries, labels, strict=True):
        similarities = [
            float(query @ other / (np.linalg.norm(query) * np.linalg.norm(other))) for other in bank
        ]
        nearest = sorted(range(len(bank)), key=lambda i: -similarities[i])[:k]
        votes = [0.0] * classes
        for i in nearest:
            votes[bank_labels[i]] += math.exp(similarities[i] / temperature)
        if corrected:
            counts = [max(1, sum(bank_labels == c)) for c in range(classes)]
            votes = [vote / count for vote, count in zip(votes, counts, strict=True)]
        hit = votes.index(max(votes)) == label
        right.append(hit)
        by_class.setdefault(int(label), []).append(hit)
    balanced = np.mean([np.mean(hits) for hits in by_class.values()])
    return {"top1": np.mean(right), "balanced": balanced}


def long_tailed(seed: int, counts, size: int = 8):
    """Overlapping clusters of float64 features, so that there is something to get wrong."""
    draws = np.random.default_rng(seed)
    centers = draws.normal(size=(len(counts), size))
    labels = np.repeat(np.arange(len(counts)), counts)
    return centers[labels] + 1.5 * draws.normal(size=(len(labels), size)), labels


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (500, 0.3)])
def test_equals_the_definition(k, temperature, corrected):
    counts = [60, 25, 10, 4]
    features, labels = long_tailed(1, counts)
    bank, bank_labels = features[::2], labels[::2]
    queries, truth = features[1::2], labels[1::2]
    options = {"k": k, "temperature": temperature, "prior_correction": corrected}
    found = knn_accuracy(
        *(torch.from_numpy(a) for a in (bank, bank_labels, queries, truth)), 5, **options
    )
    expected = brute_force(bank, bank_labels, queries, truth, 5, k, temperature, corrected)
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0.2 < found["top1"] <= 1


def test_correction_helps_the_tail():
    features, labels = (torch.from_numpy(a) for a in long_tailed(2, [400, 40, 20]))
    halves = features[::2], labels[::2], features[1::2], labels[1::2]
    plain = knn_accuracy(*halves, 3)
    corrected = knn_accuracy(*halves, 3, prior_correction=True)
    assert corrected["balanced"] > plain["balanced"]


def test_chunks_make_no_difference(monkeypatch):
    features, labels = (torch.from_numpy(a) for a in long_tailed(3, [50, 20, 7]))
    whole = knn_accuracy(features, labels, features, labels, 3, k=5)
    monkeypatch.setattr(knn, "_SIMILARITIES_A_CHUNK", 3 * len(features))
    assert knn_accuracy(features, labels, features, labels, 3, k=5) == whole


def test_small_temperatures_do_not_overflow():
    features, labels = (torch.from_numpy(a).float() for a in long_tailed(4, [9, 9]))
    result = knn_accuracy(
        features, labels.long(), features, labels.long(), 2, k=1, temperature=0.001
    )
    assert result == {"top1": 1.0, "balanced": 1.0}


def test_bad_features():
    features, labels = (torch.from_numpy(a) for a in long_tailed(5, [5, 5]))
    broken = features.clone()
    broken[3, 2] = math.nan
    with pytest.raises(NumericalError, match="training feature"):
        knn_accuracy(broken, labels, features, labels, 2)
    with pytest.raises(NumericalError, match="test feature"):
        knn_accuracy(features, labels, broken, labels, 2)
    with pytest.raises(ValueError, match="need"):
        knn_accuracy(features[:0], labels[:0], features, labels, 2)
