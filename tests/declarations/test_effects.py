"""An option is declared to have an effect exactly where it is read.

Small trainings of every kind run with configs that note what is read of them. What was read is held
to what :func:`ssfnas.options.obstacles` says of that config, from which refusals are made.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_files import write_npz
from tiny_runs import tiny_retrain, tiny_search

from ssfnas import derive, evaluate, predict
from ssfnas.config import DeriveConfig, EvaluateConfig, PredictConfig
from ssfnas.options import obstacles, option, option_values
from ssfnas.pipeline import retrain_run, search_run

# Modules that pass all values on, whether or not they have an effect.
PASSING_ON = {"copy", "dataclasses", "ssfnas.config", "ssfnas.options", "ssfnas.runs.next_commands"}

# Options that some data alone read, which is not known before they are loaded.
OF_SOME_DATA = {
    "data_dir": "where data sets are downloaded to",
    "data_seed": "of a cut data set, or a folder of one level",
}

# What a config asks for in each run, beside the smallest settings.
SEARCHES: list[dict[str, Any]] = [
    {"strategy": "fairdarts", "objective": "ssl", "imbalance_ratio": 2.0},
    {"strategy": "darts", "objective": "supervised", "steps": 2, "order": 2, "derive": "gdas"},
    {"strategy": "darts", "objective": "supervised", "close_below": 0.1},
    {"strategy": "pcdarts", "objective": "supervised", "channels": 4, "target_params": 10**9},
    {"strategy": "darts", "objective": "supervised", "target_flops": 10**12},
    {"strategy": "fairdarts", "objective": "supervised", "target_ms": 1e6, "knn": False},
    {"strategy": "sdarts", "objective": "supervised"},
    {"strategy": "beta-darts", "objective": "supervised"},
    {"strategy": "darts-minus", "objective": "supervised"},
    {"strategy": "gdas", "objective": "supervised"},
    {"strategy": "drnas", "objective": "supervised"},
    {"strategy": "drnas", "objective": "supervised", "dirichlet_penalty": "kl"},
    {"strategy": "oles", "objective": "supervised", "oles_window": 1},
    {"strategy": "random", "objective": "joint", "samples": 2, "early_stop": "skip"},
    {"early_stop": "skip", "derive": "threshold", "threshold": 0.1, "objective": "joint"},
    {
        "early_stop": "hessian",
        "derive": "threshold_edge",
        "threshold": 0.1,
        "objective": "supervised",
        "knn": False,
    },
]
RETRAININGS: list[dict[str, Any]] = [
    {"loss": "logit-adjusted", "drw": 0.5, "imbalance_ratio": 2.0},
    {"loss": "ce"},
    {"loss": "ce", "drw": 0.0, "steps": 1},
    {"loss": "focal", "crt_epochs": 1, "crt_lr": [0.1], "validation_share": 0.2},
    {"loss": "class-balanced", "mixup": 0.2, "ema": 0.5},
    {"loss": "ldam", "auxiliary": 0.4},
    {
        "loss": "focal",
        "drw": 0.5,
        "pretrain_epochs": 1,
        "pretrain_batch_size": 8,
        "projector": [8, 8],
        "finetune": "classifier",
        "bt_mixup": 4.0,
        "warmup_epochs": 1.0,
    },
    {"loss": "ce", "model": "timm:resnet10t", "genotype": None, "steps": 1},
]
DERIVATIONS: list[dict[str, Any]] = [
    {"derive": "darts", "max_params": 10**6},
    {"derive": "threshold", "threshold": 0.1},
    {"derive": "threshold_edge", "threshold": 0.1},
    {"derive": "gdas", "max_skips": 1},
    {"derive": "perturbation", "measure_images": 8},
]
EVALUATIONS: list[dict[str, Any]] = [{}, {"probe": True, "thirds": True, "precision": "bf16"}]
PREDICTIONS: list[dict[str, Any]] = [{"report": "auto"}]
ON_MULTI_LABEL_DATA = {
    "search": {"objective": "supervised"},
    "retrain": {"loss": "ce", "drw": 0.5},
    "evaluate": {},
    "predict": {},
}


class Noting:
    """A config that notes where its options are first read."""

    def __getattribute__(self, name: str) -> Any:
        frame = sys._getframe(1)
        if frame.f_globals["__name__"] not in PASSING_ON:
            read = object.__getattribute__(self, "__dict__").setdefault(" read", {})
            read.setdefault(name, f"{frame.f_globals['__name__']}, line {frame.f_lineno}")
        return object.__getattribute__(self, name)


def noting(config: Any) -> Any:
    kind = type("Noting" + type(config).__name__, (Noting, type(config)), {})
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return kind(**values)


def differences(config: Any, *, multi_label: bool = False) -> Iterator[str]:
    """What was read of a config against what is declared, in words that say what to do."""
    read = vars(config)[" read"]
    without = obstacles(config, option_values(type(config)), multi_label=multi_label)
    for name in option_values(type(config)):
        if name not in read and name not in without and name not in OF_SOME_DATA:
            yield (
                f"{name} has an effect here by its declaration, but nothing read it: declare when "
                "it is read (only_if=... where that hangs on the value of another option; among "
                "the options of the component that reads it, see ssfnas/declarations/, where it "
                "hangs on a choice; single_label=True where it hangs on labels; in OF_SOME_DATA of "
                "this test where some data alone read it), or read it"
            )
        # Images with several labels are trained on with the defaults: others are refused.
        if name in read and name in without and without[name].given != "multi-label data":
            yield (
                f"{name} has no effect with {without[name].given} by its declaration, but "
                f"{read[name]} read it: read it only where it is used (a component's options come "
                "by component.settings(config)), or declare that it is read there (in `reads` or "
                "`options` of the component, see ssfnas/declarations/)"
            )


@dataclasses.dataclass(kw_only=True)
class Small:
    mode: str = option("left", "which way", choices=("left", "right"))
    left: int = option(1, "of one way", only_if={"mode": ("left",)})
    deeper: int = option(1, "of one way's first value", only_if={"left": (1,), "mode": ("left",)})


def test_both_kinds_of_differences_are_found():
    config = noting(Small(mode="right"))
    _ = config.left
    unread, unwanted = differences(config)
    assert unread.startswith("mode has an effect here by its declaration, but nothing read it")
    assert unwanted.startswith("left has no effect with --mode right by its declaration, but test_")
    config = noting(Small())
    _ = config.mode, config.left, config.deeper
    assert list(differences(config)) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, set()),
        ({"left": 2}, {"deeper"}),
        ({"mode": "right"}, {"left", "deeper"}),
    ],
    ids=["at default", "left", "right"],  # sets have another order in each process
)
def test_all_that_an_option_depends_on_has_to_hold(changes, expected):
    assert set(obstacles(Small(**changes), option_values(Small))) == expected


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch):
    for module in (search_run, retrain_run, sys.modules["ssfnas.pictures"]):
        monkeypatch.setattr(module, "report_html", lambda runs: "")
    monkeypatch.setattr(search_run, "draw_cell", lambda *cell: None)
    monkeypatch.setattr(search_run, "save_figure", lambda *figure: None)


def images(folder: Path, *, multi_label: bool = False) -> Path:
    if not multi_label:
        return write_npz(folder / "single.npz", (10, 8, 6), test_each=2)
    draws = np.random.default_rng(0)
    labels = {"train_labels": draws.integers(0, 2, (24, 3)).astype(np.uint8)}
    labels["test_labels"] = np.array([[0, 1, 0], [1, 0, 1], [1, 1, 0]], np.uint8)
    return write_npz(folder / "multi.npz", (24,), test_each=3, **labels)


TINY = {"search": tiny_search, "retrain": tiny_retrain}
START = {"search": search_run.run_search, "retrain": retrain_run.run_retrain}


def run(command: str, folder: Path, data: Path, changes: dict[str, Any]) -> Any:
    """Run a command; its config, which noted what was read of it."""
    if command in ("search", "retrain"):
        config = noting(TINY[command](data, folder / command, epochs=1, **changes))
        START[command](config)
    elif command == "derive":
        config = noting(DeriveConfig(run=str(folder / "search"), channels=4, layers=3, **changes))
        derive.derive_again(config)
    elif command == "predict":
        images = [str(data)]
        config = noting(PredictConfig(run=str(folder / "retrain"), images=images, **changes))
        predict.predict(config)
    else:
        config = noting(EvaluateConfig(run=str(folder / "retrain"), device="cpu", **changes))
        evaluate.evaluate(config)
    return config


@pytest.mark.parametrize("changes", SEARCHES, ids=str)
def test_searches_read_what_is_declared(tmp_path, changes):
    config = run("search", tmp_path, images(tmp_path), changes)
    assert "\n".join(differences(config)) == ""


@pytest.mark.parametrize("changes", RETRAININGS, ids=str)
def test_retrainings_read_what_is_declared(tmp_path, changes):
    config = run("retrain", tmp_path, images(tmp_path), changes)
    assert "\n".join(differences(config)) == ""


@pytest.mark.parametrize(
    ("first", "command", "cases"),
    [
        ("search", "derive", DERIVATIONS),
        ("retrain", "evaluate", EVALUATIONS),
        ("retrain", "predict", PREDICTIONS),
    ],
    ids=["derive", "evaluate", "predict"],
)
def test_what_is_made_of_a_run_reads_what_is_declared(tmp_path, first, command, cases):
    data = images(tmp_path)
    run(first, tmp_path, data, {})
    for changes in cases:
        assert "\n".join(differences(run(command, tmp_path, data, changes))) == "", changes


def test_multi_label_data_are_read_as_declared(tmp_path):
    data = images(tmp_path, multi_label=True)
    for command, changes in ON_MULTI_LABEL_DATA.items():
        config = run(command, tmp_path, data, changes)
        assert "\n".join(differences(config, multi_label=True)) == "", command


@pytest.mark.parametrize(
    ("make", "cases"),
    [
        (partial(tiny_search, ""), SEARCHES),
        (partial(tiny_retrain, ""), RETRAININGS),
        (DeriveConfig, DERIVATIONS),
        (EvaluateConfig, EVALUATIONS),
        (PredictConfig, PREDICTIONS),
    ],
    ids=["search", "retrain", "derive", "evaluate", "predict"],
)
def test_the_runs_above_cover_all_options_and_components(make, cases):
    configs = [make(**changes) for changes in cases]
    options = option_values(type(configs[0]))
    effective = {name for c in configs for name in options.keys() - obstacles(c, options)}
    assert options.keys() - effective == set(), "add a run above in which these have an effect"
    missing = {
        (option.name, name)
        for option in options.values()
        for name in option.components
        if not any(
            option.chooses(getattr(c, option.name), [name])
            and option.name not in obstacles(c, options)
            for c in configs
        )
    }
    assert missing == set(), "add a run above with each of these"
