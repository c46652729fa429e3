import math
import re

import pytest

from ssfnas.evaluation.classification_metrics import class_groups
from ssfnas.pictures.class_bars import class_accuracy, class_sizes
from ssfnas.pictures.style import GROUP_COLORS

NASTY = "<i>&"


def rows_of(page):
    """(name, size, [(width, color, text)]) of each row, as it stands there."""
    rows = []
    for row in re.findall(r'<li class="row">(.*?)</li>', page):
        name = re.search(r'<span class="name" title="[^"]*">(.*?)</span>', row)[1]
        size = re.search(r'<span class="size">(.*?)</span>', row)
        bars = [
            (float(width) if width else None, color or None, text)
            for width, color, text in re.findall(
                r'class="track">(?:<i style="width:([\d.e+-]+)%;background:(#\w+)"></i>)?</span>'
                r"<b>(.*?)</b>",
                row,
            )
        ]
        rows.append((name, size and size[1], bars))
    return rows


def test_bars_are_rounded_as_everybody_rounds():
    values = [32.5, 100 * 0.285, 33.49, 0.5, 0.0, math.nan]
    rows = rows_of(class_accuracy({"last": values}, list("abcdef")))
    assert [bar[2] for _, _, (bar,) in rows] == ["33", "29", "33", "1", "0", "-"]


def test_classes_stand_by_size_with_their_widths_groups_and_chance():
    groups = {"many": [2], "medium": [1], "few": [0]}
    page = class_accuracy(
        {"last": [10.0, math.nan, 90.0]}, ["gnu", NASTY, "cat"], [5, 50, 1500],
        groups=groups, chance=100 / 3,
    )  # fmt: skip
    assert rows_of(page) == [
        ("cat", "1,500", [(90, GROUP_COLORS["many"], "90")]),
        ("&lt;i&gt;&amp;", "50", [(None, None, "-")]),
        ("gnu", "5", [(10, GROUP_COLORS["few"], "10")]),
    ]
    assert "--chance:33.33%" in page
    assert "chance, 33.3 %" in page
    assert NASTY not in page


def test_several_measurements_have_a_bar_each_of_one_color():
    page = class_accuracy({"last": [10.0, 20.0], "best": [30.0, 40.0]}, ["a", "b"])
    rows = rows_of(page)
    assert [[bar[0] for bar in bars] for _, _, bars in rows] == [[10, 30], [20, 40]]
    (last, best), others = ([bar[1] for bar in bars] for _, _, bars in rows)
    assert last != best
    assert others == [last, best]


def test_sizes_are_to_scale_and_the_smallest_class_has_a_bar():
    rows = rows_of(class_sizes([1000, 10, 40], ["a", "b", "c"]))
    assert [(name, bars) for name, _, bars in rows] == [
        ("a", [(100, GROUP_COLORS["many"], "1,000")]),
        ("c", [(4, GROUP_COLORS["medium"], "40")]),
        ("b", [(1, GROUP_COLORS["few"], "10")]),
    ]


def test_a_thousand_classes_stand_together_largest_first():
    counts = [(37 * number) % 1000 + 1 for number in range(1000)]  # 1 to 1000, each once
    values = [count / 10 for count in counts]
    values[counts.index(1000)] = math.nan
    page = class_accuracy(
        {"last": values}, [f"n{n:08d}" for n in range(1000)], counts, groups=class_groups(counts)
    )
    rows = rows_of(page)
    assert len(rows) == 50
    # A bar is 20 classes: 1000 to 981, of which the first has no value, then 980 to 961, ...
    assert [name for name, _, _ in rows[:2]] == ["1-20", "21-40"]
    widths = [bars[0][0] for _, _, bars in rows]
    assert widths[0] == pytest.approx(sum(range(981, 1000)) / 19 / 10, rel=1e-3)
    assert widths[1:] == pytest.approx(
        [(1000.5 - 20 * n - 10) / 10 for n in range(1, 50)], rel=1e-3
    )
    assert rows[-1][1] == "10"  # 10.5 rounds to even
    # Over 100 images: 45 bars; 20 to 100: 4; under 20: the last.
    tones = [bars[0][1] for _, _, bars in rows]
    expected = [GROUP_COLORS[name] for name in ("many", "medium", "few")]
    assert tones == [expected[0]] * 45 + [expected[1]] * 4 + [expected[2]]
    assert len(rows_of(class_sizes(counts, [str(n) for n in range(1000)]))) == 50
    assert len(page) < 30_000


@pytest.mark.parametrize("classes", [150, 151])
def test_up_to_150_classes_have_a_bar_each(classes):
    page = class_accuracy({"last": [50.0] * classes}, ["x"] * classes)
    assert len(rows_of(page)) == (150 if classes == 150 else 50)
