"""One variant of a training step: built as a retraining builds it, and run on one fixed batch."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmarks import train_counts
from benchmarks.step_measure import OF
from benchmarks.step_runner import StepRunner, exact, first_images, taken_gradients
from benchmarks.step_variants import StepVariant
from ssfnas.config import RetrainConfig
from ssfnas.data import Batch, load_data
from ssfnas.runtime.distributed import start_world
from ssfnas.runtime.precision import autocast
from ssfnas.spaces import Genotype
from ssfnas.training.retrain_trainer import RetrainTrainer

OFFERS_GRAPH = any(each.name == "cuda_graph" for each in dataclasses.fields(RetrainConfig))
"""Whether a retraining can record its steps."""


@dataclass(frozen=True, eq=False)
class _Repeated:
    """A stream that gives one batch again and again."""

    batch: Batch
    steps_per_epoch: int

    def next(self) -> Batch:
        return self.batch

    def close(self) -> None:
        pass


class TrainRunner(StepRunner):
    """Measures one variant of a training step, ``"step"``, and of an ``"evaluation"``.

    The step is the last of a training, at which paths are dropped most often and the learning rate
    is so small that weights stay what they are.

    Args:
        variant: which one.
        config: the retraining, of one phase.
        device: ``"cpu"`` or ``"cuda"``.
        checked_images: the first images of the batch, which results are compared on.
    """

    def __init__(
        self, variant: StepVariant, config: RetrainConfig, device: str, checked_images: int
    ) -> None:
        graph = {"cuda_graph": "on" if variant.graphed else "off"} if OFFERS_GRAPH else {}
        self.config = dataclasses.replace(
            config, network=variant.form, precision=variant.arithmetic(config.precision), **graph
        )
        world = start_world(device)
        super().__init__(variant, world.device)
        self.checked_images = checked_images
        self.trainer = RetrainTrainer(
            self.config,
            load_data(self.config).to(world.device),
            Genotype.load(self.config.genotype),
            world,
        )
        (self.phase,) = self.trainer.phases
        batch = self.phase.stream.next()
        if variant.exact:
            self.trainer.net.double()
            # Brings what the optimizer keeps to the dtype of the parameters.
            self.phase.updater.load_state_dict(self.phase.updater.state_dict())
            batch = exact(batch)
        if variant.form == "reference":
            layout = torch.channels_last if variant.channels_last else torch.contiguous_format
            self.trainer.net.to(memory_format=layout)
            views = tuple(view.contiguous(memory_format=layout) for view in batch.views)
            batch = dataclasses.replace(batch, views=views)
        if variant.prepare is not None:
            variant.prepare(self.trainer)
        self.phase.stream = _Repeated(batch, self.phase.steps_per_epoch)
        self._initial = copy.deepcopy(self.trainer.state_dict())

    def step(self) -> dict[str, Tensor]:
        """One training step; its loss."""
        with self._backend():
            return self.phase.run_step(self.phase.total_steps - 1)

    def evaluation(self) -> Tensor:
        """Logits of the batch in evaluation."""
        net = self.trainer.net
        if net.training:
            net.eval()
        with torch.no_grad(), self._backend(), autocast(self.config.precision, self.device):
            return net(self.phase.stream.next().views[0])

    def gradients(self) -> dict[str, np.ndarray]:
        """Loss and gradients on the checked images, and their logits in evaluation after it.

        What is returned is float64, whatever computed it.
        """
        stream = self.phase.stream
        few = first_images(stream.batch, self.checked_images)
        self.phase.stream = dataclasses.replace(stream, batch=few)
        with taken_gradients(self.phase.updater) as taken:
            loss = self.step()["loss"]
        names = {id(parameter): name for name, parameter in self.trainer.net.named_parameters()}
        found = {"loss": loss.detach().double().cpu().numpy()}
        for parameter, gradient in zip(self.phase.updater.parameters, taken, strict=True):
            found[OF + names[id(parameter)]] = gradient.numpy()
        found["logits"] = self.evaluation().double().cpu().numpy()
        self.trainer.load_state_dict(copy.deepcopy(self._initial))
        return found

    def first_gradients(self) -> dict[str, np.ndarray]:
        """Of the base class, and then an evaluation of the whole batch."""
        found = super().first_gradients()
        self.evaluation()
        return found

    def products(self, part: str) -> train_counts.Products:
        """Multiply-adds of one image in a forward pass of a part."""
        return train_counts.products(
            self.trainer.net, getattr(self, part), len(self.phase.stream.batch.labels)
        )
