"""The last epochs of a retraining without mixup."""

from __future__ import annotations

import pytest
import torch
from recorders import Repeater
from tiny_runs import tiny_retrain

from ssfnas.data import load_data
from ssfnas.errors import RequestError
from ssfnas.runtime.distributed import World
from ssfnas.spaces import Genotype
from ssfnas.training.graphed_step import WARM_UP
from ssfnas.training.retrain_trainer import RetrainTrainer

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def trainer_of(dataset, recorder=None, **changes) -> RetrainTrainer:
    config = tiny_retrain(dataset, **{"loss": "ce", "epochs": 3, "mixup": 1.0, **changes})
    genotype = Genotype.load("FairDARTS_a")
    return RetrainTrainer(config, load_data(config), genotype, ALONE, recorder=recorder)


def mixed_epochs(phase) -> list[bool]:
    """For each epoch of a phase, whether a label of it is a mixture."""
    batches = [phase.stream.next() for _ in range(phase.total_steps)]
    assert all(batch.labels.is_floating_point() for batch in batches)
    mixed = [bool(((batch.labels > 0) & (batch.labels < 1)).any()) for batch in batches]
    size = phase.steps_per_epoch
    return [any(mixed[start : start + size]) for start in range(0, len(mixed), size)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [[True, True, True]]),
        ({"mixup_off_epochs": 1}, [[True, True, False]]),
        ({"mixup_off_epochs": 2, "steps": 12}, [[True, False, False]]),
        ({"mixup_off_epochs": 1, "crt_epochs": 2}, [[True, True, False], [True, False]]),
        ({"mixup_off_epochs": 2, "crt_epochs": 1}, [[True, False, False], [False]]),
    ],
    ids=["never", "epochs", "steps", "two stages", "a short second stage"],
)
def test_the_last_epochs_of_each_stage_are_not_mixed(small_npz, changes, expected):
    trainer = trainer_of(small_npz, **changes)
    assert [mixed_epochs(phase) for phase in trainer.phases] == expected


def test_as_many_epochs_as_there_are_is_refused(small_npz):
    with pytest.raises(RequestError, match=r"--mixup-off-epochs 3 leaves no epoch of 3 with mixup"):
        trainer_of(small_npz, mixup_off_epochs=3)


def test_one_recording_serves_both_parts(small_npz):
    changes = {"mixup_off_epochs": 1, "epochs": 2, "lr_min": 0.025, "drop_path": 0.0}
    recorder = Repeater()
    plain, recorded = trainer_of(small_npz, **changes), trainer_of(small_npz, recorder, **changes)
    assert plain.phases[0].steps_per_epoch > WARM_UP
    while not plain.finished:
        plain.run_step()
        recorded.run_step()
    assert recorder.recorded == 1
    for name, value in plain.net.state_dict().items():
        torch.testing.assert_close(value, recorded.net.state_dict()[name], rtol=1e-4, atol=1e-5)
