"""Random search of equal budget: the baseline that every search has to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ssfnas.config import SearchConfig
from ssfnas.data import ImageData
from ssfnas.errors import RequestError
from ssfnas.runtime.distributed import World
from ssfnas.runtime.updates import sgd_updater
from ssfnas.seeding import generator
from ssfnas.spaces import DerivedNetwork, Genotype
from ssfnas.strategies import STRATEGIES
from ssfnas.strategies.random_search import best, sample_genotype, split_budget
from ssfnas.training.genotype_search import GenotypeSearch
from ssfnas.training.schedules import cosine, set_learning_rate
from ssfnas.training.trainer import ForwardPasses

SCORING_BATCHES = 32


class RandomSearchTrainer(GenotypeSearch):
    """Trains uniformly drawn genotypes one after the other and keeps the best.

    Each gets an equal share of the search's steps on D_w, at the search's own width and depth, and
    is scored by the objective's loss on D_alpha (at most 32 batches, the same for all). One epoch
    is one sample.

    Args:
        config, data, world, dtype: see :class:`~ssfnas.training.trainer.Trainer`; the strategy
            trains no alphas.
    """

    kept = ("step", "sample", "scores", "net", "objective", "updater", "stream", "means")
    net: DerivedNetwork

    def __init__(
        self,
        config: SearchConfig,
        data: ImageData,
        world: World,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(config, data, world, dtype)
        given = config.operations or STRATEGIES.get(config.strategy).operations
        self.operations = tuple(name for name in given if name != "none")
        steps_per_epoch = -(-len(self.halves[0]) // config.batch_size)
        self.total_steps = config.steps or config.epochs * steps_per_epoch
        if self.total_steps < config.samples:
            raise RequestError(
                f"--samples {config.samples} is more than the {self.total_steps} steps of the "
                "search: give fewer samples or more steps"
            )
        self.budget = split_budget(self.total_steps, config.samples)
        self.scores: list[float] = []
        # Whether one image is enough depends on the operations that were drawn.
        for sample in reversed(range(config.samples if config.batch_size == 1 else 1)):
            self._begin(sample)
            self.refuse_single_values()

    def _begin(self, sample: int) -> None:
        config, data = self.config, self.data
        self.sample = sample
        self.net = DerivedNetwork(
            self._draw(sample),
            data.num_classes,
            in_channels=data.in_channels,
            channels=config.channels,
            layers=config.layers,
            image_size=data.image_size,
            generator=generator(config.seed, "network", sample),
        )
        self._place_on_device("projector", sample)
        self.updater = sgd_updater(
            [*self.net.parameters(), *self.objective.parameters()],
            self.world,
            lr=config.weight_lr,
            momentum=config.weight_momentum,
            weight_decay=config.weight_decay,
            precision=config.precision,
            clip=config.clip,
        )
        # The same batches for every sample: they differ by their genotypes alone.
        views = self.objective.views
        self.stream = self.make_stream("weights", views, indices=self.halves[0])

    def _draw(self, sample: int) -> Genotype:
        return sample_genotype(
            self.config.seed, sample, operations=self.operations, nodes=self.config.nodes
        )

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

    @property
    def passes(self) -> list[ForwardPasses]:
        """Those of an update."""
        return [ForwardPasses("batch_size", self.stream, self.stream.views.count)]

    @property
    def place(self) -> tuple[str | int, ...]:
        """The next step of its sample, of which all draw alike."""
        return (self.step - sum(self.budget[: len(self.scores)]),)

    def _run_step(self) -> None:
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
        self.updater.update(terms["loss"], terms, "weight")
        self.count_step({f"weight/{name}": value for name, value in terms.items()}, looked=True)

    def _end_epoch(self) -> dict[str, Any]:
        """Score the sample on D_alpha."""
        self.scores.append(self._score())
        self.stream.close()
        return {**self.means.pop(self.world), "sample": self.sample, "score": self.scores[-1]}

    @torch.no_grad()
    def _score(self) -> float:
        stream = self.make_validation_stream("scores")
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

    @property
    def stage(self) -> str:
        """The network that is being trained."""
        return f"network {self.sample + 1} of {self.config.samples}"

    @property
    def headlines(self) -> Sequence[str]:
        """The loss, and what the networks are compared by."""
        return "weight/loss", "score", "best_score"

    def progress_values(self) -> Mapping[str, float]:
        """The sample's loss so far, and the best score."""
        best = {"best_score": min(self.scores)} if self.scores else {}
        return {**self.means.values(), **best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where :meth:`state_dict` was taken."""
        self._begin(state["sample"])
        super().load_state_dict(state)

    def close(self) -> None:
        """Release the processes that decode images."""
        self.stream.close()
