"""The supernet in its textbook form: one module per operation and edge."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssfnas.declarations.strategies import FAIRDARTS_OPERATIONS
from ssfnas.layers.cells import SearchCell, edge_count, plan_cells
from ssfnas.layers.initialization import initial_draws
from ssfnas.layers.operations import check_operations
from ssfnas.spaces.cell_network import CellNetwork, check_sizes, longer_side, make_stem
from ssfnas.spaces.relaxations import RELAXATIONS, Relaxation


class ReferenceSupernet(CellNetwork):
    """All networks of the DARTS space at once (arXiv 1806.09055, section 2).

    Node j of a cell is s_j = sum over i < j, o of w(i, j, o) * o(s_i); cells of one type share
    their weights w = relaxation(alpha). Plain PyTorch, differentiable twice.

    Args:
        num_classes: logits.
        in_channels: of the images.
        channels: of the first cell; the stem gives three times as many.
        layers: cells.
        nodes: intermediate nodes a cell.
        operations: names of the candidates, in the order of alpha's columns.
        relaxation: a name of :data:`~ssfnas.spaces.relaxations.RELAXATIONS`.
        image_size: pixels of the longer side; above 64 the stem has a stride, as a derived
            network's (:func:`~ssfnas.spaces.cell_network.make_stem`).
        generator: where all initial draws come from; without one, PyTorch's global generator.

    Attributes:
        alphas_normal, alphas_reduce: architecture parameters [edges, operations], edges in the
            order of :func:`~ssfnas.layers.cells.cell_edges`.
        num_features: channels of :meth:`forward_features`.

    Raises:
        RequestError: a number below 1, or operations or a relaxation that are not known.
    """

    def __init__(
        self,
        num_classes: int = 10,
        *,
        in_channels: int = 3,
        channels: int = 16,
        layers: int = 8,
        nodes: int = 4,
        operations: Sequence[str] = FAIRDARTS_OPERATIONS,
        relaxation: str = "sigmoid",
        image_size: int | tuple[int, int] = 32,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        longest = longer_side(image_size)
        check_sizes(
            "supernet",
            num_classes=num_classes,
            in_channels=in_channels,
            channels=channels,
            layers=layers,
            nodes=nodes,
            image_size=longest,
        )
        self.operations = tuple(operations)
        check_operations(self.operations)
        self.relaxation: Relaxation = RELAXATIONS.get(relaxation)()
        self.channels, self.layers, self.nodes = channels, layers, nodes
        shape = edge_count(nodes), len(self.operations)
        self.alphas_normal = nn.Parameter(self.relaxation.init(*shape, generator))
        self.alphas_reduce = nn.Parameter(self.relaxation.init(*shape, generator))
        with initial_draws(generator):
            width = 3 * channels
            self.stem = make_stem(in_channels, width, longest)
            inputs = (width, width)
            self.cells = nn.ModuleList()
            for plan in plan_cells(channels, layers):
                self.cells.append(SearchCell(plan, inputs, nodes, self.operations))
                inputs = (inputs[1], nodes * plan.channels)
            self.num_features = inputs[1]
            self.classifier = nn.Linear(self.num_features, num_classes)

    def alphas(self) -> list[nn.Parameter]:
        """Architecture parameters; with :meth:`weights` they are all parameters, none twice."""
        return [self.alphas_normal, self.alphas_reduce]

    def weights(self) -> list[nn.Parameter]:
        """Parameters of the operations, the stem and the classifier."""
        alphas = {id(alpha) for alpha in self.alphas()}
        return [parameter for parameter in self.parameters() if id(parameter) not in alphas]

    def edge_weights(self) -> dict[str, Tensor]:
        """``{"normal": [E, O], "reduce": [E, O]}``, the weight of each operation on each edge."""
        return {
            "normal": self.relaxation.weights(self.alphas_normal),
            "reduce": self.relaxation.weights(self.alphas_reduce),
        }

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] -> the last cell's output [N, num_features, h, w]."""
        weights = self.edge_weights()
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            assert isinstance(cell, SearchCell)
            s0, s1 = s1, cell(s0, s1, weights[cell.kind])
        return s1

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] -> logits [N, num_classes]."""
        return self.forward_head(self.forward_features(x))
