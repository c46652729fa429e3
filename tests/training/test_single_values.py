"""What leaves a normalization one value a channel is refused when a trainer is built."""

from __future__ import annotations

import pytest
import torch
from image_files import write_npz
from tiny_runs import tiny_retrain, tiny_search

from ssfnas.data import load_data
from ssfnas.errors import RequestError
from ssfnas.pipeline.search_run import run_search
from ssfnas.runtime.distributed import World
from ssfnas.spaces import (
    DerivedNetwork,
    Genotype,
    ReferenceDerivedNetwork,
    ReferenceSupernet,
    Supernet,
)
from ssfnas.training.random_trainer import RandomSearchTrainer
from ssfnas.training.retrain_trainer import RetrainTrainer
from ssfnas.training.search_trainer import SearchTrainer

ALONE = World(rank=0, size=1, device=torch.device("cpu"), group=None)
REFUSED = r"^--batch-size 1 with images of 4 x 4 pixels .*use larger batches, or larger images"


def search(file, strategy, **changes):
    config = tiny_search(
        file, strategy=strategy, objective="supervised", knn=False,
        samples=3, steps=3, **changes,
    )  # fmt: skip
    make = RandomSearchTrainer if strategy == "random" else SearchTrainer
    return make(config, load_data(config), ALONE)


@pytest.mark.parametrize("supernet", ["fast", "reference"])
@pytest.mark.parametrize("strategy", ["darts", "random"])
def test_one_small_image_a_batch_is_refused(tmp_path, strategy, supernet):
    file = write_npz(tmp_path / "tiny.npz", (12, 6), size=4)
    changes = {"supernet": supernet} if strategy == "darts" else {}
    with pytest.raises(RequestError, match=REFUSED):
        search(file, strategy, batch_size=1, **changes)
    for size, batch_size in ((4, 2), (8, 1)):
        file = write_npz(tmp_path / f"{size}.npz", (12, 6), size=size)
        trainer = search(file, strategy, batch_size=batch_size, **changes)
        trainer.run_step()
        assert trainer.step == 1


def test_nothing_is_written(tmp_path):
    file = write_npz(tmp_path / "tiny.npz", (12, 6), size=4)
    config = tiny_search(file, tmp_path / "run", objective="supervised", batch_size=1)
    with pytest.raises(RequestError, match=REFUSED):
        run_search(config)
    assert not (tmp_path / "run").exists()


INSTANCE_NORM = """
from torch import nn
from ssfnas.layers.operations import register_operation

@register_operation("instance_norm_of_a_trial")
def make(channels, stride, affine):
    return nn.Sequential(nn.AvgPool2d(3, stride, padding=1), nn.InstanceNorm2d(channels))
"""


def test_one_value_of_an_image_is_refused_whatever_the_batch(tmp_path):
    (tmp_path / "plugin.py").write_text(INSTANCE_NORM)
    config = tiny_search(
        write_npz(tmp_path / "tiny.npz", (12, 6), size=4),
        tmp_path / "run",
        objective="supervised",
        batch_size=4,
        operations=["instance_norm_of_a_trial", "skip_connect"],
        plugins=[str(tmp_path / "plugin.py")],
    )
    with pytest.raises(
        RequestError, match=r"^--batch-size 4 with images of 4 x 4 pixels .*spatial"
    ):
        run_search(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model", ["derived", "timm:test_resnet"])
def test_a_trial_leaves_no_trace(small_npz, tmp_path, model):
    config = tiny_retrain(small_npz, model=model)
    derived = model == "derived"
    config.genotype = "FairDARTS_a" if derived else None
    genotype = Genotype.load("FairDARTS_a") if derived else None
    trainer = RetrainTrainer(config, load_data(config), genotype, ALONE)
    before = {name: value.clone() for name, value in trainer.net.state_dict().items()}
    with trainer.trial() as net:
        net(torch.ones(2, trainer.data.in_channels, *trainer.data.image_size))
    assert trainer.net.training
    assert all(torch.equal(v, before[name]) for name, v in trainer.net.state_dict().items())
    assert int(trainer.net.state_dict()[next(n for n in before if "num_batches" in n)]) == 0
    tiny = write_npz(tmp_path / "tiny.npz", (12, 6), size=4)
    config.dataset, config.batch_size = str(tiny), 1
    with pytest.raises(RequestError, match=REFUSED):
        RetrainTrainer(config, load_data(config), genotype, ALONE)


def outcome(net, x):
    try:
        net(x)
    except ValueError as error:
        return str(error)[:40]
    return None


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("images", [1, 2])
def test_fast_networks_refuse_what_the_references_refuse(images, size):
    x = torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(0))
    genotype = Genotype.load("DARTS_V2")
    pairs = [
        (
            kind(genotype, 2, channels=4, layers=3)
            for kind in (DerivedNetwork, ReferenceDerivedNetwork)
        ),
        (kind(2, channels=4, layers=3, nodes=2) for kind in (Supernet, ReferenceSupernet)),
    ]
    for fast, reference in pairs:
        fast.load_state_dict(reference.state_dict())
        assert outcome(fast, x) == outcome(reference, x)
        assert outcome(fast.eval(), x) is outcome(reference.eval(), x) is None
        for name, value in fast.state_dict().items():
            assert value.isfinite().all(), name
