"""Epochs in which the weights alone are trained, and classes as alpha sees them."""

from __future__ import annotations

import copy

import pytest
import torch
from image_files import write_npz
from tiny_runs import tiny_search

from ssfnas.config import SearchConfig
from ssfnas.data import load_data
from ssfnas.errors import RequestError
from ssfnas.pipeline.search_run import run_search
from ssfnas.runtime.distributed import World
from ssfnas.runtime.updates import sgd_updater
from ssfnas.strategies import STOPPERS
from ssfnas.strategies.early_stopping import Stopper
from ssfnas.training.random_trainer import RandomSearchTrainer
from ssfnas.training.schedules import cosine, set_learning_rate
from ssfnas.training.search_trainer import SearchTrainer

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


@pytest.fixture
def dataset(tmp_path):
    return write_npz(tmp_path / "images.npz", (20, 12, 6))


def trainer_of(dataset, kind=SearchTrainer, **changes):
    settings = {"objective": "supervised", "knn": False, "epochs": 3, **changes}
    config = tiny_search(dataset, **settings)
    return kind(config, load_data(config), ALONE)


def epochs_of(trainer, count=None) -> list[dict]:
    """Run as many epochs, or all that are left; what they log."""
    logged = []
    while not trainer.finished and len(logged) != count:
        trainer.run_step()
        if trainer.epoch_ended:
            logged.append(trainer.end_epoch())
    return logged


def assert_same_state(one, other):
    for name, value in one.net.state_dict().items():
        assert torch.equal(value, other.net.state_dict()[name]), name


def test_the_warm_up_is_plain_training_of_the_weights(dataset):
    trainer, other = (trainer_of(dataset, alpha_warmup_epochs=1) for _ in range(2))
    trainer.run_step()
    while not trainer.epoch_ended:
        trainer.run_step()
    config, objective = other.config, other.objective
    weights = other.net.weights()
    updater = sgd_updater(
        [*weights, *objective.parameters()], ALONE, lr=config.weight_lr,
        momentum=config.weight_momentum, weight_decay=config.weight_decay,
        precision="fp32", clip=config.clip, decays_unused=True,
    )  # fmt: skip
    for step in range(other.steps_per_epoch):
        rate = cosine(step, other.total_steps, config.weight_lr, config.weight_lr_min)
        set_learning_rate(updater.optimizer, rate)
        loss = objective.terms(other.net, other.weight_stream.next())["loss"]
        updater.update(loss, {"loss": loss.detach()}, "weight")
    assert_same_state(trainer, other)
    assert trainer.alpha_stream.state_dict()["position"] == 0
    assert not trainer.alpha_optimizer.state


def test_alphas_stay_in_the_warm_up_and_move_after_it(dataset):
    trainer = trainer_of(dataset, alpha_warmup_epochs=1)
    first, *rest = epochs_of(trainer)
    assert not any(name.startswith("alpha/") for name in first)
    assert all("weight/loss" in entry for entry in (first, *rest))
    assert all("alpha/loss" in entry for entry in rest)
    rows = [row["normal"] for row in trainer.history]
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[1], rows[2])
    assert len(rows) == 4
    taken = trainer.alpha_stream.state_dict()["position"]
    assert taken == 2 * trainer.steps_per_epoch == trainer.total_steps - trainer.steps_per_epoch


@pytest.mark.parametrize(("steps", "order"), [(1, 1), (4, 2)])
def test_a_resumed_warm_up_gives_the_same_bits(dataset, steps, order):
    changes = {"alpha_warmup_epochs": 1, "epochs": 2, "order": order}
    straight, stopped, resumed = (trainer_of(dataset, **changes) for _ in range(3))
    for _ in range(steps):
        stopped.run_step()
    resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
    for trainer in (straight, resumed):
        while not trainer.finished:
            trainer.run_step()
    assert_same_state(straight, resumed)


class Never(Stopper):
    def __init__(self):
        self.asked = []

    def update(self, epoch, value):
        self.asked.append(epoch)


def test_nothing_is_asked_whether_to_stop_before_alphas_are_trained(dataset):
    trainer = trainer_of(dataset, alpha_warmup_epochs=2, early_stop="skip", epochs=4)
    trainer.stopper = Never()
    epochs_of(trainer)
    assert trainer.stopper.asked == [3, 4]


@pytest.mark.parametrize("rule", ["skip", "hessian"])
def test_patience_counts_epochs_of_training_alpha(rule):
    config = SearchConfig(early_stop=rule, early_stop_after=4, alpha_warmup_epochs=3)
    assert STOPPERS.get(rule)(config).after == 7


@pytest.mark.parametrize("changes", [{}, {"steps": 7}], ids=["epochs", "steps"])
def test_a_warm_up_that_is_the_whole_search_is_refused(dataset, changes):
    with pytest.raises(RequestError, match=r"--alpha-warmup-epochs 3 leaves no epoch of 3"):
        trainer_of(dataset, alpha_warmup_epochs=3, **changes)
    trainer_of(dataset, alpha_warmup_epochs=2, **changes)


def test_a_whole_run_with_a_warm_up(dataset, tmp_path):
    run = run_search(tiny_search(dataset, tmp_path / "run", alpha_warmup_epochs=1))
    assert ["alpha/loss" in entry for entry in run.metrics] == [False, True]
    for cell in ("normal", "reduce"):
        assert (run.alphas[cell][0] == run.alphas[cell][1]).all()
        assert (run.alphas[cell][1] != run.alphas[cell][2]).any()


def shares(stream) -> torch.Tensor:
    labels = torch.cat([stream.next().labels for _ in range(60)])
    return torch.bincount(labels, minlength=3) / len(labels)


@pytest.mark.parametrize("exponent", [0.0, 0.5])
def test_classes_of_the_half_of_alpha_are_drawn_by_size_to_a_power(dataset, exponent):
    trainer = trainer_of(dataset, alpha_sampling_exponent=exponent)
    sizes = torch.tensor([10.0, 6.0, 3.0])
    expected = sizes**exponent / (sizes**exponent).sum()
    for stream in (trainer.alpha_stream, trainer.make_validation_stream("hessian")):
        torch.testing.assert_close(shares(stream), expected, rtol=0, atol=0.1)
    torch.testing.assert_close(shares(trainer.weight_stream), sizes / 19, rtol=0, atol=0.02)


def test_samples_of_a_random_search_are_scored_on_classes_so_drawn(dataset):
    changes = {"strategy": "random", "samples": 1, "derive": "threshold"}
    as_it_is, balanced = (
        trainer_of(dataset, RandomSearchTrainer, **changes, alpha_sampling_exponent=exponent)
        for exponent in (1.0, 0.0)
    )
    (first,), (second,) = epochs_of(as_it_is), epochs_of(balanced)
    assert first["weight/loss"] == second["weight/loss"]
    assert first["score"] != second["score"]
