"""Tables of measurements and the pages that hold them, ``benchmarks/results/<device>.md``."""

from __future__ import annotations

import datetime
import itertools
import os
import platform
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from benchmarks.timing import Row
from ssfnas.runtime.environment import cpu_name, package_versions

EAGER, COMPILED = "reference, eager", "reference, compiled"


def markdown(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned; a line may end early."""
    columns = list(itertools.zip_longest(header, *body, fillvalue=""))
    widths = [max(map(len, column)) for column in columns]
    rule = ["-" * width for width in widths]
    first, *rest = zip(*columns, strict=True)
    return "\n".join(
        "| " + " | ".join(map(str.ljust, line, widths)) + " |" for line in (first, rule, *rest)
    )


def ratios(row: Row, rows: Iterable[Row]) -> list[str]:
    """How many times faster than the reference in eager mode, and compiled."""
    timed = {other.variant: other.seconds for other in rows if other.seconds}
    return [
        f"{timed[base] / timed[row.variant]:.2f}" if base in timed else "-"
        for base in (EAGER, COMPILED)
    ]


def megabytes(count: int | None) -> str:
    """For a column of memory."""
    return "-" if count is None else f"{count / 2**20:.1f}"


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {cpu_name()}"


def versions(device: torch.device) -> str:
    """What was measured with, in one line."""
    if device.type == "cuda":
        last = f"CUDA {torch.version.cuda}"
    else:
        last = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    return (
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"Triton {package_versions()['triton'] or 'none'}, {last}"
    )


def tf32(device: torch.device) -> list[str]:
    """Where this process lets a GPU round float32 factors to TF32, in a line; no line elsewhere."""
    if device.type != "cuda":
        return []
    convolutions, products = (
        "on" if on else "off"
        for on in (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
    )
    return [f"TF32: convolutions {convolutions}, matrix products {products}."]


def write_page(
    title: str,
    command: str,
    device: torch.device,
    parts: Iterable[str],
    folder: Path,
    suffix: str,
) -> Path:
    """Write ``<device><suffix>.md``: which command wrote it, when and with what, and the parts."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    written = [f"Written by `{command}` on {date}.", f"{versions(device)}.", *tf32(device)]
    folder.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    path = folder / f"{slug}{suffix}.md"
    path.write_text("\n\n".join([f"# {title}", " ".join(written), *parts, ""]))
    return path
