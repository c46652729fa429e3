"""What is chosen from what was measured: by which number, and of equals which."""

from __future__ import annotations

from ssfnas.evaluation.choices import (
    choosing_metric,
    chosen_classifier,
    chosen_epoch,
    chosen_strength,
)


def line(epoch, value, phase="train", **more):
    return {"epoch": epoch, "phase": phase, "val/balanced_accuracy": value, "val/top1": 1, **more}


BALANCED = choosing_metric(multi_label=False)


def test_the_epoch_is_the_best_on_the_validation_part_and_of_equals_the_earlier():
    lines = [
        {"epoch": 1, "phase": "train", "test/balanced_accuracy": 0.99},
        line(2, 0.5), line(4, 0.7), line(6, 0.7), line(8, 0.6, reweighted=True),
    ]  # fmt: skip
    choice = chosen_epoch(lines, BALANCED)
    assert choice["chosen"] == {"epoch": 4, "phase": "train", "weights": "model"}
    assert (choice["on"], choice["by"]) == ("validation", "balanced_accuracy")
    assert (choice["among"], choice["value"]) == ([2, 4, 6, 8], 0.7)


def test_averaged_weights_are_chosen_where_they_are_better_and_not_where_equal():
    lines = [line(1, 0.5, **{"val_ema/balanced_accuracy": 0.5})]
    assert chosen_epoch(lines, BALANCED)["chosen"]["weights"] == "model"
    lines.append(line(2, 0.5, reweighted=False, **{"val_ema/balanced_accuracy": 0.6}))
    assert chosen_epoch(lines, BALANCED)["chosen"] == {
        "epoch": 2, "phase": "train", "reweighted": False, "weights": "ema",
    }  # fmt: skip


def test_several_labels_choose_by_area():
    lines = [{"epoch": e, "phase": "train", "val/auc": v} for e, v in ((1, 0.8), (2, 0.7))]
    assert chosen_epoch(lines, choosing_metric(multi_label=True))["chosen"]["epoch"] == 1


def test_nothing_is_chosen_without_a_validation_part():
    lines = [{"epoch": 1, "phase": "crt", "crt_lr": 0.1, "test/balanced_accuracy": 0.9}]
    assert chosen_epoch(lines, BALANCED) is None
    assert chosen_classifier(lines, BALANCED) is None


def test_the_classifier_is_judged_after_its_last_epoch_and_beside_the_first_stages():
    lines = [
        line(1, 0.4), line(2, 0.65),
        line(3, 0.9, "crt", crt_lr=0.1), line(4, 0.5, "crt", crt_lr=0.1),
        line(5, 0.3, "crt", crt_lr=0.02), line(6, 0.6, "crt", crt_lr=0.02),
        line(7, 0.6, "crt", crt_lr=0.5),
    ]  # fmt: skip
    choice = chosen_classifier(lines, BALANCED)
    assert choice["chosen"] == {"crt_lr": 0.02}
    assert (choice["value"], choice["first_stage"]) == (0.6, 0.65)
    assert [tuple(entry.values()) for entry in choice["among"]] == [
        (0.1, 0.5), (0.02, 0.6), (0.5, 0.6),
    ]  # fmt: skip
    assert chosen_classifier(lines[:2], BALANCED) is None


def test_of_equal_strengths_the_smallest():
    rows = [{"tau": tau, "balanced_accuracy": v} for tau, v in ((0, 0.5), (0.5, 0.7), (1, 0.7))]
    choice = chosen_strength(rows, BALANCED)
    assert choice["chosen"] == {"tau": 0.5}
    assert (choice["among"], choice["value"]) == ([0, 0.5, 1], 0.7)
