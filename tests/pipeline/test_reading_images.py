"""How images are read goes with a run: range of deep pixels, files left out, who decodes."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
from image_files import striped_images, write_npz
from PIL import Image
from tiny_runs import tiny_retrain

from ssfnas import evaluate
from ssfnas.config import EvaluateConfig
from ssfnas.data.folder import read_folder
from ssfnas.data.loading import decoded_batches
from ssfnas.pipeline.retrain_run import run_retrain


def deep_npz(path, counts=(10, 7, 5), factor=16, **changes):
    """Stripes of 12 bits; the training part has the values 0 to 4080 at least at its ends."""
    write_npz(path, counts, channels=1)
    with np.load(path) as arrays:
        stored = {**arrays}
    for key in ("train_images", "test_images"):
        stored[key] = stored[key].astype(np.uint16) * factor
    np.savez(path, **{**stored, **changes})
    return path


def measured(run, name):
    result = json.loads((run.path / name).read_text())
    return result["last_epoch"]


def test_another_data_set_is_scaled_by_the_run_s_range(tmp_path, capsys):
    path = deep_npz(tmp_path / "scans.npz")
    with np.load(path) as arrays:
        train = arrays["train_images"]
    run = run_retrain(tiny_retrain(path, tmp_path / "run", epochs=1))
    assert run.data_card.pixel_range == (float(train.min()), float(train.max()))
    assert "the training part's own range" in (run.path / "log.txt").read_text()
    # The same test images beside training images of another range.
    wider = deep_npz(tmp_path / "wider.npz", train_images=train * 5)
    assert evaluate.main(["--run", str(run.path), "--dataset", str(wider)]) == 0
    assert measured(run, "evaluation-on-wider.json") == run.evaluation["last_epoch"]
    assert "the range of the run's training images" in capsys.readouterr().out
    shallow = write_npz(tmp_path / "shallow.npz", (10, 7, 5), channels=1)
    assert evaluate.main(["--run", str(run.path), "--dataset", str(shallow)]) == 0
    assert "warning: shallow has pixels of 8 bits" in capsys.readouterr().err


def test_files_that_were_left_out_are_in_the_log(tmp_path):
    root = tmp_path / "photos"
    labels = np.arange(2).repeat(6)
    for number, (label, pixels) in enumerate(
        zip(labels, striped_images(labels, 8, 3, 0), strict=True)
    ):
        path = root / f"class{label}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    bad = root / "class1" / "bad.png"
    bad.write_text("no image")
    run = run_retrain(tiny_retrain(root, tmp_path / "run", epochs=1, skip_corrupt=1))
    assert f"  {bad}" in (run.path / "log.txt").read_text()
    assert run.data_card.skipped == (str(bad),)
    assert run.config.skip_corrupt == 1
    # What is about folders does not stand in the way of another kind of data.
    other = write_npz(tmp_path / "other.npz", (4, 4))
    assert evaluate.main(["--run", str(run.path), "--dataset", str(other)]) == 0


def test_whatever_decodes_uses_as_many_processes_as_were_asked_for(tmp_path, monkeypatch):
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for number in range(6):
                place = tmp_path / "photos" / part / name / f"{number}.png"
                Image.new("RGB", (8, 8), (40 * number, 0, 0)).save(place)
    asked = []

    def decoded(*args, workers, **options):
        asked.append(workers)
        return decoded_batches(*args, workers=0, **options)

    monkeypatch.setattr("ssfnas.data.sources.read_folder", partial(read_folder, in_memory_bytes=0))
    monkeypatch.setattr("ssfnas.data.stream.decoded_batches", decoded)
    monkeypatch.setattr("ssfnas.evaluation.features.MOST_PIXELS", 64 * 4)
    config = tiny_retrain(tmp_path / "photos", tmp_path / "run", steps=1, workers=3)
    run_retrain(config)
    evaluate.evaluate(EvaluateConfig(run=str(tmp_path / "run"), device="cpu"))
    assert len(asked) >= 4  # of training, of its measurement, of both evaluations
    assert set(asked) == {3}
