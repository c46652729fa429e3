"""How many threads a process computes with: as many as it may use CPUs, not as there are."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from ssfnas.errors import RequestError
from ssfnas.runtime.control_groups import control_groups
from ssfnas.runtime.distributed import processes_of_machine

_MOST_A_CPU = 4

# Whoever set one of these has chosen; torch has read them.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Threads:
    """A number of threads, and why it is that."""

    number: int
    reason: str

    def __str__(self) -> str:
        return f"{self.number} ({self.reason})"


def choose_threads(
    usual: int,
    *,
    usable: int,
    there: int,
    processes: int = 1,
    environ: Mapping[str, str] | None = None,
    root: Path = Path("/"),
) -> Threads:
    """The number of threads for this process.

    Args:
        usual: what torch would take, which counts no core twice for its hyperthreads.
        usable: CPUs that the process may run on.
        there: CPUs of the machine.
        processes: how many of this machine run together and share its CPUs.
        environ: variables of the environment; None: this process'.
        root: where the system's files are found.

    Returns:
        The usual number where a variable says it; otherwise at most that, the CPUs and the quota of
        the process' control groups, divided among the processes, rounded down, and at least 1.
    """
    environ = os.environ if environ is None else environ
    for name in VARIABLES:
        if environ.get(name):
            return Threads(usual, f"{name}={environ[name]}")
    quota = cpu_quota(root)
    most, reason = float(usual), f"torch's choice among {there} CPUs"
    if usable <= most:
        whole = usable >= there
        most, reason = (
            usable,
            f"all {there} CPUs" if whole else f"affinity: {usable} of {there} CPUs",
        )
    if quota < most:
        most, reason = quota, f"quota of the container: {quota:g} CPUs"
    if processes > 1:
        most, reason = most / processes, f"{reason}, shared by {processes} processes"
    return Threads(max(1, math.floor(most)), reason)


def cpu_quota(root: Path = Path("/")) -> float:
    """The CPUs' time that the process' control groups grant it, in CPUs; infinite without a limit.

    The smallest of its own group and all above, of cgroup v1 and v2.

    Args:
        root: where ``proc/self/cgroup`` and ``sys/fs/cgroup`` are found.
    """
    return min(map(_quota_of, control_groups("cpu", root)), default=math.inf)


def _quota_of(group: Path) -> float:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
        else:
            quota, period = (
                (group / f"cpu.cfs_{name}_us").read_text(encoding="utf-8")
                for name in ("quota", "period")
            )
        granted = float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # there is none, or it is "max"
        return math.inf
    return granted if granted > 0 else math.inf  # -1 of v1: no limit


def choice() -> Threads:
    """:func:`choose_threads` of this process.

    Raises:
        RequestError: the environment names no number of processes.
    """
    there = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    return choose_threads(
        torch.get_num_threads(), usable=usable, there=there, processes=processes_of_machine()
    )


@contextmanager
def computing_threads(asked: int | None) -> Iterator[None]:
    """Let torch, and our code with it, compute with ``asked`` threads; the number before afterward.

    Args:
        asked: None: :func:`choice`.

    Raises:
        RequestError: far more than the machine has CPUs; see also :func:`choice`.
    """
    cpus = os.cpu_count() or 1
    if asked is not None and asked > _MOST_A_CPU * cpus:
        raise RequestError(
            f"--threads {asked}: this machine has {cpus} CPUs, and so many would only wait: "
            f"use at most {_MOST_A_CPU * cpus}"
        )
    before = torch.get_num_threads()
    number = asked or choice().number
    if number != before:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        if number != before:
            torch.set_num_threads(before)
