"""What the derived network is expected to cost, as a differentiable function of the weights.

A table holds what each candidate costs where it stands in the derived network, summed over the
cells of a kind. The weights of the operations say how likely a rule that keeps two operations a
node keeps each; the sum of the products is an expected cost (as in ProxylessNAS, arXiv 1812.00332,
section 3.3, there for one operation an edge). Beyond a target its excess is added to the loss of
the alphas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ssfnas.declarations.costs import CostTargets
from ssfnas.errors import RequestError
from ssfnas.layers.cells import CELL_TYPES, cell_edges, edge_count, edges_of_nodes
from ssfnas.layers.initialization import initial_draws
from ssfnas.layers.operations import make_operation
from ssfnas.seeding import generator
from ssfnas.spaces import Genotype, ReferenceDerivedNetwork, count_multiply_adds, count_parameters
from ssfnas.spaces.reference_derived import DerivedCell
from ssfnas.spaces.timing import milliseconds

UNITS = {"flops": "multiply-adds", "params": "parameters", "ms": "milliseconds"}
"""What can be counted, as the ends of the options' names -> what it is called."""

Shape = tuple[int, ...]
Measure = Callable[[nn.Module, Shape], float]
"""(module, shape [1, C, H, W] of what it reads) -> its cost for one image."""


@dataclass(frozen=True, kw_only=True)
class Counted:
    """The derived network whose cost is meant.

    Attributes:
        operations: the candidates, in the order of the weights' columns.
        nodes: intermediate nodes of a cell, all of which are taken to be used.
        num_classes: logits.
        in_channels: of the images.
        image_size: (height, width) of the images that the network will see.
        channels, layers: see :class:`~ssfnas.spaces.DerivedNetwork`.
    """

    operations: tuple[str, ...]
    nodes: int = 4
    num_classes: int = 10
    in_channels: int = 3
    image_size: tuple[int, int] = (32, 32)
    channels: int = 36
    layers: int = 20


@dataclass(frozen=True, eq=False)
class CostModel:
    """Costs of all parts of a derived network, and what to expect of weights.

    Attributes:
        unit: a name of :data:`UNITS`.
        counted: the network.
        tables: ``{"normal": [E, O], "reduce": [E, O]}``, float64 on the CPU: what a candidate
            costs, summed over the cells of that type; 0 for ``none``.
        fixed: what all other parts cost: stem, preprocessing and classifier.
    """

    unit: str
    counted: Counted
    tables: Mapping[str, Tensor]
    fixed: float
    _placed: dict[Any, tuple[Tensor, dict[str, Tensor]]] = field(
        default_factory=dict, init=False, repr=False
    )

    def expected(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The expected cost of the network that is derived from these weights.

        E = fixed + sum over cell types, edges e and operations o of q[e, o] c[e, o]. Of all
        weights that enter a node, those of ``none`` left out, a rule that keeps two operations a
        node keeps one with the chance q = min(1, 2 w / their sum). Where a node has two equal
        weights and zeros, E is exactly the cost of the network that keeps those two.

        Nothing is asked of the device, and nothing is copied to it after the first call.

        Args:
            weights: ``{"normal": [E, O], "reduce": [E, O]}``, none below 0.

        Returns:
            A scalar in the table's unit, of the weights' dtype and on their device.
        """
        is_open, tables = self._on(weights[CELL_TYPES[0]])
        entering = edges_of_nodes(self.counted.nodes)
        terms = []
        for cell, costs in tables.items():
            nodes = (weights[cell] * is_open).split(entering)
            for node, cost in zip(nodes, costs.split(entering), strict=True):
                chances = 2 * node / node.sum().clamp_min(torch.finfo(node.dtype).tiny)
                terms.append((chances.clamp(max=1) * cost).sum())
        return torch.stack(terms).sum() + self.fixed

    def _on(self, like: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Which columns are no ``none``, and the tables, where and as ``like`` is."""
        key = like.device, like.dtype
        if key not in self._placed:
            kept = [float(name != "none") for name in self.counted.operations]
            self._placed[key] = (
                torch.tensor(kept, device=like.device, dtype=like.dtype),
                {cell: self.tables[cell].to(like.device, like.dtype) for cell in CELL_TYPES},
            )
        return self._placed[key]

    @property
    def smallest(self) -> float:
        """What the network costs with the two cheapest operations at each node."""
        columns = [i for i, name in enumerate(self.counted.operations) if name != "none"]
        total = self.fixed
        for cell in CELL_TYPES:
            nodes = self.tables[cell][:, columns].split(edges_of_nodes(self.counted.nodes))
            total += sum(float(node.flatten().sort().values[:2].sum()) for node in nodes)
        return total

    def require_reachable(self, target: float) -> None:
        """Refuse a target that no network of two operations a node keeps.

        Raises:
            RequestError: it is below :attr:`smallest`; says what that is.
        """
        if target < self.smallest:
            counted = self.counted
            form = ",.4g" if self.unit == "ms" else ",.0f"
            raise RequestError(
                f"--target-{self.unit} {target:{form}} cannot be reached: with the cheapest "
                f"operations the network has {self.smallest:{form}} {UNITS[self.unit]} "
                f"({counted.channels} "
                f"channels, {counted.layers} cells): give more, or fewer --target-channels or "
                "--target-layers"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which :meth:`from_dict` reads to the bit."""
        return {
            "unit": self.unit,
            "counted": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in asdict(self.counted).items()
            },
            "fixed": self.fixed,
            **{cell: self.tables[cell].tolist() for cell in CELL_TYPES},
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> CostModel:
        """What :meth:`to_dict` gave.

        Raises:
            RequestError: it is not that.
        """
        try:
            given = values["counted"]
            tuples = {name: tuple(given[name]) for name in ("operations", "image_size")}
            counted = replace(Counted(operations=()), **{**given, **tuples})
            model = CostModel(
                str(values["unit"]),
                counted,
                {cell: torch.tensor(values[cell], dtype=torch.float64) for cell in CELL_TYPES},
                float(values["fixed"]),
            )
            shape = edge_count(counted.nodes), len(counted.operations)
            right = all(table.shape == shape for table in model.tables.values())
            if not right or model.unit not in UNITS:
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise RequestError("the table of costs is damaged: measure it again") from None
        return model


def cost_model(
    unit: str,
    counted: Counted,
    *,
    device: torch.device | str = "cpu",
    measure: Measure | None = None,
) -> CostModel:
    """Count or measure what each candidate costs in the derived network, and what all else does.

    Parts are built one at a time as they stand there: channels, size, stride, BatchNorms with
    weights. For counts they have shapes only. Times are those of each part by itself, an
    estimate: in the network operations share reads, and memory is touched anew between them. Equal
    parts are measured once.

    Args:
        unit: a name of :data:`UNITS`.
        counted: the network.
        device: where times are taken.
        measure: what a module costs; None: what the unit says.

    Raises:
        RequestError: an operation is not known or cannot be built, or a size is below 1.
    """
    if unit not in UNITS:
        raise ValueError(f"unit is {unit!r}: it is one of {', '.join(UNITS)}")
    measure = measure or _MEASURES.get(unit) or partial(milliseconds, device=device)
    # Times are taken of modules with numbers in them; these are drawn on the CPU.
    place = torch.device("cpu" if unit == "ms" else "meta")
    known: dict[tuple[str, Shape], float] = {}

    def cost(name: str, make: Callable[[], nn.Module], shape: Shape) -> float:
        if (name, shape) not in known:
            known[name, shape] = measure(make(), shape)
        return known[name, shape]

    def candidate(name: str, stride: int, shape: Shape) -> float:
        def make() -> nn.Module:
            with initial_draws(generator(0, "costs", name)), place:
                return make_operation(name, shape[1], stride, searching=False)

        return 0.0 if name == "none" else cost(f"{name}, stride {stride}", make, shape)

    with initial_draws(generator(0, "costs")), place:
        net = _without_operations(counted)
        image = torch.zeros(1, counted.in_channels, *counted.image_size)
    read, given = _shapes(net, image)
    edges = cell_edges(counted.nodes)
    tables = {
        cell: torch.zeros(len(edges), len(counted.operations), dtype=torch.float64)
        for cell in CELL_TYPES
    }
    parts: list[nn.Module] = [net.stem]
    for cell in net.cells:
        assert isinstance(cell, DerivedCell)
        parts += [cell.preprocess0, cell.preprocess1]
        kind, first = ("reduce", 2) if cell.reduction else ("normal", 1)
        before = given[cell.preprocess1]
        after = (*before[:2], *given[cell][2:])
        for edge, (start, _) in enumerate(edges):
            where = (first, before) if start < 2 else (1, after)
            costs = [candidate(name, *where) for name in counted.operations]
            tables[kind][edge] += torch.tensor(costs, dtype=torch.float64)
    fixed = sum(cost(str(part), partial(_itself, part), read[part]) for part in parts)
    head = nn.Sequential(nn.Flatten(), net.classifier)
    fixed += cost(str(head), partial(_itself, head), (*read[net.classifier], 1, 1))
    return CostModel(unit, counted, tables, fixed)


def _parameters(module: nn.Module, shape: Shape) -> float:
    return count_parameters(module)


def _multiply_adds(module: nn.Module, shape: Shape) -> float:
    return count_multiply_adds(module, (shape[2], shape[3]), shape[1])


_MEASURES: dict[str, Measure] = {"params": _parameters, "flops": _multiply_adds}


def _itself(module: nn.Module) -> nn.Module:
    return module


def _without_operations(counted: Counted) -> ReferenceDerivedNetwork:
    """The network with all its nodes, where nothing but pools, which are not looked at, leads."""
    edges = tuple(("max_pool_3x3", 0, node) for node in range(2, counted.nodes + 2))
    concat = tuple(range(2, counted.nodes + 2))
    return ReferenceDerivedNetwork(
        Genotype(edges, concat, edges, concat),
        counted.num_classes,
        in_channels=counted.in_channels,
        channels=counted.channels,
        layers=counted.layers,
        image_size=counted.image_size,
    )


def _shapes(
    net: ReferenceDerivedNetwork, image: Tensor
) -> tuple[dict[nn.Module, Shape], dict[nn.Module, Shape]]:
    """What the modules read and give of one image."""
    read: dict[nn.Module, Shape] = {}
    given: dict[nn.Module, Shape] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        read[module], given[module] = tuple(inputs[0].shape), tuple(output.shape)

    hooks = [module.register_forward_hook(note) for module in net.modules() if module is not net]
    with torch.no_grad():
        net.eval()(image)
    for hook in hooks:
        hook.remove()
    return read, given


def cost_target(config: CostTargets) -> tuple[str, float] | None:
    """The unit and the number of the target that a config has; None: none.

    Raises:
        RequestError: it has several.
    """
    targets = {unit: getattr(config, f"target_{unit}") for unit in UNITS}
    found = [(unit, float(target)) for unit, target in targets.items() if target is not None]
    if len(found) > 1:
        flags = " and ".join(f"--target-{unit}" for unit, _ in found)
        raise RequestError(f"{flags} stand together: give one target for the cost")
    return found[0] if found else None


def penalty(expected: Tensor, target: float, weight: float = 1.0) -> Tensor:
    """weight times the share by which an expected cost exceeds the target; 0 below it.

    Args:
        expected: a scalar.
        target: above 0.
        weight: mu.
    """
    return weight * (expected / target - 1).relu()


def cost_terms(
    model: CostModel, weights: Mapping[str, Tensor], target: float, weight: float = 1.0
) -> dict[str, Tensor]:
    """``loss``, to be added to that of the alphas; ``cost``, expected; ``cost_penalty``, the loss.

    Args:
        model: see :func:`cost_model`.
        weights: ``{"normal": [E, O], "reduce": [E, O]}``, which the alphas get gradients through.
        target, weight: see :func:`penalty`.
    """
    expected = model.expected(weights)
    excess = penalty(expected, target, weight)
    return {"loss": excess, "cost": expected, "cost_penalty": excess}
