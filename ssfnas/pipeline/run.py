"""A finished or interrupted run, read from its directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from ssfnas.config import RetrainConfig, SearchConfig
from ssfnas.errors import RequestError
from ssfnas.evaluation.networks import build_network
from ssfnas.runs.data_card import DataCard
from ssfnas.runs.run_directory import RunDirectory, read_run_config
from ssfnas.spaces import Genotype

CONFIGS: dict[str, type[SearchConfig] | type[RetrainConfig]] = {
    "search": SearchConfig,
    "retrain": RetrainConfig,
}

EVALUATION_FILE = "evaluation.json"


class Run:
    """What a search or a retraining wrote; nothing in it is unpickled or executed.

    Args:
        path: the run directory.

    Raises:
        RequestError: it holds no run.

    Attributes:
        path: the run directory.
        command: ``"search"`` or ``"retrain"``.
        config: the resolved config.
    """

    def __init__(self, path: str | Path) -> None:
        command, _, _ = read_run_config(path)
        if command not in CONFIGS:
            raise RequestError(f"{path} holds a run of {command}, not of a search or a retraining")
        self.path = Path(path)
        self.command = command
        self.directory = RunDirectory.open(path)
        self.config: Any = self.directory.read_config(CONFIGS[command])

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}: {self.command})"

    @property
    def genotype(self) -> Genotype:
        """The genotype that was found, or trained.

        Raises:
            RequestError: the run has none (yet).
        """
        return Genotype.load(self.path)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One dict an epoch, as logged."""
        file = self.path / "metrics.jsonl"
        if not file.is_file():
            return []
        lines = file.read_text(encoding="utf-8").splitlines()
        try:
            return [json.loads(line) for line in lines if line.strip()]
        except ValueError as error:
            raise RequestError(f"{file} is damaged: {error}") from None

    @property
    def alphas(self) -> dict[str, np.ndarray]:
        """``alphas.npz``: ``normal`` and ``reduce`` [epochs + 1, E, O], and their weights."""
        return self.directory.read_npz("alphas.npz")

    @property
    def evaluation(self) -> dict[str, Any]:
        """The content of ``evaluation.json``."""
        value: dict[str, Any] = self.directory.read_json(EVALUATION_FILE)
        return value

    @property
    def data_card(self) -> DataCard:
        """What the network has to know of the data it was trained on."""
        return DataCard.from_dict(self.directory.read_json("data.json"))

    def network(self, which: str = "last") -> nn.Module:
        """The trained network in evaluation mode, on the CPU.

        Args:
            which: ``"last"`` weights, or their ``"ema"``.

        Raises:
            RequestError: the run is a search, is not finished, or kept no such weights.
        """
        if self.command != "retrain":
            raise RequestError(f"{self.path} is a search: only a retraining has a trained network")
        file = self.path / ("model.safetensors" if which == "last" else "model_ema.safetensors")
        if not file.is_file():
            raise RequestError(
                f"{file} is missing: the run is not finished, or keeps no {which} weights"
            )
        card = self.data_card
        net = build_network(
            self.config,
            self.genotype if self.config.model == "derived" else None,
            num_classes=len(card.class_names),
            in_channels=card.in_channels,
            image_size=card.image_size,
        )
        try:
            with safe_open(file, framework="pt"):
                pass
            net.load_state_dict(load_file(file))
        except Exception as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise RequestError(f"{file} is damaged, or another network's: {first}") from None
        return net.eval()


def load(path: str | Path) -> Run:
    """The run in directory ``path``; see :class:`Run`."""
    return Run(path)
