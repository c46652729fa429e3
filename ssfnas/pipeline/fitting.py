"""Values that nobody asked for, fitted to the data: images a step, and how many steps.

What defaults and presets say is meant for thousands of images. With fewer, a batch would hold some
of them twice, and a number of epochs would be a handful of steps. What was asked for is kept, or
refused where a batch would have more images than there are.
"""

from __future__ import annotations

from ssfnas.config import RetrainConfig, SearchConfig, origin_of
from ssfnas.data import ImageData, half_sizes
from ssfnas.errors import RequestError

FEWEST_SEARCH_STEPS = 1000
"""Alphas need some 600 updates to pass a threshold of 0.85 at the default learning rate."""
FEWEST_RETRAIN_STEPS = 500
MOST_PASSES = 100
"""Over the images in the steps of a preset, unless these would be fewer than the fewest steps."""

_SMALL_BATCH = 8
_STEPS_AN_EPOCH = 4


def fit_search(config: SearchConfig, data: ImageData, world_size: int) -> list[str]:
    """Fit a search to its data; what changes is changed in ``config``.

    Args:
        config: the search's.
        data: what it searches on; each half of the training part makes batches.
        world_size: processes that share a batch.

    Returns:
        what to say of it: a line, or none.

    Raises:
        RequestError: a batch was asked for that has more images than a half.
    """
    halves = half_sizes(data.train.labels)
    if not min(halves):
        return []  # the trainer says so
    where = f"in each half of the {len(data.train):,} training images"
    said = _fit_batch(config, "batch_size", min(halves), where, world_size)
    said += _fit_length(config, halves[0], FEWEST_SEARCH_STEPS)
    return _line(said, min(halves), where)


def fit_retraining(config: RetrainConfig, data: ImageData, world_size: int) -> list[str]:
    """Fit a retraining to its data; see :func:`fit_search`."""
    images, where = len(data.train), "to train on"
    said = _fit_batch(config, "batch_size", images, where, world_size)
    if config.pretrain_epochs > 0:
        said += _fit_batch(config, "pretrain_batch_size", images, where, world_size)
    said += _fit_length(config, images, FEWEST_RETRAIN_STEPS)
    return _line(said, images, where)


def _line(said: list[str], images: int, where: str) -> list[str]:
    return [f"fitted       {', '.join(said)}: there are {images:,} images {where}"] if said else []


def _fit_batch(
    config: SearchConfig | RetrainConfig, name: str, images: int, where: str, world_size: int
) -> list[str]:
    """Give a batch no more images than there are, and an epoch a few steps."""
    given: int = getattr(config, name)
    flag = "--" + name.replace("_", "-")
    most = images // world_size * world_size
    if most == 0:
        raise RequestError(
            f"there are {images} images {where}, which {world_size} processes cannot share: give "
            "more images, or start fewer processes"
        )
    if name in origin_of(config).asked:
        if given > most:
            raise RequestError(
                f"{flag} {given}: there are {images:,} images {where}, so a step would take some "
                f"of them twice: {most} is the most, or leave it out"
            )
        return []
    # A power of two that leaves a few steps an epoch.
    wanted = max(_SMALL_BATCH, 1 << (images // _STEPS_AN_EPOCH).bit_length() >> 1)
    fitting = min(given, max(wanted // world_size, 2) * world_size, most)
    if fitting == given:
        return []
    setattr(config, name, fitting)
    return [f"{flag} {fitting} in place of {given}"]


def _fit_length(config: SearchConfig | RetrainConfig, images: int, fewest: int) -> list[str]:
    """Give few images as many passes as make ``fewest`` steps, and no preset far more."""
    asked = origin_of(config).asked
    if asked & {"steps", "epochs"}:
        return []
    an_epoch = -(-images // config.batch_size)
    if config.steps is not None:
        fitting = min(config.steps, max(fewest, MOST_PASSES * an_epoch))
        if fitting == config.steps:
            return []
        said = f"--steps {fitting:,} in place of {config.steps:,}"
        config.steps = fitting
        return [said]
    fitting = max(config.epochs, -(-fewest // an_epoch))
    if fitting == config.epochs:
        return []
    said = f"--epochs {fitting} in place of {config.epochs}"
    config.epochs = fitting
    return [said]
