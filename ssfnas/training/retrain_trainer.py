"""A retraining: its phases one after the other, evaluated as it goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ssfnas.config import RetrainConfig
from ssfnas.data import ImageData
from ssfnas.evaluation.networks import build_network
from ssfnas.evaluation.prediction import measure, predict
from ssfnas.runs.data_card import DataCard
from ssfnas.runtime.distributed import World
from ssfnas.spaces import Genotype, synchronize_batchnorm
from ssfnas.training.graphed_step import Recorder, recorder_for
from ssfnas.training.phases import LabelPhase, Phase, PretrainPhase
from ssfnas.training.trainer import Trainer
from ssfnas.training.weight_average import WeightAverage


class RetrainTrainer(Trainer):
    """Trains the network that a genotype describes, or a baseline.

    Args:
        config, data, world, dtype: see :class:`~ssfnas.training.trainer.Trainer`.
        genotype: what the network is derived from; None for a baseline.
        recorder: records steps; absent: a CUDA graph's where that is wanted and possible.
    """

    kept = ("step", "net", "average", "best", "means")
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
        self.average = WeightAverage(self.net, config.ema) if config.ema > 0 else None
        if world.group is not None:
            self.net = synchronize_batchnorm(self.net, world.group)
        self.phases: list[Phase] = []
        if config.pretrain_epochs > 0:
            self.phases.append(PretrainPhase(self, recorder))
        self.phases.append(LabelPhase(self, recorder, self.average))
        if config.crt_epochs > 0:
            self.phases.append(LabelPhase(self, recorder, self.average, "crt"))
        self.total_steps = sum(phase.total_steps for phase in self.phases)
        self.best: dict[str, float] | None = None

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
        if self.average is not None and phase.name == "train" and step == 0:
            self.average.restart(self.net)
        named = {f"{phase.name}/{name}": value for name, value in terms.items()}
        self.count_step(named, looked=not phase.updater.capturable)

    def _end_epoch(self) -> dict[str, Any]:
        """Means of the losses, and every so often the test part."""
        phase, step = self._place(self.step - 1)
        values: dict[str, Any] = {"phase": phase.name, **self.means.pop(self.world)}
        values["lr"] = float(phase.updater.optimizer.param_groups[0]["lr"])
        epoch = -(-(step + 1) // phase.steps_per_epoch)
        due = epoch % self.config.evaluate_every == 0 or step + 1 == phase.total_steps
        if phase.name == "pretrain" or self.data.test is None or not due:
            return values
        for prefix, net in (("test", self.net), ("test_ema", self.average)):
            if net is None:
                continue
            logits, labels = predict(
                net, self.data.test, self.data, device=self.world.device, dtype=self.dtype,
                precision=self.config.precision,
            )  # fmt: skip
            for name, value in measure(logits, labels, self.card).items():
                if isinstance(value, float):  # what a learning curve can show
                    values[f"{prefix}/{name}"] = value
        key = "test/auc" if self.data.multi_label else "test/top1"
        if self.best is None or values[key] > self.best[key]:
            self.best = {"epoch": self.epoch, key: values[key]}
        return values

    def progress_values(self) -> Mapping[str, float]:
        """The phase's losses so far in this epoch."""
        values = self.means.values()
        if self.best is not None:
            values["best"] = next(v for name, v in self.best.items() if name != "epoch")
        return values

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
    """What is saved at the end: the last weights, and their average where one is kept."""
    saved = {"model": trainer.net.state_dict()}
    if trainer.average is not None:
        saved["model_ema"] = trainer.average.module.state_dict()
    return saved
