"""Parts that the reports of searches, of retrainings and of several runs have in common."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssfnas.pictures.cells import CELLS, draw_cell
from ssfnas.pictures.curves import class_sizes, panels_of_lines
from ssfnas.pictures.markup import Markup, Pictures, escaped, joined, table, tag
from ssfnas.pictures.numbers import duration
from ssfnas.pictures.run_files import RunFiles
from ssfnas.pictures.series import elapsed, lines_over_time


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Attributes:
        identity: what links within the page call it.
        title: its heading.
        body: what stands below.
        alert: whether it says that something is amiss.
    """

    identity: str
    title: str
    body: Markup
    alert: bool = False


def paragraph(*parts: object) -> Markup:
    """A paragraph of text."""
    return tag("p", *parts)


def tiles(facts: Iterable[tuple[str, object]]) -> Markup:
    """A few facts, large; those that are None are left out."""
    shown = [
        tag("div", tag("dt", name), tag("dd", value)) for name, value in facts if value is not None
    ]
    return tag("dl", *shown, class_="tiles")


def config_text(value: Any) -> str:
    """A config's value as one would type it."""
    if isinstance(value, bool) or value is None:
        return "-" if value is None else str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def state_of(run: RunFiles) -> str:
    """How far the run got: ``finished``, ``epoch 12 of 50``."""
    if run.finished:
        goal, done = run.goal, run.done
        if goal and done is not None and done < goal[1] and run.command == "search":
            return f"stopped early, {goal[0]} {done} of {goal[1]}"
        return "finished"
    if run.goal is None:
        return "not finished"
    return f"{run.goal[0]} {run.done} of {run.goal[1]}"


def time_of(run: RunFiles) -> str | None:
    """How long the run has taken."""
    seconds = elapsed(run.metrics, run.started)
    return None if seconds is None else duration(seconds)


def unfinished(run: RunFiles) -> Section | None:
    """What to say of a run that has not come to its end, or lacks something."""
    parts = [paragraph(note) for note in run.notes]
    if not run.finished:
        quoted = shlex.quote(str(run.path))
        parts += [
            paragraph(
                f"This run has not come to its end ({state_of(run)}): it was interrupted, or it is "
                "still running. What follows is what it had written so far. It goes on with:"
            ),
            tag("pre", f"python -m ssfnas.{run.command} --out {quoted} --resume"),
        ]
    if not parts:
        return None
    title = "About this run" if run.finished else "Not finished"
    return Section("state", title, joined(parts), alert=not run.finished)


def data_section(run: RunFiles, pictures: Pictures) -> Section:
    """The data set and its distribution."""
    config, data = run.config, run.data
    counts, names = run.class_counts, run.class_names
    ratio = f"{max(counts) / min(counts):.4g}" if counts and 0 not in counts else None
    size = data.get("image_size")
    facts = [
        ("data set", data.get("name") or config.get("dataset")),
        ("training images", f"{sum(counts):,}" if counts and not data.get("multi_label") else None),
        ("classes", len(names) or None),
        ("imbalance ratio", ratio),
        ("largest class", f"{max(counts):,}" if counts else None),
        ("smallest class", f"{min(counts):,}" if counts else None),
        ("image", f"{size[0]} x {size[1]}" if isinstance(size, list) and len(size) == 2 else None),
    ]
    parts = [tiles(facts)]
    if counts and len(names) == len(counts):
        figure = class_sizes(counts, names)
        parts.append(pictures.show(figure, "Training images of each class."))
    elif not counts:
        parts.append(paragraph("The run kept no class sizes (data.json is missing)."))
    return Section("data", "Data", joined(parts))


def curves(
    run: RunFiles, pictures: Pictures, wanted: Callable[[str], bool], caption: str
) -> Markup | None:
    """Lines over time of what was logged; None where none of it was."""
    x_name, panels = lines_over_time(run.metrics, wanted)
    if not panels:
        return None
    return pictures.show(panels_of_lines(panels, xlabel=x_name), caption, wide=True)


def cells_section(run: RunFiles, pictures: Pictures) -> Section | None:
    """Both cells, and the genotype as text; None for a run without."""
    genotype = run.genotype
    if genotype is None:
        return None
    parts = []
    for cell in CELLS:
        name = "reduction" if cell == "reduce" else cell
        caption = (
            f"The {name} cell. Boxes are states; dashed lines lead to what the output concatenates."
        )
        parts.append(pictures.show(draw_cell(genotype, cell), caption, wide=True))
    text = tag("details", tag("summary", "The genotype as text"), tag("pre", genotype.to_text()))
    return Section("cells", "Cells", joined([*parts, text]))


def config_section(run: RunFiles) -> Section:
    """Every value of the config that has a meaning."""
    rows = [(key, config_text(value)) for key, value in run.values.items()]
    half = -(-len(rows) // 2)
    columns = [table((), part, class_="values") for part in (rows[:half], rows[half:]) if part]
    return Section("config", "Configuration", tag("div", *columns, class_="beside"))


def environment_section(run: RunFiles) -> Section | None:
    """Versions, device, threads."""
    if not run.environment:
        return None
    return Section(
        "environment",
        "Environment",
        table((), list(_flat(run.environment)), class_="values"),
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", config_text(value)


def log_section(run: RunFiles) -> Section | None:
    """The end of the log."""
    if not run.log:
        return None
    return Section("log", "Messages", tag("pre", "\n".join(run.log)))


def files_note(runs: Sequence[RunFiles]) -> Markup:
    """Where what the page shows was read from."""
    shown = joined(
        part
        for number, run in enumerate(runs)
        for part in (", " if number else "", tag("code", str(run.path)))
    )
    return joined([escaped("Read from "), shown, "."])
