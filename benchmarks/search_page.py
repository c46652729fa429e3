"""The page that ``python -m benchmarks.search_step`` writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from benchmarks import pages
from benchmarks.pages import COMPILED, EAGER
from benchmarks.step_counts import PASSES, Floor
from benchmarks.step_page import COMPILED_UNITS, StepRow, columns, profiles, table
from benchmarks.step_variants import FAST, GRAPHED
from benchmarks.timing import Ceilings
from ssfnas.config import SearchConfig


@dataclass
class Measured:
    """All variants with one objective.

    Attributes:
        rows: variant -> what was measured of it.
        floor: what a step needs.
        data_seconds: of making both batches of a step; None: not known.
    """

    objective: str
    rows: Mapping[str, StepRow]
    floor: Floor
    data_seconds: float | None = None


def section(
    measured: Measured, config: SearchConfig, reached: Ceilings, device: torch.device
) -> str:
    """Heading, table and remarks of one objective."""
    rows = measured.rows.values()
    parts = [f"## {measured.objective}"]
    if config.precision == "fp32":  # what ratios mean then
        parts += pages.tf32(device)
    parts += [
        table(
            rows,
            2 * config.batch_size,
            ("x eager", "x compiled"),
            lambda row: pages.ratios(row, rows),
        ),
        *_remarks(measured, reached),
        *profiles(rows, "###"),
    ]
    return "\n\n".join(parts)


def _remarks(measured: Measured, reached: Ceilings) -> Iterator[str]:
    """What stands below the table: warm-up, floor, and the share of the data."""
    compiled = measured.rows.get(COMPILED)
    if compiled is not None and compiled.warm_up is not None:
        yield f"Compiling, warm-up included: {compiled.warm_up:.1f} s."
    timed = [row for name in (GRAPHED, FAST) if (row := measured.rows.get(name)) and row.seconds]
    floor = measured.floor
    moving, computing = floor.seconds(reached)
    bound = "memory" if moving > computing else "arithmetic"
    least = max(moving, computing)
    text = (
        f"Floor: {floor.bytes_moved / 1e9:.3g} GB in {moving * 1e3:.2f} ms, "
        f"{floor.multiply_adds / 1e9:.3g} G multiply-adds in {computing * 1e3:.2f} ms: "
        f"{least * 1e3:.2f} ms, {bound}-bound."
    )
    for fast in timed[:1]:
        text += f" `{fast.variant}` takes {fast.seconds / least:.1f} times as long."
    yield text
    if measured.data_seconds is not None:
        text = f"Views of both batches of a step: {measured.data_seconds * 1e3:.2f} ms"
        for fast in timed[:1]:
            share = measured.data_seconds / fast.seconds
            text += f", {share:.1%} of a step of `{fast.variant}` (aim: below 10%)"
        yield f"{text}."


def preface(config: SearchConfig, reached: Ceilings, on_gpu: bool, compile_unit: str) -> list[str]:
    """What stands above all sections.

    Args:
        config: what they share.
        reached: ceilings of the device.
        on_gpu: whether it is a GPU.
        compile_unit: what torch.compile got at a time, a key of ``COMPILED_UNITS``.
    """
    setting = (
        f"Batch {config.batch_size}, {config.channels} channels, {config.layers} cells, projector "
        f"{', '.join(map(str, config.projector))}, {config.precision}."
    )
    caveat = (
        "One bilevel step of first order: alphas (Adam, zero-one loss), then weights (SGD, "
        "momentum, decay, clipping), each on a batch of its own; images/s counts both. Whole steps "
        f"as a search makes them. `{EAGER}` and `{COMPILED}` ({COMPILED_UNITS[compile_unit]}) are "
        "the supernet as it is usually written; what was compiled for one objective the next finds "
        f"in a cache. {columns(on_gpu)}"
    )
    model = (
        f"Floor: {PASSES} tensors moved an edge, view and update (a model of candidates fused as "
        "far as can be), at the speed of a copy; multiply-adds of convolutions and matrix "
        "products that some wanted gradient needs, at the speed of a matrix product."
    )
    return [setting, str(reached), caveat, model]
