"""Whether an exported network computes what the network does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ssfnas.errors import NumericalError
from ssfnas.exports.plain_network import PlainNetwork

BATCH_SIZES = (1, 5)
# Two ways to sum in float32 stray from float64 by errors of one magnitude, but not by the same.
_TIMES_OWN_ERROR = 10
# Where the network's own error happens to be tiny: a rounding in each of some dozens of layers.
_ROUNDINGS = 64


@dataclass(frozen=True)
class Agreement:
    """How far an exported network is from the one that it was made of, over some images.

    Attributes:
        difference: the largest absolute difference of two outputs.
        size: the largest absolute output.
        images: that were compared.
    """

    difference: float
    size: float
    images: int

    def __str__(self) -> str:
        if not self.difference:
            return f"gives the same bits as the network for {self.images} images"
        return (
            f"differs by at most {self.difference:.1e} from the network, whose outputs reach "
            f"{self.size:.3g} (batches of {' and '.join(map(str, BATCH_SIZES))})"
        )


@torch.no_grad()
def check(
    name: str, exported: Callable[[Tensor], Tensor], network: PlainNetwork, seed: int = 0
) -> Agreement:
    """Compare at two sizes of batches.

    Both forms compute in float32, in another order. What that costs is measured: the network's own
    error e against float64. The exported one may err by 10 e, or by 64 units in the last place of
    the largest output where that is more.

    Args:
        name: of the form, for the message.
        exported: images as ``network`` takes them -> outputs [N, classes] on the CPU.
        network: computes by the fast functions.
        seed: of the images.

    Raises:
        NumericalError: they differ by more than that.
    """
    difference = size = 0.0
    for count in BATCH_SIZES:
        images = network.draw(count, seed)
        own, exact, found = network(images), network.exact(images), exported(images)
        if found.shape != own.shape:
            shapes = f"{list(found.shape)} in place of {list(own.shape)}"
            raise NumericalError(f"{name} gives {shapes} for {count} image(s): nothing is written")
        largest = float(exact.abs().max())
        rounding = torch.finfo(torch.float32).eps * _ROUNDINGS * largest
        allowed = max(_TIMES_OWN_ERROR * float((own - exact).abs().max()), rounding)
        error = float((found - exact).abs().max())
        if not error <= allowed:
            raise NumericalError(
                f"{name} is off by {error:.1e} for a batch of {count}, where float32 explains "
                f"{allowed:.1e} of outputs up to {largest:.3g}: nothing is written"
            )
        difference = max(difference, float((found - own).abs().max()))
        size = max(size, largest)
    return Agreement(difference, size, sum(BATCH_SIZES))
