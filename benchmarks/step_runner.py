"""One variant of a search step: built as a search builds it, and run on fixed batches."""

from __future__ import annotations

import copy
import ctypes
import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import step_counts
from benchmarks.step_compile import UNITS
from benchmarks.timing import timed
from ssfnas import ops
from ssfnas.config import SearchConfig
from ssfnas.data import Batch, load_data
from ssfnas.runtime.distributed import start_world
from ssfnas.seeding import generator
from ssfnas.training.search_trainer import SearchTrainer

# What a stream makes at a time is a part of this many images.
_STREAMED = {"cpu": 512, "cuda": 4096}


@dataclass(frozen=True)
class StepVariant:
    """One way to compute a search step.

    Attributes:
        name: for people.
        supernet: which form of it.
        backend: of ``ssfnas.ops``; None: as the environment has it.
        exact: in float64, whatever the precision.
        graphed: each step is one CUDA graph.
        prepare: changes the search that was built; a function that a new process can import.
    """

    name: str
    supernet: str
    backend: str | None = None
    exact: bool = False
    graphed: bool = False
    prepare: Callable[[SearchTrainer], None] | None = None


class StepRunner:
    """Measures one variant; every variant of a config has the same initial state and batches.

    Args:
        variant: which one.
        config: the search.
        device: ``"cpu"`` or ``"cuda"``.
        checked_images: the first images of a batch, which results are compared on.
    """

    def __init__(
        self, variant: StepVariant, config: SearchConfig, device: str, checked_images: int
    ) -> None:
        config = dataclasses.replace(
            config,
            supernet=variant.supernet,
            knn=False,
            cuda_graph="on" if variant.graphed else "off",
        )
        if variant.exact:
            config = dataclasses.replace(config, precision="fp32")
        world = start_world(device)
        self.variant, self.device, self.checked_images = variant, world.device, checked_images
        self.trainer = SearchTrainer(config, load_data(config).to(world.device), world)
        batches = [self.trainer.alpha_stream.next(), self.trainer.weight_stream.next()]
        with torch.no_grad():
            # Equal weights on all edges would hide that some are mixed up.
            for number, alpha in enumerate(self.trainer.net.alphas()):
                drawn = torch.randn(
                    alpha.shape, generator=generator(config.seed, "benchmark", number)
                )
                alpha.copy_(drawn)
        if variant.exact:
            self.trainer.net.double()
            self.trainer.objective.double()
            batches = [_exact(batch) for batch in batches]
        if variant.prepare is not None:
            variant.prepare(self.trainer)
        self.alpha_batch, self.weight_batch = batches
        self._parts: tuple[Any, ...] = (
            self.trainer.net,
            self.trainer.objective,
            self.trainer.bilevel,
        )
        self._initial = [copy.deepcopy(part.state_dict()) for part in self._parts]

    def step(self) -> None:
        """One bilevel step."""
        with self._backend():
            step = self.trainer.graphed or self.trainer.bilevel.step
            step(self.alpha_batch, self.weight_batch)

    def gradients(self) -> dict[str, np.ndarray]:
        """Loss and gradient of both updates on the checked images, each from the initial state.

        What is returned is float64, whatever computed it.
        """
        bilevel = self.trainer.bilevel
        alpha_batch, weight_batch = (
            _first(batch, self.checked_images) for batch in (self.alpha_batch, self.weight_batch)
        )
        found: dict[str, np.ndarray] = {}
        updates = {
            "alpha": partial(bilevel.alpha_step, alpha_batch),
            "weight": partial(bilevel.weight_step, weight_batch),
        }
        for name, update in updates.items():
            taken: list[Tensor] = []
            # Called once with the gradients of an update, before they are clipped in place.
            for updater in (bilevel.weights, bilevel.alphas):
                updater.average = lambda grads, taken=taken: taken.extend(  # type: ignore[assignment]
                    grad.detach().to("cpu", torch.float64, copy=True).flatten() for grad in grads
                )
            with self._backend():
                terms = update()
            found[f"{name} loss"] = terms["loss"].double().cpu().numpy()
            found[f"{name} gradient"] = torch.cat(taken).numpy()
            self._restore()
        for updater in (bilevel.weights, bilevel.alphas):
            updater.average = lambda grads: None  # type: ignore[assignment]
        return found

    def first_gradients(self) -> dict[str, np.ndarray]:
        """:meth:`gradients`, and then a step: whole batches may have to be compiled for too."""
        found = self.gradients()
        self.step()
        return found

    def seconds(self) -> float:
        """Of one step."""
        return timed(self.step, self.device)

    def peak_bytes(self) -> int | None:
        """Most memory that a step takes beside what is there between steps; None: not known."""
        if self.device.type == "cuda":
            if self.variant.graphed:
                return None  # a graph keeps the memory that its steps take
            torch.cuda.synchronize(self.device)
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.step()
            torch.cuda.synchronize(self.device)
            return torch.cuda.max_memory_allocated(self.device) - before
        try:
            # Memory that the C library keeps for later would hide what the step takes.
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")
            before = _high_water_mark()
            self.step()
            return _high_water_mark() - before
        except (OSError, AttributeError, KeyError):
            return None

    def calls(self) -> int | None:
        """Kernels launched on a GPU; operators called elsewhere; None: not known."""
        if self.device.type == "cuda":
            return step_counts.launches(self.step)
        if self.variant.prepare in UNITS.values():
            # Counting what is dispatched makes PyTorch leave compiled code aside.
            return None
        return step_counts.operator_calls(self.step)

    def multiply_adds(self) -> int:
        """That a step needs; plain PyTorch, so that each is seen."""
        with ops.backend("torch"):
            return step_counts.multiply_adds(
                lambda: self.trainer.bilevel.step(self.alpha_batch, self.weight_batch)
            )

    def data_seconds(self) -> float:
        """Of making both batches of a step, the mean over many."""
        stream = self.trainer.alpha_stream
        calls = -(-_STREAMED[self.device.type] // stream.batch_size)
        stream.next()
        stream.load_state_dict({**stream.state_dict(), "position": 0})

        def run() -> None:
            for _ in range(calls):
                stream.next()

        return 2 * timed(run, self.device) / calls

    def spent(self) -> list[step_counts.Spent]:
        """Where the time of a step goes."""
        return step_counts.spent(self.step, self.device)

    def _backend(self) -> AbstractContextManager[None]:
        name = self.variant.backend
        return nullcontext() if name is None else ops.backend(name)

    def _restore(self) -> None:
        for part, state in zip(self._parts, self._initial, strict=True):
            part.load_state_dict(copy.deepcopy(state))
        if self.trainer.graphed is not None:
            self.trainer.graphed.reset()


def _exact(batch: Batch) -> Batch:
    return dataclasses.replace(batch, views=tuple(view.double() for view in batch.views))


def _first(batch: Batch, count: int) -> Batch:
    return dataclasses.replace(
        batch,
        views=tuple(view[:count] for view in batch.views),
        labels=batch.labels[:count],
        indices=batch.indices[:count],
    )


def _high_water_mark() -> int:
    """Most bytes that this process had resident since that was last reset."""
    status: dict[str, Any] = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
    )
    return int(status["VmHWM"].split()[0]) * 1024
