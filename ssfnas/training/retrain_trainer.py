"""A retraining: its phases one after the other, evaluated as it goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssfnas.config import RetrainConfig
from ssfnas.data import ImageData, ImageSet
from ssfnas.evaluation.choices import choosing_metric
from ssfnas.evaluation.features import classifier_of
from ssfnas.evaluation.networks import build_network
from ssfnas.evaluation.prediction import measure, predict
from ssfnas.runs.data_card import DataCard
from ssfnas.runtime.distributed import World
from ssfnas.spaces import Genotype, synchronize_batchnorm
from ssfnas.training.chosen_weights import ChosenWeights
from ssfnas.training.graphed_step import Recorder, recorder_for
from ssfnas.training.phases import LabelPhase, Phase, PretrainPhase
from ssfnas.training.trainer import ForwardPasses, Trainer
from ssfnas.training.weight_average import WeightAverage


class RetrainTrainer(Trainer):
    """Trains the network that a genotype describes, or a baseline.

    Where the data have a validation part, it chooses: which epoch's weights are kept as the best
    (of the network or of their average, whichever epoch and phase), and which of several learning
    rates re-trains the classifier. The test part is measured for curves and chooses nothing.

    Args:
        config, data, world, dtype: see :class:`~ssfnas.training.trainer.Trainer`.
        genotype: what the network is derived from; None for a baseline.
        recorder: records steps; absent: a CUDA graph's where that is wanted and possible.

    Attributes:
        best: the weights of the best epoch by the validation part.
        classifier: the best re-trained classifier by it, of the network and of the average.
    """

    kept = ("step", "net", "average", "best", "classifier", "means")
    config: RetrainConfig

    def __init__(
        self,
        config: RetrainConfig,
        data: ImageData,
        genotype: Genotype | None,
        world: World,
        dtype: torch.dtype = torch.float32,
        recorder: Recorder | None = None,
    ) -> None:
        recorder = recorder or recorder_for(config, world)
        super().__init__(config, data, world, dtype)
        self.card = DataCard.of(data)
        self.net = build_network(
            config,
            genotype,
            num_classes=data.num_classes,
            in_channels=data.in_channels,
            image_size=data.image_size,
        ).to(world.device, dtype)
        # The average is copied before synchronization: a process group cannot be copied.
        self.average = WeightAverage(self.net) if config.ema > 0 else None
        if world.group is not None:
            self.net = synchronize_batchnorm(self.net, world.group)
        self.refuse_single_values()
        self.phases: list[Phase] = []
        if config.pretrain_epochs > 0:
            self.phases.append(PretrainPhase(self, recorder))
        self.phases.append(LabelPhase(self, recorder, self.average))
        if config.crt_epochs > 0:
            self.phases += [
                LabelPhase(self, recorder, self.average, "crt", lr)
                for lr in config.crt_lr or [config.lr]
            ]
        self.total_steps = sum(phase.total_steps for phase in self.phases)
        self.best, self.classifier = ChosenWeights(), ChosenWeights()

    def _place(self, step: int) -> tuple[Phase, int]:
        """Phase that ``step`` (0-based) belongs to, and the step within it."""
        for phase in self.phases:
            if step < phase.total_steps:
                return phase, step
            step -= phase.total_steps
        raise IndexError("past the last phase")

    @property
    def epoch_ended(self) -> bool:
        """Whether the step just done completes an epoch of its phase."""
        phase, step = self._place(self.step - 1)
        return (step + 1) % phase.steps_per_epoch == 0 or step + 1 == phase.total_steps

    @property
    def epoch(self) -> int:
        """Epochs that are complete, over all phases."""
        phase, step = self._place(self.step - 1)
        before = sum(p.epochs for p in self.phases[: self.phases.index(phase)])
        return before + -(-(step + 1) // phase.steps_per_epoch)

    @property
    def passes(self) -> list[ForwardPasses]:
        """Those of an update of each phase."""
        return [phase.passes for phase in self.phases]

    @property
    def place(self) -> tuple[str | int, ...]:
        """The phase that is due, and its next step."""
        phase, step = self._place(self.step)
        return phase.name, step

    def _run_step(self) -> None:
        """One step of the phase that is due."""
        phase, step = self._place(self.step)
        if step == 0:
            for earlier in self.phases[: self.phases.index(phase)]:
                earlier.close()
            phase.begin()
            self.means.pop(self.world)
        terms = phase.run_step(step)
        named = {f"{phase.name}/{name}": value for name, value in terms.items()}
        self.count_step(named, looked=not phase.updater.capturable)

    def _end_epoch(self) -> dict[str, Any]:
        """Means of the losses, and every so often the validation part and the test part."""
        phase, step = self._place(self.step - 1)
        values: dict[str, Any] = {"phase": phase.name, **self.means.pop(self.world)}
        values["lr"] = float(phase.updater.optimizer.param_groups[0]["lr"])
        if not isinstance(phase, LabelPhase):
            return values
        if phase.retrains_classifier:
            values["crt_lr"] = phase.lr
        if (reweighted := phase.reweights(step)) is not None:
            values["reweighted"] = reweighted
        epoch = -(-(step + 1) // phase.steps_per_epoch)
        if epoch % self.config.evaluate_every == 0 or step + 1 == phase.total_steps:
            values |= self._measured("val", self.data.validation)
            values |= self._measured("test", self.data.test)
            self._choose(phase, step, values)
        return values

    def _measured(self, prefix: str, images: ImageSet | None) -> dict[str, float]:
        """What a learning curve can show of a part, for the network and its average."""
        values = {}
        for name, net in ((prefix, self.net), (f"{prefix}_ema", self.average)):
            if net is None or images is None:
                continue
            logits, labels = predict(
                net, images, self.data, device=self.world.device, dtype=self.dtype,
                precision=self.config.precision,
            )  # fmt: skip
            for key, value in measure(logits, labels, self.card).items():
                if isinstance(value, float):
                    values[f"{name}/{key}"] = value
        return values

    def _choose(self, phase: LabelPhase, step: int, values: Mapping[str, Any]) -> None:
        metric = choosing_metric(self.data.multi_label)
        if f"val/{metric}" not in values:
            return
        # All processes keep what the main one finds best.
        value = self.world.broadcast(values[f"val/{metric}"])
        self.best.offer(value, model=self.net)
        if self.average is not None:
            averaged = self.world.broadcast(values[f"val_ema/{metric}"])
            self.best.offer(averaged, model=self.average.module)
        if phase.retrains_classifier and step + 1 == phase.total_steps:
            classifiers = self._classifiers()
            self.classifier.offer(value, **classifiers)
            if phase is self.phases[-1]:
                self.classifier.restore(**classifiers)

    def _classifiers(self) -> dict[str, nn.Module]:
        average = {} if self.average is None else {"average": classifier_of(self.average.module)}
        return {"net": classifier_of(self.net), **average}

    @property
    def stage(self) -> str:
        """The epoch of its phase, and which phase that is where there are several."""
        phase, step = self._place(max(0, self.step - 1))
        epoch = f"epoch {step // phase.steps_per_epoch + 1} of {phase.epochs}"
        if len(self.phases) == 1:
            return epoch
        alike = [other for other in self.phases if other.title == phase.title]
        number = f" {alike.index(phase) + 1} of {len(alike)}" if len(alike) > 1 else ""
        return f"{phase.title}{number}, {epoch}"

    @property
    def headlines(self) -> Sequence[str]:
        """The phase's loss, and how good the network is."""
        phase, _ = self._place(max(0, self.step - 1))
        multi_label = self.data.multi_label
        chooses = choosing_metric(multi_label)
        keys = ("mean_average_precision", chooses) if multi_label else (chooses, "top1")
        measured = [f"{part}/{key}" for key in keys for part in ("val", "test")]
        return f"{phase.name}/loss", *measured, f"val_best/{chooses}"

    def progress_values(self) -> Mapping[str, float]:
        """The phase's losses so far in this epoch, and the best of the validation part."""
        key = f"val_best/{choosing_metric(self.data.multi_label)}"
        best = {} if self.best.value is None else {key: self.best.value}
        return {**self.means.values(), **best}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on; see :class:`Trainer`."""
        return {**super().state_dict(), "phases": [phase.state_dict() for phase in self.phases]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where :meth:`state_dict` was taken."""
        super().load_state_dict(state)
        for phase, saved in zip(self.phases, state["phases"], strict=True):
            phase.load_state_dict(saved)

    def close(self) -> None:
        """Release the processes that decode images."""
        for phase in self.phases:
            phase.close()


def weights_of(trainer: RetrainTrainer) -> dict[str, dict[str, Tensor]]:
    """What is saved at the end: the last weights, the best, and the average where kept."""
    saved = {"model": trainer.net.state_dict()}
    if trainer.best.value is not None:
        saved["model_best"] = trainer.best.weights["model"]
    if trainer.average is not None:
        saved["model_ema"] = trainer.average.module.state_dict()
    return saved
