"""The report of several runs side by side."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence

from markupsafe import Markup

from ssfnas.evaluation.measure_names import named, shown
from ssfnas.pictures.cells import draw_cell
from ssfnas.pictures.chance import chance_levels
from ssfnas.pictures.class_bars import class_accuracy
from ssfnas.pictures.curves import CELL_NAMES, Line, panels_of_lines
from ssfnas.pictures.data_differences import data_section, same_data
from ssfnas.pictures.markup import Pictures, joined, table, tag
from ssfnas.pictures.numbers import all_keys, scalars, spread
from ssfnas.pictures.page_parts import (
    Section,
    config_text,
    config_values,
    paragraph,
    state_of,
    time_of,
)
from ssfnas.pictures.retrain_page import choices_of, measurements, per_class
from ssfnas.pictures.series import lines_over_time
from ssfnas.pictures.style import SERIES
from ssfnas.runs.data_card import normalized
from ssfnas.runs.run_files import RunFiles

# Where and how long a run computes does not make it another experiment.
_NOT_COMPARED = {"out", "data_dir", "workers", "checkpoint_minutes", "device", "plugins"}
_CORRECTIONS = ("logit_adjustment", "tau_normalization", "thresholds")
_CHOSEN = tuple(f"{name}/" for name in ("best", *_CORRECTIONS))
_HEADLINES = (
    "val/balanced_accuracy", "val/auc",
    "test/top1", "test/balanced_accuracy", "test/auc", "train/loss", "knn/top1", "alpha/loss",
    "weight/loss", "entropy/normal", "entropy/reduce", "skips/normal", "score",
)  # fmt: skip


def comparison_sections(runs: Sequence[RunFiles], pictures: Pictures) -> list[Section | None]:
    """The parts of the page about several runs, in order."""
    groups = grouped_by_seed(runs)
    return [
        _overview(runs),
        data_section(runs),
        _results(groups),
        _differences(runs),
        _classes(groups),
        _curves(groups, pictures),
        _cells(runs, pictures),
    ]


def grouped_by_seed(runs: Sequence[RunFiles]) -> list[list[RunFiles]]:
    """Runs that differ in nothing but their seed stand together, in the order given.

    So they have the same data: what a folder or file held may have changed under its name.

    The genotype that a retraining was given counts by its edges, not by the name of its file.
    """
    groups: dict[str, list[RunFiles]] = {}
    for run in runs:
        left_out = _NOT_COMPARED | {"seed"}
        values = {k: v for k, v in config_values(run).items() if k not in left_out}
        if run.command == "retrain" and run.genotype is not None:
            values["genotype"] = run.genotype.to_json()
        key = json.dumps([run.command, values], sort_keys=True, default=str)
        alike = (f"{key}, data {number}" for number in itertools.count())
        place = next(k for k in alike if k not in groups or same_data(groups[k][0], run))
        groups.setdefault(place, []).append(run)
    return list(groups.values())


def headline(run: RunFiles) -> dict[str, float]:
    """The numbers that runs are compared by."""
    if run.command == "retrain":
        found = {}
        for key, values in measurements(run).items():
            prefix = "" if key == "last_epoch" else f"{key}/"
            found.update({f"{prefix}{name}": v for name, v in scalars(values).items()})
        for name, choice in choices_of(run).items():
            if name in _CORRECTIONS:
                found.update({f"{name}/{key}": choice["test"][key] for key in choice["test"]})
        sizes = scalars(run.evaluation)
        return found | {k: sizes[k] for k in sizes if k in ("parameters", "multiply_adds")}
    skipped = ("step", "epoch", "wall_time", "lr", "sample")
    lines = map(scalars, run.metrics)
    found = {key: value for line in lines for key, value in line.items() if key not in skipped}
    if run.genotype is not None:
        found["operations kept"] = len(run.genotype.normal) + len(run.genotype.reduce)
    return found


def _label(group: Sequence[RunFiles]) -> str:
    if len(group) == 1:
        return group[0].name
    return f"{group[0].name} and {len(group) - 1} more seed{'s' * (len(group) > 2)}"


def _overview(runs: Sequence[RunFiles]) -> Section:
    rows = [
        (
            run.name,
            run.command,
            config_text(run.values.get("seed")),
            run.data.get("name") or config_text(run.values.get("dataset")),
            state_of(run),
            time_of(run) or "-",
        )
        for run in runs
    ]
    head = ("run", "kind", "seed", "data set", "state", "time")
    return Section("runs", "Runs", table(head, rows))


def _results(groups: Sequence[Sequence[RunFiles]]) -> Section | None:
    numbers = [[headline(run) for run in group] for group in groups]
    keys = all_keys(run for group in numbers for run in group)
    if not keys:
        return None
    rows = []
    for key in keys:
        cells = []
        for group in numbers:
            values = [run[key] for run in group if key in run]
            few = f" (of {len(values)})" if 0 < len(values) < len(group) else ""
            cells.append(spread(key, values) + few if values else "-")
        rows.append((_named(key), *cells))
    head = ("", *(tag("span", _label(group)) for group in groups))
    guesses = [chance_levels(group[0]) for group in groups]
    for key in reversed(all_keys(guesses)):
        if any(run.get(key) is not None for group in numbers for run in group):
            shares = (shown(key, guess.get(key)) for guess in guesses)
            rows.insert(0, (f"{named(key)}: chance", *shares))
    seeds = ("seeds", *(", ".join(config_text(r.values.get("seed")) for r in g) for g in groups))
    shared = paragraph(
        "Runs that differ in nothing but the seed share a column: mean ± sample standard deviation."
    )
    chosen = paragraph(
        "Epochs and corrections were chosen on the validation part of each run, without a look at "
        "the test part."
    )
    parts = [
        shared if any(len(group) > 1 for group in groups) else None,
        table(head, [seeds, *rows], class_="numbers"),
        chosen if any(key.startswith(_CHOSEN) for key in keys) else None,
    ]
    return Section("results", "Results", joined(parts))


def _named(key: str) -> str:
    return named(key.replace("groups/", ""))


def _differences(runs: Sequence[RunFiles]) -> Section:
    configs = [config_values(run) for run in runs]
    rows = []
    for key in all_keys(configs):
        values = [
            config_text(config.get(key)) if key in run.values else ""
            for run, config in zip(runs, configs, strict=True)
        ]
        if key not in _NOT_COMPARED and len(set(values)) > 1:
            rows.append((key, *values))
    for key in all_keys(run.environment for run in runs):
        values = [config_text(run.environment.get(key)) for run in runs]
        if len(set(values)) > 1 and key not in ("started", "started_with"):
            rows.append((f"{key} (environment)", *values))
    if not rows:
        body = paragraph("The runs have the same configuration.")
    else:
        body = table(("", *(run.name for run in runs)), rows, class_="values")
    return Section("differences", "Differences in configuration", body)


def _classes(groups: Sequence[Sequence[RunFiles]]) -> Section | None:
    """Accuracy of each class, averaged over seeds, where all runs have the same names of them."""
    means: dict[str, list[float]] = {}
    first: RunFiles | None = None
    same_counts, quantity = True, "accuracy"
    for group in groups:
        measured = []
        for run in group:
            quantity, found = per_class(run)
            values = found.get("last_epoch")
            if values is None:
                continue
            first = first or run
            places = _places(run, first)
            if places is None or len(values) != len(places):
                return None
            measured.append([values[place] for place in places])
            sizes = run.class_counts
            same_counts &= len(sizes) == len(places) and first.class_counts == tuple(
                sizes[place] for place in places
            )
        if measured:
            means[_label(group)] = [
                100 * sum(values) / len(values) for values in zip(*measured, strict=True)
            ]
    if first is None or len(means) < 2 or len(means) > 8:
        return None
    counts = first.class_counts if same_counts else None
    chance = 50.0 if quantity == "AUC" else 100 / len(first.class_names)
    bars = class_accuracy(means, first.class_names, counts, chance=chance)
    text = paragraph(
        f"{quantity[0].upper()}{quantity[1:]} of each class on the test part after the last epoch, "
        "in percent; means over seeds."
    )
    return Section("classes", "Classes", joined([text, bars]))


def _places(run: RunFiles, first: RunFiles) -> list[int] | None:
    """Where ``run`` has the classes of ``first``, by name; None where it has others."""
    own, names = normalized(run.class_names), normalized(first.class_names)
    if sorted(own) != sorted(names) or len(set(own)) < len(own):
        return None
    return [own.index(name) for name in names]


def _curves(groups: Sequence[Sequence[RunFiles]], pictures: Pictures) -> Section | None:
    runs = [run for group in groups for run in group]
    colors = {
        run.name: SERIES[number % len(SERIES)]
        for number, group in enumerate(groups)
        for run in group
    }
    panels: dict[str, dict[str, Line]] = {}
    x_names = set()
    for run in runs:
        for key in _HEADLINES:
            x_name, found = lines_over_time(run.metrics, key.__eq__)
            for title, lines in found.items():
                for name, line in lines.items():
                    x_names.add(x_name)
                    full = title if name == title else f"{title}: {name}"
                    panels.setdefault(full, {})[run.name] = line
    panels = {title: lines for title, lines in panels.items() if len(lines) > 1}
    if not panels or len(runs) > 12:
        return None
    xlabel = x_names.pop() if len(x_names) == 1 else "epoch"
    drawn = panels_of_lines(panels, xlabel=xlabel, colors=colors)
    names = [(color, name, "line") for name, color in colors.items()]
    caption = "One line a run; seeds of one configuration share a color."
    drawn = [dataclasses.replace(panel, key=()) for panel in drawn]  # the same in each
    return Section("curves", "Over time", pictures.panels(drawn, caption, key=names))


def _cells(runs: Sequence[RunFiles], pictures: Pictures) -> Section | None:
    """The cells of each run that has any; the same genotype once."""
    found: dict[str, list[RunFiles]] = {}
    for run in runs:
        if run.genotype is not None:
            found.setdefault(run.genotype.to_json(), []).append(run)
    if not found:
        return None
    parts: list[Markup] = []
    for same in found.values():
        parts.append(tag("h3", ", ".join(run.name for run in same)))
        first = same[0]
        assert first.genotype is not None
        drawings = [
            pictures.show(
                draw_cell(first.genotype, cell), f"{name.capitalize()} cell of {first.name}."
            )
            for cell, name in CELL_NAMES.items()
        ]
        parts.append(tag("div", *drawings, class_="cells"))
    return Section("cells", "Cells", joined(parts))
