"""How long things take, all in turn in one run: what slows the machine slows each of them."""

from __future__ import annotations

import ctypes
import re
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.checks import WrongResultError, one_line

Run = Callable[[], object]


@dataclass
class Row:
    """What was measured of one variant: its line in a table.

    Attributes:
        variant: its name.
        note: why it was not timed.
        seconds: the median.
        peak_bytes: most memory beside what it is given; None: not known.
        launched: timed with the launches of its kernels, since no graph can hold it.
    """

    variant: str
    note: str = ""
    seconds: float | None = None
    peak_bytes: int | None = None
    launched: bool = False

    @property
    def wrong(self) -> bool:
        """Whether its results were."""
        return self.note.startswith("WRONG")

    def attempt(self, function: Callable[[], Any]) -> Any:
        """What the function gives; an error becomes the note, and ends no other's measurements."""
        try:
            return function()
        except WrongResultError as error:
            self.note = f"WRONG: {error}"
        except Exception as error:
            self.note = f"failed: {one_line(error)}"


def time_in_turn(
    runs: Iterable[tuple[Row, Run]], rounds: int, seconds_of: Callable[[Run], float]
) -> None:
    """Set the median seconds of each row; a first round more only warms up."""
    taken: list[tuple[Row, Run, list[float]]] = [(row, run, []) for row, run in runs]
    for _ in range(rounds + 1):
        for row, run, seconds in taken:
            if not row.note:
                seconds.append(row.attempt(partial(seconds_of, run)))
    for row, _, seconds in taken:
        if not row.note:
            row.seconds = statistics.median(seconds[1:])


def timed(run: Run, device: torch.device) -> float:
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


def peak_bytes(run: Run, device: torch.device) -> int | None:
    """Most memory that a call takes beside what is there before; None: not known.

    On a CPU that of the process, which has to do nothing else.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    try:
        # Memory that the C library keeps for later would hide what the call takes.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _high_water_mark()
        run()
        return _high_water_mark() - before
    except (OSError, AttributeError):
        return None


def _high_water_mark() -> int:
    """Most bytes that this process had resident since that was last reset."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError("this system does not tell")
    return int(found[1]) * 1024


def cache_bytes(device: torch.device) -> int:
    """Size of the last level of cache."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).L2_cache_size)
    return 64 << 20


@dataclass(frozen=True)
class Ceilings:
    """What the device reached in this run.

    Attributes:
        copy: bytes a second of a plain copy, read and written: the most of a memory-bound kernel.
        matmul: operations a second of a matrix product; float32 without TF32.
        dtype: of the matrix product.
    """

    copy: float
    matmul: float
    dtype: torch.dtype = torch.float32

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return (
            f"Ceilings: copy {self.copy / 1e9:.0f} GB/s, {dtype} matrix product "
            f"{self.matmul / 1e12:.2f} TFLOP/s."
        )


def ceilings(device: torch.device, rounds: int, dtype: torch.dtype = torch.float32) -> Ceilings:
    """Measure them."""

    def median(run: Run) -> float:
        return statistics.median([timed(run, device) for _ in range(rounds + 1)][1:])

    count = max(64 << 20, 4 * cache_bytes(device)) // 4
    source, target = torch.zeros(count, device=device), torch.empty(count, device=device)
    copying = median(lambda: target.copy_(source))
    size = 4096 if device.type == "cuda" else 768
    a, b, out = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(3))
    multiplying = median(lambda: torch.mm(a, b, out=out))
    return Ceilings(2 * 4 * count / copying, 2 * size**3 / multiplying, dtype)
