"""Strategies that give something else than they should: one line, before the first step."""

from __future__ import annotations

import pytest
import torch
from image_files import write_npz
from strategy_runs import run, trainer_of

from ssfnas.errors import RequestError
from ssfnas.strategies import STRATEGIES, SearchStrategy


@pytest.fixture
def wrong(tmp_path):
    """A function that builds a search with a strategy of these attributes."""

    def build(**attributes):
        STRATEGIES.register("wrong")(type("Wrong", (SearchStrategy,), attributes))
        return trainer_of(write_npz(tmp_path / "images.npz", (24, 16, 8)), "wrong")

    yield build
    STRATEGIES._entries.pop("wrong", None)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (lambda alpha: alpha.softmax(1)[:, :-1], r"float64 \[5, 6\]"),
        (lambda alpha: alpha.softmax(1).sum(1, keepdim=True), r"float64 \[5, 1\]"),
        (lambda alpha: alpha.softmax(1).T, r"float64 \[7, 5\]"),
        (lambda alpha: alpha.softmax(1).bfloat16(), "bfloat16"),
        (lambda alpha: None, "NoneType"),
        (lambda alpha: 0.5, "float"),
    ],
    ids=["fewer", "one", "transposed", "bf16", "nothing", "number"],
)
def test_weights_that_are_no_table(wrong, given, told):
    # The first alphas are fp32 until the network is on its device.
    told = told.replace("float64", "float(32|64)")
    with pytest.raises(RequestError, match=rf"wrong: weights\(\) of the normal cell gives {told}"):
        wrong(weights=lambda self, alpha, cell: given(alpha))


@pytest.mark.parametrize("value", [0.1, torch.ones(()), {"loss": 0.1}, {"loss": torch.ones(2)}])
def test_penalties_that_are_no_terms(wrong, value):
    trainer = wrong(penalty=lambda self: value)
    with pytest.raises(RequestError, match=r"penalty\(\) has to give a dict of scalar tensors"):
        run(trainer, 1)


@pytest.mark.parametrize(
    "left",
    [
        {"normel": torch.ones(5, 7, dtype=torch.bool)},
        {"normal": torch.ones(5, 7)},
        {"normal": torch.ones(5, 6, dtype=torch.bool)},
    ],
    ids=["name", "dtype", "shape"],
)
def test_what_close_does_not_take(wrong, left):
    with pytest.raises(RequestError, match=r"close\(\) takes bool tables of what is left"):
        wrong().strategy.close(left)


def test_what_a_strategy_closes_by_itself_is_logged(wrong):
    def end_epoch(self, moment):
        left = {cell: mask.clone() for cell, mask in self.open.items()}
        left["normal"][0, 0] = False
        self.close(left)

    trainer = wrong(end_epoch=end_epoch)
    trainer.run_step()
    while not trainer.epoch_ended:
        trainer.run_step()
    assert trainer.end_epoch()["open/normal"] == 34
