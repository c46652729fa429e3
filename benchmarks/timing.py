"""Interleaved medians of how long each variant takes, on inputs that no cache still holds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks.cases import Case, Inputs
from benchmarks.variants import Variant

_MOST_SETS = 16
_CPU_CACHE = 64 << 20
_LONG = 1.0  # seconds: what a variant is timed for at a time, at the most


@dataclass(frozen=True)
class Timing:
    """Median seconds of a call, and the memory it needs beside its inputs (None: not known).

    ``replayed``: from a graph, so without the time that launching takes; always so on a CPU.
    """

    seconds: float
    peak_bytes: int | None
    replayed: bool = True


def input_sets(case: Case, device: torch.device) -> list[Inputs]:
    """As many sets of inputs as it takes to push each other out of the last cache."""
    first = case.make(device, 0)
    size = sum(x.numel() * x.element_size() for x in first)
    count = min(_MOST_SETS, max(1, -(-3 * cache_bytes(device) // size)))
    return [first, *(case.make(device, number) for number in range(1, count))]


def cache_bytes(device: torch.device) -> int:
    """Size of the last level of cache."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    return _CPU_CACHE


def measure(
    chosen: Sequence[Variant], sets: Sequence[Inputs], device: torch.device, rounds: int
) -> list[Timing]:
    """Time all variants in turn, ``rounds`` times, each time over all sets of inputs.

    Where a call is so long that it does not matter what caches held before, over fewer sets.
    On CUDA a call is captured in a graph and replayed: device time, without that of launching;
    what cannot be captured is launched.
    """
    peaks = [_peak(variant, sets[0], device) for variant in chosen]
    if chosen:
        longest = max(timed(partial(variant.run, sets[0]), device) for variant in chosen)
        sets = sets[: max(1, round(_LONG / longest))]
    graphs = [_graph(variant, sets) if device.type == "cuda" else None for variant in chosen]
    runs = [graph or _calls(variant, sets) for graph, variant in zip(graphs, chosen, strict=True)]
    times: list[list[float]] = [[] for _ in runs]
    for number in range(rounds + 1):
        for run, seconds in zip(runs, times, strict=True):
            taken = timed(run, device) / len(sets)
            if number > 0:
                seconds.append(taken)
    medians = [statistics.median(seconds) for seconds in times]
    return [
        Timing(median, peak, replayed=graph is not None or device.type != "cuda")
        for median, peak, graph in zip(medians, peaks, graphs, strict=True)
    ]


def _peak(variant: Variant, inputs: Inputs, device: torch.device) -> int | None:
    """Also warms the variant up: it is called twice."""
    results = variant.run(inputs)
    if device.type != "cuda":
        return None
    del results
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    results = variant.run(inputs)
    torch.cuda.synchronize(device)
    del results
    return torch.cuda.max_memory_allocated(device) - before


def _calls(variant: Variant, sets: Sequence[Inputs]) -> Callable[[], None]:
    def run() -> None:
        for inputs in sets:
            variant.run(inputs)

    return run


def _graph(variant: Variant, sets: Sequence[Inputs]) -> Callable[[], None] | None:
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        variant.run(sets[0])
    torch.cuda.current_stream().wait_stream(stream)
    try:
        with torch.cuda.graph(graph):
            for inputs in sets:
                variant.run(inputs)
    except RuntimeError:
        return None
    return graph.replay


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Seconds until the device has done what ``run`` asks of it."""
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start_event.record()
    run()
    end_event.record()
    end_event.synchronize()
    return start_event.elapsed_time(end_event) / 1e3


def copy_ceiling(device: torch.device, rounds: int) -> float:
    """Bytes a second of a plain copy, read and written: what a memory-bound kernel can reach."""
    size = max(64 << 20, 4 * cache_bytes(device)) // 4
    source = torch.zeros(size, device=device)
    target = torch.empty_like(source)
    times = [timed(lambda: target.copy_(source), device) for _ in range(rounds + 1)]
    return 2 * 4 * size / statistics.median(times[1:])


def matmul_ceiling(device: torch.device, rounds: int, dtype: torch.dtype = torch.float32) -> float:
    """Operations a second of a matrix product; float32 without TF32."""
    size = 4096 if device.type == "cuda" else 768
    a, b, out = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(3))
    times = [timed(lambda: torch.mm(a, b, out=out), device) for _ in range(rounds + 1)]
    return 2 * size**3 / statistics.median(times[1:])
