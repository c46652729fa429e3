"""A search that is told what its network may cost: the penalty, its gradient, and its table."""

from __future__ import annotations

import copy

import pytest
import torch
from image_files import write_npz
from strategy_runs import run, trainer_of

from ssfnas.errors import RequestError
from ssfnas.spaces import DerivedNetwork, count_parameters
from ssfnas.training import cost_target

SMALL = {"target_channels": 4, "target_layers": 3}


@pytest.fixture
def dataset(tmp_path):
    return write_npz(tmp_path / "images.npz", (24, 16, 8))


@pytest.mark.parametrize("strategy", ["darts", "fairdarts", "pcdarts"])
def test_the_penalty_is_the_excess_of_the_expected_cost(dataset, strategy):
    trainer = trainer_of(dataset, strategy, target_params=1500, cost_weight=3.0, **SMALL)
    expected = float(trainer.cost.model.expected(trainer.strategy.tables()))
    assert expected > 1500
    terms, own = trainer._penalty(), trainer.strategy.penalty()
    assert float(terms["cost"]) == pytest.approx(expected, rel=1e-12)
    excess = 3 * (expected / 1500 - 1)
    assert float(terms["cost_penalty"]) == pytest.approx(excess, rel=1e-12)
    assert float(terms["loss"]) == pytest.approx(excess + float(own.get("loss", 0)), rel=1e-12)
    gradients = torch.autograd.grad(terms["cost_penalty"], trainer.net.alphas())
    assert all(bool((gradient != 0).any()) for gradient in gradients)


def test_a_search_with_a_target_finds_a_smaller_network(dataset):
    sizes = []
    for target in ({}, {"target_params": 1200, "cost_weight": 100.0, **SMALL}):
        trainer = trainer_of(dataset, "darts", alpha_lr=0.3, epochs=4, **target)
        run(trainer, trainer.total_steps)
        net = DerivedNetwork(trainer.genotype(), 3, channels=4, layers=3, image_size=8)
        sizes.append(count_parameters(net))
    assert sizes[1] <= 1200 < sizes[0]


def test_a_target_that_nothing_reaches(dataset):
    with pytest.raises(RequestError, match=r"--target-params 10 cannot be reached: .* has [\d,]+"):
        trainer_of(dataset, "darts", target_params=10, **SMALL)


def test_two_targets(dataset):
    with pytest.raises(RequestError, match="--target-flops and --target-params stand together"):
        trainer_of(dataset, "darts", target_params=10**6, target_flops=10**9)


def test_a_resumed_search_keeps_the_times_that_were_measured(dataset, monkeypatch):
    monkeypatch.setattr(cost_target, "cost_model", _times(1.0))
    trainer = trainer_of(dataset, "darts", target_ms=60.0, **SMALL)
    run(trainer, 2)
    state = copy.deepcopy(trainer.state_dict())
    monkeypatch.setattr(cost_target, "cost_model", _times(2.0))
    resumed = trainer_of(dataset, "darts", target_ms=60.0, **SMALL)
    assert resumed.cost.model.fixed != trainer.cost.model.fixed
    resumed.load_state_dict(state)
    assert resumed.cost.model.to_dict() == trainer.cost.model.to_dict()
    for one in (trainer, resumed):
        run(one, 2)
    assert torch.equal(trainer.net.alphas_normal, resumed.net.alphas_normal)


def _times(each):
    from ssfnas.strategies.costs import cost_model

    def model(unit, counted, device):
        return cost_model(unit, counted, device=device, measure=lambda module, shape: each)

    return model
