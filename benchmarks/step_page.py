"""The page that ``python -m benchmarks.search_step`` writes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from benchmarks import pages
from benchmarks.pages import COMPILED, EAGER
from benchmarks.step_counts import PASSES, Floor, Spent
from benchmarks.step_variants import FAST, GRAPHED
from benchmarks.timing import Ceilings, Row
from ssfnas.config import SearchConfig

HEADER = ("variant", "ms a step", "x eager", "x compiled", "calls", "peak MB", "images/s")
_LINES_OF_PROFILE = 15
_COMPILED_UNITS = {
    "cell": "cell by cell",
    "edge": "edge by edge, code shared by edges of equal sizes; what is between edges is eager",
}


@dataclass
class StepRow(Row):
    """One variant of a step.

    Attributes:
        calls: operators on a CPU, kernels on a GPU; None: not known.
        warm_up: seconds of the first pass forward and backward of both updates on the checked
            images, and of the first step on whole batches.
        spent: where the time of a step goes.
    """

    calls: int | None = None
    warm_up: float | None = None
    spent: list[Spent] = field(default_factory=list)


@dataclass
class Measured:
    """All variants with one objective.

    Attributes:
        rows: variant -> what was measured of it.
        floor: what a step needs.
        data_seconds: of making both batches of a step.
    """

    objective: str
    rows: dict[str, StepRow]
    floor: Floor
    data_seconds: float | None = None


def section(
    measured: Measured, config: SearchConfig, reached: Ceilings, device: torch.device
) -> str:
    """Heading, table and remarks of one objective."""
    rows = measured.rows.values()
    body = [_cells(row, measured, config.batch_size) for row in rows]
    parts = [f"## {measured.objective}"]
    if config.precision == "fp32":  # what ratios mean then
        parts += pages.tf32(device)
    parts += [pages.markdown(HEADER, body), *_remarks(measured, reached)]
    for row in rows:
        if row.spent:
            parts += [f"### Time of one step of `{row.variant}`, profiled", _profile(row.spent)]
    return "\n\n".join(parts)


def _cells(row: StepRow, measured: Measured, batch_size: int) -> list[str]:
    if row.seconds is None:
        return [row.variant, row.note]
    return [
        row.variant,
        f"{row.seconds * 1e3:.1f}",
        *pages.ratios(row, measured.rows.values()),
        "-" if row.calls is None else f"{row.calls:,}",
        pages.megabytes(row.peak_bytes),
        f"{2 * batch_size / row.seconds:.0f}",
    ]


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


def _profile(spent: list[Spent]) -> str:
    """The operators or kernels that take the most time, and the rest in one line."""
    total = sum(each.seconds for each in spent) or 1.0
    first, rest = spent[:_LINES_OF_PROFILE], spent[_LINES_OF_PROFILE:]
    if rest:
        _, calls, seconds = zip(*rest, strict=True)
        first = [*first, Spent(f"{len(rest)} others", sum(calls), sum(seconds))]
    body = [
        (
            # A bar would end the cell.
            each.name.replace("|", "/")[:80],
            f"{each.calls:,}",
            f"{each.seconds * 1e3:.2f}",
            f"{each.seconds / total:.1%}",
        )
        for each in first
    ]
    return pages.markdown(("where", "calls", "self ms", "share"), body)


def preface(config: SearchConfig, reached: Ceilings, on_gpu: bool, compile_unit: str) -> list[str]:
    """What stands above all sections.

    Args:
        config: what they share.
        reached: ceilings of the device.
        on_gpu: whether it is a GPU.
        compile_unit: what torch.compile got at a time, a key of ``UNITS``.
    """
    calls = "kernels and graphs launched" if on_gpu else "operators called"
    setting = (
        f"Batch {config.batch_size}, {config.channels} channels, {config.layers} cells, projector "
        f"{', '.join(map(str, config.projector))}, {config.precision}."
    )
    caveat = (
        "One bilevel step of first order: alphas (Adam, zero-one loss), then weights (SGD, "
        "momentum, decay, clipping), each on a batch of its own; images/s counts both. Median "
        "of whole steps as a search makes them, variants in turn, each in a process of its own. "
        f"`{EAGER}` and `{COMPILED}` ({_COMPILED_UNITS[compile_unit]}) are the supernet as it is "
        "usually written; what was compiled for one objective the next finds in a cache. A "
        "variant whose losses or gradients are wrong is not timed. "
        f"Calls: {calls}. Peak MB: of one step, beside weights, optimizers and batches."
    )
    model = (
        f"Floor: {PASSES} tensors moved an edge, view and update (a model of candidates fused as "
        "far as can be), at the speed of a copy; multiply-adds of convolutions and matrix "
        "products that some wanted gradient needs, at the speed of a matrix product."
    )
    return [setting, str(reached), caveat, model]
