import numpy as np
import pytest
import torch

from ssfnas.evaluation.confusions import MOST_CLASSES, confusions, worst_decisions, worst_mistakes


def drawn(images, classes, seed=0, right=0.5):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, images)
    predicted = np.where(random.random(images) < right, labels, random.integers(0, classes, images))
    return torch.tensor(predicted), torch.tensor(labels)


@pytest.mark.parametrize("classes", [2, 7, MOST_CLASSES])
def test_every_image_is_counted_where_it_belongs(classes):
    predicted, labels = drawn(500, classes)
    groups = {"many": list(range(classes // 2)), "few": list(range(classes // 2, classes))}
    found = confusions(predicted, labels, classes, groups)
    matrix = np.zeros((classes, classes), dtype=int)
    for p, t in zip(predicted.tolist(), labels.tolist(), strict=True):
        matrix[t, p] += 1
    assert found["classes"] == list(range(classes))
    assert found["counts"] == matrix.tolist()
    assert found["elsewhere"] == [0] * classes
    assert found["images"] == matrix.sum(1).tolist()
    off = [(matrix[t, p], -t, -p) for t in range(classes) for p in range(classes) if t != p]
    expected = [(-t, -p, n) for n, t, p in sorted(off, reverse=True)[:20] if n]
    assert [(x["true"], x["predicted"], x["images"]) for x in found["pairs"]] == expected
    for name, own in groups.items():
        others = {
            other: sum(matrix[t, p] for t in own for p in members if t != p)
            for other, members in groups.items()
        }
        assert found["groups"][name] == {"right": sum(matrix[c, c] for c in own), **others}


def test_of_many_classes_those_that_are_confused_most_are_kept():
    classes = 300
    labels = torch.arange(classes).repeat_interleave(4)
    predicted = labels.clone()
    # Class 10 k is taken for 10 k + 1, by all images of the first twenty, by one of the others.
    for k in range(30):
        predicted[40 * k : 40 * k + (4 if k < 20 else 1)] = 10 * k + 1
    predicted[4 * 55] = 299  # a class that is not among them
    predicted[4 * 0] = 298
    found = confusions(predicted, labels, classes, {})
    assert found["classes"] == sorted(c for k in range(20) for c in (10 * k, 10 * k + 1))
    assert found["counts"][0] == [0, 3, *[0] * 38]
    assert found["elsewhere"] == [1, *[0] * 39]
    assert found["images"] == [4] * classes
    sums = np.array(found["counts"]).sum(1) + np.array(found["elsewhere"])
    assert sums.tolist() == [4] * 40


def test_the_worst_mistakes_hold_the_most_confident_missed_classes_and_frequent_pairs():
    random = np.random.default_rng(1)
    # Classes 0 to 9; class 9 is never right, and never with confidence.
    labels = torch.tensor(np.concatenate([np.repeat(np.arange(9), 40), np.full(5, 9)]))
    confidence = random.uniform(0.5, 1.0, len(labels))
    confidence[-5:] = [0.12, 0.15, 0.13, 0.11, 0.14]
    predicted = np.where(random.random(len(labels)) < 0.5, labels, (labels + 1) % 10)
    predicted[-5:] = 0
    probabilities = np.full((len(labels), 10), 1.0) * ((1 - confidence) / 9)[:, None]
    probabilities[np.arange(len(labels)), predicted] = confidence
    found = worst_mistakes(torch.tensor(probabilities), labels).tolist()
    wrong = [i for i in range(len(labels)) if predicted[i] != labels[i]]
    ordered = sorted(wrong, key=lambda i: -confidence[i])
    assert found[:24] == ordered[:24]
    assert found == [i for i in ordered if i in set(found)]
    missed = [i for i in found if labels[i] == 9]
    assert [round(confidence[i], 2) for i in missed] == [0.15, 0.14, 0.13]
    pairs = confusions(torch.tensor(predicted), labels, 10, {})["pairs"]
    for pair in pairs[:8]:
        own = [i for i in found if (labels[i], predicted[i]) == (pair["true"], pair["predicted"])]
        assert len(own) >= 2
    assert len(found) <= 24 + 3 + 16


def test_there_may_be_no_mistakes():
    assert worst_mistakes(torch.eye(3), torch.arange(3)).tolist() == []
    assert worst_decisions(torch.eye(3) - 0.5, torch.eye(3)).tolist() == []
    assert confusions(torch.arange(3), torch.arange(3), 3, {})["pairs"] == []


def test_wrong_decisions_about_labels_by_their_margin():
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, float("nan")], [0, 1, 1]])
    margins = torch.tensor([[2.0, -1, -1], [3, -4, -1], [1, -2, 9], [-1, -0.5, -3]])
    # Image 0 has no wrong one, an unknown label cannot be wrong, label 1 and 2 are never found.
    assert worst_decisions(margins, labels).tolist() == [1, 3]
    many = torch.full((40, 2), -1.0)
    truth = torch.zeros((40, 2))
    truth[:30, 0] = 1  # never found: wrong in 30 images, the nearest of them are the last
    many[:30, 0] = -torch.linspace(3, 1, 30)
    found = worst_decisions(many, truth).tolist()
    assert found == [*range(24), 29, 28, 27]
