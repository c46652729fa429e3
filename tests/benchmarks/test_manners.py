"""The benchmark of manners: its page, and what becomes of a process that fails."""

from __future__ import annotations

import os
import shutil

import pytest

from benchmarks import manners
from benchmarks.manners import ALONE, BUSY, COPY, HEADER, ONE, WAITS, Measured, main, section

TINY = ["--channels", "2", "--layers", "1", "--batch-size", "4", "--seconds", "0"]


def rows_of(page):
    lines = [line for line in page.splitlines() if line.startswith("|")][2:]
    cells = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(HEADER, row, strict=True)) for row in cells]


def test_ratios_and_aims():
    default, active = WAITS
    runs = {
        (ALONE, default): Measured("2", "so", [0.1], [0.0]),
        (ALONE, active): Measured("2", "so", [0.1], [0.0]),
        (BUSY, default): Measured("2", "so", [0.22], [1.0]),
        (BUSY, active): Measured("2", "so", [1.0], [1.0]),
        (COPY, default): Measured("2", "so", [0.2, 0.26], [1.0, 1.2]),
    }
    page = section("search", runs)
    rows = rows_of(page)
    assert [row["x alone"] for row in rows] == ["1.00", "1.00", "2.20", "10.00", "2.60"]
    assert rows[-1]["ms a step"] == "200, 260"
    assert rows[-1]["CPUs of others"] == "1.0, 1.2"
    aims = page.splitlines()[-1]
    assert aims == (
        "Aims: beside a busy process at most 2.2 times slower: met; "
        "beside a copy at most 2.5 times slower: missed."
    )


def test_a_process_that_fails_ends_the_command(monkeypatch, capsys):
    monkeypatch.setattr(manners.sys, "executable", shutil.which("false"))
    assert main([*TINY, "--kind", "search"]) == 1
    assert "search: a process ended with exit code 1" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", manners.KINDS)
def test_page(tmp_path, kind):
    before = os.sched_getaffinity(0)
    assert main([*TINY, "--kind", kind, "--results", str(tmp_path)]) == 0
    (path,) = tmp_path.iterdir()
    assert path.name.endswith("-manners.md")
    page = path.read_text()
    assert "GOMP_SPINCOUNT=" in page
    rows = rows_of(page)
    assert [(row["situation"], row["waiting"]) for row in rows] == [
        (situation, wait) for situation in (ALONE, BUSY, COPY, ONE) for wait in WAITS
    ]
    for row in rows:
        assert all(float(each) > 0 for each in row["ms a step"].split(", "))
        assert len(row["ms a step"].split(", ")) == (2 if row["situation"] == COPY else 1)
        if row["situation"] == ONE:
            assert row["threads"].startswith("1 (")
    assert os.sched_getaffinity(0) == before
