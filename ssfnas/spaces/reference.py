"""The supernet in its textbook form: one module per operation and edge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ssfnas.declarations.strategies import FAIRDARTS_OPERATIONS
from ssfnas.layers.cells import SearchCell, edge_count, plan_cells
from ssfnas.layers.initialization import initial_draws
from ssfnas.layers.operations import check_operations
from ssfnas.layers.partial_channels import check_partial_channels
from ssfnas.spaces.cell_network import CellNetwork, check_sizes, longer_side, make_stem
from ssfnas.spaces.mixing import Mix, Mixing, Relaxed


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
        relaxation: a name of :data:`~ssfnas.spaces.relaxations.RELAXATIONS`, which makes the
            weights of alphas.
        mixing: makes them in place of a relaxation.
        image_size: pixels of the longer side; above 64 the stem has a stride, as a derived
            network's (:func:`~ssfnas.spaces.cell_network.make_stem`).
        partial_channels: K of PC-DARTS (arXiv 1907.05737, section 3.2): operations see one K-th of
            a state's channels, the others pass by (:class:`~ssfnas.layers.cells.MixedEdge`).
        generator: where all initial draws come from; without one, PyTorch's global generator.

    Attributes:
        alphas_normal, alphas_reduce: architecture parameters [edges, operations], edges in the
            order of :func:`~ssfnas.layers.cells.cell_edges`; a mixing may have others.
        num_features: channels of :meth:`forward_features`.

    Raises:
        RequestError: a number below 1, channels that cannot be divided by ``partial_channels``, or
            operations or a relaxation that are not known.
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
        mixing: Mixing | None = None,
        partial_channels: int = 1,
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
            partial_channels=partial_channels,
        )
        check_partial_channels(partial_channels, channels)
        self.operations = tuple(operations)
        check_operations(self.operations)
        self.mixing: Mixing = Relaxed(relaxation) if mixing is None else mixing
        self.channels, self.layers, self.nodes = channels, layers, nodes
        parameters = self.mixing.parameters_of(edge_count(nodes), len(self.operations), generator)
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))
        self._architecture = tuple(parameters)
        self._fixed: dict[str, Mix] | None = None
        with initial_draws(generator):
            width = 3 * channels
            self.stem = make_stem(in_channels, width, longest)
            inputs = (width, width)
            self.cells = nn.ModuleList()
            for plan in plan_cells(channels, layers):
                self.cells.append(
                    SearchCell(plan, inputs, nodes, self.operations, partial_channels)
                )
                inputs = (inputs[1], nodes * plan.channels)
            self.num_features = inputs[1]
            self.classifier = nn.Linear(self.num_features, num_classes)

    def architecture(self) -> dict[str, nn.Parameter]:
        """Architecture parameters by name."""
        # Other tensors stand in their places while torch.func calls the network.
        return {name: getattr(self, name) for name in self._architecture}

    def alphas(self) -> list[nn.Parameter]:
        """Architecture parameters; with :meth:`weights` they are all parameters, none twice."""
        return list(self.architecture().values())

    def weights(self) -> list[nn.Parameter]:
        """Parameters of the operations, the stem and the classifier."""
        alphas = {id(alpha) for alpha in self.alphas()}
        return [parameter for parameter in self.parameters() if id(parameter) not in alphas]

    def mixes(self) -> dict[str, Mix]:
        """How the cells of each type, ``"normal"`` and ``"reduce"``, mix their operations now."""
        return self.mixing.mixes(self.architecture()) if self._fixed is None else self._fixed

    def edge_weights(self) -> dict[str, Tensor]:
        """``{"normal": [E, O], "reduce": [E, O]}``, what each operation is multiplied by."""
        return {cell: mix.table for cell, mix in self.mixes().items()}

    @contextmanager
    def fixed(self, mixes: Mapping[str, Mix]) -> Iterator[None]:
        """Mix so inside, whatever the architecture parameters say."""
        before, self._fixed = self._fixed, dict(mixes)
        try:
            yield
        finally:
            self._fixed = before

    def forward_features(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] -> the last cell's output [N, num_features, h, w]."""
        mixes = self.mixes()
        tables = {cell: mix.table for cell, mix in mixes.items()}
        s0 = s1 = self.stem(x)
        for cell in self.cells:
            assert isinstance(cell, SearchCell)
            mix = mixes[cell.kind]
            s0, s1 = s1, cell(s0, s1, tables[cell.kind], mix.edges, mix.open)
        return s1

    def forward(self, x: Tensor) -> Tensor:
        """Images [N, in_channels, H, W] -> logits [N, num_classes]."""
        return self.forward_head(self.forward_features(x))
