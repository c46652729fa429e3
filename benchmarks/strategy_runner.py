"""Steps of a search with one strategy, as the search makes them."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from benchmarks.step_runner import StepRunner
from benchmarks.step_variants import StepVariant
from ssfnas.config import SearchConfig
from ssfnas.data import load_data
from ssfnas.runtime.distributed import start_world
from ssfnas.training.search_trainer import SearchTrainer

_CHECKED_STEPS = 2


class StrategyRunner(StepRunner):
    """Measures steps of a search in one form of the supernet.

    Args:
        variant: which form, and whether in float64.
        config: of the search.
        device: ``"cpu"`` or ``"cuda"``.
    """

    def __init__(self, variant: StepVariant, config: SearchConfig, device: str) -> None:
        world = start_world(device)
        super().__init__(variant, world.device)
        dtype = torch.float64 if variant.exact else torch.float32
        precision = variant.arithmetic(config.precision)
        config = dataclasses.replace(config, supernet=variant.form, precision=precision, knn=False)
        data = load_data(config).to(world.device)
        self.trainer = SearchTrainer(config, data, world, dtype)

    def step(self) -> None:
        """One step, with its batches and draws."""
        with self._backend():
            self.trainer.run_step()

    def gradients(self) -> dict[str, np.ndarray]:
        """Alphas after a few steps from the first ones."""
        for _ in range(_CHECKED_STEPS):
            self.step()
        return {
            name: parameter.detach().double().cpu().numpy()
            for name, parameter in self.trainer.net.architecture().items()
        }
