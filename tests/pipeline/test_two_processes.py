"""Two processes on half batches are one process on whole batches: float64, to 1e-10."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks import environments

SCRIPT = Path(__file__).with_name("two_processes.py")


def run(processes: int, result: Path, kind: str, dataset: Path, steps: int, changes: dict) -> dict:
    words = [str(SCRIPT), str(result), kind, str(dataset), str(steps), json.dumps(changes)]
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    started = [
        subprocess.Popen(
            [sys.executable, *words], env=environment | path, stderr=subprocess.PIPE, text=True
        )
        for environment in environments(processes)
    ]
    for process in started:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    return torch.load(result, weights_only=True)


def assert_equal_runs(tmp_path, kind, dataset, steps, changes):
    one = run(1, tmp_path / "one.pt", kind, dataset, steps, changes)
    two = run(2, tmp_path / "two.pt", kind, dataset, steps, changes)
    assert one["net"].keys() == two["net"].keys()
    for name, value in one["net"].items():
        torch.testing.assert_close(two["net"][name], value, rtol=1e-10, atol=1e-10, msg=name)
    assert len(one["logged"]) == len(two["logged"]) > 0
    for first, second in zip(one["logged"], two["logged"], strict=True):
        for name, value in first.items():
            assert second[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "ssl"},
        {"objective": "supervised", "strategy": "darts", "order": 2},
        pytest.param({"objective": "joint"}, marks=pytest.mark.slow),
    ],
    ids=lambda c: "-".join(str(v) for v in c.values()),
)
def test_a_search_on_two_processes_is_the_search_on_one(small_npz, tmp_path, changes):
    assert_equal_runs(tmp_path, "search", small_npz, 6, {"knn": False, **changes})


def test_a_random_search_on_two_processes_is_the_one_on_one(small_npz, tmp_path):
    changes = {"strategy": "random", "samples": 2, "steps": 4, "objective": "joint"}
    assert_equal_runs(tmp_path, "search", small_npz, 4, changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"loss": "logit-adjusted", "auxiliary": 0.4, "drop_path": 0.3, "mixup": 0.5, "ema": 0.9},
        pytest.param(
            {"loss": "ldam", "drw": 0.1, "sampling_exponent": 0.5, "crt_epochs": 1},
            marks=pytest.mark.slow,
        ),
        {"pretrain_epochs": 1, "pretrain_batch_size": 8, "projector": [8, 8], "bt_mixup": 4.0},
        {"validation_share": 0.25, "epochs": 1, "crt_epochs": 1, "crt_lr": [0.1, 0.01]},
    ],
    ids=["logit-adjusted", "ldam", "pretrain", "validation"],
)
def test_a_retraining_on_two_processes_is_the_one_on_one(small_npz, tmp_path, changes):
    assert_equal_runs(tmp_path, "retrain", small_npz, 12, {"epochs": 2, **changes})
