"""Everything that is measured of a trained network, for ``evaluation.json``."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ssfnas.config import EvaluateConfig
from ssfnas.data import DATASETS, ImageData, ImageSet
from ssfnas.errors import RequestError
from ssfnas.evaluation.choices import (
    PART,
    choosing_metric,
    chosen_classifier,
    chosen_epoch,
    chosen_strength,
)
from ssfnas.evaluation.confusions import confusions
from ssfnas.evaluation.features import classifier_of
from ssfnas.evaluation.monitor import pooled_features
from ssfnas.evaluation.posthoc import TAUS, adjust_logits, normalize_classifier
from ssfnas.evaluation.prediction import measure, predict, predict_with_features
from ssfnas.evaluation.probe import apply_linear_probe, fit_linear_probe
from ssfnas.evaluation.thresholds import best_thresholds, macro_f1
from ssfnas.options import check_multi_label, option_values
from ssfnas.pipeline.corrections import prior_of
from ssfnas.pipeline.evaluation_data import balanced_training_images, own_data
from ssfnas.pipeline.mistakes import mistake_arrays
from ssfnas.pipeline.run import Run
from ssfnas.runs.data_card import DataCard
from ssfnas.runs.run_directory import RunDirectory
from ssfnas.runs.run_files import EVALUATION_FILE, MISTAKES_FILE, evaluation_file
from ssfnas.spaces import count_multiply_adds, count_parameters

BRIEF = ("top1", "balanced_accuracy", "worst_class")

Choices = dict[str, dict[str, Any]]


def evaluate_network(
    run: Run, data: ImageData, config: EvaluateConfig, device: torch.device
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """All metrics of a finished retraining on the test part.

    Args:
        run: the retraining.
        data: its data, or others that fit its network; see :func:`~.evaluation_data`. They are
            normalized by the run's own statistics.
        config: which weights, and what besides the plain metrics.
        device: where to compute.

    Returns:
        What was measured, for JSON, and of the last weights on the run's own data, which the report
        shows, the worst mistakes; see :func:`~.mistakes.mistake_arrays`.

        Of the first, ``last_epoch`` holds the metrics of the weights asked for, ``ema`` and
        ``best`` beside the last weights those of the others that the run keeps. ``confusions`` are
        those of the weights asked for, see :func:`~ssfnas.evaluation.confusions.confusions`.
        ``post_hoc`` are sweeps of corrections on the part ``swept_on``; ``choices`` says what the
        run's validation part chose, and what the test part gives with it; see
        :mod:`ssfnas.evaluation.choices`. Of other data the choices are those that the run's own
        evaluation recorded.

    Raises:
        RequestError: the data have no test part, or what was asked for has no meaning with them.
    """
    if data.test is None:
        raise RequestError(f"{data.name} has no test part: add test_images and test_labels")
    if data.multi_label:
        check_multi_label(config, option_values(type(config)))
    evaluation = _Evaluation(run, data, config, device)
    result = evaluation.result()
    shown = config.which == "last" and config.dataset is None
    return result, evaluation.mistakes(result) if shown else {}


@dataclasses.dataclass(frozen=True)
class _Outputs:
    """What a network makes of a part: logits [N, C], labels, and features [N, F] where needed."""

    logits: Tensor
    labels: Tensor
    features: Tensor | None


class _Evaluation:
    """One evaluation; see :func:`evaluate_network`."""

    def __init__(
        self, run: Run, data: ImageData, config: EvaluateConfig, device: torch.device
    ) -> None:
        self.run, self.config, self.device = run, config, device
        self.card = run.data_card
        self.metric = choosing_metric(self.card.multi_label)
        self.own = config.dataset is None
        self.data = dataclasses.replace(data.to(device), mean=self.card.mean, std=self.card.std)
        self.net = run.network(config.which).to(device)
        self.linear = isinstance(classifier_of(self.net), nn.Linear)
        test, validation = self.data.test, self.data.validation if self.own else None
        assert test is not None
        self.test = self._outputs(test)
        self.validation = None if validation is None else self._outputs(validation)
        # Of other data nothing is chosen: what was chosen on the run's own is used.
        name = evaluation_file(config.which)
        self.recorded: Choices = {} if self.own else _before(run, name).get("choices", {})
        self.epoch = chosen_epoch(run.metrics, self.metric)
        if not (self.own or self.recorded) and self.epoch is not None:
            warnings.warn(
                f"{run.path / name} records no choice of the validation part, so none is applied "
                f"to {data.name}: evaluate the run's own data with --which {config.which} first",
                stacklevel=3,
            )

    def result(self) -> dict[str, Any]:
        """What goes into the file."""
        config, card = self.config, self.card
        last = self._measured(self.test.logits)
        choices: Choices = {}
        result: dict[str, Any] = {
            "data": {"name": self.data.name, "test_images": len(self.test.labels)},
            "weights": config.which,
            "parameters": count_parameters(self.net, auxiliary=False),
            "multiply_adds": count_multiply_adds(self.net, card.image_size, card.in_channels),
            "last_epoch": last,
        }
        if config.dataset is not None:
            named = config.dataset in DATASETS
            path = config.dataset if named else str(Path(config.dataset).expanduser().resolve())
            result["data"]["path"] = path
        if config.which == "last":
            for which in ("best", "ema"):
                if self.run.weights_file(which).is_file():
                    result[which] = self._of_weights(which)
        if self.own and self.epoch is not None and config.which in ("last", "best"):
            chosen = result["best"] if config.which == "last" and "best" in result else last
            choices["epoch"] = {**self.epoch, "test": _scalars(chosen)}
        if self.own and config.which == "last":
            classifier = chosen_classifier(self.run.metrics, self.metric)
            if classifier is not None:
                choices["classifier"] = {**classifier, "test": _scalars(last)}
        if card.multi_label:
            choices |= self._thresholds()
        else:
            predicted, classes = self.test.logits.argmax(1), self.data.num_classes
            result["confusions"] = confusions(predicted, self.test.labels, classes, last["groups"])
            result["post_hoc"], chosen_strengths = self._post_hoc()
            result["swept_on"] = "test" if self.validation is None else PART
            choices |= chosen_strengths
            if config.probe:
                result["probe"] = self._probes()
        return {**result, "choices": choices}

    def mistakes(self, result: dict[str, Any]) -> dict[str, NDArray[Any]]:
        """The worst of them on the test part; labels are decided as the validation part chose."""
        assert self.data.test is not None
        choice = result["choices"].get("thresholds")
        at = None if choice is None else torch.tensor(choice["chosen"]["logit"])
        return mistake_arrays(self.data.test, self.test.logits, self.test.labels, at)

    def _outputs(self, images: ImageSet) -> _Outputs:
        if self.config.precision == "fp32" and self.linear:
            logits, features, labels = predict_with_features(
                self.net, images, self.data, device=self.device, batch_size=self.config.batch_size
            )
            return _Outputs(logits, labels, features)
        logits, labels = self._predicted(self.net, images)
        if self.card.multi_label or not (self.linear or self.config.probe):
            return _Outputs(logits, labels, None)
        features, _ = pooled_features(self.net, images, self.data, device=self.device)
        return _Outputs(logits, labels, features)

    def _predicted(self, net: nn.Module, images: ImageSet) -> tuple[Tensor, Tensor]:
        return predict(
            net, images, self.data, device=self.device,
            precision=self.config.precision, batch_size=self.config.batch_size,
        )  # fmt: skip

    def _measured(self, logits: Tensor) -> dict[str, Any]:
        """All metrics of logits on the test part."""
        return measure(logits, self.test.labels, self.card, thirds=self.config.thirds)

    def _of_weights(self, which: str) -> dict[str, Any]:
        assert self.data.test is not None
        net = self.run.network(which).to(self.device)
        return self._measured(self._predicted(net, self.data.test)[0])

    def _post_hoc(self) -> tuple[dict[str, Any], Choices]:
        sweeps: dict[str, Any] = {}
        choices: Choices = {}
        left = prior_of(self.run, self.config.which)
        if left.uniform:
            trained = " and ".join(left.corrected_by) or "as many images of each class"
            sweeps["logit_adjustment"] = {
                "left_out": f"trained with {trained}: adjusting again would correct twice"
            }
        else:
            self._sweep(
                "logit_adjustment",
                lambda outputs, tau: adjust_logits(outputs.logits, left.shares, tau),
                TAUS, sweeps, choices,
            )  # fmt: skip
        classifier = classifier_of(self.net)
        if isinstance(classifier, nn.Linear) and self.test.features is not None:
            linear = classifier

            def normalized(outputs: _Outputs, tau: float) -> Tensor:
                assert outputs.features is not None
                with torch.no_grad():
                    return normalize_classifier(outputs.features, linear, tau)

            taus = tuple(tau for tau in TAUS if tau <= 1)
            self._sweep("tau_normalization", normalized, taus, sweeps, choices)
        return sweeps, choices

    def _sweep(
        self,
        name: str,
        correct: Callable[[_Outputs, float], Tensor],
        taus: tuple[float, ...],
        sweeps: dict[str, Any],
        choices: Choices,
    ) -> None:
        """Every strength on the validation part, and the best of them once on the test part.

        Without a validation part, every strength on the test part, and no choice.
        """
        part = self.validation or self.test
        rows = [{"tau": tau, **_brief(correct(part, tau), part.labels, self.card)} for tau in taus]
        sweeps[name] = rows
        choice = self.recorded.get(name)
        if self.validation is not None:
            choice = chosen_strength(rows, self.metric)
        if choice is not None:
            corrected = correct(self.test, choice["chosen"]["tau"])
            choices[name] = {**choice, "test": _scalars(self._measured(corrected))}

    def _thresholds(self) -> Choices:
        """For each label the probability to decide at."""
        choice = self.recorded.get("thresholds")
        if self.validation is not None:
            found = best_thresholds(self.validation.logits, self.validation.labels)
            f1 = macro_f1(self.validation.logits > found, self.validation.labels)
            choice = {
                "chosen": {"probability": found.sigmoid().tolist(), "logit": found.tolist()},
                "on": PART, "by": "F1 of each label", "among": "all thresholds", "value": f1,
            }  # fmt: skip
        if choice is None:
            return {}
        thresholds = self.test.logits.new_tensor(choice["chosen"]["logit"])
        moved = measure(self.test.logits - thresholds, self.test.labels, self.card)
        given = {key: moved[key] for key in ("macro_f1", "accuracy") if key in moved}
        return {"thresholds": {**choice, "test": given, "per_class_f1": moved["per_class_f1"]}}

    def _probes(self) -> dict[str, Any]:
        """Probes fitted on the run's own training images, whatever data the test is of."""
        card, test = self.card, self.test
        assert test.features is not None
        own = self.data if self.own else own_data(self.run, self.config)[0]
        own = dataclasses.replace(own, mean=card.mean, std=card.std)
        balanced = balanced_training_images(self.run, own, self.config)
        probes = {}
        for name, part in (("long_tailed", own.train), ("balanced", balanced)):
            features, labels = pooled_features(
                self.net, part.to(self.device), own, device=self.device
            )
            probe = fit_linear_probe(features, labels, own.num_classes)
            logits = apply_linear_probe(probe, test.features)
            probes[name] = {"training_images": len(part), **_brief(logits, test.labels, card)}
        return probes


def _brief(logits: Tensor, labels: Tensor, card: DataCard) -> dict[str, float]:
    measured = measure(logits, labels, card)
    return {name: measured[name] for name in BRIEF}


def _scalars(measured: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in measured.items() if isinstance(value, float)}


def write_evaluation(
    run: Run,
    result: dict[str, Any],
    mistakes: dict[str, NDArray[Any]],
    config: EvaluateConfig,
) -> Path:
    """Write what :func:`evaluate_network` gave, and lose nothing that was measured before.

    Linear probes in the file that is written anew are kept where none were fitted this time. Of the
    mistakes those of the last weights on the run's own data are kept, which the report shows.

    Returns:
        ``evaluation.json`` for the last weights on the run's own data; for others a file whose name
        says which: ``evaluation-ema.json``, ``evaluation-on-NAME.json``.
    """
    name = _evaluation_file(run, result, config)
    before = _before(run, name)
    if "probe" in before and "probe" not in result:
        result["probe"] = before["probe"]
    if name == EVALUATION_FILE:
        write_mistakes(run.directory, mistakes)
    return run.directory.write_json(name, result)


def write_mistakes(directory: RunDirectory, mistakes: dict[str, NDArray[Any]]) -> None:
    """``mistakes.npz``; none of an earlier evaluation is left where there are none."""
    if mistakes:
        directory.write_npz(MISTAKES_FILE, mistakes)
    else:
        (directory.path / MISTAKES_FILE).unlink(missing_ok=True)


def _evaluation_file(run: Run, result: dict[str, Any], config: EvaluateConfig) -> str:
    if config.dataset is None:
        return evaluation_file(config.which)
    stem = evaluation_file(config.which).removesuffix(".json")
    stem += "-on-" + re.sub(r"[^\w.-]", "-", Path(result["data"]["path"]).stem)
    number = 1
    while True:
        # Another data set may have the same name in another folder.
        name = f"{stem}.json" if number == 1 else f"{stem}-{number}.json"
        held = _before(run, name).get("data", {}).get("path")
        if held in (None, result["data"]["path"]):
            return name
        number += 1


def _before(run: Run, name: str) -> dict[str, Any]:
    """What a file holds that is to be written anew; nothing where it is absent or damaged."""
    try:
        return run.read_json(name)
    except RequestError:
        return {}
