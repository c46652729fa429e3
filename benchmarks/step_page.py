"""The page that ``python -m benchmarks.search_step`` writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from benchmarks import report
from benchmarks.report import Ceilings
from benchmarks.step_counts import Spent
from benchmarks.step_floor import PASSES, Floor
from benchmarks.variants import COMPILED, EAGER
from ssfnas.config import SearchConfig

FAST, GRAPHED = "fast", "fast, one graph"
HEADER = (
    "variant", "ms a step", "x eager", "x compiled", "calls", "peak MB", "images/s"
)  # fmt: skip
_LINES_OF_PROFILE = 15
_COMPILED_UNITS = {
    "cell": "cell by cell",
    "edge": "edge by edge, code shared by edges of equal sizes; what is between edges is eager",
}


@dataclass
class Row:
    """One variant: what was measured, and in ``note`` why something was not.

    Attributes:
        seconds: of a step, the median.
        calls: operators on a CPU, kernels on a GPU.
        peak_bytes: most memory beside what stays between steps.
        warm_up: seconds of the first pass forward and backward of both updates on the checked
            images, and of the first step on whole batches.
        spent: where the time of a step goes.
    """

    variant: str
    note: str = ""
    seconds: float | None = None
    calls: int | None = None
    peak_bytes: int | None = None
    warm_up: float | None = None
    spent: list[Spent] = field(default_factory=list)


@dataclass
class Measured:
    """All variants with one objective, and what its steps need.

    Attributes:
        data_seconds: of making both batches of a step.
    """

    objective: str
    views: int
    rows: list[Row]
    floor: Floor
    data_seconds: float | None = None

    def row(self, variant: str) -> Row | None:
        """The variant's row if it was timed."""
        found = [row for row in self.rows if row.variant == variant and row.seconds is not None]
        return found[0] if found else None


def table(measured: Measured, batch_size: int) -> str:
    """The variants, a line each."""
    return report.markdown(HEADER, [_cells(row, measured, batch_size) for row in measured.rows])


def _cells(row: Row, measured: Measured, batch_size: int) -> list[str]:
    if row.seconds is None:
        return [row.variant, row.note, *[""] * (len(HEADER) - 2)]
    ratios = []
    for name in (EAGER, COMPILED):
        base = measured.row(name)
        ratios.append(f"{base.seconds / row.seconds:.2f}" if base and base.seconds else "-")
    return [
        row.variant,
        f"{row.seconds * 1e3:.1f}",
        *ratios,
        "-" if row.calls is None else f"{row.calls:,}",
        "-" if row.peak_bytes is None else f"{row.peak_bytes / 2**20:.1f}",
        f"{2 * batch_size / row.seconds:.0f}",
    ]


def remarks(measured: Measured, ceilings: Ceilings) -> list[str]:
    """What stands below the table: warm-up, floor, and the share of the data."""
    lines = []
    compiled = next((row for row in measured.rows if row.variant == COMPILED), None)
    if compiled is not None and compiled.warm_up is not None:
        lines.append(f"Compiling, warm-up included: {compiled.warm_up:.1f} s.")
    floor = measured.floor
    moving, computing = floor.seconds(ceilings)
    bound = "memory" if moving > computing else "arithmetic"
    text = (
        f"Floor: {floor.bytes_moved / 1e9:.3g} GB in {moving * 1e3:.2f} ms, "
        f"{floor.multiply_adds / 1e9:.3g} G multiply-adds in {computing * 1e3:.2f} ms: "
        f"{max(moving, computing) * 1e3:.2f} ms, {bound}-bound."
    )
    fast = measured.row(GRAPHED) or measured.row(FAST)
    if fast is not None and fast.seconds is not None:
        text += (
            f" `{fast.variant}` takes {fast.seconds / max(moving, computing):.1f} times as long."
        )
    lines.append(text)
    if measured.data_seconds is not None:
        text = f"Views of both batches of a step: {measured.data_seconds * 1e3:.2f} ms"
        if fast is not None and fast.seconds is not None:
            share = measured.data_seconds / fast.seconds
            text += f", {share:.1%} of a step of `{fast.variant}` (aim: below 10%)"
        lines.append(text + ".")
    return lines


def profile_table(row: Row) -> str:
    """The operators or kernels that take the most time, and the rest in one line."""
    total = sum(each.seconds for each in row.spent) or 1.0
    first, rest = row.spent[:_LINES_OF_PROFILE], row.spent[_LINES_OF_PROFILE:]
    others = f"{len(rest)} others"
    if rest:
        first = [*first, Spent(others, sum(e.calls for e in rest), sum(e.seconds for e in rest))]
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
    return report.markdown(("where", "calls", "self ms", "share"), body)


def section(measured: Measured, config: SearchConfig, ceilings: Ceilings, tf32: str = "") -> str:
    """Heading, table and remarks of one objective.

    ``tf32``: what :func:`benchmarks.report.tf32` says; it decides what ratios in fp32 mean.
    """
    parts = [
        f"## {measured.objective}",
        *([f"{tf32}."] if tf32 and config.precision == "fp32" else []),
        table(measured, config.batch_size),
        *remarks(measured, ceilings),
    ]
    for row in measured.rows:
        if row.spent:
            parts += [f"### Time of one step of `{row.variant}`, profiled", profile_table(row)]
    return "\n\n".join(parts)


def document(
    all_measured: Sequence[Measured],
    config: SearchConfig,
    ceilings: Ceilings,
    device: torch.device,
    compile_unit: str,
) -> str:
    """The whole page.

    Args:
        all_measured: one for each objective.
        config: what they share.
        ceilings: of the device.
        device: what was measured.
        compile_unit: what torch.compile got at a time; a key of
            :data:`~benchmarks.step_compile.UNITS`.
    """
    dtype = "bfloat16" if config.precision == "bf16" else "float32"
    calls = "kernels and graphs launched" if device.type == "cuda" else "operators called"
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
    setting = (
        f"Batch {config.batch_size}, {config.channels} channels, {config.layers} cells, projector "
        f"{', '.join(map(str, config.projector))}, {config.precision}."
    )
    return "\n\n".join(
        [
            f"# Search step on {report.device_name(device)}",
            report.provenance("python -m benchmarks.search_step", device),
            setting,
            report.ceilings_line(ceilings, dtype),
            caveat,
            model,
            *(
                section(measured, config, ceilings, report.tf32(device))
                for measured in all_measured
            ),
            "",
        ]
    )
