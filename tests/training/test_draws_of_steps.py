"""Draws from global generators within steps: functions of seed, place of the step and rank."""

from __future__ import annotations

import copy

import pytest
import torch
from recorders import Repeater
from tiny_runs import tiny_retrain, tiny_search
from torch import nn

from ssfnas.data import load_data
from ssfnas.runtime.distributed import World
from ssfnas.seeding import seeded_draws
from ssfnas.spaces import OPERATIONS, BatchNorm2d, Genotype, register_operation
from ssfnas.training.random_trainer import RandomSearchTrainer
from ssfnas.training.retrain_trainer import RetrainTrainer
from ssfnas.training.search_trainer import SearchTrainer
from ssfnas.training.trainer import Trainer

CPU = torch.device("cpu")
ALONE = World(rank=0, size=1, device=CPU, group=None)


@pytest.fixture(autouse=True)
def dropping(monkeypatch):
    """An operation of a user's with dropout, and a registry that forgets it."""
    monkeypatch.setattr(OPERATIONS, "_entries", OPERATIONS.entries())

    @register_operation("dropping")
    def build(channels, stride, affine):
        return nn.Sequential(
            nn.AvgPool2d(stride, ceil_mode=True),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.Dropout(0.5),
            BatchNorm2d(channels, affine=affine),
        )


def search(small_npz, **changes):
    config = tiny_search(
        small_npz, operations=["skip_connect", "dropping"], objective="supervised", knn=False,
        **changes,
    )  # fmt: skip
    random = config.strategy == "random"
    return (RandomSearchTrainer if random else SearchTrainer)(config, load_data(config), ALONE)


def random_search(small_npz, **changes):
    return search(small_npz, strategy="random", samples=2, **changes)


def eigenvalues(small_npz, **changes):
    """A search whose epochs end with draws as well."""
    return search(small_npz, early_stop="hessian", strategy="darts", **changes)


def baseline(small_npz, recorder=None, **changes):
    """One of timm's, whose head drops features."""
    config = tiny_retrain(small_npz, model="timm:test_resnet", loss="ce", **changes)
    config.genotype = None
    trainer = RetrainTrainer(config, load_data(config), None, ALONE, recorder=recorder)
    trainer.net.drop_rate = 0.5
    return trainer


def retraining(small_npz, **changes):
    edges = tuple(("dropping", start, to) for to in (2, 3) for start in (0, 1))
    genotype = Genotype(normal=edges, normal_concat=(2, 3), reduce=edges, reduce_concat=(2, 3))
    config = tiny_retrain(small_npz, crt_epochs=1, epochs=1, **changes)
    return RetrainTrainer(config, load_data(config), genotype, ALONE)


def run(trainer, steps):
    for _ in range(steps):
        before = torch.get_rng_state()
        trainer.run_step()
        if trainer.epoch_ended:
            trainer.end_epoch()
        assert torch.equal(torch.get_rng_state(), before)
    return {name: value.clone() for name, value in trainer.net.state_dict().items()}


def same(found, expected):
    return all(torch.equal(found[name], value) for name, value in expected.items())


KINDS = [search, eigenvalues, random_search, baseline, retraining]


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_the_same_seed_gives_the_same_bits_and_another_one_others(small_npz, make):
    dropped = []
    for seed, elsewhere in ((5, 1), (5, 2), (6, 1)):
        with seeded_draws(elsewhere):  # whatever the caller drew before
            trainer = make(small_npz, seed=5)
            trainer.config.seed = seed  # of the draws alone: images and weights stay
            dropped.append(run(trainer, 4))
    assert same(dropped[1], dropped[0])
    assert not same(dropped[2], dropped[0])


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_resumed_is_uninterrupted_to_the_bit(small_npz, make):
    whole = make(small_npz)
    run(whole, 3)
    kept = copy.deepcopy(whole.state_dict())
    expected = run(whole, 3)
    again = make(small_npz)
    again.load_state_dict(kept)
    with seeded_draws(99):
        assert same(run(again, 3), expected)


def test_a_recorded_step_draws_as_the_step_itself(small_npz):
    expected = run(baseline(small_npz), 6)
    recorder = Repeater()
    recorded = baseline(small_npz, recorder, lr=0.025)
    found = run(recorded, 6)
    assert recorder.recorded == 1
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)


class Drawing(Trainer):
    """Keeps what its steps and epochs draw."""

    def __init__(self, seed=5, rank=0):
        world = World(rank=rank, size=2, device=CPU, group=None)
        super().__init__(tiny_search("none", seed=seed), None, world, torch.float32)
        self.drawn, self.fails = [], False

    def _run_step(self):
        self.drawn.append(torch.rand(3))
        if self.fails:
            raise ValueError
        self.step += 1

    def _end_epoch(self):
        return {"drawn": torch.rand(3).tolist()}

    epoch_ended, epoch, passes = False, 1, ()

    def progress_values(self):
        return {}

    def close(self):
        pass


def test_steps_seeds_and_ranks_draw_each_for_themselves():
    drawn = []
    for seed, rank in ((5, 0), (5, 1), (6, 0)):
        trainer = Drawing(seed, rank)
        for _ in range(3):
            trainer.run_step()
        drawn += [tuple(x.tolist()) for x in trainer.drawn]
    assert len(set(drawn)) == 9
    # What all processes measure is one thing.
    epochs = [Drawing(seed, rank).end_epoch()["drawn"] for seed, rank in ((5, 0), (5, 1), (6, 0))]
    assert epochs[0] == epochs[1] != epochs[2]
    assert tuple(epochs[0]) not in drawn


def test_a_step_that_fails_gives_the_generator_back():
    trainer, before = Drawing(), torch.get_rng_state()
    trainer.fails = True
    with pytest.raises(ValueError, match=r"^$"):
        trainer.run_step()
    assert torch.equal(torch.get_rng_state(), before)


def test_samples_of_a_random_search_draw_alike(small_npz):
    trainer, places = random_search(small_npz, steps=6), []
    while not trainer.finished:
        places.append(trainer.place)
        trainer.run_step()
        if trainer.epoch_ended:
            trainer.end_epoch()
    assert places == [(0,), (1,), (2,)] * 2
