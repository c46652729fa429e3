import io
import itertools
import math

import numpy as np
import pytest

from ssfnas.evaluation.classification_metrics import class_groups
from ssfnas.pictures.curves import (
    class_accuracy,
    class_sizes,
    edge_ends,
    final_weights,
    panels_of_lines,
    weights_over_time,
)
from ssfnas.pictures.numbers import duration, named, shown, spread
from ssfnas.pictures.series import elapsed, lines_over_time

OPERATIONS = ("skip_connect", "sep_conv_3x3", "mine_$1$")


def random_weights(epochs=4, edges=14):
    return np.random.default_rng(0).uniform(size=(epochs + 1, edges, len(OPERATIONS)))


def test_edges_are_counted_node_by_node():
    assert edge_ends(5) == [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    assert len(edge_ends(14)) == 14
    with pytest.raises(ValueError, match="13 edges"):
        edge_ends(13)


@pytest.mark.parametrize("edges", [2, 5, 14, 20])
def test_each_edge_has_a_panel_with_its_own_weights(edges):
    weights = random_weights(edges=edges)
    figure = weights_over_time(weights, OPERATIONS, threshold=0.85)
    assert len(figure.axes) == edges
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    names = ["cₖ₋₂", "cₖ₋₁", "0", "1", "2", "3", "4", "5"]
    for edge, (start, to) in enumerate(edge_ends(edges)):
        *lines, threshold = panels[f"{names[start]} → {names[to]}"].get_lines()
        for number, line in enumerate(lines):
            np.testing.assert_array_equal(line.get_ydata(), weights[:, edge, number])
        assert list(threshold.get_ydata()) == [0.85, 0.85]
    figure.draw_without_rendering()


def test_heat_maps_write_each_weight_and_frame_what_is_kept():
    weights = {"normal": random_weights()[-1], "reduce": random_weights()[0]}
    kept = {"normal": {("sep_conv_3x3", 1, 2)}}
    figure = final_weights(weights, OPERATIONS, kept=kept)
    for axes, values in zip(figure.axes, weights.values(), strict=True):
        written = [text.get_text() for text in axes.texts]
        assert written == [f"{value:.2f}" for value in values.ravel()]
    frames = [patch for patch in figure.axes[0].patches if not patch.get_fill()]
    assert [tuple(round(v + 0.46) for v in frame.get_xy()) for frame in frames] == [(1, 1)]
    assert all(patch.get_fill() for patch in figure.axes[1].patches)
    figure.draw_without_rendering()


def test_logged_values_share_panels_by_quantity_and_shares_are_in_percent():
    metrics = [
        {"step": 10 * e, "epoch": e, "wall_time": 1e9, "phase": "train", "alpha/loss": 1.0 / e,
         "weight/loss": 2.0 / e, "alpha/zero_one": -0.1, "entropy/normal": 0.5,
         "entropy/reduce": 0.6, "knn/top1": 0.25, "lr": 0.1}
        for e in (1, 2, 3)
    ]  # fmt: skip
    x, panels = lines_over_time(metrics, lambda key: True)
    assert x == "epoch"
    assert {title: list(lines) for title, lines in panels.items()} == {
        "loss": ["alphas' step", "weights' step"],
        "zero-one loss": ["alphas' step"],
        "entropy of the weights": ["normal cell", "reduction cell"],
        "nearest neighbors (%)": ["top-1 accuracy"],
        "learning rate": ["learning rate"],
    }
    assert panels["loss"]["weights' step"] == ([1, 2, 3], [2.0, 1.0, 2.0 / 3])
    assert panels["nearest neighbors (%)"]["top-1 accuracy"][1] == [25, 25, 25]
    figure = panels_of_lines(panels, xlabel=x)
    assert len(figure.axes) == 5
    figure.draw_without_rendering()


def test_epochs_logged_twice_are_shown_over_steps_and_gaps_stay_gaps():
    metrics = [{"step": 5, "epoch": 1, "a": 1.0}, {"step": 9, "epoch": 1}, {"step": 12, "a": 3.0}]
    expected = {"a": {"a": ([5, 12], [1.0, 3.0])}}
    assert lines_over_time(metrics, lambda key: True) == ("step", expected)


def test_bars_are_rounded_as_everybody_rounds():
    values = [32.5, 100 * 0.285, 33.49, 0.5, 0.0, math.nan]
    figure = class_accuracy({"last": values}, list("abcdef"))
    (bars,) = figure.axes
    assert [text.get_text() for text in bars.texts] == ["33", "29", "33", "1", "0"]


def test_class_bars_have_their_heights_groups_and_no_bar_without_a_value():
    values = [90.0, math.nan, 10.0]
    groups = {"many": [0], "medium": [1], "few": [2]}
    figure = class_accuracy({"last": values}, ["cat", "dog", "gnu"], [500, 50, 5], groups=groups)
    sizes, bars = figure.axes
    assert [bar.get_height() for bar in sizes.patches] == [500, 50, 5]
    np.testing.assert_array_equal([bar.get_height() for bar in bars.patches], values)
    assert len({bar.get_facecolor() for bar in bars.patches}) == 3
    assert [text.get_text() for text in bars.texts] == ["90", "10"]
    figure.draw_without_rendering()


def test_a_hundred_classes_are_numbered_not_named():
    figure = class_accuracy({"last": [50.0] * 100}, [f"class {n}" for n in range(100)])
    assert not any("class 1" in label.get_text() for label in figure.axes[0].get_xticklabels())
    assert figure.axes[0].get_xlabel() == "class"


def test_numbers_as_people_read_them():
    assert shown("top1", 0.71234) == "71.23 %"
    assert shown("parameters", 1930618) == "1,930,618"
    assert shown("loss", 0.00002) == "2e-05"
    assert shown("per_class", math.nan) == "-"
    assert shown("auc", None) == "-"
    # Mean and sample standard deviation of 70, 72, 74 percent.
    assert spread("top1", [0.70, 0.72, 0.74]) == "72.00 ± 2.00 %"
    assert spread("parameters", [10, 10]) == "10"
    assert named("knn_corrected/top1") == (
        "nearest neighbors, prior-corrected votes, top-1 accuracy"
    )
    shown_times = [duration(seconds) for seconds in (4.25, 59, 200, 7500)]
    assert shown_times == ["4.2 s", "59 s", "3 min 20 s", "2 h 05 min"]


def test_time_leaves_out_a_pause_between_interruption_and_resumption():
    starts = [0, 10, 20, 30, 86430, 86440]
    assert elapsed([{"wall_time": 1.7e9 + start} for start in starts]) == 60
    assert elapsed([{"wall_time": 1.0}]) is None


def test_a_thousand_classes_stand_together_largest_first():
    counts = [(37 * number) % 1000 + 1 for number in range(1000)]  # 1 to 1000, each once
    values = [count / 10 for count in counts]
    values[counts.index(1000)] = float("nan")
    groups = class_groups(counts)
    figure = class_accuracy(
        {"last": values}, [f"n{n:08d}" for n in range(1000)], counts, groups=groups
    )
    sizes, axes = figure.axes
    heights = [bar.get_height() for bar in axes.patches]
    assert len(heights) == 50
    # A bar is 20 classes: 1000 to 981, of which the first has no value, then 980 to 961, ...
    assert heights[0] == pytest.approx(sum(range(981, 1000)) / 19 / 10)
    assert heights[1:] == pytest.approx([(1000.5 - 20 * n - 10) / 10 for n in range(1, 50)])
    assert [bar.get_height() for bar in sizes.patches][-1] == round(10.5)
    assert axes.get_xlabel() == "classes, largest first; a bar is the mean of 20"
    tones = [bar.get_facecolor() for bar in axes.patches]
    # Over 100 images: 45 bars; 20 to 100: 4; under 20: the last.
    assert [len(list(same)) for _, same in itertools.groupby(tones)] == [45, 4, 1]
    few = class_sizes(counts, [str(n) for n in range(1000)])
    assert len(few.axes[0].patches) == 50
    svg = io.StringIO()
    figure.savefig(svg, format="svg")
    assert len(svg.getvalue()) < 100_000


@pytest.mark.parametrize("classes", [150, 151])
def test_up_to_150_classes_have_a_bar_each(classes):
    figure = class_accuracy({"last": [50.0] * classes}, ["x"] * classes)
    assert len(figure.axes[0].patches) == (150 if classes == 150 else 50)
    wanted = "class" if classes == 150 else "classes; a bar is the mean of 3 or 4"
    assert figure.axes[0].get_xlabel() == wanted
