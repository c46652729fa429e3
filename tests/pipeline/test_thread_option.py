"""``--threads`` is what a command computes with, and what its run says of it."""

from __future__ import annotations

import pytest
import torch
import yaml

from ssfnas import evaluate, retrain, search
from ssfnas.pipeline import evaluation, session

SMALL = ["--channels", "2", "--layers", "3", "--batch-size", "8", "--steps", "1", "--device", "cpu"]


@pytest.fixture
def seen(monkeypatch):
    """Threads that torch has while it trains and while it predicts."""
    numbers = []

    def looking_at(module, name):
        function = getattr(module, name)

        def look(*given, **named):
            numbers.append(torch.get_num_threads())
            return function(*given, **named)

        monkeypatch.setattr(module, name, look)

    looking_at(session, "train")
    looking_at(evaluation, "predict_with_features")
    return numbers


def test_search(small_npz, tmp_path, seen, capsys):
    before = torch.get_num_threads()
    words = ["--dataset", str(small_npz), "--out", str(tmp_path / "run"), *SMALL]
    words += ["--nodes", "2", "--projector", "8,8", "--derive", "darts", "--threads", "3"]
    assert search.main(words) == 0
    assert seen == [3]
    assert torch.get_num_threads() == before
    written = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (written["threads"], written["environment"]["threads"]) == (3, 3)
    assert search.main(["--out", str(tmp_path / "run"), "--resume", "--threads", "2"]) == 0
    assert seen == [3, 2]
    assert "(threads 3 -> 2)" in capsys.readouterr().err


def test_retrain_and_evaluate(small_npz, tmp_path, seen):
    words = ["--dataset", str(small_npz), "--out", str(tmp_path / "run"), *SMALL]
    assert retrain.main([*words, "--genotype", "FairDARTS_a", "--threads", "3"]) == 0
    assert set(seen) == {3}
    seen.clear()
    assert evaluate.main(["--run", str(tmp_path / "run"), "--threads", "2"]) == 0
    assert seen == [2]


def test_less_than_one_is_refused(capsys):
    assert search.main(["--threads", "0"]) == 2
    assert "--threads 0: expected a whole number, at least 1" in capsys.readouterr().err
