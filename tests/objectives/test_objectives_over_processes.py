"""Two processes on halves of a batch equal one process on the whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from objectives_of_a_rank import run

# Two processes compute for all tests, once.
pytestmark = pytest.mark.xdist_group("objectives-over-processes")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("objectives_of_a_rank.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), "2", folder / "meeting", folder / f"{rank}.pt"],
            env=environment,
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture
def _double():
    before = torch.get_default_dtype()
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("name", ["supervised", "ssl", "joint", "mixed"])
def test_halves_equal_the_whole(ranks, name):
    whole = run(name, slice(None), None)
    assert float(whole["gradient"].norm()) > 1e-3
    for part in ("loss", "gradient"):
        mean = (ranks[0][name][part] + ranks[1][name][part]) / 2
        torch.testing.assert_close(mean, whole[part], rtol=1e-11, atol=1e-12)
