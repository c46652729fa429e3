"""Whole retrainings, from a genotype to evaluated weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from image_files import write_npz
from tiny_runs import tiny_retrain, tiny_search

from ssfnas import evaluate, retrain
from ssfnas.commandline import parse
from ssfnas.config import RetrainConfig
from ssfnas.data import load_data
from ssfnas.errors import RequestError
from ssfnas.evaluation.features import classifier_of
from ssfnas.evaluation.prediction import measure, predict
from ssfnas.pipeline.retrain_run import run_retrain
from ssfnas.pipeline.run import load
from ssfnas.pipeline.search_run import run_search
from ssfnas.runs.data_card import DataCard
from ssfnas.runtime.distributed import World
from ssfnas.spaces import Genotype, count_parameters
from ssfnas.training.retrain_trainer import RetrainTrainer

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def test_a_search_is_retrained_evaluated_and_loaded(small_npz, tmp_path):
    found = run_search(tiny_search(small_npz, tmp_path / "search"))
    run = run_retrain(
        tiny_retrain(small_npz, tmp_path / "run", genotype=str(found.path), auxiliary=0.4)
    )
    names = {path.name for path in run.path.iterdir()}
    assert {"model.safetensors", "evaluation.json", "genotype.json", "report.html"} <= names
    assert run.genotype == found.genotype
    result = run.evaluation
    data = load_data(run.config)
    net = load(run.path).network()
    logits, labels = predict(net, data.test, data, device=torch.device("cpu"))
    assert result["last_epoch"] == measure(logits, labels, DataCard.of(data))
    assert result["last_epoch"]["top1"] == run.metrics[-1]["test/top1"]
    assert result["choices"] == {}
    assert "best" not in result
    assert not (run.path / "model_best.safetensors").exists()
    assert result["parameters"] == count_parameters(net, auxiliary=False)
    assert set(result["post_hoc"]) == {"logit_adjustment", "tau_normalization"}
    assert "twice" in result["post_hoc"]["logit_adjustment"]["left_out"]


def test_the_network_learns_what_can_be_learned(tmp_path):
    """Stripes of four classes at ratio 4: far above chance after some epochs, tail class too."""
    data = write_npz(tmp_path / "d.npz", (64, 40, 25, 16), size=12, test_each=20)
    run = run_retrain(
        tiny_retrain(
            data, tmp_path / "run", epochs=12, batch_size=16, channels=8, lr=0.05, augment="none",
            cutout=0, drop_path=0.0,
        )
    )  # fmt: skip
    assert run.evaluation["last_epoch"]["balanced_accuracy"] > 0.7


@pytest.mark.parametrize("loss", ["ce", "logit-adjusted", "focal", "class-balanced", "ldam"])
def test_every_loss_trains(small_npz, tmp_path, loss):
    run = run_retrain(tiny_retrain(small_npz, tmp_path / "run", loss=loss, epochs=1, mixup=0.4))
    assert np.isfinite(run.metrics[-1]["train/loss"])
    swept = run.evaluation["post_hoc"]["logit_adjustment"]
    assert isinstance(swept, list) == (loss in ("ce", "focal"))


def test_pretraining_then_a_classifier_alone_leaves_the_backbone_as_it_was(small_npz, tmp_path):
    config = tiny_retrain(
        small_npz, tmp_path / "run", pretrain_epochs=1, pretrain_batch_size=8, projector=[8, 8],
        finetune="classifier", bt_mixup=4.0,
    )  # fmt: skip
    trainer = RetrainTrainer(config, load_data(config), Genotype.load("FairDARTS_a"), ALONE)
    start = {name: value.clone() for name, value in trainer.net.state_dict().items()}
    while trainer.step < trainer.phases[0].total_steps:
        trainer.run_step()
    pretrained = {name: value.clone() for name, value in trainer.net.state_dict().items()}
    assert any(not torch.equal(start[name], pretrained[name]) for name in start)
    while not trainer.finished:
        trainer.run_step()
    head = {f"classifier.{name}" for name in classifier_of(trainer.net).state_dict()}
    for name, value in trainer.net.state_dict().items():
        assert torch.equal(value, pretrained[name]) == (name not in head), name


def test_classifier_retraining_starts_anew_on_a_frozen_backbone(small_npz, tmp_path):
    config = tiny_retrain(small_npz, tmp_path / "run", crt_epochs=1, epochs=1)
    trainer = RetrainTrainer(config, load_data(config), Genotype.load("FairDARTS_a"), ALONE)
    while trainer.step < trainer.phases[0].total_steps:
        trainer.run_step()
    before = {name: value.clone() for name, value in trainer.net.state_dict().items()}
    trainer.phases[1].begin()
    assert not torch.equal(classifier_of(trainer.net).weight, before["classifier.weight"])
    trainer.run_step()
    for name, value in trainer.net.state_dict().items():
        if not name.startswith("classifier."):
            assert torch.equal(value, before[name]), name
    assert trainer.phases[1].stream.next().labels.ndim == 1


def test_the_moving_average_of_the_weights_is_their_exponential_mean(small_npz, tmp_path):
    config = tiny_retrain(small_npz, tmp_path / "run", ema=0.75, epochs=1)
    trainer = RetrainTrainer(config, load_data(config), Genotype.load("FairDARTS_a"), ALONE)
    expected = None
    while not trainer.finished:
        trainer.run_step()
        weight = trainer.net.get_classifier().weight.detach().double()
        decay = min(0.75, 1 - trainer.step ** (-2 / 3))
        expected = weight if expected is None else decay * expected + (1 - decay) * weight
    kept = trainer.average.module.get_classifier().weight
    torch.testing.assert_close(kept.double(), expected, rtol=1e-6, atol=1e-7)
    trainer_again = run_retrain(tiny_retrain(small_npz, tmp_path / "run", ema=0.75, epochs=1))
    assert "ema" in trainer_again.evaluation
    torch.testing.assert_close(
        load(tmp_path / "run").network("ema").get_classifier().weight, kept, rtol=0, atol=0
    )


def test_a_timm_model_is_a_baseline(small_npz, tmp_path):
    run = run_retrain(
        tiny_retrain(small_npz, tmp_path / "run", genotype=None, model="timm:resnet10t", epochs=1)
    )
    assert run.evaluation["parameters"] > 1e6
    assert not (run.path / "genotype.json").exists()
    assert load(run.path).network()(torch.zeros(1, 3, 8, 8)).shape == (1, 4)


def test_multi_label_data_train_with_binary_cross_entropy_and_report_auc(tmp_path, capsys):
    draws = np.random.default_rng(0)
    data = write_npz(
        tmp_path / "multi.npz",
        (24,),
        train_labels=draws.integers(0, 2, (24, 3)).astype(np.uint8),
        test_labels=np.array([[0, 1, 0], [1, 0, 1], [1, 1, 0], [0, 0, 1]], np.uint8),
    )
    run = run_retrain(tiny_retrain(data, tmp_path / "run", epochs=1))
    assert 0 <= run.evaluation["last_epoch"]["auc"] <= 1
    assert "post_hoc" not in run.evaluation
    for name, value in (
        ("mixup", 0.5), ("loss", "focal"), ("loss", "ldam"), ("tau", 2.0), ("crt_epochs", 1),
        ("sampling_exponent", 0.5), ("label_smoothing", 0.1),
    ):  # fmt: skip
        with pytest.raises(RequestError, match=f"--{name.replace('_', '-')} .*multi-label"):
            run_retrain(tiny_retrain(data, tmp_path / "other", **{name: value}))
    assert not (tmp_path / "other").exists()
    words = ["--run", str(run.path), "--device", "cpu"]
    before = (run.path / "evaluation.json").read_bytes()
    for flag in ("--probe", "--thirds"):
        capsys.readouterr()
        assert evaluate.main([*words, flag]) == 2
        said = capsys.readouterr().err
        assert f"{flag} has no effect on multi-label data: leave it out" in said
    assert (run.path / "evaluation.json").read_bytes() == before
    preset = parse(RetrainConfig, ["--preset", "darts-retrain"], "ssfnas.retrain", "")
    assert run_retrain(tiny_retrain(data, dry_run=True, loss=preset.loss)) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, r"RetrainConfig: epochs: 0: expected a whole number, at least 1"),
        ({"genotype": 3}, r"RetrainConfig: genotype: 3: expected a text"),
        ({"loss": "mse"}, r"unknown loss 'mse'"),
        ({"augment": "flip"}, r"unknown .*'flip'"),
    ],
    ids=["epochs", "genotype", "loss", "augment"],
)
def test_wrong_values_from_python_are_refused_before_anything_is_loaded(tmp_path, changes, message):
    with pytest.raises(RequestError, match=message):
        run_retrain(tiny_retrain(tmp_path / "absent.npz", tmp_path / "run", **changes))
    assert list(tmp_path.iterdir()) == []


def test_logit_adjustment_corrects_for_what_is_drawn(small_npz, tmp_path):
    """Class-balanced sampling leaves nothing to adjust for; both together would correct twice."""
    config = tiny_retrain(small_npz, tmp_path / "run", sampling_exponent=0.0)
    trainer = RetrainTrainer(config, load_data(config), Genotype.load("FairDARTS_a"), ALONE)
    prior = trainer.phases[0].criterion.log_prior
    torch.testing.assert_close(prior, torch.full_like(prior, 1 / 4).log())


def test_evaluate_measures_again_with_probes_and_on_other_data(small_npz, tmp_path, capsys):
    run = run_retrain(tiny_retrain(small_npz, tmp_path / "run", imbalance_ratio=8, loss="ce"))
    before = run.evaluation
    assert evaluate.main(["--run", str(run.path), "--probe", "--thirds", "--device", "cpu"]) == 0
    after = json.loads((run.path / "evaluation.json").read_text())
    assert after["last_epoch"]["top1"] == before["last_epoch"]["top1"]
    assert {"many", "medium", "few"} <= set(after["last_epoch"]["groups"])
    assert after["probe"]["balanced"]["training_images"] == 4 * 4
    assert after["post_hoc"]["logit_adjustment"][0]["top1"] == before["last_epoch"]["top1"]
    printed = " ".join(capsys.readouterr().out.split())
    accuracy = f"top-1 accuracy {100 * after['last_epoch']['top1']:.2f} %"
    assert f"last epoch {accuracy}, balanced accuracy" in printed  # of the retraining
    assert printed.count(accuracy) >= 2  # and of its evaluation
    adjusted, balanced = after["post_hoc"]["logit_adjustment"][-1], after["probe"]["balanced"]
    for label, values in (("2", adjusted), ("balanced (16 images)", balanced)):
        shares = [values[name] for name in ("top1", "balanced_accuracy", "worst_class")]
        assert " ".join([label, *(f"{100 * share:.2f} %" for share in shares)]) in printed
    assert (
        "without its bias (test part; chooses nothing): tau top-1 accuracy balanced accuracy"
        in printed
    )
    other = write_npz(tmp_path / "other.npz", (3, 3, 3, 3), seed=9)
    stamp = (run.path / "evaluation.json").read_bytes()
    assert evaluate.main(["--run", str(run.path), "--dataset", str(other)]) == 0
    assert (run.path / "evaluation.json").read_bytes() == stamp
    (tmp_path / "more").mkdir()
    namesake = write_npz(tmp_path / "more" / "other.npz", (4, 4, 4, 4), seed=10)
    assert evaluate.main(["--run", str(run.path), "--dataset", str(namesake)]) == 0
    for name, data in (("other", other), ("other-2", namesake)):
        apart = json.loads((run.path / f"evaluation-on-{name}.json").read_text())
        assert apart["data"]["path"] == str(data)
        assert apart["choices"] == {}
    fewer = write_npz(tmp_path / "fewer.npz", (3, 3))
    assert evaluate.main(["--run", str(run.path), "--dataset", str(fewer)]) == 2


def test_evaluate_loses_nothing_that_was_measured_before(small_npz, tmp_path, capsys):
    run = run_retrain(tiny_retrain(small_npz, tmp_path / "run", ema=0.75, epochs=1))
    words = ["--run", str(run.path), "--device", "cpu"]
    assert evaluate.main([*words, "--probe"]) == 0
    probed = load(run.path).evaluation
    page = (run.path / "report.html").read_bytes()
    assert evaluate.main(words) == 0
    assert load(run.path).evaluation == probed
    assert (run.path / "report.html").read_bytes() == page
    printed = capsys.readouterr().out
    assert "post-hoc logit adjustment: left out, trained with --loss logit-adjusted" in printed
    assert evaluate.main([*words, "--which", "ema"]) == 0
    assert load(run.path).evaluation == probed
    averaged = json.loads((run.path / "evaluation-ema.json").read_text())
    assert (averaged["weights"], averaged["last_epoch"]) == ("ema", probed["ema"])


def test_a_damaged_or_foreign_weight_file_is_refused(small_npz, tmp_path):
    run = run_retrain(tiny_retrain(small_npz, tmp_path / "run", epochs=1))
    file = run.path / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(RequestError, match=r"model\.safetensors"):
        load(run.path).network()
    file.unlink()
    with pytest.raises(RequestError, match="is missing: though the run has finished"):
        load(run.path).network()


def test_a_cutout_that_can_blank_an_image_is_refused_and_a_large_one_said(
    small_npz, tmp_path, capsys
):
    for cutout, line in ((None, "cutout       4 pixels"), (4, None), (5, "cutout       5 pixels")):
        run_retrain(tiny_retrain(small_npz, dry_run=True, cutout=cutout))
        printed = capsys.readouterr().out
        assert "cutout" not in printed if line is None else line in printed
    with pytest.raises(RequestError, match=r"--cutout 8 can blank whole images of 8 x 8 .*use 4"):
        run_retrain(tiny_retrain(small_npz, tmp_path / "run", cutout=8))
    assert not (tmp_path / "run").exists()


def test_a_dry_run_measures_mixed_images_whatever_its_small_epochs(small_npz, capsys):
    # Two epochs of the run's batches, and less than one of the small ones that are measured.
    changes = {"mixup": 0.2, "mixup_off_epochs": 1, "batch_size": 40, "steps": 2}
    assert run_retrain(tiny_retrain(small_npz, dry_run=True, **changes)) is None
    assert "steps        2\n" in capsys.readouterr().out


def test_a_baseline_leaves_the_genotype_of_a_file_alone(small_npz, tmp_path, capsys):
    (tmp_path / "derived.yaml").write_text(f"dataset: {small_npz}\ngenotype: FairDARTS_a\n")
    words = ["--config", str(tmp_path / "derived.yaml"), "--model", "timm:test_resnet"]
    words += ["--steps", "1", "--batch-size", "8", "--device", "cpu"]
    assert retrain.main([*words, "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr().err
    assert "genotype FairDARTS_a has no effect with --model timm:test_resnet" in said
    assert load(tmp_path / "run").config.genotype is None
    assert retrain.main([*words, "--genotype", "DARTS_V2"]) == 2
