"""In which order training images are taken: endless, and a pure function of seed and position."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ssfnas.errors import RequestError
from ssfnas.seeding import generator


class IndexStream:
    """An endless stream of image positions.

    The stream is made of epochs of N positions. With ``exponent`` 1 an epoch is a permutation of
    ``indices``. Below 1 it is N independent draws: a class with probability proportional to its
    size to that power (0.5: square-root sampling, 0: every class alike; Kang et al., 2020), then
    one of its images uniformly.

    Args:
        labels: labels of the whole part: int64 [M], or [M, L] (exponent 1 only).
        indices: int64 [N], positions to take from.
        seed: epoch e is a function of it and of e only.
        exponent: from 0 to 1.

    Raises:
        RequestError: no indices, an exponent out of range, or one below 1 with several labels an
            image.
    """

    def __init__(self, labels: Tensor, indices: Tensor, seed: int, exponent: float = 1.0) -> None:
        self.indices = torch.as_tensor(indices, dtype=torch.int64).cpu()
        self.seed = seed
        self.exponent = exponent
        if len(self.indices) == 0:
            raise RequestError("no images to train on: this part of the data is empty")
        if not 0 <= exponent <= 1:
            raise RequestError(f"sampling exponent {exponent:g}: it must be from 0 to 1")
        # An epoch is drawn once: a slice reaches into two at most as a rule.
        self._epoch = lru_cache(maxsize=2)(self._draw)
        if exponent == 1:
            return
        if labels.ndim != 1:
            raise RequestError(
                f"sampling exponent {exponent:g} with several labels an image: only 1 has a meaning"
            )
        own = labels.cpu()[self.indices]
        by_class = torch.argsort(own, stable=True)
        sizes = torch.unique_consecutive(own[by_class], return_counts=True)[1]
        self._by_class = self.indices[by_class]
        self._sizes = sizes
        self._starts = sizes.cumsum(0) - sizes
        weights = sizes.double() ** exponent
        self._cumulative = (weights / weights.sum()).cumsum(0)

    def __len__(self) -> int:
        """Positions of an epoch."""
        return len(self.indices)

    def slice(self, start: int, stop: int) -> Tensor:
        """Image positions at places ``start`` to ``stop`` of the stream: int64 [stop - start]."""
        size = len(self)
        pieces = [torch.empty(0, dtype=torch.int64)]
        for epoch in range(start // size, -(-stop // size)):
            first = epoch * size
            pieces.append(self._epoch(epoch)[max(start - first, 0) : stop - first])
        return torch.cat(pieces)

    def _draw(self, epoch: int) -> Tensor:
        random = generator(self.seed, "order", epoch)
        if self.exponent == 1:
            return self.indices[torch.randperm(len(self), generator=random)]
        uniform = torch.rand((2, len(self)), generator=random, dtype=torch.float64)
        drawn = torch.searchsorted(self._cumulative, uniform[0], right=True)
        # Rounding may leave the last sum a little below 1.
        drawn.clamp_(max=len(self._sizes) - 1)
        within = (uniform[1] * self._sizes[drawn]).long()
        return self._by_class[self._starts[drawn] + within]
