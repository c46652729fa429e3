"""What a supernet is worth with other weights, against losses and accuracies by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from image_files import write_npz
from tiny_runs import tiny_search

from ssfnas.data import load_data
from ssfnas.layers.cells import CELL_TYPES
from ssfnas.runtime.distributed import World
from ssfnas.spaces import Mix, frozen_statistics
from ssfnas.strategies.perturbation import select
from ssfnas.training.search_trainer import SearchTrainer
from ssfnas.training.supernet_measure import SupernetMeasure


@pytest.fixture
def dataset(tmp_path):
    return write_npz(tmp_path / "images.npz", (20, 12, 6))


ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def trained(dataset, strategy="darts", **changes):
    settings = {"objective": "supervised", "knn": False, "alpha_lr": 0.1, "channels": 4, **changes}
    config = tiny_search(dataset, strategy=strategy, **settings)
    trainer = SearchTrainer(config, load_data(config), ALONE, torch.float64)
    for _ in range(3):
        trainer.run_step()
    return trainer


def changed(tables):
    """Other tables: an operation and an edge taken away, a row one-hot."""
    tables = {cell: table.clone() for cell, table in tables.items()}
    tables["normal"][0, 4] = 0
    tables["reduce"][1] = 0
    tables["normal"][4] = 0
    tables["normal"][4, 5] = 1
    return tables


@pytest.mark.parametrize("objective", ["supervised", "ssl"])
@pytest.mark.parametrize("change", [lambda tables: tables, changed], ids=["own", "changed"])
def test_the_loss_is_the_mean_over_batches_of_the_half_of_the_alphas(dataset, objective, change):
    trainer = trained(dataset, objective=objective)
    measure = SupernetMeasure(trainer, "loss", 10)
    assert measure.images == 16  # two batches of eight; the half has nineteen
    tables = change(measure.tables)
    stream = trainer.make_validation_stream("perturbation")
    mixes = {cell: Mix(table) for cell, table in tables.items()}
    losses = []
    for batch in (stream.next(), stream.next()):
        assert set(batch.indices.tolist()) <= set(trainer.halves[1].tolist())
        with torch.no_grad(), trainer.net.fixed(mixes), frozen_statistics(trainer.net):
            losses.append(float(trainer.objective.terms(trainer.net, batch)["loss"]))
    assert measure(tables) == pytest.approx(-sum(losses) / 2, rel=1e-10)


def test_the_accuracy_is_the_mean_over_classes_on_images_as_they_are(dataset):
    trainer = trained(dataset)
    trainer.net.classifier.bias.data[0] = 0.05  # something is told wrong, and something right
    measure = SupernetMeasure(trainer, "balanced_accuracy", 1000)
    assert measure.images == 16
    tables = changed(measure.tables)
    stream = trainer.make_stream("perturbation", "none", indices=trainer.halves[1])
    batches = [stream.next() for _ in range(2)]
    seen = torch.cat([batch.indices for batch in batches]).tolist()
    assert len(set(seen)) == 16
    right, there = {}, {}
    mixes = {cell: Mix(table) for cell, table in tables.items()}
    with torch.no_grad(), trainer.net.fixed(mixes), frozen_statistics(trainer.net):
        for batch in batches:
            told = trainer.net(batch.views[0]).argmax(1)
            for label, guess in zip(batch.labels.tolist(), told.tolist(), strict=True):
                there[label] = there.get(label, 0) + 1
                right[label] = right.get(label, 0) + (label == guess)
    shares = [right[label] / there[label] for label in there]
    assert 0 < sum(shares) < len(shares)
    assert measure(tables) == pytest.approx(sum(shares) / len(shares), abs=1e-12)


def test_nothing_is_seen_of_a_measurement_afterward_and_it_can_be_repeated(dataset):
    trainer = trained(dataset, objective="joint")
    before, random = copy.deepcopy(trainer.net.state_dict()), torch.get_rng_state()
    weights = trainer.net.edge_weights()
    measure = SupernetMeasure(trainer, "loss", 8)
    first = measure(changed(measure.tables))
    assert first != measure(measure.tables)
    assert first == measure(changed(measure.tables))
    assert first == SupernetMeasure(trainer, "loss", 8)(changed(measure.tables))
    after = trainer.net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(weights[c], trainer.net.edge_weights()[c]) for c in CELL_TYPES)


def test_factors_of_edges_stay_but_of_those_that_are_gone(dataset):
    trainer = trained(dataset, "pcdarts")
    measure = SupernetMeasure(trainer, "loss", 8)
    with torch.no_grad():
        own = trainer.net.mixes()
    tables = changed(measure.tables)
    mixes = {}
    for cell in CELL_TYPES:
        assert torch.equal(measure.tables[cell], own[cell].weights)
        factors = own[cell].edges.clone()
        factors[tables[cell].sum(1) == 0] = 0
        assert bool((factors == 0).any()) == (cell == "reduce")
        mixes[cell] = Mix(tables[cell], factors)
    batch = trainer.make_validation_stream("perturbation").next()
    with torch.no_grad(), trainer.net.fixed(mixes), frozen_statistics(trainer.net):
        wanted = float(trainer.objective.terms(trainer.net, batch)["loss"])
    assert measure(tables) == pytest.approx(-wanted, rel=1e-10)


@pytest.mark.parametrize("supernet", ["fast", "reference"])
def test_a_whole_selection_on_a_supernet(dataset, supernet):
    names = ["none", "skip_connect", "sep_conv_3x3", "max_pool_3x3"]
    trainer = trained(dataset, supernet=supernet, operations=names)
    measure = SupernetMeasure(trainer, "loss", 8)
    found = select(measure.tables, names, measure, seed=1, is_open=trainer.strategy.open)
    for table in found.values():
        assert set(table.flatten().tolist()) == {0.0, 1.0}
        assert table[:, 0].sum() == 0
        assert table[:2].sum() == table[2:].sum() == 2
    assert measure(found) == measure(found)


def test_a_node_without_any_weight_can_be_measured(dataset):
    trainer = trained(dataset)
    measure = SupernetMeasure(trainer, "loss", 8)
    nothing = {cell: torch.zeros_like(table) for cell, table in measure.tables.items()}
    assert measure(nothing) < 0
    with pytest.raises(ValueError, match="measure is 'top1'"):
        SupernetMeasure(trainer, "top1", 8)
