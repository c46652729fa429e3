"""One differentiable architecture search: supernet, two streams of batches, bilevel steps."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ssfnas.config import SearchConfig
from ssfnas.data import Batch, ImageData, stratified_halves
from ssfnas.declarations.early_stopping import TOP_EIGENVALUE
from ssfnas.errors import NumericalError, RequestError
from ssfnas.evaluation.monitor import FeatureMonitor
from ssfnas.objectives import OBJECTIVES, SearchObjective, make_search_objective
from ssfnas.ops import backend
from ssfnas.runtime.distributed import World
from ssfnas.runtime.precision import autocast
from ssfnas.runtime.updates import Updater
from ssfnas.seeding import derive_seed, generator
from ssfnas.spaces import SUPERNETS, Genotype, frozen_statistics, synchronize_batchnorm
from ssfnas.strategies import DERIVATIONS, STOPPERS, STRATEGIES, BilevelOptimizer, derive
from ssfnas.strategies.hessian import hessian_top_eigenvalue
from ssfnas.training.averages import RunningMeans
from ssfnas.training.graphed_step import (
    CudaGraphRecorder,
    GraphedStep,
    Recorder,
    why_not_graphed,
)
from ssfnas.training.schedules import cosine, set_learning_rate
from ssfnas.training.streams import training_stream

# Steps between two looks at whether all terms were finite, where no step waits for that.
_LOOK_EVERY = 20


def search_halves(config: SearchConfig, data: ImageData) -> tuple[Tensor, Tensor]:
    """Positions of the training images for the weights, and of those for the alphas.

    Raises:
        RequestError: no image is left for the alphas.
    """
    halves = stratified_halves(data.train.labels.cpu(), derive_seed(config.seed, "halves"))
    if not len(halves[1]):
        raise RequestError(
            f"{data.name}: the half of the training images that the alphas are searched on is "
            f"empty, since no class has two of the {len(data.train)}: give more images"
        )
    return halves


def search_objective(
    config: SearchConfig, data: ImageData, num_features: int, world: World, *purpose: str | int
) -> SearchObjective:
    """The objective of a search, on the world's device; its initial draws are named by purpose."""
    return make_search_objective(
        config.objective,
        num_features=num_features,
        num_classes=data.num_classes,
        multi_label=data.multi_label,
        group=world.group,
        generator=generator(config.seed, *purpose),
        **OBJECTIVES.get(config.objective).settings(config),
    ).to(world.device)


class SearchTrainer:
    """A search by gradients (darts, fairdarts, or a strategy of the user's).

    One step updates alpha on a batch of D_alpha, then the weights on a batch of D_w.

    Args:
        config: what to search; checked already.
        data: the images, on ``world.device`` unless they are decoded lazily.
        world: the processes that search together; all hold the same alphas at all times.
        dtype: of weights and views; float64 is for proofs.
        recorder: records steps; absent: a CUDA graph's where that is wanted and possible.
    """

    def __init__(
        self,
        config: SearchConfig,
        data: ImageData,
        world: World,
        dtype: torch.dtype = torch.float32,
        recorder: Recorder | None = None,
    ) -> None:
        if why_not_graphed(config, world) is None:
            recorder = recorder or CudaGraphRecorder(world.device)
        self.config, self.data, self.world = config, data, world
        strategy = STRATEGIES.get(config.strategy)
        self.operations = tuple(config.operations or strategy.operations)
        self.net = SUPERNETS.get(config.supernet)(
            data.num_classes,
            in_channels=data.in_channels,
            channels=config.channels,
            layers=config.layers,
            nodes=config.nodes,
            operations=self.operations,
            relaxation=strategy.relaxation,
            generator=generator(config.seed, "supernet"),
        ).to(world.device, dtype)
        self.objective = search_objective(
            config, data, self.net.num_features, world, "projector"
        ).to(dtype)
        if world.group is not None:
            synchronize_batchnorm(self.net, world.group)
        # Once, not a step: over the thousands of modules of a supernet it takes milliseconds, and
        # whatever measures the network puts its mode back.
        self.net.train()
        self.objective.train()

        halves = search_halves(config, data)
        streams = [
            training_stream(
                config, data, purpose, self.objective.views, world, dtype, indices=indices
            )
            for indices, purpose in zip(halves, ("weights", "alphas"), strict=True)
        ]
        self.weight_stream, self.alpha_stream = streams
        self.halves = halves

        weights = [*self.net.weights(), *self.objective.parameters()]
        capturable = recorder is not None
        rate: float | Tensor = config.weight_lr
        if capturable:  # a graph reads the rate from where it is
            rate = torch.tensor(rate, dtype=torch.float32, device=world.device)
        self.weight_optimizer = torch.optim.SGD(
            weights,
            lr=rate,
            momentum=config.weight_momentum,
            weight_decay=config.weight_decay,
            fused=capturable or None,
        )
        self.alpha_optimizer = torch.optim.Adam(
            self.net.alphas(),
            lr=config.alpha_lr,
            betas=(config.alpha_beta1, 0.999),
            weight_decay=config.alpha_weight_decay,
            fused=capturable or None,
            capturable=capturable and world.device.type == "cuda",
        )
        self.bilevel = BilevelOptimizer(
            Updater(
                weights,
                self.weight_optimizer,
                world,
                config.precision,
                config.clip,
                decays_unused=True,
            ),
            Updater(
                self.net.alphas(),
                self.alpha_optimizer,
                world,
                config.precision,
                decays_unused=True,
            ),
            loss=self._loss,
            regularizer=strategy.make_regularizer(self.net.alphas(), config),
            order=config.order,
            frozen=lambda: frozen_statistics(self.net, self.objective),
            capturable=capturable,
        )
        self.graphed = (
            None
            if recorder is None
            else GraphedStep(self.bilevel, recorder, required=config.cuda_graph == "on")
        )
        self.steps_per_epoch = self.weight_stream.steps_per_epoch
        self.total_steps = config.steps or config.epochs * self.steps_per_epoch
        self.step = 0
        self.stopped_because: str | None = None
        self.use_epoch: int | None = None
        self.alpha_history = [self._alphas()]
        self.means = RunningMeans()
        self.monitor = (
            FeatureMonitor(data, halves, seed=config.seed, device=world.device, dtype=dtype)
            if config.knn and not data.multi_label
            else None
        )
        self.stopper = (
            None if config.early_stop == "none" else STOPPERS.get(config.early_stop)(config)
        )

    def _loss(self, batch: Batch) -> dict[str, Tensor]:
        with autocast(self.config.precision, self.world.device):
            return self.objective.terms(self.net, batch)

    def _alphas(self) -> dict[str, Tensor]:
        return {
            "normal": self.net.alphas_normal.detach().cpu().clone(),
            "reduce": self.net.alphas_reduce.detach().cpu().clone(),
        }

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or a criterion stopped the search."""
        return self.step >= self.total_steps or self.stopped_because is not None

    @property
    def epoch_ended(self) -> bool:
        """Whether the step just done completes an epoch; the last step always does."""
        return self.step % self.steps_per_epoch == 0 or self.step == self.total_steps

    @property
    def epoch(self) -> int:
        """Epochs that are complete, a last short one counted."""
        return -(-self.step // self.steps_per_epoch)

    def run_step(self) -> None:
        """One update of alpha, one of the weights."""
        config = self.config
        rate = cosine(self.step, self.total_steps, config.weight_lr, config.weight_lr_min)
        set_learning_rate(self.weight_optimizer, rate)
        alpha_batch, weight_batch = self.alpha_stream.next(), self.weight_stream.next()
        step = self.bilevel.step if self.graphed is None else self.graphed
        self.means.add(step(alpha_batch, weight_batch))
        self.step += 1
        if self.bilevel.capturable and (self.epoch_ended or self.step % _LOOK_EVERY == 0):
            try:
                self.means.require_finite()
            except NumericalError as error:
                raise NumericalError(f"{error} in one of the last {_LOOK_EVERY} steps") from None

    def end_epoch(self) -> dict[str, Any]:
        """Record the alphas, measure the features, and ask the stopping criterion."""
        self.alpha_history.append(self._alphas())
        values: dict[str, Any] = self.means.pop(self.world)
        values["lr"] = self.weight_optimizer.param_groups[0]["lr"]
        weights = self.edge_weights()
        for cell, table in weights.items():
            values[f"entropy/{cell}"] = float(self.net.relaxation.entropy(table))
            values[f"skips/{cell}"] = self.skip_count(cell)
        if self.monitor is not None:
            values.update(self.monitor.measure(self.net))
        if self.stopper is not None:
            measured = STOPPERS.get(self.config.early_stop).measures
            if measured == TOP_EIGENVALUE:  # costs too much to be measured unasked
                values[TOP_EIGENVALUE] = self.top_eigenvalue()
            decision = self.stopper.update(self.epoch, values[measured])
            if decision is not None:
                self.stopped_because, self.use_epoch = decision.reason, decision.use_epoch
        return values

    def edge_weights(self, epoch: int | None = None) -> dict[str, Tensor]:
        """Weights by cell type, [E, O] on the CPU, of now or as they were after ``epoch``."""
        alphas = self._alphas() if epoch is None else self.alpha_history[epoch]
        return {cell: self.net.relaxation.weights(alpha) for cell, alpha in alphas.items()}

    def skip_count(self, cell: str) -> int:
        """Skip connections among the two best operations of each node of ``cell``."""
        genotype = derive(self.edge_weights(), self.operations, "darts")
        edges = genotype.normal if cell == "normal" else genotype.reduce
        return sum(operation == "skip_connect" for operation, _, _ in edges)

    def top_eigenvalue(self) -> float:
        """Top eigenvalue of the Hessian of the validation loss in alpha, on one batch an epoch."""
        # A copy without synchronization: each process computes the whole batch, and the same.
        net, objective = copy.deepcopy((self.net, self.objective))
        synchronize_batchnorm(net, None)
        objective.set_group(None)
        single = World(rank=0, size=1, device=self.world.device, group=None)
        stream = training_stream(
            self.config,
            self.data,
            "hessian",
            self.objective.views,
            single,
            self.net.alphas_normal.dtype,
            indices=self.halves[1],
        )
        stream.load_state_dict({**stream.state_dict(), "position": self.epoch})
        batch = stream.next()
        stream.close()
        net.train()
        # The references alone are differentiable twice.
        with frozen_statistics(net, objective), backend("reference"):
            return float(
                hessian_top_eigenvalue(
                    lambda: objective.terms(net, batch)["loss"],
                    net.alphas(),
                    generator=generator(self.config.seed, "hessian", self.epoch),
                )
            )

    def genotype(self) -> Genotype:
        """Derive from the final alphas, or from those that early stopping rolled back to.

        Raises:
            RequestError: no operation of a cell passes the threshold.
        """
        weights = self.edge_weights(self.use_epoch)
        rule = self.config.derive
        return derive(weights, self.operations, rule, **DERIVATIONS.get(rule).settings(self.config))

    def progress_values(self) -> Mapping[str, float]:
        """Both loss terms so far in this epoch, and the skip connections of the normal cell."""
        values = self.means.values()
        shown = {
            name: values[name] for name in sorted(values) if name.endswith(("/loss", "zero_one"))
        }
        shown["skips"] = self.skip_count("normal")
        return shown

    def state_dict(self) -> dict[str, Any]:
        """Everything that the rest of the search depends on.

        Raises:
            NumericalError: a term of a step since the last look was not finite.
        """
        self.means.require_finite()
        return {
            "step": self.step,
            "net": self.net.state_dict(),
            "objective": self.objective.state_dict(),
            "bilevel": self.bilevel.state_dict(),
            "weight_stream": self.weight_stream.state_dict(),
            "alpha_stream": self.alpha_stream.state_dict(),
            "alpha_history": self.alpha_history,
            "means": self.means.state_dict(),
            "stopper": None if self.stopper is None else self.stopper.state_dict(),
            "stopped_because": self.stopped_because,
            "use_epoch": self.use_epoch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where :meth:`state_dict` was taken."""
        self.step = state["step"]
        self.net.load_state_dict(state["net"])
        self.objective.load_state_dict(state["objective"])
        self.bilevel.load_state_dict(state["bilevel"])
        self.weight_stream.load_state_dict(state["weight_stream"])
        self.alpha_stream.load_state_dict(state["alpha_stream"])
        self.alpha_history = state["alpha_history"]
        self.means.load_state_dict(state["means"], self.world.device)
        if self.stopper is not None:
            self.stopper.load_state_dict(state["stopper"])
        self.stopped_because = state["stopped_because"]
        self.use_epoch = state["use_epoch"]
        if self.graphed is not None:
            self.graphed.reset()

    def close(self) -> None:
        """Release the processes that decode images."""
        self.weight_stream.close()
        self.alpha_stream.close()
