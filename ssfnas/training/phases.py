"""The phases of a retraining: self-supervised pre-training, labels, the classifier alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssfnas.config import RetrainConfig
from ssfnas.evaluation.features import classifier_of, features_of, pooled
from ssfnas.layers.initialization import initial_draws
from ssfnas.objectives import (
    LOSSES,
    CrossEntropy,
    MultiLabelLoss,
    Projector,
    effective_number_weights,
    make_loss,
    mixed_barlow_twins,
)
from ssfnas.objectives.classification import at_least_float32
from ssfnas.ops import barlow_twins_loss
from ssfnas.runtime.precision import autocast
from ssfnas.runtime.updates import Updater
from ssfnas.seeding import derive_seed, generator
from ssfnas.spaces import ReferenceDerivedNetwork
from ssfnas.training.schedules import cosine, set_learning_rate
from ssfnas.training.streams import training_stream
from ssfnas.training.trainer import Resumable, Trainer


class Phase(Resumable, ABC):
    """One stretch of a retraining with its own objective, optimizer and stream.

    Args:
        trainer: whose network it trains.
        name: what its logged terms and the order of its batches are called after.
        views, stream: see :func:`~ssfnas.training.streams.training_stream`.

    Attributes:
        updater: of what it trains.
        total_steps: its steps.
    """

    kept: ClassVar[tuple[str, ...]] = ("updater", "stream")
    updater: Updater
    total_steps: int

    def __init__(self, trainer: Trainer, name: str, views: str, **stream: Any) -> None:
        self.config: RetrainConfig = trainer.config
        self.data, self.net, self.world = trainer.data, trainer.net, trainer.world
        self.name = name
        self.stream = training_stream(
            self.config, self.data, name, views, self.world, trainer.dtype, **stream
        )

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every image has been taken about once."""
        return self.stream.steps_per_epoch

    @property
    def epochs(self) -> int:
        """Its epochs, a last short one counted."""
        return -(-self.total_steps // self.steps_per_epoch)

    def begin(self) -> None:
        """Put the network in the state that the first step expects."""

    @abstractmethod
    def run_step(self, step: int) -> dict[str, Tensor]:
        """Step ``step`` of this phase: one update from one batch; scalars to log."""

    def close(self) -> None:
        """Release the processes that decode images."""
        self.stream.close()


class PretrainPhase(Phase):
    """Barlow Twins on the same images, without their labels, by LARS.

    The projector is thrown away afterward. Source of the recipe: method of arXiv 2103.03230 with
    solo-learn's settings for CIFAR; the mixed term is that of arXiv 2312.02151.
    """

    kept = ("projector", "updater", "stream")

    def __init__(self, trainer: Trainer) -> None:
        from timm.optim import Lars  # a second or two, which others need not wait

        config: RetrainConfig = trainer.config
        world = trainer.world
        super().__init__(trainer, "pretrain", "barlow_twins", batch_size=config.pretrain_batch_size)
        self.projector = Projector(
            features_of(self.net),
            tuple(config.projector),
            group=world.group,
            generator=generator(config.seed, "projector"),
        ).to(world.device, trainer.dtype)
        self.total_steps = config.pretrain_epochs * self.steps_per_epoch
        parameters = [*self.net.parameters(), *self.projector.parameters()]
        decayed = [p for p in parameters if p.ndim > 1]
        plain = [p for p in parameters if p.ndim <= 1]
        optimizer = Lars(
            [{"params": decayed}, {"params": plain, "weight_decay": 0.0}],
            lr=config.pretrain_lr,
            momentum=0.9,
            weight_decay=config.pretrain_weight_decay,
            trust_coeff=0.02,
        )
        self.updater = Updater(parameters, optimizer, world, config.precision)

    def run_step(self, step: int) -> dict[str, Tensor]:
        """One update of network and projector."""
        config = self.config
        warmup = self.total_steps // 20
        rate = cosine(step, self.total_steps, config.pretrain_lr, 0.0, warmup)
        set_learning_rate(self.updater.optimizer, rate)
        self.net.train()
        self.projector.train()
        batch = self.stream.next()
        with autocast(config.precision, self.world.device):
            embeddings = [self.projector(pooled(self.net, view)) for view in batch.views]
            loss = barlow_twins_loss(
                *embeddings, lambd=config.lambd, scale=0.1, group=self.world.group
            )
            terms = {"barlow_twins": loss}
            if config.bt_mixup > 0:
                terms["mixed"] = (
                    0.1
                    * config.bt_mixup
                    * mixed_barlow_twins(
                        lambda x: self.projector(pooled(self.net, x)),
                        batch.views,
                        embeddings,
                        lambd=config.lambd,
                        seed=derive_seed(config.seed, "bt_mixup", step),
                        group=self.world.group,
                    )
                )
                loss = loss + terms["mixed"]
        self.updater.update(loss, "Barlow Twins")
        return {"loss": loss, **terms}


class LabelPhase(Phase):
    """Training with labels: the whole network, or its classifier on a frozen backbone."""

    def __init__(self, trainer: Trainer, name: str = "train") -> None:
        config: RetrainConfig = trainer.config
        data, world = trainer.data, trainer.world
        self.retrains_classifier = name == "crt"
        self.classifier_only = self.retrains_classifier or (
            config.finetune == "classifier" and config.pretrain_epochs > 0
        )
        exponent = 0.0 if self.retrains_classifier else config.sampling_exponent
        super().__init__(
            trainer,
            name,
            config.augment,
            cutout=config.cutout,
            mixup=0.0 if data.multi_label else config.mixup,
            sampling_exponent=exponent,
        )
        if self.retrains_classifier:
            self.total_steps = config.crt_epochs * self.steps_per_epoch
        else:
            self.total_steps = config.steps or config.epochs * self.steps_per_epoch
        self.criterion = self._criterion(exponent).to(world.device)
        weights = effective_number_weights(data.class_counts, config.beta)
        self.class_weights = weights.to(world.device, trainer.dtype)
        share = config.drw if config.drw is not None else LOSSES.get(config.loss).drw
        self.reweight_from = None if share is None else share * self.total_steps
        trained = classifier_of(self.net) if self.classifier_only else self.net
        parameters = list(trained.parameters())
        optimizer = torch.optim.SGD(
            parameters,
            lr=config.lr,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        self.updater = Updater(parameters, optimizer, world, config.precision, config.clip)

    def _criterion(self, exponent: float) -> nn.Module:
        if self.data.multi_label:
            return MultiLabelLoss()
        config, loss = self.config, LOSSES.get(self.config.loss)
        if self.retrains_classifier:
            return CrossEntropy(config.label_smoothing)
        counts: Sequence[float] = self.data.class_counts
        if loss.counts_draws:  # not of the files
            counts = [count**exponent for count in counts]
        return make_loss(config.loss, counts, **loss.settings(config))

    def begin(self) -> None:
        """Draw a fresh classifier where it is trained anew on a frozen backbone."""
        if self.retrains_classifier:
            with initial_draws(generator(self.config.seed, "crt")):
                for module in classifier_of(self.net).modules():
                    if callable(reset := getattr(module, "reset_parameters", None)):
                        reset()

    def _outputs(self, images: Tensor, step: int) -> tuple[Tensor, Tensor | None]:
        if self.classifier_only:
            self.net.eval()
            with torch.no_grad():
                features = pooled(self.net, images)
            return classifier_of(self.net)(features), None
        self.net.train()
        if isinstance(self.net, ReferenceDerivedNetwork):
            epoch = step // self.steps_per_epoch
            self.net.set_drop_path(
                self.config.drop_path * epoch / self.epochs,
                seed=derive_seed(self.config.seed, "drop_path"),
                step=step,
                rank=self.world.rank,
                world_size=self.world.size,
            )
        output = self.net(images)
        return output if isinstance(output, tuple) else (output, None)

    def run_step(self, step: int) -> dict[str, Tensor]:
        """One update from one batch."""
        config = self.config
        warmup = int(config.warmup_epochs * self.steps_per_epoch)
        rate = cosine(step, self.total_steps, config.lr, config.lr_min, warmup)
        set_learning_rate(self.updater.optimizer, rate)
        batch = self.stream.next()
        extra: dict[str, Tensor] = {}
        if self.reweight_from is not None and step >= self.reweight_from:
            extra["class_weights"] = self.class_weights
        with autocast(config.precision, self.world.device):
            logits, auxiliary = self._outputs(batch.views[0], step)
            loss = self.criterion(at_least_float32(logits), batch.labels, **extra)
            total = loss
            if auxiliary is not None:
                total = loss + config.auxiliary * self.criterion(
                    at_least_float32(auxiliary), batch.labels, **extra
                )
        self.updater.update(total, "training")
        return {"loss": loss}
