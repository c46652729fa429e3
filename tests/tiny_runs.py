"""Settings of the smallest searches and retrainings that exercise everything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssfnas.config import RetrainConfig, SearchConfig


def tiny_search(dataset: Path | str, out: Path | str | None = None, **changes: Any) -> SearchConfig:
    """Two epochs of a two-channel supernet."""
    settings: dict[str, Any] = {
        "dataset": str(dataset),
        "out": None if out is None else str(out),
        "epochs": 2,
        "batch_size": 8,
        "channels": 2,
        "layers": 3,
        "nodes": 2,
        "projector": [8, 8],
        "derive": "darts",
        "device": "cpu",
        "seed": 5,
    }
    return SearchConfig(**{**settings, **changes})


def tiny_retrain(
    dataset: Path | str, out: Path | str | None = None, **changes: Any
) -> RetrainConfig:
    """Two epochs of a four-channel network."""
    settings: dict[str, Any] = {
        "dataset": str(dataset),
        "out": None if out is None else str(out),
        "genotype": "FairDARTS_a",
        "epochs": 2,
        "batch_size": 8,
        "channels": 4,
        "layers": 3,
        "auxiliary": 0.0,
        "augment": "crop_flip",
        "cutout": 2,
        "evaluate_every": 1,
        "device": "cpu",
        "seed": 5,
    }
    return RetrainConfig(**{**settings, **changes})
