"""The network that a genotype describes in its textbook form: one module per operation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssfnas.errors import RequestError
from ssfnas.layers.cells import CellPlan, plan_cells, preprocessing, total
from ssfnas.layers.initialization import initial_draws
from ssfnas.layers.normalization import BatchNorm2d
from ssfnas.layers.operations import make_operation
from ssfnas.seeding import generator as seeded_generator
from ssfnas.spaces.cell_network import CellNetwork, check_sizes, longer_side, make_stem
from ssfnas.spaces.genotype import Genotype


class DerivedCell(nn.Module):
    """A cell with the operations of a genotype, absent nodes left out.

    Args:
        edges: (operation, from, to), pruned.
        concat: nodes of the output, pruned.
        plan: its place in the network.
        channels: of its two inputs.
    """

    def __init__(
        self,
        edges: tuple[tuple[str, int, int], ...],
        concat: tuple[int, ...],
        plan: CellPlan,
        channels: tuple[int, int],
    ) -> None:
        super().__init__()
        self.preprocess0, self.preprocess1 = preprocessing(plan, channels, affine=True)
        self.edges = sorted(((start, to) for _, start, to in edges), key=lambda edge: edge[1])
        self.concat, self.reduction = concat, plan.reduction
        self.operations = nn.ModuleList(
            make_operation(
                name, plan.channels, 2 if plan.reduction and start < 2 else 1, searching=False
            )
            for name, start, _ in sorted(edges, key=lambda edge: edge[2])
        )

    @property
    def droppable(self) -> list[bool]:
        """For each operation, whether its path may be dropped: all but the identity."""
        return [not isinstance(operation, nn.Identity) for operation in self.operations]

    def forward(self, s0: Tensor, s1: Tensor, factors: Tensor | None = None) -> Tensor:
        """Both inputs [N, c, h, w] -> [N, len(concat) * channels, h', w'].

        Args:
            s0: output of the cell before the previous one.
            s1: output of the previous cell.
            factors: what each image's part of a path is multiplied by, [paths, N], where the paths
                are the operations that may be dropped; None: ones.
        """
        states = {0: self.preprocess0(s0), 1: self.preprocess1(s1)}
        of_paths = iter(() if factors is None else factors)
        edges = zip(self.edges, self.operations, self.droppable, strict=True)
        for (start, to), operation, droppable in edges:
            path = operation(states[start])
            if droppable and factors is not None:
                # Under autocast the path has fewer bits than the image that set the factors' dtype.
                path = path * next(of_paths).to(path.dtype).view(-1, 1, 1, 1)
            states[to] = total([states[to], path]) if to in states else path
        return torch.cat([states[node] for node in self.concat], dim=1)


class AuxiliaryHead(nn.Module):
    """A classifier in mid-depth that helps training (DARTS' CIFAR head, for any size).

    The features are averaged over four overlapping windows, one a corner, each 5/8 of a side: on
    8x8 pixels exactly the 5x5 windows of DARTS with their stride of 3.

    Args:
        in_channels: of the features [N, in_channels, h, w].
        num_classes: logits.

    Attributes:
        num_features: what the classifier sees.
    """

    num_features = 768

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 128, 1, bias=False),
            BatchNorm2d(128),
            nn.ReLU(),
            nn.Conv2d(128, self.num_features, 2, bias=False),
            BatchNorm2d(self.num_features),
            nn.ReLU(),
        )
        self.classifier: nn.Module = nn.Linear(self.num_features, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Features [N, in_channels, h, w] -> logits [N, num_classes]."""
        x = x.relu()
        (rows, height), (columns, width) = (_windows(size, x) for size in x.shape[2:])
        sums = torch.kron(rows, columns).expand(len(x), -1, -1) @ x.flatten(2).mT
        x = sums.mT.unflatten(2, (2, 2)) / (height * width)
        logits: Tensor = self.classifier(self.features(x).flatten(1))
        return logits


def _windows(size: int, like: Tensor) -> tuple[Tensor, int]:
    """What belongs to the window at either end of a side, 0 or 1 in [2, size]; and its width."""
    width = -(-5 * size // 8)
    members = like.new_zeros(2, size)
    members[0, :width] = 1
    members[1, size - width :] = 1
    return members, width


class ReferenceDerivedNetwork(CellNetwork):
    """The cells of a genotype, stacked. Plain PyTorch.

    Args:
        genotype: both cells; absent nodes take no part, so a concat may be narrower than written.
        num_classes: logits.
        in_channels: of the images.
        channels: of the first cell; the stem gives three times as many.
        layers: cells; those at 1/3 and 2/3 of the depth reduce.
        auxiliary: a second classifier behind the last reduction cell, used in training only.
        drop_path: probability of :meth:`set_drop_path` where that is given none.
        image_size: pixels of the longer side; above 64 the stem has a stride (above 128 two, ...).
        generator: where all initial draws come from; without one, PyTorch's global generator.

    Attributes:
        num_features: channels of :meth:`forward_features`.
        genotype: as given.

    Raises:
        RequestError: a number out of range, an unknown operation, or an empty cell.
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
        image_size: int | tuple[int, int] = 32,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        longest = longer_side(image_size)
        check_sizes(
            "network",
            num_classes=num_classes,
            in_channels=in_channels,
            channels=channels,
            layers=layers,
            image_size=longest,
        )
        genotype.check()
        self.genotype = genotype
        self.drop_path = _probability(drop_path)
        self._drop_path: tuple[float, int, int, int, int] | None = None
        self._forwards = 0
        self._given_factors: Tensor | None = None
        pruned = genotype.pruned()
        with initial_draws(generator):
            width = 3 * channels
            self.stem = make_stem(in_channels, width, longest)
            inputs = (width, width)
            self.cells = nn.ModuleList()
            self.auxiliary_head: AuxiliaryHead | None = None
            self.auxiliary_layer = 2 * layers // 3
            for layer, plan in enumerate(plan_cells(channels, layers)):
                concat = pruned.concat(plan.kind)
                self.cells.append(DerivedCell(pruned.edges(plan.kind), concat, plan, inputs))
                inputs = (inputs[1], len(concat) * plan.channels)
                if auxiliary and layer == self.auxiliary_layer:
                    self.auxiliary_head = AuxiliaryHead(inputs[1], num_classes)
            self.num_features = inputs[1]
            self.classifier = nn.Linear(self.num_features, num_classes)

    def set_drop_path(
        self,
        probability: float | None = None,
        seed: int = 0,
        step: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Say which paths the next training forwards drop: masks are a function of this alone.

        Each image loses each path (an operation that is not the identity) with ``probability``, and
        what is left is scaled by 1 / (1 - probability). Masks are drawn for the batch of all
        processes, of which this one takes its rows, so the number of processes changes nothing.
        Before the first call nothing is dropped. Checkpointing repeats forwards, which would draw
        anew: hand them factors by :meth:`give_path_factors`.

        Args:
            probability: in [0, 1); None: the one given on building.
            seed: of the run.
            step: of the training; every forward since this call has masks of its own.
            rank: of this process.
            world_size: processes that share the batch evenly.

        Raises:
            RequestError: a probability that is none, or one of 1.
        """
        probability = self.drop_path if probability is None else _probability(probability)
        self._drop_path = (probability, seed, step, rank, world_size)
        self._forwards = 0
        self._given_factors = None

    def draw_path_factors(self, images: int, dtype: torch.dtype) -> Tensor:
        """Draw what :meth:`set_drop_path` says, as the next training forward would.

        Args:
            images: of this process' share of the batch.
            dtype: of the images.

        Returns:
            0 or 1 / (1 - probability) for each path and image, [paths, images] on the CPU; paths
            are the operations that are not the identity, in the order of cells and edges.

        Raises:
            ValueError: :meth:`set_drop_path` was not called.
        """
        if self._drop_path is None:
            raise ValueError("set_drop_path says what is drawn, and was not called")
        probability, seed, step, rank, world_size = self._drop_path
        draws = seeded_generator(seed, "drop_path", step, self._forwards)
        self._forwards += 1
        shape = sum(self._paths), images * world_size
        kept = torch.rand(shape, generator=draws, device="cpu") >= probability
        return kept[:, rank * images : (rank + 1) * images].to(dtype) / (1 - probability)

    def give_path_factors(self, factors: Tensor | None) -> None:
        """Say what the next training forwards multiply paths by, in place of drawing it.

        A forward then asks the host for nothing, as a CUDA graph that is to hold it needs.

        Args:
            factors: as :meth:`draw_path_factors` gives them, on the device of the images; read at
                each forward until :meth:`set_drop_path` is called. None: they are drawn again.
        """
        self._given_factors = factors

    @property
    def _paths(self) -> list[int]:
        """How many operations of each cell may be dropped."""
        return [sum(cell.droppable) for cell in self.cells if isinstance(cell, DerivedCell)]

    def _path_factors(self, x: Tensor) -> list[Tensor | None]:
        """For each cell what its paths are multiplied by, [paths, images]; None: nothing."""
        factors = self._given_factors
        if not self.training or factors is None:
            if not self.training or self._drop_path is None or self._drop_path[0] == 0:
                return [None] * len(self.cells)
            # One copy to the device for the whole network.
            factors = self.draw_path_factors(len(x), x.dtype).to(x.device, non_blocking=True)
        return list(factors.split(self._paths))

    def _features(self, x: Tensor, *, auxiliary: bool) -> tuple[Tensor, Tensor | None]:
        """The last cell's output, and the auxiliary logits where they are wanted and there."""
        logits = None
        factors = self._path_factors(x)
        s0 = s1 = self.stem(x)
        for layer, (cell, of_cell) in enumerate(zip(self.cells, factors, strict=True)):
            s0, s1 = s1, cell(s0, s1, of_cell)
            if auxiliary and self.auxiliary_head is not None and layer == self.auxiliary_layer:
                logits = self.auxiliary_head(s1)
        return s1, logits

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] -> the last cell's output [N, num_features, h, w]."""
        return self._features(x, auxiliary=False)[0]

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Images [N, in_channels, H, W] -> logits [N, num_classes].

        In training with an auxiliary head: (logits, auxiliary logits).
        """
        features, auxiliary = self._features(x, auxiliary=self.training)
        logits = self.forward_head(features)
        return logits if auxiliary is None else (logits, auxiliary)


def _probability(value: float) -> float:
    if not 0 <= value < 1:
        raise RequestError(f"drop_path is {value}: it has to be at least 0 and below 1")
    return float(value)
