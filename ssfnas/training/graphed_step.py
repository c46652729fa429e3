"""A step of training as one CUDA graph: recorded once, then launched as a whole."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ssfnas.config import RetrainConfig, SearchConfig
from ssfnas.data import Batch
from ssfnas.declarations.strategies import STRATEGIES
from ssfnas.errors import RequestError
from ssfnas.runtime.distributed import World
from ssfnas.runtime.updates import Terms, Updater

# Steps before recording: state that optimizers, kernels and libraries make when they are first
# used has to be there.
WARM_UP = 3


class Recorder(Protocol):
    """Records what a function asks of a device, to ask it again without the function."""

    def warm_up(self, step: Callable[[], Terms]) -> Terms:
        """Call the function as it will be called while recorded."""

    def record(self, step: Callable[[], Terms]) -> tuple[Callable[[], None], Terms]:
        """What does the same as ``step`` each time it is called, and where it leaves the terms.

        Recording computes nothing.
        """


class CudaGraphRecorder:
    """Records kernels in a CUDA graph.

    Args:
        device: a CUDA device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._own: torch.cuda.Stream | None = None

    @property
    def _stream(self) -> torch.cuda.Stream:
        """The one of all warm-up steps and of recording: memory is reused on one stream only."""
        if self._own is None:
            self._own = torch.cuda.Stream(self._device)
        return self._own

    def warm_up(self, step: Callable[[], Terms]) -> Terms:
        """Call the function on a stream of its own, as recording will."""
        stream = self._stream
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream), warnings.catch_warnings():
            # Optimizers that can be captured would rather always be.
            warnings.filterwarnings("ignore", message=".*capturable=True.*")
            terms = step()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        return terms

    def record(self, step: Callable[[], Terms]) -> tuple[Callable[[], None], Terms]:
        """Capture the function in a graph.

        Raises:
            RuntimeError: it does what a graph cannot hold, such as waiting for the device; the
                current stream, the memory pool and the random generator are as before.
        """
        graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
        before = torch.cuda.current_stream(self._device)
        try:
            with torch.cuda.graph(
                graph,
                pool=pool,
                stream=self._stream,
                # Other threads may go on to copy images to the device meanwhile.
                capture_error_mode="thread_local",
            ):
                terms = step()
        except BaseException:
            _leave_capture(self._device, before, pool)
            raise
        return graph.replay, terms


def _leave_capture(device: torch.device, stream: torch.cuda.Stream, pool: tuple[int, int]) -> None:
    """Undo what ``torch.cuda.graph`` leaves behind where ending the capture raises.

    It would leave the capture's stream current, allocations going to the pool of a graph that will
    never be, and a generator that expects to be captured.
    """
    torch.cuda.set_stream(stream)
    index = torch.cuda.current_device() if device.index is None else device.index
    with contextlib.suppress(RuntimeError):  # where the capture itself was ended properly
        torch._C._cuda_endAllocateToPool(index, pool)
    draws = torch.cuda.default_generators[index]
    draws.graphsafe_set_state(draws.clone_state())


class GraphedStep:
    """A step that is recorded after the first few; what cannot be recorded is computed as ever.

    Args:
        step: makes updates of batches and other tensors, and returns scalars. What else it reads,
            and all that it writes, stays where it is in memory.
        updaters: those that it asks; all capturable.
        recorder: how to record.
        required: whether failing to record is an error, in place of a warning.
    """

    def __init__(
        self,
        step: Callable[..., Terms],
        updaters: Sequence[Updater],
        recorder: Recorder,
        *,
        required: bool = False,
    ) -> None:
        if not all(updater.capturable for updater in updaters):
            raise ValueError("a step that looks at numbers on the host cannot be recorded")
        self._step, self._updaters = step, updaters
        self._recorder, self._required = recorder, required
        self._failed = False
        self.reset()

    def reset(self) -> None:
        """Record anew: what was read and written has moved, as when a state was loaded.

        The memory of what was recorded is free.
        """
        self._steps = 0
        self._replay: Callable[[], None] | None = None
        self._terms: Terms = {}
        self._places: tuple[Batch | Tensor | None, ...] | None = None

    def __call__(self, *inputs: Batch | Tensor | None) -> Terms:
        """One step.

        Args:
            inputs: what the function takes: of the same kinds and sizes each time, on the device.

        Returns:
            Its terms; those of a recorded step are overwritten by the next one.

        Raises:
            RequestError: the step cannot be recorded, and has to be.
        """
        if self._failed:
            return self._step(*inputs)
        if self._places is None:
            self._places = tuple(map(_like, inputs))
        for place, given in zip(self._places, inputs, strict=True):
            _fill(place, given)
        if self._replay is None and self._steps < WARM_UP:
            self._steps += 1
            return self._recorder.warm_up(self._step_in_place)
        if self._replay is None:
            try:
                self._replay, self._terms = self._recorder.record(self._step_in_place)
            except Exception as error:  # a user's operation may raise anything
                return self._unrecorded(error)
        self._replay()
        return self._terms

    def _step_in_place(self) -> Terms:
        assert self._places is not None
        return self._step(*self._places)

    def _unrecorded(self, error: Exception) -> Terms:
        reason = _first_reason(error)
        if self._required:
            raise RequestError(
                f"--cuda-graph on: the step cannot be captured: {reason}; use auto or off"
            ) from error
        warnings.warn(f"the step is launched kernel by kernel: {reason}", stacklevel=3)
        self._failed = True
        # What a recording that broke off left behind belongs to its graph.
        for updater in self._updaters:
            updater.optimizer.zero_grad(set_to_none=True)
        return self._step_in_place()


def recorder_for(config: SearchConfig | RetrainConfig, world: World) -> Recorder | None:
    """What records the steps of a run; None: they are launched kernel by kernel.

    Raises:
        RequestError: see :func:`why_not_graphed`.
    """
    return CudaGraphRecorder(world.device) if why_not_graphed(config, world) is None else None


def how_launched(config: SearchConfig | RetrainConfig, world: World) -> str:
    """A line for people: whether steps are one CUDA graph, and why not.

    Raises:
        RequestError: see :func:`why_not_graphed`.
    """
    reason = why_not_graphed(config, world)
    how = "one CUDA graph" if reason is None else f"launched kernel by kernel: {reason}"
    return f"step         {how}"


def why_not_graphed(config: SearchConfig | RetrainConfig, world: World) -> str | None:
    """Why the steps of a run are not captured in a CUDA graph; None: they are.

    Raises:
        RequestError: they have to be, and cannot.
    """
    if config.cuda_graph == "off":
        return "--cuda-graph off"
    reason = None
    if world.device.type != "cuda":
        reason = "there is no CUDA device"
    elif world.size > 1:
        reason = f"{world.size} processes exchange gradients within a step"
    elif isinstance(config, SearchConfig) and config.order == 2:
        reason = "order 2 looks at numbers on the host within a step"
    elif isinstance(config, SearchConfig) and STRATEGIES.get(config.strategy).not_recorded:
        reason = STRATEGIES.get(config.strategy).not_recorded
    elif config.precision == "fp16":
        reason = "fp16 scales losses by what the host finds"
    if config.cuda_graph == "on" and reason is not None:
        raise RequestError(f"--cuda-graph on: {reason}; use auto or off")
    if config.cuda_graph == "on" or reason is not None:
        return reason
    # What may change the result is not done unasked.
    if config.plugins:
        return "what --plugins adds may depend on more than tensors; --cuda-graph on if it does not"
    if config.deterministic:
        return "--deterministic promises bits, and the first steps after each start have no graph"
    return None


def _first_reason(error: BaseException) -> str:
    """What went wrong first: ending a capture that broke off raises another error on top."""
    while error.__context__ is not None:
        error = error.__context__
    return (str(error).splitlines() or [type(error).__name__])[0]


def _like(given: Batch | Tensor | None) -> Batch | Tensor | None:
    """A place for what is like ``given``."""
    if not isinstance(given, Batch):
        return None if given is None else torch.empty_like(given)
    return dataclasses.replace(
        given,
        views=tuple(torch.empty_like(view) for view in given.views),
        labels=torch.empty_like(given.labels),
        indices=torch.empty_like(given.indices),
    )


def _fill(place: Batch | Tensor | None, given: Batch | Tensor | None) -> None:
    places, values = _tensors(place), _tensors(given)
    if [(x.shape, x.dtype) for x in places] != [(x.shape, x.dtype) for x in values]:
        raise ValueError("a recorded step takes batches of one size")
    for own, value in zip(places, values, strict=True):
        own.copy_(value)


def _tensors(given: Batch | Tensor | None) -> list[Tensor]:
    if isinstance(given, Batch):
        return [*given.views, given.labels, given.indices]
    return [] if given is None else [given]
