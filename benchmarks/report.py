"""Tables of measurements, for the terminal and for ``benchmarks/results/<device>.md``."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.cases import Case
from benchmarks.timing import Timing
from benchmarks.variants import COMPILED, EAGER

HEADER = ("case", "variant", "us", "x eager", "x compiled", "GB/s", "% ceiling", "peak MB")
CAVEAT = (
    "Forward and backward together. `x eager` and `x compiled`: how many times faster than the "
    "reference in eager mode and under torch.compile. GB/s is of the bytes that the op has to move "
    "at the least (a model, not a measurement), so recomputing and re-reading lower it. % ceiling: "
    "of a copy; for barlow_twins_loss and candidate_operations of a float32 matrix product; both "
    "measured in the same run. Device time of a replayed graph, unless marked (launched). Peak MB: "
    "memory beside the inputs, gradients included."
)


@dataclass(frozen=True)
class Ceilings:
    """What the device reached in this run: bytes copied and operations multiplied a second."""

    copy: float
    matmul: float


@dataclass(frozen=True)
class Row:
    """One variant of one case; without a timing, ``note`` says why."""

    case: Case
    variant: str
    timing: Timing | None
    note: str = ""


def cells(row: Row, rows: Sequence[Row], ceilings: Ceilings) -> tuple[str, ...]:
    """The row's cells, in the order of ``HEADER``."""
    if row.timing is None:
        return (row.case.name, row.variant, row.note, *[""] * (len(HEADER) - 3))
    seconds = row.timing.seconds
    baselines = {
        other.variant: other.timing.seconds
        for other in rows
        if other.case is row.case and other.timing is not None
    }
    ratios = [
        f"{baselines[name] / seconds:.2f}" if name in baselines else "-"
        for name in (EAGER, COMPILED)
    ]
    rate = row.case.bytes_moved / seconds
    if row.case.operations:
        share = row.case.operations / seconds / ceilings.matmul
    else:
        share = rate / ceilings.copy
    peak = row.timing.peak_bytes
    return (
        row.case.name,
        row.variant if row.timing.replayed else f"{row.variant} (launched)",
        f"{seconds * 1e6:.1f}",
        *ratios,
        f"{rate / 1e9:.1f}",
        f"{share:.0%}",
        "-" if peak is None else f"{peak / 2**20:.1f}",
    )


def table(rows: Sequence[Row], ceilings: Ceilings) -> str:
    """The rows as a Markdown table."""
    return markdown(HEADER, [cells(row, rows, ceilings) for row in rows])


def markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned."""
    lines = [header, *body]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    padded = [
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([padded[0], rule, *padded[1:]])


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"CPU {names[0] if names else platform.machine()}"


def versions(device: torch.device) -> str:
    """What was measured with, in one line."""
    try:
        triton = __import__("triton").__version__
    except ImportError:
        triton = "none"
    parts = [f"Python {platform.python_version()}", f"torch {torch.__version__}"]
    parts.append(f"Triton {triton}")
    if device.type == "cuda":
        parts.append(f"CUDA {torch.version.cuda}")
    else:
        parts.append(f"{torch.get_num_threads()} threads of {os.cpu_count()} cores")
    return ", ".join(parts)


def tf32(device: torch.device) -> str:
    """Where this process lets a GPU round float32 factors to TF32; empty elsewhere."""
    if device.type != "cuda":
        return ""
    state = {
        "convolutions": torch.backends.cudnn.allow_tf32,
        "matrix products": torch.backends.cuda.matmul.allow_tf32,
    }
    return "TF32: " + ", ".join(f"{what} {'on' if on else 'off'}" for what, on in state.items())


def provenance(command: str, device: torch.device) -> str:
    """Which command wrote the page, when, and with what."""
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    parts = (f"Written by `{command}` on {date}", versions(device), tf32(device))
    return "".join(f"{part}. " for part in parts if part).rstrip()


def ceilings_line(ceilings: Ceilings, dtype: str = "float32") -> str:
    """What the device reached, ``dtype`` being that of the matrix product."""
    return (
        f"Ceilings: copy {ceilings.copy / 1e9:.0f} GB/s, {dtype} matrix product "
        f"{ceilings.matmul / 1e12:.2f} TFLOP/s."
    )


def document(rows: Sequence[Row], ceilings: Ceilings, device: torch.device) -> str:
    """The whole page."""
    return "\n\n".join(
        [
            f"# {device_name(device)}",
            provenance("python -m benchmarks", device),
            ceilings_line(ceilings),
            CAVEAT,
            table(rows, ceilings),
            "",
        ]
    )


def write(page: str, device: torch.device, folder: Path, suffix: str = "") -> Path:
    """Write the page as ``<device><suffix>.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")
    path = folder / f"{slug}{suffix}.md"
    path.write_text(page)
    return path
