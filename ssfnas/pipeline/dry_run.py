"""What a run would need, measured on small steps: memory and time."""

from __future__ import annotations

import copy
import dataclasses
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from ssfnas.data import ImageData, ImageSet
from ssfnas.data.decoding import FolderImages
from ssfnas.pipeline.memory_check import footprint, gibibytes
from ssfnas.runtime.memory_limits import memory_limits
from ssfnas.training.trainer import Trainer

MakeTrainer = Callable[[Any, ImageData], Trainer]

_FEWEST, _MOST = 2, 16
_LONG = 4.0  # seconds that a step of the larger batch may take
_WARM_UP = {"cpu": 1, "cuda": 4}  # a CUDA graph records the fourth step
_DECODED = 32


@dataclasses.dataclass(frozen=True)
class StepTime:
    """What a step takes, as measured on small ones.

    Attributes:
        seconds: of a step of the run's size, without decoding.
        decoded: images of a folder that a process takes from their files in a step.
        measured: in words, the steps that were.
    """

    seconds: float
    decoded: float
    measured: str


def time_of_step(
    make: MakeTrainer, config: Any, data: ImageData, world_size: int, *, long: float = _LONG
) -> StepTime:
    """Measure steps of two small batches and scale them to the run's.

    A step takes a time of its own and one for each image, which two batches tell apart. How many
    images the larger has depends on how long the smaller took, so that it is done in seconds at any
    size. Images that are decoded while training are stood in for.

    Args:
        make: ``config, data -> Trainer``; among several processes all have to ask.
        config: the run's; ``batch_size`` and, where there is one, ``pretrain_batch_size`` count.
        data: the run's.
        world_size: processes that share a batch.
        long: seconds that a step of the larger batch may take.
    """
    files = data.train.images
    if isinstance(files, FolderImages):
        data = dataclasses.replace(data, train=_stood_in(data.train, files))
    config = _quiet(config)
    batch = max(_FEWEST, config.batch_size // world_size)
    seconds, decoded = _step(make, config, data, _FEWEST, world_size, warmed_up=False)
    measured = f"steps of {_FEWEST}"
    if batch > _FEWEST:
        more = min(batch, _MOST, max(2 * _FEWEST, int(_FEWEST * long / seconds)))
        longer, _ = _step(make, config, data, more, world_size, warmed_up=seconds > 1)
        seconds += max(0.0, longer - seconds) / (more - _FEWEST) * (batch - _FEWEST)
        measured += f" and {more}"
    return StepTime(seconds, decoded / _FEWEST * batch, measured)


def about(seconds: float) -> str:
    """A time that is known roughly: ``40 s``, ``12 min``, ``3.5 h``, ``4 days``."""
    for unit, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= (2 if unit == 86400 else 1) * unit:
            number = seconds / unit
            return f"{number:.1f} {name}" if number < 9.95 else f"{number:,.0f} {name}"
    return f"{max(1.0, seconds):.0f} s"


def predict(make: MakeTrainer, config: Any, data: ImageData, world_size: int) -> str:
    """What the run would need, in lines for people; see :func:`time_of_step` for the arguments."""
    files = data.train.images
    trainer = make(config, data)
    device = trainer.world.device
    needed, limits = footprint(trainer, exact=True), memory_limits(device)
    lines = [
        f"steps        {trainer.total_steps:,}",
        f"memory       about {gibibytes(needed.expected)} a process; {gibibytes(limits.free)} of "
        f"{limits.owner} are free",
    ]
    if needed.of_images(_FEWEST) > limits.free:
        return "\n".join([*lines, f"time         not measured: {_FEWEST} images do not fit"])
    step = time_of_step(make, config, data, world_size)
    seconds = step.seconds
    if isinstance(files, FolderImages):
        workers = max(1, min(config.workers, os.cpu_count() or 1))
        each = _seconds_to_decode(files)
        words = f"decoding     {1000 * each:.2g} ms an image"
        if files.fits_memory:
            lines.append(f"{words}, once when the run starts")
        else:
            decoding = each * step.decoded / workers
            many = "es" * (workers > 1)
            lines.append(f"{words}, {decoding:.3g} s a step by {workers} process{many}")
            # On CPUs decoding and computing take their time from each other.
            seconds = seconds + decoding if device.type == "cpu" else max(seconds, decoding)
    total = about(trainer.total_steps * seconds)
    lines.append(
        f"time         about {seconds:.3g} s a step, {total} in all ({step.measured} images were "
        f"measured{_busy()}; evaluation not counted)"
    )
    return "\n".join(lines)


def _busy() -> str:
    """Says that others compute at the moment, which makes measured times longer."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    return f" while the machine was busy, at a load of {load:.1f}" if load > 1.5 * cores else ""


class _StandIn(FolderImages):
    """Noise in place of a folder's images, of which it counts how many were taken."""

    def __getitem__(self, indices: Tensor | Iterable[int]) -> Tensor:
        positions = torch.as_tensor(list(indices))
        self.__dict__["taken"] = self.taken + len(positions)
        draws = torch.Generator().manual_seed(0)
        noise = torch.randint(256, (_MOST, *self.shape[1:]), dtype=torch.uint8, generator=draws)
        return noise[positions % _MOST]

    @property
    def taken(self) -> int:
        """Images that were asked for."""
        return int(self.__dict__.get("taken", 0))


def _stood_in(part: ImageSet, files: FolderImages) -> ImageSet:
    values = {field.name: getattr(files, field.name) for field in dataclasses.fields(files)}
    return ImageSet(_StandIn(**values), part.labels)


def _quiet(config: Any) -> Any:
    """The config without what a dry run does not measure: neighbors, epochs unlike most others.

    Most steps of a search, and the largest, are those after the warm-up of the alphas; mixed images
    are measured. Epochs of the small batches are not those of the run, and fewer of its steps.
    """
    quiet = {"knn": False, "alpha_warmup_epochs": 0, "mixup_off_epochs": 0}
    changes: dict[str, Any] = {name: off for name, off in quiet.items() if hasattr(config, name)}
    return dataclasses.replace(copy.deepcopy(config), **changes)


def _step(
    make: MakeTrainer,
    config: Any,
    data: ImageData,
    images: int,
    world_size: int,
    *,
    warmed_up: bool,
) -> tuple[float, int]:
    """Seconds of a step of that many images a process, and how many it took of a folder's."""
    batch = images * world_size
    changes = {"batch_size": batch, "workers": 0}
    if hasattr(config, "pretrain_batch_size"):
        changes["pretrain_batch_size"] = batch
    trainer = make(dataclasses.replace(copy.deepcopy(config), **changes), data)
    device, source = trainer.world.device, data.train.images
    for passes in trainer.passes:
        passes.stream.make_singly()
    for _ in range(0 if warmed_up else _WARM_UP[device.type]):
        trainer.run_step()
    before = source.taken if isinstance(source, _StandIn) else 0
    if device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    trainer.run_step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    # Of all processes: what follows depends on it, and has to be the same for each.
    seconds = float(
        trainer.world.mean(torch.tensor(time.perf_counter() - started, dtype=torch.float64))
    )
    trainer.close()
    return seconds, (source.taken if isinstance(source, _StandIn) else 0) - before


def _seconds_to_decode(files: FolderImages) -> float:
    """Of one image in one process, the mean over some that are spread over all."""
    few = torch.linspace(0, len(files) - 1, min(_DECODED, len(files))).long()
    files[few[:1]]  # imports what resizes
    started = time.perf_counter()
    files[few]
    return (time.perf_counter() - started) / len(few)
