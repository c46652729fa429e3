"""How much memory a process may use, on a CPU or a GPU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from ssfnas.runtime.control_groups import control_groups


@dataclass(frozen=True)
class MemoryLimits:
    """Bytes of memory; infinite where that is not known.

    Attributes:
        free: that are not in use now, by this process or others.
        total: that there are at most: no more can be had whatever else ends. Swap counts.
        owner: whose memory it is, in words.
    """

    free: float
    total: float
    owner: str


def memory_limits(device: torch.device, root: Path = Path("/")) -> MemoryLimits:
    """The memory that computing on ``device`` may use.

    Args:
        device: a GPU, or the CPU, where the smallest of the machine's memory and the limits of the
            process' control groups counts.
        root: where ``proc`` and ``sys/fs/cgroup`` are found.
    """
    if device.type == "cuda":
        left, size = torch.cuda.mem_get_info(device)
        # What torch keeps and does not use is as good as free.
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return MemoryLimits(left + kept, size, "the GPU")
    known = _meminfo(root)
    free = known.get("MemAvailable", math.inf)
    total = known.get("MemTotal", math.inf) + known.get("SwapTotal", 0)
    owner = "this machine"
    for group in control_groups("memory", root):
        limit = _number(group / "memory.max", group / "memory.limit_in_bytes")
        if limit >= known.get("MemTotal", math.inf):
            continue  # v1 writes a huge number where there is none
        used = _number(group / "memory.current", group / "memory.usage_in_bytes")
        unused = max(0.0, limit - used + _cached(group)) if math.isfinite(used) else limit
        free = min(free, unused)
        if limit < total:
            # Swap of a group is granted apart; as much as the machine has cannot be refused.
            total, owner = limit + known.get("SwapTotal", 0), "the container"
    return MemoryLimits(free, total, owner)


def _meminfo(root: Path) -> dict[str, float]:
    """Bytes by the names of ``/proc/meminfo``; empty where there is none."""
    try:
        lines = (root / "proc/meminfo").read_text(encoding="utf-8").splitlines()
        pairs = [line.partition(":") for line in lines]
        return {name: 1024.0 * int(rest.split()[0]) for name, _, rest in pairs if rest.split()}
    except (OSError, ValueError):
        return {}


def _number(*files: Path) -> float:
    """What the first of these that is there holds; infinite where it is none ("max")."""
    for file in files:
        try:
            return float(int(file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue
    return math.inf


def _cached(group: Path) -> float:
    """Bytes of a group that hold files' contents, which are given back when they are wanted."""
    try:
        lines = (group / "memory.stat").read_text(encoding="utf-8").splitlines()
        values = dict(line.split() for line in lines)
        return float(int(values.get("total_inactive_file", values.get("inactive_file", 0))))
    except (OSError, ValueError):
        return 0.0
