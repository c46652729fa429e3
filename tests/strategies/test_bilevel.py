"""Bilevel steps against loops written by hand, closed forms, and exact second derivatives."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ssfnas.errors import NumericalError
from ssfnas.runtime.distributed import World
from ssfnas.runtime.updates import Updater
from ssfnas.spaces import ReferenceSupernet, frozen_statistics
from ssfnas.strategies.bilevel import BilevelOptimizer
from ssfnas.strategies.fairdarts import zero_one_loss

ALONE = World(0, 1, torch.device("cpu"))


def optimizer(weights, alphas, loss, *, lr=0.1, momentum=0.9, decay=0.01, clip=0.0, **options):
    sgd = torch.optim.SGD(weights, lr=lr, momentum=momentum, weight_decay=decay)
    adam = torch.optim.Adam(alphas, lr=3e-2, betas=(0.5, 0.999), weight_decay=1e-3)
    updaters = (
        Updater(weights, sgd, ALONE, clip=clip, decays_unused=True),
        Updater(alphas, adam, ALONE, decays_unused=True),
    )
    return BilevelOptimizer(*updaters, loss=loss, **options)


def drawing(seed: int):
    """A function from a shape to normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def ones(count: int):
    return (nn.Parameter(torch.ones(2)) for _ in range(count))


def supernet() -> ReferenceSupernet:
    generator = torch.Generator().manual_seed(0)
    return ReferenceSupernet(3, channels=2, layers=3, nodes=1, generator=generator).double()


def batches(count: int):
    draw, labels = drawing(1), torch.tensor([0, 1, 2, 0])
    return [(draw(4, 3, 8, 8), labels) for _ in range(count)]


def test_first_order_is_the_loop_of_the_paper():
    ours, theirs = supernet(), supernet()

    def loss(batch):
        return {"loss": F.cross_entropy(ours(batch[0]), batch[1])}

    def regularizer():
        return {"loss": 2 * zero_one_loss(ours.alphas())}

    bilevel = optimizer(ours.weights(), ours.alphas(), loss, regularizer=regularizer, clip=0.5)
    sgd = torch.optim.SGD(theirs.weights(), lr=0.1, momentum=0.9, weight_decay=0.01)
    adam = torch.optim.Adam(theirs.alphas(), lr=3e-2, betas=(0.5, 0.999), weight_decay=1e-3)
    data = batches(10)
    for step in range(5):
        alpha_batch, weight_batch = data[2 * step], data[2 * step + 1]
        terms = bilevel.step(alpha_batch, weight_batch)
        theirs.zero_grad()
        task = F.cross_entropy(theirs(alpha_batch[0]), alpha_batch[1])
        (task + 2 * zero_one_loss(theirs.alphas())).backward()
        adam.step()
        theirs.zero_grad()
        weight_loss = F.cross_entropy(theirs(weight_batch[0]), weight_batch[1])
        weight_loss.backward()
        nn.utils.clip_grad_norm_(theirs.weights(), 0.5)
        sgd.step()
        assert terms["alpha/task"] == pytest.approx(task.item(), rel=1e-12)
        assert terms["weight/loss"] == pytest.approx(weight_loss.item(), rel=1e-12)
        assert not any(term.requires_grad for term in terms.values())
    for name, value in ours.state_dict().items():
        assert torch.allclose(value, theirs.state_dict()[name], rtol=1e-11, atol=1e-13), name


def test_no_gradient_is_taken_that_an_update_does_not_need():
    net = supernet()
    seen = []

    def loss(batch):
        needed = [
            {parameter.requires_grad for parameter in group}
            for group in (net.weights(), net.alphas())
        ]
        seen.append(needed)
        return {"loss": F.cross_entropy(net(batch[0]), batch[1])}

    bilevel = optimizer(net.weights(), net.alphas(), loss)
    bilevel.step(*batches(2))
    assert seen == [[{False}, {True}], [{True}, {False}]]
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert all(parameter.grad is None for parameter in net.parameters())


class Quadratic:
    """L_alpha = |w - a|^2 / 2 + <c, a>, L_w = w'Aw / 2 + w'B a: everything in closed form."""

    def __init__(self) -> None:
        draw = drawing(2)
        root = draw(3, 3)
        self.A, self.B, self.c = root @ root.T, draw(3, 2), draw(2)
        self.C = draw(3, 2)
        self.w, self.a = nn.Parameter(draw(3)), nn.Parameter(draw(2))

    def loss(self, which):
        w, a = self.w, self.a
        if which == "alpha":
            return {"loss": (w - self.C @ a).square().sum() / 2 + self.c @ a}
        return {"loss": w @ self.A @ w / 2 + w @ self.B @ a}


@pytest.mark.parametrize("steps_before", [0, 3])
def test_second_order_is_the_closed_form_on_a_quadratic(steps_before):
    problem = Quadratic()
    bilevel = optimizer([problem.w], [problem.a], problem.loss, order=2, lr=0.05)
    for _ in range(steps_before):
        # Fills the momentum buffer.
        bilevel.weight_step("weight")
    w, a = problem.w.detach().clone(), problem.a.detach().clone()
    buffer = bilevel.weights.optimizer.state[problem.w].get("momentum_buffer")
    buffer = torch.zeros(3, dtype=torch.float64) if buffer is None else buffer.clone()
    eta, decay, momentum = 0.05, 0.01, 0.9
    inner = problem.A @ w + problem.B @ a
    unrolled = w - eta * (momentum * buffer + inner + decay * w)
    v = unrolled - problem.C @ a
    direct = -problem.C.T @ v + problem.c
    wanted = direct - eta * problem.B.T @ v
    _, (found,) = bilevel._unrolled("alpha", "weight")
    assert torch.allclose(found, wanted, rtol=1e-9, atol=1e-11)
    assert torch.equal(problem.w, w)


def test_second_order_on_a_smooth_network_is_the_exact_derivative():
    draw = drawing(3)
    w1, w2 = nn.Parameter(draw(4, 5) / 2), nn.Parameter(draw(5, 1) / 2)
    alpha = nn.Parameter(draw(5))
    data = {"alpha": (draw(8, 4), draw(8, 1)), "weight": (draw(8, 4), draw(8, 1))}

    def value(batch, first, second, gates):
        x, y = data[batch]
        return (torch.tanh(x @ first) * gates.sigmoid() @ second - y).square().mean()

    bilevel = optimizer(
        [w1, w2], [alpha], lambda batch: {"loss": value(batch, w1, w2, alpha)}, order=2
    )
    _, (found,) = bilevel._unrolled("alpha", "weight")
    inner = torch.autograd.grad(value("weight", w1, w2, alpha), [w1, w2], create_graph=True)
    stepped = [w - 0.1 * (g + 0.01 * w) for w, g in zip((w1, w2), inner, strict=True)]
    (wanted,) = torch.autograd.grad(value("alpha", *stepped, alpha), alpha)
    first_order = torch.autograd.grad(value("alpha", *(s.detach() for s in stepped), alpha), alpha)
    assert (found - wanted).norm() < 1e-4 * wanted.norm()
    # The second-order term is there to be missed.
    assert (first_order[0] - wanted).norm() > 1e-2 * wanted.norm()


def test_unrolled_passes_leave_weights_and_statistics_alone():
    net = supernet()
    bilevel = optimizer(
        net.weights(),
        net.alphas(),
        lambda batch: {"loss": F.cross_entropy(net(batch[0]), batch[1])},
        order=2,
        frozen=lambda: frozen_statistics(net),
    )
    before = copy.deepcopy(net.state_dict())
    data = batches(2)
    bilevel.alpha_step(*data)
    after = net.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed <= {"alphas_normal", "alphas_reduce"}
    assert changed


def test_a_parameter_without_part_in_the_loss_gets_a_zero_gradient():
    used, unused, alpha = ones(3)
    bilevel = optimizer(
        [used, unused], [alpha], lambda _: {"loss": (used * alpha).sum()}, momentum=0.0
    )
    bilevel.weight_step(None)
    # Decay alone.
    assert torch.allclose(unused, torch.full((2,), 1 - 0.1 * 0.01))
    assert torch.allclose(used, torch.full((2,), 1 - 0.1 * (1 + 0.01)))


@pytest.mark.parametrize("whose", ["alpha", "weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stops_before_the_update(whose, value):
    weight, alpha = ones(2)

    def loss(batch):
        bad = torch.tensor(value if batch == whose else 0.0)
        return {"loss": (weight * alpha).sum() + bad, "part": bad}

    bilevel = optimizer([weight], [alpha], loss)
    step = bilevel.alpha_step if whose == "alpha" else bilevel.weight_step
    with pytest.raises(NumericalError, match=rf"the terms {whose}/.*part.* are not finite"):
        step(whose)
    assert torch.equal(weight, torch.ones(2))
    assert torch.equal(alpha, torch.ones(2))
    assert weight.requires_grad
    assert alpha.requires_grad


def test_steps_that_cannot_be_captured():
    weight, alpha = ones(2)

    def made(order, *updaters):
        return BilevelOptimizer(*updaters, loss=lambda _: {}, order=order)

    def updater(parameter, **options):
        return Updater([parameter], torch.optim.SGD([parameter], fused=True), ALONE, **options)

    fused = [updater(parameter, capturable=True) for parameter in (weight, alpha)]
    made(1, *fused)
    with pytest.raises(ValueError, match="order 2 looks"):
        made(2, *fused)
    with pytest.raises(ValueError, match="the other does not"):
        made(1, fused[0], updater(alpha))
    plain = Updater([weight], torch.optim.SGD([weight]), ALONE, capturable=True)
    with pytest.raises(ValueError, match="fused optimizers can"):
        made(1, plain, fused[1])


def test_what_cannot_be():
    weight, alpha = ones(2)
    with pytest.raises(ValueError, match="order is 3"):
        optimizer([weight], [alpha], lambda _: {}, order=3)
    with pytest.raises(ValueError, match="both a weight and an alpha"):
        optimizer([weight, alpha], [alpha], lambda _: {})
    updaters = [
        Updater([parameter], torch.optim.SGD([parameter]), ALONE) for parameter in (weight, alpha)
    ]
    updaters[0].scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(ValueError, match="fp16"):
        BilevelOptimizer(*updaters, loss=lambda _: {}, order=2)


@pytest.mark.parametrize("order", [1, 2])
def test_saved_state_continues_to_the_same_bits(order):
    def make(problem):
        return optimizer([problem.w], [problem.a], problem.loss, order=order, lr=0.05)

    whole = Quadratic()
    bilevel = make(whole)
    for _ in range(3):
        bilevel.step("alpha", "weight")
    resumed = Quadratic()
    with torch.no_grad():
        resumed.w.copy_(whole.w)
        resumed.a.copy_(whole.a)
    again = make(resumed)
    again.load_state_dict(copy.deepcopy(bilevel.state_dict()))
    for _ in range(3):
        bilevel.step("alpha", "weight")
        again.step("alpha", "weight")
    assert torch.equal(whole.w, resumed.w)
    assert torch.equal(whole.a, resumed.a)
