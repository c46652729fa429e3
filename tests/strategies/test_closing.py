"""Operations that leave a search: when, which stay in any case, and that none comes back."""

from __future__ import annotations

import pytest
import torch
from image_files import write_npz
from strategy_runs import run, trainer_of

from ssfnas.config import SearchConfig
from ssfnas.errors import RequestError
from ssfnas.spaces.mixing import Mix
from ssfnas.strategies import STRATEGIES, SearchStrategy
from ssfnas.strategies.closing import Closing
from ssfnas.strategies.strategy import as_open

# One node: two edges of three operations.
OPEN = {"normal": torch.ones(2, 3, dtype=torch.bool)}


NAMES = ("skip_connect", "sep_conv_3x3", "max_pool_3x3")


def closing(shared, names=NAMES, **settings):
    settings = {"close_below": 0.2, "close_after": 1, "close_patience": 2, **settings}
    return Closing(SearchConfig(**settings), names, shared=shared)


def table(*rows):
    return {"normal": torch.tensor(rows)}


def test_an_operation_closes_after_staying_below_for_some_epochs():
    rule, low, high = closing(False), table([0.1, 0.5, 0.5], [0.5] * 3), table([0.5] * 3, [0.5] * 3)
    assert rule.update(1, low, OPEN)["normal"].all()
    assert rule.update(2, high, OPEN)["normal"].all()  # the count begins again
    assert rule.update(3, low, OPEN)["normal"].all()
    left = rule.update(4, low, OPEN)
    assert left["normal"].tolist() == [[False, True, True], [True, True, True]]
    # It stays closed, whatever is said of its weight later.
    assert rule.update(5, high, left)["normal"].tolist() == left["normal"].tolist()


def test_nothing_closes_in_the_first_epochs():
    rule, low = closing(False, close_after=5, close_patience=1), table([0.1, 0.5, 0.5], [0.5] * 3)
    for epoch in range(1, 6):
        assert rule.update(epoch, low, OPEN)["normal"].all()
    assert not rule.update(6, low, OPEN)["normal"].all()


def test_a_node_keeps_the_strongest_operations_of_its_two_best_edges():
    rule = closing(False, close_after=0, close_patience=1)
    # Two nodes: two edges and three.
    rows = [[0.1, 0.19, 0.1], [0.1, 0.1, 0.12], [0.1, 0.0, 0.0], [0.0, 0.2, 0.3], [0.0, 0.15, 0.0]]
    left = rule.update(1, table(*rows), {"normal": torch.ones(5, 3, dtype=torch.bool)})
    b, c = ([place == own for place in range(3)] for own in (1, 2))
    assert left["normal"].tolist() == [b, c, [False] * 3, [False, True, True], b]


@pytest.mark.parametrize("shared", [True, False])
def test_none_is_not_what_an_edge_keeps(shared):
    rule = closing(shared, ("none", *NAMES[1:]), close_after=0, close_patience=1, close_below=0.5)
    left = rule.update(1, table([0.8, 0.1, 0.1], [0.7, 0.1, 0.2]), OPEN)
    assert left["normal"].tolist() == [[True, True, False], [True, False, True]]


def test_an_edge_keeps_its_strongest_operation_where_they_share_a_weight():
    rule = closing(True, close_after=0, close_patience=1, close_below=0.6)
    left = rule.update(1, table([0.3, 0.4, 0.3], [0.5, 0.25, 0.25]), OPEN)
    assert left["normal"].tolist() == [[False, True, False], [True, False, False]]
    # What is left may fall below the bound, too; the strongest of those that are left stays.
    left = rule.update(2, table([0.0, 0.5, 0.0], [1.0, 0.0, 0.0]), left)
    assert left["normal"].tolist() == [[False, True, False], [True, False, False]]


def test_counts_are_kept():
    low = table([0.1, 0.5, 0.5], [0.5] * 3)
    rule, resumed = closing(False), closing(False)
    rule.update(3, low, OPEN)
    resumed.load_state_dict(rule.state_dict())
    assert not resumed.update(4, low, OPEN)["normal"].all()


@pytest.fixture
def dataset(tmp_path):
    return write_npz(tmp_path / "images.npz", (24, 16, 8))


def closed(trainer, cell="normal", edge=1, operation=3):
    """Close one operation of the normal cells; its modules."""
    left = {name: mask.clone() for name, mask in trainer.strategy.open.items()}
    left[cell][edge, operation] = False
    trainer.strategy.close(left)
    trainer._freeze()
    cells = [c for c in trainer.net.cells if c.kind == cell]
    return [c.edges[edge].operations[operation] for c in cells]


@pytest.mark.parametrize("strategy", ["darts", "fairdarts"])
def test_what_is_closed_is_neither_computed_nor_trained(dataset, strategy):
    trainer = trainer_of(dataset, strategy)
    run(trainer, 1)
    place = trainer.operations.index("sep_conv_3x3")
    modules = closed(trainer, operation=place)
    before = [{k: v.clone() for k, v in module.state_dict().items()} for module in modules]
    run(trainer, 3)
    for module, state in zip(modules, before, strict=True):
        for name, value in module.state_dict().items():
            assert torch.equal(value, state[name]), name  # running statistics among them
    mix = trainer.net.mixes()["normal"]
    assert mix.weights[1, place] == 0
    if strategy == "darts":
        torch.testing.assert_close(mix.weights.sum(1), torch.ones(5, dtype=torch.float64))
    fused = trainer.net._fused_cells().fused(0, mix.open)
    whole = trainer.net._fused_cells().fused(0)
    assert sum(map(len, whole.layout.terms)) - sum(map(len, fused.layout.terms)) == 1
    assert len(fused.parameters()) == len(whole.parameters()) - 4
    # The zero-one loss, and whatever else is a mean over alphas, is one over what is left.
    sizes = [len(row) for row in trainer.strategy.alphas()]
    assert sizes == [mix.weights.numel() - 1, mix.weights.numel()]


@pytest.mark.parametrize("order", [1, 2])
def test_alphas_stay_where_they_closed_and_nothing_else_moves_otherwise(dataset, order):
    settings = {"order": order, "alpha_lr": 0.1, "alpha_weight_decay": 0.1}
    trainer, free = (trainer_of(dataset, "fairdarts", **settings) for _ in range(2))
    place = trainer.operations.index("sep_conv_3x3")
    for one in (trainer, free):
        run(one, 2)  # Adam has momentum
        closed(one, operation=place)
    before = trainer.net.alphas_normal.detach().clone()
    free.bilevel.alphas.frozen_entries = {}
    for one in (trainer, free):
        one.bilevel.step(one.alpha_stream.next(), one.weight_stream.next())
    after, decayed = trainer.net.alphas_normal.detach(), free.net.alphas_normal.detach().clone()
    assert after[1, place] == before[1, place] != decayed[1, place]
    assert (after != before).sum() == after.numel() - 1
    decayed[1, place] = before[1, place]
    assert torch.equal(after, decayed)
    assert torch.equal(trainer.net.alphas_reduce, free.net.alphas_reduce)


def test_a_strategy_whose_parameters_have_other_names_may_close_operations(dataset):
    class Logits(SearchStrategy):
        def parameters_of(self, edges, operations, draws):
            return {f"logits_{cell}": torch.zeros(edges, operations) for cell in self.open}

        def mix(self, cell, parameters):
            weights = parameters[f"logits_{cell}"].sigmoid() * self.open[cell]
            return Mix(weights, None, as_open(self.open[cell]))

    STRATEGIES.register("logits")(Logits)
    try:
        trainer = trainer_of(dataset, "logits")
        closed(trainer)
        before = trainer.net.logits_normal.detach().clone()
        run(trainer, 2)
    finally:
        STRATEGIES._entries.pop("logits")
    assert (trainer.net.logits_normal[1] != before[1]).sum() == before.shape[1] - 1
    assert trainer.strategy.tables()["normal"][1, 3] == 0


def test_what_is_closed_has_no_gradient(dataset):
    trainer = trainer_of(dataset, "fairdarts")
    place = trainer.operations.index("max_pool_3x3")
    closed(trainer, operation=place)
    loss = trainer.objective.terms(trainer.net, trainer.alpha_stream.next())["loss"]
    (gradient,) = torch.autograd.grad(
        loss + trainer.strategy.penalty()["loss"], trainer.net.alphas_normal
    )
    assert gradient[1, place] == 0
    assert (gradient != 0).sum() == gradient.numel() - 1


def test_an_edge_without_operations_adds_nothing(dataset):
    both = [trainer_of(dataset, "fairdarts", supernet=form) for form in ("reference", "fast")]
    outputs = []
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for trainer in both:
        left = {name: mask.clone() for name, mask in trainer.strategy.open.items()}
        left["normal"][0] = False
        left["reduce"][3] = False
        trainer.strategy.close(left)
        outputs.append(trainer.net(x))
    assert torch.allclose(*outputs, rtol=1e-10)
    # The same as with weights that are zero there.
    trainer = trainer_of(dataset, "fairdarts", supernet="reference")
    mixes = trainer.net.mixes()
    for cell, edge in (("normal", 0), ("reduce", 3)):
        weights = mixes[cell].weights.clone()
        weights[edge] = 0
        mixes[cell] = mixes[cell]._replace(weights=weights)
    with trainer.net.fixed(mixes):
        assert torch.allclose(trainer.net(x), outputs[0], rtol=1e-10)


def test_closed_operations_never_come_back_and_a_node_keeps_one(dataset):
    trainer = trainer_of(
        dataset, "fairdarts", epochs=5, w01=50.0, alpha_lr=0.5, close_below=0.45, close_after=0,
        close_patience=1,
    )  # fmt: skip
    run(trainer, trainer.total_steps)
    masks = torch.stack([record["open_normal"] for record in trainer.history])
    assert not (masks[1:] & ~masks[:-1]).any()
    assert masks[-1].sum() < masks[0].sum()
    for edges in masks[-1].split([2, 3]):
        assert edges.any()


def test_what_is_closed_stays_so_in_second_order(dataset):
    settings = {"close_below": 0.1, "close_after": 0, "close_patience": 1}
    trainer = trainer_of(dataset, "darts", order=2, **settings)
    place = trainer.operations.index("sep_conv_3x3")
    (module, *_) = closed(trainer, operation=place)
    before = [parameter.clone() for parameter in module.parameters()]
    run(trainer, 2)
    assert all(map(torch.equal, module.parameters(), before))


def test_a_genotype_holds_what_is_open_alone(dataset):
    trainer = trainer_of(
        dataset, "darts", epochs=2, close_below=0.13, close_after=0, close_patience=1
    )  # fmt: skip
    with torch.no_grad():
        for alpha in trainer.net.alphas():
            alpha[:, 0] = 5  # none leads everywhere
    run(trainer, trainer.total_steps)
    genotype = trainer.genotype()
    edges = [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    for cell in ("normal", "reduce"):
        for name, start, to in getattr(genotype, cell):
            left = trainer.strategy.open[cell][edges.index((start, to))]
            assert left[trainer.operations.index(name)], (cell, name, start, to)


def test_closing_a_whole_node_is_refused(dataset):
    trainer = trainer_of(dataset, "fairdarts")
    left = {name: mask.clone() for name, mask in trainer.strategy.open.items()}
    left["normal"][:2] = False
    with pytest.raises(RequestError, match="closes all operations of node 0 of the normal cell"):
        trainer.strategy.close(left)
