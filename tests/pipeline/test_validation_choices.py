"""The validation part chooses, and the test part never does."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from image_files import striped_images, write_npz
from test_interrupted_runs import differences
from tiny_runs import tiny_retrain

from ssfnas import evaluate
from ssfnas.commandline import parse
from ssfnas.config import RetrainConfig
from ssfnas.data import load_data
from ssfnas.errors import RequestError
from ssfnas.evaluation.features import classifier_of
from ssfnas.evaluation.monitor import pooled_features
from ssfnas.evaluation.posthoc import adjust_logits, normalize_classifier
from ssfnas.evaluation.prediction import measure, predict
from ssfnas.evaluation.thresholds import f1_scores, macro_f1
from ssfnas.pipeline.retrain_run import run_retrain
from ssfnas.runs.checkpoints import CheckpointStore
from ssfnas.runs.data_card import DataCard
from ssfnas.runtime.distributed import World
from ssfnas.spaces import Genotype
from ssfnas.training.retrain_trainer import RetrainTrainer

CPU = torch.device("cpu")
ALONE = World(rank=0, size=1, device=CPU)
LEARNING = {"lr": 0.1, "augment": "none", "cutout": 0, "drop_path": 0.0}


def validation(each=6, classes=4, seed=5):
    labels = np.repeat(np.arange(classes), each)
    images = striped_images(labels, 8, 3, seed)
    return {"val_images": images, "val_labels": labels.astype(np.uint8)}


@pytest.fixture
def without_pages(monkeypatch):
    """Reports are pictures for seconds, which few tests look at."""
    monkeypatch.setattr("ssfnas.pipeline.retrain_run.report_html", lambda runs: "")


def trainer_of(config) -> RetrainTrainer:
    return RetrainTrainer(config, load_data(config), Genotype.load("FairDARTS_a"), ALONE)


def finish(trainer, log=None) -> RetrainTrainer:
    while not trainer.finished:
        trainer.run_step()
        if trainer.epoch_ended:
            values = trainer.end_epoch()
            if log is not None:
                log.append({"epoch": trainer.epoch, **values})
    return trainer


def test_the_epoch_is_chosen_on_validation_and_its_weights_are_kept(tmp_path, capsys):
    data = write_npz(tmp_path / "d.npz", (20, 16, 12, 8), **validation())
    changes = {**LEARNING, "epochs": 4, "ema": 0.5, "loss": "ce"}
    run = run_retrain(tiny_retrain(data, tmp_path / "run", **changes))
    result, parts = run.evaluation, load_data(run.config)
    choice = result["choices"]["epoch"]
    sides = {"model": "val", "ema": "val_ema"}
    values = {
        (line["epoch"], weights): line[f"{side}/balanced_accuracy"]
        for line in run.metrics
        for weights, side in sides.items()
    }
    assert choice["value"] == max(values.values())
    chosen = choice["chosen"]
    assert values[chosen["epoch"], chosen["weights"]] == choice["value"]
    net, card = run.network("best"), DataCard.of(parts)
    for part, expected in ((parts.validation, choice["value"]), (parts.test, None)):
        measured = measure(*predict(net, part, parts, device=CPU), card)
        if expected is None:
            assert measured == result["best"]
            assert choice["test"]["top1"] == measured["top1"]
        else:
            assert measured["balanced_accuracy"] == expected
    assert f"epoch: {chosen['epoch']} (of 4 measured)" in capsys.readouterr().out

    # Corrections: swept on the validation part, applied once to the test part.
    assert result["swept_on"] == "validation"
    last = run.network()
    logits, labels = predict(last, parts.validation, parts, device=CPU)
    tests, truth = predict(last, parts.test, parts, device=CPU)
    features = [
        pooled_features(last, p, parts, device=CPU)[0] for p in (parts.validation, parts.test)
    ]
    for name, on, off in (
        ("logit_adjustment", lambda tau: adjust_logits(logits, card.class_counts, tau),
         lambda tau: adjust_logits(tests, card.class_counts, tau)),
        ("tau_normalization",
         lambda tau: normalize_classifier(features[0], classifier_of(last), tau),
         lambda tau: normalize_classifier(features[1], classifier_of(last), tau)),
    ):  # fmt: skip
        choice = result["choices"][name]
        with torch.no_grad():
            swept = {
                tau: measure(on(tau), labels, card)["balanced_accuracy"] for tau in choice["among"]
            }
            given = measure(off(choice["chosen"]["tau"]), truth, card)
        assert choice["value"] == max(swept.values())
        assert swept[choice["chosen"]["tau"]] == choice["value"]
        assert choice["test"] == {k: v for k, v in given.items() if isinstance(v, float)}
        assert [row["balanced_accuracy"] for row in result["post_hoc"][name]] == [*swept.values()]

    # The best weights by themselves, and what was chosen applied to other data.
    words = ["--run", str(run.path), "--device", "cpu"]
    other = write_npz(tmp_path / "other.npz", (4, 4, 4, 4), seed=11, **validation(seed=12))
    assert evaluate.main([*words, "--which", "best", "--dataset", str(other)]) == 0
    assert "evaluate the run's own data with --which best first" in capsys.readouterr().err
    assert evaluate.main([*words, "--which", "best"]) == 0
    best = json.loads((run.path / "evaluation-best.json").read_text())
    assert best["last_epoch"] == result["best"]
    assert best["choices"]["epoch"]["chosen"] == chosen
    assert evaluate.main([*words, "--dataset", str(other)]) == 0
    apart = json.loads((run.path / "evaluation-on-other.json").read_text())
    assert set(apart["choices"]) == {"logit_adjustment", "tau_normalization"}
    assert "evaluate the run's own data" not in capsys.readouterr().err
    for name, choice in apart["choices"].items():
        assert choice["chosen"] == result["choices"][name]["chosen"]
        tau = choice["chosen"]["tau"]
        (row,) = [row for row in apart["post_hoc"][name] if row["tau"] == tau]
        assert choice["test"]["top1"] == row["top1"]


@pytest.mark.usefixtures("without_pages")
def test_the_test_part_chooses_nothing(tmp_path):
    """Test labels drawn at random change nothing but what the test part gives."""
    results = []
    for seed in (1, 2):
        labels = np.random.default_rng(seed).integers(0, 3, 12).astype(np.uint8)
        data = write_npz(tmp_path / "d.npz", (16, 12, 8), test_labels=labels)
        run = run_retrain(
            tiny_retrain(
                data, tmp_path / str(seed), **LEARNING, epochs=2, loss="ce", crt_epochs=1,
                crt_lr=[0.2, 0.01], validation_share=0.25, ema=0.5,
            )
        )  # fmt: skip
        choices = run.evaluation["choices"]
        assert {"epoch", "classifier"} <= set(choices)
        kept = [run.weights_file(which).read_bytes() for which in ("last", "best", "ema")]
        tests = [choice.pop("test") for choice in choices.values()]
        results.append((kept, choices, tests))
    assert results[0][:2] == results[1][:2]
    assert results[0][2] != results[1][2]


def test_the_classifier_that_validation_prefers_is_kept(tmp_path):
    """Rates one after the other give what each gives alone, from one backbone and one draw."""
    data = write_npz(tmp_path / "d.npz", (20, 16, 12, 8), **validation())
    changes = {**LEARNING, "epochs": 2, "crt_epochs": 2, "ema": 0.5}
    alone, values = {}, {}
    for rate in (0.3, 1e-5):
        log: list[dict] = []
        trainer = finish(trainer_of(tiny_retrain(data, **changes, crt_lr=[rate])), log)
        alone[rate] = {name: value.clone() for name, value in trainer.net.state_dict().items()}
        values[rate] = log[-1]["val/balanced_accuracy"]
        assert log[-1]["crt_lr"] == rate
    assert values[0.3] != values[1e-5]
    better = max(values, key=lambda rate: values[rate])
    for rates in ([0.3, 1e-5], [1e-5, 0.3]):
        log = []
        trainer = finish(trainer_of(tiny_retrain(data, **changes, crt_lr=rates)), log)
        assert differences(dict(trainer.net.state_dict()), alone[better]) == []
        assert len(log) == 6
        assert trainer.classifier.value == values[better]
    assert trainer.best.value == max(
        max(line["val/balanced_accuracy"], line["val_ema/balanced_accuracy"]) for line in log
    )


def test_a_better_first_stage_is_said_and_not_swapped(tmp_path, capsys):
    data = write_npz(tmp_path / "d.npz", (24, 20, 16), **validation(classes=3))
    changes = {**LEARNING, "epochs": 8, "channels": 8, "evaluate_every": 8}
    run = run_retrain(
        tiny_retrain(data, tmp_path / "run", **changes, crt_epochs=1, crt_lr=[1e-6], loss="ce")
    )
    choice = run.evaluation["choices"]["classifier"]
    assert choice["first_stage"] > choice["value"]
    assert "first stage's own classifier was better" in capsys.readouterr().out
    assert run.evaluation["last_epoch"]["top1"] == run.metrics[-1]["test/top1"]
    assert "first_stage" not in json.dumps(run.evaluation["choices"]["epoch"])
    assert run.evaluation["choices"]["epoch"]["chosen"]["phase"] == "train"
    page = (run.path / "report.html").read_text()
    assert "The classifier that was trained with the backbone was better" in page


def test_rates_are_given_in_one_word_or_several():
    for words in (["0.1,0.01"], ["0.1", "0.01"]):
        flags = ["--crt-epochs", "3", "--crt-lr", *words]
        assert parse(RetrainConfig, flags, "ssfnas.retrain", "").crt_lr == [0.1, 0.01]
    for flags, message in (
        (["--crt-lr", "0.1"], "--crt-lr has no effect with --crt-epochs 0"),
        (["--crt-epochs", "3", "--crt-lr", "0"], "a list such as 0.1,0.01, each a number, above 0"),
    ):
        with pytest.raises(RequestError, match=message):
            parse(RetrainConfig, flags, "ssfnas.retrain", "")


def test_several_rates_without_a_validation_part_are_refused(small_npz, tmp_path):
    config = tiny_retrain(small_npz, tmp_path / "run", crt_epochs=1, crt_lr=[0.1, 0.01])
    with pytest.raises(RequestError, match=r"--crt-lr 0\.1,0\.01: small has no validation part"):
        run_retrain(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("stop", [1, 5, 9, 13, 17])
def test_a_resumed_training_ends_with_the_same_best_weights(small_npz, tmp_path, stop):
    config = tiny_retrain(
        small_npz, **LEARNING, validation_share=0.25, epochs=2, crt_epochs=1, crt_lr=[0.2, 0.01],
        ema=0.5,
    )  # fmt: skip
    first = trainer_of(config)
    store = CheckpointStore(tmp_path)
    for _ in range(stop):
        if first.finished:
            break
        first.run_step()
        if first.epoch_ended:
            first.end_epoch()
    store.save(first.step, first.state_dict())
    second = trainer_of(config)
    second.load_state_dict(store.latest()[1])
    ended = [finish(trainer).state_dict() for trainer in (first, second)]
    assert ended[0]["best"]["weights"]["model"]
    assert differences(*ended) == []


def test_thresholds_of_several_labels_are_chosen_on_validation(tmp_path, capsys):
    draws = np.random.default_rng(0)
    labels = {
        part: (draws.random((count, 3)) < [0.5, 0.3, 0.2]).astype(np.uint8)
        for part, count in (("train", 40), ("val", 24), ("test", 24))
    }
    images = {
        f"{part}_images": striped_images(marked @ [1, 2, 4], 8, 3, seed)
        for seed, (part, marked) in enumerate(labels.items())
    }
    named = {f"{part}_labels": marked for part, marked in labels.items()}
    data = write_npz(tmp_path / "multi.npz", (40,), **{**images, **named})
    run = run_retrain(tiny_retrain(data, tmp_path / "run", **LEARNING, epochs=2))
    result, parts = run.evaluation, load_data(run.config)
    assert result["choices"]["epoch"]["by"] == "auc"
    choice = result["choices"]["thresholds"]
    cuts = torch.tensor(choice["chosen"]["probability"]).logit()
    for part, value in (("validation", choice["value"]), ("test", choice["test"]["macro_f1"])):
        logits, truth = predict(run.network(), getattr(parts, part), parts, device=CPU)
        assert macro_f1(logits > cuts, truth) == pytest.approx(value, abs=1e-12)
    assert choice["value"] > macro_f1(
        predict(run.network(), parts.validation, parts, device=CPU)[0] > 0,
        parts.validation.labels,
    )
    # Of the test part, by label: at even odds and at the thresholds that were chosen.
    logits, truth = predict(run.network(), parts.test, parts, device=CPU)
    assert result["last_epoch"]["per_class_f1"] == f1_scores(logits > 0, truth)
    assert choice["per_class_f1"] == pytest.approx(f1_scores(logits > cuts, truth), abs=1e-12)
    evaluated = (run.path / "evaluation.json").read_text()
    capsys.readouterr()
    assert evaluate.main(["--run", str(run.path), "--device", "cpu"]) == 0
    assert json.loads((run.path / "evaluation.json").read_text()) == json.loads(evaluated)
    printed = " ".join(capsys.readouterr().out.split())
    last = result["last_epoch"]
    words = ["per_class_average_precision", "per_class_auc", "per_class_f1"]
    of_first = [last[key][0] for key in words] + [choice["per_class_f1"][0]]
    shares = " ".join(f"{100 * value:.2f} %" for value in of_first)
    assert f"{parts.class_names[0]} {shares}" in printed
    assert f"mAP {100 * last['mean_average_precision']:.2f} %" in printed


def test_best_weights_need_a_validation_part(small_npz, tmp_path):
    run = run_retrain(tiny_retrain(small_npz, tmp_path / "run", steps=1))
    with pytest.raises(RequestError, match="no best weights, as one without a validation part"):
        run.network("best")
