"""Whether a step fits in memory, found out before the first one by two images."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ssfnas.errors import RequestError
from ssfnas.runtime.distributed import World, processes_of_machine
from ssfnas.runtime.memory_limits import memory_limits
from ssfnas.runtime.precision import autocast
from ssfnas.training.trainer import ForwardPasses, Trainer

GIBIBYTE = 2**30
# What gradients of activations come to beside what is kept: 0 to 15 % over networks and sizes.
_BACKWARD = 1.1
# A parameter, its gradient, and what optimizers keep of it.
_STATE = 4
_UNLIMITED = 2**62
# Pixels of a side from which on what an image keeps is measured on a smaller one, and scaled by the
# area: two large images alone may be more than a machine has.
_LARGEST_TRIED = 512


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Bytes that a step of a process takes.

    Attributes:
        passes: those of the update that takes the most.
        kept: by the network's forward pass of one image, for its backward pass.
        views: of one image of a batch.
        fixed: whatever the number of images.
    """

    passes: ForwardPasses
    kept: float
    views: float
    fixed: float

    @property
    def least(self) -> float:
        """What has to be there at once: all that is kept when the backward pass begins."""
        return self.kept * self.passes.images

    @property
    def expected(self) -> float:
        """What a step will take about."""
        stream = self.passes.stream
        views = self.views * stream.batch_size / stream.world_size
        return self.fixed + views + _BACKWARD * self.least

    def of_images(self, images: int) -> float:
        """What a step of so many images a process will take about."""
        return self.fixed + images * (self.views + _BACKWARD * self.kept * self.passes.count)

    def fitting_batch(self, free: float) -> int:
        """The largest batch, over all processes, whose step takes about ``free`` bytes in each."""
        each = self.views + _BACKWARD * self.kept * self.passes.count
        return max(0, math.floor((free - self.fixed) / each)) * self.passes.stream.world_size


def footprint(trainer: Trainer, *, exact: bool = False) -> Footprint:
    """Pass two images through a copy of the network and count what is kept.

    Args:
        trainer: whose; among several processes all have to ask.
        exact: pass four as well, and tell what an image keeps from what a batch does: statistics of
            channels, which count where images have few pixels.
    """
    passes = max(trainer.passes, key=lambda passes: passes.images)
    height, width = trainer.data.image_size
    pixels = trainer.data.in_channels * height * width * trainer.dtype.itemsize
    streams = [passes.stream for passes in trainer.passes]
    state = _STATE * sum(p.numel() * p.element_size() for p in trainer.net.parameters())
    return Footprint(
        passes,
        kept=(_kept(trainer, 4) - _kept(trainer, 2)) / 2 if exact else _kept(trainer, 2) / 2,
        views=float(pixels) * sum(stream.views.count for stream in streams),
        fixed=state + pixels * sum(s.views.count * s.images_at_a_time for s in streams),
    )


def _kept(trainer: Trainer, images: int) -> int:
    device, data = trainer.world.device, trainer.data
    kept: dict[int, int] = {}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    height, width = data.image_size
    shrunk = -(-max(height, width) // _LARGEST_TRIED)
    size = max(1, height // shrunk), max(1, width // shrunk)
    shape = images, data.in_channels, *size
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=draws, dtype=trainer.dtype).to(device)
    with (
        trainer.trial() as net,
        autocast(trainer.config.precision, device),
        # Storages stay alive in the graph, so no two have one address.
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
    ):
        own = {t.untyped_storage().data_ptr() for t in (*net.parameters(), *net.buffers())}
        output = net(x)
    del output
    return round(sum(kept.values()) * (height * width) / (size[0] * size[1]))


def check_memory(trainer: Trainer, say: Callable[[str], None]) -> None:
    """Refuse a step that cannot fit, and warn of one that will hardly.

    It is refused where what it cannot do without is more than all memory that there is, so that
    nothing that would have fitted is; it is warned of where what it takes about is not free.

    Args:
        trainer: that is about to train; among several processes all have to ask, and all find the
            same, by the one that has the least.
        say: takes the warning.

    Raises:
        RequestError: the step cannot fit.
    """
    limits = memory_limits(trainer.world.device)
    shared = processes_of_machine() if trainer.world.device.type == "cpu" else 1
    # What is free differs between processes, and passes through the network are those of all.
    free, total = _least_of_all(trainer.world, limits.free / shared, limits.total / shared)
    free = min(free, total)
    found = footprint(trainer)
    if found.expected > free:
        found = footprint(trainer, exact=True)
    if found.expected <= free:
        return
    option, size = found.passes.option, trainer.data.image_size
    flag = "--" + option.replace("_", "-")
    what = f"{flag} {getattr(trainer.config, option)} with images of {size[1]} x {size[0]}"
    share = f", which {shared} processes share" if shared > 1 else ""
    advice = _advice(flag, found.fitting_batch(free))
    if found.least > total:
        raise RequestError(
            f"{what}: a step keeps {gibibytes(found.least)} for its backward pass, and "
            f"{limits.owner} has {gibibytes(total * shared)}{share}: {advice}"
        )
    say(
        f"warning: {what}: a step takes about {gibibytes(found.expected)}, and "
        f"{gibibytes(free * shared)} of {limits.owner} are free{share}: {advice}"
    )


def _least_of_all(world: World, *sizes: float) -> list[float]:
    """The smallest of each number of bytes over the processes."""
    smallest = world.largest(*(-int(min(size, _UNLIMITED)) for size in sizes))
    return [-float(size) for size in smallest]


def _advice(flag: str, batch: int) -> str:
    smaller = "a smaller --image-size or fewer --channels"
    return f"{flag} {batch} would fit, or {smaller}" if batch >= 2 else f"take {smaller}"


def gibibytes(count: float) -> str:
    """A number of bytes for people."""
    size = count / GIBIBYTE
    return f"{size:,.0f} GiB" if size >= 10 else f"{size:.1f} GiB"
