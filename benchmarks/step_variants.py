"""Ways to compute a search step, and what of a supernet ``torch.compile`` gets at a time."""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.pages import COMPILED, EAGER
from ssfnas.training.search_trainer import SearchTrainer

FAST, GRAPHED = "fast", "fast, one graph"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Backend = str | Callable[..., Any]


@dataclass(frozen=True)
class StepVariant:
    """One way to compute a search step.

    Attributes:
        name: for people.
        supernet: which form of it; ``"reference"`` with the reference of all ops, too.
        exact: in float64, whatever the precision.
        graphed: each step is one CUDA graph.
        prepare: changes the search that was built; a function that a new process can import.
    """

    name: str
    supernet: str
    exact: bool = False
    graphed: bool = False
    prepare: Callable[[SearchTrainer], None] | None = None


TRUTH = StepVariant("reference, float64", "reference", exact=True)
VARIANTS = {
    EAGER: StepVariant(EAGER, "reference"),
    COMPILED: StepVariant(COMPILED, "reference"),
    FAST: StepVariant(FAST, "fast"),
    GRAPHED: StepVariant(GRAPHED, "fast", graphed=True),
}


def compile_cells(trainer: SearchTrainer, backend: Backend = "inductor") -> None:
    """Compile each cell of a supernet by itself, for fixed sizes."""
    for cell in trainer.net.cells:
        _share(_compiled(cell, backend), cell)


def compile_edges(trainer: SearchTrainer, backend: Backend = "inductor") -> None:
    """Compile all candidates of an edge and their weighted sum, once for all edges that are alike.

    Alike are edges of the same operations, channels and stride, which all cells of one resolution
    share; what is compiled takes their parameters and running statistics as arguments.
    """
    compiled: dict[str, Callable[..., Any]] = {}
    for cell in trainer.net.cells:
        for edge in cell.edges:
            # Sizes, strides and padding of all operations, in their order.
            kind = repr(edge)
            if kind not in compiled:
                compiled[kind] = _compiled(edge, backend)
            _share(compiled[kind], edge)


UNITS = {"cell": compile_cells, "edge": compile_edges}


def _compiled(module: nn.Module, backend: Backend) -> Callable[..., Any]:
    forward = type(module).forward
    # What is compiled is kept by code object, and too much for one of them is not kept at all.
    own = types.FunctionType(forward.__code__.replace(), forward.__globals__)
    return torch.compile(own, dynamic=False, fullgraph=True, backend=backend)


def _share(compiled: Callable[..., Any], module: nn.Module) -> None:
    module.forward = types.MethodType(compiled, module)
