"""Variants of a step, checked and then timed in turn, each in a process of its own."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from typing import TypeVar

import numpy as np
import torch

from benchmarks import pages
from benchmarks.checks import Results, WorkerError, check
from benchmarks.pages import COMPILED
from benchmarks.step_page import StepRow
from benchmarks.step_variants import DTYPES, FAST, GRAPHED, TRUTH, StepVariant
from benchmarks.step_worker import Worker
from benchmarks.timing import time_in_turn

T = TypeVar("T")
Rows = dict[str, StepRow]
_KINKS = 1e-2
_EXACT = 1e-9
OF = "gradient of "
"""What the name of a result begins with that is the gradient of one parameter."""


def check_step(
    variant: str, found: Results, plain: Results, truth: Results, precision: str
) -> None:
    """Refuse a variant whose error is larger than twice the reference's, plus a constant.

    The constant of a loss is many roundings: the weights' loss comes after a step of Adam, which
    turns small differences of small gradients into steps. A gradient's is larger: where a rounding
    moves a value over the kink of a ReLU or a maximum to another place, one summand of many
    changes; gradients of single parameters, which may be small, count together. What that could
    hide, :func:`check_exactly` finds.

    Args:
        variant: its name.
        found, plain, truth: losses and gradients of the variant, of the reference in the same
            precision and memory layout (PyTorch's error in one can be thirty times that in the
            other), and of the reference in float64.
        precision: ``"fp32"`` or ``"bf16"``.

    Raises:
        WrongResultError: names the result and both errors.
    """
    roundings = torch.finfo(DTYPES[precision]).eps * (1024 if precision == "fp32" else 4)

    def granted(name: str) -> float:
        return _KINKS if "gradient" in name else roundings

    check(variant, _joined(found), _joined(plain), _joined(truth), granted, precision)


def _joined(results: Results) -> Results:
    """Gradients of single parameters as one result."""
    single = [value for name, value in results.items() if name.startswith(OF)]
    if not single:
        return results
    others = {name: value for name, value in results.items() if not name.startswith(OF)}
    return {**others, "gradient": np.concatenate(single)}


def check_exactly(variant: str, found: Results, truth: Results) -> None:
    """Refuse a variant that differs from the reference where both compute in float64."""
    check(variant, found, truth, truth, lambda _: _EXACT, "float64")


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"  {text}", file=sys.stderr, flush=True)


def chosen(
    variants: Mapping[str, StepVariant], left_out: Collection[str]
) -> dict[str, StepVariant]:
    """The variants without those that are left out."""
    return {name: variant for name, variant in variants.items() if name not in left_out}


def measure(
    title: str,
    variants: Mapping[str, StepVariant],
    start: Callable[[StepVariant], Worker],
    arguments: argparse.Namespace,
    more: Callable[[Mapping[str, Worker]], T],
    parts: Mapping[str, Collection[str]] | None = None,
) -> tuple[dict[str, Rows], T]:
    """Check and time all variants.

    Args:
        title: for those who wait.
        variants: the first is the yardstick, and the first of a precision and memory layout is
            usual code, whose roundings the others may have; one is ``FAST``.
        start: begins a process.
        arguments: of a :func:`~benchmarks.step_arguments.step_parser`.
        more: what else is asked of the processes, when everything is timed.
        parts: which variants are timed in which part of a runner; absent: all, in ``"step"``.

    Returns:
        for each part the rows of its variants, and what ``more`` gave.

    Raises:
        WorkerError: the first variant, or the reference in float64, cannot be computed.
    """
    arithmetic = {name: one.arithmetic(arguments.precision) for name, one in variants.items()}
    rows = {name: StepRow(name, precision=arithmetic[name]) for name in variants}
    say(f"{title}: {TRUTH.name}")
    with closing(start(TRUTH)) as exact:
        truth = exact.ask("gradients")
    say(f"{title}: {FAST}, float64")  # compiling once more for that would take too long
    with closing(start(dataclasses.replace(variants[FAST], exact=True))) as exact:
        rows[FAST].attempt(lambda: check_exactly(FAST, exact.ask("gradients"), truth))
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(closing(start(variant)))
            for name, variant in variants.items()
            if not rows[name].note
        }
        plain: dict[tuple[str, bool], Results] = {}
        for name, one in workers.items():
            say(f"{title}: {name}")
            row, limit = rows[name], arguments.compile_seconds if name == COMPILED else None
            begin = time.perf_counter()
            found = row.attempt(partial(one.ask, "first_gradients", seconds=limit))
            if row.note:
                continue
            row.warm_up = time.perf_counter() - begin
            key = row.precision, variants[name].channels_last
            if variants[name].usual:
                plain.setdefault(key, found)
            if key in plain:
                check_own = partial(check_step, name, found, plain[key], truth, row.precision)
                row.attempt(check_own)
            else:
                row.note = "failed: its reference did"
        first = rows[next(iter(variants))]
        if first.note:
            raise WorkerError(first.note)
        measured = {}
        for part, names in (parts or {"step": list(variants)}).items():
            measured[part] = {name: dataclasses.replace(rows[name]) for name in names}
            _time(part, measured[part], workers, arguments)
        return measured, more(workers)


def _time(
    part: str, rows: Rows, workers: Mapping[str, Worker], arguments: argparse.Namespace
) -> None:
    runs = [(row, partial(workers[name].ask, "seconds", part))
            for name, row in rows.items() if name in workers]  # fmt: skip
    time_in_turn(runs, arguments.rounds, lambda ask: ask())
    for name, row in rows.items():
        if row.seconds is not None:
            try:
                _count(part, row, workers[name], arguments.profile)
            except WorkerError as error:
                say(f"{name}: {error}")


def _count(part: str, row: StepRow, worker: Worker, profiled: bool) -> None:
    """What is not time; memory first, before counting leaves any behind."""
    row.cpu_seconds = worker.ask("cpu_seconds", part)
    row.peak_bytes = worker.ask("peak_bytes", part)
    row.calls = worker.ask("calls", part)
    if profiled and row.variant not in (COMPILED, GRAPHED):
        row.spent = worker.ask("spent", part)


def report(
    title: str,
    command: str,
    arguments: argparse.Namespace,
    preface: Sequence[str],
    sections: Iterable[tuple[str, Iterable[StepRow]]],
    suffix: str,
) -> int:
    """Print each section as it is measured, and write the page.

    Args:
        title: of the page, before the device.
        command: that writes it.
        arguments: of a :func:`~benchmarks.step_arguments.step_parser`.
        preface: what stands above all sections.
        sections: their text, and their rows.
        suffix: of the page's name.

    Returns:
        the exit code: 1 if a variant was wrong, or the reference cannot be computed.
    """
    device, wrong, parts = arguments.device, False, list(preface)
    try:
        for text, rows in sections:
            wrong = wrong or any(row.wrong for row in rows)
            parts.append(text)
            print(f"\n{text}", flush=True)
            # After each section: what is measured is kept if the next one is interrupted.
            path = pages.write_page(
                f"{title} on {pages.device_name(device)}",
                f"python -m {command}",
                device,
                parts,
                arguments.results,
                suffix,
            )
    except WorkerError as error:
        print(f"reference: {error}", file=sys.stderr)
        return 1
    print(f"\nwritten to {path}")
    return 1 if wrong else 0
