"""What was measured of a trained network, as lines for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len

from ssfnas.evaluation.measure_names import named, shown, told
from ssfnas.pipeline.evaluation import BRIEF

_TITLES = {
    "logit_adjustment": "post-hoc logit adjustment",
    # As in its source; so tau 0 is not quite the network itself.
    "tau_normalization": "tau-normalization of the classifier, without its bias",
}
_CHOICES = {
    **{name: title.partition(",")[0] for name, title in _TITLES.items()},
    "epoch": "epoch",
    "classifier": "learning rate of the re-trained classifier",
    "thresholds": "thresholds of the labels",
}
_OF_LABELS = ("mean_average_precision", "auc", "macro_f1", "accuracy")
_MOST_LABELS = 40
_FEWER_LABELS = 20


def table(result: dict[str, Any], class_names: Sequence[str]) -> str:
    """What an evaluation holds as lines: apart from single classes, but with single labels.

    Args:
        result: see :func:`~.evaluation.evaluate_network`.
        class_names: in label order.
    """
    last = result["last_epoch"]
    lines = [
        f"parameters   {result['parameters']:,}",
        f"multiply-adds {result['multiply_adds'] / 1e6:.1f} M",
    ]
    measured = {named(name): shown(name, v) for name, v in last.items() if isinstance(v, float)}
    width = max(map(len, measured), default=0)
    lines += [f"{name:<{width}} {value:>8}" for name, value in measured.items()]
    if "per_class_average_precision" in last:
        lines += _label_lines(last, result["choices"].get("thresholds", {}), class_names)
    part = result.get("swept_on", "test")
    for name, sweep in result.get("post_hoc", {}).items():
        lines += _sweep_lines(_TITLES[name], sweep, part)
    if "probe" in result:
        lines += _probe_lines(result["probe"])
    if result["choices"]:
        lines += ["", "chosen, and what the test part gives with it:"]
        lines += [f"  {line}" for line in choice_lines(result["choices"])]
    return "\n".join(lines)


def choice_lines(choices: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line a choice: what was chosen, on which part and by what, and what the test part gives."""
    lines = []
    for name, choice in choices.items():
        value = choice["value"]
        found = "" if value is None else f" ({100 * value:.2f} % there)"
        lines.append(
            f"{_CHOICES.get(name, name)}: {chosen_text(name, choice)}, on the {choice['on']} part "
            f"by {named(choice['by'])}{found}: {measured_line(choice['test'])}"
        )
        lines += [f"  {note}" for note in choice_notes(name, choice)]
    return lines


def measured_line(measured: Mapping[str, Any]) -> str:
    """The measures that count most, in one line."""
    keys = [key for key in BRIEF if key in measured] or _OF_LABELS
    return ", ".join(told(key, measured[key]) for key in keys if key in measured)


def chosen_text(name: str, choice: Mapping[str, Any]) -> str:
    """What was chosen, in a few words."""
    chosen = choice["chosen"]
    if name == "epoch":
        average = ", averaged weights" if chosen["weights"] == "ema" else ""
        stage = ", re-trained classifier" if chosen.get("phase") == "crt" else ""
        return f"{chosen['epoch']} (of {len(choice['among'])} measured){average}{stage}"
    if name == "classifier":
        return f"{chosen['crt_lr']:g} (of {len(choice['among'])})"
    if name == "thresholds":
        probabilities = chosen["probability"]
        return f"probabilities from {min(probabilities):.3g} to {max(probabilities):.3g}"
    return f"tau {chosen['tau']:g}"


def choice_notes(name: str, choice: Mapping[str, Any]) -> list[str]:
    """What has to be said of a choice besides."""
    first = choice.get("first_stage")
    if name == "classifier" and first is not None and first > choice["value"]:
        return [
            f"the first stage's own classifier was better on the {choice['on']} part "
            f"({100 * first:.2f} %); model.safetensors holds the re-trained one all the same"
        ]
    return []


def _label_lines(
    measured: Mapping[str, Any], thresholds: Mapping[str, Any], names: Sequence[str]
) -> list[str]:
    """A line a label; of very many labels those of the lowest average precision."""
    columns = {
        "AP": measured["per_class_average_precision"],
        "AUC": measured["per_class_auc"],
        "F1 at 0.5": measured["per_class_f1"],
    }
    if "per_class_f1" in thresholds:
        columns["F1 at its threshold"] = thresholds["per_class_f1"]
    precisions = columns["AP"]
    places, note = list(range(len(names))), ""
    if len(names) > _MOST_LABELS:
        places = [place for place in places if precisions[place] is not None]
        places = sorted(places, key=lambda place: precisions[place])[:_FEWER_LABELS]
        note = f" (the {len(places)} of {len(names):,} with the lowest average precision)"
    table = [["label", *columns]]
    table += [[names[p], *(shown("f1", values[p]) for values in columns.values())] for p in places]
    if "per_class_f1" in thresholds:
        table[0].append("threshold")
        for row, place in zip(table[1:], places, strict=True):
            row.append(f"{thresholds['chosen']['probability'][place]:.3f}")
    widths = [max(map(cell_len, column)) for column in zip(*table, strict=True)]
    rows = []
    for label, *cells in table:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        rows.append("  ".join([f"  {label}{' ' * (widths[0] - cell_len(label))}", *padded]))
    return ["", f"labels{note}, with AP the average precision:", *rows]


def _sweep_lines(
    title: str, sweep: dict[str, Any] | list[dict[str, float]], part: str
) -> list[str]:
    """One line a strength, or why there are none."""
    if isinstance(sweep, dict):
        return ["", f"{title}: left out, {sweep['left_out']}"]
    where = f"{part} part" + ("; chooses nothing" if part == "test" else "")
    rows = _rows("tau", {f"{entry['tau']:g}": entry for entry in sweep})
    return ["", f"{title} ({where}):", *rows]


def _probe_lines(probes: dict[str, dict[str, float]]) -> list[str]:
    """One line a set of images that a probe was fitted on."""
    named = {f"{name} ({p['training_images']:,} images)": p for name, p in probes.items()}
    return ["", "linear probes on the frozen features:", *_rows("fitted on", named)]


def _rows(head: str, measured: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A small table in percent, a row an entry."""
    width = max(len(head), *map(len, measured))
    titles = "  ".join(f"{named(name):>17}" for name in BRIEF)
    rows = [
        f"  {label:<{width}}" + "".join(f"  {100 * values[name]:15.2f} %" for name in BRIEF)
        for label, values in measured.items()
    ]
    return [f"  {head:<{width}}  {titles}", *rows]
