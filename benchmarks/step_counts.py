"""What one search step does: calls, kernels, multiply-adds, and where its time goes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from math import prod
from typing import Any, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from ssfnas.ops import native

Step = Callable[[], object]
_COMPUTING = ("_forward", "_backward", "_statistics", "_reduce", "_apply")
_LAUNCH = re.compile(r"(cuda|cu)(LaunchKernel|LaunchCooperativeKernel|GraphLaunch)")


class Spent(NamedTuple):
    """How often an operator or kernel ran in a step, and its own time."""

    name: str
    calls: int
    seconds: float


def multiply_adds(step: Step) -> int:
    """Multiply-adds of convolutions and matrix products, those of unwanted gradients not counted.

    A convolution's gradients cost as much as itself, each; torch's own count of a grouped one's
    filter gradient is too large by the number of groups.
    """
    counter = FlopCounterMode(
        display=False,
        custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward},
    )
    with counter:
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
    with profile(
        activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True
    ) as profiler:
        step()
        torch.cuda.synchronize()
    return sum(event.count for event in profiler.key_averages() if _LAUNCH.match(event.key))


def operator_calls(step: Step) -> int:
    """Operators that a step dispatches on a CPU, and native functions called beside them."""
    counter = _CallCounter()
    with counter, _observed(counter.native):
        step()
    return counter.count


class _CallCounter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))

    @contextmanager
    def native(self, name: str) -> Iterator[None]:
        self.count += 1
        yield


def spent(step: Step, device: torch.device) -> list[Spent]:
    """Where the time of a step goes, longest first: kernels on a GPU, elsewhere operators."""
    activities = [ProfilerActivity.CPU]
    on_gpu = device.type == "cuda"
    if on_gpu:
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities, acc_events=True) as profiler, _observed(_named):
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


def _named(name: str) -> AbstractContextManager[Any]:
    return record_function(f"ssfnas::{name}")


@contextmanager
def _observed(observe: Callable[[str], AbstractContextManager[Any]]) -> Iterator[None]:
    """Run each call of a native primitive inside ``observe(name)``."""
    module = getattr(native, "_C", None)
    if module is None:
        yield
        return
    native._C = _Observed(module, observe)  # type: ignore[assignment]
    try:
        yield
    finally:
        native._C = module


class _Observed:
    """The native module, its functions watched; those that only answer questions are not."""

    def __init__(self, module: Any, observe: Callable[[str], AbstractContextManager[Any]]) -> None:
        self._module, self._observe = module, observe

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        if not callable(value) or not name.endswith(_COMPUTING):
            return value

        def watched(*args: Any, **named: Any) -> Any:
            with self._observe(name):
                return value(*args, **named)

        return watched
