"""Noise on the table of the weight steps: by hand, its size, and who does not see it."""

from __future__ import annotations

import pytest
import torch
from image_files import write_npz
from strategy_runs import run, state_of, trainer_of

from ssfnas.strategies.sdarts import disturbed
from ssfnas.strategies.strategy import ALPHA, DECISION, WEIGHT, Moment


@pytest.fixture
def dataset(tmp_path):
    return write_npz(tmp_path / "images.npz", (24, 16, 8))


def of(*rows):
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize(
    ("weights", "noise", "left", "wanted"),
    [
        ([0.5, 0.3, 0.2], [0.3, -0.3, -0.25], [1, 1, 1], [1, 0, 0]),
        ([0.5, 0.3, 0.2], [0.25, -0.05, -0.3], [1, 1, 1], [0.75, 0.25, 0]),
        ([0.8, 0.1, 0.1], [0.3, 0.15, -0.3], [1, 1, 1], [0.8, 0.2, 0]),  # clamped to 1 first
        ([0.25, 0.25, 0.5], [-0.3, -0.26, -0.55], [1, 1, 1], [0, 1, 0]),  # nothing above 0
        ([0.5, 0.5, 0], [-0.3, 0.1, 0.3], [1, 1, 0], [0.25, 0.75, 0]),
        ([0.5, 0.5, 0], [-0.6, -0.7, 0.3], [1, 1, 0], [1, 0, 0]),
    ],
)
def test_by_hand(weights, noise, left, wanted):
    found = disturbed(of(weights), of(noise), of(left).bool())
    assert torch.allclose(found, of(wanted), rtol=0, atol=1e-15)


def test_rows_sum_to_one_and_have_a_gradient_everywhere():
    draws = torch.Generator().manual_seed(0)
    weights = torch.rand(2000, 7, generator=draws, dtype=torch.float64)
    weights = (weights / weights.sum(1, keepdim=True)).requires_grad_()
    noise = torch.rand(2000, 7, generator=draws, dtype=torch.float64) - 0.8
    assert bool(((weights + noise) <= 0).all(1).any())
    found = disturbed(weights, noise)
    assert torch.allclose(found.sum(1), torch.ones(2000, dtype=torch.float64), atol=1e-14)
    assert bool((found >= 0).all())
    (gradient,) = torch.autograd.grad(found.square().sum(), weights)
    assert bool(gradient.isfinite().all())


def test_noise_is_uniform_grows_and_is_drawn_for_each_step(dataset):
    strategy = trainer_of(dataset, "sdarts").strategy
    for epoch, size in ((0, 0.03), (25, 0.165), (49, 0.2946)):
        drawn = []
        for step in range(200):
            strategy.begin_step(Moment(step, 10_000, epoch, 50))
            drawn += [strategy.get(f"noise_{cell}").clone() for cell in ("normal", "reduce")]
        assert strategy.told["noise"] == pytest.approx(size, rel=1e-12)
        values = torch.stack(drawn).flatten() / size
        assert len(values.unique()) == values.numel()
        # Six standard deviations of the mean, and of the mean of squares, of a uniform in -1 .. 1.
        assert values.abs().max() <= 1
        assert abs(values.mean()) < 6 * (1 / 3 / values.numel()) ** 0.5
        assert abs(values.square().mean() - 1 / 3) < 6 * (4 / 45 / values.numel()) ** 0.5
    strategy.begin_step(Moment(199, 10_000, 49, 50))
    assert torch.equal(strategy.get("noise_reduce"), drawn[-1])


def test_the_weight_phase_alone_sees_it(dataset):
    trainer = trainer_of(dataset, "sdarts")
    run(trainer, 1)
    strategy, alphas = trainer.strategy, trainer.net.architecture()
    for cell in ("normal", "reduce"):
        alpha = alphas[f"alphas_{cell}"].detach()
        p = alpha.exp() / alpha.exp().sum(1, keepdim=True)
        noise = strategy.get(f"noise_{cell}")
        for phase in (ALPHA, DECISION, WEIGHT):
            with strategy.in_phase(phase):
                found = strategy.mix(cell, alphas).weights
            wanted = p
            if phase == WEIGHT:
                wanted = (p + noise).clamp(0, 1)
                wanted = wanted / wanted.sum(1, keepdim=True)
            assert torch.allclose(found, wanted, rtol=1e-12, atol=0)


def test_without_noise_it_is_darts(dataset):
    settings = {"operations": ["none", "skip_connect", "sep_conv_3x3"]}
    darts = trainer_of(dataset, "darts", **settings)
    smooth = trainer_of(dataset, "sdarts", noise_start=0.0, noise_end=0.0, **settings)
    noisy = trainer_of(dataset, "sdarts", **settings)
    for trainer in (darts, smooth, noisy):
        run(trainer, 4)
    wanted, found, other = map(state_of, (darts, smooth, noisy))
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=1e-12, atol=1e-14), name
    assert not torch.equal(other["alphas_normal"], wanted["alphas_normal"])
