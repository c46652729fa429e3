"""The page that ``python -m benchmarks.train_step`` writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch

from benchmarks import pages
from benchmarks.pages import COMPILED
from benchmarks.step_page import COMPILED_UNITS, StepRow, columns, profiles, table
from benchmarks.step_variants import FAST, GRAPHED
from benchmarks.timing import Ceilings
from benchmarks.train_counts import DEPTHWISE, Products
from ssfnas.config import RetrainConfig

NCHW, CHANNELS_LAST = "reference, eager NCHW", "reference, eager channels_last"
PARTS = {"step": "Training step", "evaluation": "Evaluation"}
"""What is measured -> its heading."""
PASSES = {"step": 3, "evaluation": 1}
"""What is measured -> how often each product counts: forward, and in a step both gradients."""
RATIOS = ("x NCHW", "x best other", "x floor")


@dataclass
class Measured:
    """All variants of one part.

    Attributes:
        rows: variant -> what was measured of it.
        products: of an image in its forward pass.
    """

    rows: Mapping[str, StepRow]
    products: Products


def section(
    title: str,
    parts: Mapping[str, Measured],
    config: RetrainConfig,
    reached: Ceilings,
    device: torch.device,
) -> str:
    """Heading, and a table with remarks for each part.

    Args:
        title: of the setting.
        parts: keys of ``PARTS``.
        config: of the setting.
        reached: ceilings of the device.
        device: where it was measured.
    """
    texts = [
        f"## {title}: {config.channels} channels, {config.layers} cells, batch {config.batch_size}"
    ]
    if config.precision == "fp32":  # what ratios mean then
        texts += pages.tf32(device)
    compiled = parts["step"].rows.get(COMPILED)
    if compiled is not None and compiled.warm_up is not None:
        texts.append(f"Compiling, warm-up of all parts included: {compiled.warm_up:.1f} s.")
    cores = None if device.type == "cuda" else torch.get_num_threads()
    for name, measured in parts.items():
        times = config.batch_size * PASSES[name]
        rows, least = measured.rows, measured.products.seconds(times, reached, cores)
        ratios = partial(_ratios, rows=rows, least=least)
        texts += [f"### {PARTS[name]}", table(rows.values(), config.batch_size, RATIOS, ratios)]
        texts.append(_floor(measured.products, times, least))
        texts += profiles(rows.values(), "####")
    return "\n\n".join(texts)


def _ratios(row: StepRow, rows: Mapping[str, StepRow], least: float) -> list[str]:
    """How many times faster than both yardsticks, and how many times slower than the floor."""
    usual = [
        other.seconds
        for name, other in rows.items()
        if name not in (row.variant, FAST, GRAPHED)
        and other.precision == row.precision
        and other.seconds
    ]
    return [
        *(
            f"{seconds / row.seconds:.2f}" if seconds else "-"
            for seconds in (rows[NCHW].seconds, min(usual, default=None))
        ),
        f"{row.seconds / least:.1f}",
    ]


def _floor(counted: Products, times: int, least: float) -> str:
    """What stands below a table."""
    kinds = ", ".join(f"{count / 1e6:.1f} M {kind}" for kind, count in counted._asdict().items())
    return f"Floor: {kinds} multiply-adds of an image, {times} times: {least * 1e3:.2f} ms."


def preface(config: RetrainConfig, reached: Ceilings, on_gpu: bool, compile_unit: str) -> list[str]:
    """What stands above all sections.

    Args:
        config: what they share.
        reached: ceilings of the device.
        on_gpu: whether it is a GPU.
        compile_unit: what torch.compile got at a time, a key of ``COMPILED_UNITS``.
    """
    setting = (
        f"{config.genotype}, auxiliary head {config.auxiliary}, drop-path {config.drop_path}, "
        f"32x32 images, {config.precision}."
    )
    caveat = (
        "A training step: forward, backward, and an update (SGD, momentum, decay, clipping), as a "
        "retraining makes it, on a batch that is there. An evaluation: forward without gradients. "
        f"`{NCHW}`, in fp32 always, `{CHANNELS_LAST}` and `{COMPILED}` (channels_last, "
        f"{COMPILED_UNITS[compile_unit]}) are the network as it is usually written. x best other: "
        f"the fastest of these in the same precision, without the variant itself. {columns(on_gpu)}"
    )
    speed = (
        "all at the speed of a matrix product"
        if on_gpu
        else f"depthwise ones at a stated {DEPTHWISE / 1e9:.0f} GFLOP/s a core (a model: two "
        "fifths of what one filter reaches with AVX2 inside the first cache), all others at the "
        "speed of a matrix product"
    )
    model = (
        "Floor: multiply-adds of convolutions and classifiers, in a step three times (forward and "
        f"both gradients), {speed}."
    )
    return [setting, str(reached), caveat, model]
