"""Parts that the reports of searches, of retrainings and of several runs have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from ssfnas.evaluation.measure_names import named, shown
from ssfnas.pictures.cells import draw_cell
from ssfnas.pictures.class_bars import class_sizes
from ssfnas.pictures.curves import CELL_NAMES, panels_of_lines
from ssfnas.pictures.markup import Pictures, joined, table, tag
from ssfnas.pictures.numbers import all_keys, duration, scalars
from ssfnas.pictures.series import elapsed, lines_over_time
from ssfnas.runs.next_commands import resume_command
from ssfnas.runs.run_files import RunFiles

_LOG_LINES = 60


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Attributes:
        identity: what links within the page call it.
        title: its heading.
        body: what stands below.
        alert: whether it says that something is amiss.
        half: whether two such may stand beside each other on a wide screen.
    """

    identity: str
    title: str
    body: Markup
    alert: bool = False
    half: bool = False


def paragraph(*parts: object) -> Markup:
    """A paragraph of text."""
    return tag("p", *parts)


def tiles(facts: Iterable[tuple[str, object]]) -> Markup:
    """A few facts, large; those that are None are left out."""
    kept = [
        tag("div", tag("dt", name), tag("dd", value)) for name, value in facts if value is not None
    ]
    return tag("dl", *kept, class_="tiles")


def measures_table(
    columns: Mapping[str, Mapping[str, Any]], label: Callable[[str], str] = named
) -> Markup:
    """All numbers of nested measurements: a column for each title, a row for each key."""
    numbers = [scalars(values) for values in columns.values()]
    rows = [
        (label(key), *(shown(key, values.get(key)) for values in numbers))
        for key in all_keys(numbers)
    ]
    return table(("", *columns), rows, class_="numbers")


def config_text(value: Any) -> str:
    """A config's value as one would type it."""
    if isinstance(value, bool) or value is None:
        return "-" if value is None else str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def config_values(run: RunFiles) -> dict[str, Any]:
    """The config's values, without the epochs where a number of steps stands in their place."""
    replaced = {"epochs"} if run.values.get("steps") else set()
    return {key: value for key, value in run.values.items() if key not in replaced}


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


def state_section(run: RunFiles) -> Section | None:
    """What to say of a run that has not come to its end, or lacks something."""
    parts = []
    if not run.metrics_are_whole:
        parts.append(paragraph("The last line of metrics.jsonl is incomplete and was left out."))
    if not run.metrics:
        parts.append(
            paragraph(
                "Nothing has been logged yet: the run ended in its first epoch, or has begun."
            )
        )
    if not run.finished:
        parts += [
            paragraph(
                f"This run has not come to its end ({state_of(run)}): it was interrupted, or it is "
                "still running. What follows is what it had written so far. It goes on with:"
            ),
            tag("pre", resume_command(run.command, run.path)),
        ]
    if not parts:
        return None
    title = "About this run" if run.finished else "Not finished"
    return Section("state", title, joined(parts), alert=not run.finished)


def curves_section(
    run: RunFiles,
    pictures: Pictures,
    identity: str,
    title: str,
    caption: str,
    wanted: Callable[[str], bool] = lambda key: True,
    levels: Mapping[str, float] | None = None,
) -> Section | None:
    """Lines over time of what was logged, ``levels`` as of chance.

    What was measured once makes no line; None where nothing was measured more often.
    """
    x_name, panels = lines_over_time(run.metrics, wanted)
    panels = {
        name: lines for name, lines in panels.items() if any(len(x) > 1 for x, _ in lines.values())
    }
    if not panels:
        return None
    drawn = panels_of_lines(panels, xlabel=x_name, levels=levels)
    return Section(identity, title, pictures.panels(drawn, caption))


def cells_section(run: RunFiles, pictures: Pictures) -> Section | None:
    """Both cells, and the genotype as text; None for a run without."""
    if run.genotype is None:
        return None
    parts = [
        pictures.show(
            draw_cell(run.genotype, cell),
            f"The {name} cell. Boxes are states; dashed lines lead to what the output "
            "concatenates.",
        )
        for cell, name in CELL_NAMES.items()
    ]
    text = tag("pre", run.genotype.to_text())
    parts.append(tag("details", tag("summary", "The genotype as text"), text))
    return Section("cells", "Cells", joined([tag("div", *parts[:-1], class_="cells"), parts[-1]]))


def closing_sections(run: RunFiles) -> list[Section | None]:
    """What every page of one run ends with."""
    environment = table((), list(_flat(run.environment)), class_="values")
    log = tag("pre", "\n".join(run.log[-_LOG_LINES:]))
    return [
        _data(run),
        _config(run),
        Section("environment", "Environment", environment, half=True) if run.environment else None,
        Section("log", "Messages", log, half=True) if run.log else None,
    ]


def _data(run: RunFiles) -> Section:
    """The data set and its distribution."""
    data, counts, names = run.data, run.class_counts, run.class_names
    ratio = f"{max(counts) / min(counts):.4g}" if counts and 0 not in counts else None
    size = data.get("image_size")
    facts = [
        ("data set", data.get("name") or run.values.get("dataset")),
        ("training images", f"{sum(counts):,}" if counts and not data.get("multi_label") else None),
        ("classes", len(names) or None),
        ("imbalance ratio", ratio),
        ("largest class", f"{max(counts):,}" if counts else None),
        ("smallest class", f"{min(counts):,}" if counts else None),
        ("image", f"{size[0]} x {size[1]}" if isinstance(size, list) and len(size) == 2 else None),
    ]
    parts = [tiles(facts)]
    if counts and len(names) == len(counts):
        parts += [paragraph("Training images of each class."), class_sizes(counts, names)]
    elif not counts:
        parts.append(paragraph("The run kept no class sizes (data.json is missing)."))
    return Section("data", "Data", joined(parts))


def _config(run: RunFiles) -> Section:
    """Every value of the config that has a meaning."""
    rows = [(key, config_text(value)) for key, value in config_values(run).items()]
    half = -(-len(rows) // 2)
    columns = [table((), part, class_="values") for part in (rows[:half], rows[half:]) if part]
    return Section("config", "Configuration", tag("div", *columns, class_="beside"))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", config_text(value)
