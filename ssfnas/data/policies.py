"""AutoAugment and TrivialAugment after a random crop and flip."""

from __future__ import annotations

import functools
import re
from abc import abstractmethod

import torch
from torch import Tensor

from ssfnas.data.policy_operations import NAMES, OPERATIONS, SIGNED
from ssfnas.data.views import VIEWS, CropFlip, Parameters, to_float

_IDENTITY = NAMES.index("identity")


@functools.cache
def cifar10_policy() -> tuple[tuple[tuple[str, int, int], ...], ...]:
    """The 25 sub-policies that AutoAugment found on CIFAR-10 (Cubuk et al., 2019).

    Each is twice an operation, its probability in tenths, and the number of its magnitude (0 where
    it has none).
    """
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    return tuple(
        tuple(
            (re.sub(r"\B[A-Z]", r"_\g<0>", name).lower(), round(10 * probability), level or 0)
            for name, probability, level in pair
        )
        for pair in AutoAugment(AutoAugmentPolicy.CIFAR10).policies
    )


class PolicyViews(CropFlip):
    """A random crop and flip, then operations drawn by a policy.

    A subclass gives :meth:`draw_operations`. Each operation of a slot treats all images at once
    that drew it.
    """

    @abstractmethod
    def draw_operations(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Numbers of operations in ``NAMES``, int64 [n, slots], and magnitudes, float64 alike."""

    def draw_parameters(self, n: int, generator: torch.Generator) -> Parameters:
        """Crop and flip, then operations with signed magnitudes."""
        parameters = super().draw_parameters(n, generator)
        operation, magnitude = self.draw_operations(n, generator)
        negate = torch.randint(2, operation.shape, generator=generator).bool()
        signed = torch.tensor([name in SIGNED for name in NAMES])[operation]
        parameters["operation"] = operation
        parameters["magnitude"] = torch.where(negate & signed, -magnitude, magnitude)
        return parameters

    def pixels(self, images: Tensor, parameters: Parameters, dtype: torch.dtype) -> list[Tensor]:
        """The cropped images after every slot's operations."""
        images = self.crop(images, parameters)
        slots = (parameters[key].unbind(1) for key in ("operation", "magnitude"))
        for operation, magnitude in zip(*slots, strict=True):
            for number in torch.unique(operation[operation != _IDENTITY]).tolist():
                rows = torch.nonzero(operation == number)[:, 0]
                place = rows.to(images.device)
                changed = OPERATIONS[NAMES[number]](images[place], magnitude[rows])
                images.index_copy_(0, place, changed)
        return [to_float(images, dtype)]


def magnitudes(
    bins: int,
    *,
    shear: float,
    translate: tuple[float, float],
    rotate: float,
    blend: float,
    bits: int,
) -> Tensor:
    """Each operation's magnitudes from the weakest to the strongest: float64 [operations, bins].

    Args:
        bins: magnitudes an operation.
        shear, rotate, blend: the largest, in pixels a pixel, degrees, and share of the image.
        translate: the largest along x and along y, in pixels.
        bits: the most that posterize takes away.
    """
    level = torch.linspace(0, 1, bins, dtype=torch.float64)
    table = {
        "shear_x": shear * level,
        "shear_y": shear * level,
        "translate_x": translate[0] * level,
        "translate_y": translate[1] * level,
        "rotate": rotate * level,
        **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), blend * level),
        "posterize": 8 - (bits * level).round(),
        "solarize": 255 * (1 - level),
    }
    return torch.stack([table.get(name, torch.zeros_like(level)) for name in NAMES])


@VIEWS.register("autoaugment")
class AutoAugmentViews(PolicyViews):
    """Crop, flip, and AutoAugment's policy for CIFAR-10 (Cubuk et al., 2019).

    One of 25 pairs of operations is drawn for an image; each of the two takes place with its own
    probability. What comes in from outside the image is mid-gray.
    """

    def draw_operations(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Two operations an image."""
        height, width = self.image_size
        translate = (150 / 331 * width, 150 / 331 * height)
        table = magnitudes(10, shear=0.3, translate=translate, rotate=30, blend=0.9, bits=4)
        pairs = torch.tensor(
            [[(NAMES.index(o), p, level) for o, p, level in pair] for pair in cifar10_policy()]
        )
        chosen = pairs[torch.randint(len(pairs), (n,), generator=generator)]  # [n, 2, 3]
        operation, tenths, level = chosen.unbind(2)
        happens = torch.rand((n, 2), generator=generator) < tenths / 10
        return torch.where(happens, operation, _IDENTITY), table[operation, level]


@VIEWS.register("trivialaugment")
class TrivialAugmentViews(PolicyViews):
    """Crop, flip, and TrivialAugment's wide space (Müller and Hutter, 2021).

    One of 14 operations, the identity among them, at one of 31 magnitudes, all alike probable.
    """

    def draw_operations(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One operation an image."""
        table = magnitudes(31, shear=0.99, translate=(32, 32), rotate=135, blend=0.99, bits=6)
        # All operations but the last one, invert.
        operation = torch.randint(len(NAMES) - 1, (n, 1), generator=generator)
        level = torch.randint(31, (n, 1), generator=generator)
        return operation, table[operation, level]
