"""Small searches with a strategy, step by step, in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_runs import tiny_search

from ssfnas.data import load_data
from ssfnas.declarations.strategies import STRATEGIES
from ssfnas.runtime.distributed import World
from ssfnas.training.graphed_step import Recorder
from ssfnas.training.search_trainer import SearchTrainer

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
BY_GRADIENT = [name for name in STRATEGIES if STRATEGIES.get(name).trains_alphas]

# What a strategy needs to show within a few steps what it does, beside the smallest settings.
SETTINGS: dict[str, dict[str, Any]] = {
    "pcdarts": {"channels": 4},
    "oles": {"oles_window": 4, "oles_threshold": 0.3},
    "gdas": {"tau_start": 2.0, "tau_end": 0.5},
    "drnas": {"dirichlet_penalty": "kl", "dirichlet_weight": 0.1},
}


def trainer_of(
    dataset: Path,
    strategy: str,
    *,
    dtype: torch.dtype = torch.float64,
    recorder: Recorder | None = None,
    **changes: Any,
) -> SearchTrainer:
    """A search of two nodes a cell that changes alphas by a lot in a step."""
    settings = {
        "strategy": strategy, "objective": "supervised", "knn": False, "alpha_lr": 0.03125,
        "weight_lr": 0.03125, "weight_lr_min": 0.03125,
        **SETTINGS.get(strategy, {}), **changes,
    }  # fmt: skip
    config = tiny_search(dataset, **settings)
    return SearchTrainer(config, load_data(config), ALONE, dtype, recorder)


def run(trainer: SearchTrainer, steps: int) -> None:
    """So many steps, with what ends an epoch where one does."""
    for _ in range(steps):
        trainer.run_step()
        if trainer.epoch_ended:
            trainer.end_epoch()


def state_of(trainer: SearchTrainer) -> dict[str, torch.Tensor]:
    """Weights, alphas and statistics, by name."""
    return {name: value.clone() for name, value in trainer.net.state_dict().items()}
