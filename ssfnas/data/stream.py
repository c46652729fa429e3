"""Batches of views: resumable anywhere, shared by processes, made many at a time."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ssfnas.data.decoding import FolderImages
from ssfnas.data.imageset import ImageSet
from ssfnas.data.loading import decoded_batches
from ssfnas.data.sampling import IndexStream
from ssfnas.data.views import Views, normalize_, to_float
from ssfnas.errors import RequestError
from ssfnas.seeding import derive_seed, generator

_CHUNK_CUDA = 2048
_CHUNK_CPU = 256
_CHUNK_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class Batch:
    """One process' rows of a batch.

    Attributes:
        views: each [n, C, H, W], normalized.
        labels: int64 [n]; with mixup float [n, classes]; with several labels an image [n, L].
        indices: int64 [n], positions in the image set.
    """

    views: tuple[Tensor, ...]
    labels: Tensor
    indices: Tensor


@dataclass(frozen=True, eq=False)
class _Plan:
    """What is made of a global batch: a process' share of it, or single rows.

    Attributes:
        own: how many rows are wanted.
        rows: of the global batch; own rows first, then their partners' where those are others'.
        indices: the positions of their images.
        partner: for each own row, the place of its partner in ``rows``; None: nothing is mixed.
        share: of the row itself in the mixture.
    """

    own: int
    rows: Tensor
    indices: Tensor
    partner: Tensor | None
    share: float


@dataclass(eq=False, repr=False)
class ImageStream:
    """An endless stream of batches of random views.

    Batch b is a pure function of the seed and b: its images are the positions ``b B`` to
    ``(b + 1) B`` of an :class:`IndexStream`, its views' parameters (and mixup's) are drawn from a
    generator of its own for the whole batch. A process makes a contiguous share of the rows. Views
    are made for several batches at a time, always the same ones, wherever the stream was resumed.

    Args:
        images: where the images are; resident on a device, or decoded by ``workers`` processes.
        indices: int64 [N], the images to train on.
        batch_size: B, over all processes.
        views: what to make of each image.
        seed: everything random is a function of it.
        device: where the batches are made.
        num_classes: needed for mixup with one label an image.
        sampling_exponent: see :class:`IndexStream`.
        mixup: alpha of mixup (Zhang et al., 2018): batch b is mixed with a permutation of itself,
            ``x = l x + (1 - l) x'`` with one l ~ Beta(alpha, alpha), labels alike; 0: none.
        mixup_epochs: after as many epochs l is 1: images are no longer mixed, and labels keep
            their form; None: all are mixed.
        rank, world_size: which process of how many this is.
        workers: processes that decode images that are not in memory.
        dtype: of the views.
        chunk: images whose views are made at a time; ``None``: 2048 on a GPU, 256 elsewhere, fewer
            where they would take more than 256 MiB.

    Raises:
        RequestError: a batch size below 1 or not a multiple of the number of processes, or what
            :class:`IndexStream` refuses.
    """

    images: ImageSet
    indices: Tensor
    batch_size: int
    views: Views
    _: KW_ONLY
    seed: int
    device: torch.device | str
    num_classes: int | None = None
    sampling_exponent: float = 1.0
    mixup: float = 0.0
    mixup_epochs: int | None = None
    rank: int = 0
    world_size: int = 1
    workers: int = 0
    dtype: torch.dtype = torch.float32
    chunk: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.batch_size % self.world_size:
            raise RequestError(
                f"batch size {self.batch_size} with {self.world_size} processes: it must be a "
                "multiple of their number"
            )
        if not 0 <= self.mixup < float("inf"):
            raise RequestError(f"mixup {self.mixup:g}: its alpha must be 0 (none) or more")
        if self.mixup and not self.images.multi_label and self.num_classes is None:
            raise ValueError("mixup makes soft labels: give num_classes")
        self._device = torch.device(self.device)
        self._order = IndexStream(
            self.images.labels, self.indices, self.seed, self.sampling_exponent
        )
        self._labels = self.images.labels.to(self._device)
        self._own = self.batch_size // self.world_size
        self._batches = max(1, self.images_at_a_time // self._own)
        self._position = 0
        self._made: Iterator[Batch] = iter(())
        self._decoder: Generator[Tensor, None, None] | None = None

    def _fitting_chunk(self) -> int:
        height, width = self.images.image_size
        values = self.views.count * self.images.in_channels * height * width
        most = _CHUNK_CUDA if self._device.type == "cuda" else _CHUNK_CPU
        return min(most, _CHUNK_BYTES // (values * self.dtype.itemsize))

    @property
    def images_at_a_time(self) -> int:
        """Images whose views a process makes, and keeps, at a time, unless its batch has more."""
        return self.chunk or self._fitting_chunk()

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which every image has been taken about once: ceil(N / B)."""
        return -(-len(self._order) // self.batch_size)

    def state_dict(self) -> dict[str, int]:
        """What :meth:`load_state_dict` needs to go on from here."""
        return {
            "position": self._position,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "images": len(self._order),
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where a stream of the same seed, batch size and images was.

        Raises:
            RequestError: the state is that of another stream.
        """
        for key, value in self.state_dict().items():
            if key != "position" and state[key] != value:
                raise RequestError(
                    f"the run was started with {key.replace('_', ' ')} {state[key]} and cannot go "
                    f"on with {value}"
                )
        self._position = int(state["position"])
        self._made = iter(())
        self.close()

    def close(self) -> None:
        """End the processes that decode; the stream can be used on, and starts them again."""
        decoder, self._decoder = self._decoder, None
        if decoder is not None:
            decoder.close()

    def make_singly(self) -> None:
        """Make one batch at a time from here on: the same batches, each when it is asked for."""
        self._batches = 1
        self._made = iter(())

    def next(self) -> Batch:
        """The next batch, on the device.

        Raises:
            RequestError: an image that cannot be decoded.
        """
        batch = next(self._made, None)  # at the end, the memory of those is free for what comes
        if batch is None:
            first = self._position // self._batches * self._batches
            made = self._make(range(first, first + self._batches))
            self._made = islice(made, self._position - first, None)
            batch = next(self._made)
        self._position += 1
        return batch

    def order(self, start: int, stop: int) -> Tensor:
        """Positions of the images at places ``start`` to ``stop``, place p in batch p // B."""
        return self._order.slice(start, stop)

    def at(self, places: Tensor) -> Batch:
        """What the batches of all processes hold at those places, wherever the stream is.

        Args:
            places: int64 [n]; place p is row p mod B of batch p // B.

        Raises:
            RequestError: an image that cannot be decoded.
        """
        batches = []
        for place in places.tolist():
            number, row = divmod(place, self.batch_size)
            plan = self._plan(number, torch.tensor([row]))
            pixels = self.images.gather(plan.indices).to(self._device)
            batches += self._batches_of([number], [plan], pixels)
        views = zip(*(batch.views for batch in batches), strict=True)
        return Batch(
            tuple(torch.cat(view) for view in views),
            torch.cat([batch.labels for batch in batches]),
            torch.cat([batch.indices for batch in batches]),
        )

    def _plan(self, number: int, rows: Tensor | None = None) -> _Plan:
        """What is made of batch ``number``: the process' share of its rows, or those given."""
        indices = self._order.slice(number * self.batch_size, (number + 1) * self.batch_size)
        shared = rows is not None or self.world_size > 1  # partners may be others' rows
        if rows is None:
            rows = torch.arange(self._own) + self.rank * self._own
        own = len(rows)
        if not self.mixup:
            return _Plan(own, rows, indices[rows], None, 1.0)
        if self.mixup_epochs is not None and number >= self.mixup_epochs * self.steps_per_epoch:
            return _Plan(own, rows, indices[rows], torch.arange(own), 1.0)
        random = np.random.default_rng(derive_seed(self.seed, "mixup", number))
        share = float(random.beta(self.mixup, self.mixup))
        partner = torch.from_numpy(random.permutation(self.batch_size))[rows]
        if shared:
            rows, partner = torch.cat([rows, partner]), torch.arange(own) + own
        return _Plan(own, rows, indices[rows], partner, share)

    def _make(self, numbers: range) -> list[Batch]:
        plans = [self._plan(number) for number in numbers]
        return self._batches_of(numbers, plans, self._pixels(numbers.start, plans))

    def _batches_of(
        self, numbers: Sequence[int], plans: Sequence[_Plan], pixels: Tensor
    ) -> list[Batch]:
        """What the plans make of images uint8 [n, H, W, C], which are those of all their rows."""
        drawn = [
            self.views.draw(self.batch_size, generator(self.seed, "views", number))
            for number in numbers
        ]
        parameters = {
            key: torch.cat([one[key][plan.rows] for one, plan in zip(drawn, plans, strict=True)])
            for key in drawn[0]
        }
        views = self.views.apply(pixels, parameters, dtype=self.dtype)
        sizes = [len(plan.rows) for plan in plans]  # without partners where nothing is mixed
        by_batch = zip(*(view.split(sizes) for view in views), strict=True)
        return [
            self._batch(plan, own_views) for plan, own_views in zip(plans, by_batch, strict=True)
        ]

    def _pixels(self, start: int, plans: list[_Plan]) -> Tensor:
        """Images of the rows of batch ``start`` and on: uint8 [n, H, W, C], on the device."""
        images = self.images.images
        if not isinstance(images, FolderImages):
            indices = torch.cat([plan.indices for plan in plans])
            return self.images.gather(indices).to(self._device)
        if self._decoder is None:
            self._decoder = decoded_batches(
                images,
                lambda number: self._plan(number).indices,
                start,
                workers=self.workers,
                pin=self._device.type == "cuda",
            )
        return torch.cat([next(self._decoder).to(self._device, non_blocking=True) for _ in plans])

    def _batch(self, plan: _Plan, views: tuple[Tensor, ...]) -> Batch:
        indices = plan.indices.to(self._device)
        own, labels = indices[: plan.own], self._labels[indices]
        if plan.partner is None:
            return Batch(views, labels, own)
        if self.num_classes is not None and labels.ndim == 1:
            labels = one_hot(labels, self.num_classes)
        labels = labels.to(torch.promote_types(self.dtype, torch.float32))
        if plan.share == 1:
            return Batch(views, labels, own)
        partner = plan.partner.to(self._device)
        *mixed, soft = (
            value[: plan.own] * plan.share + value[partner] * (1 - plan.share)
            for value in (*views, labels)
        )
        return Batch(tuple(mixed), soft, own)


def iterate(
    images: ImageSet,
    batch_size: int,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    workers: int = 0,
) -> Iterator[tuple[Tensor, Tensor]]:
    """All images once, in order, as they are.

    Args:
        images: N of them.
        batch_size: images a batch; the last one has what is left.
        mean, std: one a channel, on a scale from 0 to 1.
        device, dtype: of the images.
        workers: processes that decode images that are not in memory, at most one a core.

    Yields:
        normalized images [n, C, H, W] and their labels, as in ``images``.

    Raises:
        RequestError: an image that cannot be decoded.
    """
    exact = torch.promote_types(dtype, torch.float32)
    batches = torch.arange(len(images)).split(batch_size)
    for positions, given in zip(batches, _in_order(images, batches, device, workers), strict=True):
        pixels = to_float(given.to(device), exact)
        labels = images.labels[positions.to(images.labels.device)].to(device)
        yield normalize_(pixels, mean, std).to(dtype), labels


def _in_order(
    images: ImageSet, batches: Sequence[Tensor], device: torch.device | str, workers: int
) -> Iterator[Tensor]:
    """The images of those positions, a batch at a time: uint8 [n, H, W, C]."""
    if not isinstance(images.images, FolderImages):
        return map(images.gather, batches)
    return decoded_batches(
        images.images,
        batches.__getitem__,
        0,
        len(batches),
        workers=0 if len(batches) == 1 else workers,
        pin=torch.device(device).type == "cuda",
    )
