"""``python -m benchmarks.train_step``: one whole training step, usual code against ours.

The network is that of a published genotype, DARTS_V2; its evaluation is measured as well. Checks
that all variants compute the same loss, gradients and logits, times those that do, and writes
``benchmarks/results/<device>-train-step.md``. Exit code 1 if a variant was wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Iterator, Mapping

from benchmarks import commandline, pages, train_page
from benchmarks.pages import COMPILED
from benchmarks.step_arguments import parse_step, step_parser, use_threads
from benchmarks.step_measure import chosen, measure, report
from benchmarks.step_page import StepRow
from benchmarks.step_variants import (
    DTYPES,
    FAST,
    GRAPHED,
    StepVariant,
    compile_cells,
    compile_network,
)
from benchmarks.step_worker import Worker
from benchmarks.timing import Ceilings, ceilings
from benchmarks.train_counts import Products
from benchmarks.train_page import CHANNELS_LAST, NCHW, PARTS, Measured
from benchmarks.train_runner import OFFERS_GRAPH, TrainRunner
from ssfnas.config import RetrainConfig

UNITS = {"network": compile_network, "cell": compile_cells}
SETTINGS = {
    "small": {"channels": 16, "layers": 8, "batch_size": 96},
    "large": {"channels": 36, "layers": 20, "batch_size": 32},
}
VARIANTS = {
    NCHW: StepVariant(NCHW, "reference", precision="fp32"),
    CHANNELS_LAST: StepVariant(CHANNELS_LAST, "reference", channels_last=True),
    COMPILED: StepVariant(COMPILED, "reference", channels_last=True),
    FAST: StepVariant(FAST, "fast", channels_last=True),
    GRAPHED: StepVariant(GRAPHED, "fast", channels_last=True, graphed=True),
}


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    at_least = commandline.at_least
    units = "the whole network, or a cell, once for all equal ones, which takes less time"
    parser = step_parser("benchmarks.train_step", __doc__, UNITS, "cell", units)
    add = parser.add_argument
    add("--setting", choices=(*SETTINGS, "both"), help="sizes of the network (both)")
    add("--channels", type=at_least(2), help="of the first cell, in place of the setting's")
    add("--layers", type=at_least(1), help="cells, in place of the setting's")
    add("--batch-size", type=at_least(2), help="in place of the setting's")
    arguments = parse_step(parser, argv)
    own = {name: value for name in SETTINGS["small"] if (value := getattr(arguments, name))}
    if own and arguments.setting == "both":
        parser.error("--setting both: sizes replace those of one setting, small or large")
    if own:
        name = arguments.setting or "small"
        arguments.settings = {"own": {**SETTINGS[name], **own}}
    elif arguments.setting in SETTINGS:
        arguments.settings = {arguments.setting: SETTINGS[arguments.setting]}
    else:
        arguments.settings = SETTINGS
    return arguments


def _variants(arguments: argparse.Namespace) -> dict[str, StepVariant]:
    on_gpu = arguments.device.type == "cuda"
    left_out = [] if on_gpu and OFFERS_GRAPH else [GRAPHED]
    variants = chosen(VARIANTS, [*left_out, *([COMPILED] if arguments.no_compile else [])])
    if COMPILED in variants:
        unit = UNITS[arguments.compile_unit]
        variants[COMPILED] = dataclasses.replace(variants[COMPILED], prepare=unit)
    return variants


def _products(workers: Mapping[str, Worker]) -> dict[str, Products]:
    return {part: workers[NCHW].ask("products", part) for part in PARTS}


def _sections(
    config: RetrainConfig, reached: Ceilings, arguments: argparse.Namespace
) -> Iterator[tuple[str, list[StepRow]]]:
    device, variants = arguments.device, _variants(arguments)
    # An evaluation is not recorded.
    timed = {"step": list(variants), "evaluation": [*chosen(variants, [GRAPHED])]}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as cache:
        for title, sizes in arguments.settings.items():
            own = dataclasses.replace(config, **sizes)
            checked = min(arguments.checked_images, own.batch_size)

            def start(
                variant: StepVariant, own: RetrainConfig = own, checked: int = checked
            ) -> Worker:
                return Worker(cache, TrainRunner, variant, own, device.type, checked)

            rows, products = measure(title, variants, start, arguments, _products, timed)
            parts = {part: Measured(rows[part], products[part]) for part in PARTS}
            text = train_page.section(title, parts, own, reached, device)
            yield text, [row for part in rows.values() for row in part.values()]


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; the exit code."""
    arguments = _arguments(argv)
    use_threads(arguments.threads)
    device, precision = arguments.device, arguments.precision
    reached = ceilings(device, arguments.rounds, DTYPES[precision])
    config = RetrainConfig(
        genotype="DARTS_V2",
        loss="ce",
        auxiliary=0.4,
        drop_path=0.2,
        momentum=0.9,
        clip=5.0,
        precision=precision,
    )
    print(f"{pages.device_name(device)}; {pages.versions(device)}")
    suffix = "-train-step" + ("" if precision == "fp32" else f"-{precision}")
    if len(arguments.settings) == 1:
        suffix += f"-{next(iter(arguments.settings))}"
    preface = train_page.preface(config, reached, device.type == "cuda", arguments.compile_unit)
    sections = _sections(config, reached, arguments)
    return report("Training step", "benchmarks.train_step", arguments, preface, sections, suffix)


if __name__ == "__main__":
    sys.exit(main())
