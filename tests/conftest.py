"""Small data sets and settings that many tests share."""

from __future__ import annotations

import os
from pathlib import Path

# Where tests run side by side, each has a core, and so have the processes that it starts.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import pytest
import torch
from image_files import write_npz


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run tests side by side, where pytest-xdist is there and nobody asked otherwise."""
    option = config.option
    if hasattr(config, "workerinput"):  # this is one of those processes
        return
    if config.pluginmanager.hasplugin("xdist") and option.numprocesses is None:
        option.numprocesses, option.maxprocesses, option.dist = "auto", 8, "loadgroup"


@pytest.fixture(autouse=True)
def _leave_global_generators_alone():
    """Give the global generators back to the next test as this one found them."""
    before = torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()  # noqa: NPY002
    yield
    if not torch.equal(before, torch.get_rng_state()) or not np.array_equal(
        numpy_before,
        np.random.get_state()[1],  # noqa: NPY002
    ):
        torch.set_rng_state(before)


@pytest.fixture
def small_npz(tmp_path: Path) -> Path:
    """Four classes of 16, 12, 8 and 4 colored 8x8 images."""
    return write_npz(tmp_path / "small.npz", (16, 12, 8, 4))
