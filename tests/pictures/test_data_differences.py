"""Runs on different data are never averaged, and a comparison says what differs."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from tiny_runs import tiny_retrain

from ssfnas.pictures import report_html
from ssfnas.pictures.chance import chance_levels
from ssfnas.pictures.comparison_page import grouped_by_seed
from ssfnas.pictures.data_differences import data_section
from ssfnas.runs.run_files import RunFiles
from ssfnas.yaml_files import dump_yaml

DATA = {
    "name": "animals", "class_names": ["cat", "dog", "<owl>"], "class_counts": [60, 30, 10],
    "multi_label": False, "in_channels": 3, "image_size": [8, 8], "mean": [0.5, 0.5, 0.5],
    "std": [0.2, 0.2, 0.2], "training_images": 100, "test_images": 40, "test_counts": [20, 10, 10],
}  # fmt: skip
GROUPS = {"medium": [0, 1], "few": [2]}


def run_on(path, *, seed=0, groups=GROUPS, **changes):
    """A finished retraining on data that differ from the usual in ``changes``."""
    path.mkdir()
    values = dataclasses.asdict(tiny_retrain("animals.npz", seed=seed))
    values = {k: v for k, v in values.items() if k not in ("resume", "overwrite", "dry_run")}
    text = dump_yaml({"command": "retrain", **values, "environment": {"torch": "2"}})
    (path / "config.yaml").write_text(text)
    data = {k: v for k, v in (DATA | changes).items() if v is not None}
    (path / "data.json").write_text(json.dumps(data))
    last = {"top1": 0.5 + 0.1 * seed, "balanced_accuracy": 0.4, "groups": groups}
    evaluation = {"data": {"name": "animals", "test_images": 40}, "last_epoch": last}
    (path / "evaluation.json").write_text(json.dumps(evaluation))
    return RunFiles(path)


OTHERS = {
    "classes": ({"class_names": ["cat", "dog", "emu"]}, "<owl>"),
    "training images": ({"class_counts": [60, 30, 9], "training_images": 99}, "99"),
    "test images": ({"test_images": 39, "test_counts": None}, "39"),
    "test images of each class": ({"test_counts": [10, 20, 10]}, "20 to 10 a class"),
    "labels an image": ({"multi_label": True}, "several"),
    "channels": ({"in_channels": 1}, "1"),
    "mean and deviation of the pixels": ({"mean": [0.5, 0.51, 0.5]}, "0.510"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_differs_is_said_and_never_averaged(tmp_path, what):
    changes, shown = OTHERS[what]
    runs = [run_on(tmp_path / "a"), run_on(tmp_path / "b", seed=1, **changes)]
    assert [[run.name for run in group] for group in grouped_by_seed(runs)] == [["a"], ["b"]]
    section = data_section(runs)
    assert section.title == "Different data"
    assert section.alert
    assert f">{what}<" in section.body
    assert shown.replace("<", "&lt;").replace(">", "&gt;") in section.body
    page = report_html([run.path for run in runs])
    assert page.index("Different data") < page.index(">Results<")


def test_seeds_of_the_same_data_share_a_column_whatever_the_order_of_its_classes(tmp_path):
    order = {
        key: [DATA[key][place] for place in (2, 0, 1)]
        for key in ("class_names", "class_counts", "test_counts")
    }
    runs = [
        run_on(tmp_path / "a"),
        run_on(tmp_path / "b", seed=1, **order, groups={"medium": [1, 2], "few": [0]}),
        run_on(tmp_path / "other", class_counts=[61, 30, 10]),
        run_on(tmp_path / "c", seed=2, mean=[0.5004, 0.5, 0.5]),
    ]
    groups = [[run.name for run in group] for group in grouped_by_seed(runs)]
    assert groups == [["a", "b", "c"], ["other"]]
    assert data_section([runs[0], runs[1], runs[3]]) is None


def test_runs_that_do_not_say_are_not_called_different(tmp_path):
    early = dict.fromkeys(("training_images", "test_images", "test_counts"))
    runs = [run_on(tmp_path / "a"), run_on(tmp_path / "b", seed=1, **early)]
    assert data_section(runs) is None
    assert len(grouped_by_seed(runs)) == 1


def test_other_sizes_of_the_same_images_are_a_matter_of_configuration(tmp_path):
    changes = {"image_size": [16, 16], "std": [0.25, 0.25, 0.25]}
    assert data_section([run_on(tmp_path / "a"), run_on(tmp_path / "b", **changes)]) is None


def test_other_groups_of_classes_are_said(tmp_path):
    thirds = {"many": [0], "medium": [1], "few": [2]}
    section = data_section([run_on(tmp_path / "a"), run_on(tmp_path / "b", groups=thirds)])
    assert section.title == "Different groups of classes"
    assert "thirds of the classes" in section.body


def test_chance_stands_beside_the_results_of_each(tmp_path):
    runs = [run_on(tmp_path / "a"), run_on(tmp_path / "b", class_names=["cat", "dog", "emu"],
                                           test_counts=[32, 4, 4])]  # fmt: skip
    assert chance_levels(runs[0]) == {
        "top1": 0.5, "balanced_accuracy": pytest.approx(1 / 3), "auc": 0.5,
    }  # fmt: skip
    several = run_on(tmp_path / "c", multi_label=True, test_counts=[9, 9, 9])
    assert chance_levels(several) == {"auc": 0.5}
    text = re.sub(r"<[^>]*>|\s+", " ", report_html([run.path for run in runs]))
    assert re.search(r"top-1 accuracy: chance\s+50\.00 %\s+80\.00 %", text)
    assert re.search(r"balanced accuracy: chance\s+33\.33 %\s+33\.33 %", text)
