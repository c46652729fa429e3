"""Whole searches, from images to genotype, pictures and report."""

from __future__ import annotations

import json
import re
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import write_npz
from PIL import Image
from tiny_runs import tiny_search

from ssfnas import derive
from ssfnas.data import load_data
from ssfnas.data.decoding import FolderImages
from ssfnas.data.folder import read_folder
from ssfnas.declarations.early_stopping import STOPPERS, EarlyStop
from ssfnas.errors import NumericalError, RequestError
from ssfnas.pipeline.dry_run import predict
from ssfnas.pipeline.run import load
from ssfnas.pipeline.search_run import run_search
from ssfnas.runtime.distributed import World
from ssfnas.spaces import Genotype
from ssfnas.strategies.early_stopping import Stopper
from ssfnas.training.search_trainer import SearchTrainer

WRITTEN = [
    "alphas.npz",
    "checkpoints",
    "config.yaml",
    "data.json",
    "derivation.json",
    "genotype.json",
    "genotype_normal.png",
    "genotype_normal.svg",
    "genotype_reduce.png",
    "genotype_reduce.svg",
    "log.txt",
    "metrics.jsonl",
    "report.html",
]


@pytest.mark.parametrize("strategy", ["darts", "fairdarts"])
@pytest.mark.parametrize("objective", ["supervised", "ssl", "joint"])
def test_every_strategy_and_objective_leaves_a_whole_run(small_npz, tmp_path, strategy, objective):
    config = tiny_search(small_npz, tmp_path / "run", strategy=strategy, objective=objective)
    run = run_search(config)
    names = {path.name for path in run.path.iterdir()}
    assert set(WRITTEN) <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert Genotype.load(run.path).nodes == 2
    assert [entry["epoch"] for entry in run.metrics] == [1, 2]
    alphas = run.alphas
    assert alphas["normal"].shape == (3, 5, len(alphas["operations"]))
    assert not np.array_equal(alphas["normal"][0], alphas["normal"][-1])
    last = run.metrics[-1]
    assert {"entropy/normal", "skips/normal", "knn/top1", "alpha/loss", "weight/loss"} <= set(last)
    assert ("alpha/zero_one" in last) == (strategy == "fairdarts")


def test_one_seed_is_one_search(small_npz, tmp_path):
    first = run_search(tiny_search(small_npz, tmp_path / "a"))
    second = run_search(tiny_search(small_npz, tmp_path / "b"))
    other = run_search(tiny_search(small_npz, tmp_path / "c", seed=6))
    assert first.genotype == second.genotype
    np.testing.assert_array_equal(first.alphas["normal"], second.alphas["normal"])
    assert not np.array_equal(first.alphas["normal"], other.alphas["normal"])


def test_random_search_keeps_the_sample_with_the_lowest_loss(small_npz, tmp_path):
    config = tiny_search(
        small_npz, tmp_path / "run", strategy="random", samples=3, steps=6, epochs=1
    )
    run = run_search(config)
    scores = [entry["score"] for entry in run.metrics]
    assert len(scores) == 3
    assert len(set(scores)) == 3
    alone = run_search(
        tiny_search(small_npz, tmp_path / "one", strategy="random", samples=1, steps=2)
    )
    assert alone.metrics[0]["score"] == scores[0]  # each sample depends on its number alone
    assert (run.genotype == alone.genotype) == (min(scores) == scores[0])


def test_a_threshold_nobody_passes_keeps_the_run_and_says_how_to_derive_again(small_npz, tmp_path):
    config = tiny_search(small_npz, tmp_path / "run", derive="threshold", threshold=0.99)
    with pytest.raises(RequestError, match=r"0\.99.*ssfnas\.derive --run .*run --derive darts"):
        run_search(config)
    assert (tmp_path / "run" / "alphas.npz").exists()
    assert (tmp_path / "run" / "report.html").exists()
    assert not (tmp_path / "run" / "genotype.json").exists()
    assert load(tmp_path / "run").metrics[-1]["epoch"] == 2


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_deriving_again_leaves_what_the_search_found(small_npz, tmp_path, capsys):
    run = run_search(tiny_search(small_npz, tmp_path / "run"))
    before = files_of(run.path)
    words = ["--run", str(run.path), "--derive", "threshold", "--threshold", "0.25"]
    for limits, name in (
        ([], "threshold-0.25"),
        (["--epoch", "1", "--max-params", "9000000"],
         "threshold-0.25-epoch-1-max-params-9000000-channels-36-layers-20"),
        (["--max-skips", "1"], "threshold-0.25-max-skips-1"),
    ):  # fmt: skip
        capsys.readouterr()
        assert derive.main([*words, *limits]) == 0
        folder = run.path / "derived" / name
        printed = capsys.readouterr().out
        assert f"written      {folder / 'genotype.json'}\n" in printed
        assert re.search(
            rf"^next .* --genotype {folder} --out {run.path}-{name}-network$", printed, re.MULTILINE
        )
        assert {"genotype.json", "derivation.json", "genotype_normal.svg"} <= files_of(
            folder
        ).keys()
        assert Genotype.load(str(folder)).to_text() in printed
    # Not the search's option of that name, which would have stopped it early.
    assert "max_skip_connections" not in json.loads(before["derivation.json"])
    assert json.loads((folder / "derivation.json").read_text())["max_skip_connections"] == 1
    assert files_of(run.path) == before
    assert derive.main([*words[:2], "--derive", "darts", "--out", str(tmp_path / "o.json")]) == 0
    assert files_of(run.path) == before
    run_search(tiny_search(small_npz, tmp_path / "run", overwrite=True))
    assert not [path for path in (run.path / "derived").rglob("*") if path.is_file()]


def test_the_report_names_the_rule_by_which_a_search_without_genotype_got_one(small_npz, tmp_path):
    run = run_search(tiny_search(small_npz, tmp_path / "run"))
    for name in ("genotype.json", "derivation.json"):
        (run.path / name).unlink()

    def derivation() -> str:
        page = (run.path / "report.html").read_text()
        return re.search(r"<dt>derivation</dt><dd>(.*?)</dd>", page)[1]

    words = ["--run", str(run.path), "--derive", "threshold", "--threshold", "0.25"]
    assert derive.main(words) == 0
    assert derivation() == "threshold, 0.25"
    assert set(json.loads((run.path / "genotype.json").read_text())) == {
        "format", "space", "normal", "normal_concat", "reduce", "reduce_concat"
    }  # fmt: skip
    (run.path / "genotype.json").unlink()
    limits = ["--max-params", "9000000", "--epoch", "1", "--max-skips", "3"]
    assert derive.main([*words, *limits]) == 0
    assert derivation() == (
        "threshold, 0.25, after epoch 1, at most 3 skip connections, at most 9,000,000 parameters"
    )


@pytest.mark.parametrize(("objective", "order"), [("supervised", 2), ("joint", 1)])
def test_second_order_and_early_stopping_by_the_hessian_run(small_npz, tmp_path, objective, order):
    config = tiny_search(
        small_npz,
        tmp_path / "run",
        objective=objective,
        order=order,
        early_stop="hessian",
        hessian_window=1,
        hessian_factor=1.0001,
        early_stop_after=0,
        epochs=4,
    )
    run = run_search(config)
    values = [entry["hessian/top_eigenvalue"] for entry in run.metrics]
    assert all(np.isfinite(values))
    grown = any(b > 1.0001 * a for a, b in pairwise(values))
    assert (len(values) < 4) == grown or values[-1] > 1.0001 * values[-2]


def test_too_many_skip_connections_stop_the_search(small_npz, tmp_path, monkeypatch):
    monkeypatch.setattr(SearchTrainer, "skip_count", lambda self, cell: 3)
    config = tiny_search(
        small_npz, tmp_path / "run", epochs=3, early_stop="skip", max_skips=2, early_stop_after=0
    )
    (only,) = run_search(config).metrics
    assert "knn/top1" in only  # its last epoch, however early


def test_neighbors_are_measured_every_so_many_epochs_and_at_the_end(small_npz, tmp_path):
    settings = {"epochs": 5, "knn_every": 2, "objective": "supervised"}
    run = run_search(tiny_search(small_npz, tmp_path / "run", **settings))
    assert [e["epoch"] for e in run.metrics if "knn/top1" in e] == [2, 4, 5]
    assert run.metrics[-1]["knn/images"] == [20, 20]
    assert "20 images among 20" in (run.path / "report.html").read_text()
    # The same search but for what is measured.
    often = run_search(tiny_search(small_npz, tmp_path / "b", **settings | {"knn_every": 1}))
    assert [e["epoch"] for e in often.metrics if "knn/top1" in e] == [1, 2, 3, 4, 5]
    assert np.array_equal(often.alphas["normal"], run.alphas["normal"])
    for first, second in zip(run.metrics, often.metrics, strict=True):
        assert {k: v for k, v in second.items() if k in first and k != "wall_time"} == {
            k: v for k, v in first.items() if k != "wall_time"
        }


def test_a_search_of_one_step_is_measured_on_what_it_has_seen(small_npz, tmp_path):
    run = run_search(tiny_search(small_npz, tmp_path / "run", steps=1, objective="supervised"))
    assert run.metrics[-1]["knn/images"] == [8, 8]


def test_a_rule_that_stops_by_neighbors_is_given_them_each_epoch(small_npz, tmp_path):
    given = []

    class Watching(Stopper):
        def update(self, epoch, value):
            given.append((epoch, value))

    STOPPERS.add("watching", EarlyStop(lambda config: Watching(), measures="knn/balanced"))
    try:
        config = tiny_search(
            small_npz, tmp_path / "run", epochs=3, early_stop="watching", objective="supervised"
        )
        run = run_search(config)
        config = tiny_search(small_npz, tmp_path / "other", early_stop="watching", knn=False)
        with pytest.raises(RequestError, match=r"looks at knn/balanced, .* with --no-knn"):
            run_search(config)
    finally:
        del STOPPERS._entries["watching"]
    assert not (tmp_path / "other").exists()
    assert given == [(e["epoch"], e["knn/balanced"]) for e in run.metrics]
    assert len(given) == 3


def test_a_loss_that_is_not_finite_names_step_term_and_checkpoint(small_npz, tmp_path, monkeypatch):
    plain = SearchTrainer._terms

    def broken(self, batch):
        terms = plain(self, batch)
        if self.step == 3:
            terms["loss"] = terms["loss"] * torch.nan
        return terms

    monkeypatch.setattr(SearchTrainer, "_terms", broken)
    with pytest.raises(NumericalError, match=r"step 4: .*loss.*step-00000003-\w+\.pt"):
        run_search(tiny_search(small_npz, tmp_path / "run"))


@pytest.mark.parametrize(
    ("size", "channels"), [(28, 1), (9, 3), (11, 1)], ids=["28x28 gray", "9x9", "11x11 gray"]
)
def test_gray_and_odd_sizes_work(tmp_path, size, channels):
    data = write_npz(tmp_path / "d.npz", (10, 8, 4), size=size, channels=channels)
    run = run_search(tiny_search(data, tmp_path / "run", steps=1, objective="joint"))
    assert run.data_card.in_channels == channels
    assert run.data_card.image_size == (size, size)


def test_multi_label_data_search_with_cross_entropy_of_each_label(tmp_path, capsys):
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 2, (24, 3)).astype(np.uint8)
    data = write_npz(
        tmp_path / "multi.npz",
        (24,),
        train_labels=labels,
        test_labels=draws.integers(0, 2, (4, 3)).astype(np.uint8),
    )
    run = run_search(tiny_search(data, tmp_path / "run", steps=2, objective="supervised"))
    assert run.data_card.multi_label
    assert "knn/top1" not in run.metrics[-1]
    assert "neighbors    not measured: images have several labels" in capsys.readouterr().out
    for name, value in (("knn_every", 2), ("alpha_sampling_exponent", 0.5)):
        flag = f"--{name.replace('_', '-')} {value}"
        with pytest.raises(RequestError, match=f"{flag} has no effect on multi-label data: leave"):
            run_search(tiny_search(data, tmp_path / "other", **{name: value}))
    assert not (tmp_path / "other").exists()


def test_a_dry_run_writes_nothing(small_npz, tmp_path, capsys):
    assert run_search(tiny_search(small_npz, tmp_path / "run", dry_run=True)) is None
    printed = capsys.readouterr().out
    assert "parameters" in printed
    assert "memory" in printed
    assert "time" in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("most_bytes", [0, 1 << 30], ids=["while training", "once"])
def test_a_dry_run_decodes_few_images_of_a_folder(tmp_path, capsys, monkeypatch, most_bytes):
    for part in ("train", "test"):
        for name in ("a", "b"):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for number in range(50):
                Image.new("RGB", (90, 90)).save(folder / f"{number}.png")
    reader = partial(read_folder, in_memory_bytes=most_bytes)
    monkeypatch.setattr("ssfnas.data.sources.read_folder", reader)
    decoded = []
    decode = FolderImages._decode
    monkeypatch.setattr(
        FolderImages, "_decode", lambda self, path: decoded.append(path) or decode(self, path)
    )
    config = tiny_search(tmp_path / "photos", dry_run=True, batch_size=30)
    assert run_search(config) is None
    printed = capsys.readouterr().out
    assert ("decoded while training" in printed) == (most_bytes == 0)
    when = r"\S+ s a step by \d+ process" if most_bytes == 0 else "once when the run starts"
    assert re.search(rf"decoding .* ms an image, {when}", printed)
    assert len(decoded) == 64 + 1 + 32  # for the statistics, and for the time


def test_a_step_of_many_images_is_predicted_from_steps_of_few(small_npz, monkeypatch):
    # A clock by which a step takes 3 s and 0.5 s an image of this process, of each of its two
    # batches; in the other process a step takes two seconds longer.
    clock = [0.0]
    step = SearchTrainer.run_step

    def timed(self):
        step(self)
        clock[0] += 3.0 + 2 * 0.25 * self.config.batch_size / 2

    monkeypatch.setattr(SearchTrainer, "run_step", timed)
    monkeypatch.setattr("ssfnas.pipeline.dry_run.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr(World, "mean", lambda self, seconds: seconds + 1)
    config = tiny_search(small_npz, knn=False, batch_size=100, steps=10)
    data, world = load_data(config), World(0, 1, torch.device("cpu"))
    said = predict(lambda c, d: SearchTrainer(c, d, world), config, data, world_size=2)
    assert "steps        10\n" in said
    assert "time         about 29 s a step, 4.8 min in all (steps of 2 and 4 images" in said


def test_metrics_are_one_json_object_a_line(small_npz, tmp_path):
    run = run_search(tiny_search(small_npz, tmp_path / "run", steps=1))
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["step"] == 1
    assert "<dt>time</dt>" in (run.path / "report.html").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, r"SearchConfig: epochs: 0: expected a whole number, at least 1"),
        ({"epochs": "3"}, r"SearchConfig: epochs: 3: expected a whole number"),
        ({"w01": float("nan")}, r"SearchConfig: w01: nan: expected a number"),
        ({"projector": 8}, r"SearchConfig: projector: 8: expected a list"),
        ({"data_dir": Path("run")}, r"SearchConfig: data_dir: .*: expected a text.*str\(\)"),
        ({"strategy": "dart"}, r"unknown strategy 'dart' \(did you mean 'darts'"),
        ({"objective": "sssl"}, r"unknown objective 'sssl'"),
        ({"derive": "dart"}, r"unknown derivation 'dart'"),
        ({"early_stop": "skips"}, r"unknown .*'skips'"),
        ({"profile": "linear"}, r"SearchConfig: profile: linear: expected exp or step"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_values_from_python_are_refused_before_anything_is_loaded(
    tmp_path, changes, message, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    # Data that are not there: a refusal that comes after loading would be about them.
    with pytest.raises(RequestError, match=message):
        run_search(tiny_search(tmp_path / "absent.npz", "run", **changes))
    assert list(tmp_path.iterdir()) == []


def test_random_search_needs_a_step_a_sample(small_npz, tmp_path):
    config = tiny_search(small_npz, tmp_path / "run", strategy="random", samples=3, steps=2)
    with pytest.raises(RequestError, match=r"--samples 3 .* 2 steps"):
        run_search(config)
