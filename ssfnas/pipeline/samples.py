"""A few training images and their views, for ``samples.npz``: what a network gets to see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssfnas.data import Batch, ImageStream
from ssfnas.data.views import to_uint8
from ssfnas.pictures.gallery import reduced
from ssfnas.seeding import derive_seed, seeded_draws
from ssfnas.training.trainer import Trainer

MOST_CLASSES = 12
_OF_A_CLASS = 3

Arrays = dict[str, NDArray[np.generic]]


def shown_classes(counts: Sequence[int], most: int = MOST_CLASSES) -> list[int]:
    """Classes with images, the largest first: all, or the largest, the middle and the smallest.

    Args:
        counts: images of each class.
        most: at most so many classes, a third of each kind.
    """
    order = sorted((c for c, count in enumerate(counts) if count), key=lambda c: -counts[c])
    if len(order) <= most:
        return order
    third = most // 3
    middle = (len(order) - third) // 2
    return [*order[:third], *order[middle : middle + third], *order[-third:]]


def sample_arrays(trainer: Trainer) -> Arrays:
    """Images of several classes as they are, and as the first epoch's batches hold them.

    A pure function of config and data: no stream moves, and no generator of the training is drawn
    from.

    Args:
        trainer: of any kind; its main process is enough.

    Returns:
        ``images`` uint8 [n, H, W] or [n, H, W, 3], at most 160 pixels a side; ``labels`` int64
        [n], or 0 and 1 [n, L]; ``views`` like the images, [n, V, ...]: those of each kind of
        updates one after the other (pre-training, labels); ``shares`` float [n, C], where images
        are mixed: of each class in the last view.

    Raises:
        RequestError: an image that cannot be decoded.
    """
    streams = _kinds_of_views(trainer)
    train, labels = trainer.data.train, trainer.data.train.labels.cpu()
    indices = _chosen(streams[-1], labels, trainer.data.class_counts)
    views: list[Tensor] = []
    with seeded_draws(derive_seed(trainer.config.seed, "samples"), trainer.world.device):
        for stream in streams:
            batch = stream.at(_places(stream, indices))
            views += _pixels(stream, batch)
    arrays: Arrays = {
        "images": _small(train.gather(indices)),
        "labels": labels[indices].numpy(),
        "views": np.stack([_small(view) for view in views], 1),
    }
    if batch.labels.ndim > labels.ndim:
        arrays["shares"] = batch.labels.float().cpu().numpy()
    return arrays


def _kinds_of_views(trainer: Trainer) -> list[ImageStream]:
    """A stream for each kind of views that there is, in the order in which they are used.

    Of several the one that takes every image of an epoch once, where there is such a one.
    """
    kinds: dict[tuple[object, ...], ImageStream] = {}
    for stream in (passes.stream for passes in trainer.passes):
        kind = (type(stream.views), stream.views.cutout, stream.mixup > 0)
        if kind not in kinds or stream.sampling_exponent > kinds[kind].sampling_exponent:
            kinds[kind] = stream
    return list(kinds.values())


def _chosen(stream: ImageStream, labels: Tensor, counts: Sequence[int]) -> Tensor:
    """Positions of the images: of each class the first that the stream comes upon."""
    order = stream.order(0, stream.steps_per_epoch * stream.batch_size)
    order = order[np.sort(np.unique(order.numpy(), return_index=True)[1])]
    found: dict[int, None] = {}
    for number in shown_classes(counts):
        own = labels[order]
        members = own == number if own.ndim == 1 else own[:, number] > 0.5
        new = [i for i in order[members].tolist() if i not in found]
        found.update(dict.fromkeys(new[:_OF_A_CLASS]))
    return torch.tensor(list(found), dtype=torch.int64)


def _places(stream: ImageStream, indices: Tensor) -> Tensor:
    """Where the stream first comes upon each image."""
    length = stream.steps_per_epoch * stream.batch_size
    order = stream.order(0, length)
    return torch.tensor([int((order == index).nonzero()[0]) for index in indices])


def _pixels(stream: ImageStream, batch: Batch) -> list[Tensor]:
    return [to_uint8(view, stream.views.mean, stream.views.std) for view in batch.views]


def _small(images: Tensor) -> NDArray[np.uint8]:
    """uint8 [n, h, w] or [n, h, w, 3] of images uint8 [n, H, W, C]."""
    return np.stack([reduced(image) for image in images.cpu().numpy()])
