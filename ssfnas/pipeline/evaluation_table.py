"""What was measured of a trained network, as lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
_OF_LABELS = ("auc", "macro_f1", "accuracy")


def table(result: dict[str, Any]) -> str:
    """What an evaluation holds, apart from single classes, as lines."""
    last = result["last_epoch"]
    lines = [
        f"parameters   {result['parameters']:,}",
        f"multiply-adds {result['multiply_adds'] / 1e6:.1f} M",
    ]
    for name, value in last.items():
        if isinstance(value, float):
            lines.append(f"{name:<20} {100 * value:6.2f} %")
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
        test = choice["test"]
        keys = [key for key in BRIEF if key in test] or [key for key in _OF_LABELS if key in test]
        given = ", ".join(f"{key} {100 * test[key]:.2f} %" for key in keys)
        lines.append(
            f"{_CHOICES.get(name, name)}: {chosen_text(name, choice)}, on the {choice['on']} part "
            f"by {choice['by']}{found}: {given}"
        )
        lines += [f"  {note}" for note in choice_notes(name, choice)]
    return lines


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
    titles = "  ".join(f"{name:>17}" for name in BRIEF)
    rows = [
        f"  {label:<{width}}" + "".join(f"  {100 * values[name]:15.2f} %" for name in BRIEF)
        for label, values in measured.items()
    ]
    return [f"  {head:<{width}}  {titles}", *rows]
