"""``python -m benchmarks.search_step``: one whole step of a search, usual code against ours.

Checks that all variants compute the same losses and gradients, times those that do, and writes
``benchmarks/results/<device>-search-step.md``. Exit code 1 if a variant was wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import torch

from benchmarks import commandline, pages, step_page
from benchmarks.checks import Results, WorkerError, check
from benchmarks.pages import COMPILED, EAGER
from benchmarks.step_page import Measured, StepRow
from benchmarks.step_variants import DTYPES, FAST, GRAPHED, TRUTH, UNITS, VARIANTS, StepVariant
from benchmarks.step_worker import Worker
from benchmarks.timing import ceilings, time_in_turn
from ssfnas.config import SearchConfig
from ssfnas.errors import RequestError
from ssfnas.runtime.precision import check_precision

_PROFILED = (EAGER, FAST)
_KINKS = 1e-2
_EXACT = 1e-9


def _widths(text: str) -> list[int]:
    widths = [int(part) for part in text.split(",")]
    if min(widths) < 1:
        raise argparse.ArgumentTypeError("widths have to be at least 1")
    return widths


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    defaults = SearchConfig()
    at_least = commandline.at_least
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search_step", description=__doc__)
    add = parser.add_argument
    add("--objective", nargs="+", choices=("supervised", "ssl"), default=["supervised", "ssl"])
    add("--device", default="auto", type=commandline.device, help=", ".join(commandline.DEVICES))
    add("--channels", type=at_least(2), default=defaults.channels, help="of the first cell")
    add("--layers", type=at_least(1), default=defaults.layers, help="cells")
    add("--batch-size", type=at_least(2), help="default: 32 on a CPU, 128 on a GPU")
    add("--projector", type=_widths, default=defaults.projector, metavar="WIDTH,...")
    add(
        "--checked-images",
        type=at_least(2),
        help="of a batch that results are checked on, also in float64, which needs much memory; "
        "default: 8 on a CPU, 32 on a GPU",
    )
    add(
        "--rounds",
        type=at_least(1),
        help="timings of each variant; default: 5 on a CPU, 30 on a GPU",
    )
    add("--precision", default="fp32", choices=tuple(DTYPES))
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
        type=at_least(1, float),
        help="most seconds that compiling may take; default: 3600 on a CPU, 900 on a GPU",
    )
    add("--profile", action="store_true", help="also write where the time of a step goes")
    add("--results", type=Path, default=commandline.RESULTS, help="folder to write to")
    arguments = parser.parse_args(argv)
    on_gpu = arguments.device.type == "cuda"
    for name, on_cpu, otherwise in (
        ("batch_size", 32, 128),
        ("checked_images", 8, 32),
        ("rounds", 5, 30),
        ("compile_seconds", 3600.0, 900.0),
    ):
        if getattr(arguments, name) is None:
            setattr(arguments, name, otherwise if on_gpu else on_cpu)
    arguments.checked_images = min(arguments.checked_images, arguments.batch_size)
    try:
        check_precision(arguments.precision, arguments.device)
    except RequestError as error:
        parser.error(str(error))
    return arguments


def check_step(
    variant: str, found: Results, plain: Results, truth: Results, precision: str
) -> None:
    """Refuse a variant whose error is larger than twice the reference's, plus a constant.

    The constant of a loss is many roundings: the weights' loss comes after a step of Adam, which
    turns small differences of small gradients into steps. A gradient's is larger: where a rounding
    moves a value over the kink of a ReLU or a maximum to another place, one summand of many
    changes. What that could hide, :func:`_check_exactly` finds.

    Args:
        variant: its name.
        found, plain, truth: losses and gradients of the variant, of the reference in the same
            precision, and of the reference in float64.
        precision: ``"fp32"`` or ``"bf16"``.

    Raises:
        WrongResultError: names the result and both errors.
    """
    roundings = torch.finfo(DTYPES[precision]).eps * (1024 if precision == "fp32" else 4)

    def granted(name: str) -> float:
        return roundings if name.endswith("loss") else _KINKS

    check(variant, found, plain, truth, granted, precision)


def _check_exactly(variant: str, found: Results, truth: Results) -> None:
    """Refuse a variant that differs from the reference where both compute in float64."""
    check(variant, found, truth, truth, lambda _: _EXACT, "float64")


def _say(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)


def _variants(arguments: argparse.Namespace) -> dict[str, StepVariant]:
    variants = dict(VARIANTS)
    if arguments.device.type != "cuda":
        del variants[GRAPHED]
    if arguments.no_compile:
        del variants[COMPILED]
    else:
        unit = UNITS[arguments.compile_unit]
        variants[COMPILED] = dataclasses.replace(variants[COMPILED], prepare=unit)
    return variants


def measure(
    objective: str, config: SearchConfig, arguments: argparse.Namespace, cache: str
) -> Measured:
    """Check and time all variants with one objective.

    Raises:
        WorkerError: the reference itself cannot be computed.
    """
    config = dataclasses.replace(config, objective=objective)

    def worker(variant: StepVariant) -> closing[Worker]:
        device = arguments.device.type
        return closing(Worker(cache, variant, config, device, arguments.checked_images))

    variants = _variants(arguments)
    rows = {name: StepRow(name) for name in variants}
    _say(f"{objective}: {TRUTH.name}")
    with worker(TRUTH) as exact:
        truth = exact.ask("gradients")
    _say(f"{objective}: {FAST}, float64")  # compiling once more for that would take too long
    with worker(dataclasses.replace(variants[FAST], exact=True)) as exact:
        rows[FAST].attempt(lambda: _check_exactly(FAST, exact.ask("gradients"), truth))
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(worker(variant))
            for name, variant in variants.items()
            if not rows[name].note
        }
        plain: Results | None = None
        for name, one in workers.items():
            _say(f"{objective}: {name}")
            row, limit = rows[name], arguments.compile_seconds if name == COMPILED else None
            start = time.perf_counter()
            found = row.attempt(partial(one.ask, "first_gradients", limit))
            if not row.note:
                row.warm_up = time.perf_counter() - start
                plain = plain or found
                row.attempt(partial(check_step, name, found, plain, truth, config.precision))
        measured = Measured(objective, rows, workers[EAGER].ask("floor"))
        runs = [(rows[name], partial(one.ask, "seconds")) for name, one in workers.items()]
        time_in_turn(runs, arguments.rounds, lambda ask: ask())
        for name, one in workers.items():
            if rows[name].seconds is not None:
                _count(name, one, measured, arguments.profile)
    return measured


def _count(name: str, worker: Worker, measured: Measured, profiled: bool) -> None:
    """What is not time; memory first, before counting leaves any behind."""
    row = measured.rows[name]
    try:
        row.peak_bytes = worker.ask("peak_bytes")
        if name == FAST:
            measured.data_seconds = worker.ask("data_seconds")
        row.calls = worker.ask("calls")
        if profiled and name in _PROFILED:
            row.spent = worker.ask("spent")
    except WorkerError as error:
        _say(f"{name}: {error}")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; the exit code."""
    arguments = _arguments(argv)
    device, precision = arguments.device, arguments.precision
    reached = ceilings(device, arguments.rounds, DTYPES[precision])
    shared = ("channels", "layers", "batch_size", "projector", "precision")
    config = SearchConfig(**{name: getattr(arguments, name) for name in shared})
    print(f"{pages.device_name(device)}; {pages.versions(device)}")
    objectives = list(dict.fromkeys(arguments.objective))
    suffix = "-search-step" + ("" if precision == "fp32" else f"-{precision}")
    if len(objectives) == 1:
        suffix += f"-{objectives[0]}"
    parts = step_page.preface(config, reached, device.type == "cuda", arguments.compile_unit)
    wrong = False
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        for objective in objectives:
            try:
                measured = measure(objective, config, arguments, cache)
            except WorkerError as error:
                print(f"reference: {error}", file=sys.stderr)
                return 1
            wrong = wrong or any(row.wrong for row in measured.rows.values())
            parts.append(step_page.section(measured, config, reached, device))
            print(f"\n{parts[-1]}", flush=True)
            # After each objective: what is measured is kept if the next one is interrupted.
            path = pages.write_page(
                f"Search step on {pages.device_name(device)}",
                "python -m benchmarks.search_step",
                device,
                parts,
                arguments.results,
                suffix,
            )
    print(f"\nwritten to {path}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
