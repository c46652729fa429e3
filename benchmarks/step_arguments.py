"""What the commands that time whole steps are asked, all alike."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection
from pathlib import Path

import torch

from benchmarks import commandline
from benchmarks.step_variants import DTYPES
from ssfnas.errors import RequestError
from ssfnas.runtime.precision import check_precision

# Where an option is not given: on a CPU, on a GPU.
_BY_DEVICE = {
    "checked_images": (8, 32),
    "rounds": (5, 30),
    "compile_seconds": (3600.0, 900.0),
}


def step_parser(
    prog: str, description: str | None, units: Collection[str], unit: str, about_units: str
) -> argparse.ArgumentParser:
    """A parser of what all have in common.

    Args:
        prog: the command.
        description: of it.
        units: what torch.compile can be given at a time.
        unit: the usual one.
        about_units: what they are.
    """
    at_least = commandline.at_least
    parser = argparse.ArgumentParser(prog=f"python -m {prog}", description=description)
    add = parser.add_argument
    add("--device", default="auto", type=commandline.device, help=", ".join(commandline.DEVICES))
    add(
        "--checked-images",
        type=at_least(2),
        help="of a batch that results are checked on, also in float64, which needs much memory; "
        "default: 8 on a CPU, 32 on a GPU",
    )
    add(
        "--rounds",
        type=at_least(1),
        help="timings of each variant; default: 5 on a CPU, 30 on a GPU",
    )
    add("--threads", type=at_least(1), help="of a process; default: what PyTorch takes")
    add("--precision", default="fp32", choices=tuple(DTYPES))
    add("--no-compile", action="store_true", help="leave torch.compile out")
    add(
        "--compile-unit",
        choices=tuple(units),
        default=unit,
        help=f"what torch.compile gets at a time: {about_units}",
    )
    add(
        "--compile-seconds",
        type=at_least(1, float),
        help="most seconds that compiling may take; default: 3600 on a CPU, 900 on a GPU",
    )
    add("--profile", action="store_true", help="also write where the time of a step goes")
    add("--results", type=Path, default=commandline.RESULTS, help="folder to write to")
    return parser


def parse_step(
    parser: argparse.ArgumentParser, argv: list[str] | None, **by_device: tuple[int, int]
) -> argparse.Namespace:
    """What was asked for; what was not given depends on the device.

    Args:
        parser: a :func:`step_parser`, with more options or without.
        argv: the words.
        by_device: of further options, what they are on a CPU and on a GPU.
    """
    arguments = parser.parse_args(argv)
    for name, defaults in {**_BY_DEVICE, **by_device}.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, defaults[arguments.device.type == "cuda"])
    try:
        check_precision(arguments.precision, arguments.device)
    except RequestError as error:
        parser.error(str(error))
    return arguments


def use_threads(count: int | None) -> None:
    """Let this process, and those that it starts, compute with so many threads; None: as it is."""
    if count is not None:
        torch.set_num_threads(count)
        os.environ["OMP_NUM_THREADS"] = str(count)
