"""The benchmarks stand beside the package, and are not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))


class Here:
    """A worker in the test's own process, which saves the seconds that starting others takes."""

    def __init__(self, cache, runner, *what):
        self.runner = runner(*what)

    def ask(self, question, *about, seconds=None):
        return getattr(self.runner, question)(*about)

    def close(self):
        pass


@pytest.fixture
def page_of(monkeypatch, tmp_path):
    """What a command writes of variants in this process: the name of the page, and its text."""
    from benchmarks.timing import Ceilings

    def run(command, *argv, code=0):
        monkeypatch.setattr(command, "Worker", Here)
        monkeypatch.setattr(command, "ceilings", lambda *_: Ceilings(1e9, 1e9))
        assert command.main([*argv, "--results", str(tmp_path)]) == code
        (path,) = tmp_path.iterdir()
        return path.name, path.read_text()

    return run
