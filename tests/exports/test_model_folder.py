"""Networks as folders that timm, the Hub and ssfnas load."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import timm
import torch
from exported_networks import NAMES, card, network
from torch import nn

import ssfnas
import ssfnas.timm_models
from ssfnas.config import RetrainConfig
from ssfnas.errors import RequestError
from ssfnas.evaluation.networks import build_network
from ssfnas.exports.architecture import ARCHITECTURE, describe
from ssfnas.exports.model_folder import ModelFolder
from ssfnas.exports.pretrained import PretrainedNetwork


def images(channels: int = 3) -> torch.Tensor:
    return torch.randn(5, channels, 12, 8, generator=torch.Generator().manual_seed(1))


def write(folder, net: nn.Module, config: RetrainConfig, channels: int = 3):
    architecture, arguments = describe(net, config, channels, (12, 8))
    ModelFolder.of(net, architecture, arguments, card(channels=channels)).write(folder)
    return folder


@pytest.fixture
def config() -> RetrainConfig:
    return RetrainConfig(channels=4, layers=3)


@pytest.fixture
def folder(tmp_path, config):
    return write(tmp_path / "a network", network(), config)


def by_timm(folder, **changes) -> nn.Module:
    return timm.create_model(f"local-dir:{folder}", pretrained=True, **changes).eval()


@pytest.mark.parametrize("cosines", [False, True])
def test_three_loaders_give_the_same_bits(tmp_path, config, cosines):
    net = network(cosines=cosines)
    folder = write(tmp_path / "folder", net, config)
    expected = net(images())
    loaded = ssfnas.load(folder)
    assert isinstance(loaded, PretrainedNetwork)
    for other in (by_timm(folder), loaded.network(), PretrainedNetwork.from_pretrained(folder)):
        assert torch.equal(other(images()), expected)
        assert not other.training
    assert loaded.class_names == NAMES
    assert loaded.card == card()


def test_timm_finds_what_it_asks_of_its_own_models(folder):
    net = by_timm(folder)
    cfg = timm.data.resolve_model_data_config(net)
    assert cfg["input_size"] == (3, 12, 8)
    assert (tuple(cfg["mean"]), tuple(cfg["std"])) == ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    assert (cfg["interpolation"], cfg["crop_pct"], cfg["crop_mode"]) == ("bilinear", 1.0, "center")
    assert tuple(net.pretrained_cfg["label_names"]) == NAMES
    features = net.forward_features(images())
    assert features.shape[:2] == (5, net.num_features)
    pooled = net.forward_head(features, pre_logits=True)
    assert pooled.shape == (5, net.head_hidden_size)
    assert torch.equal(net.get_classifier()(pooled), net(images()))


@pytest.mark.parametrize("cosines", [False, True])
def test_a_network_for_other_classes_keeps_its_features(tmp_path, config, cosines):
    net = network(cosines=cosines)
    folder = write(tmp_path / "folder", net, config)
    features = net.forward_head(net.forward_features(images()), pre_logits=True)
    tuned = by_timm(folder, num_classes=7)
    assert tuned(images()).shape == (5, 7)
    assert torch.equal(
        tuned.forward_head(tuned.forward_features(images()), pre_logits=True), features
    )
    bare = by_timm(folder, num_classes=0)
    assert bare.num_classes == 0
    assert torch.equal(bare(images()), features)
    tuned.reset_classifier(2)
    assert (tuned.num_classes, tuned(images()).shape) == (2, (5, 2))
    tuned.reset_classifier(0)
    assert torch.equal(tuned(images()), features)


def test_timm_adapts_the_first_convolution_to_other_channels(folder):
    gray = by_timm(folder, in_chans=1)
    torch.testing.assert_close(gray.stem[0].weight, network().stem[0].weight.sum(1, keepdim=True))
    assert gray(images(1)).shape == (5, 3)


def test_dropout_that_would_do_nothing_is_refused(folder):
    by_timm(folder, drop_rate=0.0)
    with pytest.raises(RequestError, match="set_drop_path"):
        by_timm(folder, drop_path_rate=0.1)


def test_a_folder_is_saved_again_with_what_was_trained_since(folder, tmp_path):
    net = PretrainedNetwork.from_pretrained(folder)
    with torch.no_grad():
        net.net.classifier.bias.add_(1)
    net.save_pretrained(tmp_path / "copy")
    again = PretrainedNetwork.from_pretrained(tmp_path / "copy")
    assert torch.equal(again(images()), net(images()))
    assert not torch.equal(again(images()), network()(images()))
    assert (tmp_path / "copy" / "README.md").is_file()
    assert (folder / "config.json").read_bytes() == (tmp_path / "copy/config.json").read_bytes()
    net.net.reset_classifier(5)
    with pytest.raises(RequestError, match="5 outputs"):
        net.save_pretrained(tmp_path / "other")


@pytest.mark.parametrize("loss", ["ce", "ldam"])
def test_a_baseline_loads_without_ssfnas_unless_its_classifier_is_ours(tmp_path, loss):
    config = RetrainConfig(model="timm:resnet10t.c3_in1k", loss=loss)
    net = build_network(config, None, num_classes=3, in_channels=3, image_size=(12, 8)).eval()
    folder = write(tmp_path / "folder", net, config)
    assert torch.equal(by_timm(folder)(images()), net(images()))
    assert torch.equal(ssfnas.load(folder).network()(images()), net(images()))
    tuned = by_timm(folder, num_classes=7)
    assert tuned(images()).shape == (5, 7)
    assert torch.equal(tuned.conv1[0].weight, net.conv1[0].weight)
    name = json.loads((folder / "config.json").read_text())["architecture"]
    assert name == ("resnet10t" if loss == "ce" else ARCHITECTURE)
    if loss == "ldam":
        return
    code = (
        "import sys; sys.modules['ssfnas'] = None; import timm, torch\n"
        f"net = timm.create_model('local-dir:{folder}', pretrained=True).eval()\n"
        "x = torch.randn(5, 3, 12, 8, generator=torch.Generator().manual_seed(1))\n"
        "print(net(x).double().sum().item())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == net(images()).double().sum().item()


def test_a_model_that_takes_its_size_gets_it_again(tmp_path):
    config = RetrainConfig(model="timm:vit_tiny_patch16_224")
    net = build_network(config, None, num_classes=3, in_channels=3, image_size=(32, 16)).eval()
    architecture, arguments = describe(net, config, 3, (32, 16))
    assert arguments["img_size"] == (32, 16)
    ModelFolder.of(net, architecture, arguments, card(size=(32, 16))).write(tmp_path)
    x = torch.randn(2, 3, 32, 16, generator=torch.Generator().manual_seed(1))
    assert torch.equal(by_timm(tmp_path)(x), net(x))


def test_what_is_wrong_with_a_folder_is_one_line(folder):
    file = folder / "config.json"
    written = file.read_text(encoding="utf-8")
    values = json.loads(written)

    def refused(text: str, match: str) -> None:
        file.write_text(text, encoding="utf-8")
        with pytest.raises(RequestError, match=match) as error:
            ssfnas.load(folder).network()
        assert "\n" not in str(error.value)

    refused("{", r"config\.json cannot be used")
    refused("[]", r"config\.json cannot be used")
    refused(json.dumps({"architecture": "resnet18"}), "not of a network of ssfnas")
    refused(json.dumps({**values, "ssfnas": {}}), "does not hold data")
    unknown = {**values["model_args"]["genotype"], "normal": [["conv_of_mine", 0, 2]]}
    arguments = {**values["model_args"], "genotype": unknown}
    refused(json.dumps({**values, "model_args": arguments}), "conv_of_mine.*import that file")
    other = {**values["model_args"], "channels": 8}
    refused(json.dumps({**values, "model_args": other}), "another network's")
    file.write_text(written, encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(RequestError, match=r"model\.safetensors is damaged"):
        ssfnas.load(folder)
