"""One variant of a step on fixed batches: what every kind of step is asked."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch import Tensor

from benchmarks import step_counts
from benchmarks.step_variants import StepVariant
from benchmarks.timing import peak_bytes, timed
from ssfnas import ops
from ssfnas.data import Batch
from ssfnas.runtime.updates import Updater


class StepRunner(ABC):
    """Measures one variant; every variant of a kind has the same initial state and batches.

    What is measured are its *parts*, methods without arguments: ``"step"``, and more in some kinds.

    Args:
        variant: which one.
        device: where it computes.
    """

    def __init__(self, variant: StepVariant, device: torch.device) -> None:
        self.variant, self.device = variant, device
        self._cpu_seconds: dict[str, list[float]] = defaultdict(list)

    @abstractmethod
    def step(self) -> None:
        """One step on whole batches."""

    @abstractmethod
    def gradients(self) -> dict[str, np.ndarray]:
        """Losses and gradients on the checked images, from the initial state, in float64."""

    def first_gradients(self) -> dict[str, np.ndarray]:
        """:meth:`gradients`, and then a step: whole batches may have to be compiled for too."""
        found = self.gradients()
        self.step()
        return found

    def seconds(self, part: str = "step") -> float:
        """That a part takes."""
        before = time.process_time()
        taken = timed(getattr(self, part), self.device)
        self._cpu_seconds[part].append(time.process_time() - before)
        return taken

    def cpu_seconds(self, part: str = "step") -> float:
        """That processors spent on a part, all threads together: the median of what was timed."""
        return statistics.median(self._cpu_seconds[part])

    def peak_bytes(self, part: str = "step") -> int | None:
        """Most memory that a part takes beside what is there between steps; None: not known."""
        if self.variant.graphed:
            return None  # a graph keeps the memory that its steps take
        return peak_bytes(getattr(self, part), self.device)

    def calls(self, part: str = "step") -> int | None:
        """Kernels launched on a GPU; operators called elsewhere; None: not known."""
        run = getattr(self, part)
        if self.device.type == "cuda":
            return step_counts.launches(run)
        if self.variant.prepare is not None:
            # Counting what is dispatched makes PyTorch leave compiled code aside.
            return None
        return step_counts.operator_calls(run)

    def spent(self, part: str = "step") -> list[step_counts.Spent]:
        """Where the time of a part goes."""
        return step_counts.spent(getattr(self, part), self.device)

    def _backend(self) -> AbstractContextManager[None]:
        return ops.backend("reference") if self.variant.form == "reference" else nullcontext()


@contextlib.contextmanager
def taken_gradients(*updaters: Updater) -> Iterator[list[Tensor]]:
    """Within it, the gradients of each update before they are clipped in place: flat, in float64.

    They are on the CPU, in the order of the updater's parameters.
    """
    taken: list[Tensor] = []
    before = [updater.average for updater in updaters]
    for updater in updaters:
        updater.average = lambda grads: taken.extend(
            grad.detach().to("cpu", torch.float64, copy=True).flatten() for grad in grads
        )
    try:
        yield taken
    finally:
        for updater, average in zip(updaters, before, strict=True):
            updater.average = average


def first_images(batch: Batch, count: int) -> Batch:
    """The first images of a batch."""
    return Batch(
        tuple(view[:count] for view in batch.views), batch.labels[:count], batch.indices[:count]
    )


def exact(batch: Batch) -> Batch:
    """The same in float64."""
    return dataclasses.replace(batch, views=tuple(view.double() for view in batch.views))
