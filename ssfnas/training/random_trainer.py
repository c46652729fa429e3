"""Random search of equal budget: the baseline that every search has to beat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ssfnas.config import SearchConfig
from ssfnas.data import Batch, ImageData, ImageStream
from ssfnas.errors import RequestError
from ssfnas.runtime.distributed import World
from ssfnas.runtime.precision import autocast
from ssfnas.runtime.updates import Updater
from ssfnas.seeding import generator
from ssfnas.spaces import DerivedNetwork, Genotype, synchronize_batchnorm
from ssfnas.strategies import STRATEGIES
from ssfnas.strategies.random_search import best, sample_genotype, split_budget
from ssfnas.training.averages import RunningMeans
from ssfnas.training.schedules import cosine, set_learning_rate
from ssfnas.training.search_trainer import search_halves, search_objective
from ssfnas.training.streams import training_stream

SCORING_BATCHES = 32


class RandomSearchTrainer:
    """Trains uniformly drawn genotypes one after the other and keeps the best.

    Each gets an equal share of the search's steps on D_w, at the search's own width and depth, and
    is scored by the objective's loss on D_alpha (at most 32 batches, the same for all). One epoch
    is one sample.

    Args:
        config: the search's, whose strategy trains no alphas.
        data: the images.
        world: the processes that search together.
        dtype: of weights and views.
    """

    def __init__(
        self,
        config: SearchConfig,
        data: ImageData,
        world: World,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.config, self.data, self.world, self.dtype = config, data, world, dtype
        given = config.operations or STRATEGIES.get(config.strategy).operations
        self.operations = tuple(name for name in given if name != "none")
        self.halves = search_halves(config, data)
        steps_per_epoch = -(-len(self.halves[0]) // config.batch_size)
        self.total_steps = config.steps or config.epochs * steps_per_epoch
        if self.total_steps < config.samples:
            raise RequestError(
                f"--samples {config.samples} is more than the {self.total_steps} steps of the "
                "search: give fewer samples or more steps"
            )
        self.budget = split_budget(self.total_steps, config.samples)
        self.step = 0
        self.scores: list[float] = []
        self.means = RunningMeans()
        self._begin(0)

    def _begin(self, sample: int) -> None:
        config, data, world = self.config, self.data, self.world
        self.sample = sample
        self.net = DerivedNetwork(
            self._draw(sample),
            data.num_classes,
            in_channels=data.in_channels,
            channels=config.channels,
            layers=config.layers,
            image_size=max(data.image_size),
            generator=generator(config.seed, "network", sample),
        ).to(world.device, self.dtype)
        self.objective = search_objective(
            config, data, self.net.num_features, world, "projector", sample
        ).to(self.dtype)
        if world.group is not None:
            synchronize_batchnorm(self.net, world.group)
        parameters = [*self.net.parameters(), *self.objective.parameters()]
        optimizer = torch.optim.SGD(
            parameters,
            lr=config.weight_lr,
            momentum=config.weight_momentum,
            weight_decay=config.weight_decay,
        )
        self.updater = Updater(parameters, optimizer, world, config.precision, config.clip)
        # The same batches for every sample: they differ by their genotypes alone.
        self.stream = self._stream("weights", self.halves[0])

    def _stream(self, purpose: str, indices: Tensor) -> ImageStream:
        return training_stream(
            self.config,
            self.data,
            purpose,
            self.objective.views,
            self.world,
            self.dtype,
            indices=indices,
        )

    def _draw(self, sample: int) -> Genotype:
        return sample_genotype(
            self.config.seed, sample, operations=self.operations, nodes=self.config.nodes
        )

    def _terms(self, batch: Batch) -> dict[str, Tensor]:
        with autocast(self.config.precision, self.world.device):
            return self.objective.terms(self.net, batch)

    @property
    def finished(self) -> bool:
        """Whether every sample is trained and scored."""
        return len(self.scores) == self.config.samples

    @property
    def epoch_ended(self) -> bool:
        """Whether the step just done was the last of a sample."""
        return self.step == sum(self.budget[: self.sample + 1])

    @property
    def epoch(self) -> int:
        """Samples that are complete."""
        return len(self.scores)

    def run_step(self) -> None:
        """One update of the sample that is being trained."""
        if len(self.scores) > self.sample:
            self._begin(len(self.scores))
        done = self.step - sum(self.budget[: self.sample])
        rate = cosine(
            done, self.budget[self.sample], self.config.weight_lr, self.config.weight_lr_min
        )
        set_learning_rate(self.updater.optimizer, rate)
        self.net.train()
        self.objective.train()
        terms = self._terms(self.stream.next())
        self.updater.update(terms["loss"], self.config.objective)
        self.means.add({f"weight/{name}": value for name, value in terms.items()})
        self.step += 1

    def end_epoch(self) -> dict[str, Any]:
        """Score the sample on D_alpha."""
        self.scores.append(self._score())
        self.stream.close()
        return {**self.means.pop(self.world), "sample": self.sample, "score": self.scores[-1]}

    @torch.no_grad()
    def _score(self) -> float:
        stream = self._stream("scores", self.halves[1])
        self.net.eval()
        self.objective.eval()
        batches = min(SCORING_BATCHES, stream.steps_per_epoch)
        total = sum(self._terms(stream.next())["loss"].double() for _ in range(batches))
        stream.close()
        mean = torch.as_tensor(total) / batches
        return float(self.world.mean(mean))

    def genotype(self) -> Genotype:
        """The sample with the lowest loss; the first of equals."""
        return self._draw(best(self.scores))

    def progress_values(self) -> Mapping[str, float]:
        """The sample's number, its loss so far, and the best score."""
        values = {"sample": float(self.sample + 1), **self.means.values()}
        return values | ({"best": min(self.scores)} if self.scores else {})

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the search depends on."""
        return {
            "step": self.step,
            "sample": self.sample,
            "scores": list(self.scores),
            "net": self.net.state_dict(),
            "objective": self.objective.state_dict(),
            "updater": self.updater.state_dict(),
            "stream": self.stream.state_dict(),
            "means": self.means.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where :meth:`state_dict` was taken."""
        self._begin(state["sample"])
        self.step = state["step"]
        self.scores = list(state["scores"])
        self.net.load_state_dict(state["net"])
        self.objective.load_state_dict(state["objective"])
        self.updater.load_state_dict(state["updater"])
        self.stream.load_state_dict(state["stream"])
        self.means.load_state_dict(state["means"], self.world.device)

    def close(self) -> None:
        """Release the processes that decode images."""
        self.stream.close()
