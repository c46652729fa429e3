"""Classes of two data sets are the same where their names are."""

from __future__ import annotations

import dataclasses
import unicodedata
import warnings

import pytest
import torch

from ssfnas.data import ImageData, ImageSet
from ssfnas.errors import RequestError
from ssfnas.evaluation.class_matching import matched
from ssfnas.evaluation.prediction import measure
from ssfnas.runs.data_card import DataCard

NAMES = ("cat", "dog", "emu")


def data_of(names, labels, name="other"):
    labels = torch.tensor(labels)
    part = ImageSet(torch.zeros(len(labels), 4, 4, 3, dtype=torch.uint8), labels)
    return ImageData(name, part, part, part, tuple(names), mean=(0.5,) * 3, std=(0.2,) * 3)


def card_of(names, labels=(0, 1, 2)):
    return DataCard.of(data_of(names, labels, "home"))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_labels_are_renumbered_by_name_in_every_part(order):
    names = [NAMES[c] for c in order]
    aligned, notes = matched(data_of(names, [0, 1, 2, 0]), card_of(NAMES), "run")
    assert aligned.class_names == NAMES
    for part in (aligned.train, aligned.validation, aligned.test):
        assert part.labels.tolist() == [order[0], order[1], order[2], order[0]]
    assert bool(notes) == (order != (0, 1, 2))


def test_columns_of_several_labels_are_permuted():
    rows = [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    aligned, _ = matched(data_of(["emu", "cat", "dog"], rows), card_of(NAMES, rows), "run")
    assert aligned.test.labels.tolist() == [[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]


def test_a_part_of_the_classes_is_measured_and_said():
    aligned, notes = matched(data_of(["emu", "cat"], [0, 1, 1]), card_of(NAMES), "run")
    assert aligned.test.labels.tolist() == [2, 0, 0]
    assert any("2 of the 3 classes, and not 'dog'" in note for note in notes)


def test_labels_that_images_are_not_told_to_have_are_not_counted():
    rows = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    card = card_of(NAMES, [[1.0, 0.0, 1.0]])
    aligned, _ = matched(data_of(["emu", "cat"], rows), card, "run")
    logits = torch.tensor([[-1.0, 9.0, 1.0], [1.0, 9.0, -1.0], [1.0, 9.0, -1.0]])
    found = measure(logits, aligned.test.labels, card)
    assert found["accuracy"] == pytest.approx(5 / 6)
    assert found["per_class_auc"] == [1.0, None, 0.75]


def test_two_unicode_forms_of_a_name_are_one_name():
    names = ("café", "naïve", "thé")
    other = [unicodedata.normalize("NFD", name) for name in reversed(names)]
    aligned, _ = matched(data_of(other, [0, 1, 2]), card_of(names), "run")
    assert aligned.test.labels.tolist() == [2, 1, 0]
    assert aligned.class_names == names


@pytest.mark.parametrize("numbered", ["network", "data"])
def test_numbers_and_names_match_by_number_with_a_warning(numbered):
    names, numbers = NAMES, ("0", "1", "2")
    card, other = (numbers, names) if numbered == "network" else (names, numbers)
    with pytest.warns(UserWarning, match="matched by number, so that class 0 is taken for 'cat'"):
        aligned, _ = matched(data_of(other, [0, 2]), card_of(card), "run")
    assert aligned.test.labels.tolist() == [0, 2]
    assert aligned.class_names == card


def test_folders_named_by_numbers_match_as_names_do():
    names = tuple(map(str, range(12)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        aligned, _ = matched(data_of(sorted(names), [2, 11]), card_of(names), "run")
    assert aligned.test.labels.tolist() == [10, 9]


@pytest.mark.parametrize(
    ("names", "card", "message"),
    [
        (
            ["cat", "fox"],
            NAMES,
            r"1 of 2 classes that the network of run does not know \('fox'\), and lacks 2 of its 3 "
            r"\('{1}', '{2}'\)".format(*NAMES),
        ),
        ([*NAMES, "fox"], NAMES, r"1 of 4 classes .* not know \('fox'\): give data of the classes"),
        (
            [f"c{n}" for n in range(9)],
            NAMES,
            r"9 of 9 .* \('c0', .*, 'c4' and 4 more\), and lacks 3",
        ),
        (["0", "1"], NAMES, "2 numbered classes, .* mere numbers match only where"),
        (["0", "1"], ("0", "1", "2"), "2 numbered classes, .* 3 numbered classes"),
        (NAMES[:2], ("0", "1", "2"), "mere numbers match only where"),
        (["cat", "cat", "dog"], NAMES, "two classes called 'cat'"),
    ],
)
def test_other_classes_are_refused(names, card, message):
    with pytest.raises(RequestError, match=message):
        matched(data_of(names, [0, 1]), card_of(card), "run")


def test_one_label_and_several_do_not_meet():
    with pytest.raises(RequestError, match="several labels an image, the data of run one label"):
        matched(data_of(NAMES, [[1.0, 0.0, 1.0]]), card_of(NAMES), "run")


def test_the_first_difference_of_two_cards_is_named():
    card = card_of(NAMES)
    for changes, message in (
        ({"class_names": ("cat", "dog")}, "classes: 2 in place of 3"),
        ({"class_names": ("cat", "fox", "emu")}, "class 1: fox in place of dog"),
        ({"class_counts": (1, 5, 1)}, "training images of class 'dog': 5 in place of 1"),
        ({"image_size": (8, 4)}, "pixels: 4 x 8 in place of 4 x 4"),
        ({"in_channels": 1, "mean": (0.5,), "std": (0.2,)}, "channels: 1 in place of 3"),
        ({"mean": (0.5, 0.51, 0.5)}, "mean and deviation"),
        ({"multi_label": True}, "labels an image: several in place of one"),
    ):
        assert message in card.difference(dataclasses.replace(card, **changes))
    same = dataclasses.replace(card, name="moved", mean=(0.5, 0.5, 0.5 + 1e-9))
    assert card.difference(same) is None
