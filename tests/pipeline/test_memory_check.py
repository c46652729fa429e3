"""What a step takes in memory is known before the first one, and what cannot fit is refused."""

from __future__ import annotations

import dataclasses
import math
import re

import pytest
import torch
from image_files import write_npz
from tiny_runs import tiny_retrain, tiny_search
from torch import nn

from ssfnas.data import load_data
from ssfnas.errors import RequestError
from ssfnas.pipeline import dry_run, memory_check
from ssfnas.pipeline.memory_check import check_memory, footprint
from ssfnas.pipeline.search_run import run_search
from ssfnas.runtime.distributed import World
from ssfnas.runtime.memory_limits import MemoryLimits
from ssfnas.spaces import Genotype
from ssfnas.training.retrain_trainer import RetrainTrainer
from ssfnas.training.search_trainer import SearchTrainer

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def searcher(path, **changes):
    config = tiny_search(path, knn=False, **changes)
    return SearchTrainer(config, load_data(config), ALONE)


def kept_by(net, x):
    """Bytes of all distinct tensors that are saved for the backward pass, parameters left out."""
    own = {t.data_ptr() for t in (*net.parameters(), *net.buffers())}
    storages = {}

    def look(tensor):
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(look, lambda tensor: tensor):
        output = net(x)
    kept = sum(s.nbytes() for pointer, s in storages.items() if pointer not in own)
    del output
    return kept


@pytest.mark.parametrize("supernet", ["fast", "reference"])
def test_what_an_image_keeps_is_what_many_keep_divided(small_npz, supernet):
    trainer = searcher(small_npz, supernet=supernet, image_size=16)
    found = footprint(trainer, exact=True)
    few, many = (kept_by(trainer.net, torch.randn(count, 3, 16, 16)) for count in (5, 25))
    assert found.kept == pytest.approx((many - few) / 20, rel=1e-3)
    assert footprint(trainer).kept == pytest.approx(found.kept, rel=0.15)
    # Two views of each image are kept until the backward pass of both.
    assert found.passes.images == 2 * trainer.config.batch_size
    assert found.least == found.kept * found.passes.images < found.expected


class Counting(nn.Module):
    """An operation of a user's with a state that is not all in buffers."""

    def __init__(self):
        super().__init__()
        self.calls, self.draws = 0, torch.Generator().manual_seed(0)
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        self.seen = self.seen + len(x)  # another tensor, not another value
        return x * torch.rand((), generator=self.draws)


def test_nothing_of_the_trainer_changes(small_npz):
    trainer = searcher(small_npz)
    operation = trainer.net.cells[0].edges[0].operations[3] = Counting()
    before = {name: value.clone() for name, value in trainer.net.state_dict().items()}
    random, own = torch.get_rng_state(), operation.draws.get_state()
    footprint(trainer, exact=True)
    trainer.refuse_single_values()
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(operation.draws.get_state(), own)
    assert operation.calls == 0
    assert all(torch.equal(before[name], value) for name, value in trainer.net.state_dict().items())
    assert all(parameter.grad is None for parameter in trainer.net.parameters())


def test_the_phase_that_takes_the_most_counts(small_npz):
    def found(**changes):
        config = tiny_retrain(small_npz, **changes)
        genotype = Genotype.load("FairDARTS_a")
        passes = footprint(RetrainTrainer(config, load_data(config), genotype, ALONE)).passes
        return passes.option, passes.images

    pretraining = {"pretrain_epochs": 1, "projector": [8]}
    assert found() == ("batch_size", 8)
    assert found(**pretraining, pretrain_batch_size=6) == ("pretrain_batch_size", 12)
    assert found(**pretraining, pretrain_batch_size=6, bt_mixup=1) == ("pretrain_batch_size", 18)
    # A frozen backbone keeps nothing.
    few = {"pretrain_batch_size": 2, "finetune": "classifier"}
    assert found(**pretraining, **few) == ("pretrain_batch_size", 4)


def limited(monkeypatch, free, total):
    limits = MemoryLimits(free, total, "this machine")
    monkeypatch.setattr(memory_check, "memory_limits", lambda device: limits)


def test_what_cannot_fit_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    data = write_npz(tmp_path / "d.npz", (600, 600))
    needed = footprint(searcher(data), exact=True)
    limited(monkeypatch, needed.fixed + 5 * (needed.expected - needed.fixed), 10 * needed.expected)
    with pytest.raises(RequestError) as refused:
        run_search(tiny_search(data, tmp_path / "run", batch_size=600))
    message = str(refused.value)
    assert message.startswith("--batch-size 600 with images of 8 x 8: a step keeps ")
    assert not (tmp_path / "run").exists()
    batch = int(re.search(r"--batch-size (\d+) would fit", message)[1])
    assert batch == pytest.approx(5 * 8, abs=1)
    said = []
    check_memory(searcher(data, batch_size=batch), said.append)
    assert said == []
    check_memory(searcher(data, batch_size=batch + 2), said.append)
    assert len(said) == 1


def test_what_is_not_free_is_warned_of(small_npz, monkeypatch):
    config, said = tiny_retrain(small_npz), []
    limited(monkeypatch, 1000.0, math.inf)
    genotype = Genotype.load("FairDARTS_a")
    check_memory(RetrainTrainer(config, load_data(config), genotype, ALONE), said.append)
    (line,) = said
    assert line.startswith("warning: --batch-size 8 with images of 8 x 8: a step takes about")
    assert "0.0 GiB of this machine are free: take a smaller --image-size" in line


def test_processes_of_a_machine_share_it(small_npz, monkeypatch):
    trainer = searcher(small_npz, batch_size=512)
    limited(monkeypatch, math.inf, 1.5 * footprint(trainer, exact=True).expected)
    check_memory(trainer, pytest.fail)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(RequestError, match=r"this machine has .*, which 2 processes share"):
        check_memory(trainer, pytest.fail)


class SecondProcess(World):
    """This process beside another, which votes for less memory than this one has."""

    others = (0, 0)

    def largest(self, *numbers):
        return [max(pair) for pair in zip(numbers, self.others, strict=True)]


def test_processes_agree_on_the_one_that_has_the_least(small_npz, monkeypatch):
    trainer, said = searcher(small_npz), []
    needed = footprint(trainer, exact=True)
    trainer.world = SecondProcess(rank=0, size=1, device=torch.device("cpu"))
    limited(monkeypatch, math.inf, math.inf)
    trainer.world.others = (-int(2 * needed.expected), -int(2 * needed.expected))
    check_memory(trainer, pytest.fail)
    trainer.world.others = (-int(needed.expected / 2), -int(2 * needed.expected))
    check_memory(trainer, said.append)
    assert len(said) == 1
    trainer.world.others = (-int(needed.least / 2),) * 2
    with pytest.raises(RequestError, match="a step keeps"):
        check_memory(trainer, pytest.fail)


def test_accumulated_views_count(small_npz):
    small, large = (footprint(searcher(small_npz, batch_size=size)) for size in (8, 16))
    added = large.expected - small.expected
    views = 2 * 2 * 3 * 8 * 8 * 4  # two streams of two views in float32
    assert small.views == views
    assert added == pytest.approx(8 * views + 1.1 * (large.least - small.least))
    assert dataclasses.replace(small, kept=0.0).fitting_batch(small.fixed + 10 * views) == 10


def test_what_large_images_keep_is_measured_on_smaller_ones(small_npz, monkeypatch):
    """Two of them may be more than there is; what is kept goes by the area."""
    trainer = searcher(small_npz, image_size=96)
    whole = footprint(trainer, exact=True).kept
    monkeypatch.setattr(memory_check, "_LARGEST_TRIED", 48)
    tried = []
    hook = trainer.net.register_forward_pre_hook(lambda _, given: tried.append(given[0].shape))
    assert footprint(trainer, exact=True).kept == pytest.approx(whole, rel=0.05)
    hook.remove()
    assert {tuple(shape[2:]) for shape in tried} == {(48, 48)}


def test_a_dry_run_tells_memory_and_tries_no_step_that_does_not_fit(small_npz, monkeypatch):
    limits = MemoryLimits(free=1000, total=2000, owner="this machine")
    monkeypatch.setattr(dry_run, "memory_limits", lambda device: limits)
    monkeypatch.setattr(dry_run, "time_of_step", lambda *_, **__: pytest.fail("a step was tried"))
    config = tiny_search(small_npz)
    data = load_data(config)
    said = dry_run.predict(lambda c, d: SearchTrainer(c, d, ALONE), config, data, 1)
    assert "memory       about" in said
    assert said.endswith("time         not measured: 2 images do not fit")
