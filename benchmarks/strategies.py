"""``python -m benchmarks.strategies``: what each search strategy costs.

For each strategy: whether the fast supernet searches as the reference does (float64, a few steps of
a small supernet), the time and memory of a step in both, and a whole ``quick`` search, which is
then killed in its middle and gone on with. Writes ``benchmarks/results/<device>-strategies.md``.
Exit code 1 if one was wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import commandline, pages
from benchmarks.checks import error
from benchmarks.step_arguments import use_threads
from benchmarks.step_page import StepRow
from benchmarks.step_variants import DTYPES, FAST, StepVariant
from benchmarks.step_worker import Worker
from benchmarks.strategy_runner import StrategyRunner
from benchmarks.timing import time_in_turn
from ssfnas.config import SearchConfig
from ssfnas.declarations.strategies import STRATEGIES

YARDSTICK = "darts"
_EXACT = 1e-7  # of alphas after a few steps of Adam, relative
REFERENCE = "reference"
FORMS = {form: StepVariant(form, form) for form in (FAST, REFERENCE)}
HEADER = (
    *("strategy", "ms fast", "ms reference", "x reference", f"of {YARDSTICK}", "peak MB"),
    *("peak MB, reference", "quick, s", "operations left", "resumed to the same bits"),
)
SMALL = {"channels": 8, "layers": 3, "nodes": 2, "batch_size": 8}
Changes = dict[str, int | float | str]


def searched() -> dict[str, Changes]:
    """Rows of the table: how a search is called -> what its config changes."""
    names = [name for name in STRATEGIES if STRATEGIES.get(name).trains_alphas]
    rows: dict[str, Changes] = {name: {"strategy": name} for name in names}
    rows["fairdarts, K = 4"] = {"strategy": "fairdarts", "partial_channels": 4}
    rows["fairdarts, closing"] = {
        "strategy": "fairdarts", "close_below": 0.47, "close_after": 0, "close_patience": 1,
    }  # fmt: skip
    return rows


@dataclasses.dataclass
class Quick:
    """A whole small search.

    Attributes:
        seconds: it took.
        left: operations that were left at its end, and how many there were.
        same: whether one that was killed and gone on with ended with the same bits.
    """

    seconds: float
    left: tuple[int, int]
    same: bool


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    at_least = commandline.at_least
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strategies", description=__doc__)
    add = parser.add_argument
    rows = list(searched())
    add("--strategy", nargs="+", choices=rows, default=rows)
    add("--device", default="auto", type=commandline.device, help=", ".join(commandline.DEVICES))
    add("--objective", default="supervised", choices=("supervised", "ssl", "joint"))
    add("--channels", type=at_least(4), default=16, help="of the first cell")
    add("--layers", type=at_least(1), default=8, help="cells")
    add("--batch-size", type=at_least(2), default=32)
    add("--precision", default="fp32", choices=tuple(DTYPES))
    add("--rounds", type=at_least(1), default=3, help="timings of each")
    add("--threads", type=at_least(1), help="of a process; default: what PyTorch takes")
    add("--quick-steps", type=at_least(0), default=65, help="of the quick searches; 0: none")
    add("--results", type=Path, default=commandline.RESULTS, help="folder to write to")
    return parser.parse_args(argv)


def check(name: str, config: SearchConfig, start: partial[Worker]) -> str:
    """What is wrong with the fast supernet in a small search; empty where nothing is."""
    found = []
    for variant in FORMS.values():
        with closing(start(dataclasses.replace(variant, exact=True), config)) as worker:
            found.append(worker.ask("gradients"))
    fast, reference = found
    wrong = {key: error(fast[key], value) for key, value in reference.items()}
    worst = max(wrong, key=lambda key: wrong[key])
    return f"WRONG: {name}: {worst} differs by {wrong[worst]:.1e}" if wrong[worst] > _EXACT else ""


def quick_search(changes: Changes, steps: int, device: str) -> Quick:
    """Run it whole, then again with a kill in its middle.

    Raises:
        RuntimeError: a search ended with an error.
    """
    given = [f"--{key.replace('_', '-')}={value}" for key, value in changes.items()]
    command = [
        *(sys.executable, "-m", "ssfnas.search", "--preset", "quick", f"--steps={steps}"),
        *(f"--device={device}", "--no-knn", *given),
    ]
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        begin = time.perf_counter()
        _finish([*command, f"--out={whole}"])
        seconds = time.perf_counter() - begin
        _kill_in_the_middle([*command, f"--out={broken}", "--checkpoint-minutes=0.01"], broken)
        _finish([sys.executable, "-m", "ssfnas.search", "--resume", f"--out={broken}"])
        arrays = [dict(np.load(run / "alphas.npz")) for run in (whole, broken)]
    same = arrays[0].keys() == arrays[1].keys() and all(
        np.array_equal(value, arrays[1][key]) for key, value in arrays[0].items()
    )
    left = [arrays[0][f"open_{cell}"][-1] for cell in ("normal", "reduce")]
    return Quick(seconds, (sum(int(m.sum()) for m in left), sum(m.size for m in left)), same)


def _finish(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])


def _kill_in_the_middle(command: list[str], run: Path) -> None:
    """Kill the search once it has written a checkpoint of its own steps."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            steps = [int(file.name.split("-")[1]) for file in run.glob("checkpoints/step-*.pt")]
            if max(steps, default=0) > 0:
                process.kill()
            time.sleep(0.05)


def measure(
    name: str, changes: Changes, arguments: argparse.Namespace, yardstick: Worker
) -> tuple[tuple[str, ...], bool]:
    """A row of the table, and whether its results were right."""
    say = partial(print, file=sys.stderr, flush=True)
    device = arguments.device.type
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:

        def start(variant: StepVariant, config: SearchConfig) -> Worker:
            return Worker(cache, StrategyRunner, variant, config, device)

        say(f"  {name}: check")
        small = SearchConfig(**{"objective": arguments.objective, **SMALL, **changes})
        if problem := check(name, small, partial(start)):
            return (name, problem), False
        say(f"  {name}: time")
        config = config_of(changes, arguments)
        rows = {label: StepRow(label) for label in (*FORMS, YARDSTICK)}
        with ExitStack() as stack:
            workers = {
                form: stack.enter_context(closing(start(variant, config)))
                for form, variant in FORMS.items()
            }
            workers[YARDSTICK] = yardstick
            runs = [(row, partial(workers[label].ask, "seconds")) for label, row in rows.items()]
            time_in_turn(runs, arguments.rounds, lambda ask: ask())
            if failed := next((row.note for row in rows.values() if row.note), ""):
                return (name, failed), False
            peaks = [workers[form].ask("peak_bytes") for form in FORMS]
    seconds = [row.seconds or float("nan") for row in rows.values()]
    row = (
        name,
        *(f"{1e3 * value:.0f}" for value in seconds[:2]),
        f"{seconds[1] / seconds[0]:.2f}",
        f"{seconds[0] / seconds[2]:.2f}",
        *map(pages.megabytes, peaks),
    )
    if not arguments.quick_steps:
        return row, True
    say(f"  {name}: quick search")
    quick = quick_search(changes, arguments.quick_steps, device)
    left, all_of_them = quick.left
    return (
        *row, f"{quick.seconds:.0f}", f"{left} of {all_of_them}", "yes" if quick.same else "NO",
    ), quick.same  # fmt: skip


def config_of(changes: Changes, arguments: argparse.Namespace) -> SearchConfig:
    """The search whose steps are timed."""
    shared = ("objective", "channels", "layers", "batch_size", "precision")
    return SearchConfig(**{name: getattr(arguments, name) for name in shared}, **changes)


def _rows(arguments: argparse.Namespace) -> Iterator[tuple[tuple[str, ...], bool]]:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        own = config_of({"strategy": YARDSTICK}, arguments)
        start = partial(Worker, cache, StrategyRunner, FORMS[FAST], own, arguments.device.type)
        with closing(start()) as yardstick:
            for name in arguments.strategy:
                try:
                    yield measure(name, searched()[name], arguments, yardstick)
                except RuntimeError as failure:
                    yield (name, f"failed: {failure}"), False


def _preface(arguments: argparse.Namespace) -> list[str]:
    quick = (
        f"`quick`: a whole search of the preset, {arguments.quick_steps} steps, loading and report "
        "included; then once more, killed after its first checkpoint and gone on with."
        if arguments.quick_steps
        else "No quick searches were run."
    )
    return [
        f"Batch {arguments.batch_size}, {arguments.channels} channels, {arguments.layers} cells, "
        f"{arguments.objective}, {arguments.precision}. Ms: median of {arguments.rounds} whole "
        "bilevel steps of first order, their batches and draws among them, both forms and a step "
        f"of `{YARDSTICK}` in turn, each in a process of its own. Of {YARDSTICK}: the fast step as "
        "a share of that one. Peak MB: of a step, beside weights, optimizers and batches. " + quick
    ]


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; the exit code."""
    arguments = _arguments(argv)
    use_threads(arguments.threads)
    device = arguments.device
    print(f"{pages.device_name(device)}; {pages.versions(device)}")
    rows: list[tuple[str, ...]] = []
    all_right = True
    for row, right in _rows(arguments):
        rows.append(row)
        all_right = all_right and right
        print("  ".join(row), flush=True)
        # After each: what is measured is kept if the next one is interrupted.
        path = pages.write_page(
            f"Search strategies on {pages.device_name(device)}",
            "python -m benchmarks.strategies",
            device,
            [*_preface(arguments), pages.markdown(HEADER, rows)],
            arguments.results,
            "-strategies" + ("" if arguments.precision == "fp32" else f"-{arguments.precision}"),
        )
    print(f"\nwritten to {path}")
    return 0 if all_right else 1


if __name__ == "__main__":
    sys.exit(main())
