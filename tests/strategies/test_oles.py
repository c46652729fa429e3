"""Cosines of operations' gradients, and what stops by them, against the definition."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from image_files import write_npz
from strategy_runs import run, state_of, trainer_of

from ssfnas.strategies.oles import segment_cosines

NEVER = -1.0


@pytest.fixture
def dataset(tmp_path):
    return write_npz(tmp_path / "images.npz", (24, 16, 8))


def double_draws(*sizes: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def named(trainer, instance) -> str:
    """The beginning of the names of its parameters."""
    return f"cells.{instance.cell}.edges.{instance.edge}.operations.{instance.operation}."


def given(trainer, of_alpha, of_weights):
    """One step's gradients, as the steps of the alphas and of the weights hand them over."""
    trainer.strategy.after_alpha_step(of_alpha)
    trainer.strategy.after_weight_step(of_weights)


def test_cosines_of_pieces():
    lengths = [3, 1, 4]
    a, b = double_draws(2, 8)
    a[3:4] = 0
    found = segment_cosines(a, b, torch.tensor(lengths))
    for piece, (x, y) in enumerate(zip(a.split(lengths), b.split(lengths), strict=True)):
        if piece == 1:
            assert math.isnan(found[piece])
            continue
        wanted = sum(p * q for p, q in zip(x.tolist(), y.tolist(), strict=True))
        wanted /= math.sqrt(sum(p * p for p in x.tolist()) * sum(q * q for q in y.tolist()))
        assert float(found[piece]) == pytest.approx(wanted, rel=1e-14)


def test_every_operation_with_parameters_is_one_vector(dataset):
    trainer = trainer_of(dataset, "oles", oles_threshold=NEVER)
    strategy, weights = trainer.strategy, trainer.net.weights()
    names = [
        f"cells.{c}.edges.{e}.operations.{o}."
        for c, cell in enumerate(trainer.net.cells)
        for e, edge in enumerate(cell.edges)
        for o, module in enumerate(edge.operations)
        if list(module.parameters())
    ]
    assert [named(trainer, instance) for instance in strategy.instances] == names
    # Of skip connections those that halve the resolution: two edges of two nodes, two cells.
    skips = trainer.operations.index("skip_connect")
    assert sum(instance.operation == skips for instance in strategy.instances) == 8
    trainer.strategy.begin_step(trainer._moment(trainer.step))
    a, b = ([double_draws(*w.shape, seed=s + n) for n, w in enumerate(weights)] for s in (0, 9999))
    given(trainer, a, [*b, double_draws(5)])  # and one of a projector
    by_name = dict(trainer.net.named_parameters())
    place_of = {id(weight): place for place, weight in enumerate(weights)}
    sums, counts = strategy.get("sums")
    assert torch.equal(counts, torch.ones_like(counts))
    for number, name in enumerate(names):
        places = [place_of[id(p)] for key, p in by_name.items() if key.startswith(name)]
        x, y = (torch.cat([part[place].flatten() for place in places]) for part in (a, b))
        assert float(sums[number]) == pytest.approx(float(x @ y / (x.norm() * y.norm())), rel=1e-12)


def test_gradients_are_those_of_both_losses_at_the_same_weights(dataset):
    trainer = trainer_of(dataset, "oles", oles_threshold=NEVER, clip=1e-3)
    run(trainer, 1)
    strategy, before = trainer.strategy, strategy_sums(trainer)
    at, seen = copy.deepcopy(trainer.net.state_dict()), []
    step = trainer.bilevel.step
    trainer.bilevel.step = lambda a, b: (seen.append((a, b)), step(a, b))[1]
    run(trainer, 1)
    after = state_of(trainer)
    found = strategy_sums(trainer) - before
    gradients = []
    for batch, phase in zip(seen[0], ("alpha", "weight"), strict=True):
        trainer.net.load_state_dict(at)
        if phase == "weight":  # by then the alphas are updated, the weights are not
            for name, alpha in trainer.net.architecture().items():
                alpha.data.copy_(after[name])
        with strategy.in_phase(phase):
            loss = trainer.objective.terms(trainer.net, batch)["loss"]
        weights = trainer.net.weights()
        gradients.append(torch.autograd.grad(loss, weights, allow_unused=True))
    for number, instance in enumerate(strategy.instances):
        x, y = (torch.cat([g[p].flatten() for p in instance.places]) for g in gradients)
        wanted = float(x @ y / (x.norm() * y.norm()))
        assert float(found[number]) == pytest.approx(wanted, rel=1e-8, abs=1e-12)


def strategy_sums(trainer) -> torch.Tensor:
    return trainer.strategy.get("sums")[0].clone()


@pytest.mark.parametrize("sign", [1, -1])
def test_what_parts_stops_after_a_window_and_not_before(dataset, sign):
    trainer = trainer_of(dataset, "oles", oles_window=3, oles_threshold=0.5)
    strategy, weights = trainer.strategy, trainer.net.weights()
    other = strategy.instances[7]
    for step in range(4):
        strategy.begin_step(trainer._moment(step))
        assert strategy.stopped == ((7,) if step == 3 and sign < 0 else ())
        a = [double_draws(*w.shape, seed=step) for w in weights]
        # Of another size as well, which a cosine does not see.
        b = [100 * (sign if p in other.places else 1) * g for p, g in enumerate(a)]
        given(trainer, a, b)
    assert strategy.told["frozen"] == (sign < 0)
    count = len(strategy.instances)
    assert strategy.told["cosine"] == pytest.approx(1 if sign > 0 else 1 - 2 / count, rel=1e-12)
    frozen = {id(p) for p in strategy.frozen()}
    assert frozen == ({id(weights[p]) for p in other.places} if sign < 0 else set())


def test_one_undefined_cosine_does_not_count(dataset):
    trainer = trainer_of(dataset, "oles", oles_window=2, oles_threshold=-0.5)
    strategy, weights = trainer.strategy, trainer.net.weights()
    never, once = strategy.instances[0], strategy.instances[1]
    for step in range(2):
        strategy.begin_step(trainer._moment(step))
        a = [double_draws(*w.shape, seed=step) for w in weights]
        b = [-gradient for gradient in a]
        for place in (*never.places, *(once.places if step else ())):
            b[place] = None
        given(trainer, a, b)
    strategy.begin_step(trainer._moment(2))
    assert strategy.stopped == tuple(range(1, len(strategy.instances)))
    assert strategy.told["cosine"] == pytest.approx(-1, rel=1e-12)


@pytest.mark.parametrize("supernet", ["fast", "reference"])
def test_weights_that_stopped_stay_and_their_alphas_go_on(dataset, supernet):
    trainer = trainer_of(dataset, "oles", oles_window=2, oles_threshold=1.0, supernet=supernet)
    run(trainer, 2)
    assert not trainer.strategy.stopped
    before = state_of(trainer)
    run(trainer, 2)  # all cosines are below 1
    after = state_of(trainer)
    assert trainer.strategy.stopped == tuple(range(len(trainer.strategy.instances)))
    for name, parameter in trainer.net.named_parameters():
        stays = ".operations." in name
        assert torch.equal(before[name], after[name]) == stays, name
        momentum = trainer.weight_optimizer.state.get(parameter, {}).get("momentum_buffer")
        assert momentum is None or bool(momentum.any()), name
    moved = after["alphas_normal"] != before["alphas_normal"]
    assert bool(moved.all())


def test_closed_operations_are_not_compared(dataset):
    trainer = trainer_of(dataset, "oles", oles_threshold=1.0, oles_window=2)
    strategy = trainer.strategy
    left = torch.ones(5, 8, dtype=torch.bool)
    place = trainer.operations.index("sep_conv_3x3")
    left[0, place] = False
    strategy.close({"normal": left})
    run(trainer, 3)
    closed = {
        number
        for number, instance in enumerate(strategy.instances)
        if (instance.kind, instance.edge, instance.operation) == ("normal", 0, place)
    }
    assert closed
    assert {*strategy.stopped} == {*range(len(strategy.instances))} - closed


def test_nothing_is_compared_while_alphas_are_not_trained(dataset):
    trainer = trainer_of(dataset, "oles", alpha_warmup_epochs=1, oles_threshold=1.0, oles_window=1)
    run(trainer, trainer.steps_per_epoch)
    assert trainer.strategy.pairs == 0
    assert not trainer.strategy.get("sums").any()
    run(trainer, 1)
    assert trainer.strategy.pairs == 1
    assert not trainer.strategy.stopped


def test_a_window_is_gone_on_with(dataset):
    whole = trainer_of(dataset, "oles", oles_window=4, oles_threshold=0.2)
    run(whole, 2)
    state = copy.deepcopy(whole.state_dict())
    run(whole, 3)
    resumed = trainer_of(dataset, "oles", oles_window=4, oles_threshold=0.2)
    resumed.load_state_dict(state)
    run(resumed, 3)
    assert whole.strategy.stopped == resumed.strategy.stopped
    assert 0 < len(whole.strategy.stopped) < len(whole.strategy.instances)
    assert whole.strategy.told == resumed.strategy.told
    assert torch.equal(whole.strategy.get("sums"), resumed.strategy.get("sums"))
