"""The report of a retraining."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from ssfnas.evaluation.classification_metrics import class_groups, group_of
from ssfnas.evaluation.measure_names import is_number, named, shown
from ssfnas.pictures.chance import chance_levels
from ssfnas.pictures.class_bars import HALF_WIDTH, class_accuracy
from ssfnas.pictures.curves import panels_of_lines
from ssfnas.pictures.image_sections import confusions_section, mistakes_section, samples_section
from ssfnas.pictures.many_classes import MOST_BARS
from ssfnas.pictures.markup import Pictures, joined, table, tag
from ssfnas.pictures.numbers import scalars
from ssfnas.pictures.page_parts import (
    Section,
    cells_section,
    closing_sections,
    config_text,
    curves_section,
    measures_table,
    paragraph,
    state_of,
    state_section,
    tiles,
    time_of,
)
from ssfnas.pictures.verdict import retrain_verdict
from ssfnas.runs.run_files import RunFiles

_LAST = "last_epoch"
_CHOICES = {
    "epoch": "epoch",
    "classifier": "re-trained classifier",
    "logit_adjustment": "post-hoc logit adjustment",
    "tau_normalization": "tau-normalization",
    "thresholds": "thresholds of the labels",
}
_PROBES = {
    "long_tailed": "fitted on the training images",
    "balanced": "fitted on as many of each class",
}


def retrain_sections(run: RunFiles, pictures: Pictures) -> list[Section | None]:
    """The parts of the page about one retraining, in order."""
    return [
        state_section(run),
        _verdict(run),
        _summary(run),
        _results(run),
        _choices(run),
        _classes(run),
        confusions_section(run),
        mistakes_section(run),
        samples_section(run),
        curves_section(
            run,
            pictures,
            "curves",
            "Learning curves",
            "Means over each epoch, and the validation and test parts where measured."
            + _chosen_epoch_text(run),
            levels=_levels(run),
        ),
        _sweeps(run, pictures),
        _probes(run),
        cells_section(run, pictures),
        *closing_sections(run),
    ]


def measurements(run: RunFiles) -> dict[str, Mapping[str, Any]]:
    """What was measured on the test part, by the name of the weights: ``last_epoch`` first.

    Of a run without an evaluation it is the last line of its metrics that has a test.
    """
    found = {
        key: value
        for key, value in run.evaluation.items()
        if key in (_LAST, "best", "ema") and isinstance(value, Mapping)
    }
    if found:
        return found
    for line in reversed(run.metrics):
        tested = {key[5:]: value for key, value in line.items() if key.startswith("test/")}
        if tested:
            return {_LAST: tested}
    return {}


def _verdict(run: RunFiles) -> Section | None:
    verdict = retrain_verdict(run, measurements(run).get(_LAST, {}))
    if verdict is None:
        return None
    body = joined(map(paragraph, verdict.sentences))
    return Section("verdict", "In short", body, alert=verdict.alert)


def _levels(run: RunFiles) -> dict[str, float]:
    """What chance gives, in percent, by the titles of learning curves."""
    return {f"{named(key)} (%)": 100 * value for key, value in chance_levels(run).items()}


def _summary(run: RunFiles) -> Section:
    values = run.values
    last = measurements(run).get(_LAST, {})
    headline = [
        (named(key), shown(key, last[key]))
        for key in ("top1", "balanced_accuracy", "worst_class", "mean_average_precision", "auc")
        if is_number(last.get(key))
    ]
    counted = scalars(run.evaluation)
    parameters, adds = counted.get("parameters"), counted.get("multiply_adds")
    trained = values.get("genotype" if values.get("model") == "derived" else "model")
    facts: list[tuple[str, object]] = [
        *headline,
        ("parameters", None if parameters is None else f"{parameters:,}"),
        ("multiply-adds an image", None if adds is None else f"{adds / 1e6:,.1f} M"),
        ("network", trained),
        ("loss", values.get("loss")),
        ("views", values.get("augment")),
        ("state", state_of(run)),
        ("time", time_of(run)),
        ("seed", values.get("seed")),
    ]
    return Section("summary", "Summary", tiles(facts))


def _results(run: RunFiles) -> Section | None:
    measured = measurements(run)
    if not measured:
        return None
    groups = groups_of(run)

    def label(key: str) -> str:
        return f"{named(key)} ({len(groups[key])} of them)" if key in groups else named(key)

    first = "last epoch" if run.finished else "latest epoch tested"
    columns = {first if key == _LAST else named(key): v for key, v in measured.items()}
    parts = [measures_table(columns, label)]
    if any(is_number(values.get("many")) for values in measured.values()):
        rule = (
            "The groups are thirds of the classes by size."
            if _in_thirds(run)
            else "Many: over 100 training images; medium: 20 to 100; few: under 20."
        )
        parts.append(paragraph(rule, " A group without classes is absent."))
    half = 0 < len(run.class_names) <= HALF_WIDTH  # as the classes, which stand beside it
    return Section("results", "Results on the test part", joined(parts), half=half)


def choices_of(run: RunFiles) -> dict[str, Mapping[str, Any]]:
    """What the validation part chose, by the name of the choice; empty where it chose nothing."""
    choices = run.evaluation.get("choices")
    found = choices.items() if isinstance(choices, Mapping) else ()
    return {
        name: choice
        for name, choice in found
        if isinstance(choice, Mapping) and {"chosen", "on", "by", "value", "test"} <= choice.keys()
    }


def _chosen_text(choice: Mapping[str, Any]) -> str:
    chosen = choice["chosen"]
    if not isinstance(chosen, Mapping):
        return config_text(chosen)
    numbers = chosen.get("probability")
    if isinstance(numbers, list) and len(numbers) > 8:
        return "probabilities from {} to {}".format(
            *(shown("probability", end(filter(is_number, numbers))) for end in (min, max))
        )
    if isinstance(numbers, list):
        return "probabilities " + ", ".join(shown("probability", number) for number in numbers)
    return ", ".join(f"{named(key)} {config_text(value)}" for key, value in chosen.items())


def _chosen_epoch_text(run: RunFiles) -> str:
    choice = choices_of(run).get("epoch")
    return "" if choice is None else f" The validation part chose {_chosen_text(choice)}."


def _choices(run: RunFiles) -> Section | None:
    """What was chosen on the validation part, and what the test part gives with it."""
    choices = choices_of(run)
    if not choices:
        return None
    given = (
        *("top1", "balanced_accuracy", "worst_class"),
        *("mean_average_precision", "auc", "macro_f1"),
    )
    keys = [key for key in given if any(key in choice["test"] for choice in choices.values())]
    rows = [
        (
            _CHOICES.get(name, named(name)),
            _chosen_text(choice),
            named(str(choice["by"])),
            _among(choice.get("among")),
            shown("accuracy", choice["value"]),
            *(shown(key, choice["test"].get(key)) for key in keys),
        )
        for name, choice in choices.items()
    ]
    head = (
        *("", "chosen", "by", "among", "there"),
        *(f"test: {named(key)}" for key in keys),
    )
    parts = [
        paragraph(
            "Chosen on the validation part, without a look at the test part; what the test part "
            "then gives is no better than it should be."
        ),
        table(head, rows, class_="numbers"),
    ]
    classifier = choices.get("classifier", {})
    first = classifier.get("first_stage")
    if is_number(first) and first > classifier["value"]:
        parts.append(
            paragraph(
                "The classifier that was trained with the backbone was better on the validation "
                f"part ({shown('accuracy', first)}); model.safetensors holds the re-trained one."
            )
        )
    return Section("choices", "Chosen on the validation part", joined(parts))


def _among(among: Any) -> str:
    if not isinstance(among, list):
        return "-" if among is None else str(among)
    numbers = [next(iter(entry.values())) if isinstance(entry, dict) else entry for entry in among]
    if len(numbers) > 8:
        return f"{len(numbers)}, from {config_text(numbers[0])} to {config_text(numbers[-1])}"
    return ", ".join(map(config_text, numbers))


def groups_of(run: RunFiles) -> dict[str, list[int]]:
    """Group -> its classes, as the evaluation formed them; else by class sizes."""
    groups = measurements(run).get(_LAST, {}).get("groups")
    if isinstance(groups, Mapping):
        return {str(name): list(classes) for name, classes in groups.items()}
    return class_groups(run.class_counts)


def _in_thirds(run: RunFiles) -> bool:
    counts = run.class_counts
    return any(
        group_of(counts[number]) != name
        for name, classes in groups_of(run).items()
        for number in classes
        if number < len(counts)
    )


def per_class(run: RunFiles) -> tuple[str, dict[str, list[float]]]:
    """``"accuracy"`` or ``"AUC"``, and by the name of the weights that of each class (or NaN)."""
    for key, quantity in (("per_class", "accuracy"), ("per_class_auc", "AUC")):
        found = {
            weights: [float(value) if is_number(value) else math.nan for value in values[key]]
            for weights, values in measurements(run).items()
            if isinstance(values.get(key), list) and values[key]
        }
        if found:
            return quantity, found
    return "accuracy", {}


def _of_labels(run: RunFiles, number: int) -> dict[str, list[Any]]:
    """What else is measured of each of several labels, of the last weights."""
    last = measurements(run).get(_LAST, {})
    found = {
        "average precision": last.get("per_class_average_precision"),
        "F1 at 0.5": last.get("per_class_f1"),
        "F1 at its threshold": choices_of(run).get("thresholds", {}).get("per_class_f1"),
    }
    return {
        title: values
        for title, values in found.items()
        if isinstance(values, list) and len(values) == number
    }


def _classes(run: RunFiles) -> Section | None:
    quantity, measured = per_class(run)
    if not measured:
        return None
    number = len(next(iter(measured.values())))
    names = run.class_names
    if len(names) != number:
        names = tuple(map(str, range(number)))
    counts = run.class_counts if len(run.class_counts) == number else None
    percent = {named(key): [100 * value for value in values] for key, values in measured.items()}
    single = quantity == "accuracy"
    bars = class_accuracy(
        percent, names, counts, groups=groups_of(run),
        chance=100 / number if single and number > 1 else 50.0,
    )  # fmt: skip
    columns = {named(key): values for key, values in measured.items()} | _of_labels(run, number)
    rows = [
        (
            name,
            f"{counts[place]:,}" if counts else "-",
            *(shown("per_class", values[place]) for values in columns.values()),
        )
        for place, name in enumerate(names)
    ]
    head = ("class", "training images", *columns)
    listing = tag("details", tag("summary", "As a table"), table(head, rows, class_="numbers"))
    text = f"{quantity[0].upper()}{quantity[1:]} of each class on the test part, in percent."
    if number > MOST_BARS:
        text = f"The {quantity} of classes on the test part, in percent: means, many in a bar."
    return Section(
        "classes", "Classes", joined([paragraph(text), bars, listing]), half=number <= HALF_WIDTH
    )


def _sweeps(run: RunFiles, pictures: Pictures) -> Section | None:
    """Corrections after training: a table each, and one picture."""
    sweeps = run.evaluation.get("post_hoc")
    if not isinstance(sweeps, Mapping) or not sweeps:
        return None
    parts: list[Markup] = []
    panels: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for key, values in sweeps.items():
        parts.append(tag("h3", named(key)))
        if isinstance(values, Mapping):
            parts.append(paragraph("Left out: ", str(values.get("left_out", config_text(values)))))
            continue
        entries = [entry for entry in values if isinstance(entry, Mapping)]
        if not entries:
            continue
        columns = list(entries[0])
        if key == "tau_normalization":
            parts.append(
                paragraph(
                    "The classifier's bias is left out, as in the method's source, so that even a "
                    "tau of 0 is not quite the network itself."
                )
            )
        rows = [[shown(column, entry.get(column)) for column in columns] for entry in entries]
        parts.append(table([named(column) for column in columns], rows, class_="numbers"))
        x = [entry[columns[0]] for entry in entries]
        if len(entries) > 1 and all(map(is_number, x)):
            panels[named(key)] = {
                named(column): (x, [100 * entry[column] for entry in entries])
                for column in columns[1:]
                if all(is_number(entry.get(column)) for entry in entries)
            }
    panels = {title: lines for title, lines in panels.items() if lines}
    if run.evaluation.get("swept_on") == "validation":
        note = paragraph(
            "They cost no training. Measured on the validation part, which chooses the strength."
        )
    else:
        note = paragraph(
            "They cost no training. Measured on the test part, so a strength picked from these "
            "tables would be chosen on it: report one that was fixed before."
        )
    if panels:
        drawn = panels_of_lines(panels, xlabel="tau")
        parts.append(pictures.panels(drawn, "Accuracy (%) by the strength of the correction."))
    return Section("post-hoc", "Corrections after training", joined([note, *parts]))


def _probes(run: RunFiles) -> Section | None:
    probes = run.evaluation.get("probe")
    if not isinstance(probes, Mapping) or not probes:
        return None
    columns = {
        _PROBES.get(key, named(key)): values
        for key, values in probes.items()
        if isinstance(values, Mapping)
    }
    note = paragraph(
        "A linear classifier fitted on the frozen features: what the features are worth apart from "
        "the classifier that was trained with them."
    )
    return Section("probe", "Linear probes", joined([note, measures_table(columns)]), half=True)
