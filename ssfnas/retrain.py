"""``python -m ssfnas.retrain``: train the network that a genotype describes."""

from __future__ import annotations

import sys

from ssfnas.commandline import main as run_command
from ssfnas.config import RetrainConfig
from ssfnas.runtime.imports import first_imports


def retrain(config: RetrainConfig) -> None:
    """Run the retraining that ``config`` describes."""
    with first_imports():
        from ssfnas.pipeline.retrain_run import run_retrain

    run_retrain(config)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(
        RetrainConfig,
        retrain,
        prog="ssfnas.retrain",
        description="Train a derived network, or a baseline, on long-tailed images; evaluate it.",
        argv=argv,
        default_preset="retrain-quick",
        cpu_preset="retrain-small",
    )


if __name__ == "__main__":
    sys.exit(main())
