"""The data that a trained network is measured on: of its classes, its channels and its size."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import torch

from ssfnas.config import DataOptions, EvaluateConfig
from ssfnas.data import ImageData, ImageSet, load_data
from ssfnas.data.folder import SeveralSizesError
from ssfnas.errors import RequestError
from ssfnas.evaluation.class_matching import matched
from ssfnas.pipeline.run import Run
from ssfnas.runs.data_card import DataCard


def evaluation_data(run: Run, config: EvaluateConfig) -> tuple[ImageData, list[str]]:
    """What ``config`` asks to measure the network of ``run`` on, fit for it.

    Returns:
        The data, and what was done to make them fit, a line each.

    Raises:
        RequestError: they cannot be read, or do not fit.
    """
    if config.dataset is None:
        return own_data(run, config)
    # What a run cut down or held out, it did to data of its own.
    cut = ["imbalance_ratio", "profile", "validation_share"]
    if not Path(config.dataset).expanduser().is_dir():
        cut += ["background", "skip_corrupt"]  # they are about folders
    plain = {name: getattr(DataOptions(), name) for name in cut}
    others = _options(run, config, dataset=config.dataset, **plain)
    data, notes = _fitting(run, others)
    if others.image_size is not None:
        size = f"{others.image_size} x {others.image_size}"
        notes.insert(0, f"images of {data.name} are resized to {size}, as the run's own were")
    return data, notes


def own_data(run: Run, config: EvaluateConfig) -> tuple[ImageData, list[str]]:
    """The data that ``run`` was trained on, as they are today; see :func:`evaluation_data`."""
    data, notes = _fitting(run, _options(run, config))
    changed = run.data_card.difference(DataCard.of(data))
    if changed is not None:
        warnings.warn(f"{data.name} has changed since {run.path} began ({changed})", stacklevel=2)
    return data, notes


def balanced_training_images(run: Run, data: ImageData, config: EvaluateConfig) -> ImageSet:
    """As many training images of each class: of the whole data set where the run cut it down.

    Args:
        run: the retraining.
        data: its own.
        config: says where data are that were downloaded.
    """
    images = data.train
    if run.config.imbalance_ratio not in (None, 1):
        images = _fitting(run, _options(run, config, imbalance_ratio=None))[0].train
    labels = images.labels.cpu()
    fewest = min(count for count in images.class_counts(data.num_classes) if count)
    chosen = [(labels == c).nonzero().flatten()[:fewest] for c in range(data.num_classes)]
    return images.subset(torch.cat(chosen))


def _options(run: Run, config: EvaluateConfig, **changes: Any) -> DataOptions:
    """The part of a run's config that says which data it is about, with ``changes``."""
    names = [field.name for field in dataclasses.fields(DataOptions)]
    values = {name: getattr(run.config, name) for name in names}
    places = {} if config.data_dir is None else {"data_dir": config.data_dir}
    return DataOptions(**{**values, **places, **changes})


def _fitting(run: Run, options: DataOptions) -> tuple[ImageData, list[str]]:
    card = run.data_card
    data, sizes = _of_size(options, card)
    card.warn_of_another_depth(data)
    if data.in_channels != card.in_channels:
        raise RequestError(
            f"{data.name} has {data.in_channels} channel(s), the network of {run.path} takes "
            f"{card.in_channels}"
        )
    data, classes = matched(data, card, str(run.path))
    data = dataclasses.replace(data, workers=run.config.workers)
    return data, [*data.notes, *sizes, *classes]


def _of_size(options: DataOptions, card: DataCard) -> tuple[ImageData, list[str]]:
    """Images of the size (height, width) that the network was trained on, and what was done."""
    height, width = size = card.image_size
    square = height == width
    asked: SeveralSizesError | None = None
    data: ImageData | None = None
    try:
        data = load_data(options, pixel_range=card.pixel_range)
    except SeveralSizesError as error:
        asked = error
    if data is not None and data.image_size == size:
        return data, []
    name = options.dataset if data is None else data.name
    if not square:
        has = "several sizes" if data is None else "{1} x {0} pixels".format(*data.image_size)
        raise RequestError(
            f"{name}: images of {has}, and the network takes {width} x {height}: give images of "
            "that size"
        ) from asked
    resized = dataclasses.replace(options, image_size=height)
    data = load_data(resized, pixel_range=card.pixel_range)
    return data, [f"images of {name} were resized to {width} x {height}, as the network takes them"]
