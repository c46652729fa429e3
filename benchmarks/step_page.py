"""What the pages about whole steps have in common: rows, tables, profiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks import pages
from benchmarks.step_counts import Spent
from benchmarks.timing import Row

_LINES_OF_PROFILE = 15
COMPILED_UNITS = {
    "network": "as a whole",
    "cell": "cell by cell, code shared by equal cells; what is between cells is eager",
    "edge": "edge by edge, code shared by edges of equal sizes; what is between edges is eager",
}


@dataclass
class StepRow(Row):
    """One variant of a step.

    Attributes:
        precision: that it computes in.
        cpu_seconds: that processors spent, all threads together; the median.
        calls: operators on a CPU, kernels on a GPU; None: not known.
        warm_up: seconds until everything had run once, on the checked images and on whole batches.
        spent: where the time of a step goes.
    """

    precision: str = "fp32"
    cpu_seconds: float | None = None
    calls: int | None = None
    warm_up: float | None = None
    spent: list[Spent] = field(default_factory=list)


def table(
    rows: Iterable[StepRow],
    images: int,
    header: Sequence[str],
    ratios: Callable[[StepRow], list[str]],
) -> str:
    """One line a variant.

    Args:
        rows: of the variants.
        images: of a step.
        header: of the columns of ratios.
        ratios: what stands there, for a variant that was timed.
    """

    def cells(row: StepRow) -> list[str]:
        if row.seconds is None:
            return [row.variant, row.note]
        return [
            row.variant,
            f"{row.seconds * 1e3:.1f}",
            "-" if row.cpu_seconds is None else f"{row.cpu_seconds * 1e3:.1f}",
            f"{images / row.seconds:.0f}",
            *ratios(row),
            "-" if row.calls is None else f"{row.calls:,}",
            pages.megabytes(row.peak_bytes),
        ]

    columns = ("variant", "ms", "CPU ms", "images/s", *header, "calls", "peak MB")
    return pages.markdown(columns, map(cells, rows))


def profiles(rows: Iterable[StepRow], heading: str) -> list[str]:
    """A heading and a table for each variant that was profiled."""
    parts = []
    for row in rows:
        if row.spent:
            parts += [f"{heading} Time of `{row.variant}`, profiled", _profile(row.spent)]
    return parts


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


def columns(on_gpu: bool) -> str:
    """What the columns are, in a paragraph."""
    calls = "kernels and graphs launched" if on_gpu else "operators called"
    return (
        "Ms: median of wall time, variants in turn, each in a process of its own. CPU ms: what "
        "processors spent meanwhile, all threads together. "
        f"Calls: {calls}. Peak MB: beside weights, optimizers and batches. A variant whose losses "
        "or gradients are wrong is not timed."
    )
