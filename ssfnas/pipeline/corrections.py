"""The corrections for unequal classes that an evaluation has chosen, for a network at work."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from torch import Tensor, nn

from ssfnas.errors import RequestError
from ssfnas.evaluation.choices import choosing_metric, chosen_epoch
from ssfnas.evaluation.features import classifier_of
from ssfnas.evaluation.posthoc import adjust_logits, normalize_classifier
from ssfnas.evaluation.predictor import Correction
from ssfnas.objectives.class_prior import PriorLeft, prior_left
from ssfnas.pipeline.run import Run
from ssfnas.runs.run_files import evaluation_file


def prior_of(run: Run, which: str) -> PriorLeft:
    """What the training of a run had left of the class sizes when its weights were taken."""
    card, taken = run.data_card, {}
    epoch = None
    if which == "best":
        epoch = chosen_epoch(run.metrics, choosing_metric(card.multi_label))
    if epoch is not None:
        chosen = epoch["chosen"]
        taken = {key: chosen[key] for key in ("phase", "reweighted") if key in chosen}
    return prior_left(run.config, card.class_counts, **taken)


def chosen_correction(run: Run, net: nn.Module, name: str, which: str) -> tuple[Correction, float]:
    """The correction of that name, and the strength tau that the validation part chose for it.

    Args:
        run: the retraining.
        net: its network.
        name: ``"logit_adjustment"`` or ``"tau_normalization"``.
        which: of its weights.

    Raises:
        RequestError: the evaluation of these weights has chosen none.
    """
    file = evaluation_file(which)
    if not (run.path / file).is_file():
        raise RequestError(
            f"--correction {name}: {run.path / file} is missing: measure these weights first, with "
            f"python -m ssfnas.evaluate --run {shlex.quote(str(run.path))} --which {which}"
        )
    measured = run.read_json(file)
    choice = measured.get("choices", {}).get(name)
    if not isinstance(choice, Mapping):
        sweep = measured.get("post_hoc", {}).get(name)
        reason = "the run has no validation part to choose its strength on"
        if isinstance(sweep, Mapping):
            reason = str(sweep.get("left_out", reason))
        raise RequestError(
            f"--correction {name}: {run.path / file} has chosen none ({reason}): leave it out"
        )
    tau = float(choice["chosen"]["tau"])
    if name == "logit_adjustment":
        shares = prior_of(run, which).shares

        def adjusted(logits: Tensor, features: Tensor | None) -> Tensor:
            return adjust_logits(logits, shares, tau)

        return adjusted, tau
    classifier = classifier_of(net)
    assert isinstance(classifier, nn.Linear)
    linear = classifier

    def normalized(logits: Tensor, features: Tensor | None) -> Tensor:
        assert features is not None
        return normalize_classifier(features, linear, tau)

    return normalized, tau
