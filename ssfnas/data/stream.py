"""Batches of views: resumable anywhere, shared by processes, made many at a time."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ssfnas.data.decoding import FolderImages
from ssfnas.data.imageset import ImageSet
from ssfnas.data.loading import decoded_batches
from ssfnas.data.sampling import IndexStream
from ssfnas.data.views import Parameters, Views, normalize_, to_float
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
class _Rows:
    """Which rows of a global batch a process makes, and how it mixes them."""

    rows: (
        Tensor  # of the global batch; own rows first, then their partners' where those are others'
    )
    own: int
    partner: Tensor | None  # for each own row, the place of its partner in `rows`
    share: float  # of the row itself


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
        rank, world_size: which process of how many this is.
        workers: processes that decode images that are not in memory.
        dtype: of the views.
        chunk: images whose views are made at a time; ``None``: 2048 on a GPU, 256 elsewhere, fewer
            where they would take more than 256 MiB.

    Raises:
        RequestError: a batch size below 1 or not a multiple of the number of processes, or what
            :class:`IndexStream` refuses.
    """

    def __init__(
        self,
        images: ImageSet,
        indices: Tensor,
        batch_size: int,
        views: Views,
        *,
        seed: int,
        device: torch.device | str,
        num_classes: int | None = None,
        sampling_exponent: float = 1.0,
        mixup: float = 0.0,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        dtype: torch.dtype = torch.float32,
        chunk: int | None = None,
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise RequestError(
                f"batch size {batch_size} with {world_size} processes: it must be a multiple of "
                "their number"
            )
        if not 0 <= mixup < float("inf"):
            raise RequestError(f"mixup {mixup:g}: its alpha must be 0 (none) or more")
        if mixup and not images.multi_label and num_classes is None:
            raise ValueError("mixup makes soft labels: give num_classes")
        self.images = images
        self.batch_size = batch_size
        self.views = views
        self.seed = seed
        self.device = torch.device(device)
        self.num_classes = num_classes
        self.mixup = mixup
        self.rank = rank
        self.world_size = world_size
        self.workers = workers
        self.dtype = dtype
        self._order = IndexStream(images.labels, indices, seed, sampling_exponent)
        self._labels = images.labels.to(self.device)
        self._batches = self._batches_at_a_time(chunk)
        self._position = 0
        self._made: list[Batch] = []
        self._made_from = 0
        self._decoder: Generator[Tensor, None, None] | None = None
        self._decoder_next = -1

    def _batches_at_a_time(self, chunk: int | None) -> int:
        if chunk is None:
            height, width = self.images.image_size
            values = self.views.count * self.images.in_channels * height * width
            fit = _CHUNK_BYTES // (values * self.dtype.itemsize)
            chunk = min(_CHUNK_CUDA if self.device.type == "cuda" else _CHUNK_CPU, fit)
        return max(1, chunk // (self.batch_size // self.world_size))

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
        self._made = []
        self.close()

    def close(self) -> None:
        """End the processes that decode; the stream can be used on, and starts them again."""
        decoder, self._decoder = self._decoder, None
        if decoder is not None:
            decoder.close()

    def next(self) -> Batch:
        """The next batch, on the device.

        Raises:
            RequestError: an image that cannot be decoded.
        """
        place = self._position - self._made_from
        if not 0 <= place < len(self._made):
            first = self._position // self._batches * self._batches
            self._made = []  # its memory is free for what comes
            self._made = self._make(range(first, first + self._batches))
            self._made_from = first
            place = self._position - first
        self._position += 1
        return self._made[place]

    def _indices(self, number: int) -> Tensor:
        """Image positions of a global batch."""
        return self._order.slice(number * self.batch_size, (number + 1) * self.batch_size)

    def _rows(self, number: int) -> _Rows:
        own = self.batch_size // self.world_size
        rows = torch.arange(own) + self.rank * own
        if not self.mixup:
            return _Rows(rows, own, None, 1.0)
        random = np.random.default_rng(derive_seed(self.seed, "mixup", number))
        share = float(random.beta(self.mixup, self.mixup))
        partner = torch.from_numpy(random.permutation(self.batch_size))[rows]
        if self.world_size == 1:
            return _Rows(rows, own, partner, share)
        return _Rows(torch.cat([rows, partner]), own, torch.arange(own) + own, share)

    def _made_indices(self, number: int) -> Tensor:
        """Image positions of the rows of a batch that this process makes."""
        return self._indices(number)[self._rows(number).rows]

    def _pixels(self, numbers: range, indices: Tensor) -> Tensor:
        """Images of the rows of those batches: uint8 [n, H, W, C], on the device."""
        images = self.images.images
        if not isinstance(images, FolderImages):
            return self.images.gather(indices).to(self.device)
        if self._decoder is None or self._decoder_next != numbers.start:
            self.close()
            self._decoder = decoded_batches(
                images,
                self._made_indices,
                numbers.start,
                workers=self.workers,
                pin=self.device.type == "cuda",
            )
        decoded = [next(self._decoder).to(self.device, non_blocking=True) for _ in numbers]
        self._decoder_next = numbers.stop
        return torch.cat(decoded)

    def _make(self, numbers: range) -> list[Batch]:
        plans = [self._rows(number) for number in numbers]
        indices = [
            self._indices(number)[plan.rows] for number, plan in zip(numbers, plans, strict=True)
        ]
        drawn = [self._draw(number, plan.rows) for number, plan in zip(numbers, plans, strict=True)]
        parameters = {key: torch.cat([each[key] for each in drawn]) for key in drawn[0]}
        pixels = self._pixels(numbers, torch.cat(indices))
        views = self.views.apply(pixels, parameters, dtype=self.dtype)
        sizes = [len(plan.rows) for plan in plans]
        by_batch = list(zip(*(view.split(sizes) for view in views), strict=True))
        return [
            self._batch(plan, own_views, positions.to(self.device))
            for plan, own_views, positions in zip(plans, by_batch, indices, strict=True)
        ]

    def _draw(self, number: int, rows: Tensor) -> Parameters:
        drawn = self.views.draw(self.batch_size, generator(self.seed, "views", number))
        return {key: value[rows] for key, value in drawn.items()}

    def _batch(self, plan: _Rows, views: tuple[Tensor, ...], indices: Tensor) -> Batch:
        labels = self._labels[indices]
        own = indices[: plan.own]
        if plan.partner is None:
            return Batch(views, labels, own)
        exact = torch.float64 if self.dtype == torch.float64 else torch.float32
        if labels.ndim == 1:
            assert self.num_classes is not None
            labels = torch.nn.functional.one_hot(labels, self.num_classes)
        labels = labels.to(exact)
        partner = plan.partner.to(self.device)
        mixed = [
            value[: plan.own] * plan.share + value[partner] * (1 - plan.share)
            for value in (*views, labels)
        ]
        return Batch(tuple(mixed[:-1]), mixed[-1], own)


def iterate(
    images: ImageSet,
    batch_size: int,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
) -> Iterator[tuple[Tensor, Tensor]]:
    """All images once, in order, as they are.

    Args:
        images: N of them.
        batch_size: images a batch; the last one has what is left.
        mean, std: one a channel, on a scale from 0 to 1.
        device, dtype: of the images.

    Yields:
        normalized images [n, C, H, W] and their labels, as in ``images``.
    """
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    for positions in torch.arange(len(images)).split(batch_size):
        pixels = to_float(images.gather(positions).to(device), exact)
        labels = images.labels[positions.to(images.labels.device)].to(device)
        yield normalize_(pixels, mean, std).to(dtype), labels
