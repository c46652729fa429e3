"""Thresholds of labels against all that there are, tried one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ssfnas.evaluation.thresholds import best_thresholds, f1_scores, macro_f1


def f1(decided, members) -> float:
    hits = np.sum(decided & members)
    wrong, missed = np.sum(decided & ~members), np.sum(~decided & members)
    return 2 * hits / (2 * hits + wrong + missed) if members.any() or decided.any() else 0.0


def drawn(seed: int, shares):
    draws = np.random.default_rng(seed)
    members = draws.random((60, len(shares))) < shares
    logits = draws.normal(size=members.shape) - 2 + 2.5 * members
    return np.round(logits, 1), members  # with ties


@pytest.mark.parametrize("seed", range(4))
def test_no_threshold_gives_a_higher_f1(seed):
    logits, members = drawn(seed, [0.5, 0.2, 0.1])
    found = best_thresholds(torch.from_numpy(logits), torch.from_numpy(members).float()).numpy()
    gained = 0.0
    for c in range(3):
        tried = [f1(logits[:, c] > cut, members[:, c]) for cut in np.arange(-8, 8, 0.05)]
        assert f1(logits[:, c] > found[c], members[:, c]) == pytest.approx(max(tried), abs=1e-12)
        gained += max(tried) - f1(logits[:, c] > 0, members[:, c])
    assert gained > 0.02


def test_thresholds_are_midway_and_the_nearest_to_even_odds_of_equals():
    logits = torch.tensor([[3.0, -1.0, 4.0], [1.0, -3.0, 2.0], [-5.0, -4.0, -2.0]])
    labels = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    # Between 1 and -5 lies 0 itself; between -3 and -4 the middle; nobody has the third label.
    assert best_thresholds(logits, labels).tolist() == [0.0, -3.5, 0.0]
    everyone = torch.ones(3, 1)
    assert (logits[:, :1] > best_thresholds(logits[:, :1], everyone)).all()


def test_macro_f1_is_the_mean_over_labels_that_an_image_has():
    logits, members = drawn(9, [0.5, 0.2, 0.0])
    labels = torch.from_numpy(members).float()
    scores = [f1(logits[:, c] > -1, members[:, c]) for c in range(2)]
    decided = torch.from_numpy(logits) > -1
    assert f1_scores(decided, labels) == [pytest.approx(score, abs=1e-15) for score in scores] + [
        None
    ]
    assert macro_f1(decided, labels) == pytest.approx(np.mean(scores), abs=1e-15)
    unknown = labels.clone()
    unknown[:, 1] = float("nan")
    assert macro_f1(decided, unknown) == pytest.approx(scores[0], abs=1e-15)
    assert macro_f1(decided[:, 2:], labels[:, 2:]) is None
