"""The network that a genotype describes, for retraining."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssfnas.seeding import generator as seeded
from ssfnas.spaces.cells import Preprocess
from ssfnas.spaces.genotype import Edge, Genotype
from ssfnas.spaces.normalization import BatchNorm2d
from ssfnas.spaces.operations import OPERATIONS
from ssfnas.spaces.reference import STEM_MULTIPLIER, draws_from, make_stem, reduction_layers


class DropPath(nn.Module):
    """Drops an edge's output for some images, and scales it up for the others.

    The masks of the whole batch are drawn from (seed, step, number) and each process takes its rows,
    so that several processes drop what one would.

    Args:
        number: of this edge in the network.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.probability = 0.0
        self.place = (0, 0, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        seed, step, rank, world_size = self.place
        draws = torch.rand(
            len(x) * world_size, generator=seeded(seed, "drop_path", step, self.number)
        )
        kept = (draws >= self.probability)[rank * len(x) : (rank + 1) * len(x)]
        scale = kept.to(x.device, x.dtype) / (1 - self.probability)
        return x * scale.view(-1, 1, 1, 1)


class DerivedCell(nn.Module):
    """A cell of chosen operations.

    Args:
        edges: (operation, from, to), pruned.
        concat: states that the output concatenates, pruned.
        before_previous, previous: channels of the two inputs.
        channels: of each node.
        reduction: whether edges from the inputs have stride 2.
        previous_reduction: whether the cell before halved the size.
        first_edge: number of its first edge in the network, for drop-path.
    """

    def __init__(
        self,
        edges: tuple[Edge, ...],
        concat: tuple[int, ...],
        before_previous: int,
        previous: int,
        channels: int,
        *,
        reduction: bool,
        previous_reduction: bool,
        first_edge: int,
    ) -> None:
        super().__init__()
        self.preprocess = Preprocess(
            before_previous, previous, channels, previous_reduction, affine=True
        )
        self.incoming: dict[int, list[tuple[int, int]]] = {}
        self.operations = nn.ModuleList()
        for number, (name, source, target) in enumerate(edges):
            stride = 2 if reduction and source < 2 else 1
            module = OPERATIONS.get(name).build(channels, stride, True)
            if not isinstance(module, nn.Identity):
                module = nn.Sequential(module, DropPath(first_edge + number))
            self.operations.append(module)
            self.incoming.setdefault(target, []).append((number, source))
        self.concat = concat
        self.out_channels = len(concat) * channels

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        """Concatenation of the kept nodes."""
        first, second = self.preprocess(s0, s1)
        states = {0: first, 1: second}
        for target in sorted(self.incoming):
            outputs = [self.operations[n](states[source]) for n, source in self.incoming[target]]
            states[target] = sum(outputs[1:], outputs[0])
        return torch.cat([states[node] for node in self.concat], dim=1)


class _PoolToTwo(nn.Module):
    """Averages to 2x2: DARTS' overlapping windows on its 8x8 features, adaptive ones on others."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] == (8, 8):
            return F.avg_pool2d(x, 5, stride=3)
        return F.adaptive_avg_pool2d(x, 2)


class AuxiliaryHead(nn.Module):
    """A second classifier at two thirds of the depth, which helps deep networks to train.

    Args:
        in_channels: of the features [N, in_channels, h, w], any size.
        num_classes: logits.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.ReLU(),
            _PoolToTwo(),
            nn.Conv2d(in_channels, 128, 1, bias=False),
            BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            BatchNorm2d(768),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


class DerivedNetwork(nn.Module):
    """The network of a genotype, with timm's ``forward_features`` and ``forward_head``.

    Args:
        genotype: its cells; nodes that get nothing are left out.
        num_classes: logits.
        in_channels: of the images [N, in_channels, H, W].
        channels: of the first cell's nodes.
        layers: cells.
        auxiliary: whether there is an auxiliary head, used in training.
        drop_path: the probability that :meth:`set_drop_path` starts from.
        image_size: side of the images in pixels; above 64 the stem has a stride of 2.
        generator: all initial draws come from it; None: from torch's global one, which is left as
            it was.

    Raises:
        RequestError: an operation is unknown, or a cell is empty.
    """

    def __init__(
        self,
        genotype: Genotype,
        num_classes: int = 10,
        *,
        in_channels: int = 3,
        channels: int = 36,
        layers: int = 20,
        auxiliary: bool = False,
        drop_path: float = 0.0,
        image_size: int = 32,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        genotype.check()
        self.genotype = genotype
        self.num_classes, self.in_channels = num_classes, in_channels
        kept = genotype.pruned()
        with draws_from(generator):
            width = STEM_MULTIPLIER * channels
            self.stem = make_stem(in_channels, width, image_size)
            self.cells = nn.ModuleList()
            before_previous, previous = width, width
            previous_reduction = False
            edges_so_far = 0
            auxiliary_channels = previous
            self.auxiliary_after = 2 * layers // 3
            for layer in range(layers):
                reduction = layer in reduction_layers(layers)
                channels *= 2 if reduction else 1
                edges = kept.reduce if reduction else kept.normal
                cell = DerivedCell(
                    edges,
                    kept.reduce_concat if reduction else kept.normal_concat,
                    before_previous,
                    previous,
                    channels,
                    reduction=reduction,
                    previous_reduction=previous_reduction,
                    first_edge=edges_so_far,
                )
                self.cells.append(cell)
                edges_so_far += len(edges)
                before_previous, previous = previous, cell.out_channels
                previous_reduction = reduction
                if layer == self.auxiliary_after:
                    auxiliary_channels = previous
            self.num_features = previous
            self.auxiliary_head = (
                AuxiliaryHead(auxiliary_channels, num_classes) if auxiliary else None
            )
            self.classifier = nn.Linear(previous, num_classes)
        self.set_drop_path(drop_path)

    def set_drop_path(
        self, probability: float, *, seed: int = 0, step: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        """Say what the next training forward drops.

        Args:
            probability: of dropping an edge for an image.
            seed, step: what the masks are drawn from.
            rank, world_size: which rows of the whole batch's masks are this process'.
        """
        for module in self.modules():
            if isinstance(module, DropPath):
                module.probability = probability
                module.place = (seed, step, rank, world_size)

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        s0 = s1 = self.stem(x)
        auxiliary = None
        for layer, cell in enumerate(self.cells):
            s0, s1 = s1, cell(s0, s1)
            if layer == self.auxiliary_after and self.auxiliary_head is not None and self.training:
                auxiliary = self.auxiliary_head(s1)
        return s1, auxiliary

    def forward_features(self, x: Tensor) -> Tensor:
        """Features [N, num_features, h, w] of images [N, in_channels, H, W]."""
        return self._features(x)[0]

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits [N, num_classes], or the pooled features [N, num_features]."""
        pooled = F.adaptive_avg_pool2d(features, 1).flatten(1)
        return pooled if pre_logits else self.classifier(pooled)

    def get_classifier(self) -> nn.Module:
        """The linear head."""
        return self.classifier

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits [N, num_classes]; in training with an auxiliary head (logits, its logits)."""
        features, auxiliary = self._features(x)
        logits = self.forward_head(features)
        return logits if auxiliary is None else (logits, auxiliary)
