"""The auxiliary skip connection: what a cell computes with it, its weight, who does not see it."""

from __future__ import annotations

import pytest
import torch
from image_files import write_npz
from strategy_runs import run, state_of, trainer_of

from ssfnas.errors import RequestError
from ssfnas.strategies.strategy import ALPHA, DECISION, WEIGHT, Moment


@pytest.fixture
def dataset(tmp_path):
    return write_npz(tmp_path / "images.npz", (24, 16, 8))


def skip_column(trainer):
    return trainer.operations.index("skip_connect")


def test_the_weight_falls_on_a_line(dataset):
    strategy = trainer_of(dataset, "darts-minus").strategy
    for epoch, wanted in ((0, 1.0), (1, 0.98), (25, 0.5), (49, 0.02)):
        strategy.begin_step(Moment(0, 10_000, epoch, 50))
        assert strategy.told["auxiliary_skip"] == pytest.approx(wanted, rel=1e-15)
    strategy = trainer_of(dataset, "darts-minus", auxiliary_skip=0.5).strategy
    strategy.begin_step(Moment(0, 10_000, 20, 50))
    assert strategy.told["auxiliary_skip"] == pytest.approx(0.3, rel=1e-15)


def test_training_sees_it_and_decisions_do_not(dataset):
    trainer = trainer_of(dataset, "darts-minus")
    run(trainer, trainer.steps_per_epoch + 1)  # in the second epoch of two
    alphas = trainer.net.architecture()
    for cell in ("normal", "reduce"):
        alpha = alphas[f"alphas_{cell}"].detach()
        p = alpha.exp() / alpha.exp().sum(1, keepdim=True)
        more = torch.zeros_like(p)
        more[:, skip_column(trainer)] = 0.5
        for phase, wanted in ((ALPHA, p + more), (WEIGHT, p + more), (DECISION, p)):
            with trainer.strategy.in_phase(phase):
                found = trainer.strategy.mix(cell, alphas).weights
            assert torch.allclose(found, wanted, rtol=1e-12, atol=0)
        assert torch.allclose(trainer.strategy.tables()[cell], p, rtol=1e-12, atol=0)


@pytest.mark.parametrize("supernet", ["reference", "fast"])
def test_every_edge_adds_its_skip_connection_to_what_darts_computes(dataset, supernet):
    trainer = trainer_of(dataset, "darts-minus", supernet=supernet)
    trainer.strategy.begin_step(Moment(0, 10_000, 15, 50))  # lambda is 0.7
    images = torch.randn(
        4, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    with trainer.strategy.in_phase(WEIGHT):
        found = trainer.net(images)
    darts = trainer_of(dataset, "darts-minus", supernet="reference")
    darts.net.load_state_dict(trainer.net.state_dict())
    column = skip_column(trainer)
    for cell in darts.net.cells:
        for edge in cell.edges:
            edge.register_forward_hook(
                lambda edge, given, result: result + 0.7 * edge.operations[column](given[0])
            )
    with darts.strategy.in_phase(DECISION):
        wanted = darts.net(images)
    assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-11)
    assert not torch.allclose(found, trainer.net(images), rtol=1e-3)


def test_a_skip_connection_that_is_closed_has_none_beside_it(dataset):
    trainer = trainer_of(dataset, "darts-minus")
    strategy, column = trainer.strategy, skip_column(trainer)
    left = torch.ones(5, len(trainer.operations), dtype=torch.bool)
    left[1, column] = left[4, 0] = False
    strategy.close({"normal": left, "reduce": torch.ones_like(left)})
    run(trainer, 2)
    with strategy.in_phase(ALPHA):
        table = strategy.mix("normal", trainer.net.architecture()).weights
    assert bool((table[~left] == 0).all())
    sums = torch.tensor([2, 1, 2, 2, 2], dtype=torch.float64)
    assert torch.allclose(table.sum(1), sums, rtol=1e-12)


def test_at_weight_zero_it_is_darts(dataset):
    settings = {"operations": ["none", "skip_connect", "sep_conv_3x3"]}
    darts = trainer_of(dataset, "darts", **settings)
    without = trainer_of(dataset, "darts-minus", auxiliary_skip=0.0, **settings)
    auxiliary = trainer_of(dataset, "darts-minus", **settings)
    for trainer in (darts, without, auxiliary):
        run(trainer, 3)
    wanted, found, other = map(state_of, (darts, without, auxiliary))
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, rtol=1e-12, atol=1e-14), name
    assert not torch.equal(other["alphas_normal"], wanted["alphas_normal"])


def test_it_needs_skip_connections(dataset):
    with pytest.raises(RequestError, match=r"adds to skip_connect, .* sep_conv_3x3,none: add it"):
        trainer_of(dataset, "darts-minus", operations=["sep_conv_3x3", "none"])
