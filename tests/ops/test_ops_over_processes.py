"""Two processes on shares of a batch equal one process on the whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ops_of_a_rank import CASES, ROWS, fits, values

TOLERANCES = {"rtol": 1e-11, "atol": 1e-12}


# Two processes compute for all tests, once.
pytestmark = pytest.mark.xdist_group("ops-over-processes")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).with_name("ops_of_a_rank.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), "2", folder / "meeting", folder / f"{rank}.pt"],
            env=environment,
        )
        for rank in range(2)
    ]
    codes = [process.wait(timeout=120) for process in processes]
    assert codes == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("case", CASES)
def test_shares_equal_the_whole(ranks, case, rows):
    if not fits(case, rows):
        pytest.skip("a process without rows has no statistics to hand in")
    lengths = ROWS[rows]
    whole = CASES[case](sum(lengths), slice(None), None)
    found = [result[f"{case}, {rows}"] for result in ranks]
    # What every process holds is the same to the bit: alphas must never drift apart.
    assert torch.equal(found[0]["same"], found[1]["same"])
    torch.testing.assert_close(found[0]["same"], whole["same"], **TOLERANCES)
    # The processes' losses have this mean, so averaged gradients have to be those of the mean.
    mean = (found[0]["loss"] + found[1]["loss"]) / 2
    of_whole = whole["loss"] / (2 if "norm" in case else 1)
    torch.testing.assert_close(mean, of_whole, **TOLERANCES)
    factor = float(of_whole / whole["loss"])
    averaged = (found[0]["shared"] + found[1]["shared"]) / 2
    torch.testing.assert_close(averaged, factor * whole["shared"], **TOLERANCES)
    # A row is on one process alone; the other's gradient of it counts as zero in the average.
    gradients = torch.cat([result["rows"] for result in found]) / 2
    torch.testing.assert_close(gradients, factor * whole["rows"], **TOLERANCES)


def test_collectives(ranks):
    xs = [values(2 + rank, 3, seed=rank).requires_grad_() for rank in range(2)]
    found = [result["collectives"] for result in ranks]
    total = xs[0].sum(0) + xs[1].sum(0)
    losses = sum((rank + 1) * total**3 for rank in range(2)).sum()
    firsts = torch.autograd.grad(losses, xs, create_graph=True)
    seconds = torch.autograd.grad(sum((first**2).sum() for first in firsts), xs)
    gathered = torch.cat(xs)
    factors = sum(values(*gathered.shape, seed=20 + rank) for rank in range(2))
    rows = torch.autograd.grad((gathered.sin() * factors).sum(), xs)
    for rank in range(2):
        torch.testing.assert_close(found[rank]["total"], total.detach())
        torch.testing.assert_close(found[rank]["first"], firsts[rank].detach())
        torch.testing.assert_close(found[rank]["second"], seconds[rank])
        assert torch.equal(found[rank]["gathered"], gathered)
        torch.testing.assert_close(found[rank]["rows"], rows[rank])
        torch.testing.assert_close(found[rank]["replicated"], 2 * xs[rank].detach().cos())


def test_one_value_over_all_processes_is_an_error(ranks):
    for result in ranks:
        assert "one value a channel over all processes" in result["error"]
