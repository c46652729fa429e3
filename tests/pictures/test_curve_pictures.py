import math

import numpy as np
import pytest

from ssfnas.evaluation.measure_names import named, shown
from ssfnas.pictures.curves import (
    edge_ends,
    edge_name,
    panels_of_lines,
    weights_key,
    weights_over_time,
)
from ssfnas.pictures.numbers import duration, spread
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
    panels = {
        panel.title: panel.figure
        for panel in weights_over_time(weights, OPERATIONS, threshold=0.85)
    }
    names = ["cₖ₋₂", "cₖ₋₁", "0", "1", "2", "3", "4", "5"]
    ends = edge_ends(edges)
    assert list(panels) == [f"{names[start]} → {names[to]}" for start, to in ends]
    assert edge_name(*ends[0]) == "cₖ₋₂ → 0"
    for edge, figure in enumerate(panels.values()):
        (axes,) = figure.axes
        *lines, threshold = axes.get_lines()
        for number, line in enumerate(lines):
            np.testing.assert_array_equal(line.get_ydata(), weights[:, edge, number])
        assert list(threshold.get_ydata()) == [0.85, 0.85]
        figure.draw_without_rendering()
    key = weights_key(OPERATIONS, 0.85)
    assert [text for _, text, _ in key] == [*OPERATIONS, "threshold 0.85"]
    drawn = [line.get_color() for line in figure.axes[0].get_lines()]
    assert drawn == [color for color, _, _ in key]


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
    drawn = panels_of_lines(panels, xlabel=x, levels={"nearest neighbors (%)": 10.0})
    assert [panel.title for panel in drawn] == list(panels)
    for panel in drawn:
        (axes,) = panel.figure.axes
        lines = dict(zip(panels[panel.title], axes.get_lines(), strict=False))
        for name, line in lines.items():
            np.testing.assert_array_equal(line.get_xydata().T, panels[panel.title][name])
        named_lines = [(text, color) for color, text, kind in panel.key if kind == "line"]
        if panel.title != "learning rate":  # which names its only line
            assert named_lines == [(name, line.get_color()) for name, line in lines.items()]
        panel.figure.draw_without_rendering()
    (level,) = drawn[3].figure.axes[0].get_lines()[1:]
    assert list(level.get_ydata()) == [10, 10]
    assert drawn[3].key[-1][1:] == ("chance, 10", "dashed")


@pytest.mark.parametrize("epochs", [[1], [7], [1, 2], [1, 2, 3], list(range(1, 601))])
def test_epochs_are_whole_numbers_on_the_axis(epochs):
    (panel,) = panels_of_lines({"loss": {"loss": (epochs, [1.0] * len(epochs))}})
    panel.figure.draw_without_rendering()
    (axes,) = panel.figure.axes
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert ticks
    assert all(float(tick).is_integer() for tick in ticks)


def test_epochs_logged_twice_are_shown_over_steps_and_gaps_stay_gaps():
    metrics = [{"step": 5, "epoch": 1, "a": 1.0}, {"step": 9, "epoch": 1}, {"step": 12, "a": 3.0}]
    expected = {"a": {"a": ([5, 12], [1.0, 3.0])}}
    assert lines_over_time(metrics, lambda key: True) == ("step", expected)


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
    assert named("val/top1") == "top-1 accuracy (validation)"
    assert named("test_ema/auc") == "AUC (macro, test, averaged weights)"
    assert shown("loss", -0.0) == "0"
    shown_times = [duration(seconds) for seconds in (4.25, 59, 200, 7500)]
    assert shown_times == ["4.2 s", "59 s", "3 min 20 s", "2 h 05 min"]


def test_time_leaves_out_a_pause_between_interruption_and_resumption():
    starts = [0, 10, 20, 30, 86430, 86440]
    assert elapsed([{"wall_time": 1.7e9 + start} for start in starts]) == 60
    assert elapsed([{"wall_time": 1.0}]) is None
