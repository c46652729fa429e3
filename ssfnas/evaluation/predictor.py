"""A trained network at work: probabilities for images, a batch at a time."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ssfnas.data.file_warnings import about, gathered_warnings
from ssfnas.data.image_places import given_images
from ssfnas.data.new_images import ImageForm, ImageName, NewImages, Taken, read_ahead
from ssfnas.data.views import normalize_, to_float
from ssfnas.errors import NumericalError, RequestError
from ssfnas.evaluation.features import MOST_PIXELS, classifier_of
from ssfnas.evaluation.networks import logits_of
from ssfnas.objectives.classification import at_least_float32
from ssfnas.runs.data_card import DataCard
from ssfnas.runtime.distributed import choose_device
from ssfnas.runtime.precision import autocast

Correction = Callable[[Tensor, Tensor | None], Tensor]
"""Logits [n, C], and what the classifier made them of [n, F] -> logits [n, C]."""


@dataclass(frozen=True, eq=False)
class PredictedBatch:
    """What a network says of a few images.

    Attributes:
        names: n, which images they are.
        problems: n, why one could not be read; empty where it could.
        probabilities: float64 [n, C] on the CPU: the softmax of the logits; with several labels an
            image the sigmoid of each. NaN where an image could not be read.
        decided: bool [n, C] on the CPU: the most probable class; with several labels those whose
            logit lies above its threshold.
        pixels: uint8 [n, H, W, C], what the network saw.
    """

    names: list[ImageName]
    problems: list[str]
    probabilities: Tensor
    decided: Tensor
    pixels: Tensor


@dataclass(eq=False)
class Predictor:
    """Passes images through a network.

    Args:
        net: in evaluation mode, on ``device``.
        card: of the data that it was trained on.
        device: where to compute.
        thresholds: with several labels an image: the logit of each above which it is decided for,
            float [C]; None: 0, a probability of 0.5.
        correct: what to make of logits; None: nothing.
        takes_features: whether ``correct`` wants what the classifier made the logits of.
        precision: fp32, bf16 or fp16.
        batch_size: images a pass; fewer where they would have more than ``MOST_PIXELS``.
        workers: processes that decode meanwhile.
        skip_corrupt: how many files that cannot be read are left out.

    Attributes:
        done: by key of :data:`ssfnas.data.new_images.DONE`, to how many images so far.
        unread: files that could not be read so far.
    """

    net: nn.Module
    card: DataCard
    device: torch.device
    thresholds: Tensor | None = None
    correct: Correction | None = None
    takes_features: bool = False
    precision: str = "fp32"
    batch_size: int = 256
    workers: int = 4
    skip_corrupt: int = 0
    done: Counter[str] = field(default_factory=Counter, init=False)
    unread: int = field(default=0, init=False)

    def predict(self, images: Sequence[NewImages]) -> Iterator[PredictedBatch]:
        """What the network says, in order.

        Raises:
            RequestError: more files that cannot be read than may be left out.
            NumericalError: an output is not finite.
        """
        height, width = self.card.image_size
        most = min(self.batch_size, max(1, MOST_PIXELS // (height * width)))
        for source in images:
            kept: list[Taken] = []
            start = 0
            reading = read_ahead(source, workers=self.workers, pin=self.device.type == "cuda")
            for positions, taken in reading:
                self._note(taken)
                kept.append(taken)
                if positions.stop - start >= most or positions.stop == len(source):
                    pixels = torch.cat([one.pixels for one in kept])
                    problems = [problem for one in kept for problem in one.problems]
                    for at in range(0, len(pixels), most):
                        part = slice(at, at + most)
                        names = [source.name(start + at + row) for row in range(len(pixels[part]))]
                        yield self._batch(names, problems[part], pixels[part])
                    kept, start = [], positions.stop

    def _note(self, taken: Taken) -> None:
        self.done.update(taken.done)
        with gathered_warnings(once=True):
            for path, text in taken.warned:
                with about(path):
                    warnings.warn(text, stacklevel=2)
        found = [problem for problem in taken.problems if problem]
        self.unread += len(found)
        if self.unread > self.skip_corrupt:
            if not self.skip_corrupt:
                raise RequestError(found[0])
            raise RequestError(
                f"{self.unread} files cannot be read, more than --skip-corrupt "
                f"{self.skip_corrupt}; the last: {found[-1]}"
            )

    def _batch(self, names: list[ImageName], problems: list[str], pixels: Tensor) -> PredictedBatch:
        rows = [row for row, problem in enumerate(problems) if not problem]
        shape = len(names), len(self.card.class_names)
        probabilities = torch.full(shape, float("nan"), dtype=torch.float64)
        decided = torch.zeros(shape, dtype=torch.bool)
        if rows:
            logits = self._logits(pixels if len(rows) == len(names) else pixels[rows])
            if not bool(torch.isfinite(logits).all()):
                raise NumericalError(
                    f"the network gives no finite numbers for {names[rows[0]].file or 'an image'} "
                    "or others of its batch: its weights are damaged, or --precision is too low"
                )
            probabilities[rows], decided[rows] = self._decided(logits.cpu())
        return PredictedBatch(names, problems, probabilities, decided, pixels)

    def _decided(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        if self.card.multi_label:
            above = logits if self.thresholds is None else logits - self.thresholds.to(logits)
            return logits.double().sigmoid(), above > 0
        best = logits.double().argmax(1, keepdim=True)
        chosen = torch.zeros(logits.shape, dtype=torch.bool).scatter_(1, best, True)
        return logits.double().softmax(1), chosen

    @torch.inference_mode()
    def _logits(self, pixels: Tensor) -> Tensor:
        taken: list[Tensor] = []
        x = to_float(pixels.to(self.device, non_blocking=True), torch.float32)
        x = normalize_(x, self.card.mean, self.card.std)
        hook = None
        if self.takes_features:
            classifier = classifier_of(self.net)
            hook = classifier.register_forward_pre_hook(lambda _, given: taken.append(given[0]))
        try:
            with autocast(self.precision, self.device):
                output = logits_of(self.net(x))
        finally:
            if hook is not None:
                hook.remove()
        logits = at_least_float32(output)
        if self.correct is None:
            return logits
        return self.correct(logits, at_least_float32(taken[0]) if taken else None)


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a network says of images.

    Attributes:
        names: N, which images they are.
        class_names: C.
        probabilities: float64 [N, C]; see :class:`PredictedBatch`.
        decided: bool [N, C], likewise.
        notes: what was done to the images, a line each.
    """

    names: tuple[ImageName, ...]
    class_names: tuple[str, ...]
    probabilities: Tensor
    decided: Tensor
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def classes(self) -> list[str]:
        """The name of the most probable class, or label, of each image."""
        return [self.class_names[number] for number in self.probabilities.argmax(1).tolist()]


def predictions(
    net: nn.Module,
    card: DataCard,
    images: Any,
    *,
    background: str,
    thresholds: Sequence[float] | None,
    device: str = "auto",
    batch_size: int = 256,
    workers: int = 4,
) -> Predictions:
    """What a network says of images that a call hands over, all in memory.

    Args:
        net: in evaluation mode; it is moved to the device.
        card: of the data that it was trained on.
        images: see :func:`ssfnas.data.image_places.given_images`.
        background: what transparent pixels are composed on.
        thresholds: with several labels an image: the logit of each above which it is decided for;
            None: 0.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        batch_size: images a pass at most.
        workers: processes that decode image files, at most one a core.

    Raises:
        RequestError: images that are not there or cannot be read.
    """
    place, form = choose_device(device), image_form(card, background)
    predictor = Predictor(
        net.to(place), card, place,
        thresholds=None if thresholds is None else torch.tensor(thresholds),
        batch_size=batch_size, workers=workers,
    )  # fmt: skip
    batches = list(predictor.predict(given_images(images, form)))
    names = tuple(name for batch in batches for name in batch.names)
    return Predictions(
        names,
        card.class_names,
        torch.cat([batch.probabilities for batch in batches]),
        torch.cat([batch.decided for batch in batches]),
        tuple(form.notes(predictor.done, len(names) - predictor.unread)),
    )


def image_form(card: DataCard, background: str) -> ImageForm:
    """What a network takes that was trained on data of this card."""
    height, width = card.image_size
    return ImageForm(height, width, card.in_channels, background, card.pixel_range)
