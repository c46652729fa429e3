"""Candidates that are none of the others: modules, each with a graph of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssfnas.fused.cell_statistics import Statistics
from ssfnas.fused.cell_tables import Rows
from ssfnas.fused.families.family import Backward, Family, Gradients, Parts


class Modules(Family):
    """Modules of users, and built-in ones that were changed.

    They normalize themselves, and their graphs are differentiated when the cell's gradient is.
    """

    def __init__(self, stride: int) -> None:
        super().__init__(stride)
        self._modules: list[nn.Module] = []
        self._looked_at: set[int] = set()

    @staticmethod
    def form(module: nn.Module, stride: int) -> nn.Module:
        """Any module as it is."""
        return module

    def accept(self, form: nn.Module) -> int:
        """The next number."""
        self._modules.append(form)
        return len(self._modules) - 1

    def take_rows(self, rows: Rows) -> None:
        """p of each; q and r are not used."""
        count = len(self._modules)
        self._p, self._unused = rows.take_ones(count), rows.take(2 * count)

    def parameters(self) -> list[Tensor]:
        """Those of each module."""
        return [parameter for module in self._modules for parameter in module.parameters()]

    def gradient_rows(self, number: int) -> tuple[int, int, int]:
        """Those of p, and two that nobody reads."""
        unused = self._unused.start + number
        return self._p.start + number, unused, unused + len(self._modules)

    def forward(
        self, parts: Parts, parameters: Sequence[Tensor], statistics: Statistics
    ) -> list[tuple[Tensor, Tensor]]:
        """For each module a leaf that is its input, and its output."""
        results = []
        x = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        for number, module in enumerate(self._modules):
            leaf = x.detach()
            if statistics.keeps_graphs:
                with torch.enable_grad():
                    leaf.requires_grad_(x.is_floating_point())
                    y = module(leaf)
                if number not in self._looked_at:
                    _refuse_foreign_parameters(module, leaf, y)
                    self._looked_at.add(number)
            else:
                y = module(leaf)
            results.append((leaf, y.to(x.dtype)))
        return results

    def result(self, results: list[tuple[Tensor, Tensor]], number: int) -> Tensor:
        """The output, without its graph."""
        return results[number][1].detach()

    def backward(self, given: Backward, total: Parts | None) -> tuple[Parts | None, Gradients]:
        """Through the graph of each module."""
        gradients: Gradients = []
        for number, (module, (leaf, y)) in enumerate(
            zip(self._modules, given.results, strict=True)
        ):
            own = [weight for weight in module.parameters() if weight.requires_grad]
            use, p = given.uses[number], given.coefficients.table[self._p.start + number]
            dy = use.grad * p.view(1, -1, 1, 1)
            if use.factor is not None:
                dy = dy * use.factor.view(-1, 1, 1, 1)
            wanted = [leaf, *own] if given.needs_parameters else [leaf]
            found: tuple[Tensor | None, ...] = (None,) * len(wanted)
            if y.requires_grad:
                found = torch.autograd.grad(
                    y, wanted, dy.to(y.dtype), allow_unused=True, retain_graph=True
                )
            of_own = dict(zip(own, found[1:], strict=False))
            gradients += [of_own.get(weight) for weight in module.parameters()]
            if found[0] is not None:
                dxs = [
                    dx.contiguous(memory_format=torch.channels_last)
                    for dx in found[0].tensor_split(len(given.parts), dim=1)
                ]
                if total is None:
                    total = dxs
                else:
                    torch._foreach_add_(total, dxs)
        return total, gradients


def _refuse_foreign_parameters(module: nn.Module, leaf: Tensor, y: Tensor) -> None:
    """Raise where gradients would be lost: of a parameter that is not the module's own.

    Raises:
        RuntimeError: says what to do.
    """
    own = {id(leaf), *map(id, module.parameters())}
    ahead, seen = [y.grad_fn], set()
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) not in own:
            raise RuntimeError(
                f"an operation, a {type(module).__name__}, uses a parameter {list(variable.shape)} "
                "that is not its own, and whose gradient a fused cell would lose: make it a "
                'parameter of the module, or compute under ssfnas.ops.backend("reference")'
            )
        ahead += [following for following, _ in node.next_functions]
