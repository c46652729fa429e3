"""What a fused cell asks of a device: on a GPU each operator is a launch, however small."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ssfnas.fused import fused_cell
from ssfnas.spaces import FAIRDARTS_OPERATIONS, Supernet

# Make or look at memory, and launch nothing.
FREE = {
    "alias", "as_strided", "detach", "empty", "empty_like", "expand", "new_empty", "permute",
    "select", "slice", "t", "transpose", "unbind", "unsqueeze", "view",
}  # fmt: skip


class Counted(TorchDispatchMode):
    """Counts the primitives of backends, and operators between them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.primitives: Counter[str] = Counter()
        self.operators: Counter[str] = Counter()
        self._inside = False
        found = fused_cell.primitive

        def watched(backend, name):
            function = found(backend, name)

            def call(*args, **options):
                self.primitives[name] += 1
                self._inside = True
                try:
                    return function(*args, **options)
                finally:
                    self._inside = False

            return call

        monkeypatch.setattr(fused_cell, "primitive", watched)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if not self._inside and name not in FREE:
            self.operators[name] += 1
        return func(*args, **(kwargs or {}))


@pytest.fixture
def cell():
    """A normal cell of FairDARTS' space, its function, and what it takes."""
    net = Supernet(channels=4, layers=3, num_classes=2)
    assert net.cells[0].kind == "normal"
    x = torch.randn(2, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    weights = torch.rand(14, len(FAIRDARTS_OPERATIONS))
    return net._fused_cells()[0], [x.clone().requires_grad_() for _ in range(2)], weights


def test_few_operators_stand_between_primitives(cell, monkeypatch):
    fused, states, weights = cell
    call = fused_cell.Call(True, 1e-5, None)
    # Once before: tables of rows are made on first use.
    fused(call, *states, weights.requires_grad_()).sum().backward()
    counted = Counted(monkeypatch)
    with counted:
        out = fused(call, *states, weights)
    nodes, sources = 4, 5
    assert counted.primitives == {
        "separable_forward": 2 * sources,
        "pools_forward": sources,
        "enter_statistics": 3 * sources,
        "node_coefficients": nodes,
        "norm_sum_forward": nodes,
    }
    # The table of statistics' first row, and the cell's output.
    assert sum(counted.operators.values()) <= 4, counted.operators

    counted.primitives.clear()
    counted.operators.clear()
    gradient = torch.ones_like(out)
    with counted:
        torch.autograd.grad(out, [*states, weights, *fused.layout.parameters()], gradient)
    assert counted.primitives == {
        "norm_sum_reduce": nodes,
        "gradient_coefficients": nodes + sources,
        # One for skip connections and each pool.
        "norm_sum_forward": 3 * sources,
        "pools_backward": sources,
        "separable_backward": 2 * sources,
    }
    # A node's gradient is copied, the gradients of its weights are summed and entered, and two
    # tables are begun.
    assert sum(counted.operators.values()) <= 3 * nodes + 2, counted.operators
