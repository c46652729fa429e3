"""Types of arguments that the commands share; argparse names the argument in what they say."""

from __future__ import annotations

from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"
DEVICES = ("auto", "cpu", "cuda")


def device(name: str) -> torch.device:
    """One of ``DEVICES``; ``"auto"`` is a GPU where there is one."""
    if name not in DEVICES:
        raise ArgumentTypeError(f"'{name}' is none of {', '.join(DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ArgumentTypeError("no CUDA device is visible")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def known(what: str, names: Sequence[str]) -> Callable[[str], str]:
    """One of ``names``, of which each is called a ``what``."""

    def parse(name: str) -> str:
        if name not in names:
            raise ArgumentTypeError(f"unknown {what} '{name}': it is one of {', '.join(names)}")
        return name

    return parse


def at_least(least: int, kind: type = int) -> Callable[[str], float]:
    """A number that is not below ``least``."""

    def parse(text: str) -> float:
        number: float = kind(text)
        if not number >= least:
            raise ArgumentTypeError(f"has to be at least {least}")
        return number

    parse.__name__ = kind.__name__
    return parse
