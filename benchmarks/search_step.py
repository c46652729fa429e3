"""``python -m benchmarks.search_step``: one whole step of a search, usual code against ours.

Checks that all variants compute the same losses and gradients, times those that do, and writes
``benchmarks/results/<device>-search-step.md``. Exit code 1 if a variant was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import report, step_page
from benchmarks.__main__ import RESULTS
from benchmarks.report import Ceilings
from benchmarks.step_compile import UNITS
from benchmarks.step_floor import Floor, bytes_moved
from benchmarks.step_page import FAST, GRAPHED, Measured, Row
from benchmarks.step_runner import StepVariant
from benchmarks.step_worker import Worker, WorkerError
from benchmarks.timing import copy_ceiling, matmul_ceiling
from benchmarks.variants import COMPILED, EAGER, WrongResultError
from ssfnas.config import SearchConfig
from ssfnas.data import load_data, make_views
from ssfnas.errors import RequestError
from ssfnas.objectives import make_search_objective
from ssfnas.runtime.precision import check_precision

TRUTH = StepVariant("reference, float64", "reference", backend="reference", exact=True)
VARIANTS = (
    StepVariant(EAGER, "reference", backend="reference"),
    StepVariant(COMPILED, "reference", backend="reference"),
    StepVariant(FAST, "fast"),
    StepVariant(GRAPHED, "fast", graphed=True),
)
_PROFILED = (EAGER, FAST)
_KINKS = 1e-2
_EXACT = 1e-9
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Results = dict[str, np.ndarray]


def _widths(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    defaults = SearchConfig()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_step", description=__doc__)
    add = parser.add_argument
    add("--objective", nargs="+", choices=("supervised", "ssl"), default=["supervised", "ssl"])
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--channels", type=int, default=defaults.channels, help="of the first cell")
    add("--layers", type=int, default=defaults.layers, help="cells")
    add("--batch-size", type=int, help="default: 32 on a CPU, 128 on a GPU")
    add("--projector", type=_widths, default=defaults.projector, metavar="WIDTH,...")
    add(
        "--checked-images",
        type=int,
        help="of a batch that results are checked on, also in float64, which needs much memory; "
        "default: 8 on a CPU, 32 on a GPU",
    )
    add("--rounds", type=int, help="timings of each variant; default: 5 on a CPU, 30 on a GPU")
    add("--precision", default="fp32", choices=tuple(_DTYPES))
    add("--no-compile", action="store_true", help="leave torch.compile out")
    add(
        "--compile-unit",
        choices=tuple(UNITS),
        default="edge",
        help="what torch.compile gets at a time: a whole cell, each by itself, or the candidates "
        "of one edge and their weighted sum, once for all edges of equal sizes; compiling one cell "
        "takes many minutes",
    )
    add(
        "--compile-seconds",
        type=float,
        help="most seconds that compiling may take; default: 3600 on a CPU, 900 on a GPU",
    )
    add("--profile", action="store_true", help="also write where the time of a step goes")
    add("--results", type=Path, default=RESULTS, help="folder to write to")
    arguments = parser.parse_args(argv)
    if arguments.device == "auto":
        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    on_gpu = arguments.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device is visible")
    if arguments.batch_size is None:
        arguments.batch_size = 128 if on_gpu else 32
    if arguments.compile_seconds is None:
        arguments.compile_seconds = 900.0 if on_gpu else 3600.0
    if arguments.checked_images is None:
        arguments.checked_images = 32 if on_gpu else 8
    arguments.checked_images = min(arguments.checked_images, arguments.batch_size)
    if arguments.rounds is None:
        arguments.rounds = 30 if on_gpu else 5
    least = {"channels": 2, "layers": 1, "batch_size": 2, "checked_images": 2}
    least |= {"rounds": 1, "compile_seconds": 1}
    for name, smallest in least.items():
        if getattr(arguments, name) < smallest:
            parser.error(f"--{name.replace('_', '-')} has to be at least {smallest}")
    if min(arguments.projector) < 1:
        parser.error("--projector: widths have to be at least 1")
    try:
        check_precision(arguments.precision, torch.device(arguments.device))
    except RequestError as error:
        parser.error(str(error))
    return arguments


def check(
    variant: str,
    found: Results,
    plain: Results,
    truth: Results,
    precision: str,
) -> None:
    """Refuse a variant whose error is larger than twice the reference's, plus a constant.

    The constant of a loss is many roundings: the weights' loss comes after a step of Adam, which
    turns small differences of small gradients into steps. A gradient's is larger: where a rounding
    moves a value over the kink of a ReLU or a maximum to another place, one summand of many
    changes. What that could hide, :func:`check_exactly` finds.

    Args:
        variant: its name.
        found, plain, truth: losses and gradients of the variant, of the reference in the same
            precision, and of the reference in float64.
        precision: ``"fp32"`` or ``"bf16"``.

    Raises:
        WrongResultError: names the result and both errors.
    """
    roundings = torch.finfo(_DTYPES[precision]).eps * (1024 if precision == "fp32" else 4)
    for name, exact in truth.items():
        constant = roundings if name.endswith("loss") else _KINKS
        mine, own = (error(one[name], exact) for one in (found, plain))
        if not mine <= 2 * own + constant:
            raise WrongResultError(
                f"{variant}: {name} has error {mine:.1e}, the reference in {precision} {own:.1e}"
            )


def check_exactly(variant: str, found: Results, truth: Results) -> None:
    """Refuse a variant that differs from the reference where both compute in float64.

    Raises:
        WrongResultError: names the result and its error.
    """
    for name, exact in truth.items():
        mine = error(found[name], exact)
        if not mine <= _EXACT:
            raise WrongResultError(f"{variant}: {name} in float64 has error {mine:.1e}")


def error(x: np.ndarray, truth: np.ndarray) -> float:
    """Relative, by norm."""
    return float(np.linalg.norm(x - truth) / max(float(np.linalg.norm(truth)), 1e-30))


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def measure(
    objective: str, config: SearchConfig, arguments: argparse.Namespace, cache: str
) -> Measured:
    """Check and time all variants with one objective.

    Raises:
        WorkerError: the reference itself cannot be computed.
    """
    place = (config, arguments.device, cache, arguments.checked_images)
    _say(f"{objective}: {TRUTH.name}")
    with contextlib.closing(Worker(TRUTH, *place)) as worker:
        truth = worker.ask("gradients")
    views = _views(config)
    rows = [Row(variant.name) for variant in VARIANTS]
    if arguments.device != "cuda":
        rows = [row for row in rows if row.variant != GRAPHED]
    if arguments.no_compile:
        rows = [row for row in rows if row.variant != COMPILED]
    _check_exactly(rows, truth, place)
    data = load_data(config)
    moved = bytes_moved(config, data.image_size, views, _DTYPES[config.precision])
    with contextlib.ExitStack() as stack:
        workers = {
            row.variant: stack.enter_context(
                contextlib.closing(_worker_of(row, arguments.compile_unit, place))
            )
            for row in rows
            if not row.note
        }
        plain: Results | None = None
        for row in rows:
            if row.note:
                continue
            _say(f"{objective}: {row.variant}")
            limit = arguments.compile_seconds if row.variant == COMPILED else None
            try:
                start = time.perf_counter()
                found = workers[row.variant].ask("first_gradients", limit)
                row.warm_up = time.perf_counter() - start
                plain = found if plain is None else plain
                check(row.variant, found, plain, truth, config.precision)
            except WrongResultError as error:
                row.note = f"WRONG: {error}"
            except WorkerError as error:
                row.note = f"failed: {error}"
        measured = Measured(
            objective, views, rows, Floor(moved, workers[EAGER].ask("multiply_adds"))
        )
        _time(rows, workers, arguments.rounds)
        for row in rows:
            if row.seconds is not None:
                _count(row, workers[row.variant], measured, arguments.profile)
    return measured


def _variant(row: Row) -> StepVariant:
    return next(variant for variant in VARIANTS if variant.name == row.variant)


def _worker_of(row: Row, compile_unit: str, place: tuple[Any, ...]) -> Worker:
    variant = _variant(row)
    if row.variant == COMPILED:
        variant = dataclasses.replace(variant, prepare=UNITS[compile_unit])
    return Worker(variant, *place)


def _check_exactly(rows: list[Row], truth: Results, place: tuple[Any, ...]) -> None:
    """Note which variants are wrong in float64; compiling once more for that takes too long."""
    for row in rows:
        if row.variant in (EAGER, COMPILED, GRAPHED):
            continue
        _say(f"{row.variant}, float64")
        try:
            exact = dataclasses.replace(_variant(row), exact=True)
            with contextlib.closing(Worker(exact, *place)) as worker:
                check_exactly(row.variant, worker.ask("gradients"), truth)
        except WrongResultError as error:
            row.note = f"WRONG: {error}"
        except WorkerError as error:
            row.note = f"failed: {error}"


def _views(config: SearchConfig) -> int:
    objective = make_search_objective(
        config.objective, num_features=1, num_classes=2, multi_label=False, projector=(1,)
    )
    return make_views(objective.views, image_size=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3).count


def _time(rows: list[Row], workers: dict[str, Worker], rounds: int) -> None:
    """Medians of whole steps, the variants in turn."""
    times: dict[str, list[float]] = {row.variant: [] for row in rows}
    for number in range(rounds + 1):
        for row in rows:
            if row.note:
                continue
            try:
                taken = workers[row.variant].ask("seconds")
            except WorkerError as error:
                row.note = f"failed: {error}"
                continue
            if number > 0:
                times[row.variant].append(taken)
    for row in rows:
        if not row.note:
            row.seconds = statistics.median(times[row.variant])


def _count(row: Row, worker: Worker, measured: Measured, profiled: bool) -> None:
    """What is not time; memory first, before counting leaves any behind."""
    try:
        row.peak_bytes = worker.ask("peak_bytes")
        if row.variant == FAST:
            measured.data_seconds = worker.ask("data_seconds")
        row.calls = worker.ask("calls")
        if profiled and row.variant in _PROFILED:
            row.spent = worker.ask("spent")
    except WorkerError as error:
        _say(f"{row.variant}: {error}")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; the exit code."""
    arguments = _arguments(argv)
    device = torch.device(arguments.device)
    dtype = _DTYPES[arguments.precision]
    ceilings = Ceilings(
        copy_ceiling(device, arguments.rounds), matmul_ceiling(device, arguments.rounds, dtype)
    )
    config = SearchConfig(
        channels=arguments.channels,
        layers=arguments.layers,
        batch_size=arguments.batch_size,
        projector=arguments.projector,
        precision=arguments.precision,
    )
    print(f"{report.device_name(device)}; {report.versions(device)}")
    suffix = "-search-step" + ("" if arguments.precision == "fp32" else f"-{arguments.precision}")
    if len(set(arguments.objective)) == 1:
        suffix += f"-{arguments.objective[0]}"
    all_measured: list[Measured] = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        for objective in dict.fromkeys(arguments.objective):
            config.objective = objective
            try:
                measured = measure(objective, config, arguments, cache)
            except WorkerError as error:
                print(f"reference: {error}", file=sys.stderr)
                return 1
            section = step_page.section(measured, config, ceilings, report.tf32(device))
            print(f"\n{section}", flush=True)
            all_measured.append(measured)
            # After each objective: what is measured is kept if the next one is interrupted.
            page = step_page.document(
                all_measured, config, ceilings, device, arguments.compile_unit
            )
            path = report.write(page, device, arguments.results, suffix)
    print(f"\nwritten to {path}")
    wrong = any(row.note.startswith("WRONG") for each in all_measured for row in each.rows)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
