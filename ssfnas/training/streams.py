"""Streams of training batches, as a config wants them."""

from __future__ import annotations

import torch
from torch import Tensor

from ssfnas.config import RetrainConfig, SearchConfig
from ssfnas.data import ImageData, ImageStream, make_views
from ssfnas.runtime.distributed import World
from ssfnas.seeding import derive_seed


def training_stream(
    config: SearchConfig | RetrainConfig,
    data: ImageData,
    purpose: str,
    views: str,
    world: World,
    dtype: torch.dtype,
    *,
    indices: Tensor | None = None,
    batch_size: int | None = None,
    cutout: int = 0,
    mixup: float = 0.0,
    sampling_exponent: float = 1.0,
) -> ImageStream:
    """An endless stream of batches of training images.

    Args:
        config: of the search or retraining.
        data: the images, on the device that computes unless they are decoded lazily.
        purpose: the stream's order and views depend on it and on the seed alone.
        views: their name.
        world: the processes that share each batch.
        dtype: of the views.
        indices: int64 [n], the images to take; None: all.
        batch_size: over all processes; None: the config's.
        cutout: see :class:`~ssfnas.data.Views`.
        mixup, sampling_exponent: see :class:`~ssfnas.data.ImageStream`.
    """
    return ImageStream(
        data.train,
        torch.arange(len(data.train)) if indices is None else indices,
        batch_size or config.batch_size,
        make_views(views, image_size=data.image_size, mean=data.mean, std=data.std, cutout=cutout),
        seed=derive_seed(config.seed, purpose),
        device=world.device,
        num_classes=data.num_classes,
        sampling_exponent=sampling_exponent,
        mixup=mixup,
        rank=world.rank,
        world_size=world.size,
        workers=config.workers,
        dtype=dtype,
    )
