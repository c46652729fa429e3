"""Several processes asked wrongly: the first says so in one line, and all exit with code 2."""

from __future__ import annotations

import subprocess
import sys

import pytest
from command_words import SMALL
from ranks import environments


def on_two_processes(command: str, *words: object) -> list[tuple[int, list[str]]]:
    """(exit code, what it said on stderr besides its progress) of either process."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", f"ssfnas.{command}", *map(str, words)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in environments(2)
    ]
    ends = []
    for process in started:
        _, said = process.communicate(timeout=120)
        lines = [line for line in said.splitlines() if line.startswith("ssfnas.")]
        assert "Traceback" not in said
        ends.append((process.returncode, lines))
    return ends


@pytest.mark.parametrize(
    ("command", "words", "expected"),
    [
        ("search", ["--mu", "2"], "--mu has no effect"),
        ("search", ["--batch-size", "15"], "--batch-size 15 cannot be shared by 2 processes"),
        ("search", ["--dataset", "absent.npz"], "absent.npz"),
        ("search", ["--operations", "sep_conv_9x9"], "sep_conv_9x9"),
        ("search", ["--derive", "threshold", "--threshold", "1"], "would be empty"),
        ("retrain", ["--genotype", "absent.json"], "absent.json"),
        ("retrain", ["--genotype", "DARTS_V2", "--batch-size", "2"], "batch normalization"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_all_find_is_said_once(small_npz, tmp_path, command, words, expected):
    settings = SMALL if command == "search" else ["--device", "cpu"]
    common = ["--dataset", small_npz, "--out", tmp_path / "out", *settings]
    first, second = on_two_processes(command, *common, *words)
    assert [first[0], second[0]] == [2, 2]
    assert len(first[1]) == 1
    assert expected in first[1][0]
    assert second[1] == []


def test_a_folder_in_use_is_said_once(small_npz, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    first, second = on_two_processes("search", "--dataset", small_npz, "--out", tmp_path, *SMALL)
    assert [first[0], second[0]] == [2, 2]
    assert "not a run" in first[1][0]
    assert second[1] == []
