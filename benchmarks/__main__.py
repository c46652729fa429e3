"""``python -m benchmarks``: every op against its reference, on the device that is there.

Prints the table of each op as it is measured and writes all of them to
``benchmarks/results/<device>.md``. Exit code 1 if a variant was wrong, which is then not timed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch

from benchmarks import commandline, pages
from benchmarks.cases import OPS, Case, Inputs, cases
from benchmarks.timing import Ceilings, Row, Run, ceilings, peak_bytes, time_in_turn, timed
from benchmarks.variants import Variant, check, expected, variants

_LONG = 1.0  # seconds: what a variant is timed for at a time, at the most
HEADER = ("case", "variant", "us", "x eager", "x compiled", "GB/s", "% ceiling", "peak MB")
CAVEAT = (
    "Forward and backward together. `x eager` and `x compiled`: how many times faster than the "
    "reference in eager mode and under torch.compile. GB/s is of the bytes that the op has to move "
    "at the least (a model, not a measurement), so recomputing and re-reading lower it. % ceiling: "
    "of a copy; for barlow_twins_loss and candidate_operations of a float32 matrix product; both "
    "measured in the same run. Device time of a replayed graph, unless marked (launched). Peak MB: "
    "memory beside the inputs, gradients included."
)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    names = f"{', '.join(OPS)} (default: all)"
    add("ops", nargs="*", metavar="op", type=commandline.known("op", OPS), help=names)
    add("--device", default="auto", type=commandline.device, help=", ".join(commandline.DEVICES))
    add("--rounds", type=commandline.at_least(1), default=30, help="timings of each variant")
    add("--quick", action="store_true", help="a few small sizes, nothing written")
    add("--no-compile", action="store_true", help="leave torch.compile out")
    add("--results", type=Path, default=commandline.RESULTS, help="folder to write to")
    return parser.parse_args(argv)


def measure(case: Case, device: torch.device, rounds: int, compiled: bool) -> list[Row]:
    """Check all variants of a case, and time those that are right over all sets of inputs.

    Where a call is so long that it does not matter what caches held before, over fewer sets.
    On CUDA calls are captured in a graph and replayed: device time, without that of launching;
    what cannot be captured is launched.
    """
    sets = case.input_sets(device)
    known = expected(case, sets[0])
    rows, right, longest = [], [], 0.0
    for variant in variants(case, device, compiled=compiled):
        row = Row(variant.name)
        rows.append(row)
        row.attempt(partial(check, case, variant, sets[0], known))
        if row.note:
            continue
        once = partial(variant.run, sets[0])
        if device.type == "cuda":
            row.peak_bytes = peak_bytes(once, device)
        longest = max(longest, timed(once, device))
        right.append((row, variant))
    sets = sets[: max(1, round(_LONG / longest))] if right else []
    runs = [(row, _calls(row, variant, sets, device)) for row, variant in right]
    time_in_turn(runs, rounds, lambda run: timed(run, device) / len(sets))
    return rows


def _calls(row: Row, variant: Variant, sets: list[Inputs], device: torch.device) -> Run:
    """Runs the variant on all sets; on CUDA by a graph, where one can hold that."""

    def calls() -> None:
        for inputs in sets:
            variant.run(inputs)

    if device.type != "cuda":
        return calls
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        variant.run(sets[0])
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            calls()
    except RuntimeError:
        row.launched = True
        return calls
    return graph.replay


def cells(case: Case, row: Row, rows: Iterable[Row], reached: Ceilings) -> list[str]:
    """A row's cells, in the order of ``HEADER``; ``rows``: all of the case."""
    if row.seconds is None:
        return [case.name, row.variant, row.note]
    rate = case.bytes_moved / row.seconds
    if case.operations:
        share = case.operations / row.seconds / reached.matmul
    else:
        share = rate / reached.copy
    return [
        case.name,
        f"{row.variant} (launched)" if row.launched else row.variant,
        f"{row.seconds * 1e6:.1f}",
        *pages.ratios(row, rows),
        f"{rate / 1e9:.1f}",
        f"{share:.0%}",
        pages.megabytes(row.peak_bytes),
    ]


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks that the arguments name; the exit code."""
    arguments = _arguments(argv)
    device = arguments.device
    rounds = min(arguments.rounds, 3) if arguments.quick else arguments.rounds
    reached = ceilings(device, rounds)
    print(f"{pages.device_name(device)}; {pages.versions(device)}")
    lines: list[list[str]] = []
    wrong = False
    for op in arguments.ops or OPS:
        of_op: list[list[str]] = []
        for case in cases(op, quick=arguments.quick, cpu=device.type == "cpu"):
            print(f"  {case.name}", file=sys.stderr, flush=True)
            rows = measure(case, device, rounds, not arguments.no_compile)
            wrong = wrong or any(row.wrong for row in rows)
            of_op += [cells(case, row, rows, reached) for row in rows]
        print(pages.markdown(HEADER, of_op), flush=True)
        lines += of_op
    if not arguments.quick:
        parts = [str(reached), CAVEAT, pages.markdown(HEADER, lines)]
        suffix = "".join(f"-{op}" for op in arguments.ops)
        name = pages.device_name(device)
        path = pages.write_page(
            name, "python -m benchmarks", device, parts, arguments.results, suffix
        )
        print(f"written to {path}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
