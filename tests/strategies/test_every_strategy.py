"""What holds of every strategy that trains alphas: both supernets, objectives, resumption, ..."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from image_files import write_npz
from ranks import environments
from recorders import NoLooking, Repeater, Tape
from strategy_runs import BY_GRADIENT, SETTINGS, run, state_of, trainer_of
from torch import nn

from ssfnas import ops
from ssfnas.declarations.strategies import STRATEGIES
from ssfnas.spaces import OPERATIONS, register_operation
from ssfnas.training.graphed_step import WARM_UP

RECORDED = [name for name in BY_GRADIENT if not STRATEGIES.get(name).not_recorded]
TWO_PROCESSES = Path(__file__).parents[1] / "pipeline" / "two_processes.py"

# Of all strategies, as options of theirs: operations that close early, and K.
ADDED = [{}, {"close_below": 0.4, "close_after": 0, "close_patience": 1}, {"partial_channels": 2}]


@pytest.fixture
def dataset(tmp_path):
    return write_npz(tmp_path / "images.npz", (24, 16, 8))


def assert_close(found, wanted, bound=1e-9):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(found[name].double(), value.double(), rtol=bound, atol=bound), name


@pytest.mark.parametrize("added", ADDED, ids=str)
@pytest.mark.parametrize("strategy", BY_GRADIENT)
def test_the_fast_supernet_searches_as_the_reference_does(dataset, strategy, added):
    both = [trainer_of(dataset, strategy, supernet=form, **added) for form in ("reference", "fast")]
    before = state_of(both[0])
    for trainer in both:
        run(trainer, trainer.steps_per_epoch + 2)  # an epoch ends among them
    assert_close(state_of(both[1]), state_of(both[0]))
    alphas = state_of(both[0])["alphas_normal"]
    assert not torch.equal(alphas, before["alphas_normal"])
    if "close_below" in added:
        assert both[0].strategy.graph_key == both[1].strategy.graph_key
    for cell, table in both[0].strategy.tables().items():
        assert table.shape == (5, len(both[0].operations)), cell
        assert bool(table.isfinite().all())


@pytest.mark.parametrize("strategy", BY_GRADIENT)
def test_a_resumed_search_has_the_same_bits(dataset, strategy):
    settings = {"close_below": 0.4, "close_after": 0, "close_patience": 1}
    whole = trainer_of(dataset, strategy, dtype=torch.float32, **settings)
    for _ in range(whole.steps_per_epoch + 1):
        run(whole, 1)
        if whole.step == 2:
            middle = copy.deepcopy(whole.state_dict())
    later = copy.deepcopy(whole.state_dict())
    run(whole, 2)
    for state in (middle, later):
        resumed = trainer_of(dataset, strategy, dtype=torch.float32, **settings)
        resumed.load_state_dict(state)
        run(resumed, whole.step - resumed.step)
        for name, value in state_of(whole).items():
            assert torch.equal(state_of(resumed)[name], value), name
        for one, other in zip(whole.history, resumed.history, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("objective", ["ssl", "joint"])
@pytest.mark.parametrize("strategy", BY_GRADIENT)
def test_every_objective_in_bf16(dataset, strategy, objective):
    trainer = trainer_of(
        dataset, strategy, dtype=torch.float32, objective=objective, precision="bf16"
    )
    before = state_of(trainer)
    run(trainer, 3)
    after = state_of(trainer)
    assert all(bool(value.isfinite().all()) for value in after.values())
    for name in trainer.net.architecture():
        assert not torch.equal(after[name], before[name]), name


@pytest.mark.parametrize("strategy", RECORDED)
def test_recorded_steps_are_the_steps_and_ask_nothing(dataset, strategy):
    settings = {"objective": "joint", "cuda_graph": "on"}
    recorder = Repeater()
    plain = trainer_of(dataset, strategy, recorder=Repeater(), **settings)
    recorded = trainer_of(dataset, strategy, recorder=recorder, **settings)
    recorded.run_step()
    plain.run_step()
    with NoLooking():
        recorded._run_step()
    plain._run_step()
    for trainer in (plain, recorded):
        for _ in range(WARM_UP + 1):
            trainer.run_step()
    assert recorder.recorded == 1
    assert_close(state_of(recorded), state_of(plain), bound=1e-11)


@pytest.mark.parametrize("strategy", RECORDED)
def test_nothing_that_changes_from_step_to_step_is_recorded(dataset, strategy):
    operations = ["skip_connect", "max_pool_3x3", "dil_conv_3x3"]
    settings = {"epochs": 4, "cuda_graph": "on", "operations": operations}
    if strategy == "oles":  # where something stops, the step is recorded anew
        settings["oles_threshold"] = -1.0
    plain = trainer_of(dataset, strategy, recorder=Repeater(), **settings)
    taped = trainer_of(dataset, strategy, recorder=Tape(), **settings)
    steps = 2 * plain.steps_per_epoch + 1
    assert steps > WARM_UP + 3  # recorded in one epoch, and repeated in the next
    with ops.backend("torch"):
        for trainer in (plain, taped):
            for _ in range(steps):
                trainer.run_step()
    assert taped.graphed._replay is not None
    assert_close(state_of(taped), state_of(plain), bound=1e-11)


@pytest.mark.parametrize("strategy", BY_GRADIENT)
def test_an_operation_of_a_user(dataset, strategy):
    @register_operation("scaled")
    def scaled(channels, stride, affine):
        return nn.Sequential(
            nn.Conv2d(channels, channels, 1, stride=stride), nn.BatchNorm2d(channels)
        )

    try:
        names = ["none", "skip_connect", "scaled", "sep_conv_3x3"]
        both = [
            trainer_of(dataset, strategy, supernet=form, operations=names)
            for form in ("reference", "fast")
        ]
        for trainer in both:
            run(trainer, 3)
        assert_close(state_of(both[1]), state_of(both[0]))
    finally:
        del OPERATIONS._entries["scaled"]


# Each takes two processes ten seconds: one of every kind of draws and gradients runs each time.
OFTEN = ("darts", "gdas")


@pytest.mark.parametrize(
    "strategy",
    [pytest.param(s, marks=() if s in OFTEN else pytest.mark.slow) for s in BY_GRADIENT],
)
def test_two_processes_are_one(dataset, strategy, tmp_path):
    changes = {
        "strategy": strategy, "objective": "ssl", "knn": False, "alpha_lr": 0.03125,
        **SETTINGS.get(strategy, {}),
    }  # fmt: skip
    states = []
    for count in (1, 2):
        result = tmp_path / f"{count}.pt"
        words = [str(result), "search", str(dataset), "4", json.dumps(changes)]
        path = {"PYTHONPATH": os.pathsep.join(sys.path)}
        started = [
            subprocess.Popen([sys.executable, str(TWO_PROCESSES), *words], env=environment | path)
            for environment in environments(count)
        ]
        assert [process.wait(timeout=240) for process in started] == [0] * count
        states.append(torch.load(result, weights_only=True)["net"])
    assert_close(states[1], states[0], bound=1e-9)


@pytest.mark.parametrize("strategy", BY_GRADIENT)
def test_what_is_decided_is_finite_and_logged(dataset, strategy):
    trainer = trainer_of(dataset, strategy)
    values = {}
    while not trainer.finished:
        trainer.run_step()
        if trainer.epoch_ended:
            values = trainer.end_epoch()
    numbers = {name: value for name, value in values.items() if isinstance(value, float)}
    assert all(math.isfinite(value) for value in numbers.values()), numbers
    assert trainer.genotype().normal
    assert len(trainer.history) == 1 + trainer.epoch
