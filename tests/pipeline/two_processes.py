"""Runs a few steps of a trainer in float64, alone or as one of several gloo processes.

Started as ``python two_processes.py RESULT.pt KIND FIELD=VALUE...`` with torchrun's environment.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from tiny_runs import tiny_retrain, tiny_search

from ssfnas.data import load_data
from ssfnas.runtime.distributed import start_world
from ssfnas.spaces import Genotype
from ssfnas.training.random_trainer import RandomSearchTrainer
from ssfnas.training.retrain_trainer import RetrainTrainer
from ssfnas.training.search_trainer import SearchTrainer


def main(result: str, kind: str, dataset: str, steps: int, changes: dict[str, Any]) -> None:
    world = start_world("cpu")
    if kind == "retrain":
        config: Any = tiny_retrain(dataset, **changes)
        trainer: Any = RetrainTrainer(
            config, load_data(config), Genotype.load(config.genotype), world, torch.float64
        )
    else:
        config = tiny_search(dataset, **changes)
        make = RandomSearchTrainer if config.strategy == "random" else SearchTrainer
        trainer = make(config, load_data(config), world, torch.float64)
    logged = []
    for _ in range(steps):
        if trainer.finished:
            break
        trainer.run_step()
        if trainer.epoch_ended:
            logged.append(trainer.end_epoch())
    numbers = [
        {name: value for name, value in entry.items() if isinstance(value, float)}
        for entry in logged
    ]
    if world.is_main:
        torch.save({"net": dict(trainer.net.state_dict()), "logged": numbers}, result)
    trainer.close()
    world.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), json.loads(sys.argv[5]))
