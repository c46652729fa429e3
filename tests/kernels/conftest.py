"""Runs the kernels' tests where each can run, and reports them as if they had run here.

Triton decides at import whether kernels are interpreted or compiled, for the whole process. So
tests that need the interpreter, and tests that compile for GPUs that may not be there, each run
together in one child pytest, whose reports are handed on by this one; ``-k``, ``-m`` and single
tests work as always. Tests marked ``gpu`` run in this process.

A test that takes ``device`` is run twice: on the CPU in the interpreter, and on the GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

CHILD = "SSFNAS_KERNEL_TESTS"
REPORTS = "SSFNAS_KERNEL_TEST_REPORTS"
MODES = {"interpreter": {"TRITON_INTERPRET": "1"}, "compiler": {"TRITON_INTERPRET": "0"}}

_reports = pytest.StashKey[dict[str, dict[str, list[pytest.TestReport]]]]()
_config: pytest.Config | None = None


def pytest_configure(config: pytest.Config) -> None:
    global _config
    _config = config
    config.addinivalue_line("markers", "interpreter: runs in Triton's interpreter, in a child")
    config.addinivalue_line("markers", "compiler: compiles for other machines' GPUs, in a child")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "device" in metafunc.fixturenames:
        places = [
            pytest.param("cpu", marks=pytest.mark.interpreter),
            pytest.param("cuda", marks=pytest.mark.gpu),
        ]
        metafunc.parametrize("device", places)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None:
        return
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if os.environ.get("TRITON_INTERPRET", "0") != "0":
        pytest.skip("kernels are interpreted in this process")


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill new tensors with NaN, so that a place nobody wrote is seen."""

    def poisoned(make):
        def filled(*args, **kwargs):
            out = make(*args, **kwargs)
            return out.fill_(float("nan")) if out.is_floating_point() else out

        return filled

    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, poisoned(getattr(torch, name)))


def _mode(item: pytest.Item) -> str | None:
    return next((mode for mode in MODES if item.get_closest_marker(mode)), None)


def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    mode = _mode(item)
    if mode is None or os.environ.get(CHILD) == mode:
        return None
    stash = item.config.stash.setdefault(_reports, {})
    if mode not in stash:
        stash[mode] = _run_child(item.session, mode)
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in stash[mode].get(item.nodeid) or [_lost(item, mode)]:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    # What an earlier test of this process set up for its module would else outlive the module.
    item.session._setupstate.teardown_exact(nextitem)
    return True


def _run_child(session: pytest.Session, mode: str) -> dict[str, list[pytest.TestReport]]:
    config = session.config
    names = [item.nodeid for item in session.items if _mode(item) == mode]
    with tempfile.TemporaryDirectory() as folder:
        selection, results = Path(folder, "tests.txt"), Path(folder, "reports.jsonl")
        selection.write_text("\n".join(names))
        results.touch()
        options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-o", "addopts="]
        options.append(f"--rootdir={config.rootpath}")
        if config.inipath is not None:
            options.append(f"--config-file={config.inipath}")
        environment = {**os.environ, **MODES[mode], CHILD: mode, REPORTS: str(results)}
        child = subprocess.run(
            [sys.executable, "-m", "pytest", *options, f"@{selection}"],
            cwd=config.rootpath,
            env=environment,
            capture_output=True,
            text=True,
        )
        lines = results.read_text().splitlines()
    found: dict[str, list[pytest.TestReport]] = {}
    for line in lines:
        data = json.loads(line)
        report = config.hook.pytest_report_from_serializable(config=config, data=data)
        found.setdefault(report.nodeid, []).append(report)
    config.stash[_output] = {
        **config.stash.get(_output, {}),
        mode: f"exit code {child.returncode}\n{child.stdout[-4000:]}\n{child.stderr[-4000:]}",
    }
    return found


_output = pytest.StashKey[dict[str, str]]()


def _lost(item: pytest.Item, mode: str) -> pytest.TestReport:
    """The report of a test on which the child gave none: it crashed before."""
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={},
        outcome="failed",
        longrepr=f"the child process ({mode}) has no report: {item.config.stash[_output][mode]}",
        when="call",
    )


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    path = os.environ.get(REPORTS)
    if path is None or os.environ.get(CHILD) is None:
        return
    assert _config is not None
    data = _config.hook.pytest_report_to_serializable(config=_config, report=report)
    with open(path, "a") as file:
        file.write(json.dumps(data) + "\n")


@pytest.fixture
def rng(device: str) -> Iterator[torch.Generator]:
    """Random numbers of one test; drawn on the CPU, the same on every device."""
    return torch.Generator().manual_seed(20240616)
