"""OLES: each operation stops training by itself, once its two gradients part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ssfnas.spaces import ReferenceSupernet
from ssfnas.strategies.strategy import Moment, SearchStrategy


class Instance(NamedTuple):
    """An operation with parameters on an edge of a cell.

    Attributes:
        cell, edge, operation: its numbers.
        kind: type of its cell.
        places: of its parameters among all weights.
    """

    cell: int
    edge: int
    operation: int
    kind: str
    places: list[int]


class Oles(SearchStrategy):
    """DARTS with early stopping of each operation (OLES).

    An operation of an edge of a cell overfits when what trains it on one half of the data is no
    longer what the other half asks for. So in each step the gradient of its parameters, as one
    vector, in the loss of the alphas is compared with that in the loss of the weights, at the same
    weights: by the cosine of the angle between them. Where the mean over ``oles_window`` steps is
    below ``oles_threshold``, its parameters stay as they are for good; its alphas go on.

    Below 0 a step for one half is one against the other. The default is a little below: in a search
    of 19 epochs on 800 images with labels, 32 a batch, medians over the operations fell from 0.20
    to about 0.05, and swung by 0.05 from window to window. At -0.05 less than one of a hundred
    operations would have stopped in any window of the first 14 epochs, at 0 up to one of nine by
    such chance; in the two windows after, when the loss of the alphas fell no more and that of the
    weights did, one of ten and then four of ten. From pairs of views cosines are smaller, with
    medians of 0.04 and less from the start, and windows of more steps tell more.

    The 0.4 of the method's own code is another number: it compares the sum of both gradients, that
    of the weights' step before among them, with one of both, tensor by tensor, and is reached by
    gradients at right angles only where one is over twice as large as the other.
    """

    wants_weight_gradients = True
    kept: ClassVar[tuple[str, ...]] = ("stopped", "pairs", "begun", "told")

    def attach(self, net: ReferenceSupernet) -> None:
        """Find the operations that have parameters."""
        super().attach(net)
        place_of = {id(weight): place for place, weight in enumerate(net.weights())}
        self.instances = [
            Instance(number, e, o, cell.kind, [place_of[id(own)] for own in module.parameters()])  # type: ignore[arg-type]
            for number, cell in enumerate(net.cells)
            for e, edge in enumerate(cell.edges)  # type: ignore[arg-type,union-attr]
            for o, module in enumerate(edge.operations)  # type: ignore[arg-type,union-attr]
            if any(True for _ in module.parameters())
        ]
        self._weights = net.weights()
        # Numbers of those that stopped, steps since they were looked at last, and the last of all.
        self.stopped: tuple[int, ...] = ()
        self.pairs, self.begun = 0, -1
        self._of_alpha: Sequence[Tensor | None] = ()
        self._planned: object = None
        count = len(self.instances)
        # Cosines so far, and how many of them there are.
        self.set("sums", torch.zeros(2, count))
        self.told |= {"frozen": 0.0}

    def begin_step(self, moment: Moment) -> None:
        """Once a window look at the cosines; the only time that the host asks for them."""
        if moment.step != self.begun:
            self.begun = moment.step
            if self.pairs == self.config.oles_window:
                self._look()
            if moment.epoch >= self.config.alpha_warmup_epochs:
                self.pairs += 1
        if self._planned != self.graph_key:
            self._plan()

    def _look(self) -> None:
        sums, counts = self.get("sums").cpu()
        means = sums / counts
        known = counts > 0
        below = (known & (means < self.config.oles_threshold)).nonzero().flatten().tolist()
        self.stopped = tuple(sorted({*self.stopped, *below}))
        self.told["frozen"] = float(len(self.stopped))
        if bool(known.any()):
            self.told["cosine"] = float(means[known].mean())
        self.get("sums").zero_()
        self.pairs = 0

    def _plan(self) -> None:
        """Which operations are compared until the next one stops or closes."""
        live = [
            (number, instance)
            for number, instance in enumerate(self.instances)
            if number not in self.stopped
            and bool(self.open[instance.kind][instance.edge, instance.operation])
        ]
        self._places = [place for _, instance in live for place in instance.places]
        sizes = [sum(self._weights[p].numel() for p in instance.places) for _, instance in live]
        device = self.space.device
        self._lengths = torch.tensor(sizes, dtype=torch.int64, device=device)
        self._live = torch.tensor([n for n, _ in live], dtype=torch.int64, device=device)
        self._planned = self.graph_key

    def after_alpha_step(self, gradients: Sequence[Tensor | None]) -> None:
        """Keep the gradients for the weights' step, which comes next."""
        self._of_alpha = gradients

    def after_weight_step(self, gradients: Sequence[Tensor | None]) -> None:
        """Add the cosines of this step; such as are of no gradient at all do not count."""
        of_alpha, self._of_alpha = self._of_alpha, ()
        if not of_alpha or not self._places:
            return
        cosines = segment_cosines(self._flat(of_alpha), self._flat(gradients), self._lengths)
        known = cosines.isfinite()
        entries = torch.stack([cosines.where(known, 0), known.to(cosines)])
        self.get("sums").index_add_(1, self._live, entries)

    def _flat(self, gradients: Sequence[Tensor | None]) -> Tensor:
        parts = []
        for place in self._places:
            gradient = gradients[place]
            own = torch.zeros_like(self._weights[place]) if gradient is None else gradient
            parts.append(own.reshape(-1))
        return torch.cat(parts)

    @property
    def graph_key(self) -> object:
        """With what has stopped: it is not compared, and not updated."""
        return super().graph_key, self.stopped

    def frozen(self) -> list[nn.Parameter]:
        """Weights of what has stopped or closed."""
        places = [place for number in self.stopped for place in self.instances[number].places]
        return [*super().frozen(), *(self._weights[place] for place in places)]

    def state_dict(self) -> dict[str, Any]:
        """With the window so far."""
        return {**super().state_dict(), "sums": self.get("sums").cpu().clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where :meth:`state_dict` was taken."""
        super().load_state_dict(state)
        self.get("sums").copy_(state["sums"])


def segment_cosines(a: Tensor, b: Tensor, lengths: Tensor) -> Tensor:
    """The cosine of the angle between two vectors, piece by piece.

    Args:
        a, b: [P], pieces of which lie one behind the other.
        lengths: of the pieces, int64 [N], P in all.

    Returns:
        [N]; NaN where one of both is zero.
    """
    # The lengths are not checked, for which the host would have to ask the device.
    ab, aa, bb = (
        torch.segment_reduce(product, "sum", lengths=lengths, unsafe=True)
        for product in (a * b, a * a, b * b)
    )
    return ab / (aa.sqrt() * bb.sqrt())
