"""An update against PyTorch's own loop, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssfnas.errors import NumericalError
from ssfnas.runtime.distributed import World
from ssfnas.runtime.updates import Updater, require_finite, sgd_updater

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


def test_frozen_entries_stay_and_the_others_move_as_ever():
    (frozen,), (free,) = parameters(1), parameters(1)
    ours, theirs = updater([frozen]), updater([free])
    for _ in range(2):
        step(ours, (frozen**3).sum())
        step(theirs, (free**3).sum())
    before = frozen.tolist()
    ours.frozen_entries = {frozen: torch.tensor([False, True, False])}
    step(ours, (frozen**3).sum())  # by its gradient, momentum and decay it would move
    step(theirs, (free**3).sum())
    assert frozen.tolist() == [free[0].item(), before[1], free[2].item()]
    assert before[1] != free[1].item()


def test_a_loss_that_is_not_finite_changes_nothing():
    (parameter,) = parameters(1)
    with pytest.raises(NumericalError, match=r"^the term train/loss is not finite$"):
        step(updater([parameter]), parameter.sum() * float("nan"))
    assert parameter.tolist() == [1.0] * 3


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("a", "term a is"),
        ("ac", "terms a and c are"),
        ("abd", "terms a, b and d are"),
    ],
)
def test_terms_that_are_not_finite_are_listed(wrong, told):
    terms = {name: torch.tensor(float("inf") if name in wrong else 1.0) for name in "abcd"}
    with pytest.raises(NumericalError, match=f"^the {told} not finite$"):
        require_finite(terms)


def by_sgd(chosen: list[nn.Parameter], **options) -> Updater:
    given = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "precision": "fp32", "clip": 0.0}
    return sgd_updater(chosen, ALONE, **given | options)


def plain_sgd(chosen: list[nn.Parameter]) -> torch.optim.SGD:
    return torch.optim.SGD(chosen, lr=0.1, momentum=0.9, weight_decay=0.01, foreach=False)


def draws(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype)


LAYOUTS = {
    "dense": lambda values: values,
    "channels_last": lambda values: values.contiguous(memory_format=torch.channels_last),
    "transposed": lambda values: values.transpose(0, 1),
    "pieces": lambda values: values[::2, 1:30],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_sgd_is_a_plain_loop_however_parameters_lie(dtype, layout):
    ours, theirs = (nn.Parameter(LAYOUTS[layout](draws(6, 40, 4, 4, dtype=dtype))) for _ in "12")
    before = ours.detach().clone()
    update, sgd = by_sgd([ours]), plain_sgd([theirs])
    for _ in range(3):
        step(update, (ours.float() ** 3).sum())
        sgd.zero_grad()
        (theirs.float() ** 3).sum().backward()
        sgd.step()
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    assert (ours - before).abs().max() > 0.1


def test_a_parameter_may_have_its_first_gradient_late():
    ours, theirs = parameters(2), parameters(2)
    update, sgd = by_sgd(ours), plain_sgd(theirs)
    for taking_part in (1, 2, 2, 1, 2):
        step(update, sum(p.square().sum() for p in ours[:taking_part]))
        sgd.zero_grad(set_to_none=True)
        sum(p.square().sum() for p in theirs[:taking_part]).backward()
        sgd.step()
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=0)


def test_momentum_begins_at_zero_where_the_first_update_is_left_out():
    (ours,), (theirs,) = parameters(1), parameters(1)
    update, sgd = by_sgd([ours]), plain_sgd([theirs])
    update.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-100)
    step(update, (1e300 * ours).sum())  # overflows when it is scaled
    assert torch.equal(ours, theirs)
    for _ in range(2):
        step(update, ours.square().sum())
        sgd.zero_grad()
        theirs.square().sum().backward()
        sgd.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def test_momentum_of_another_optimizer_is_laid_as_the_parameter():
    values = draws(4, 3, 3, 3, dtype=torch.float64)
    plain, laid = (
        nn.Parameter(values),
        nn.Parameter(values.clone().contiguous(memory_format=torch.channels_last)),
    )
    sgd, update = plain_sgd([plain]), by_sgd([laid])
    for number in range(3):
        plain.square().sum().backward()
        sgd.step()
        sgd.zero_grad()
        if number == 0:
            laid.data.copy_(plain)
            update.load_state_dict({"optimizer": sgd.state_dict(), "scaler": None})
        else:
            step(update, laid.square().sum())
    torch.testing.assert_close(laid, plain, rtol=1e-14, atol=0)
