"""What a run would need, measured on one small step: parameters, memory, time."""

from __future__ import annotations

import copy
import dataclasses
import time
from typing import Any

import torch
from torch import Tensor

from ssfnas.training.trainer import Trainer

MEBIBYTE = 2**20


class SavedBytes:
    """Counts the bytes that autograd keeps for the backward pass while entered."""

    def __init__(self) -> None:
        self._storages: dict[int, int] = {}

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    def __enter__(self) -> SavedBytes:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    @property
    def total(self) -> int:
        """Bytes of all storages seen."""
        return sum(self._storages.values())


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a whole run would need.

    Attributes:
        steps: of the run.
        seconds_per_step: at the full batch.
        peak_bytes: weights, optimizer state and saved activations at the full batch, a process.
    """

    steps: int
    seconds_per_step: float
    peak_bytes: int

    def __str__(self) -> str:
        hours = self.steps * self.seconds_per_step / 3600
        total = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
        return (
            f"steps        {self.steps:,}\n"
            f"memory       about {self.peak_bytes / MEBIBYTE:,.0f} MiB a process\n"
            f"time         about {self.seconds_per_step:.3g} s a step, {total} in all (a step of a "
            "smaller batch was measured; evaluation not counted)"
        )


def predict(make: Any, config: Any, world_size: int, small_batch: int = 16) -> Prediction:
    """Measure steps of a small batch and scale them to the run's.

    Args:
        make: ``config -> Trainer``, on one process.
        config: the run's; ``batch_size`` and, where there is one, ``pretrain_batch_size`` count.
        world_size: processes that share a batch.
        small_batch: images a measured step.
    """
    batch = max(1, config.batch_size // world_size)
    small = min(batch, small_batch)
    changes = {"batch_size": small}
    if hasattr(config, "pretrain_batch_size"):
        changes["pretrain_batch_size"] = max(2, small)
    trainer: Trainer = make(dataclasses.replace(copy.deepcopy(config), **changes))
    cuda = torch.cuda.is_available() and trainer.world.device.type == "cuda"
    trainer.run_step()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    with SavedBytes() as saved:
        trainer.run_step()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    state = 4 * sum(p.numel() * p.element_size() for p in trainer.net.parameters())
    total_steps = make(config).total_steps
    return Prediction(
        steps=total_steps,
        seconds_per_step=seconds * batch / small,
        peak_bytes=int(state + saved.total * batch / small),
    )
