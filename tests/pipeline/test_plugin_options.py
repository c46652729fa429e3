"""Plugins' components have options of their own: flags, YAML keys, entries of config.yaml."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
import torch

import ssfnas
from ssfnas import derive, evaluate, retrain, search
from ssfnas.declarations.derivations import DERIVATIONS
from ssfnas.declarations.losses import LOSSES
from ssfnas.declarations.strategies import STRATEGIES
from ssfnas.errors import RequestError
from ssfnas.runs.checkpoints import CheckpointStore
from ssfnas.yaml_files import read_yaml

RETRAIN = [
    "--genotype", "FairDARTS_a", "--channels", "4", "--layers", "3", "--auxiliary", "0",
    "--augment", "crop_flip", "--cutout", "2", "--batch-size", "8", "--epochs", "2",
    "--device", "cpu",
]  # fmt: skip
SEARCH = [
    "--objective", "supervised", "--channels", "2", "--layers", "3", "--nodes", "2",
    "--batch-size", "8", "--steps", "2", "--device", "cpu", "--no-knn",
]  # fmt: skip
MY_SEARCH = """
from dataclasses import dataclass

from ssfnas.options import option
from ssfnas.strategies import DERIVATIONS, STRATEGIES, SearchStrategy


@dataclass(kw_only=True)
class Pull:
    pull: float = option(0.5, "weight of the pull", minimum=0)
    toward: list[int] = option([0], "operations that alphas are pulled to")


@STRATEGIES.register("pulled", options=(Pull,))
class Pulled(SearchStrategy):
    relaxation = "sigmoid"

    def penalty(self):
        alphas = self.net.alphas()
        value = sum(alpha[:, self.config.toward].square().mean() for alpha in alphas)
        return {"loss": self.config.pull * value, "pulled": value}


@dataclass(kw_only=True)
class Kept:
    edges_kept: int = option(1, "edges a node", minimum=1)


@DERIVATIONS.register("first", options=(Kept,))
def first(table, nodes, edges_kept):
    return [
        (table[start, to][0][1], start, to)
        for to in range(2, nodes + 2)
        for start in range(min(to, edges_kept))
    ]
"""
# Stops the first process that comes here as a user would.
INTERRUPT = """
import os, signal
from pathlib import Path

_forward, _seen = TiltedLoss.forward, []


def forward(self, *arguments):
    _seen.append(1)
    if len(_seen) == 7 and not Path("stopped").exists():
        Path("stopped").touch()
        os.kill(os.getpid(), signal.SIGTERM)
    return _forward(self, *arguments)


TiltedLoss.forward = forward
"""


def forget() -> None:
    """Let the next run of this process import the plugins anew."""
    for registry, names in (
        (LOSSES, ["tilted"]),
        (STRATEGIES, ["pulled", "cooled"]),
        (DERIVATIONS, ["first"]),
    ):
        for name in names:
            registry._entries.pop(name, None)
    for name in [name for name in sys.modules if name.startswith("ssfnas_plugin:")]:
        del sys.modules[name]


@pytest.fixture
def plugin(tmp_path, monkeypatch, small_npz):
    """The loss of docs/extending.md, as a file beside the data."""
    page = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    for name in ("my_loss.py", "my_strategy.py"):
        (code,) = [block for block in blocks if block.startswith(f"# {name}")]
        (tmp_path / name).write_text(code)
    (tmp_path / "my_search.py").write_text(MY_SEARCH)
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "my_loss.py"
    forget()


def refused(capsys, main, *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_the_flag_is_in_the_help_of_a_command_that_names_the_plugin(capsys, plugin):
    for words, there in ((["--plugins", "my_loss.py"], True), ([], False)):
        forget()
        with pytest.raises(SystemExit) as caught:
            retrain.main([*words, "--help"])
        text = capsys.readouterr().out
        assert caught.value.code == 0
        assert ("--tilt X" in text) is there
        assert ("logit-adjusted,focal,class-balanced,ldam,tilted}" in text) is there
    assert "unknown flag --tilt" in refused(capsys, retrain.main, "--tilt", "2")


def test_a_run_uses_keeps_and_reports_the_value(capsys, plugin, small_npz):
    common = ["--plugins", "my_loss.py", "--dataset", str(small_npz), *RETRAIN]
    losses = {}
    for tilt in ("0", "3"):
        words = [*common, "--loss", "tilted", "--tilt", tilt, "--out", f"tilt-{tilt}"]
        assert retrain.main(words) == 0
        losses[tilt] = ssfnas.load(f"tilt-{tilt}").metrics[0]["train/loss"]
    forget()
    plain = ["--dataset", str(small_npz), *RETRAIN, "--loss", "ce", "--out", "ce"]
    assert retrain.main(plain) == 0
    assert losses["0"] == ssfnas.load("ce").metrics[0]["train/loss"] != losses["3"]

    assert read_yaml("tilt-3/config.yaml")["tilt"] == 3.0
    assert "tilt" not in read_yaml("ce/config.yaml")
    # The stored config is a config file, for which the run's plugins are imported.
    forget()
    with pytest.raises(SystemExit):
        retrain.main(["--config", "tilt-3/config.yaml", "--print-config", "--tilt", "4"])
    assert "tilt: 4.0" in capsys.readouterr().out
    # Without its plugin a run can be read, but its network not be built.
    forget()
    run = ssfnas.load("tilt-3")
    assert (run.config.tilt, run.config.loss) == (3.0, "tilted")
    with pytest.raises(AttributeError, match="no option 'tild'"):
        _ = run.config.tild
    assert "unknown loss 'tilted'" in refused(capsys, evaluate.main, "--run", "tilt-3")
    assert evaluate.main(["--run", "tilt-3", "--plugins", "my_loss.py"]) == 0


def test_a_default_is_kept_as_well(plugin, small_npz):
    words = ["--plugins", "my_loss.py", "--dataset", str(small_npz), *RETRAIN, "--loss", "tilted"]
    assert retrain.main([*words, "--dry-run"]) == 0
    assert retrain.main([*words, "--out", "out"]) == 0
    assert read_yaml("out/config.yaml")["tilt"] == 1.0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["--loss", "ce", "--tilt", "2"],
            "--tilt has no effect with --loss ce: leave it out or use --loss tilted",
        ),
        (["--loss", "tilted", "--tilt", "-1"], "--tilt -1.0: expected a number, at least 0"),
        (["--loss", "tilted", "--tild", "1"], "unknown flag --tild (did you mean --tilt?)"),
        (["--loss", "tilted", "--tau", "1"], "--tau has no effect with --loss tilted"),
        (
            ["--loss", "tilted", "--config", "wrong.yaml"],
            "wrong.yaml, line 1: tilt: much: exp",
        ),
        (["--loss", "tilded"], "did you mean 'tilted'"),
        (["--tilt", "1", "--plugins", "absent.py"], "'absent.py' is not a Python file that exists"),
    ],
)
def test_wrong_requests_are_one_line(capsys, plugin, small_npz, words, expected):
    Path("wrong.yaml").write_text("tilt: much\n")
    common = ["--dataset", str(small_npz), *RETRAIN]
    plugins = [] if "--plugins" in words else ["--plugins", "my_loss.py"]
    assert expected in refused(capsys, retrain.main, *common, *plugins, *words)


def test_from_python_the_values_stand_in_more(plugin, small_npz):
    settings = dict(
        dataset=str(small_npz), genotype="FairDARTS_a", channels=4, layers=3, auxiliary=0.0,
        augment="crop_flip", batch_size=8, steps=1, device="cpu",
        loss="tilted", plugins=["my_loss.py"],
    )  # fmt: skip
    run = ssfnas.run_retrain(ssfnas.RetrainConfig(**settings, out="a", more={"tilt": 2.0}))
    assert run is not None
    assert run.config.tilt == 2.0
    default = ssfnas.RetrainConfig(**settings, out="b")
    run = ssfnas.run_retrain(default)
    assert run is not None
    assert run.config.tilt == default.tilt == 1.0
    for more, expected in (({"tild": 2.0}, "unknown key tild"), ({"tilt": -1.0}, "tilt: -1.0")):
        with pytest.raises(RequestError, match=expected):
            ssfnas.run_retrain(ssfnas.RetrainConfig(**settings, out="c", more=more))


def test_an_interrupted_run_goes_on_with_its_value(capsys, plugin, small_npz):
    plugin.write_text(plugin.read_text() + INTERRUPT)
    words = ["--plugins", "my_loss.py", "--dataset", str(small_npz), *RETRAIN, "--loss", "tilted"]
    words += ["--tilt", "2", "--deterministic"]
    assert retrain.main([*words, "--out", "stopped-run"]) == 143
    forget()
    line = refused(capsys, retrain.main, "--out", "stopped-run", "--resume", "--tilt", "3")
    assert "--tilt 3.0 differs from the run that is resumed, which has 2.0" in line
    forget()
    assert retrain.main(["--out", "stopped-run", "--resume"]) == 0
    forget()
    assert retrain.main([*words, "--out", "whole"]) == 0
    states = [
        CheckpointStore(Path(out) / "checkpoints").latest() for out in ("stopped-run", "whole")
    ]
    first, second = (state[1]["net"] for state in states if state is not None)
    assert all(torch.equal(first[key], second[key]) for key in second)
    assert os.path.exists("stopped")


def test_a_run_goes_on_where_its_plugin_was_moved(capsys, plugin, small_npz):
    plugin.write_text(plugin.read_text() + INTERRUPT)
    words = ["--plugins", "my_loss.py", "--dataset", str(small_npz), *RETRAIN, "--loss", "tilted"]
    assert retrain.main([*words, "--tilt", "2", "--out", "run"]) == 143
    before = read_yaml("run/config.yaml")
    Path("there").mkdir()
    plugin.rename("there/moved.py")
    again = ["--out", "run", "--resume"]
    for more in ([], ["--tilt", "2"], ["--workers", "0"]):
        forget()
        assert refused(capsys, retrain.main, *again, *more).endswith(
            "--resume: the run's plugin my_loss.py is not there any more: name the new place of "
            "my_loss.py by --plugins"
        )
    forget()
    two = ["--plugins", "there/moved.py,my_search.py"]
    line = refused(capsys, retrain.main, *again, *two)
    assert "moved.py,my_search.py differs from the run that is resumed, which has my_loss" in line
    assert read_yaml("run/config.yaml") == before
    forget()
    # What is named counts, and is imported alone, also where the old file is back.
    plugin.write_text(Path("there/moved.py").read_text())
    moved = ["--plugins", "there/moved.py"]
    assert retrain.main([*again, *moved, "--threads", "1"]) == 0
    assert read_yaml("run/config.yaml") == before | {"plugins": ["there/moved.py"]}


def test_a_run_without_plugins_is_not_given_any(capsys, plugin, small_npz):
    assert retrain.main(["--dataset", str(small_npz), *RETRAIN, "--out", "run"]) == 0
    words = ["--out", "run", "--resume", "--plugins", "my_loss.py"]
    assert "differs from the run that is resumed, which has []" in refused(
        capsys, retrain.main, *words
    )


def test_a_strategy_and_a_rule_with_options_of_their_own(capsys, plugin, small_npz):
    common = ["--plugins", "my_search.py", "--dataset", str(small_npz), *SEARCH]
    mine = ["--strategy", "pulled", "--derive", "first"]
    words = [*mine, "--pull", "2", "--toward", "0,3", "--alpha-lr", "0.1", "--edges-kept", "2"]
    assert search.main([*common, *words, "--out", "out"]) == 0
    run = ssfnas.load("out")
    assert (run.config.pull, run.config.toward, run.config.edges_kept) == (2.0, [0, 3], 2)
    assert run.metrics[-1]["alpha/pulled"] >= 0
    assert [sum(e[2] == to for e in run.genotype.normal) for to in (2, 3)] == [2, 2]
    assert run.derivation["edges_kept"] == 2
    again = ["--plugins", "my_search.py", "--run", "out", "--derive", "first"]
    assert derive.main([*again, "--edges-kept", "1", "--out", "one.json"]) == 0
    assert len(ssfnas.load("out").genotype.normal) == 4
    forget()
    measured = ["--run", "out", "--derive", "perturbation", "--measure-images", "8"]
    assert refused(capsys, derive.main, *measured).endswith(
        "--derive perturbation measures the supernet of --run out, which needs the code that it "
        "was searched with: add --plugins my_search.py"
    )
    assert not Path("out/derived").exists()
    given = [*measured, "--plugins", "my_search.py", "--epoch", "1"]
    assert "--epoch has no effect" in refused(capsys, derive.main, *given)
    line = refused(capsys, search.main, *common, *mine, "--samples", "3")
    assert "--samples has no effect with --strategy pulled" in line
    line = refused(capsys, search.main, *common[:-1], "--strategy", "random", "--edges-kept", "1")
    assert "--edges-kept has no effect with --strategy random" in line


def test_a_strategy_of_a_users(plugin, small_npz, capsys):
    words = ["--plugins", "my_strategy.py", "--strategy", "cooled", *SEARCH]
    assert "--coldest" in refused(capsys, search.main, *words, "--coldest", "0")
    assert (
        search.main([*words, "--coldest", "0.5", "--out", "run", "--dataset", str(small_npz)]) == 0
    )
    run = ssfnas.load("run")
    logged = [row["strategy/temperature"] for row in run.metrics]
    assert logged[0] == 2.0
    last = torch.from_numpy(run.alphas["normal"][-1] / logged[-1]).softmax(dim=1)
    torch.testing.assert_close(torch.from_numpy(run.alphas["weights_normal"][-1]), last)


def test_what_is_no_strategy_is_one_line(plugin, small_npz, capsys):
    Path("old.py").write_text(
        "from ssfnas.strategies import STRATEGIES\n\n"
        "@STRATEGIES.register('cooled')\ndef old(alphas, config):\n    return lambda: {}\n"
    )
    words = ["--plugins", "old.py", "--strategy", "cooled", "--dataset", str(small_npz), *SEARCH]
    line = refused(capsys, search.main, *words, "--out", "run")
    assert "what a plugin registers is a class of ssfnas.strategies.SearchStrategy" in line
    assert not Path("run").exists()
