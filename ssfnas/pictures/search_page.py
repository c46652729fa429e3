"""The report of a search."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ssfnas.declarations.derivations import PERTURBATION
from ssfnas.evaluation.measure_names import is_number, named, shown
from ssfnas.pictures.curves import (
    CELL_NAMES,
    edge_ends,
    edge_name,
    edges_over_time,
    panels_of_lines,
    weights_key,
    weights_over_time,
)
from ssfnas.pictures.heat_maps import final_weights
from ssfnas.pictures.image_sections import samples_section
from ssfnas.pictures.markup import Pictures, joined, table, tag
from ssfnas.pictures.page_parts import (
    Section,
    cells_section,
    closing_sections,
    config_text,
    curves_section,
    paragraph,
    state_of,
    state_section,
    tiles,
    time_of,
)
from ssfnas.pictures.verdict import search_verdict
from ssfnas.runs.next_commands import derive_command
from ssfnas.runs.run_files import RunFiles

_OBJECTIVES = {
    "supervised": "cross-entropy",
    "ssl": "Barlow Twins, no labels",
    "joint": "cross-entropy and Barlow Twins",
}
_THRESHOLD_RULES = ("threshold", "threshold_edge")


def search_sections(run: RunFiles, pictures: Pictures) -> list[Section | None]:
    """The parts of the page about one search, in order."""
    return [
        state_section(run),
        _verdict(run),
        _summary(run),
        _nothing_passed(run),
        cells_section(run, pictures),
        _outcome(run),
        samples_section(run),
        _weights(run, pictures),
        _edges(run, pictures),
        curves_section(
            run,
            pictures,
            "strategy",
            "What the strategy did",
            "What it changes from epoch to epoch, and how many operations are left in the search.",
            wanted=_is_of_strategy,
        ),
        curves_section(
            run,
            pictures,
            "losses",
            "Loss terms",
            "Means over each epoch, in the step that updates the alphas and in the one that "
            "updates the weights.",
            wanted=_is_loss,
        ),
        curves_section(
            run,
            pictures,
            "health",
            "Health of the search",
            "How decided the weights are, whether skip connections take over, and what the "
            "features are worth to a nearest-neighbor classifier.",
            wanted=lambda key: not _is_loss(key) and not _is_of_strategy(key),
        ),
        *closing_sections(run),
    ]


def _is_loss(key: str) -> bool:
    return key.startswith(("alpha/", "weight/")) or key == "score"


def _is_of_strategy(key: str) -> bool:
    return key.startswith(("strategy/", "open/"))


def _summary(run: RunFiles) -> Section:
    values, genotype = run.values, run.genotype
    kept = None
    if genotype is not None:
        kept = f"{len(genotype.normal)} normal, {len(genotype.reduce)} reduction"
    neighbors = {key: run.last(key) for key in ("knn/top1", "knn/balanced")}
    top1, balanced = (None if v is None else shown(key, v) for key, v in neighbors.items())
    images = run.last("knn/images")
    facts: list[tuple[str, object]] = [
        ("strategy", values.get("strategy")),
        ("objective", _OBJECTIVES.get(str(values.get("objective")), values.get("objective"))),
        ("derivation", _rule(run) if run.trains_alphas else None),
        ("state", state_of(run)),
        ("time", time_of(run)),
        ("seed", values.get("seed")),
        ("operations kept", kept),
        (named("knn/top1"), top1),
        (named("knn/balanced"), balanced),
        ("neighbors measured", "{1:,} images among {0:,}".format(*images) if images else None),
    ]
    return Section("summary", "Summary", tiles(facts))


def _rule(run: RunFiles) -> str:
    """How the genotype was derived, as far as it is not the usual way."""
    derivation = run.derivation
    parts = [config_text(derivation.get("derive"))]
    if parts[0] in _THRESHOLD_RULES:
        parts.append(config_text(derivation.get("threshold")))
    if parts[0] == PERTURBATION:
        parts.append(f"by {named(config_text(derivation.get('measure')))}")
    epoch = derivation.get("epoch")
    if any(epoch is not None and epoch != len(w) - 1 for w in run.weights.values()):
        parts.append(f"after epoch {epoch}")
    for key, of in (
        ("max_skip_connections", "skip connections"),
        ("max_params", "parameters"),
        ("max_flops", "multiply-adds"),
    ):
        if is_number(derivation.get(key)):
            parts.append(f"at most {derivation[key]:,} {of}")
    return ", ".join(parts)


def _nothing_passed(run: RunFiles) -> Section | None:
    """Why a search that came to its end has no genotype, and what to do."""
    last = {cell: values[-1] for cell, values in run.weights.items()}
    if run.genotype is not None or not last:
        return None
    plugins = [str(plugin) for plugin in run.values.get("plugins") or []]
    # The largest threshold at which neither cell is empty, rounded down.
    lower = math.floor(100 * min(float(weights.max()) for weights in last.values())) / 100
    rules = (["darts"], ["threshold", "--threshold", f"{lower:.2f}"])
    rows = [
        (CELL_NAMES[cell], *row)
        for cell, weights in last.items()
        for row in _largest(weights, run.operations)
    ]
    body = joined(
        [
            paragraph(
                "The search came to its end, but in at least one cell no operation reached the "
                f"threshold of {config_text(run.values.get('threshold'))}. The run is kept. Its "
                "largest weights:"
            ),
            table(("cell", "operation", "edge", "weight"), rows),
            paragraph("Derive again, by rank in place of the threshold or with a lower one:"),
            tag("pre", "\n".join(derive_command(plugins, run.path, *rule) for rule in rules)),
        ]
    )
    return Section("derivation", "No genotype was derived", body, alert=True)


def _largest(
    weights: NDArray[np.floating], operations: tuple[str, ...], count: int = 4
) -> list[tuple[str, str, str]]:
    """(operation, edge, weight) of the largest weights, as text."""
    ends = edge_ends(weights.shape[0])
    rows = []
    for place in np.argsort(-weights, axis=None, kind="stable")[:count]:
        edge, number = divmod(int(place), weights.shape[1])
        weight = f"{float(weights[edge, number]):.3f}"
        rows.append((operations[number], edge_name(*ends[edge]), weight))
    return rows


def _outcome(run: RunFiles) -> Section | None:
    if not run.weights:
        return None
    last = {cell: values[-1] for cell, values in run.weights.items()}
    kept = {} if run.genotype is None else {c: set(getattr(run.genotype, c)) for c in CELL_NAMES}
    tables = final_weights(last, run.operations, kept=kept)
    text = paragraph(
        "Weight of every operation on every edge after the last epoch. Framed: what the genotype "
        "keeps."
    )
    body = joined([text, tag("div", tables, class_="beside")])
    return Section("outcome", "Weights at the end", body)


def _weights(run: RunFiles, pictures: Pictures) -> Section | None:
    used = run.derivation.get("derive") in _THRESHOLD_RULES
    threshold = run.derivation.get("threshold") if used else None
    line = float(threshold) if isinstance(threshold, (int, float)) else None
    parts = [
        joined(
            [
                tag("h3", f"{CELL_NAMES[cell].capitalize()} cell"),
                pictures.panels(
                    weights_over_time(values, run.operations, threshold=line),
                    key=weights_key(run.operations, line),
                    small=True,
                ),
            ]
        )
        for cell, values in run.weights.items()
        if len(values) > 1
    ]
    if not parts:
        return None
    text = paragraph("After each epoch, edge by edge; epoch 0 is before the first step.")
    return Section("weights", "Weights over time", joined([text, *parts]))


def _edges(run: RunFiles, pictures: Pictures) -> Section | None:
    """Factors of edges, of strategies that have any."""
    parts = [
        joined(
            [
                tag("h3", f"{name.capitalize()} cell"),
                pictures.panels(panels_of_lines(edges_over_time(run.alphas[f"edges_{cell}"]))),
            ]
        )
        for cell, name in CELL_NAMES.items()
        if f"edges_{cell}" in run.alphas and len(run.alphas[f"edges_{cell}"]) > 1
    ]
    if not parts:
        return None
    text = paragraph("What the edges that enter a node share, after each epoch.")
    return Section("edges", "Edges over time", joined([text, *parts]))


def _verdict(run: RunFiles) -> Section | None:
    verdict = search_verdict(run)
    if verdict is None:
        return None
    body = joined(map(paragraph, verdict.sentences))
    return Section("verdict", "In short", body, alert=verdict.alert)
