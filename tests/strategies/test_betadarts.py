"""Beta decay and its gradient by hand, lambda over the epochs, and what is closed."""

from __future__ import annotations

import math

import pytest
import torch
from image_files import write_npz
from strategy_runs import run, state_of, trainer_of

from ssfnas.strategies.betadarts import beta_decay
from ssfnas.strategies.strategy import Moment


@pytest.fixture
def dataset(tmp_path):
    return write_npz(tmp_path / "images.npz", (24, 16, 8))


def of(*rows):
    return torch.tensor(rows, dtype=torch.float64, requires_grad=True)


def softmax(*row):
    return [math.exp(value) / sum(math.exp(other) for other in row) for value in row]


def test_value_and_gradient():
    alpha = of([0.0, 1.0], [2.0, -1.0])
    value = 3 * beta_decay([alpha])
    wanted = math.log(1 + math.e) + math.log(math.exp(2) + math.exp(-1))
    assert value.item() == pytest.approx(1.5 * wanted, rel=1e-14)
    (gradient,) = torch.autograd.grad(value, alpha)
    rows = [[1.5 * p for p in softmax(0, 1)], [1.5 * p for p in softmax(2, -1)]]
    assert torch.allclose(gradient, of(*rows), rtol=1e-14, atol=0)


def test_cells_of_both_types_are_one_table():
    normal, reduce = of([0.3, -1.0], [2.0, 0.1]), of([0.7, 0.2])
    whole = torch.cat([normal, reduce])
    assert torch.allclose(beta_decay([normal, reduce]), beta_decay([whole]), rtol=1e-15)
    assert beta_decay([whole + 0.25]).item() == pytest.approx(beta_decay([whole]).item() + 0.25)


def test_a_closed_operation_has_no_part_in_it():
    alpha, kept = of([0.3, -math.inf, 1.0]), of([0.3, 1.0])
    assert torch.allclose(beta_decay([alpha]), beta_decay([kept]), rtol=1e-15)
    (gradient,) = torch.autograd.grad(beta_decay([alpha]), alpha)
    first, last = softmax(0.3, 1.0)
    assert torch.allclose(gradient, of([first, 0, last]), rtol=1e-14, atol=0)


def test_lambda_and_the_penalty_of_a_search(dataset):
    trainer = trainer_of(dataset, "beta-darts")
    strategy = trainer.strategy
    tables = [trainer.net.architecture()[f"alphas_{cell}"] for cell in ("normal", "reduce")]
    with torch.no_grad():
        for table in tables:
            table.uniform_(-1, 1, generator=torch.Generator().manual_seed(0))
    left = torch.ones(tables[0].shape, dtype=torch.bool)
    left[0, 2] = left[3, 0] = False
    strategy.close({"normal": left, "reduce": torch.ones_like(left)})
    rows = [row for table in tables for row in table.detach().tolist()]
    del rows[0][2], rows[3][0]
    mean = sum(math.log(sum(map(math.exp, row))) for row in rows) / len(rows)
    for epoch, size in ((0, 0.0), (1, 1.0), (25, 25.0), (49, 49.0)):
        strategy.begin_step(Moment(0, 10_000, epoch, 50))
        penalty = strategy.penalty()
        assert strategy.told["beta"] == size
        assert penalty["beta_decay"].item() == pytest.approx(mean, rel=1e-13)
        assert penalty["loss"].item() == pytest.approx(size * mean, rel=1e-13)


def test_in_its_first_epoch_it_is_darts(dataset):
    settings = {"operations": ["none", "skip_connect", "sep_conv_3x3"]}
    both = [trainer_of(dataset, name, **settings) for name in ("darts", "beta-darts")]
    steps = both[0].steps_per_epoch
    for trainer in both:
        run(trainer, steps)
    darts, beta = map(state_of, both)
    assert torch.allclose(beta["alphas_normal"], darts["alphas_normal"], rtol=1e-12, atol=1e-14)
    for trainer in both:
        run(trainer, 1)
    assert not torch.equal(state_of(both[1])["alphas_normal"], state_of(both[0])["alphas_normal"])
