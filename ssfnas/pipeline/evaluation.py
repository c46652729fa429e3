"""Everything that is measured of a trained network, for ``evaluation.json``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssfnas.config import EvaluateConfig, RetrainConfig
from ssfnas.data import DATASETS, ImageData
from ssfnas.errors import RequestError
from ssfnas.evaluation.features import classifier_of
from ssfnas.evaluation.monitor import pooled_features
from ssfnas.evaluation.posthoc import TAUS, adjust_logits, normalize_classifier
from ssfnas.evaluation.prediction import measure, predict, predict_with_features
from ssfnas.evaluation.probe import apply_linear_probe, fit_linear_probe
from ssfnas.objectives.class_prior import prior_left
from ssfnas.options import check_multi_label, option_values
from ssfnas.pipeline.evaluation_data import balanced_training_images, own_data
from ssfnas.pipeline.run import Run
from ssfnas.runs.data_card import DataCard
from ssfnas.runs.run_files import EVALUATION_FILE
from ssfnas.spaces import count_multiply_adds, count_parameters

_BRIEF = ("top1", "balanced_accuracy", "worst_class")
_TITLES = {
    "logit_adjustment": "post-hoc logit adjustment",
    # As in its source; so tau 0 is not quite the network itself.
    "tau_normalization": "tau-normalization of the classifier, without its bias",
}


def evaluate_network(
    run: Run, data: ImageData, config: EvaluateConfig, device: torch.device
) -> dict[str, Any]:
    """All metrics of a finished retraining on the test part.

    Args:
        run: the retraining.
        data: its data, or others that fit its network; see :func:`~.evaluation_data`. They are
            normalized by the run's own statistics.
        config: which weights, and what besides the plain metrics.
        device: where to compute.

    Returns:
        For JSON. ``last_epoch`` holds the metrics to report; ``best_epoch`` was chosen on the test
        part and is named so, and is None for other weights or data.

    Raises:
        RequestError: the data have no test part, or what was asked for has no meaning with them.
    """
    card = run.data_card
    if data.test is None:
        raise RequestError(f"{data.name} has no test part: add test_images and test_labels")
    if data.multi_label:
        check_multi_label(config, option_values(type(config)))
    data = dataclasses.replace(data.to(device), mean=card.mean, std=card.std)
    last = config.which == "last" and config.dataset is None
    test = data.test
    assert test is not None

    def predicted(net: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
        return predict(
            net, test, data, device=device,
            precision=config.precision, batch_size=config.batch_size,
        )  # fmt: skip

    net = run.network(config.which).to(device)
    features: torch.Tensor | None = None
    linear = isinstance(classifier_of(net), nn.Linear)
    if config.precision == "fp32" and linear:
        logits, features, labels = predict_with_features(
            net, test, data, device=device, batch_size=config.batch_size
        )
    else:
        logits, labels = predicted(net)
    result: dict[str, Any] = {
        "data": {"name": data.name, "test_images": len(labels)},
        "weights": config.which,
        "parameters": count_parameters(net, auxiliary=False),
        "multiply_adds": count_multiply_adds(net, card.image_size, card.in_channels),
        "last_epoch": measure(logits, labels, card, thirds=config.thirds),
        "best_epoch": best_epoch(run) if last else None,
    }
    if config.dataset is not None:
        named = config.dataset in DATASETS
        path = config.dataset if named else str(Path(config.dataset).expanduser().resolve())
        result["data"]["path"] = path
    if config.which == "last" and (run.path / "model_ema.safetensors").is_file():
        averaged = predicted(run.network("ema").to(device))
        result["ema"] = measure(*averaged, card, thirds=config.thirds)
    if not data.multi_label:
        if features is None and (linear or config.probe):
            features, _ = pooled_features(net, test, data, device=device)
        result["post_hoc"] = _post_hoc(net, run.config, logits, features, labels, card)
        if config.probe:
            assert features is not None
            own = own_data(run, config)[0] if config.dataset is not None else data
            result["probe"] = _probes(net, run, own, features, labels, config, device)
    return result


def write_evaluation(run: Run, result: dict[str, Any], config: EvaluateConfig) -> Path:
    """Write what :func:`evaluate_network` gave, and lose nothing that was measured before.

    Linear probes in the file that is written anew are kept where none were fitted this time.

    Returns:
        ``evaluation.json`` for the last weights on the run's own data; for others a file whose name
        says which: ``evaluation-ema.json``, ``evaluation-on-NAME.json``.
    """
    name = _evaluation_file(run, result, config)
    before = _evaluation_before(run, name)
    if "probe" in before and "probe" not in result:
        result["probe"] = before["probe"]
    return run.directory.write_json(name, result)


def _evaluation_file(run: Run, result: dict[str, Any], config: EvaluateConfig) -> str:
    if config.which == "last" and config.dataset is None:
        return EVALUATION_FILE
    stem = "evaluation" if config.which == "last" else f"evaluation-{config.which}"
    if config.dataset is None:
        return f"{stem}.json"
    stem += "-on-" + re.sub(r"[^\w.-]", "-", Path(result["data"]["path"]).stem)
    number = 1
    while True:
        # Another data set may have the same name in another folder.
        name = f"{stem}.json" if number == 1 else f"{stem}-{number}.json"
        held = _evaluation_before(run, name).get("data", {}).get("path")
        if held in (None, result["data"]["path"]):
            return name
        number += 1


def _evaluation_before(run: Run, name: str) -> dict[str, Any]:
    """What a file holds that is to be written anew; nothing where it is absent or damaged."""
    try:
        return run.read_json(name)
    except RequestError:
        return {}


def best_epoch(run: Run) -> dict[str, float] | None:
    """Epoch and value of the best evaluation on the test part, from the run's metrics."""
    key = "test/auc" if run.data_card.multi_label else "test/top1"
    measured = [entry for entry in run.metrics if key in entry]
    if not measured:
        return None
    best = max(measured, key=lambda entry: entry[key])
    return {"epoch": best["epoch"], key: best[key]}


def _post_hoc(
    net: nn.Module,
    config: RetrainConfig,
    logits: torch.Tensor,
    features: torch.Tensor | None,
    labels: torch.Tensor,
    card: DataCard,
) -> dict[str, Any]:
    sweeps: dict[str, Any] = {}
    left = prior_left(config, card.class_counts)
    if left.uniform:
        trained = " and ".join(left.corrected_by) or "as many images of each class"
        sweeps["logit_adjustment"] = {
            "left_out": f"trained with {trained}: adjusting again would correct twice"
        }
    else:
        adjusted = {tau: adjust_logits(logits, left.shares, tau) for tau in TAUS}
        sweeps["logit_adjustment"] = _sweep(adjusted, labels, card)
    classifier = classifier_of(net)
    if isinstance(classifier, nn.Linear) and features is not None:
        with torch.no_grad():
            normalized = {
                tau: normalize_classifier(features, classifier, tau) for tau in TAUS if tau <= 1
            }
        sweeps["tau_normalization"] = _sweep(normalized, labels, card)
    return sweeps


def _sweep(
    logits: Mapping[float, torch.Tensor], labels: torch.Tensor, card: DataCard
) -> list[dict[str, float]]:
    """What each strength of a correction gives."""
    return [{"tau": tau, **_brief(values, labels, card)} for tau, values in logits.items()]


def _brief(logits: torch.Tensor, labels: torch.Tensor, card: DataCard) -> dict[str, float]:
    measured = measure(logits, labels, card)
    return {name: measured[name] for name in _BRIEF}


def _probes(
    net: nn.Module,
    run: Run,
    own: ImageData,
    test: torch.Tensor,
    test_labels: torch.Tensor,
    config: EvaluateConfig,
    device: torch.device,
) -> dict[str, Any]:
    """Probes fitted on the run's own training images, whatever data the test is of."""
    card = run.data_card
    own = dataclasses.replace(own, mean=card.mean, std=card.std)
    images = {"long_tailed": own.train, "balanced": balanced_training_images(run, own, config)}
    probes = {}
    for name, part in images.items():
        features, labels = pooled_features(net, part.to(device), own, device=device)
        probe = fit_linear_probe(features, labels, own.num_classes)
        probes[name] = {
            "training_images": len(part),
            **_brief(apply_linear_probe(probe, test), test_labels, card),
        }
    return probes


def table(result: dict[str, Any]) -> str:
    """What :func:`evaluate_network` measured, apart from single classes, as lines for people."""
    last = result["last_epoch"]
    lines = [
        f"parameters   {result['parameters']:,}",
        f"multiply-adds {result['multiply_adds'] / 1e6:.1f} M",
    ]
    for name, value in last.items():
        if isinstance(value, float):
            lines.append(f"{name:<20} {100 * value:6.2f} %")
    best = result["best_epoch"]
    if best is not None:
        key = next(name for name in best if name != "epoch")
        lines.append(
            f"best epoch {int(best['epoch'])}, chosen on the test part: {100 * best[key]:.2f} %"
        )
    for name, sweep in result.get("post_hoc", {}).items():
        lines += _sweep_lines(_TITLES[name], sweep)
    if "probe" in result:
        lines += _probe_lines(result["probe"])
    return "\n".join(lines)


def _sweep_lines(title: str, sweep: dict[str, Any] | list[dict[str, float]]) -> list[str]:
    """One line a strength, or why there are none."""
    if isinstance(sweep, dict):
        return ["", f"{title}: left out, {sweep['left_out']}"]
    return ["", f"{title}:", *_rows("tau", {f"{entry['tau']:g}": entry for entry in sweep})]


def _probe_lines(probes: dict[str, dict[str, float]]) -> list[str]:
    """One line a set of images that a probe was fitted on."""
    named = {f"{name} ({p['training_images']:,} images)": p for name, p in probes.items()}
    return ["", "linear probes on the frozen features:", *_rows("fitted on", named)]


def _rows(head: str, measured: Mapping[str, Mapping[str, float]]) -> list[str]:
    """A small table in percent, a row an entry."""
    width = max(len(head), *map(len, measured))
    titles = "  ".join(f"{name:>17}" for name in _BRIEF)
    rows = [
        f"  {label:<{width}}" + "".join(f"  {100 * values[name]:15.2f} %" for name in _BRIEF)
        for label, values in measured.items()
    ]
    return [f"  {head:<{width}}  {titles}", *rows]
