"""What a run says while it trains: the same measures on screen, in log.txt and in metrics.jsonl."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal

import pytest
from image_files import write_npz
from tiny_runs import tiny_retrain, tiny_search

from ssfnas.pipeline.retrain_run import run_retrain
from ssfnas.pipeline.search_run import run_search
from ssfnas.runtime.interruption import AFTER_THE_LOOP, IN_THE_LOOP, Interrupted
from ssfnas.training.retrain_trainer import RetrainTrainer
from ssfnas.training.search_trainer import SearchTrainer


@pytest.fixture(autouse=True)
def without_pages(monkeypatch):
    """Reports are pictures for seconds, which nobody looks at here."""
    for module in ("retrain_run", "search_run"):
        monkeypatch.setattr(f"ssfnas.pipeline.{module}.report_html", lambda runs: "")


def epoch_lines(path) -> list[str]:
    """The lines of a log that are about an epoch or a network, without the time of day."""
    lines = [line[21:] for line in (path / "log.txt").read_text().splitlines()]
    return [line for line in lines if " loss " in line or "  loss" in line]


def logged(path) -> list[dict]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_a_search_has_a_line_an_epoch(small_npz, tmp_path, capsys):
    run = run_search(tiny_search(small_npz, tmp_path / "run", knn_every=2))
    lines, entries = epoch_lines(run.path), logged(run.path)
    assert [line.partition("  ")[0] for line in lines] == ["epoch 1 of 2", "epoch 2 of 2"]
    for line, entry in zip(lines, entries, strict=True):
        assert f"  loss (weights' step) {entry['weight/loss']:.4g}" in line
    assert "nearest neighbors" not in lines[0]
    assert (
        f"nearest neighbors, balanced accuracy {100 * entries[1]['knn/balanced']:.2f} %" in lines[1]
    )
    shown = capsys.readouterr().err.splitlines()
    assert [line for line in shown if "epoch 2 of 2" in line and lines[1].split("  ", 1)[1] in line]


def test_a_random_search_has_a_line_a_network(small_npz, tmp_path):
    config = tiny_search(small_npz, tmp_path / "run", strategy="random", samples=2, steps=2)
    run = run_search(config)
    lines, scores = epoch_lines(run.path), [entry["score"] for entry in logged(run.path)]
    assert [line.partition("  ")[0] for line in lines] == ["network 1 of 2", "network 2 of 2"]
    assert f"  loss on held-out images {scores[1]:.4g}" in lines[1]
    assert f"  lowest loss on held-out images {min(scores):.4g}" in lines[1]


def test_a_retraining_names_its_phases_and_what_chooses(tmp_path):
    data = write_npz(tmp_path / "data.npz", (16, 12, 8, 4), seed=3)
    config = tiny_retrain(
        data, tmp_path / "run", validation_share=0.3, pretrain_epochs=1, pretrain_batch_size=8,
        projector=[8], epochs=2, evaluate_every=2, crt_epochs=1, crt_lr=[0.1, 0.01],
    )  # fmt: skip
    run = run_retrain(config)
    lines, entries = epoch_lines(run.path), logged(run.path)
    assert [line.partition("  ")[0] for line in lines] == [
        "pre-training, epoch 1 of 1", "labels, epoch 1 of 2", "labels, epoch 2 of 2",
        "classifier 1 of 2, epoch 1 of 1", "classifier 2 of 2, epoch 1 of 1",
    ]  # fmt: skip
    assert "accuracy (validation)" not in lines[1]
    values = [entry.get("val/balanced_accuracy") for entry in entries]
    for line, value in zip(lines, values, strict=True):
        if value is not None:
            assert f"  balanced accuracy (validation) {100 * value:.2f} %" in line
    best = max(value for value in values if value is not None)
    assert f"  balanced accuracy (validation, best so far) {100 * best:.2f} %" in lines[-1]
    assert not re.search(r"loss \(training\)", lines[-1])  # of a phase that is over


def interrupting(monkeypatch, method: str) -> None:
    """Have a signal come in the middle of a method of a retraining."""
    done = getattr(RetrainTrainer, method)

    def interrupted(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return done(self)

    monkeypatch.setattr(RetrainTrainer, method, interrupted)


def test_a_signal_in_a_step_is_answered_before_the_step_ends(
    small_npz, tmp_path, monkeypatch, capfd
):
    interrupting(monkeypatch, "_run_step")
    with pytest.raises(Interrupted, match="state saved after step 1 "):
        run_retrain(tiny_retrain(small_npz, tmp_path / "run"))
    assert f"{IN_THE_LOOP}; Ctrl-C once more stops at once" in capfd.readouterr().err


def test_a_signal_after_the_last_step_is_told_that_nothing_is_lost(
    small_npz, tmp_path, monkeypatch, capfd
):
    def interrupted(runs):
        os.kill(os.getpid(), signal.SIGTERM)
        return ""

    monkeypatch.setattr("ssfnas.pipeline.retrain_run.report_html", interrupted)
    run = run_retrain(tiny_retrain(small_npz, tmp_path / "run", steps=1))
    assert (run.path / "report.html").exists()
    assert AFTER_THE_LOOP in capfd.readouterr().err


def test_a_second_interruption_says_which_state_there_is(small_npz, tmp_path, monkeypatch):
    """It comes in the middle of a step: what was saved before is gone on with."""
    run_step = SearchTrainer.run_step

    def stopped_in_the_third(trainer):
        if trainer.step == 2:
            raise KeyboardInterrupt
        run_step(trainer)

    monkeypatch.setattr(SearchTrainer, "run_step", stopped_in_the_third)
    config = tiny_search(small_npz, tmp_path / "run", knn=False)
    with pytest.raises(Interrupted, match=r"last state is that of step 0; go on with: .* --resume"):
        run_search(config)
    monkeypatch.undo()
    assert run_search(dataclasses.replace(config, resume=True)).finished
