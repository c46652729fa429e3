"""When a search stops, and what it goes back to."""

from __future__ import annotations

import pytest

from ssfnas.config import SearchConfig
from ssfnas.strategies import STOPPERS
from ssfnas.strategies.early_stopping import HessianStopper, SkipStopper


def first_stop(stopper, values):
    for epoch, value in enumerate(values, start=1):
        decision = stopper.update(epoch, value)
        if decision is not None:
            return epoch, decision
    return None


def test_skips_stop_once_there_are_too_many_and_not_before():
    found = first_stop(SkipStopper(max_skips=2, after=3), [2, 4, 2, 1, 2, 8])
    assert found is not None
    epoch, decision = found
    # Epochs 1 to 3 are too early.
    assert epoch == decision.use_epoch == 5
    assert "2 skip connections after epoch 5" in decision.reason
    assert first_stop(SkipStopper(2, 0), [0, 1, 1]) is None


def test_the_hessian_rule_of_its_source():
    """Means of five epochs, growth by 1.3, not before epoch 10, back by five epochs."""
    flat = [1.0] * 12
    assert first_stop(HessianStopper(5, 1.3, 10), flat) is None
    # The mean of epochs 8 to 12 is 1.4, that of 3 to 7 is 1.
    epoch, decision = first_stop(HessianStopper(5, 1.3, 10), [1.0] * 11 + [3.0])
    assert (epoch, decision.use_epoch) == (12, 7)
    assert "from 1 to 1.4" in decision.reason
    # Exactly the factor is not more than it.
    assert first_stop(HessianStopper(5, 1.25, 10), [4.0] * 11 + [9.0]) is None
    # What grew early counts only while the window sees it.
    epoch, _ = first_stop(HessianStopper(5, 1.3, 10), [1.0] * 5 + [2.0] * 20)
    assert epoch == 11
    assert first_stop(HessianStopper(5, 1.3, 15), [1.0] * 5 + [2.0] * 20) is None


def test_continues_from_its_state():
    values = [1.0] * 11 + [3.0]
    whole = HessianStopper(5, 1.3, 10)
    first_stop(whole, values[:7])
    resumed = HessianStopper(5, 1.3, 10)
    resumed.load_state_dict(whole.state_dict())
    decisions = [resumed.update(epoch, values[epoch - 1]) for epoch in range(8, 13)]
    assert decisions[:-1] == [None] * 4
    assert decisions[-1].use_epoch == 7


@pytest.mark.parametrize("name", ["skip", "hessian"])
def test_made_from_a_configuration(name):
    stopper = STOPPERS.get(name)(SearchConfig(early_stop=name))
    config = SearchConfig()
    assert stopper.after == config.early_stop_after
    if name == "hessian":
        assert (stopper.window, stopper.factor, stopper.after) == (5, 1.3, 10)
    else:
        assert stopper.max_skips == config.max_skips
