"""The layers between pooled features and the embeddings that Barlow Twins compares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn

from ssfnas.errors import RequestError
from ssfnas.layers.initialization import initial_draws
from ssfnas.layers.normalization import BatchNorm1d


class Projector(nn.Sequential):
    """Linear layers without bias, with BatchNorm and ReLU between them and none after the last.

    Args:
        in_features: F of the features [N, F].
        widths: outputs of each layer; the last is D of the embeddings [N, D].
        group: processes whose batches are one batch, for BatchNorm.
        generator: all initial draws come from it; None: from the global one.

    Raises:
        RequestError: no widths.

    Source: Zbontar et al., arXiv 2103.03230, section 3.2.
    """

    def __init__(
        self,
        in_features: int,
        widths: Sequence[int],
        *,
        group: dist.ProcessGroup | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if not widths:
            raise RequestError("the projector has no layers: give at least one width")
        layers: list[nn.Module] = []
        with initial_draws(generator):
            for number, width in enumerate(widths):
                layers.append(nn.Linear(in_features, width, bias=False))
                if number + 1 < len(widths):
                    layers += [BatchNorm1d(width), nn.ReLU()]
                in_features = width
        super().__init__(*layers)
        self.set_group(group)

    def set_group(self, group: dist.ProcessGroup | None) -> None:
        """Normalize over the batches of these processes; None: of this one alone."""
        for layer in self:
            if isinstance(layer, BatchNorm1d):
                layer.group = group
