"""What follows a search suits its data and its device, and says how long it takes."""

from __future__ import annotations

import math
import re

import pytest
import torch
from image_files import write_npz
from tiny_runs import tiny_search

from ssfnas.config import SearchConfig
from ssfnas.data import load_data
from ssfnas.pipeline import advice
from ssfnas.pipeline.advice import following_lines, is_worth_measuring
from ssfnas.pipeline.dry_run import StepTime, about
from ssfnas.pipeline.search_run import run_search
from ssfnas.runs.data_card import DataCard
from ssfnas.spaces import Genotype

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def few(tmp_path):
    return write_npz(tmp_path / "few.npz", (10, 7, 4), test_each=4)


def lines_of(config, device=CPU, *, measured=True, genotype="DARTS_V2", **card):
    data = load_data(config)
    values = {**vars(DataCard.of(data)), **card}
    labels = data.train.labels if measured else None
    found = Genotype.load(genotype)
    return following_lines(config, found, "run", DataCard(**values), labels, device)


def clocked(monkeypatch, seconds):
    """A clock by which a step takes so long; what was measured on, one (config, data) a preset."""
    seen = []

    def time_of_step(make, config, data, world_size, **_):
        seen.append((config, data))
        return StepTime(seconds[len(seen) - 1], 0, "")

    monkeypatch.setattr(advice, "time_of_step", time_of_step)
    return seen


def test_on_a_cpu_the_small_training_comes_first_and_both_say_their_time(few, monkeypatch):
    seen = clocked(monkeypatch, [0.3, 60.0])
    first, note, other, full = lines_of(SearchConfig(dataset=str(few)))
    assert first.startswith("next         python -m ssfnas.retrain --preset retrain-small ")
    # 21 images: 500 steps, and 600 epochs of three steps.
    assert note == "             about 2.5 min on this CPU, a small network, for a first result"
    assert other.startswith("or           python -m ssfnas.retrain --preset longtail ")
    assert full == "             about 30 h on this CPU, the full network and training"
    assert [config.batch_size for config, _ in seen] == [8, 8]


def test_the_lines_name_directories_that_are_not_there_yet(few, tmp_path):
    card = DataCard.of(load_data(SearchConfig(dataset=str(few))))
    for name in ("run-network", "run-network-2"):
        (tmp_path / name).mkdir()
    found = Genotype.load("DARTS_V2")
    config, name = SearchConfig(dataset=str(few)), tmp_path / "run"
    first, _, other, _ = following_lines(config, found, "run", card, None, CPU, name=name)
    assert first.endswith(f" --genotype run --out {name}-network-3")
    assert other.endswith(f" --genotype run --out {name}-full-network")


@pytest.mark.parametrize(("seconds", "lines"), [(0.01, 2), (60.0, 4)])
def test_on_a_gpu_the_full_training_comes_first_and_alone_where_it_is_short(
    few, monkeypatch, seconds, lines
):
    monkeypatch.setattr(advice, "_stand_in", lambda card, labels, device: load_data(config))
    clocked(monkeypatch, [seconds, seconds])
    config = SearchConfig(dataset=str(few))
    said = lines_of(config, GPU)
    assert said[0].startswith("next         python -m ssfnas.retrain --preset longtail ")
    assert "on this GPU" in said[1]
    assert len(said) == lines


def test_it_is_measured_at_the_size_that_the_training_takes_images_at(few, monkeypatch):
    seen = clocked(monkeypatch, [1.0, 1.0])
    lines_of(SearchConfig(dataset=str(few)), original_size=(20, 30))
    for _, data in seen:
        assert data.image_size == (20, 30)
        assert data.class_counts == [10, 7, 4]
        # One image stands for all.
        assert data.train.images.untyped_storage().nbytes() == 20 * 30 * 3


def test_a_measurement_is_made_of_real_steps(few):
    config = SearchConfig()  # of the sample, whose training is the smallest
    (line, note) = lines_of(config, genotype="FairDARTS_a")
    assert "--preset retrain-quick" in line
    assert re.fullmatch(r" +about [\d.]+ (s|min|h) on this CPU", note)


def test_what_cannot_be_measured_has_no_time_and_no_error(few, monkeypatch):
    monkeypatch.setattr(advice, "time_of_step", lambda *_, **__: 1 / 0)
    said = lines_of(SearchConfig(dataset=str(few)))
    assert len(said) == 4
    assert said == lines_of(SearchConfig(dataset=str(few)), measured=False)
    assert not any("about" in line for line in said)


def test_a_search_of_seconds_is_not_followed_by_seconds_of_measuring(tmp_path, capsys, monkeypatch):
    data = write_npz(tmp_path / "d.npz", (8, 8))
    monkeypatch.setattr(advice, "_seconds", lambda *_: 90.0)
    for run, worth, said in (("a", 1e9, 0), ("b", 0.0, 2)):
        monkeypatch.setattr(advice, "_WORTH_MEASURING", worth)
        run_search(tiny_search(data, tmp_path / run, steps=1, knn=False))
        printed = capsys.readouterr().out
        assert printed.count("about 1.5 min on this CPU") == said
        assert re.search(r"^time         \d", printed, re.MULTILINE)
    assert not is_worth_measuring(None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (59, "59 s"), (60, "1.0 min"), (600, "10 min"), (5400, "1.5 h"),
     (100_000, "28 h"), (864_000, "10 days")],
)  # fmt: skip
def test_rough_times(seconds, text):
    assert about(seconds) == text
    assert math.isclose(
        float(text.split()[0]) * {"s": 1, "min": 60, "h": 3600, "days": 86400}[text.split()[1]],
        max(1, seconds),
        rel_tol=0.05,
    )
