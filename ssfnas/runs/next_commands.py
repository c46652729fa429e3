"""The command lines that a run prints: what to do next with what it left, ready for a shell."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

from ssfnas.config import DataOptions, SearchConfig
from ssfnas.options import obstacles, option_values

SAMPLE, SMALL, FULL = "retrain-quick", "retrain-small", "longtail"
"""Presets of a retraining: of the embedded sample, on a CPU, and in full."""


def searches_the_sample(config: SearchConfig) -> bool:
    """Whether a search was of the embedded sample, which is retrained in minutes as well."""
    return config.dataset == DataOptions().dataset


def retrain_command(
    config: SearchConfig,
    path: str | Path,
    *,
    preset: str = FULL,
    size_was_asked_for: bool = True,
    out: str | None = None,
) -> str:
    """The line that retrains what a search found, on the data that it searched on.

    Args:
        config: the search's.
        path: its run directory, or where else a genotype is.
        preset: how the network is trained; the embedded sample has one of its own.
        size_was_asked_for: whether the config's image size is the user's. A size that the search
            chose by itself is the search's alone: the network is trained on the images as they are.
        out: the run directory of the training; None: the line names none.
    """
    sample = searches_the_sample(config)
    words = ["--preset", SAMPLE if sample else preset]
    # A data set that is named drops its preset's ratio: what follows is the search's alone.
    words += [] if sample else ["--dataset", config.dataset]
    left_out = {"dataset", *obstacles(config, option_values(type(config)))}
    left_out |= set() if size_was_asked_for else {"image_size"}
    for entry in dataclasses.fields(DataOptions):
        value = getattr(config, entry.name)
        if entry.name not in left_out and value != entry.default:
            words += [f"--{entry.name.replace('_', '-')}", _written(value)]
    words += ["--genotype", str(path), *([] if out is None else ["--out", out])]
    return _line("retrain", *_plugins(config.plugins), *words)


def derive_command(plugins: Sequence[str], path: str | Path, *rule: str) -> str:
    """The line that derives again, by ``rule``, where no operation passed the threshold."""
    return _line("derive", *_plugins(plugins), "--run", str(path), "--derive", *rule)


def use_commands(plugins: Sequence[str], path: str | Path) -> list[str]:
    """The lines that use a trained network: on images, and out of this package."""
    run = [*_plugins(plugins), "--run", str(path)]
    return [
        _line("predict", *run) + " IMAGES",
        _line("export", *run, "--format", "onnx"),
    ]


def resume_command(command: str, path: str | Path) -> str:
    """The line that goes on with an interrupted run."""
    return _line(command, "--out", str(path), "--resume")


def _plugins(plugins: Sequence[str]) -> list[str]:
    return ["--plugins", *plugins] if plugins else []


def _written(value: object) -> str:
    return f"{value:.15g}" if isinstance(value, float) else str(value)


def _line(command: str, *words: str) -> str:
    return shlex.join(["python", "-m", f"ssfnas.{command}", *words])
