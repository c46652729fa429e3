"""What to do with what a search left: the lines to go on with, and how long each would take."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path

import torch
from torch import Tensor

from ssfnas.commandline import parse
from ssfnas.config import RetrainConfig, SearchConfig
from ssfnas.data import ImageData, ImageSet
from ssfnas.pipeline.dry_run import about, time_of_step
from ssfnas.pipeline.fitting import fit_retraining
from ssfnas.runs.data_card import DataCard
from ssfnas.runs.next_commands import FULL, SAMPLE, SMALL, retrain_command, searches_the_sample
from ssfnas.runtime.distributed import World
from ssfnas.spaces import Genotype
from ssfnas.training.retrain_trainer import RetrainTrainer

# Seconds that a measured step of more than two images may take.
_LONG = 1.0
# A search of fewer seconds is not followed by measuring for some more.
_WORTH_MEASURING = 20.0
# A training of this many seconds is not waited for without another offer.
_PATIENCE = 1800.0
_OUT = {FULL: "full-network"}


def is_worth_measuring(searched: float | None) -> bool:
    """Whether times are worth the seconds that measuring takes, after a search of so many."""
    return searched is not None and searched >= _WORTH_MEASURING


def following_lines(
    config: SearchConfig,
    genotype: Genotype,
    where: str | Path,
    card: DataCard,
    labels: Tensor | None,
    device: torch.device,
    *,
    name: str | Path | None = None,
) -> list[str]:
    """The trainings that may follow, the one that suits the device first, with their times.

    Args:
        config: the search's.
        genotype: what it found.
        where: what ``--genotype`` is to name.
        card: of the search's data.
        labels: of its training images; None: not known, and so no time is.
        device: where it is computed.
        name: what the directory of the training's run begins with; None: the lines name none.
    """
    lines = {
        preset: retrain_command(
            config,
            where,
            preset=preset,
            size_was_asked_for=card.original_size is None,
            out=None if name is None else _free(f"{name}-{_OUT.get(preset, 'network')}"),
        )
        for preset in ((SAMPLE,) if searches_the_sample(config) else (SMALL, FULL))
    }
    if device.type != "cpu":
        lines = dict(reversed(lines.items()))
    times = {
        preset: None if labels is None else _seconds(line, genotype, card, labels, device)
        for preset, line in lines.items()
    }
    first, *others = lines
    seconds = times[first]
    patient = device.type != "cpu" and seconds is not None and seconds <= _PATIENCE
    said = [f"next         {lines[first]}", *_note(first, seconds, device)]
    for other in () if patient else others:
        said += [f"or           {lines[other]}", *_note(other, times[other], device)]
    return said


def _free(name: str) -> str:
    """A directory that is not there yet."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(path for path in itertools.chain([name], numbered) if not Path(path).exists())


def _note(preset: str, seconds: float | None, device: torch.device) -> list[str]:
    what = {SMALL: "a small network, for a first result", FULL: "the full network and training"}
    place = "CPU" if device.type == "cpu" else "GPU"
    took = [] if seconds is None else [f"about {about(seconds)} on this {place}"]
    parts = [*took, *([what[preset]] if preset in what else [])]
    return [f"             {', '.join(parts)}"] if parts else []


def _seconds(
    line: str, genotype: Genotype, card: DataCard, labels: Tensor, device: torch.device
) -> float | None:
    """How long that training takes, measured on a few steps; None where it cannot be measured.

    Evaluations and the decoding of images that stay in their files are not counted.
    """
    try:
        # The preset, the data's options and the genotype are in the line: it is what is measured.
        config = parse(RetrainConfig, shlex.split(line)[3:], "ssfnas.retrain", "")
        data = _stand_in(card, labels, device)
        fit_retraining(config, data, 1)
        world = World(0, 1, device)

        def make(changed: RetrainConfig, images: ImageData) -> RetrainTrainer:
            return RetrainTrainer(changed, images, genotype, world)

        step = time_of_step(make, config, data, 1, long=_LONG)
        steps = config.steps or config.epochs * -(-len(labels) // config.batch_size)
        return steps * step.seconds
    except Exception:  # whatever it is, the search is done and its result is there
        return None


def _stand_in(card: DataCard, labels: Tensor, device: torch.device) -> ImageData:
    """Noise of the size that the training takes the images at, with their labels.

    One image stands for all, so that it takes no memory.
    """
    height, width = card.original_size or card.image_size
    draws = torch.Generator().manual_seed(0)
    image = torch.randint(256, (1, height, width, card.in_channels), generator=draws)
    images = image.to(device, torch.uint8).expand(len(labels), -1, -1, -1)
    return ImageData(
        name=card.name,
        train=ImageSet(images, labels.to(device)),
        validation=None,
        test=None,
        class_names=card.class_names,
        mean=card.mean,
        std=card.std,
    )
