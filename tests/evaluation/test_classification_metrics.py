"""Metrics against their definitions, written out in numpy."""

import json
import math

import numpy as np
import pytest
import torch

from ssfnas.errors import NumericalError
from ssfnas.evaluation.classification_metrics import class_groups, evaluate_predictions

COUNTS = [500, 101, 100, 20, 19, 0]


def predictions(seed: int, counts, confidence: float = 2.0):
    """Logits float64 and labels int64 that agree more often than not."""
    draws = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    logits = draws.normal(size=(len(labels), len(counts)))
    logits[np.arange(len(labels)), labels] += confidence * draws.random(len(labels))
    return logits, labels


def softmax(logits):
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def average_precision(scores, members) -> float:
    """Precision at every distinct threshold, times the recall that it gains."""
    total, before = 0.0, 0
    for threshold in sorted(set(scores), reverse=True):
        taken = scores >= threshold
        hits = np.sum(taken & members)
        total += hits / np.sum(taken) * (hits - before) / np.sum(members)
        before = hits
    return total


def area(scores, members) -> float:
    """Share of (member, other) pairs in the right order, ties half."""
    pairs = scores[members][:, None] - scores[~members][None, :]
    return float(np.mean((pairs > 0) + 0.5 * (pairs == 0)))


@pytest.fixture
def case():
    logits, labels = predictions(0, [40, 30, 30, 20, 10, 25])
    found = evaluate_predictions(torch.from_numpy(logits), torch.from_numpy(labels), COUNTS)
    return logits, labels, found


def test_accuracies(case):
    logits, labels, found = case
    guess = logits.argmax(1)
    recalls = [np.mean(guess[labels == c] == c) for c in range(6)]
    assert found["per_class"] == pytest.approx(recalls, abs=1e-15)
    assert found["top1"] == pytest.approx(np.mean(guess == labels), abs=1e-15)
    assert found["balanced_accuracy"] == pytest.approx(np.mean(recalls), abs=1e-15)
    assert found["worst_class"] == min(recalls)
    assert found["g_mean"] == pytest.approx(np.prod(recalls) ** (1 / 6), abs=1e-14)
    assert 0 < found["worst_class"] < found["g_mean"] < found["balanced_accuracy"] < 1


def test_macro_f1(case):
    logits, labels, found = case
    guess = logits.argmax(1)
    scores = []
    for c in range(6):
        hits = np.sum((guess == c) & (labels == c))
        scores.append(2 * hits / (np.sum(guess == c) + np.sum(labels == c)))
    assert found["macro_f1"] == pytest.approx(np.mean(scores), abs=1e-6)


def calibration_error(logits, labels) -> float:
    """Over 15 bins that are open below and closed above."""
    probabilities = softmax(logits)
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels
    error = 0.0
    for number in range(15):
        inside = (sure > number / 15) & (sure <= (number + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    return error


def test_expected_calibration_error(case):
    logits, labels, found = case
    error = calibration_error(logits, labels)
    assert found["ece"] == pytest.approx(error, abs=1e-12)
    assert error > 0.05


def test_the_last_bin_holds_confidences_of_exactly_one():
    """Half of the sure ones wrong and the nearly sure ones right: together they err by less."""
    labels = np.zeros(40, dtype=np.int64)
    labels[:10] = 1
    logits = np.zeros((40, 2))
    logits[:20, 0] = 60.0
    logits[20:, 0] = 3.5
    sure = softmax(logits).max(1)
    assert (sure == 1).sum() == 20
    found = evaluate_predictions(torch.from_numpy(logits), torch.from_numpy(labels), [20, 20])
    error = calibration_error(logits, labels)
    assert error == pytest.approx(sure.mean() - 0.75, abs=1e-15)
    assert found["ece"] == pytest.approx(error, abs=1e-12)


def test_areas_of_one_against_the_rest(case):
    logits, labels, found = case
    probabilities = softmax(logits)
    areas = [area(probabilities[:, c], labels == c) for c in range(6)]
    assert found["per_class_auc"] == pytest.approx(areas, abs=1e-6)
    assert found["auc"] == pytest.approx(np.mean(areas), abs=1e-6)


def test_groups_by_training_images(case):
    _, _, found = case
    assert found["groups"] == {"many": [0, 1], "medium": [2, 3], "few": [4, 5]}
    for name, classes in found["groups"].items():
        mean = np.mean([found["per_class"][c] for c in classes])
        assert found[name] == pytest.approx(mean, abs=1e-15)


def test_empty_groups_are_absent():
    assert class_groups([5000, 2997, 83, 50]) == {"many": [0, 1], "medium": [2, 3]}
    logits, labels = predictions(1, [9, 9])
    found = evaluate_predictions(torch.from_numpy(logits), torch.from_numpy(labels), [500, 400])
    assert "few" not in found
    assert "medium" not in found


@pytest.mark.parametrize(
    ("counts", "groups"),
    [
        ([9, 8, 7, 6, 5, 4], [[0, 1], [2, 3], [4, 5]]),
        ([1, 2, 3, 4, 5, 6, 7], [[4, 5, 6], [2, 3], [0, 1]]),
        ([5, 5, 5, 5, 5], [[0, 1], [2, 3], [4]]),
        ([3, 9], [[1], [0]]),
    ],
)
def test_thirds(counts, groups):
    expected = dict(zip(("many", "medium", "few"), groups, strict=False))
    assert class_groups(counts, thirds=True) == expected


def test_a_class_without_test_images_is_left_out():
    logits, labels = predictions(2, [20, 0, 20])
    found = evaluate_predictions(torch.from_numpy(logits), torch.from_numpy(labels), [500, 50, 5])
    assert found["per_class"][1] is None
    assert found["per_class_auc"][1] is None
    present = [found["per_class"][0], found["per_class"][2]]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(present), abs=1e-15)
    assert found["worst_class"] == min(present)
    assert "medium" not in found
    guess = logits.argmax(1)
    scores = [
        2 * np.sum((guess == c) & (labels == c)) / (np.sum(guess == c) + np.sum(labels == c))
        for c in (0, 2)
    ]
    assert found["macro_f1"] == pytest.approx(np.mean(scores), abs=1e-6)


def test_g_mean_of_a_class_that_is_never_right_is_zero():
    labels = torch.tensor([0, 0, 1, 1])
    logits = torch.tensor([[1.0, 0.0]] * 4)
    found = evaluate_predictions(logits, labels, [30, 30])
    assert (found["g_mean"], found["worst_class"], found["balanced_accuracy"]) == (0, 0, 0.5)


def test_one_class_among_the_test_images_has_no_area():
    found = evaluate_predictions(torch.zeros(3, 2), torch.zeros(3, dtype=torch.long), [3, 3])
    assert found["top1"] == found["balanced_accuracy"] == 1
    assert "auc" not in found
    assert found["per_class_auc"] == [None, None]


def test_multi_label():
    draws = np.random.default_rng(3)
    labels = (draws.random((80, 4)) < [0.5, 0.2, 0.1, 0.0]).astype(np.float32)
    logits = draws.normal(size=(80, 4)) + 1.5 * labels
    # Logits so large that their sigmoids are all 1, and ties.
    logits[:, 0] = np.round(logits[:, 0]) + 100
    found = evaluate_predictions(
        torch.from_numpy(logits), torch.from_numpy(labels), [1] * 4, multi_label=True
    )
    areas = [area(logits[:, c], labels[:, c] > 0) for c in range(3)]
    assert found["per_class_auc"][:3] == pytest.approx(areas, abs=1e-6)
    assert found["per_class_auc"][3] is None
    assert found["auc"] == pytest.approx(np.mean(areas), abs=1e-6)
    assert found["accuracy"] == pytest.approx(np.mean((logits > 0) == (labels > 0)), abs=1e-15)
    scores = []
    for guess, truth in zip(logits.T[:3] > 0, labels.T[:3] > 0, strict=True):
        scores.append(2 * np.sum(guess & truth) / (np.sum(guess) + np.sum(truth)))
    assert found["macro_f1"] == pytest.approx(np.mean(scores), abs=1e-15)
    assert found["per_class_f1"] == pytest.approx([*scores, None], abs=1e-15)
    precisions = [average_precision(logits[:, c], labels[:, c] > 0) for c in range(3)]
    assert found["per_class_average_precision"] == pytest.approx([*precisions, None], abs=1e-6)
    assert found["mean_average_precision"] == pytest.approx(np.mean(precisions), abs=1e-6)
    assert set(found) == {
        *("mean_average_precision", "auc", "macro_f1", "accuracy"),
        *("per_class_average_precision", "per_class_auc", "per_class_f1"),
    }


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_with_many_ties(seed):
    draws = np.random.default_rng(seed)
    labels = (draws.random((50, 3)) < [0.5, 0.1, 1.0]).astype(np.float32)
    labels[0] = 1
    logits = np.round(draws.normal(size=(50, 3)) + labels)
    found = evaluate_predictions(
        torch.from_numpy(logits), torch.from_numpy(labels), [1] * 3, multi_label=True
    )
    expected = [average_precision(logits[:, c], labels[:, c] > 0) for c in range(3)]
    assert found["per_class_average_precision"] == pytest.approx(expected, abs=1e-6)
    assert expected[2] == 1  # nothing else is there to be found
    assert found["per_class_auc"][2] is None


def test_labels_that_no_image_has_leave_nothing_to_average():
    found = evaluate_predictions(torch.zeros(4, 2), torch.zeros(4, 2), [1, 1], multi_label=True)
    assert set(found) >= {"per_class_f1", "accuracy"}
    assert not {"mean_average_precision", "auc", "macro_f1"} & set(found)
    assert found["per_class_average_precision"] == found["per_class_f1"] == [None, None]


@pytest.mark.parametrize("multi_label", [False, True])
def test_results_are_plain_values(multi_label):
    logits, labels = predictions(4, [9, 9, 9])
    truth = np.eye(3)[labels] if multi_label else labels
    found = evaluate_predictions(
        torch.from_numpy(logits), torch.from_numpy(truth), [30, 20, 9], multi_label=multi_label
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_bad_predictions():
    with pytest.raises(NumericalError, match="logit"):
        evaluate_predictions(torch.tensor([[0.0, math.nan]]), torch.tensor([0]), [1, 1])
    with pytest.raises(ValueError, match="single class"):
        evaluate_predictions(torch.zeros(3, 1), torch.zeros(3, dtype=torch.long), [3])
    with pytest.raises(ValueError, match="no predictions"):
        evaluate_predictions(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), [1, 1])
