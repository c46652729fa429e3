"""``python -m benchmarks.search_step``: one whole step of a search, usual code against ours.

Checks that all variants compute the same losses and gradients, times those that do, and writes
``benchmarks/results/<device>-search-step.md``. Exit code 1 if a variant was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import Iterator, Mapping

from benchmarks import commandline, pages, search_page
from benchmarks.checks import WorkerError
from benchmarks.pages import COMPILED, EAGER
from benchmarks.search_page import Measured
from benchmarks.search_runner import SearchRunner
from benchmarks.step_arguments import parse_step, step_parser, use_threads
from benchmarks.step_counts import Floor
from benchmarks.step_measure import chosen, measure, report
from benchmarks.step_page import StepRow
from benchmarks.step_variants import (
    DTYPES,
    FAST,
    GRAPHED,
    StepVariant,
    compile_cells,
    compile_edges,
)
from benchmarks.step_worker import Worker
from benchmarks.timing import Ceilings, ceilings
from ssfnas.config import SearchConfig

UNITS = {"cell": compile_cells, "edge": compile_edges}
VARIANTS = {
    EAGER: StepVariant(EAGER, "reference"),
    COMPILED: StepVariant(COMPILED, "reference"),
    FAST: StepVariant(FAST, "fast"),
    GRAPHED: StepVariant(GRAPHED, "fast", graphed=True),
}


def _widths(text: str) -> list[int]:
    widths = [int(part) for part in text.split(",")]
    if min(widths) < 1:
        raise argparse.ArgumentTypeError("widths have to be at least 1")
    return widths


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    defaults = SearchConfig()
    at_least = commandline.at_least
    units = (
        "a whole cell, once for all equal ones, which takes many minutes, or the candidates of one "
        "edge and their weighted sum, once for all edges of equal sizes"
    )
    parser = step_parser("benchmarks.search_step", __doc__, UNITS, "edge", units)
    add = parser.add_argument
    add("--objective", nargs="+", choices=("supervised", "ssl"), default=["supervised", "ssl"])
    add("--channels", type=at_least(2), default=defaults.channels, help="of the first cell")
    add("--layers", type=at_least(1), default=defaults.layers, help="cells")
    add("--batch-size", type=at_least(2), help="default: 32 on a CPU, 128 on a GPU")
    add("--projector", type=_widths, default=defaults.projector, metavar="WIDTH,...")
    arguments = parse_step(parser, argv, batch_size=(32, 128))
    arguments.checked_images = min(arguments.checked_images, arguments.batch_size)
    return arguments


def _variants(arguments: argparse.Namespace) -> dict[str, StepVariant]:
    left_out = [GRAPHED] if arguments.device.type != "cuda" else []
    variants = chosen(VARIANTS, [*left_out, *([COMPILED] if arguments.no_compile else [])])
    if COMPILED in variants:
        unit = UNITS[arguments.compile_unit]
        variants[COMPILED] = dataclasses.replace(variants[COMPILED], prepare=unit)
    return variants


def _asked(workers: Mapping[str, Worker]) -> tuple[Floor, float | None]:
    """What a step needs, and the seconds that its batches take."""
    data_seconds = None
    if FAST in workers:
        with contextlib.suppress(WorkerError):  # its row says why
            data_seconds = workers[FAST].ask("data_seconds")
    return workers[EAGER].ask("floor"), data_seconds


def _sections(
    config: SearchConfig, reached: Ceilings, arguments: argparse.Namespace
) -> Iterator[tuple[str, list[StepRow]]]:
    device = arguments.device
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        for objective in dict.fromkeys(arguments.objective):
            own = dataclasses.replace(config, objective=objective)

            def start(variant: StepVariant, own: SearchConfig = own) -> Worker:
                return Worker(
                    cache, SearchRunner, variant, own, device.type, arguments.checked_images
                )

            rows, asked = measure(objective, _variants(arguments), start, arguments, _asked)
            measured = Measured(objective, rows["step"], *asked)
            yield search_page.section(measured, own, reached, device), [*rows["step"].values()]


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; the exit code."""
    arguments = _arguments(argv)
    use_threads(arguments.threads)
    device, precision = arguments.device, arguments.precision
    reached = ceilings(device, arguments.rounds, DTYPES[precision])
    shared = ("channels", "layers", "batch_size", "projector", "precision")
    config = SearchConfig(**{name: getattr(arguments, name) for name in shared})
    print(f"{pages.device_name(device)}; {pages.versions(device)}")
    suffix = "-search-step" + ("" if precision == "fp32" else f"-{precision}")
    if len(objectives := {*arguments.objective}) == 1:
        suffix += f"-{objectives.pop()}"
    preface = search_page.preface(config, reached, device.type == "cuda", arguments.compile_unit)
    sections = _sections(config, reached, arguments)
    return report("Search step", "benchmarks.search_step", arguments, preface, sections, suffix)


if __name__ == "__main__":
    sys.exit(main())
