"""What a searched supernet is worth with other weights of its operations than its own."""

from __future__ import annotations

import torch
from torch import Tensor

from ssfnas.data import Batch
from ssfnas.declarations.derivations import MEASURES
from ssfnas.layers.cells import CELL_TYPES, OpenOperations, edges_of_nodes, nodes_of
from ssfnas.runtime.precision import autocast
from ssfnas.seeding import derive_seed, seeded_draws
from ssfnas.spaces import Mix, frozen_statistics
from ssfnas.strategies.strategy import as_open
from ssfnas.training.search_trainer import SearchTrainer


class SupernetMeasure:
    """Balanced accuracy, or minus the objective's loss, on batches that are always the same.

    They are of the half of the images that the alphas were trained on, and kept in memory: for the
    accuracy the images as they are, each of them once at most; for the loss views as the search
    made them. Batches are normalized by their own statistics, as in the search, and running
    statistics stay as they are. What an operation draws, it draws by seed and batch.

    Args:
        trainer: of the search, in the state that is measured; on one process.
        kind: one of :data:`MEASURES`.
        images: how many, about: whole batches, as far as the half has them, and one at least.

    Attributes:
        images: how many there are.
    """

    def __init__(self, trainer: SearchTrainer, kind: str, images: int) -> None:
        if kind not in MEASURES:
            raise ValueError(f"measure is {kind!r}: it is one of {', '.join(MEASURES)}")
        self._trainer, self._net, self._kind = trainer, trainer.net, kind
        size, half = trainer.config.batch_size, trainer.halves[1]
        stream = (
            trainer.make_validation_stream("perturbation")
            if kind == "loss"
            else trainer.make_stream("perturbation", "none", indices=half)
        )
        count = max(1, min(-(-images // size), len(half) // size))
        self._batches = [stream.next() for _ in range(count)]
        stream.close()
        self.images = count * size
        with torch.no_grad():
            self._mixes = self._net.mixes()

    @property
    def tables(self) -> dict[str, Tensor]:
        """The supernet's own weights, ``{"normal": [E, O], "reduce": [E, O]}``, on the CPU."""
        return {cell: self._mixes[cell].weights.detach().cpu() for cell in CELL_TYPES}

    @torch.no_grad()
    def __call__(self, tables: dict[str, Tensor]) -> float:
        """What the supernet is worth with these weights; higher is better.

        Args:
            tables: as :attr:`tables`. An edge without any weight is gone, with what passes it by.
        """
        trainer, net = self._trainer, self._net
        mixes = {cell: _mix(self._mixes[cell], tables[cell]) for cell in CELL_TYPES}
        net.train()
        trainer.objective.train()
        of_batch = self._right_and_all if self._kind == "balanced_accuracy" else self._loss
        with net.fixed(mixes), frozen_statistics(net, trainer.objective):
            values = []
            for number, batch in enumerate(self._batches):
                seed = derive_seed(trainer.config.seed, "perturbation", number)
                with (
                    seeded_draws(seed, trainer.world.device),
                    autocast(trainer.config.precision, trainer.world.device),
                ):
                    values.append(of_batch(batch))
        total = torch.stack(values).double().sum(0).cpu()
        if self._kind == "loss":
            return -float(total) / len(values)
        right, everything = total
        there = everything > 0
        return float((right[there] / everything[there]).mean())

    def _loss(self, batch: Batch) -> Tensor:
        return self._trainer.objective.terms(self._net, batch)["loss"]

    def _right_and_all(self, batch: Batch) -> Tensor:
        """Images that are told right, and all, of each class: [2, classes]."""
        labels, classes = batch.labels, self._trainer.data.num_classes
        right = labels[self._net(batch.views[0]).argmax(1) == labels]
        return torch.stack([torch.bincount(of, minlength=classes) for of in (right, labels)])


def _mix(own: Mix, weights: Tensor) -> Mix:
    """``own`` with other weights; what has none is closed, and costs nothing."""
    there = weights != 0
    given = weights.to(own.weights)
    edges = None if own.edges is None else own.edges * there.any(1).to(own.edges)
    return Mix(given, edges, _closed(there))


def _closed(there: Tensor) -> OpenOperations | None:
    """The operations that are there; None where a node has none, whose sum has to be made."""
    nodes = there.split(edges_of_nodes(nodes_of(len(there))))
    return as_open(there) if all(bool(node.any()) for node in nodes) else None
