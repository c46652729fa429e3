"""A network from pixels to classes, of plain operations alone: what is exported as one graph."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import Tensor, nn

from ssfnas.exports.network_card import NetworkCard
from ssfnas.ops.selection import backend
from ssfnas.seeding import generator

FLOAT, NORMALIZED, BYTES = PIXELS = ("float", "normalized", "uint8")
LOGITS, PROBABILITIES = OUTPUTS = ("logits", "probabilities")
INPUT_NAME, BATCH_NAME = "images", "batch"


class PlainNetwork(nn.Module):
    """A trained network in evaluation mode, with its normalization before it.

    Args:
        net: images [N, C, H, W], normalized -> logits [N, classes].
        card: of the network.
        pixels: what is taken: ``"float"``: [N, C, H, W] in 0 .. 1; ``"normalized"``: the same less
            the mean, divided by the deviation; ``"uint8"``: [N, H, W, C] in 0 .. 255.
        output: ``"logits"``, or ``"probabilities"``: of one label an image by softmax, of several
            by a sigmoid for each.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, card: NetworkCard, pixels: str, output: str) -> None:
        super().__init__()
        self.net, self.pixels, self.output = net, pixels, output
        self.size = card.input_size
        self.multi_label = card.data.multi_label
        for name, values in (("mean", card.data.mean), ("std", card.data.std)):
            # As precise as what normalizes images for the network itself.
            column = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, column, persistent=False)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Images -> logits or probabilities [N, classes]."""
        if self.pixels == BYTES:
            images = images.permute(0, 3, 1, 2).to(self.mean.dtype) / 255
        if self.pixels != NORMALIZED:
            images = (images - self.mean) / self.std
        logits: Tensor = self.net(images)
        if self.output == LOGITS:
            return logits
        return logits.sigmoid() if self.multi_label else logits.softmax(1)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Of one image, as it is taken."""
        channels, height, width = self.size
        return (height, width, channels) if self.pixels == BYTES else self.size

    def draw(self, count: int, seed: int = 0) -> Tensor:
        """``count`` images of noise, spread as the training images are, in the form it takes."""
        draws = generator(seed, "exported images", count)
        noise = torch.randn(count, *self.size, generator=draws)
        levels = ((self.mean + self.std * noise).clamp(0, 1) * 255).round()
        if self.pixels == BYTES:
            return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
        unit = levels / 255
        return unit if self.pixels == FLOAT else (unit - self.mean) / self.std

    def exact(self, images: Tensor) -> Tensor:
        """What :meth:`forward` gives in float64."""
        wide = copy.deepcopy(self).double()
        with torch.no_grad(), backend("reference"):
            output: Tensor = wide(images if self.pixels == BYTES else images.double())
        return output


def trace(network: PlainNetwork) -> torch.export.ExportedProgram:
    """The graph of the textbook form, for batches of any size, without a trace of this machine."""
    batch = torch.export.Dim(BATCH_NAME, min=1)
    # Two examples: of a single one the batch would be taken for a constant.
    with torch.no_grad(), backend("reference"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            network, (network.draw(2),), dynamic_shapes={INPUT_NAME: {0: batch}}
        )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of files, and lines of code
    return program
