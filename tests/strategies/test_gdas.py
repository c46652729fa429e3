"""GDAS' draws and their gradients against the formulas of its paper."""

from __future__ import annotations

import pytest
import torch
from image_files import write_npz
from strategy_runs import run, state_of, trainer_of

from ssfnas.config import SearchConfig
from ssfnas.layers.cells import CELL_TYPES
from ssfnas.strategies import Moment, Space
from ssfnas.strategies.gdas import Gdas, straight_through
from ssfnas.strategies.strategy import ALPHA, DECISION, WEIGHT


def moment(step: int = 0, epoch: int = 0, epochs: int = 11) -> Moment:
    return Moment(step, 1000, epoch, epochs)


class Net:
    """What a strategy asks a supernet for."""

    def __init__(self, alphas: dict[str, torch.Tensor]) -> None:
        self._alphas = {f"alphas_{cell}": alpha for cell, alpha in alphas.items()}

    def architecture(self) -> dict[str, torch.Tensor]:
        return self._alphas


def strategy(nodes: int = 2, operations: int = 3, **settings) -> tuple[Gdas, dict]:
    draws = torch.Generator().manual_seed(0)
    space = Space(nodes, ("x",) * operations, dtype=torch.float64)
    found = Gdas(SearchConfig(strategy="gdas", **settings), space)
    alphas = {
        cell: torch.randn(
            space.edges, operations, generator=draws, dtype=torch.float64
        ).requires_grad_()
        for cell in CELL_TYPES
    }
    found.attach(Net(alphas))  # type: ignore[arg-type]
    return found, alphas


def tables(searched: Gdas, phase: str) -> dict[str, torch.Tensor]:
    with searched.in_phase(phase):
        return {k: m.table for k, m in searched.mixes(searched.net.architecture()).items()}


@pytest.fixture
def dataset(tmp_path):
    return write_npz(tmp_path / "images.npz", (24, 16, 8))


@pytest.mark.parametrize("tau", [10.0, 0.1])
def test_operations_are_drawn_as_often_as_their_probabilities_say(tau):
    searched, alphas = strategy(tau_start=tau, tau_end=tau)
    steps = 4000
    counts = {key: torch.zeros(5, 3) for key in [(p, c) for p in (ALPHA, WEIGHT) for c in alphas]}
    for step in range(steps):
        searched.begin_step(moment(step))
        for (phase, cell), count in counts.items():
            with searched.in_phase(phase):
                mix = searched.mixes(searched.net.architecture())[cell]
            assert torch.equal(mix.table, torch.tensor(mix.open).double())
            count += torch.tensor(mix.open)
    for (_, cell), count in counts.items():
        wanted = alphas[cell].detach().softmax(1)
        deviation = (wanted * (1 - wanted) / steps).sqrt()
        assert torch.all((count / steps - wanted).abs() < 4.5 * deviation)


def test_the_gradient_is_that_of_the_drawn_probability_alone():
    draws = torch.Generator().manual_seed(1)
    alpha, noise, of_table = torch.randn(3, 6, 4, generator=draws, dtype=torch.float64)
    alpha.requires_grad_()
    tau = 0.7
    z = (alpha.detach().exp() / alpha.detach().exp().sum(1, keepdim=True)).log() + noise
    k = z.argmax(1)
    e = (z / tau).exp()
    q = e / e.sum(1, keepdim=True)
    wanted = torch.zeros_like(q)
    for edge in range(6):
        for j in range(4):
            inner = float(j == k[edge]) - q[edge, j]
            wanted[edge, j] = of_table[edge, k[edge]] * q[edge, k[edge]] * inner / tau
    drawn = torch.nn.functional.one_hot(k, 4).double()
    table = straight_through(alpha, noise, drawn, tau)
    assert torch.equal(table, drawn)
    (found,) = torch.autograd.grad((table * of_table).sum(), alpha)
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-15)
    assert torch.allclose(found.sum(1), torch.zeros(6, dtype=torch.float64), atol=1e-15)


def test_float32_is_one_hot_as_well():
    draws = torch.Generator().manual_seed(2)
    alpha, noise = torch.randn(2, 20000, 7, generator=draws)
    drawn = torch.nn.functional.one_hot((alpha + noise).argmax(1), 7).float()
    for tau in (10.0, 0.1, 1e-3):
        assert torch.equal(straight_through(alpha, noise, drawn, tau), drawn)


def test_tau_falls_on_a_line_over_the_epochs():
    searched, _ = strategy()
    for epoch in range(11):
        searched.begin_step(moment(epoch=epoch))
        assert searched.told["tau"] == pytest.approx(10 - 9.9 * epoch / 10, rel=1e-14)
        assert float(searched.get("tau")) == searched.told["tau"]
    searched.begin_step(moment(epochs=1))
    assert searched.told["tau"] == 10


def test_draws_are_of_the_seed_the_step_and_the_loss():
    searched, _ = strategy(nodes=4, operations=7)

    def drawn(step: int, phase: str, which: Gdas = searched) -> torch.Tensor:
        which.begin_step(moment(step))
        return torch.cat(list(tables(which, phase).values())).detach()

    first = drawn(3, ALPHA)
    assert not torch.equal(first, drawn(3, WEIGHT))
    assert not torch.equal(first, drawn(4, ALPHA))
    assert torch.equal(first, drawn(3, ALPHA))
    assert not torch.equal(first, drawn(3, ALPHA, strategy(nodes=4, operations=7, seed=1)[0]))
    normal, reduce = first.split(14)
    assert not torch.equal(normal, reduce)


def test_decided_by_are_probabilities_of_all_operations():
    searched, alphas = strategy()
    searched.begin_step(moment())
    with searched.in_phase(DECISION):
        mixes = searched.mixes(searched.net.architecture())
    for cell, mix in mixes.items():
        assert mix.open is None
        assert torch.equal(mix.table, alphas[cell].softmax(1))


def test_closed_operations_are_not_drawn_and_have_no_gradient():
    searched, alphas = strategy()
    left = torch.tensor([[True, False, True]] * 4 + [[False] * 3])
    searched.close({"normal": left})
    for step in range(50):
        searched.begin_step(moment(step))
        with searched.in_phase(ALPHA):
            mix = searched.mixes(searched.net.architecture())["normal"]
        drawn = torch.tensor(mix.open)
        assert drawn.sum(1).tolist() == [1, 1, 1, 1, 0]
        assert not torch.any(drawn & ~left)
        draws = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        (found,) = torch.autograd.grad((mix.table * draws).sum(), alphas["normal"])
        assert torch.equal(found[~left], torch.zeros(int((~left).sum()), dtype=torch.float64))
        assert bool(found[:4].any())


@pytest.mark.parametrize("supernet", ["fast", "reference"])
def test_a_network_gives_that_gradient(dataset, supernet):
    trainer = trainer_of(dataset, "gdas", supernet=supernet)
    searched, net = trainer.strategy, trainer.net
    searched.begin_step(trainer._moment(trainer.step))
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with searched.in_phase(ALPHA):
        mixes = net.mixes()
        found = torch.autograd.grad(net(x).square().sum(), net.alphas())
    for cell, gradient in zip(CELL_TYPES, found, strict=True):
        tau, noise = searched.get("tau"), searched.get(f"noise_alpha_{cell}")
        q = ((net.architecture()[f"alphas_{cell}"].detach() + noise) / tau).softmax(1)
        for edge, row in enumerate(mixes[cell].open):
            k, values = row.index(True), []
            for shift in (1e-5, -1e-5):
                table = mixes[cell].table.detach().clone()
                table[edge, k] += shift
                with net.fixed({**mixes, cell: mixes[cell]._replace(weights=table)}):
                    values.append(net(x).square().sum().item())
            of_table = (values[0] - values[1]) / 2e-5
            wanted = of_table * q[edge, k] * (torch.eye(8, dtype=q.dtype)[k] - q[edge]) / tau
            assert torch.allclose(gradient[edge], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("supernet", ["fast", "reference"])
def test_what_was_not_drawn_stays_as_it_is(dataset, supernet):
    trainer = trainer_of(dataset, "gdas", supernet=supernet)
    run(trainer, 2)  # there is momentum now
    before, trained = state_of(trainer), 0
    trainer.run_step()
    drawn = trainer.strategy._drawn
    names = [name for name in before if ".edges." in name]
    for name in names:
        _, cell, _, edge, _, operation, *_ = name.split(".")
        kind = trainer.net.cells[int(cell)].kind
        by = {phase: drawn[phase, kind][int(edge)][int(operation)] for phase in (ALPHA, WEIGHT)}
        # Running statistics are of both losses, weights are trained in one.
        moves = by[WEIGHT] or (by[ALPHA] and "running" in name) or "tracked" in name
        same = torch.equal(before[name], trainer.net.state_dict()[name])
        assert same or moves, name
        trained += not same
    assert 0 < trained < len(names) / 2


def test_a_node_may_get_none_alone(dataset):
    both = [trainer_of(dataset, "gdas", supernet=form) for form in ("reference", "fast")]
    for trainer in both:
        with torch.no_grad():
            trainer.net.alphas_normal[:2, 0] = 100  # of the first node both edges
        run(trainer, 2)
        drawn = trainer.strategy._drawn[WEIGHT, "normal"]
        assert [row.index(True) for row in drawn[:2]] == [0, 0]
    wanted = state_of(both[0])
    for name, value in state_of(both[1]).items():
        assert torch.allclose(value.double(), wanted[name].double(), rtol=1e-9, atol=1e-9), name
