"""One differentiable architecture search: supernet, two streams of batches, bilevel steps."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ssfnas.config import SearchConfig
from ssfnas.data import ImageData
from ssfnas.declarations.early_stopping import TOP_EIGENVALUE
from ssfnas.errors import RequestError
from ssfnas.evaluation.monitor import FeatureMonitor
from ssfnas.layers.cells import CELL_TYPES
from ssfnas.ops import backend
from ssfnas.runtime.distributed import World
from ssfnas.runtime.updates import Terms, Updater, sgd_updater
from ssfnas.seeding import generator
from ssfnas.spaces import (
    SUPERNETS,
    Genotype,
    ReferenceSupernet,
    frozen_statistics,
    synchronize_batchnorm,
)
from ssfnas.strategies import (
    DERIVATIONS,
    STOPPERS,
    STRATEGIES,
    BilevelOptimizer,
    Moment,
    SearchStrategy,
    Space,
    derive,
)
from ssfnas.strategies.closing import Closing
from ssfnas.strategies.costs import cost_target
from ssfnas.strategies.early_stopping import Stopper
from ssfnas.strategies.hessian import hessian_top_eigenvalue
from ssfnas.strategies.strategy import PHASES, WEIGHT, misspelt_hook
from ssfnas.training.cost_target import CostTarget
from ssfnas.training.genotype_search import GenotypeSearch
from ssfnas.training.graphed_step import GraphedStep, Recorder, recorder_for
from ssfnas.training.schedules import cosine, set_learning_rate
from ssfnas.training.trainer import ForwardPasses


class SearchTrainer(GenotypeSearch):
    """A search by gradients, with any strategy that trains alphas.

    One step updates alpha on a batch of D_alpha, then the weights on a batch of D_w. All processes
    hold the same alphas at all times. In warm-up epochs the weights alone are updated, no batch of
    D_alpha is taken, and nothing is asked whether to stop.

    Args:
        config, data, world, dtype: see :class:`~ssfnas.training.trainer.Trainer`.
        recorder: records steps; absent: a CUDA graph's where that is wanted and possible.
    """

    kept = (
        *("step", "net", "objective", "bilevel", "weight_stream", "alpha_stream", "history"),
        *("strategy", "closing", "cost", "means", "stopper", "stopped_because", "use_epoch"),
    )
    net: ReferenceSupernet

    def __init__(
        self,
        config: SearchConfig,
        data: ImageData,
        world: World,
        dtype: torch.dtype = torch.float32,
        recorder: Recorder | None = None,
    ) -> None:
        recorder = recorder or recorder_for(config, world)
        super().__init__(config, data, world, dtype)
        declared = STRATEGIES.get(config.strategy)
        self.operations = tuple(config.operations or declared.operations)
        share = declared.partial_channels_of(config)
        space = Space(config.nodes, self.operations, share, world.device, dtype)
        self.strategy = made(config, declared(config, space))
        self.net = SUPERNETS.get(config.supernet)(
            data.num_classes,
            in_channels=data.in_channels,
            channels=config.channels,
            layers=config.layers,
            nodes=config.nodes,
            operations=self.operations,
            mixing=self.strategy,
            partial_channels=share,
            image_size=data.image_size,
            generator=generator(config.seed, "supernet"),
        )
        self._place_on_device("projector")
        self.strategy.attach(self.net)
        # Once, not a step: over the thousands of modules of a supernet it takes milliseconds, and
        # whatever measures the network puts its mode back.
        self.net.train()
        self.objective.train()

        views = self.objective.views
        self.weight_stream = self.make_stream("weights", views, indices=self.halves[0])
        self.alpha_stream = self.make_validation_stream("alphas")
        self.steps_per_epoch = self.weight_stream.steps_per_epoch
        self.total_steps = config.steps or config.epochs * self.steps_per_epoch
        self.alphas_from = config.alpha_warmup_epochs * self.steps_per_epoch
        if self.alphas_from >= self.total_steps:
            raise RequestError(
                f"--alpha-warmup-epochs {config.alpha_warmup_epochs} leaves no epoch of "
                f"{-(-self.total_steps // self.steps_per_epoch)} to train alpha in: give fewer, or "
                "a longer search"
            )

        self.cost = (
            None if cost_target(config) is None else CostTarget(config, self.strategy, data, world)
        )
        capturable = recorder is not None
        weights = sgd_updater(
            [*self.net.weights(), *self.objective.parameters()],
            world,
            lr=config.weight_lr,
            momentum=config.weight_momentum,
            weight_decay=config.weight_decay,
            precision=config.precision,
            clip=config.clip,
            decays_unused=self.strategy.moves_unused,
            capturable=capturable,
        )
        self.weight_optimizer = weights.optimizer
        self.alpha_optimizer = torch.optim.Adam(
            self.net.alphas(),
            lr=config.alpha_lr,
            betas=(config.alpha_beta1, 0.999),
            weight_decay=config.alpha_weight_decay,
            fused=capturable or None,
            capturable=capturable and world.device.type == "cuda",
        )
        self.bilevel = BilevelOptimizer(
            weights,
            Updater(
                self.net.alphas(),
                self.alpha_optimizer,
                world,
                config.precision,
                decays_unused=True,
                capturable=capturable,
            ),
            loss=self._terms,
            regularizer=self._penalty,
            hooks=self.strategy,
            order=config.order,
            frozen=lambda: frozen_statistics(self.net, self.objective),
        )
        self.graphed = (
            None
            if recorder is None
            else GraphedStep(
                self.bilevel.step,
                (self.bilevel.weights, self.bilevel.alphas),
                recorder,
                required=config.cuda_graph == "on",
            )
        )
        self.stopped_because: str | None = None
        self.use_epoch: int | None = None
        self.closing = (
            Closing(config, self.operations, shared=getattr(self.strategy.relaxed, "shares", False))
            if config.close_below
            else None
        )
        self.graph_key: object = None
        self.strategy.begin_step(self._moment(0))
        self.refuse_single_values()
        self.history = [self._record()]
        self.monitor = (
            FeatureMonitor(data, self.halves, seed=config.seed, device=world.device, dtype=dtype)
            if config.knn and not data.multi_label
            else None
        )
        self.stopper = self._stopper()

    def _stopper(self) -> Stopper | None:
        config = self.config
        if config.early_stop == "none":
            return None
        rule = STOPPERS.get(config.early_stop)
        if rule.measures.startswith("knn") and self.monitor is None:
            reason = "on multi-label data" if self.data.multi_label else "with --no-knn"
            raise RequestError(
                f"--early-stop {config.early_stop} looks at {rule.measures}, which is not measured "
                f"{reason}: choose another rule"
            )
        return rule(config)

    def _penalty(self) -> Terms:
        """What the strategy and the cost of the network add to the loss of the alphas."""
        terms = self.strategy.penalty()
        if not isinstance(terms, dict) or not all(
            isinstance(value, Tensor) and value.numel() == 1 for value in terms.values()
        ):
            raise RequestError(
                f"--strategy {self.config.strategy}: penalty() has to give a dict of scalar "
                'tensors, of which "loss" is added to that of the alphas'
            )
        if self.cost is None:
            return terms
        of_cost = self.cost.terms()
        loss = of_cost["loss"] + terms["loss"] if "loss" in terms else of_cost["loss"]
        return {**terms, **of_cost, "loss": loss}

    def _record(self) -> dict[str, Tensor]:
        """Parameters, weights and the operations that are left, as ``alphas.npz`` names them."""
        record = {
            name.removeprefix("alphas_"): parameter.detach().cpu().clone()
            for name, parameter in self.net.architecture().items()
        }
        record |= {f"weights_{cell}": table for cell, table in self.strategy.tables().items()}
        with torch.no_grad():
            for cell, mix in self.net.mixes().items():
                if mix.edges is not None:
                    record[f"edges_{cell}"] = mix.edges.cpu()
        return record | {f"open_{cell}": left for cell, left in self.strategy.open.items()}

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or a criterion stopped the search."""
        return super().finished or self.stopped_because is not None

    @property
    def epoch_ended(self) -> bool:
        """Whether the step just done completes an epoch; the last step always does."""
        return self.step % self.steps_per_epoch == 0 or self.step == self.total_steps

    @property
    def epoch(self) -> int:
        """Epochs that are complete, a last short one counted."""
        return -(-self.step // self.steps_per_epoch)

    @property
    def epochs(self) -> int:
        """There are to be, a last short one counted."""
        return -(-self.total_steps // self.steps_per_epoch)

    @property
    def passes(self) -> list[ForwardPasses]:
        """Those of an update of alpha, and of one of the weights."""
        return [
            ForwardPasses("batch_size", stream, stream.views.count)
            for stream in (self.alpha_stream, self.weight_stream)
        ]

    @contextmanager
    def trial(self) -> Iterator[torch.nn.Module]:
        """A copy of the network that mixes as in an update of the weights; see the base class."""
        with super().trial() as net:
            assert isinstance(net, ReferenceSupernet)
            assert isinstance(net.mixing, SearchStrategy)
            with net.mixing.in_phase(WEIGHT):
                yield net

    def _moment(self, step: int) -> Moment:
        return Moment(step, self.total_steps, step // self.steps_per_epoch, self.epochs)

    def _run_step(self) -> None:
        """One update of alpha after the warm-up, one of the weights."""
        config = self.config
        rate = cosine(self.step, self.total_steps, config.weight_lr, config.weight_lr_min)
        set_learning_rate(self.weight_optimizer, rate)
        alpha_batch = self.alpha_stream.next() if self.step >= self.alphas_from else None
        self.strategy.begin_step(self._moment(self.step))
        key = alpha_batch is None, self.strategy.graph_key
        if key != self.graph_key:  # it is another step
            self.graph_key = key
            self._freeze()
            if self.graphed is not None:
                self.graphed.reset()
        step = self.bilevel.step if self.graphed is None else self.graphed
        terms = step(alpha_batch, self.weight_stream.next())
        self.count_step(terms, looked=self.graphed is None)

    def _end_epoch(self) -> dict[str, Any]:
        """Record the alphas, every so often measure the features, ask the stopping criterion."""
        values: dict[str, Any] = self.means.pop(self.world)
        values["lr"] = float(self.weight_optimizer.param_groups[0]["lr"])
        if self.step > self.alphas_from:
            self._leave_undecided()
        self.history.append(self._record())
        with torch.no_grad():
            mixes = self.net.mixes()
        for cell, mix in mixes.items():
            values[f"entropy/{cell}"] = float(self.strategy.relaxed.entropy(mix.weights))
            values[f"skips/{cell}"] = self.skip_count(cell)
            if self.closing is not None or not bool(self.strategy.open[cell].all()):
                values[f"open/{cell}"] = int(self.strategy.open[cell].sum())
        values |= {f"strategy/{name}": value for name, value in self.strategy.told.items()}
        stopper = self.stopper if self.step > self.alphas_from else None
        wanted = "" if stopper is None else STOPPERS.get(self.config.early_stop).measures
        if wanted.startswith("knn"):
            values.update(self._neighbors())
        if stopper is not None:
            if wanted == TOP_EIGENVALUE:  # costs too much to be measured unasked
                values[TOP_EIGENVALUE] = self.top_eigenvalue()
            decision = stopper.update(self.epoch, values[wanted])
            if decision is not None:
                self.stopped_because, self.use_epoch = decision.reason, decision.use_epoch
        if self.monitor is None or "knn/images" in values:
            return values
        if self.epoch % self.config.knn_every == 0 or self.finished:
            values.update(self._neighbors())
        return values

    def _leave_undecided(self) -> None:
        """Let the strategy end an epoch, and close operations that are decided against."""
        self.strategy.end_epoch(self._moment(self.step - 1))
        if self.closing is not None:
            with torch.no_grad():
                weights = {cell: mix.weights.cpu() for cell, mix in self.net.mixes().items()}
            trained = self.epoch - self.config.alpha_warmup_epochs
            self.strategy.close(self.closing.update(trained, weights, self.strategy.open))
        self._freeze()

    def _freeze(self) -> None:
        self.bilevel.weights.frozen = frozenset(self.strategy.frozen())
        self.bilevel.alphas.frozen_entries = self.strategy.frozen_entries()

    def _neighbors(self) -> dict[str, Any]:
        """Nearest-neighbor accuracy of the features."""
        assert self.monitor is not None
        batches = 2 * self.step - min(self.step, self.alphas_from)
        return self.monitor.measure(self.net, seen=batches * self.config.batch_size)

    def edge_weights(self, epoch: int | None = None) -> dict[str, Tensor]:
        """Weights by cell type, [E, O] on the CPU, as they were after an epoch; None: the last."""
        record = self.history[-1 if epoch is None else epoch]
        return {cell: record[f"weights_{cell}"] for cell in CELL_TYPES}

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
        stream = self.make_validation_stream("hessian", single)
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

    def not_finite(self) -> str:
        """Of which cell types the strategy's weights are NaN or infinite, in any phase."""
        wrong: set[str] = set()
        for phase in PHASES:
            with torch.no_grad(), self.strategy.in_phase(phase):
                mixes = self.net.mixes()
            wrong |= {cell for cell, mix in mixes.items() if not bool(mix.table.isfinite().all())}
        if not wrong:
            return ""
        cells = f"{' and '.join(sorted(wrong))} cell{'s' if len(wrong) > 1 else ''}"
        return (
            f"the weights that --strategy {self.config.strategy} gives the {cells} are not finite"
        )

    @property
    def stage(self) -> str:
        """The epoch, and whether alphas are trained in it."""
        warmup = " (warm-up)" if self.step <= self.alphas_from and self.alphas_from else ""
        return f"epoch {max(1, self.epoch)} of {self.epochs}{warmup}"

    @property
    def headlines(self) -> Sequence[str]:
        """The losses, and what the features are worth."""
        neighbors = ("knn/balanced", "knn/top1")
        return "weight/loss", *neighbors, "alpha/loss", "alpha/zero_one"

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where :meth:`state_dict` was taken."""
        super().load_state_dict(state)
        self.strategy.begin_step(self._moment(max(0, self.step - 1)))
        self._freeze()
        if self.graphed is not None:
            self.graphed.reset()

    def close(self) -> None:
        """Release the processes that decode images."""
        self.weight_stream.close()
        self.alpha_stream.close()


def made(config: SearchConfig, strategy: object) -> SearchStrategy:
    """What a strategy's name stands for, where it is a strategy.

    Raises:
        RequestError: a plugin registered something else, or a hook of it is misspelt.
    """
    if not isinstance(strategy, SearchStrategy):
        raise RequestError(
            f"--strategy {config.strategy} makes a {type(strategy).__name__}: what a plugin "
            "registers is a class of ssfnas.strategies.SearchStrategy (docs/extending.md)"
        )
    if misspelt := misspelt_hook(type(strategy)):
        name, hook = misspelt
        raise RequestError(
            f"--strategy {config.strategy}: {type(strategy).__name__}.{name} is no hook of a "
            f"search strategy (did you mean {hook}?): a helper of your own may be _{name}"
        )
    return strategy
