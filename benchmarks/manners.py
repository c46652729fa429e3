"""``python -m benchmarks.manners``: how training gets on with others on the same processor.

Times steps of a small search and of a small retraining by themselves, beside a busy process, beside
a copy of themselves and on one CPU, and writes ``benchmarks/results/<device>-manners.md``. The
machine should have nothing else to do; the page says how far that was so.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks import commandline, pages
from ssfnas.runtime import threads, waiting

KINDS = ("search", "retrain")
WAITS = {"as ssfnas sets it": {}, "OMP_WAIT_POLICY=ACTIVE": {"OMP_WAIT_POLICY": "ACTIVE"}}
ALONE, BUSY, COPY, ONE = "alone", "beside a busy process", "beside a copy", "one CPU"
SITUATIONS = (ALONE, BUSY, COPY, ONE)
HEADER = ("situation", "waiting", "threads", "ms a step", "x alone", "CPUs of others")
# How many times slower than alone; 80% of half the speed are 2.5.
AIMS = {BUSY: 2.2, COPY: 2.5}
_ROOT = Path(__file__).parents[1]


@dataclass
class Measured:
    """What the copies of one run said.

    Attributes:
        threads, waiting: how it computed, with reasons.
        seconds: of a step, of each copy.
        others: CPUs that all other processes kept busy meanwhile, seen from each copy.
    """

    threads: str = ""
    waiting: str = ""
    seconds: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    at_least = commandline.at_least
    parser = argparse.ArgumentParser(prog="python -m benchmarks.manners", description=__doc__)
    add = parser.add_argument
    add("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    add("--channels", type=at_least(2), default=8, help="of the first cell")
    add("--layers", type=at_least(1), default=4, help="cells")
    add("--batch-size", type=at_least(2), default=32)
    add("--seconds", type=at_least(0, float), default=5.0, help="how long each run is timed")
    add("--results", type=Path, default=commandline.RESULTS, help="folder to write to")
    return parser.parse_args(argv)


@contextmanager
def _on_one_cpu(wanted: bool) -> Iterator[None]:
    """Processes that are started here may use one CPU alone."""
    before = os.sched_getaffinity(0)
    if wanted:
        os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def _started(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, env=environment, cwd=_ROOT, stdin=pipe, stdout=pipe, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def measure(
    kind: str, situation: str, variables: dict[str, str], arguments: argparse.Namespace
) -> Measured:
    """One run: its processes are made ready, then timed together.

    Raises:
        RuntimeError: one of them ended early; it has said why.
    """
    chosen = (*waiting.VARIABLES, *threads.VARIABLES)
    environment = {name: value for name, value in os.environ.items() if name not in chosen}
    sizes = (arguments.channels, arguments.layers, arguments.batch_size, arguments.seconds)
    command = [sys.executable, "-m", "benchmarks.manners_worker", kind, *map(str, sizes)]
    with ExitStack() as stack:
        with _on_one_cpu(situation == ONE):
            workers = [
                stack.enter_context(_started(command, environment | variables))
                for _ in range(2 if situation == COPY else 1)
            ]
        how = [_said_by(worker) for worker in workers]
        if situation == BUSY:
            loop = [sys.executable, "-c", "while True: pass"]
            stack.enter_context(_started(loop, environment))
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        found = [_said_by(worker) for worker in workers]
    seconds, others = ([float(each[name]) for each in found] for name in ("seconds", "others"))
    return Measured(str(how[0]["threads"]), str(how[0]["waiting"]), seconds, others)


def _said_by(worker: subprocess.Popen[str]) -> dict[str, str | float]:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        raise RuntimeError(f"a process ended with exit code {worker.wait()}")
    said: dict[str, str | float] = json.loads(line)
    return said


def section(kind: str, runs: dict[tuple[str, str], Measured]) -> str:
    """Heading, table and aims of a kind of training; runs by situation and wait."""
    body, verdicts = [], []
    for (situation, wait), run in runs.items():
        ratio = max(run.seconds) / runs[ALONE, wait].seconds[0]
        body.append(
            (
                situation,
                wait,
                run.threads,
                ", ".join(f"{1e3 * each:.0f}" for each in run.seconds),
                f"{ratio:.2f}",
                ", ".join(f"{each:.1f}" for each in run.others),
            )
        )
        if situation in AIMS and not WAITS[wait]:
            met = "met" if ratio <= AIMS[situation] else "missed"
            verdicts.append(f"{situation} at most {AIMS[situation]} times slower: {met}")
    return "\n\n".join(
        [f"## {kind}", pages.markdown(HEADER, body), f"Aims: {'; '.join(verdicts)}."]
    )


def _preface(arguments: argparse.Namespace, how: str) -> list[str]:
    setting = (
        f"{arguments.channels} channels, {arguments.layers} cells, batch {arguments.batch_size}. "
        f"Waiting as ssfnas sets it: {how}."
    )
    caveat = (
        "Each run is a process of its own, waits in turn; median of the steps of "
        f"{arguments.seconds:g} s, first steps left out. Two copies are ready before both are "
        "timed; the slower one counts. The busy process is a loop in Python. One CPU stands for a "
        "quota of one core, emulated by affinity: a real quota stops a process for parts of a "
        "period, which this does not. CPUs of others: what all other processes of the machine "
        "kept busy meanwhile, the second one of the run included; by itself it should be 0."
    )
    return [setting, caveat]


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; the exit code."""
    arguments = _arguments(argv)
    device = torch.device("cpu")
    parts: list[str] = []
    path = arguments.results
    for kind in arguments.kind:
        runs = {}
        for situation in SITUATIONS:
            for wait, variables in WAITS.items():
                print(f"  {kind}: {situation}, {wait}", file=sys.stderr, flush=True)
                try:
                    runs[situation, wait] = measure(kind, situation, variables, arguments)
                except RuntimeError as error:
                    print(f"{kind}: {error}", file=sys.stderr)
                    return 1
        if not parts:
            parts += _preface(arguments, next(iter(runs.values())).waiting)
        parts.append(section(kind, runs))
        print(f"\n{parts[-1]}", flush=True)
        # After each kind: what is measured is kept if the next one is interrupted.
        path = pages.write_page(
            f"Manners on {pages.device_name(device)}",
            "python -m benchmarks.manners",
            device,
            parts,
            arguments.results,
            "-manners",
        )
    print(f"\nwritten to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
