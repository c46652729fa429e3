"""PC-DARTS' edge normalization against its formula; partial channels of all strategies."""

from __future__ import annotations

import pytest
import torch
from image_files import write_npz
from strategy_runs import run, trainer_of

from ssfnas.spaces.mixing import Mix
from ssfnas.strategies import derive


@pytest.fixture
def dataset(tmp_path):
    return write_npz(tmp_path / "images.npz", (24, 16, 8))


def images():
    return torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def set_betas(trainer, value=None):
    draws = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in trainer.net.architecture().items():
            if value is None:
                parameter.copy_(torch.randn(parameter.shape, generator=draws))
            elif name.startswith("betas"):
                parameter.fill_(value)


def test_without_betas_each_node_is_darts_divided_by_its_edges(dataset):
    ours = trainer_of(dataset, "pcdarts", partial_channels=1)
    set_betas(ours, 0.0)
    darts = trainer_of(dataset, "darts", channels=4)
    darts.net.load_state_dict(ours.net.state_dict(), strict=False)
    entering = torch.tensor([2, 2, 3, 3, 3])[:, None]
    mixes = {cell: Mix(mix.weights / entering) for cell, mix in darts.net.mixes().items()}
    with darts.net.fixed(mixes):
        wanted = darts.net(images())
    torch.testing.assert_close(ours.net(images()), wanted, rtol=1e-10, atol=1e-12)


def test_edges_of_a_node_share_a_factor_of_one(dataset):
    trainer = trainer_of(dataset, "pcdarts")
    set_betas(trainer)
    for cell, mix in trainer.net.mixes().items():
        beta = trainer.net.get_parameter(f"betas_{cell}").exp()
        wanted = torch.cat([beta[:2] / beta[:2].sum(), beta[2:] / beta[2:].sum()])
        torch.testing.assert_close(mix.edges, wanted)
        alpha = trainer.net.get_parameter(f"alphas_{cell}").exp()
        table = alpha / alpha.sum(1, keepdim=True) * wanted[:, None]
        torch.testing.assert_close(mix.table, table)
        # Derivation reads that, scaled by the edges of the node.
        entering = torch.tensor([2, 2, 3, 3, 3])[:, None]
        torch.testing.assert_close(trainer.strategy.tables()[cell], table.detach() * entering)


def test_the_genotype_is_that_of_weight_times_factor(dataset):
    trainer = trainer_of(dataset, "pcdarts")
    set_betas(trainer)
    mixes = trainer.net.mixes()
    plain = derive({cell: mix.table for cell, mix in mixes.items()}, trainer.operations, "darts")
    assert derive(trainer.strategy.tables(), trainer.operations, "darts") == plain
    edges = {cell: mix.weights for cell, mix in mixes.items()}
    assert derive(edges, trainer.operations, "darts") != plain  # the betas matter


def test_partial_channels_are_an_option_of_the_others(dataset):
    trainer = trainer_of(dataset, "fairdarts", channels=4, partial_channels=2)
    assert {"betas_normal", "betas_reduce"} < set(trainer.net.architecture())
    filters = trainer.net.cells[0].edges[0].operations[3][1].weight
    assert len(filters) == 2
    # Undecided edges leave the sigmoid weights as they are, so a threshold means what it did.
    set_betas(trainer, 0.0)
    torch.testing.assert_close(
        trainer.strategy.tables()["normal"], torch.full((5, 7), 0.5, dtype=torch.float64)
    )
    run(trainer, 3)
    record = trainer.history[-1]
    assert record["betas_normal"].shape == (5,)


def test_channels_that_cannot_be_divided(dataset):
    from ssfnas.errors import RequestError

    with pytest.raises(RequestError, match="partial_channels is 3"):
        trainer_of(dataset, "pcdarts", channels=4, partial_channels=3)
