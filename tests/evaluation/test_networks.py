"""What is put on a network's features, and what older files hold in its place."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_runs import tiny_retrain
from torch import nn
from torch.nn import functional as F

from ssfnas.data import load_data
from ssfnas.errors import RequestError
from ssfnas.evaluation.features import pooled
from ssfnas.evaluation.networks import build_network
from ssfnas.evaluation.prediction import measure, predict
from ssfnas.pipeline.retrain_run import run_retrain
from ssfnas.pipeline.run import load
from ssfnas.runs.checkpoints import CheckpointStore
from ssfnas.runtime.distributed import World
from ssfnas.spaces import Genotype
from ssfnas.training.loop import resume
from ssfnas.training.retrain_trainer import RetrainTrainer

CPU = torch.device("cpu")
LINEAR = "auxiliary_head.classifier.bias"


def test_whoever_sees_a_network_of_cosines_sees_their_scale(small_npz, tmp_path):
    config = tiny_retrain(small_npz, tmp_path / "run", loss="ldam", scale=16.0, crt_epochs=1)
    run = run_retrain(config)
    data = load_data(run.config)
    net = load(run.path).network()
    logits, labels = predict(net, data.test, data, device=CPU)
    features, _ = predict(Pooled(net), data.test, data, device=CPU)
    vectors = net.get_classifier().weight
    cosines = F.cosine_similarity(features[:, None], vectors[None], dim=2).detach()
    torch.testing.assert_close(logits, 16 * cosines)
    found = run.evaluation["last_epoch"]
    assert found["ece"] == pytest.approx(measure(16 * cosines, labels, run.data_card)["ece"])
    assert found["ece"] != pytest.approx(measure(cosines, labels, run.data_card)["ece"], abs=1e-3)


class Pooled(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return pooled(self.net, x)


@pytest.mark.parametrize("model", ["derived", "timm:resnet10t"])
def test_every_head_of_a_network_of_cosines_is_one(model):
    genotype = Genotype.load("FairDARTS_a") if model == "derived" else None
    config = tiny_retrain("none", loss="ldam", scale=700.0, auxiliary=0.4, model=model)
    config.genotype = "FairDARTS_a" if model == "derived" else None
    net = build_network(config, genotype, num_classes=3, in_channels=3, image_size=(16, 16))
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    output = net.train()(x)
    heads = output if isinstance(output, tuple) else (output,)
    assert len(heads) == (2 if model == "derived" else 1)
    for logits in heads:
        assert 1 < float(logits.detach().abs().max()) <= 700  # cosines alone reach 1
    again = build_network(config, genotype, num_classes=3, in_channels=3, image_size=(16, 16))
    for value, other in zip(net.parameters(), again.parameters(), strict=True):
        assert torch.equal(value, other)


def with_linear_auxiliary_head(state):
    """As it was before auxiliary heads were of cosines."""
    return {**state, LINEAR: torch.zeros(4)}


def test_weights_beside_a_linear_auxiliary_head_are_read(small_npz, tmp_path):
    run = run_retrain(tiny_retrain(small_npz, tmp_path / "run", loss="ldam", auxiliary=0.4))
    file = run.path / "model.safetensors"
    weights = load_file(file)
    save_file(with_linear_auxiliary_head(weights), file)
    net = load(run.path).network()
    assert net.auxiliary_head is None
    assert all(torch.equal(value, weights[name]) for name, value in net.state_dict().items())
    save_file({**weights, "another": torch.zeros(4)}, file)
    with pytest.raises(RequestError, match="another network's"):
        load(run.path).network()


def test_a_training_that_another_version_began_is_refused_in_one_line(small_npz, tmp_path):
    config = tiny_retrain(small_npz, loss="ldam", auxiliary=0.4)
    world = World(rank=0, size=1, device=CPU, group=None)

    def make():
        return RetrainTrainer(config, load_data(config), Genotype.load("FairDARTS_a"), world)

    store, trainer = CheckpointStore(tmp_path), make()
    state = trainer.state_dict()
    store.save(3, state)
    assert resume(trainer, store, None)
    store.save(5, {**state, "net": with_linear_auxiliary_head(state["net"])})
    with pytest.raises(RequestError, match=r"step 5 .* version .*classifier\.bias.*--overwrite$"):
        resume(make(), store, None)
    store.save(7, {name: value for name, value in state.items() if name != "phases"})
    with pytest.raises(RequestError, match=r"^the checkpoint of step 7 .*'phases'"):
        resume(make(), store, None)
