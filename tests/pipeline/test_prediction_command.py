"""A trained network on new images: what it says is what an evaluation measured."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import striped_images, write_npz, write_png
from PIL import Image
from tiny_runs import tiny_retrain, tiny_search

import ssfnas
from ssfnas import evaluate, predict
from ssfnas.pipeline.retrain_run import run_retrain
from ssfnas.pipeline.search_run import run_search

CLASSES = ("cat", "<b>dog & co", "mouse\nor rat")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on striped images of three classes with a validation part, and its data."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_npz(
        folder / "data.npz", (40, 20, 10), size=12, test_each=12, class_names=np.array(CLASSES)
    )
    run = run_retrain(
        tiny_retrain(data, folder / "run", epochs=6, validation_share=0.3, loss="ce", ema=0.5)
    )
    return run, data


@pytest.fixture(scope="module")
def labeled(tmp_path_factory):
    """A run on images with several labels and a validation part, and its data."""
    folder = tmp_path_factory.mktemp("labeled")
    draws = np.random.default_rng(0)
    parts = {"train": 40, "val": 20, "test": 30}
    arrays = {}
    for number, (part, size) in enumerate(parts.items()):
        labels = draws.integers(0, 2, (size, 3)).astype(np.uint8)
        arrays[f"{part}_labels"] = labels
        arrays[f"{part}_images"] = striped_images(labels @ [1, 2, 3], 8, 3, number)
    np.savez(folder / "data.npz", **arrays, class_names=np.array(["x", "y", "z"]))
    run = run_retrain(tiny_retrain(folder / "data.npz", folder / "run", loss="ce"))
    return run, folder / "data.npz"


@pytest.fixture
def photos(tmp_path):
    """A folder of images of several kinds and names."""
    folder = tmp_path / "photos"
    folder.mkdir()
    draws = np.random.default_rng(3)
    names = ["b.png", "a b.png", 'c\n"d",e.png', os.fsdecode(b"\xfe.png"), "ü😀.png"]
    for number, name in enumerate(names):
        shape = (20 + number, 30, 3 if number % 2 else 1)
        pixels = draws.integers(0, 256, shape).astype(np.uint8)
        write_png(tmp_path / "made.png", pixels).rename(folder / name)
    return folder, names


def words(run, *others) -> list[str]:
    return ["--run", str(run.path), "--device", "cpu", "--workers", "0", *map(str, others)]


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


def refused(capsys, *given: str) -> str:
    assert predict.main([str(word) for word in given]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if ": warning: " not in line]
    assert line.startswith("ssfnas.predict: error: ")
    return line


class TestAgainstTheEvaluation:
    """What an evaluation measured follows from what a prediction writes."""

    @pytest.mark.parametrize("which", ["last", "best", "ema"])
    def test_the_accuracy_of_the_file_is_the_measured_one(self, trained, tmp_path, which):
        run, data = trained
        assert evaluate.main(["--run", str(run.path), "--which", which, "--device", "cpu"]) == 0
        out = tmp_path / "out.csv"
        assert predict.main(words(run, data, "--out", out, "--which", which)) == 0
        with np.load(data) as arrays:
            labels = [CLASSES[label] for label in arrays["test_labels"]]
        rows = rows_of(out)
        assert [row["index"] for row in rows] == [str(number) for number in range(36)]
        right = np.mean([row["class"] == label for row, label in zip(rows, labels, strict=True)])
        name = "evaluation.json" if which == "last" else f"evaluation-{which}.json"
        assert run.read_json(name)["last_epoch"]["top1"] == right

    def test_probabilities_are_the_softmax_of_the_logits(self, trained):
        run, data = trained
        with np.load(data) as arrays:
            images = arrays["test_images"]
        card = run.data_card
        x = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 255
        center, scale = torch.tensor([card.mean, card.std], dtype=torch.float64)[..., None, None]
        with torch.no_grad():
            logits = run.network().double()((x - center) / scale)
        expected = logits.exp() / logits.exp().sum(1, keepdim=True)
        result = run.predict(images, device="cpu")
        assert result.class_names == CLASSES
        assert result.probabilities.dtype == torch.float64
        assert torch.allclose(result.probabilities, expected, rtol=0, atol=1e-5)
        assert torch.equal(result.decided, expected == expected.amax(1, keepdim=True))
        assert result.classes == [CLASSES[number] for number in expected.argmax(1)]

    def test_no_batch_decides_what_an_image_is(self, trained):
        run, data = trained
        together = run.predict(data, device="cpu")
        one_by_one = run.predict(data, device="cpu", batch_size=1)
        odd = run.predict(data, device="cpu", batch_size=7)
        assert together.names == one_by_one.names == odd.names
        for other in (one_by_one, odd):
            assert torch.allclose(together.probabilities, other.probabilities, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("name", ["logit_adjustment", "tau_normalization"])
    def test_corrections_are_those_that_the_evaluation_chose(self, trained, tmp_path, name, capsys):
        run, data = trained
        assert evaluate.main(["--run", str(run.path), "--device", "cpu"]) == 0
        choice = run.read_json("evaluation.json")["choices"][name]
        capsys.readouterr()
        out = tmp_path / "out.json"
        assert predict.main(words(run, data, "--correction", name, "--out", out)) == 0
        tau = choice["chosen"]["tau"]
        assert f"with tau {tau:g}, which the validation part chose" in capsys.readouterr().out
        written = json.loads(out.read_text())
        assert written["correction"] == {"name": name, "tau": tau, "chosen_on": "validation"}
        with np.load(data) as arrays:
            labels = [CLASSES[label] for label in arrays["test_labels"]]
        found = [row["class"] for row in written["predictions"]]
        right = np.mean([one == label for one, label in zip(found, labels, strict=True)])
        assert choice["test"]["top1"] == right

    def test_a_stronger_correction_moves_the_predictions(self, trained, tmp_path):
        run, data = trained
        measured = run.read_json("evaluation.json")
        changed = json.loads(json.dumps(measured))
        changed["choices"]["logit_adjustment"]["chosen"]["tau"] = 1000.0
        out = tmp_path / "out.csv"
        try:
            run.directory.write_json("evaluation.json", changed)
            assert predict.main(words(run, data, "--correction", "logit_adjustment",
                                      "--out", out)) == 0  # fmt: skip
        finally:
            run.directory.write_json("evaluation.json", measured)
        assert {row["class"] for row in rows_of(out)} == {CLASSES[2]}  # the rarest

    def test_several_labels_are_decided_at_the_chosen_thresholds(self, labeled, tmp_path, capsys):
        run, data = labeled
        out = tmp_path / "out.json"
        assert predict.main(words(run, data, "--out", out)) == 0
        assert "at the probabilities that the validation part chose" in capsys.readouterr().out
        choice = run.read_json("evaluation.json")["choices"]["thresholds"]
        written = json.loads(out.read_text())
        assert written["thresholds"] == pytest.approx(choice["chosen"]["probability"])
        with np.load(data) as arrays:
            labels = arrays["test_labels"]
        names = written["class_names"]
        decided = [[name in row["classes"] for name in names] for row in written["predictions"]]
        assert np.mean(np.array(decided) == labels) == pytest.approx(choice["test"]["accuracy"])
        for row in written["predictions"]:
            pairs = zip(names, row["probabilities"], written["thresholds"], strict=True)
            assert row["classes"] == [name for name, value, least in pairs if value > least]
        assert predict.main(words(run, data, "--out", tmp_path / "out.csv")) == 0
        table = rows_of(tmp_path / "out.csv")
        assert list(table[0]) == [
            "file",
            "index",
            "classes",
            *(f"probability of {n}" for n in names),
        ]
        assert [row["classes"] for row in table] == [
            " | ".join(row["classes"]) for row in written["predictions"]
        ]

    def test_without_chosen_thresholds_they_are_half(self, labeled, tmp_path, capsys):
        run, data = labeled
        measured = run.read_json("evaluation.json")
        without = {**measured, "choices": {}}
        try:
            run.directory.write_json("evaluation.json", without)
            result = run.predict(data, device="cpu")
            assert predict.main(words(run, data)) == 0
        finally:
            run.directory.write_json("evaluation.json", measured)
        assert "at a probability of 50 %" in capsys.readouterr().out
        assert torch.equal(result.decided, result.probabilities > 0.5)


class TestFiles:
    """CSV and JSON hold every image, in order, whatever it is called."""

    def test_names_survive(self, trained, photos, tmp_path):
        run, _ = trained
        folder, names = photos
        given = [str(folder / name) for name in names]
        assert predict.main(words(run, *given, "--out", tmp_path / "o.csv")) == 0
        assert [row["file"] for row in rows_of(tmp_path / "o.csv")] == given
        assert predict.main(words(run, *given, "--out", tmp_path / "o.json")) == 0
        written = json.loads((tmp_path / "o.json").read_text(encoding="ascii"))
        assert [row["file"] for row in written["predictions"]] == given
        assert written["class_names"] == list(CLASSES)
        assert sum(written["counts"].values()) == written["images"] == 5

    def test_the_most_probable_classes_in_order(self, trained, photos, tmp_path):
        run, _ = trained
        out = tmp_path / "o.csv"
        assert predict.main(words(run, photos[0], "--top-k", "3", "--out", out)) == 0
        probable = run.predict(photos[0], device="cpu").probabilities
        for row, values in zip(rows_of(out), probable, strict=True):
            order = values.argsort(descending=True).tolist()
            assert [row["class"], row["class 2"], row["class 3"]] == [CLASSES[n] for n in order]
            told = [float(row[key]) for key in ("probability", "probability 2", "probability 3")]
            assert told == pytest.approx(values[order].tolist(), rel=1e-6)

    def test_files_that_cannot_be_read(self, trained, photos, tmp_path, capsys):
        run, _ = trained
        bad = photos[0] / "bb.png"
        bad.write_bytes(b"no image")
        out = tmp_path / "o.csv"
        assert "--skip-corrupt" in refused(capsys, *words(run, photos[0], "--out", out))
        assert os.listdir(tmp_path) == ["photos"]  # nothing, and no part of it
        more = ["--skip-corrupt", "1", "--report", tmp_path / "p.html"]
        assert predict.main(words(run, photos[0], "--out", out, *more)) == 0
        rows = rows_of(out)
        assert [row["file"] for row in rows if not row["class"]] == [str(bad)]
        assert len(rows) == 6
        assert "1 of 6 images could not be read" in capsys.readouterr().out
        assert "bb.png: cannot be decoded" in (tmp_path / "p.html").read_text()
        assert predict.main(words(run, photos[0], "--out", tmp_path / "o.json", *more)) == 0
        entries = json.loads((tmp_path / "o.json").read_text())["predictions"]
        (entry,) = [entry for entry in entries if entry["class"] is None]
        assert str(bad) in entry["problem"]
        (photos[0] / "cc.png").write_bytes(b"nor this")
        line = refused(capsys, *words(run, photos[0], "--skip-corrupt", "1"))
        assert "more than --skip-corrupt 1" in line

    def test_the_screen_shows_the_first_and_counts_all(self, trained, capsys):
        run, data = trained
        assert predict.main(words(run, data, "--part", "train")) == 0
        lines = capsys.readouterr().out.splitlines()
        assert sum(re.search(r"\.npz\[\d+\] ", line) is not None for line in lines) == 20
        assert "... and 50 more: --out FILE.csv or FILE.json writes all" in lines
        (counts,) = [line for line in lines if line.startswith("70 images, by class: ")]
        # A name with a line break stays on its line.
        assert sum(int(part.rsplit(": ", 1)[1]) for part in counts.split(", ")[1:] if ": " in part)
        assert all("mouse\\nor rat" in line for line in lines if "mouse" in line)


class TestPage:
    """``--report`` shows images and names."""

    def test_it_shows_every_class_that_was_found(self, trained, tmp_path, capsys):
        run, data = trained
        assert predict.main([*words(run, "--report"), str(data)]) == 0
        file = run.path / "predictions.html"
        assert str(file) in capsys.readouterr().out
        page = file.read_text()
        assert page.count("<img ") >= 24
        assert "<b>dog" not in page
        found = set(run.predict(data, device="cpu").classes)
        assert "Never predicted" in page or found == set(CLASSES)
        assert f"{len(found)} of 3" in page

    def test_several_labels(self, labeled, tmp_path):
        run, data = labeled
        page = tmp_path / "p.html"
        assert predict.main(words(run, data, "--report", page)) == 0
        assert "threshold" in page.read_text()


class TestFromPython:
    def test_a_path_an_image_and_an_array(self, trained, photos):
        run, _ = trained
        path = photos[0] / "b.png"
        image = Image.open(path)
        results = [
            ssfnas.load(run.path).predict(given, device="cpu").probabilities
            for given in (path, [str(path)], image, np.asarray(image)[None])
        ]
        assert all(torch.equal(one, results[0]) for one in results)
        assert results[0].shape == (1, 3)

    def test_it_says_what_was_done(self, trained, photos):
        result = trained[0].predict(photos[0], device="cpu", workers=2)
        assert result.notes == (
            "all images: resized to 12 x 12 pixels, and cut around the middle where too long",
            "3 of the images: gray, for a network that takes RGB: the same value in each channel",
        )
        assert len(result) == 5


class TestRequests:
    """Wrong ones are one line, and leave nothing."""

    @pytest.mark.parametrize(
        ("more", "expected"),
        [
            (["--top-k", "4"], "--top-k 4: the network tells 3 classes apart"),
            (["--part", "val"], "no val_images"),
            (["--out", "no/such/folder/o.csv"], "cannot write no/such/folder/o.csv"),
            (["--precision", "fp16"], "--precision fp16 needs a GPU"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_of_values(self, trained, capsys, more, expected):
        run, data = trained
        assert expected in refused(capsys, *words(run, data, *more))

    def test_of_a_search(self, small_npz, tmp_path, capsys):
        run = run_search(tiny_search(small_npz, tmp_path / "s", epochs=1))
        capsys.readouterr()
        line = refused(capsys, *words(run, small_npz))
        assert "is a search" in line
        assert "python -m ssfnas.retrain" in line
        assert f"--genotype {run.path}" in line

    @pytest.mark.parametrize("more", [["--top-k", "2"], ["--correction", "logit_adjustment"]])
    def test_of_what_several_labels_do_not_have(self, labeled, capsys, more):
        run, data = labeled
        assert "has no effect on multi-label data" in refused(capsys, *words(run, data, *more))

    def test_of_a_correction_that_nobody_chose(self, trained, capsys):
        run, data = trained
        measured = run.read_json("evaluation.json")
        asked = words(run, data, "--correction", "logit_adjustment")
        try:
            run.directory.write_json("evaluation.json", {**measured, "choices": {}})
            assert "no validation part" in refused(capsys, *asked)
            os.remove(run.path / "evaluation.json")
            assert "ssfnas.evaluate --run" in refused(capsys, *asked)
        finally:
            run.directory.write_json("evaluation.json", measured)

    def test_a_damaged_network_is_no_prediction(self, trained, tmp_path, monkeypatch, capsys):
        run, data = trained
        made = type(run).network

        def damaged(self, which="last"):
            net = made(self, which)
            with torch.no_grad():
                net.get_classifier().weight.fill_(float("nan"))
            return net

        monkeypatch.setattr(type(run), "network", damaged)
        assert predict.main(words(run, data, "--out", tmp_path / "o.csv")) == 1
        assert "no finite numbers" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())


def test_an_unfinished_training_says_how_it_goes_on(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("command: retrain\nenvironment: {}\n")
    line = refused(capsys, "--run", tmp_path, tmp_path)
    assert f"python -m ssfnas.retrain --out {tmp_path} --resume" in line
