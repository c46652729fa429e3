"""An update against PyTorch's own loop, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssfnas.errors import NumericalError
from ssfnas.runtime.distributed import World
from ssfnas.runtime.updates import Updater

ALONE = World(0, 1, torch.device("cpu"))


def parameters(count: int) -> list[nn.Parameter]:
    return [nn.Parameter(torch.full((3,), 1.0 + k, dtype=torch.float64)) for k in range(count)]


def updater(chosen: list[nn.Parameter], **options) -> Updater:
    sgd = torch.optim.SGD(chosen, lr=0.1, momentum=0.9, weight_decay=0.01)
    return Updater(chosen, sgd, ALONE, **options)


def step(update: Updater, loss: torch.Tensor) -> None:
    update.update(loss, {"loss": loss.detach()}, "train")


def test_updates_are_those_of_a_plain_loop():
    ours, theirs = parameters(2), parameters(2)
    update = updater(ours, clip=0.5)
    sgd = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(3):
        step(update, (ours[0] * ours[1].square()).sum())
        sgd.zero_grad()
        (theirs[0] * theirs[1].square()).sum().backward()
        nn.utils.clip_grad_norm_(theirs, 0.5)
        sgd.step()
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)
        assert one.grad is None


def test_a_gradient_that_two_parameters_share_is_clipped_once():
    a, b = parameters(2)
    # Both get the same tensor from autograd.
    update = Updater([a, b], torch.optim.SGD([a, b], lr=1.0), ALONE, clip=1.0)
    before = torch.cat([a, b]).detach()
    step(update, (a + b).square().sum())
    moved = before - torch.cat([a, b]).detach()
    assert float(moved.norm()) == pytest.approx(1, rel=1e-5)
    assert moved.tolist() == pytest.approx([6**-0.5] * 6, rel=1e-5)


@pytest.mark.parametrize("decays", [False, True])
def test_what_has_no_part_in_the_loss_decays_where_that_is_wanted(decays):
    used, unused, fixed = parameters(3)
    fixed.requires_grad_(False)
    update = updater([used, unused, fixed], decays_unused=decays)
    step(update, used.sum())
    share = 1 - 0.1 * 0.01 if decays else 1
    assert unused.tolist() == pytest.approx([2.0 * share] * 3, rel=1e-12)
    assert fixed.tolist() == pytest.approx([3.0 * share] * 3, rel=1e-12)


def test_a_loss_that_is_not_finite_changes_nothing():
    (parameter,) = parameters(1)
    with pytest.raises(NumericalError, match=r"^the term train/loss is not finite$"):
        step(updater([parameter]), parameter.sum() * float("nan"))
    assert parameter.tolist() == [1.0] * 3
