"""What a search step does and needs: calls, products, bytes, and where its time goes."""

from __future__ import annotations

import re
import types
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from math import prod
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step_variants import DTYPES
from benchmarks.timing import Ceilings
from ssfnas.config import SearchConfig
from ssfnas.layers.cells import edge_count, plan_cells
from ssfnas.ops import native
from ssfnas.spaces.cell_network import stem_strides

Step = Callable[[], object]
Function = Callable[..., Any]
PASSES = 18 + 36
"""Tensors of an edge's size that its candidates read or write when they are fused as far as can be:
forward, and backward. A model: what every source is read for once is shared out to its edges."""

# Ends of names of native functions that compute; others answer questions.
_COMPUTING = ("_forward", "_backward", "_statistics", "_reduce", "_apply")
_LAUNCH = re.compile(r"(cuda|cu)(LaunchKernel|LaunchCooperativeKernel|GraphLaunch)")


class Floor(NamedTuple):
    """The least that a step needs.

    Attributes:
        bytes_moved: by both of its passes forward and backward.
        multiply_adds: of convolutions and matrix products, without gradients that nobody wants.
    """

    bytes_moved: int
    multiply_adds: int

    def seconds(self, reached: Ceilings) -> tuple[float, float]:
        """Of moving, and of multiplying and adding."""
        return self.bytes_moved / reached.copy, 2 * self.multiply_adds / reached.matmul


def bytes_moved(config: SearchConfig, size: tuple[int, int], views: int) -> int:
    """By the updates of alpha and of the weights, on ``views`` views of a batch each."""
    scale = prod(stem_strides(max(size)))
    height, width = (-(-side // scale) for side in size)
    elements = 0  # of one tensor on every edge, for one image
    for plan in plan_cells(config.channels, config.layers):
        if plan.reduction:
            height, width = -(-height // 2), -(-width // 2)
        elements += edge_count(config.nodes) * plan.channels * height * width
    itemsize = DTYPES[config.precision].itemsize
    return 2 * views * config.batch_size * PASSES * elements * itemsize


def multiply_adds(step: Step) -> int:
    """Multiply-adds of convolutions and matrix products, those of unwanted gradients not counted.

    A convolution's gradients cost as much as itself, each; torch's own count of a grouped one's
    filter gradient is too large by the number of groups.
    """
    mapping = {torch.ops.aten.convolution_backward: _convolution_backward}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        step()
    return int(counter.get_total_flops()) // 2


def _convolution_backward(
    grad: Any, x: Any, weight: Any, *rest: Any, out_shape: Any = None, **named: Any
) -> int:
    transposed, output_mask = rest[4], rest[7]
    places = (x if transposed else grad)[2:]
    once = 2 * grad[0] * prod(places) * prod(weight)
    return int(once * sum(bool(wanted) for wanted in output_mask[:2]))


def launches(step: Step) -> int:
    """Kernels and graphs that a step launches on a GPU."""
    activities = [ProfilerActivity.CPU, ProfilerActivity.CUDA]
    with profile(activities=activities, acc_events=True) as profiler:
        step()
        torch.cuda.synchronize()
    return sum(event.count for event in profiler.key_averages() if _LAUNCH.match(event.key))


def operator_calls(step: Step) -> int:
    """Operators that a step dispatches on a CPU, and native functions called beside them."""
    counter = _CallCounter()
    with counter, _observed(lambda name, function: partial(counter.call, function)):
        step()
    return counter.count


class _CallCounter(TorchDispatchMode):
    count = 0

    def call(self, function: Function, *args: Any, **named: Any) -> Any:
        self.count += 1
        return function(*args, **named)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.call(func, *args, **(kwargs or {}))


class Spent(NamedTuple):
    """How often an operator or kernel ran in a step, and its own time."""

    name: str
    calls: int
    seconds: float


def spent(step: Step, device: torch.device) -> list[Spent]:
    """Where the time of a step goes, longest first: kernels on a GPU, elsewhere operators."""
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    named = _observed(lambda name, function: record_function(f"ssfnas::{name}")(function))
    with profile(activities=activities, acc_events=True) as profiler, named:
        step()
        if on_gpu:
            torch.cuda.synchronize()
    found = []
    for event in profiler.key_averages():
        on_device = event.device_type == torch.autograd.DeviceType.CUDA
        if on_device != on_gpu or (on_gpu and getattr(event, "is_user_annotation", False)):
            continue
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        found.append(Spent(event.key, event.count, own / 1e6))
    return sorted(found, key=lambda each: -each.seconds)


def _observed(observed: Callable[[str, Function], Function]) -> AbstractContextManager[Any]:
    """Within it, each native function that computes is ``observed(name, function)``."""
    module = getattr(native, "_C", None)
    if module is None:
        return nullcontext()
    functions = {
        name: observed(name, value) if name.endswith(_COMPUTING) else value
        for name, value in vars(module).items()
    }
    return mock.patch.object(native, "_C", types.SimpleNamespace(**functions))
