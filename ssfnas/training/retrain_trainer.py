"""A retraining: its phases one after the other, evaluated as it goes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ssfnas.config import RetrainConfig
from ssfnas.data import ImageData
from ssfnas.evaluation.networks import build_network
from ssfnas.evaluation.prediction import measure, predict
from ssfnas.runs.data_card import DataCard
from ssfnas.runtime.distributed import World
from ssfnas.spaces import Genotype, synchronize_batchnorm
from ssfnas.training.averages import RunningMeans
from ssfnas.training.phases import LabelPhase, Phase, PretrainPhase


class RetrainTrainer:
    """Trains the network that a genotype describes, or a baseline.

    Args:
        config: the retraining's; checked already.
        data: the images, on ``world.device`` unless they are decoded lazily.
        genotype: what the network is derived from; None for a baseline.
        world: the processes that train together.
        dtype: of weights and images; float64 is for proofs.
    """

    def __init__(
        self,
        config: RetrainConfig,
        data: ImageData,
        genotype: Genotype | None,
        world: World,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config, self.data, self.world, self.dtype = config, data, world, dtype
        self.card = DataCard.of(data)
        self.net = build_network(
            config,
            genotype,
            num_classes=data.num_classes,
            in_channels=data.in_channels,
            image_size=data.image_size,
        ).to(world.device, dtype)
        # The average is copied before synchronization: a process group cannot be copied.
        self.average = (
            AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
            if config.ema > 0
            else None
        )
        if world.group is not None:
            self.net = synchronize_batchnorm(self.net, world.group)
        self.phases: list[Phase] = []
        if config.pretrain_epochs > 0:
            self.phases.append(PretrainPhase(config, data, self.net, world, dtype))
        self.phases.append(LabelPhase(config, data, self.net, world, dtype))
        if config.crt_epochs > 0:
            self.phases.append(LabelPhase(config, data, self.net, world, dtype, name="crt"))
        self.total_steps = sum(phase.total_steps for phase in self.phases)
        self.step = 0
        self.best: dict[str, float] | None = None
        self.means = RunningMeans()

    def _place(self, step: int) -> tuple[int, int]:
        """Phase that ``step`` (0-based) belongs to, and the step within it."""
        for number, phase in enumerate(self.phases):
            if step < phase.total_steps:
                return number, step
            step -= phase.total_steps
        raise IndexError("past the last phase")

    @property
    def finished(self) -> bool:
        """Whether all phases are done."""
        return self.step >= self.total_steps

    @property
    def epoch_ended(self) -> bool:
        """Whether the step just done completes an epoch of its phase."""
        number, step = self._place(self.step - 1)
        phase = self.phases[number]
        return (step + 1) % phase.steps_per_epoch == 0 or step + 1 == phase.total_steps

    @property
    def epoch(self) -> int:
        """Epochs that are complete, over all phases."""
        number, step = self._place(self.step - 1)
        before = sum(-(-p.total_steps // p.steps_per_epoch) for p in self.phases[:number])
        return before + -(-(step + 1) // self.phases[number].steps_per_epoch)

    def run_step(self) -> None:
        """One step of the phase that is due."""
        number, step = self._place(self.step)
        phase = self.phases[number]
        if step == 0:
            phase.begin()
            self.means.pop(self.world)
        terms = phase.run_step(step)
        self.means.add({f"{phase.name}/{name}": value for name, value in terms.items()})
        if self.average is not None and phase.name != "pretrain":
            # Pre-training is not averaged: its weights are a starting point, not a result.
            if phase is self.first_label_phase and step == 0:
                self.average.n_averaged.zero_()
            self.average.update_parameters(self.net)
        self.step += 1

    @property
    def first_label_phase(self) -> Phase:
        """The phase that trains with labels."""
        return next(phase for phase in self.phases if phase.name == "train")

    def end_epoch(self) -> dict[str, Any]:
        """Means of the losses, and every so often the test part."""
        number, step = self._place(self.step - 1)
        phase = self.phases[number]
        values: dict[str, Any] = {"phase": phase.name, **self.means.pop(self.world)}
        values["lr"] = phase.updater.optimizer.param_groups[0]["lr"]  # type: ignore[attr-defined]
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
            measured = measure(logits, labels, self.card)
            values.update({f"{prefix}/{name}": value for name, value in headline(measured).items()})
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
        """Everything that the rest of the training depends on."""
        return {
            "step": self.step,
            "net": self.net.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "phases": [phase.state_dict() for phase in self.phases],
            "best": self.best,
            "means": self.means.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where :meth:`state_dict` was taken."""
        self.step = state["step"]
        self.net.load_state_dict(state["net"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        for phase, saved in zip(self.phases, state["phases"], strict=True):
            phase.load_state_dict(saved)
        self.best = state["best"]
        self.means.load_state_dict(state["means"], self.world.device)

    def close(self) -> None:
        """Release the processes that decode images."""
        for phase in self.phases:
            phase.close()


def headline(measured: Mapping[str, Any]) -> dict[str, float]:
    """The scalars of an evaluation, which a learning curve can show."""
    return {name: value for name, value in measured.items() if isinstance(value, float)}


def weights_of(trainer: RetrainTrainer) -> dict[str, dict[str, Tensor]]:
    """What is saved at the end: the last weights, and their average where one is kept."""
    saved = {"model": trainer.net.state_dict()}
    if trainer.average is not None:
        saved["model_ema"] = trainer.average.module.state_dict()
    return saved
