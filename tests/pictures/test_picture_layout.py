import itertools
import random

import pytest

from ssfnas.pictures.layout import Box, connect, crossings, place

GAP = 0.1


def random_boxes(seed: int) -> list[Box]:
    draws = random.Random(seed)
    boxes = [
        Box(column, draws.choice((0.05, 0.3, 0.8)), width=1.0)
        for column in range(5)
        for _ in range(draws.randint(1, 7))
    ]
    for box in boxes:
        following = [other for other in boxes if other.column == box.column + 1]
        for other in draws.sample(following, min(2, len(following))):
            connect(box, other)
    return boxes


@pytest.mark.parametrize("seed", range(8))
def test_no_two_boxes_of_a_column_come_closer_than_the_gap(seed):
    boxes = random_boxes(seed)
    for column in place(boxes, GAP):
        for above, below in itertools.pairwise(column):
            room = (below.y - below.height / 2) - (above.y + above.height / 2)
            assert room >= GAP - 1e-9
    assert min(box.y - box.height / 2 for box in boxes) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_placing_never_adds_crossings(seed):
    boxes = random_boxes(seed)
    given = [[box for box in boxes if box.column == number] for number in range(5)]
    before = crossings(given)
    columns = place(boxes, GAP)
    assert crossings(columns) <= before
    assert {id(box) for column in columns for box in column} == {id(box) for box in boxes}


def test_crossings_counts_pairs_of_lines():
    first, second = [Box(0, 1) for _ in range(3)], [Box(1, 1) for _ in range(3)]
    for start, end in zip(first, reversed(second), strict=True):
        connect(start, end)
    assert crossings([first, second]) == 3
    assert crossings([first, second[::-1]]) == 0


def test_the_one_crossing_that_can_be_undone_is_undone():
    first, second = [Box(0, 1), Box(0, 1)], [Box(1, 1), Box(1, 1)]
    connect(first[0], second[1])
    connect(first[1], second[0])
    assert crossings(place([*first, *second], GAP)) == 0
