"""3x3 pools, with a BatchNorm in a search and without one in a derived network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ssfnas.fused.cell_statistics import Statistics
from ssfnas.fused.cell_tables import PLAIN, ZEROS, Rows
from ssfnas.fused.families.family import Backward, Family, Gradients, Parts, has_values
from ssfnas.layers.normalization import BatchNorm2d
from ssfnas.layers.operations import AvgPool, MaxPool
from ssfnas.ops.primitives import pools_backward, pools_forward

_MAX, _AVERAGE = 0, 1
_KINDS: dict[type[nn.Module], int] = {MaxPool: _MAX, AvgPool: _AVERAGE}
_WINDOW = {"kernel_size": 3, "padding": 1, "ceil_mode": False}
_EXPECTED = (
    {**_WINDOW, "dilation": 1, "return_indices": False},
    {**_WINDOW, "count_include_pad": False, "divisor_override": None},
)


class Pools(Family):
    """Maxima and averages: neither has weights, so one result of each serves every edge.

    BatchNorms behind the same pool have the same statistics, and share a row. One with weights of
    its own makes its candidate a module.
    """

    def __init__(self, stride: int) -> None:
        super().__init__(stride)
        # For each candidate its kind, and its number among those of its kind.
        self._candidates: list[tuple[int, int]] = []
        self._norms: tuple[list[BatchNorm2d | None], ...] = ([], [])

    @staticmethod
    def form(module: nn.Module, stride: int) -> tuple[int, BatchNorm2d | None] | None:
        """A pool's kind, and the BatchNorm behind it."""
        norm: BatchNorm2d | None = None
        if type(module) is nn.Sequential and len(module) == 2:
            module, behind = module
            if type(behind) is not BatchNorm2d or behind.weight is not None:
                return None
            norm = behind
        kind = _KINDS.get(type(module))
        if kind is None or not has_values(module, _EXPECTED[kind] | {"stride": stride}):
            return None
        return kind, norm

    def accept(self, form: tuple[int, BatchNorm2d | None]) -> int:
        """The next number."""
        kind, norm = form
        self._candidates.append((kind, len(self._norms[kind])))
        self._norms[kind].append(norm)
        return len(self._candidates) - 1

    def take_rows(self, rows: Rows) -> None:
        """p of each, of each kind q behind them, and r; to both of these all add."""
        self._normalized = [any(norms) for norms in self._norms]
        self._statistics = rows.take_statistics(
            [[n for n in norms if n is not None] for norms in self._norms]
            if any(self._normalized)
            else []
        )
        self._p, self._r = [], []
        for norms in self._norms:
            p = rows.take_ones(len(norms))
            self._p.append(slice(p.start, rows.take(1).stop))
            self._r.append(rows.take(1).start)
        self._unused = rows.take(2 * len(self._candidates)).start

    def statistics_row(self, number: int) -> int:
        """One for each kind, where it is normalized."""
        kind, place = self._candidates[number]
        return PLAIN if self._norms[kind][place] is None else self._statistics.start + kind

    def gradient_rows(self, number: int) -> tuple[int, int, int]:
        """A row of p each; of q and r one for each kind, or what nobody reads."""
        kind, place = self._candidates[number]
        p = self._p[kind].start + place
        if self._norms[kind][place] is None:
            return p, self._unused + 2 * number, self._unused + 2 * number + 1
        return p, self._p[kind].stop - 1, self._r[kind]

    def forward(
        self, parts: Parts, parameters: Sequence[Tensor], statistics: Statistics
    ) -> list[Tensor]:
        """Maxima and averages."""
        largest, average, mean, var = pools_forward(parts[0], self.stride)
        if any(self._normalized):
            statistics.enter(self._statistics, mean, var, largest)
        return [largest, average]

    def result(self, results: list[Tensor], number: int) -> Tensor:
        """One of both."""
        return results[self._candidates[number][0]]

    def kept(self, results: list[Tensor]) -> list[Tensor | None]:
        """What is normalized."""
        return [z if own else None for z, own in zip(results, self._normalized, strict=True)]

    def backward(self, given: Backward, total: Parts | None) -> tuple[Parts | None, Gradients]:
        """Those of both results, and through both at once."""
        if not given.needs_x:
            return total, []
        largest, average = (self._gradient(given, kind) for kind in (_MAX, _AVERAGE))
        into = None if total is None else total[0]
        return [pools_backward(given.x, largest, average, self.stride, into)], []

    def _gradient(self, given: Backward, kind: int) -> Tensor | None:
        """sum_k p_k g_k + q z + r of a kind, in one sum."""
        numbers = [n for n, (found, _) in enumerate(self._candidates) if found == kind]
        if not numbers:
            return None
        z = given.results[kind]
        own = z is not None and given.coefficients.batch_statistics
        grads = [given.uses[number].grad for number in numbers]
        factors = given.factors(numbers, 1 if own else 0)
        rows, r = self._p[kind], self._r[kind]
        if own:
            return given.sum([*grads, z], rows, r, factors)
        if z is None and len(grads) == 1 and factors is None:
            return grads[0]  # p is one
        return given.sum(grads, slice(rows.start, rows.stop - 1), ZEROS, factors)
