"""Searches of images above 64 pixels: at which resolution, and what follows from it."""

from __future__ import annotations

import os
import shlex
import signal

import numpy as np
import pytest
from tiny_runs import tiny_search

from ssfnas import derive
from ssfnas.commandline import parse
from ssfnas.config import RetrainConfig, SearchConfig
from ssfnas.pipeline.run import load
from ssfnas.pipeline.search_run import run_search
from ssfnas.runtime.interruption import Interrupted
from ssfnas.training.search_trainer import SearchTrainer


def large_npz(path, height, width, counts=(6, 4)):
    draws = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(counts)), counts).astype(np.uint8)
    images = draws.integers(0, 256, (len(labels), height, width, 3), dtype=np.uint8)
    np.savez(path, train_images=images, train_labels=labels, test_images=images, test_labels=labels)
    return path


def tiny(data, out=None, **changes):
    settings = {"steps": 1, "batch_size": 4, "layers": 1, "nodes": 1, "objective": "supervised"}
    return tiny_search(data, out, **{**settings, "knn": False, **changes})


def line_of(text, beginning):
    (line,) = [line for line in text.splitlines() if line.startswith(beginning)]
    return line


@pytest.mark.parametrize(
    ("height", "width", "said"),
    [
        (224, 224, "224 x 224 are searched at 80 x 80: --image-size 224 takes them as they are"),
        (
            90,
            120,
            "120 x 90 are searched at 80 x 80, the middle square of each: --image-size 90 takes "
            "that square as it is",
        ),
    ],
    ids=["square", "not square"],
)
@pytest.mark.parametrize("strategy", ["darts", "random"])
def test_larger_images_are_searched_at_80_pixels(tmp_path, capsys, height, width, said, strategy):
    data = large_npz(tmp_path / "d.npz", height, width)
    samples = {"samples": 1} if strategy == "random" else {}
    config = tiny(data, tmp_path / "run", dry_run=True, strategy=strategy, **samples)
    run_search(config)
    assert f"images of {said}" in capsys.readouterr().out.splitlines()
    assert config.image_size == 80


@pytest.mark.parametrize("image_size", [80, 120])
def test_a_size_that_is_asked_for_is_taken(tmp_path, capsys, image_size):
    data = large_npz(tmp_path / "d.npz", 120, 120)
    config = tiny(data, tmp_path / "run", dry_run=True, image_size=image_size)
    run_search(config)
    assert "are searched at" not in capsys.readouterr().out
    assert config.image_size == image_size


def test_the_resolution_is_kept_by_resuming_and_is_not_that_of_the_retraining(
    tmp_path, monkeypatch, capsys
):
    data, out = large_npz(tmp_path / "d.npz", 90, 100), str(tmp_path / "run")
    # Pictures for seconds, which nothing here looks at.
    for module in ("pictures", "pipeline.search_run"):
        monkeypatch.setattr(f"ssfnas.{module}.report_html", lambda runs: "")
    monkeypatch.setattr("ssfnas.pipeline.search_run.save_figure", lambda figure, path: None)
    step = SearchTrainer.run_step

    def interrupted(self):
        step(self)
        os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(SearchTrainer, "run_step", interrupted)
        with pytest.raises(Interrupted, match="state saved after step 1"):
            run_search(tiny(data, out, steps=2))
    config = parse(SearchConfig, ["--out", out, "--resume"], "ssfnas.search", "")
    assert config.image_size == 80
    capsys.readouterr()
    run_search(config)
    words = shlex.split(line_of(capsys.readouterr().out, "next "))[4:]
    # The size was the search's own choice: the network is trained on the images as they are.
    assert parse(RetrainConfig, words, "ssfnas.retrain", "").image_size is None
    card = load(out).data_card
    assert (card.image_size, card.original_size) == ((80, 80), (90, 100))
    # So are the multiply-adds counted, which go with the pixels.
    words = ["--run", out, "--derive", "darts", "--channels", "1", "--layers", "1"]
    adds = []
    for size in ((90, 100), None):
        if size is None:
            values = {**card.to_dict(), "original_size": None}
            load(out).directory.write_json("data.json", values)
        assert derive.main(words) == 0
        adds.append(float(line_of(capsys.readouterr().out, "network").split()[3]))
    assert adds[0] / adds[1] == pytest.approx(90 * 100 / 80**2, abs=0.2)
