"""``python -m benchmarks``: every op against its reference, on the device that is there.

Prints the table of each op as it is measured and writes all of them to
``benchmarks/results/<device>.md``. Exit code 1 if a variant was wrong, which is then not timed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from benchmarks import report
from benchmarks.cases import OPS, Case, cases
from benchmarks.timing import copy_ceiling, input_sets, matmul_ceiling, measure
from benchmarks.variants import Variant, WrongResultError, check, expected, variants

RESULTS = Path(__file__).parent / "results"


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("ops", nargs="*", metavar="op", help=f"{', '.join(OPS)} (default: all)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=30, help="timings of each variant")
    parser.add_argument("--quick", action="store_true", help="a few small sizes, nothing written")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    arguments = parser.parse_args(argv)
    unknown = [op for op in arguments.ops if op not in OPS]
    if unknown:
        parser.error(f"unknown op '{unknown[0]}': it is one of {', '.join(OPS)}")
    if arguments.rounds < 1:
        parser.error("--rounds has to be at least 1")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device is visible")
    return arguments


def _measured(case: Case, device: torch.device, rounds: int, compiled: bool) -> list[report.Row]:
    sets = input_sets(case, device)
    right: list[Variant] = []
    notes: dict[str, str] = {}
    chosen = variants(case, device, compiled=compiled)
    known = expected(case, sets[0])
    for variant in chosen:
        try:
            check(case, variant, sets[0], known)
            right.append(variant)
        except WrongResultError as error:
            notes[variant.name] = f"WRONG: {error}"
        except Exception as error:
            # One variant that cannot run must not take the others' measurements along.
            notes[variant.name] = f"failed: {type(error).__name__}: {str(error).splitlines()[0]}"
    timings = dict(
        zip((variant.name for variant in right), measure(right, sets, device, rounds), strict=True)
    )
    return [
        report.Row(case, variant.name, timings.get(variant.name), notes.get(variant.name, ""))
        for variant in chosen
    ]


def main(argv: list[str] | None = None) -> int:
    """Run the benchmarks that the arguments name; the exit code."""
    arguments = _arguments(argv)
    kind = arguments.device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(kind)
    rounds = min(arguments.rounds, 3) if arguments.quick else arguments.rounds
    ceilings = report.Ceilings(copy_ceiling(device, rounds), matmul_ceiling(device, rounds))
    print(f"{report.device_name(device)}; {report.versions(device)}")
    rows: list[report.Row] = []
    for op in arguments.ops or OPS:
        of_op: list[report.Row] = []
        for case in cases(op, quick=arguments.quick, cpu=kind == "cpu"):
            print(f"  {case.name}", file=sys.stderr, flush=True)
            of_op += _measured(case, device, rounds, not arguments.no_compile)
        print(report.table(of_op, ceilings), flush=True)
        rows += of_op
    if not arguments.quick:
        page = report.document(rows, ceilings, device)
        suffix = "".join(f"-{op}" for op in arguments.ops)
        print(f"written to {report.write(page, device, arguments.results, suffix)}")
    return 1 if any(row.note.startswith("WRONG") for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
