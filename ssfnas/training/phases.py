"""The phases of a retraining: self-supervised pre-training, labels, the classifier alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ssfnas.config import RetrainConfig
from ssfnas.data import Batch, usual_cutout
from ssfnas.declarations.losses import REWEIGHTING
from ssfnas.errors import RequestError
from ssfnas.evaluation.features import classifier_of, features_of, pooled
from ssfnas.layers.initialization import initial_draws
from ssfnas.objectives import (
    LOSSES,
    CrossEntropy,
    MultiLabelLoss,
    Projector,
    draw_mixture,
    make_loss,
    mixed_barlow_twins,
)
from ssfnas.objectives.class_prior import deferred_reweighting
from ssfnas.objectives.classification import at_least_float32
from ssfnas.ops import barlow_twins_loss
from ssfnas.runtime.precision import autocast
from ssfnas.runtime.resumable import Resumable
from ssfnas.runtime.updates import Terms, Updater, learning_rate, sgd_updater
from ssfnas.seeding import derive_seed, generator
from ssfnas.spaces import ReferenceDerivedNetwork
from ssfnas.training.graphed_step import GraphedStep, Recorder
from ssfnas.training.schedules import cosine, set_learning_rate
from ssfnas.training.trainer import ForwardPasses, Trainer
from ssfnas.training.weight_average import WeightAverage, warmed_up_decay


class Phase(Resumable, ABC):
    """One stretch of a retraining with its own objective, optimizer and stream.

    Args:
        trainer: whose network it trains.
        recorder: records steps; None: each is launched kernel by kernel.
        name: what its logged terms and the order of its batches are called after.
        views, stream: see :meth:`~ssfnas.training.trainer.Trainer.make_stream`.

    Attributes:
        updater: of what it trains.
        graphed: its recorded steps, where there is a recorder.
        total_steps: its steps.
        title: what people call it.
    """

    kept: ClassVar[tuple[str, ...]] = ("updater", "stream")
    updater: Updater
    graphed: GraphedStep | None
    total_steps: int
    title: str

    def __init__(
        self, trainer: Trainer, recorder: Recorder | None, name: str, views: str, **stream: Any
    ) -> None:
        self.config: RetrainConfig = trainer.config
        self.data, self.net, self.world = trainer.data, trainer.net, trainer.world
        self.name = name
        self.stream = trainer.make_stream(name, views, **stream)
        self.recorder = recorder

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every image has been taken about once."""
        return self.stream.steps_per_epoch

    @property
    def epochs(self) -> int:
        """Its epochs, a last short one counted."""
        return -(-self.total_steps // self.steps_per_epoch)

    @property
    @abstractmethod
    def passes(self) -> ForwardPasses:
        """What an update passes through the network."""

    def begin(self) -> None:
        """Put the network in the state that the first step expects."""

    def run_step(self, step: int) -> Terms:
        """Step ``step`` of this phase: one update from one batch; scalars to log.

        Raises:
            NumericalError: a term is not finite; not raised by steps that may be recorded.
            RequestError: the step cannot be recorded, and has to be.
        """
        set_learning_rate(self.updater.optimizer, self.rate(step))
        return (self.graphed or self.update)(*self.inputs(step))

    @abstractmethod
    def rate(self, step: int) -> float:
        """The learning rate of step ``step``."""

    @abstractmethod
    def inputs(self, step: int) -> tuple[Batch | Tensor | None, ...]:
        """The next batch, and whatever else :meth:`update` takes in step ``step``."""

    @abstractmethod
    def update(self, *inputs: Any) -> Terms:
        """One update, without a draw or a look at a number on the host; scalars to log."""

    def close(self) -> None:
        """Release the processes that decode images, and the memory of recorded steps."""
        self.stream.close()
        if self.graphed is not None:
            self.graphed.reset()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where :meth:`state_dict` was taken."""
        super().load_state_dict(state)
        if self.graphed is not None:
            self.graphed.reset()

    def _use(self, updater: Updater) -> None:
        self.updater = updater
        required = self.config.cuda_graph == "on"
        self.graphed = (
            None
            if self.recorder is None
            else GraphedStep(self.update, (updater,), self.recorder, required=required)
        )

    def _on_device(self, drawn: Tensor) -> Tensor:
        if self.world.device.type == "cuda":
            drawn = drawn.pin_memory()  # else copying waits for the device
        return drawn.to(self.world.device, non_blocking=True)


class PretrainPhase(Phase):
    """Barlow Twins on the same images, without their labels, by LARS.

    The projector is thrown away afterward. Source of the recipe: method of arXiv 2103.03230 with
    solo-learn's settings for CIFAR; the mixed term is that of arXiv 2312.02151.
    """

    kept = ("projector", "updater", "stream")
    title = "pre-training"

    def __init__(self, trainer: Trainer, recorder: Recorder | None) -> None:
        from timm.optim import Lars  # a second or two, which others need not wait

        config: RetrainConfig = trainer.config
        world = trainer.world
        batch_size = config.pretrain_batch_size
        super().__init__(trainer, recorder, "pretrain", "barlow_twins", batch_size=batch_size)
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
        capturable = recorder is not None
        optimizer = Lars(
            [{"params": decayed}, {"params": plain, "weight_decay": 0.0}],
            lr=learning_rate(config.pretrain_lr, world, capturable=capturable),
            momentum=0.9,
            weight_decay=config.pretrain_weight_decay,
            trust_coeff=0.02,
            # Where it goes by one tensor at a time, it takes the rate to the host.
            foreach=capturable or None,
        )
        self._use(Updater(parameters, optimizer, world, config.precision, capturable=capturable))

    @property
    def passes(self) -> ForwardPasses:
        """Both views, and their mixture where there is one."""
        count = self.stream.views.count + int(self.config.bt_mixup > 0)
        return ForwardPasses("pretrain_batch_size", self.stream, count)

    def rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine."""
        warmup = self.total_steps // 20
        return cosine(step, self.total_steps, self.config.pretrain_lr, 0.0, warmup)

    def inputs(self, step: int) -> tuple[Batch | Tensor | None, ...]:
        """A batch, and what the mixed term mixes, with which share."""
        batch = self.stream.next()
        if self.config.bt_mixup == 0:
            return batch, None, None
        seed = derive_seed(self.config.seed, "bt_mixup", step)
        share, order = draw_mixture(seed, self.stream.batch_size)
        return batch, self._on_device(share), self._on_device(order)

    def update(self, batch: Batch, share: Tensor | None, order: Tensor | None) -> Terms:
        """One update of network and projector."""
        config = self.config
        _set_mode(True, self.net, self.projector)
        with autocast(config.precision, self.world.device):
            embeddings = [self.projector(pooled(self.net, view)) for view in batch.views]
            loss = barlow_twins_loss(
                *embeddings, lambd=config.lambd, scale=0.1, group=self.world.group
            )
            terms = {"barlow_twins": loss}
            if share is not None and order is not None:
                terms["mixed"] = (
                    0.1
                    * config.bt_mixup
                    * mixed_barlow_twins(
                        lambda x: self.projector(pooled(self.net, x)),
                        batch.views,
                        embeddings,
                        (share, order),
                        lambd=config.lambd,
                        group=self.world.group,
                    )
                )
                loss = loss + terms["mixed"]
        terms = {name: value.detach() for name, value in {"loss": loss, **terms}.items()}
        self.updater.update(loss, terms, self.name)
        return terms


class LabelPhase(Phase):
    """Training with labels: the whole network, or its classifier on a frozen backbone.

    Args:
        trainer, recorder, name: see :class:`Phase`; ``"crt"`` trains a fresh classifier alone.
        average: follows the weights after each update; a phase begins a new one.
        lr: its first learning rate; None: the config's.
    """

    def __init__(
        self,
        trainer: Trainer,
        recorder: Recorder | None,
        average: WeightAverage | None,
        name: str = "train",
        lr: float | None = None,
    ) -> None:
        config: RetrainConfig = trainer.config
        data, world = trainer.data, trainer.world
        self.lr = config.lr if lr is None else lr
        self.retrains_classifier = name == "crt"
        self.title = "classifier" if self.retrains_classifier else "labels"
        self.classifier_only = self.retrains_classifier or (
            config.pretrain_epochs > 0 and config.finetune == "classifier"
        )
        exponent = 0.0 if self.retrains_classifier else config.sampling_exponent
        super().__init__(
            trainer,
            recorder,
            name,
            config.augment,
            cutout=usual_cutout(data.image_size) if config.cutout is None else config.cutout,
            mixup=0.0 if data.multi_label else config.mixup,
            sampling_exponent=exponent,
        )
        if self.retrains_classifier:
            self.total_steps = config.crt_epochs * self.steps_per_epoch
        else:
            self.total_steps = config.steps or config.epochs * self.steps_per_epoch
        if self.stream.mixup:
            self.stream.mixup_epochs = self._mixed_epochs()
        self.criterion = self._criterion(exponent).to(world.device)
        # Where classes are drawn alike, weights would correct for their sizes twice.
        share = None if self.retrains_classifier else deferred_reweighting(config)
        self.reweight_from = None if share is None else share * self.total_steps
        if share is not None:
            weights = REWEIGHTING(data.class_counts, **REWEIGHTING.settings(config))
            self.class_weights = weights.to(world.device, trainer.dtype)
        self.average = average
        trained = classifier_of(self.net) if self.classifier_only else self.net
        self._use(
            sgd_updater(
                trained.parameters(),
                world,
                lr=self.lr,
                momentum=config.momentum,
                weight_decay=config.weight_decay,
                precision=config.precision,
                clip=config.clip,
                capturable=recorder is not None,
            )
        )

    def _mixed_epochs(self) -> int:
        """Epochs whose images are mixed; the second stage may have none."""
        off = self.config.mixup_off_epochs
        if off >= self.epochs and not self.retrains_classifier:
            raise RequestError(
                f"--mixup-off-epochs {off} leaves no epoch of {self.epochs} with mixup: give "
                "fewer, or leave out --mixup"
            )
        return max(0, self.epochs - off)

    def _criterion(self, exponent: float) -> nn.Module:
        if self.data.multi_label:
            return MultiLabelLoss()
        config, loss = self.config, LOSSES.get(self.config.loss)
        if self.retrains_classifier:
            return CrossEntropy(config.label_smoothing)
        counts: Sequence[float] = self.data.class_counts
        if loss.counts_draws:  # not of the files
            counts = [count**exponent for count in counts]
        with initial_draws(generator(config.seed, "loss", self.name)):
            return make_loss(config.loss, counts, **loss.settings(config))

    @property
    def passes(self) -> ForwardPasses:
        """One; a frozen backbone keeps nothing of it."""
        return ForwardPasses("batch_size", self.stream, int(not self.classifier_only))

    def begin(self) -> None:
        """Draw a fresh classifier where it is trained anew on a frozen backbone."""
        if self.retrains_classifier:
            with initial_draws(generator(self.config.seed, "crt")):
                for module in classifier_of(self.net).modules():
                    if callable(reset := getattr(module, "reset_parameters", None)):
                        reset()

    def rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine."""
        config = self.config
        warmup = int(config.warmup_epochs * self.steps_per_epoch)
        return cosine(step, self.total_steps, self.lr, config.lr_min, warmup)

    def inputs(self, step: int) -> tuple[Batch | Tensor | None, ...]:
        """A batch, what paths are multiplied by, weights of the classes, the average's decay."""
        batch = self.stream.next()
        weights = None
        if (reweighted := self.reweights(step)) is not None:
            weights = self.class_weights if reweighted else torch.ones_like(self.class_weights)
        decay = None
        if self.average is not None:
            warmed_up = warmed_up_decay(self.config.ema, step)
            decay = self._on_device(torch.tensor(warmed_up, dtype=batch.views[0].dtype))
        return batch, self._path_factors(step, batch.views[0]), weights, decay

    def reweights(self, step: int) -> bool | None:
        """Whether classes are re-weighted in ``step``; None: in no step."""
        return None if self.reweight_from is None else step >= self.reweight_from

    def _path_factors(self, step: int, images: Tensor) -> Tensor | None:
        config, net = self.config, self.net
        if (
            not isinstance(net, ReferenceDerivedNetwork)
            or self.classifier_only
            or config.drop_path == 0
        ):
            return None
        probability = config.drop_path * (step // self.steps_per_epoch) / self.epochs
        net.set_drop_path(
            probability,
            seed=derive_seed(config.seed, "drop_path"),
            step=step,
            rank=self.world.rank,
            world_size=self.world.size,
        )
        if probability == 0 and self.graphed is None:  # a graph has to have all steps alike
            return None
        return self._on_device(net.draw_path_factors(len(images), images.dtype))

    def update(
        self,
        batch: Batch,
        factors: Tensor | None,
        class_weights: Tensor | None,
        decay: Tensor | None,
    ) -> Terms:
        """One update, and the average of the weights after it."""
        extra = {} if class_weights is None else {"class_weights": class_weights}
        with autocast(self.config.precision, self.world.device):
            logits, auxiliary = self._outputs(batch.views[0], factors)
            loss = total = self.criterion(at_least_float32(logits), batch.labels, **extra)
            if auxiliary is not None:
                part = self.criterion(at_least_float32(auxiliary), batch.labels, **extra)
                total = loss + self.config.auxiliary * part
        # Where the total is not finite, what is reported is not either.
        terms = {"loss": loss.detach() + 0 * total.detach()}
        self.updater.update(total, terms, self.name)
        if self.average is not None and decay is not None:
            self.average.update(self.net, decay)
        return terms

    def _outputs(self, images: Tensor, factors: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.classifier_only:
            _set_mode(False, self.net)
            with torch.no_grad():
                features = pooled(self.net, images)
            return classifier_of(self.net)(features), None
        _set_mode(True, self.net)
        if isinstance(self.net, ReferenceDerivedNetwork):
            self.net.give_path_factors(factors)
        output = self.net(images)
        return output if isinstance(output, tuple) else (output, None)


def _set_mode(training: bool, *modules: nn.Module) -> None:
    """``train`` of those that are in the other mode: over all modules it takes milliseconds."""
    for module in modules:
        if module.training is not training:
            module.train(training)
