"""The processes that train together: who they are, and the few things they tell each other."""

from __future__ import annotations

import atexit
import gc
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ssfnas.errors import RequestError

# Others wait while the main process downloads a data set or evaluates.
_TIMEOUT = timedelta(hours=2)


@dataclass
class World:
    """One process among those that train together.

    Attributes:
        rank: its number, 0 for the main one.
        size: how many there are.
        device: what this one computes on.
        group: all of them; None where there is only one.
    """

    rank: int
    size: int
    device: torch.device
    group: dist.ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to people."""
        return self.rank == 0

    def largest(self, *numbers: int) -> list[int]:
        """The largest of each number over the processes, all in one message."""
        if self.group is None:
            return list(numbers)
        votes = torch.tensor(numbers, device=self.device)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX, group=self.group)
        return votes.tolist()

    def mean(self, value: Tensor) -> Tensor:
        """The mean of ``value`` over the processes, as a new tensor without gradient."""
        total = value.detach().clone()
        if self.group is None:
            return total
        total = total.to(self.device)
        dist.all_reduce(total, group=self.group)
        return total / self.size

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.largest(0)

    def broadcast(self, value: Any) -> Any:
        """The main process' ``value``, on every process; a value that JSON can hold."""
        if self.group is None:
            return value
        data = torch.tensor(list(json.dumps(value).encode()) if self.is_main else [])
        length = torch.tensor([data.numel()], device=self.device)
        dist.broadcast(length, src=0, group=self.group)
        if not self.is_main:
            data = torch.empty(int(length.item()))
        data = data.to(self.device, torch.uint8)
        dist.broadcast(data, src=0, group=self.group)
        return json.loads(bytes(data.tolist()).decode())

    def close(self) -> None:
        """Leave the group; nothing is communicated afterward."""
        if self.group is not None and dist.is_initialized():
            # A group that something still refers to when Python ends aborts the process at random.
            self.group = None
            dist.destroy_process_group()
            atexit.register(gc.collect)


def start_world(device: str) -> World:
    """Join the processes that torchrun started, or be the only one.

    Args:
        device: ``"auto"`` (CUDA where there is one), ``"cpu"`` or ``"cuda"``. With several
            processes each takes the GPU of its local rank.

    Raises:
        RequestError: there is no such device, fewer GPUs than processes, or no meeting point.
    """
    rank, size = _from_environment("RANK", 0), number_of_processes()
    local_rank = _from_environment("LOCAL_RANK", 0)
    place = choose_device(device, local_rank if size > 1 else 0)
    if size == 1:
        return World(0, 1, place)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    try:
        dist.init_process_group(
            "nccl" if place.type == "cuda" else "gloo",
            timeout=_TIMEOUT,
            device_id=place if place.type == "cuda" else None,
        )
    except (ValueError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise RequestError(
            f"process {rank} of {size} cannot meet the others ({first}): start them with torchrun"
        ) from error
    return World(rank, size, place, dist.group.WORLD)


def number_of_processes() -> int:
    """How many processes torchrun started to run together; they need not have met."""
    return _from_environment("WORLD_SIZE", 1)


def processes_of_machine() -> int:
    """How many of them run on this machine."""
    return max(1, _from_environment("LOCAL_WORLD_SIZE", 1))


def _from_environment(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise RequestError(f"environment variable {name} is '{text}': torchrun sets it to a number")
    return int(text)


def choose_device(device: str, index: int = 0) -> torch.device:
    """Where to compute.

    Args:
        device: see :func:`start_world`.
        index: of the GPU.

    Raises:
        RequestError: there is no such device, or too few of them.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise RequestError("--device cuda: torch finds no GPU here: use --device cpu or auto")
    found = torch.cuda.device_count()
    if index >= found:
        raise RequestError(
            f"--device {device}: {found} GPUs for more processes than that: start at most {found} "
            "on this machine, or use --device cpu"
        )
    return torch.device("cuda", index)


def average_gradients(gradients: Iterable[Tensor | None], world: World) -> None:
    """Replace gradients by their means over the processes, in place, in one all-reduce a dtype.

    Every process has to pass as many tensors of the same shapes in the same order. None is passed
    over.
    """
    if world.group is None:
        return
    given = [gradient.detach() for gradient in gradients if gradient is not None]
    for dtype in sorted({gradient.dtype for gradient in given}, key=str):
        alike = [gradient for gradient in given if gradient.dtype == dtype]
        flat = torch.cat([gradient.reshape(-1) for gradient in alike])
        dist.all_reduce(flat, group=world.group)
        flat /= world.size
        means = flat.split([gradient.numel() for gradient in alike])
        for gradient, mean in zip(alike, means, strict=True):
            gradient.copy_(mean.view(gradient.shape))
