"""Which network a phase sees, what is decided, the penalty, and operations that are closed."""

from __future__ import annotations

import math

import pytest
import torch
from image_files import write_npz
from strategy_runs import run, trainer_of

from ssfnas.strategies.drnas import concentrations
from ssfnas.strategies.strategy import ALPHA, DECISION, WEIGHT, Moment


@pytest.fixture
def dataset(tmp_path):
    return write_npz(tmp_path / "images.npz", (24, 16, 8))


def tables(trainer, phase):
    with torch.no_grad(), trainer.strategy.in_phase(phase):
        return [mix.weights.clone() for mix in trainer.net.mixes().values()]


def test_concentrations_are_elu_plus_one_down_to_a_thousandth():
    alpha = torch.tensor([2.5, 1e-4, 0.0, -0.5, -6.5, -18.0, -math.inf], requires_grad=True)
    found = concentrations(alpha)
    wanted = [3.5, 1.0001, 1.0, math.exp(-0.5), math.exp(-6.5), 1e-3, 1e-3]
    assert found.tolist() == pytest.approx(wanted, rel=2e-7)
    (gradient,) = torch.autograd.grad(found.sum(), alpha)
    assert gradient.tolist() == pytest.approx([1, 1, 1, *wanted[3:5], 0, 0], rel=2e-7)


def test_each_phase_of_a_step_has_a_network_of_its_own(dataset):
    trainer = trainer_of(dataset, "drnas")
    seen = []
    for step in range(3):
        trainer.strategy.begin_step(Moment(step, 10, 0, 2))
        for phase in (ALPHA, WEIGHT):
            drawn = tables(trainer, phase)
            for table, again in zip(drawn, tables(trainer, phase), strict=True):
                assert torch.equal(table, again)
                assert torch.allclose(table.sum(1), torch.ones(5, dtype=torch.float64))
            seen += drawn
    assert len({tuple(table.flatten().tolist()) for table in seen}) == len(seen) == 12


def test_draws_are_a_function_of_seed_and_step(dataset):
    moment = Moment(7, 10, 1, 2)
    found = []
    for seed in (5, 5, 6):
        trainer = trainer_of(dataset, "drnas", seed=seed)
        trainer.strategy.begin_step(moment)
        found.append(trainer.strategy.get("noise"))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_the_mean_network_is_that_of_the_concentrations(dataset):
    trainer = trainer_of(dataset, "drnas")
    alphas = trainer.net.architecture()
    with torch.no_grad():
        alphas["alphas_normal"].uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    drawn = []
    for step in range(1000):
        trainer.strategy.begin_step(Moment(step, 1000, 0, 2))
        drawn.append(tables(trainer, WEIGHT)[0])
    found = torch.stack(drawn)
    c = torch.nn.functional.elu(alphas["alphas_normal"].detach()) + 1
    wanted = c / c.sum(1, keepdim=True)
    error = found.std(0) / len(found) ** 0.5
    assert bool(((found.mean(0) - wanted).abs() < 6 * error).all())
    p = alphas["alphas_normal"].detach().exp()
    p = p / p.sum(1, keepdim=True)
    assert torch.allclose(tables(trainer, DECISION)[0], p, rtol=1e-12)
    assert torch.allclose(trainer.strategy.tables()["normal"], p, rtol=1e-12)


@pytest.mark.parametrize("closing", [False, True])
def test_the_penalty_is_the_divergence_from_the_even_distribution(dataset, closing):
    settings = {"dirichlet_penalty": "kl", "dirichlet_weight": 0.25}
    trainer = trainer_of(dataset, "drnas", **settings)
    assert trainer.strategy.penalty()["loss"].item() == pytest.approx(0, abs=1e-3)
    alphas = trainer.net.architecture()
    left = torch.ones(5, len(trainer.operations), dtype=torch.bool)
    if closing:
        left[0, 1] = left[4, 0] = left[4, 3] = False
        trainer.strategy.close({"normal": left, "reduce": left})
    draws, wanted = torch.Generator().manual_seed(0), 0
    for table in alphas.values():
        with torch.no_grad():
            table.uniform_(-2, 2, generator=draws)
        for row, kept in zip(torch.nn.functional.elu(table) + 1, left, strict=True):
            given = torch.distributions.Dirichlet(row[kept])
            even = torch.distributions.Dirichlet(torch.ones_like(row[kept]))
            wanted = wanted + torch.distributions.kl_divergence(given, even)
    penalty = trainer.strategy.penalty()
    assert penalty["dirichlet_kl"].item() == pytest.approx(wanted.item(), rel=1e-12)
    gradients = torch.autograd.grad(penalty["loss"], list(alphas.values()))
    expected = torch.autograd.grad(wanted, list(alphas.values()))
    for found, other in zip(gradients, expected, strict=True):
        assert torch.allclose(found, 0.25 * other, rtol=1e-10, atol=1e-13)
    assert trainer_of(dataset, "drnas", dirichlet_penalty="l2").strategy.penalty() == {}


def test_closed_operations_have_no_weight_and_rows_sum_to_one(dataset):
    trainer = trainer_of(dataset, "drnas")
    left = torch.ones(5, len(trainer.operations), dtype=torch.bool)
    left[0, 1:] = left[4, 0] = left[4, 3] = False  # one is left of the first edge
    trainer.strategy.close({"normal": left, "reduce": torch.ones_like(left)})
    run(trainer, 3)
    for phase in (ALPHA, WEIGHT, DECISION):
        normal, reduce = tables(trainer, phase)
        assert bool((normal[~left] == 0).all())
        assert bool((normal[left] > 0).all())
        for table in (normal, reduce):
            assert torch.allclose(table.sum(1), torch.ones(5, dtype=torch.float64), rtol=1e-13)
        assert normal[0].tolist() == pytest.approx([1, 0, 0, 0, 0, 0, 0], abs=1e-15)


def test_extreme_alphas_stay_finite_in_fp32(dataset):
    trainer = trainer_of(dataset, "drnas", dtype=torch.float32)
    with torch.no_grad():
        for table in trainer.net.architecture().values():
            table.copy_(torch.linspace(-60, 60, table.numel()).view_as(table))
    run(trainer, trainer.steps_per_epoch + 1)
    for name, value in trainer.net.state_dict().items():
        assert bool(value.isfinite().all()), name
