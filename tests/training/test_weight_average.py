"""The moving average of weights against its formula, with its decay as an input."""

from __future__ import annotations

import copy

import pytest
import torch
from recorders import NoLooking, Repeater, Tape
from tiny_runs import tiny_retrain
from torch import nn

from ssfnas import ops
from ssfnas.data import load_data
from ssfnas.runtime.distributed import World
from ssfnas.spaces import Genotype
from ssfnas.training.retrain_trainer import RetrainTrainer
from ssfnas.training.weight_average import WeightAverage, warmed_up_decay

RATES = {"lr": 0.03125, "lr_min": 0.03125}  # as numbers and as float32 tensors the same


def network() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False))
    net.register_buffer("counts", torch.tensor([3, 9]))
    return net.double()


def change(net: nn.Module, draws: torch.Generator) -> None:
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=draws))
            else:
                tensor += torch.randint(1, 50, tensor.shape, generator=draws)


def test_the_decay_warms_up_as_timms():
    timm = pytest.importorskip("timm")
    theirs = timm.utils.ModelEmaV3(nn.Linear(1, 1), decay=0.98, use_warmup=True)
    for updates in range(600):  # theirs counts from 1
        assert warmed_up_decay(0.98, updates) == pytest.approx(theirs.get_decay(updates + 1))
    assert warmed_up_decay(0.999, 0) == 0
    assert warmed_up_decay(0.999, 31) < 0.901
    assert warmed_up_decay(0.999, 10**6) == 0.999


def test_it_is_the_mean_by_the_formula_over_hundreds_of_steps():
    net, draws = network(), torch.Generator().manual_seed(1)
    ours, expected = WeightAverage(net), {}
    places = [tensor.data_ptr() for tensor in ours.state_dict().values()]
    for step in range(300):
        change(net, draws)
        decay = min(0.97, 1 - (1 + step % 200) ** (-2 / 3))  # from step 200 on another phase
        with NoLooking():
            ours.update(net, torch.tensor(decay, dtype=torch.float64))
        for name, value in net.state_dict().items():
            mean = value if step == 0 else decay * expected[name] + (1 - decay) * value
            expected[name] = mean.clone() if value.is_floating_point() else value.clone()
        found = ours.module.state_dict()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-13, atol=1e-14)
        if decay == 0:
            assert all(torch.equal(found[name], v) for name, v in net.state_dict().items())
    assert [tensor.data_ptr() for tensor in ours.state_dict().values()] == places


def trainer_of(small_npz, recorder=None, **changes):
    config = tiny_retrain(small_npz, **{**RATES, "ema": 0.7, **changes})
    world = World(rank=0, size=1, device=torch.device("cpu"), group=None)
    genotype = Genotype.load("FairDARTS_a")
    return RetrainTrainer(config, load_data(config), genotype, world, torch.float64, recorder)


def run(trainer, steps):
    """The trainer's average after them, and the weights after each step."""
    weights = []
    for _ in range(steps):
        trainer.run_step()
        weights.append({n: v.detach().clone() for n, v in trainer.net.named_parameters()})
    return dict(trainer.average.module.named_parameters()), weights


@pytest.mark.parametrize("recorder", [None, Repeater, Tape])
def test_each_phase_has_an_average_of_its_own(small_npz, recorder):
    trainer = trainer_of(small_npz, recorder and recorder(), epochs=2, crt_epochs=2)
    lengths = [phase.total_steps for phase in trainer.phases]
    assert lengths == [10, 10]
    with ops.backend("torch"):
        for steps in lengths:
            found, weights = run(trainer, steps)
            expected = weights[0]
            for step, values in enumerate(weights):
                decay = min(0.7, 1 - (1 + step) ** (-2 / 3))
                expected = {n: decay * expected[n] + (1 - decay) * v for n, v in values.items()}
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("stopped", [4, 13])
def test_resumed_averages_are_uninterrupted_ones(small_npz, stopped):
    changes = {"epochs": 2, "crt_epochs": 2}
    first = trainer_of(small_npz, Repeater(), **changes)
    run(first, stopped)
    second = trainer_of(small_npz, Repeater(), **changes)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    expected, found = (run(trainer, 20 - stopped)[0] for trainer in (first, second))
    assert all(torch.equal(found[name], value) for name, value in expected.items())
