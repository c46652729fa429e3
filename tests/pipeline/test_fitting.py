"""Values that nobody asked for fit the data; what was asked for and does not is refused."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
from image_files import write_npz

from ssfnas import retrain, search
from ssfnas.commandline import parse
from ssfnas.config import RetrainConfig, SearchConfig, origin_of
from ssfnas.data import half_sizes, load_data, stratified_halves
from ssfnas.errors import RequestError
from ssfnas.pipeline import fitting
from ssfnas.pipeline.fitting import fit_retraining, fit_search
from ssfnas.pipeline.run import load


@pytest.fixture
def few(tmp_path):
    """21 images in three classes, and 4 a class to test on."""
    return write_npz(tmp_path / "few.npz", (10, 7, 4), test_each=4)


@pytest.mark.filterwarnings("ignore:class")
@pytest.mark.parametrize("counts", [(1,), (2, 1), (10, 7, 4), (1, 1, 1, 5), (0, 3, 0, 4)])
def test_sizes_of_the_halves_are_those_of_the_halves(counts):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    assert half_sizes(labels) == tuple(len(half) for half in stratified_halves(labels, 3))


@pytest.mark.filterwarnings("ignore:label")
@pytest.mark.parametrize("images", [2, 7, 24])
def test_sizes_of_paired_halves_are_those_of_the_halves(images):
    draws = torch.Generator().manual_seed(images)
    labels = torch.randint(2, (images, 3), generator=draws).float()
    assert half_sizes(labels) == tuple(len(half) for half in stratified_halves(labels, 3))


def searching(*words):
    return parse(SearchConfig, words, "ssfnas.search", "", default_preset="quick")


def retraining(*words):
    words = ["--genotype", "DARTS_V2", *words]
    return parse(RetrainConfig, words, "ssfnas.retrain", "")


def test_defaults_and_presets_fit_few_images(few):
    config = searching("--preset", "ssfnas", "--dataset", str(few))
    (line,) = fit_search(config, load_data(config), 1)
    assert config.batch_size == 8
    # 11 images in the half of the weights: two steps an epoch.
    assert config.epochs * 2 == fitting.FEWEST_SEARCH_STEPS
    assert "--batch-size 8 in place of 128, --epochs 500 in place of 50" in line
    assert "10 images in each half of the 21 training images" in line

    config = retraining("--preset", "retrain-small", "--dataset", str(few))
    (line,) = fit_retraining(config, load_data(config), 1)
    assert (config.batch_size, config.steps) == (8, fitting.FEWEST_RETRAIN_STEPS)
    assert "--batch-size 8 in place of 32, --steps 500 in place of 4,000" in line


def test_every_batch_of_a_fitted_search_has_each_image_at_most_once(few):
    for words in ([], ["--preset", "quick"], ["--preset", "darts"]):
        config = searching("--dataset", str(few), *words)
        data = load_data(config)
        fit_search(config, data, 1)
        halves = stratified_halves(data.train.labels, 0)
        assert 2 <= config.batch_size <= min(map(len, halves))


def test_what_fits_already_stays(tmp_path):
    many = write_npz(tmp_path / "many.npz", (900, 500))
    for config, fit in (
        (searching("--preset", "ssfnas", "--dataset", str(many), "--epochs", "3"), fit_search),
        (retraining("--dataset", str(many)), fit_retraining),
    ):
        before = dict(vars(config))
        assert fit(config, load_data(config), 1) == []
        assert vars(config) == before


@pytest.mark.parametrize("flag", ["--batch-size", "--pretrain-batch-size"])
def test_what_was_asked_for_and_does_not_fit_is_refused_with_what_would(few, flag):
    words = ["--pretrain-epochs", "1", "--dataset", str(few), flag]
    config = retraining(*words, "22")
    with pytest.raises(RequestError, match=f"{flag} 22: there are 21 images to train on.* 21 is"):
        fit_retraining(config, load_data(config), 1)
    with pytest.raises(RequestError, match=f"{flag} 22: there are 21 images to train on.* 20 is"):
        fit_retraining(config, load_data(config), 2)
    config = retraining(*words, "21")
    fit_retraining(config, load_data(config), 1)
    assert getattr(config, flag[2:].replace("-", "_")) == 21


def test_a_config_made_in_python_asks_for_what_is_not_the_default(few):
    config = SearchConfig(dataset=str(few), batch_size=64)
    with pytest.raises(RequestError, match=r"--batch-size 64: there are 10 images in each half"):
        fit_search(config, load_data(config), 1)
    config = SearchConfig(dataset=str(few), epochs=3)
    assert len(fit_search(config, load_data(config), 1)) == 1
    assert (config.batch_size, config.epochs) == (8, 3)


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_a_fitted_batch_can_be_shared(few, processes):
    config = retraining("--dataset", str(few))
    fit_retraining(config, load_data(config), processes)
    assert config.batch_size % processes == 0
    assert 2 * processes <= config.batch_size <= 21


def test_fewer_images_than_processes_are_refused(few):
    config = retraining("--dataset", str(few))
    with pytest.raises(RequestError, match="21 images to train on, which 32 processes cannot"):
        fit_retraining(config, load_data(config), 32)


def test_files_ask_for_what_they_hold(few, tmp_path):
    (tmp_path / "mine.yaml").write_text("batch_size: 40\n")
    config = searching("--dataset", str(few), "--config", str(tmp_path / "mine.yaml"))
    assert {"dataset", "batch_size"} == origin_of(config).asked
    with pytest.raises(RequestError, match="--batch-size 40"):
        fit_search(config, load_data(config), 1)


SHORT = ["--channels", "2", "--layers", "3", "--device", "cpu"]


def test_own_images_on_a_cpu_are_searched_and_retrained_by_the_small_presets(
    few, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(fitting, "FEWEST_SEARCH_STEPS", 2)
    monkeypatch.setattr(fitting, "FEWEST_RETRAIN_STEPS", 2)
    monkeypatch.setattr(fitting, "MOST_PASSES", 1)
    run = tmp_path / "run"
    words = ["--dataset", str(few), "--out", str(run), "--nodes", "2", *SHORT]
    assert search.main([*words, "--no-knn"]) == 0
    printed = capsys.readouterr().out
    assert re.search("^preset       small, ", printed, re.MULTILINE)
    (line,) = re.findall("^fitted       .*", printed, re.MULTILINE)
    assert "--batch-size 8 in place of 32, --steps 2 in place of 300" in line
    assert line in (run / "log.txt").read_text()
    values = load(run).config
    assert (values.batch_size, values.steps, values.derive) == (8, 2, "darts")

    # What is gone on with is what was fitted.
    capsys.readouterr()
    assert search.main(["--out", str(run), "--resume"]) == 0
    assert "fitted" not in capsys.readouterr().out
    assert load(run).config == values

    # A run's config says all that it was: nothing is fitted again.
    again = tmp_path / "again"
    assert search.main(["--config", str(run / "config.yaml"), "--out", str(again)]) == 0
    assert "fitted" not in capsys.readouterr().out
    assert load(again).genotype == load(run).genotype

    trained = tmp_path / "trained"
    words = ["--dataset", str(few), "--out", str(trained), "--genotype", str(run), *SHORT]
    assert retrain.main(words) == 0
    printed = capsys.readouterr().out
    assert re.search("^preset       retrain-small, ", printed, re.MULTILINE)
    assert (load(trained).config.batch_size, load(trained).config.steps) == (8, 3)


def test_a_gpu_takes_the_defaults_and_a_named_preset_is_kept(monkeypatch):
    def config_of(*words):
        return parse(
            SearchConfig, words, "ssfnas.search", "", default_preset="quick", cpu_preset="small"
        )

    kinds = Counter()
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        for device in ("auto", "cpu", "cuda"):
            config = config_of("--dataset", "x", "--device", device)
            small = device == "cpu" or (device == "auto" and not there)
            assert origin_of(config).preset == ("small" if small else None)
            assert config.channels == (8 if small else 16)
            kinds[small] += 1
    assert set(kinds) == {True, False}
    assert origin_of(config_of("--dataset", "x", "--preset", "ssfnas")).preset is None
    assert config_of("--preset", "ssfnas", "--dataset", "x").channels == 16
    assert config_of().layers == 4  # the sample's
