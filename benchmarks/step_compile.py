"""What of a supernet ``torch.compile`` gets at a time."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ssfnas.layers.cells import SearchCell
from ssfnas.training.search_trainer import SearchTrainer

Backend = str | Callable[..., Any]


def compile_cells(trainer: SearchTrainer, backend: Backend = "inductor") -> None:
    """Compile each cell of a supernet by itself, for fixed sizes."""
    for cell in trainer.net.cells:
        _share(_compiled(type(cell), backend), cell)


def compile_edges(trainer: SearchTrainer, backend: Backend = "inductor") -> None:
    """Compile all candidates of an edge and their weighted sum, once for all edges that are alike.

    Alike are edges of the same operations, channels and stride, which all cells of one resolution
    share; what is compiled takes their parameters and running statistics as arguments.
    """
    compiled: dict[str, Callable[..., Any]] = {}
    for cell in trainer.net.cells:
        assert isinstance(cell, SearchCell)
        for edge in cell.edges:
            # Sizes, strides and padding of all operations, in their order.
            kind = repr(edge)
            if kind not in compiled:
                compiled[kind] = _compiled(type(edge), backend)
            _share(compiled[kind], edge)


def _compiled(module: type[nn.Module], backend: Backend) -> Callable[..., Any]:
    forward = module.forward
    # What is compiled is kept by code object, and too much for one of them is not kept at all.
    own = types.FunctionType(forward.__code__.replace(), forward.__globals__)
    return torch.compile(own, dynamic=False, fullgraph=True, backend=backend)


def _share(compiled: Callable[..., Any], module: nn.Module) -> None:
    module.forward = types.MethodType(compiled, module)


UNITS: dict[str, Callable[[SearchTrainer], None]] = {"cell": compile_cells, "edge": compile_edges}
