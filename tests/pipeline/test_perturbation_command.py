"""``derive --derive perturbation`` on finished searches: measured, stopped, gone on with."""

from __future__ import annotations

import json
import os
import shutil
import signal

import pytest
import torch
from image_files import write_npz
from tiny_runs import tiny_search

from ssfnas import derive
from ssfnas.layers.cells import cell_edges
from ssfnas.pipeline.search_run import run_search
from ssfnas.spaces import Genotype
from ssfnas.training.supernet_measure import SupernetMeasure

NAMES = ["none", "skip_connect", "sep_conv_3x3", "max_pool_3x3"]
TITLE = "perturbation-measure-balanced_accuracy-measure-images-8"
TOTAL = 2 * (5 * 3 + 3)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")
    data = write_npz(folder / "small.npz", (16, 12, 8, 4))
    run_search(tiny_search(data, folder / "run", objective="supervised", operations=NAMES))
    return folder / "run"


@pytest.fixture
def run(searched, tmp_path):
    return shutil.copytree(searched, tmp_path / "run")


def words(run, *more):
    common = ["--run", str(run), "--derive", "perturbation", "--measure-images", "8"]
    return [*common, "--device", "cpu", "--threads", "1", *more]


def refused(capsys, *line):
    capsys.readouterr()
    assert derive.main(list(line)) == 2
    (text,) = capsys.readouterr().err.splitlines()
    return text


class Counted:
    """Counts measurements, gives what they are to find, and interrupts where that is asked for."""

    def __init__(self, monkeypatch):
        self.asked, self.stop_at, self.kind = 0, None, None
        measure = SupernetMeasure.__call__

        def call(own, tables):
            self.asked += 1
            self.kind = own._kind
            if self.asked == self.stop_at:
                os.kill(os.getpid(), signal.SIGINT)
            measure(own, tables)
            # Without an edge from state 1, or a pool, least is left.
            pools, first = tables["normal"][:, 3], tables["normal"][[1, 3]]
            return float(pools.sum() + 10 * first.sum() + tables["reduce"][:, 1].sum())

        monkeypatch.setattr(SupernetMeasure, "__call__", call)


def test_a_genotype_is_selected_and_said_to_be(run, capsys, monkeypatch):
    counted = Counted(monkeypatch)
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert derive.main(words(run)) == 0
    assert counted.asked == TOTAL
    assert counted.kind == "balanced_accuracy"
    folder = run / "derived" / TITLE
    printed = capsys.readouterr().out
    assert "measured by  balanced accuracy on 8 images; 36 measurements" in printed
    assert f"written      {folder / 'genotype.json'}\n" in printed
    genotype = Genotype.load(str(folder))
    pool, skip = "max_pool_3x3", "skip_connect"
    # Edges from state 1 count most; of equal ones the first stays.
    assert genotype.normal == ((pool, 0, 2), (pool, 1, 2), (pool, 0, 3), (pool, 1, 3))
    assert {name for name, _, _ in genotype.reduce} == {skip}
    assert json.loads((folder / "derivation.json").read_text()) == {
        "derive": "perturbation",
        "measure": "balanced_accuracy",
        "measure_images": 8,
        "epoch": 2,
    }
    assert {path: path.read_bytes() for path in before} == before
    state = json.loads((folder / "perturbation.json").read_text())
    assert [len(entry["measured"]) for entry in state["decisions"]] == [3] * 12
    assert {tuple(d["edge"]) for d in state["decisions"][:10]} == set(cell_edges(2))
    # A limit comes after it: nothing is measured again.
    assert derive.main(words(run, "--max-params", "9000000")) == 0
    assert counted.asked == TOTAL
    limited = run / "derived" / f"{TITLE}-max-params-9000000-channels-36-layers-20"
    assert Genotype.load(str(limited)) == genotype
    assert json.loads((limited / "derivation.json").read_text())["max_params"] == 9000000


def test_interrupted_it_goes_on_with_the_same_line_to_the_same_end(run, capsys, monkeypatch):
    counted = Counted(monkeypatch)
    counted.stop_at = 14
    assert derive.main(words(run)) == 130
    folder = run / "derived" / TITLE
    assert sorted(path.name for path in folder.iterdir()) == ["perturbation.json"]
    assert "state saved after 14 of 36 measurements: the same line" in capsys.readouterr().err
    assert derive.main(words(run)) == 0
    assert counted.asked == TOTAL
    assert "36 measurements, 14 of them are there" in capsys.readouterr().out
    other = shutil.copytree(run, run.parent / "other")
    shutil.rmtree(other / "derived")
    assert derive.main(words(other)) == 0
    names = ("genotype.json", "derivation.json", "perturbation.json")
    for name in names:
        assert (folder / name).read_bytes() == (other / "derived" / TITLE / name).read_bytes()
    # What does not fit is refused, and named.
    text = (folder / "perturbation.json").read_text()
    (folder / "perturbation.json").write_text(text.replace('"seed": 5', '"seed": 6'))
    assert f"{folder / 'perturbation.json'}: the selection that was" in refused(capsys, *words(run))
    (folder / "perturbation.json").write_text("{")
    assert f"{folder / 'perturbation.json'}" in refused(capsys, *words(run))


def test_where_the_search_left_no_genotype_it_becomes_the_runs_own(run, capsys):
    for name in ("genotype.json", "derivation.json"):
        (run / name).unlink()
    assert derive.main(words(run)) == 0
    genotype = Genotype.load(str(run))
    assert {to for _, _, to in genotype.normal} == {2, 3}
    assert len(genotype.normal) == len(genotype.reduce) == 4
    page = (run / "report.html").read_text()
    assert "perturbation, by balanced accuracy" in page


def test_without_labels_the_loss_is_the_measure(small_npz, tmp_path, capsys):
    changes = {"strategy": "darts", "steps": 2, "nodes": 1}
    run = run_search(tiny_search(small_npz, tmp_path / "run", **changes)).path
    assert "trained no classifier: use --measure loss" in refused(
        capsys, *words(run, "--measure", "balanced_accuracy")
    )
    assert derive.main(words(run)) == 0
    folder = run / "derived" / "perturbation-measure-loss-measure-images-8"
    state = json.loads((folder / "perturbation.json").read_text())
    values = [value for entry in state["decisions"] for value in entry["measured"].values()]
    assert len(values) == 2 * 2 * 7
    assert all(value < 0 for value in values)
    assert len(set(values)) > 14


def test_what_cannot_be_is_refused_before_anything_is_measured(run, capsys, monkeypatch):
    counted = Counted(monkeypatch)
    assert "--epoch has no effect" in refused(capsys, *words(run, "--epoch", "1"))
    assert "--max-skips has no effect" in refused(capsys, *words(run, "--max-skips", "1"))
    plain = ["--run", str(run), "--derive", "darts", "--measure", "loss"]
    assert "--measure has no effect with --derive darts" in refused(capsys, *plain)
    assert "--derive perturbation" in refused(capsys, *plain)
    config = (run / "config.yaml").read_text()
    data = next(line for line in config.splitlines() if line.startswith("dataset:"))
    other = write_npz(run.parent / "other.npz", (16, 12, 8, 5))
    (run / "config.yaml").write_text(config.replace(data, f"dataset: {other}"))
    assert "the data set has changed" in refused(capsys, *words(run))
    (run / "config.yaml").write_text(config)
    shutil.rmtree(run / "checkpoints")
    assert "has kept no checkpoint (checkpoints/)" in refused(capsys, *words(run))
    assert counted.asked == 0
    assert not (run / "derived").exists()


def test_several_labels_an_image_are_measured_by_the_loss(tmp_path, capsys):
    labels = torch.randint(2, (24, 3), generator=torch.Generator().manual_seed(0)).numpy()
    extra = {"train_labels": labels.astype("uint8"), "test_labels": labels[:4].astype("uint8")}
    data = write_npz(tmp_path / "multi.npz", (24,), **extra)
    changes = {"objective": "supervised", "steps": 2, "nodes": 1, "operations": NAMES[1:]}
    run = run_search(tiny_search(data, tmp_path / "run", **changes)).path
    assert "several labels" in refused(capsys, *words(run, "--measure", "balanced_accuracy"))
    assert derive.main(words(run)) == 0
    assert (run / "derived" / "perturbation-measure-loss-measure-images-8").is_dir()
