"""The command lines that runs print are read by the commands, and mean what the run was."""

from __future__ import annotations

import dataclasses
import shlex

import pytest
from image_files import write_npz
from tiny_runs import tiny_search

from ssfnas.commandline import parse
from ssfnas.config import DataOptions, DeriveConfig, RetrainConfig, SearchConfig
from ssfnas.pipeline.search_run import run_search
from ssfnas.runs.next_commands import (
    FULL,
    SMALL,
    derive_command,
    resume_command,
    retrain_command,
    use_commands,
)


def search_of(*words: str) -> SearchConfig:
    return parse(SearchConfig, words, "ssfnas.search", "", default_preset="quick")


def retraining_of(line: str) -> RetrainConfig:
    words = shlex.split(line)
    assert words[:3] == ["python", "-m", "ssfnas.retrain"]
    return parse(RetrainConfig, words[3:], "ssfnas.retrain", "")


def data_of(config: DataOptions) -> dict[str, object]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(DataOptions)}


OWN = ["--preset", "ssfnas", "--dataset", "my images/a.npz"]


@pytest.mark.parametrize(
    ("words", "epochs"),
    [
        ([], 20),
        (["--image-size", "16", "--data-seed", "3"], 20),
        (["--preset", "ssfnas"], 600),
        (["--preset", "ssfnas", "--imbalance-ratio", "33.3", "--profile", "step"], 600),
        (["--preset", "fairdarts"], 600),
        (["--preset", "darts", "--data-dir", "/big disk/data"], 600),
        (["--preset", "fairdarts", "--dataset", "cifar100", "--imbalance-ratio", "50"], 600),
        (OWN, 600),
        ([*OWN, "--image-size", "28", "--imbalance-ratio", "10", "--data-seed", "7"], 600),
        ([*OWN, "--validation-share", "0.15"], 600),
        ([*OWN, "--plugins", "my ops.py", "more.py"], 600),
    ],
    ids=lambda value: " ".join(value) or "quick" if isinstance(value, list) else "",
)
def test_the_retraining_is_on_the_data_of_the_search(words, epochs):
    search = search_of(*words)
    retraining = retraining_of(retrain_command(search, "runs/it's mine"))
    assert data_of(retraining) == data_of(search)
    assert retraining.plugins == search.plugins
    assert retraining.genotype == "runs/it's mine"
    assert retraining.epochs == epochs


def test_values_without_effect_are_not_handed_on():
    search = dataclasses.replace(search_of(*OWN), profile="step")
    assert "--profile" not in retrain_command(search, "run")


def test_deriving_again_and_going_on(tmp_path):
    config = search_of("--plugins", "my ops.py")
    words = shlex.split(derive_command(config.plugins, "a b", "darts"))
    derived = parse(DeriveConfig, words[3:], "ssfnas.derive", "")
    assert (derived.run, derived.plugins, derived.derive) == ("a b", ["my ops.py"], "darts")
    assert resume_command("search", "a b") == "python -m ssfnas.search --out 'a b' --resume"


def test_a_trained_network_is_used_by_these_lines():
    predict, export = use_commands(["my ops.py"], "a b")
    assert predict == "python -m ssfnas.predict --plugins 'my ops.py' --run 'a b' IMAGES"
    assert export == "python -m ssfnas.export --plugins 'my ops.py' --run 'a b' --format onnx"


@pytest.mark.parametrize("preset", [SMALL, FULL])
def test_own_images_are_retrained_by_the_preset_that_is_named(preset):
    search = search_of(*OWN)
    retraining = retraining_of(retrain_command(search, "run", preset=preset))
    assert data_of(retraining) == data_of(search)
    assert (retraining.channels == 16) == (preset == SMALL)
    assert "--preset retrain-quick" in retrain_command(search_of(), "run", preset=preset)


def test_a_search_prints_the_line(tmp_path, capsys):
    data = write_npz(tmp_path / "my data.npz", (8, 8))
    run = run_search(tiny_search(data, tmp_path / "my run", steps=1))
    (line,) = [s for s in capsys.readouterr().out.splitlines() if s.startswith("next ")]
    retraining = retraining_of(line.removeprefix("next").strip())
    assert data_of(retraining) == data_of(run.config)
    assert retraining.genotype == str(run.path)
