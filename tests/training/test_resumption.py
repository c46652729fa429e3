"""A checkpoint that does not fit is refused in one line; a lack of memory is told as what it is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ssfnas.errors import RequestError
from ssfnas.training.loop import resume


class Store:
    folder = Path("run/checkpoints")

    def latest(self):
        return 3, {"net": {}}


class Log:
    cut = None

    def cut_back(self, step):
        self.cut = step


class Loading:
    """What fails to load a state, or loads it."""

    def __init__(self, error=None):
        self.error = error

    def load_state_dict(self, state):
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Error(s) in loading state_dict for Net:\n\tsize mismatch for weight"),
        KeyError("classifier"),
        TypeError("'NoneType' object is not subscriptable"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_checkpoint_of_another_training_is_refused_and_the_logs_are_left(error):
    log = Log()
    with pytest.raises(RequestError, match=r"^the checkpoint of step 3 in .* --overwrite$") as told:
        resume(Loading(error), Store(), log)
    assert "\n" not in str(told.value)
    assert log.cut is None


def test_a_lack_of_memory_is_no_checkpoint_of_another_training():
    with pytest.raises(torch.OutOfMemoryError, match="tried to allocate"):
        resume(Loading(torch.OutOfMemoryError("tried to allocate 2 GiB")), Store(), None)


def test_what_fits_is_loaded_and_the_logs_go_back_to_it():
    log = Log()
    assert resume(Loading(), Store(), log) is True
    assert log.cut == 3
