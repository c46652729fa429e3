"""What the README tells people to type does what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from command_words import CONFIGS, MAINS

from ssfnas import evaluate, report
from ssfnas.commandline import parse
from ssfnas.spaces import Genotype

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    """[command, word, ...] of every line that starts one of ours."""
    found = []
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            match = re.search(r"-m\s+ssfnas\.(\w+)(.*)", line.partition(" #")[0])
            if match and match[1] in CONFIGS:
                found.append([match[1], *shlex.split(match[2])])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_shown_parses(page):
    for command, *words in commands(page):
        parse(CONFIGS[command], words, f"ssfnas.{command}", "", default_preset=None)


def test_the_readme_shows_all_commands():
    assert {command for command, *_ in commands(ROOT / "README.md")} == set(CONFIGS)


def test_an_operation_of_ones_own_is_searched_derived_retrained_and_drawn(tmp_path, monkeypatch):
    page = ROOT / "docs" / "extending.md"
    (code,) = [block for block in blocks(page, "python") if block.startswith("# my_ops.py")]
    assert len(code.strip().splitlines()) <= 15
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_ops.py").write_text(code)
    mine = [words for words in commands(page) if "my_ops.py" in words]
    assert [words[0] for words in mine] == ["search", "derive", "retrain"]
    short = {
        "search": ["--steps", "1", "--no-knn", "--channels", "2"],
        "derive": [],
        "retrain": ["--steps", "1", "--channels", "2"],
    }
    for command, *words in mine:
        assert MAINS[command]([*words, *short[command]]) == 0
    found = Genotype.load("runs/my-ops")
    used = {name for cell in ("normal", "reduce") for name, _, _ in found.edges(cell)}
    assert used <= {"conv_3x3", "sep_conv_3x3", "skip_connect"}
    assert "conv_3x3" in used
    drawn = [Path(f"runs/my-net/genotype_{cell}.svg").read_text() for cell in ("normal", "reduce")]
    assert any("conv_3x3" in picture or "conv 3x3" in picture for picture in drawn)
    assert evaluate.main(["--run", "runs/my-net", "--plugins", "my_ops.py"]) == 0
    assert report.main(["--run", "runs/my-ops", "runs/my-net", "--out", "both.html"]) == 0
    assert "conv" in Path("both.html").read_text()
