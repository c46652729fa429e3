"""The report of a search."""

from __future__ import annotations

import math
import shlex

import numpy as np
from numpy.typing import NDArray

from ssfnas.pictures.cells import CELLS
from ssfnas.pictures.curves import edge_ends, final_weights, state_name, weights_over_time
from ssfnas.pictures.markup import Markup, Pictures, joined, table, tag
from ssfnas.pictures.numbers import is_number, shown
from ssfnas.pictures.page_parts import (
    Section,
    cells_section,
    config_section,
    config_text,
    curves,
    data_section,
    environment_section,
    log_section,
    paragraph,
    state_of,
    tiles,
    time_of,
    unfinished,
)
from ssfnas.pictures.run_files import RunFiles

_OBJECTIVES = {
    "supervised": "cross-entropy",
    "ssl": "Barlow Twins, no labels",
    "joint": "cross-entropy and Barlow Twins",
}
_THRESHOLD_RULES = ("threshold", "threshold_edge")
_NAMES = {"normal": "normal", "reduce": "reduction"}


def search_sections(run: RunFiles, pictures: Pictures) -> list[Section]:
    """The parts of the page about one search, in order."""
    parts = [
        unfinished(run),
        _summary(run),
        _nothing_passed(run),
        cells_section(run, pictures),
        _outcome(run, pictures),
        _weights(run, pictures),
        _losses(run, pictures),
        _health(run, pictures),
        data_section(run, pictures),
        config_section(run),
        environment_section(run),
        log_section(run),
    ]
    return [part for part in parts if part is not None]


def _summary(run: RunFiles) -> Section:
    config = run.config
    facts: list[tuple[str, object]] = [
        ("strategy", config.get("strategy")),
        ("objective", _OBJECTIVES.get(str(config.get("objective")), config.get("objective"))),
        ("derivation", None if config.get("strategy") == "random" else _rule(run)),
        ("state", state_of(run)),
        ("time", time_of(run)),
        ("seed", config.get("seed")),
    ]
    if run.genotype is not None:
        facts.append(
            (
                "operations kept",
                f"{len(run.genotype.normal)} normal, {len(run.genotype.reduce)} reduction",
            )
        )
    for key, name in (
        ("knn/top1", "nearest neighbors"),
        ("knn/balanced", "nearest neighbors, balanced"),
    ):
        value = run.last(key)
        facts.append((name, None if value is None else shown(key, value)))
    return Section("summary", "Summary", tiles(facts))


def _rule(run: RunFiles) -> str:
    """How the genotype was derived, as far as it is not the usual way."""
    derivation = run.derivation
    parts = [config_text(derivation.get("derive"))]
    if parts[0] in _THRESHOLD_RULES:
        parts.append(config_text(derivation.get("threshold")))
    epoch = derivation.get("epoch")
    if any(epoch is not None and epoch != len(w) - 1 for w in run.weights.values()):
        parts.append(f"after epoch {epoch}")
    for key, of in (("max_params", "parameters"), ("max_flops", "multiply-adds")):
        if is_number(derivation.get(key)):
            parts.append(f"at most {derivation[key]:,} {of}")
    return ", ".join(parts)


def _nothing_passed(run: RunFiles) -> Section | None:
    """Why a search that came to its end has no genotype, and what to do."""
    if run.genotype is not None or not run.weights:
        return None
    threshold = run.config.get("threshold")
    plugins = run.config.get("plugins") or []
    words = [*(["--plugins", *map(str, plugins)] if plugins else []), "--run", str(run.path)]
    command = f"python -m ssfnas.derive {shlex.join(words)}"
    # The largest threshold at which neither cell is empty, rounded down.
    lower = math.floor(100 * min(float(w[-1].max()) for w in run.weights.values())) / 100
    rows = [
        (_NAMES[cell], operation, f"{start} → {to}", f"{weight:.3f}")
        for cell, values in run.weights.items()
        for operation, start, to, weight in _largest(values[-1], run.operations)
    ]
    body = joined(
        [
            paragraph(
                f"The search came to its end, but in at least one cell no operation reached the "
                f"threshold of {config_text(threshold)}. The run is kept. Its largest weights:"
            ),
            table(("cell", "operation", "edge", "weight"), rows),
            paragraph("Derive again, by rank in place of the threshold or with a lower one:"),
            tag(
                "pre",
                f"{command} --derive darts\n{command} --derive threshold --threshold {lower:.2f}",
            ),
        ]
    )
    return Section("derivation", "No genotype was derived", body, alert=True)


def _largest(
    weights: NDArray[np.floating], operations: tuple[str, ...], count: int = 4
) -> list[tuple[str, str, str, float]]:
    ends = edge_ends(weights.shape[0])
    order = np.argsort(-weights, axis=None, kind="stable")[:count]
    found = []
    for place in order:
        edge, number = divmod(int(place), weights.shape[1])
        start, to = ends[edge]
        weight = float(weights[edge, number])
        found.append((operations[number], state_name(start), state_name(to), weight))
    return found


def _kept(run: RunFiles) -> dict[str, set[tuple[str, int, int]]]:
    if run.genotype is None:
        return {}
    return {"normal": set(run.genotype.normal), "reduce": set(run.genotype.reduce)}


def _threshold(run: RunFiles) -> float | None:
    used = run.derivation.get("derive") in _THRESHOLD_RULES
    value = run.derivation.get("threshold")
    return float(value) if used and isinstance(value, (int, float)) else None


def _outcome(run: RunFiles, pictures: Pictures) -> Section | None:
    if not run.weights:
        return None
    last = {cell: values[-1] for cell, values in run.weights.items()}
    figure = final_weights(last, run.operations, kept=_kept(run))
    caption = (
        "Weight of every operation on every edge after the last epoch. Framed: what the genotype "
        "keeps."
    )
    return Section("outcome", "Weights at the end", pictures.show(figure, caption, wide=True))


def _weights(run: RunFiles, pictures: Pictures) -> Section | None:
    parts: list[Markup] = []
    for cell in CELLS:
        if cell in run.weights and run.weights[cell].shape[0] > 1:
            figure = weights_over_time(run.weights[cell], run.operations, threshold=_threshold(run))
            caption = (
                f"The {_NAMES[cell]} cell: a row for each node, a column for where its edges come "
                "from; epoch 0 is before the first step."
            )
            parts.append(pictures.show(figure, caption, wide=True))
    return Section("weights", "Weights over time", joined(parts)) if parts else None


def _losses(run: RunFiles, pictures: Pictures) -> Section | None:
    body = curves(
        run,
        pictures,
        lambda key: key.startswith(("alpha/", "weight/")) or key == "score",
        "Means over each epoch, in the step that updates the alphas and in the one that updates "
        "the weights.",
    )
    return None if body is None else Section("losses", "Loss terms", body)


def _health(run: RunFiles, pictures: Pictures) -> Section | None:
    body = curves(
        run,
        pictures,
        lambda key: not key.startswith(("alpha/", "weight/")) and key != "score",
        "How decided the weights are, whether skip connections take over, and what the features "
        "are worth to a nearest-neighbor classifier.",
    )
    return None if body is None else Section("health", "Health of the search", body)
