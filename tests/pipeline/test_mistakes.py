import json

import numpy as np
import torch
from image_files import write_npz
from tiny_runs import tiny_retrain

from ssfnas import evaluate
from ssfnas.data import load_data
from ssfnas.evaluation.prediction import predict
from ssfnas.pipeline.mistakes import mistake_arrays
from ssfnas.pipeline.retrain_run import run_retrain

CPU = torch.device("cpu")


def test_mistakes_are_those_of_the_network_that_was_trained(small_npz, tmp_path):
    run = run_retrain(tiny_retrain(small_npz, tmp_path / "run", epochs=1))
    data = load_data(run.config)
    logits, labels = predict(run.network(), data.test, data, device=CPU)
    probabilities = logits.double().softmax(1)
    confidence, predicted = probabilities.max(1)
    wrong = (predicted != labels).nonzero()[:, 0].tolist()
    found = run.mistakes
    assert found["positions"].tolist() == sorted(wrong, key=lambda i: -float(confidence[i]))
    at = found["positions"]
    np.testing.assert_array_equal(found["images"], data.test.images.numpy()[at])
    assert found["labels"].tolist() == labels[at].tolist()
    assert found["predicted"].tolist() == predicted[at].tolist()
    np.testing.assert_allclose(found["scores"], confidence[at], rtol=1e-5)
    expected = probabilities[at, labels[at]]
    np.testing.assert_allclose(found["label_scores"], expected, rtol=1e-5)
    counts = np.array(run.evaluation["confusions"]["counts"])
    assert counts.sum() - np.trace(counts) == len(wrong)
    assert np.trace(counts) / counts.sum() == run.evaluation["last_epoch"]["top1"]
    # A row of the matrix is a line of the file.
    text = (run.path / "evaluation.json").read_text()
    assert f"\n      {json.dumps(counts[0].tolist())}" in text


def test_evaluating_writes_mistakes_of_the_last_weights_on_the_runs_own_data(small_npz, tmp_path):
    run = run_retrain(tiny_retrain(small_npz, tmp_path / "run", epochs=1, ema=0.9))
    file = run.path / "mistakes.npz"
    before = run.mistakes
    file.unlink()
    other = write_npz(tmp_path / "other.npz", (4, 4, 4, 4), seed=9)
    for arguments in (["--which", "ema"], ["--dataset", str(other)]):
        assert evaluate.main(["--run", str(run.path), *arguments]) == 0
        assert not file.exists()
    assert "confusions" in run.read_json("evaluation-on-other.json")
    assert evaluate.main(["--run", str(run.path)]) == 0
    again = run.read_npz("mistakes.npz")
    assert before.keys() == again.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(again[name], array)


def test_labels_are_decided_at_the_thresholds_that_were_chosen(tmp_path):
    random = np.random.default_rng(0)
    labels = (random.random((40, 3)) < 0.3).astype(np.uint8)
    data = write_npz(
        tmp_path / "d.npz", (40,), test_each=40,
        train_labels=labels, test_labels=labels, val_labels=labels,
        val_images=random.integers(0, 255, (40, 8, 8, 3), dtype=np.uint8),
    )  # fmt: skip
    run = run_retrain(tiny_retrain(data, tmp_path / "run", epochs=1))
    found = run.mistakes
    chosen = run.evaluation["choices"]["thresholds"]["chosen"]["probability"]
    np.testing.assert_allclose(found["thresholds"], chosen, rtol=1e-5)
    assert "confusions" not in run.evaluation
    wrong = (found["scores"] > found["thresholds"]) != (found["labels"] > 0.5)
    never = ~((found["scores"] > found["thresholds"]) & (found["labels"] > 0.5)).any(0)
    assert (wrong.any(1) | (found["labels"][:, never] > 0.5).any(1)).all()


def test_nothing_is_kept_where_nothing_is_wrong(small_npz, tmp_path):
    config = tiny_retrain(small_npz)
    test = load_data(config).test
    logits = torch.eye(4)[test.labels] * 10
    assert mistake_arrays(test, logits, test.labels) == {}
