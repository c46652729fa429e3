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
SMALL_BATCH = 16


def predict(make: Any, config: Any, world_size: int) -> str:
    """Measure a step of a small batch and scale it to the run's; lines for people.

    Memory is that of weights, optimizer state and saved activations at the full batch.

    Args:
        make: ``config -> Trainer``, on one process.
        config: the run's; ``batch_size`` and, where there is one, ``pretrain_batch_size`` count.
        world_size: processes that share a batch.
    """
    batch = max(1, config.batch_size // world_size)
    small = min(batch, SMALL_BATCH)
    changes = {"batch_size": small}
    if hasattr(config, "pretrain_batch_size"):
        changes["pretrain_batch_size"] = max(2, small)
    trainer: Trainer = make(dataclasses.replace(copy.deepcopy(config), **changes))
    cuda = torch.cuda.is_available() and trainer.world.device.type == "cuda"
    trainer.run_step()
    if cuda:
        torch.cuda.synchronize()
    saved: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    started = time.perf_counter()
    # What autograd keeps for the backward pass, each storage once.
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        trainer.run_step()
    if cuda:
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) * batch / small
    # A float and its gradient, and up to two of an optimizer.
    state = 4 * sum(p.numel() * p.element_size() for p in trainer.net.parameters())
    peak = int(state + sum(saved.values()) * batch / small)
    steps = make(config).total_steps
    hours = steps * seconds / 3600
    total = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} min"
    return (
        f"steps        {steps:,}\n"
        f"memory       about {peak / MEBIBYTE:,.0f} MiB a process\n"
        f"time         about {seconds:.3g} s a step, {total} in all (a step of a smaller batch was "
        "measured; evaluation not counted)"
    )
