"""Decoding the images of coming batches in other processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Generator
from itertools import count
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ssfnas.errors import RequestError

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)


class Decodable(Protocol[Result_co]):
    """Images that are decoded when asked for, a batch at a time."""

    def __getitem__(self, indices: list[int], /) -> Result_co: ...


class _Decoded(Dataset[Result | str], Generic[Result]):
    """Whole batches of images; what is wrong with one is returned, not raised."""

    def __init__(self, images: Decodable[Result]) -> None:
        self.images = images

    def __getitem__(self, indices: list[int]) -> Result | str:
        try:
            return self.images[indices]
        except RequestError as error:
            # Raised again in the parent process: there it is one line, not a worker's traceback.
            return str(error)


def ignore_signals(worker: int = 0) -> None:
    """Interrupting a run reaches every process of it; only the parent decides what to do."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def decoded_batches(
    images: Decodable[Result],
    rows: Callable[[int], Tensor],
    start: int,
    stop: int | None = None,
    *,
    workers: int,
    pin: bool,
) -> Generator[Result, None, None]:
    """Decoded images of batch ``start`` and those that follow.

    Args:
        images: where they come from; a folder's are uint8 [n, H, W, C].
        rows: the positions of a batch of that number.
        start: the first batch.
        stop: the batch to end before; None: there is no end.
        workers: processes that decode ahead, at most one a core; 0: decoded here when asked
            for.
        pin: whether they are put where a GPU fetches them quickly.

    Raises:
        RequestError: when an image cannot be decoded, as its batch is reached.
    """
    numbers = count(start) if stop is None else range(start, stop)
    loader = DataLoader(
        _Decoded(images),
        sampler=(rows(number).tolist() for number in numbers),
        batch_size=None,  # the sampler's items are batches already
        num_workers=min(workers, os.cpu_count() or 1),
        worker_init_fn=ignore_signals,
        pin_memory=pin,
        # Its own, so that the global generator is neither used nor advanced.
        generator=torch.Generator().manual_seed(0),
    )
    for batch in loader:
        if isinstance(batch, str):
            raise RequestError(batch)
        yield batch
