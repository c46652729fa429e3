"""What a search by gradients and a random search have in common: halves, objective, streams."""

from __future__ import annotations

import torch

from ssfnas.config import SearchConfig
from ssfnas.data import Batch, ImageData, ImageStream, stratified_halves
from ssfnas.errors import RequestError
from ssfnas.layers.initialization import initial_draws
from ssfnas.objectives import OBJECTIVES, SearchObjective, make_search_objective
from ssfnas.runtime.distributed import World
from ssfnas.runtime.precision import autocast
from ssfnas.runtime.updates import Terms
from ssfnas.seeding import derive_seed, generator
from ssfnas.spaces import DerivedNetwork, ReferenceSupernet, synchronize_batchnorm
from ssfnas.training.trainer import Trainer


class GenotypeSearch(Trainer):
    """A trainer of networks on one half of the training images, judged on the other.

    Attributes:
        halves: positions of the training images for the weights, and of those for the alphas.
        net: the network that is trained.
        objective: what it minimizes.

    Raises:
        RequestError: no image is left for the alphas.
    """

    config: SearchConfig
    net: ReferenceSupernet | DerivedNetwork
    objective: SearchObjective

    def __init__(
        self, config: SearchConfig, data: ImageData, world: World, dtype: torch.dtype
    ) -> None:
        super().__init__(config, data, world, dtype)
        self.halves = stratified_halves(
            data.train.labels.cpu(), derive_seed(config.seed, "halves"), data.class_names
        )
        if not len(self.halves[1]):
            raise RequestError(
                f"{data.name}: the half of the training images that the alphas are searched on is "
                f"empty, since no class has two of the {len(data.train)}: give more images"
            )

    def _place_on_device(self, *purpose: str | int) -> None:
        """Move the network there and make its objective, whose first draws are named by purpose."""
        config, net, world = self.config, self.net, self.world
        net.to(world.device, self.dtype)
        # One of a user may draw its layers from the global generator.
        with initial_draws(generator(config.seed, "objective", *purpose)):
            objective = make_search_objective(
                config.objective,
                num_features=net.num_features,
                num_classes=self.data.num_classes,
                multi_label=self.data.multi_label,
                group=world.group,
                generator=generator(config.seed, *purpose),
                **OBJECTIVES.get(config.objective).settings(config),
            )
        self.objective = objective.to(world.device, self.dtype)
        if world.group is not None:
            synchronize_batchnorm(net, world.group)

    def make_validation_stream(self, purpose: str, world: World | None = None) -> ImageStream:
        """Batches of the half that the alphas are for, classes drawn as the config says.

        Args:
            purpose, world: see :meth:`~ssfnas.training.trainer.Trainer.make_stream`.
        """
        exponent = 1.0 if self.data.multi_label else self.config.alpha_sampling_exponent
        return self.make_stream(
            purpose,
            self.objective.views,
            world=world,
            indices=self.halves[1],
            sampling_exponent=exponent,
        )

    def _terms(self, batch: Batch) -> Terms:
        with autocast(self.config.precision, self.world.device):
            return self.objective.terms(self.net, batch)
