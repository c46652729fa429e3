"""Ways to compute a step, and what of a network ``torch.compile`` gets at a time."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ssfnas.training.trainer import Trainer

FAST, GRAPHED = "fast", "fast, one graph"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Backend = str | Callable[..., Any]


@dataclass(frozen=True)
class StepVariant:
    """One way to compute a step.

    Attributes:
        name: for people.
        form: which one of the network; ``"reference"`` with the reference of all ops, too.
        exact: in float64, whatever the precision.
        precision: ``"fp32"`` or ``"bf16"``; None: that of the others.
        channels_last: states lie so; in the textbook form images and weights are laid so first.
        graphed: each step is one CUDA graph.
        prepare: changes the training that was built; a function that a new process can import.
    """

    name: str
    form: str
    exact: bool = False
    precision: str | None = None
    channels_last: bool = False
    graphed: bool = False
    prepare: Callable[[Any], None] | None = None

    @property
    def usual(self) -> bool:
        """Whether it is the textbook form as it is."""
        return self.form == "reference" and self.prepare is None

    def arithmetic(self, precision: str) -> str:
        """The precision that it is built with where that of the others is ``precision``."""
        return "fp32" if self.exact else self.precision or precision


TRUTH = StepVariant("reference, float64", "reference", exact=True)


def compile_network(trainer: Trainer, backend: Backend = "inductor") -> None:
    """Compile a derived network as a whole, for fixed sizes; paths are drawn outside of it."""
    net = trainer.net
    net.forward = torch.compile(net.forward, dynamic=False, fullgraph=True, backend=backend)


def compile_cells(trainer: Trainer, backend: Backend = "inductor") -> None:
    """Compile the cells of a network, once for all that are alike.

    Alike are cells of the same operations, channels and strides; what is compiled takes their
    parameters and running statistics as arguments.
    """
    _compile_alike(trainer.net.cells, backend)


def compile_edges(trainer: Trainer, backend: Backend = "inductor") -> None:
    """Compile all candidates of an edge and their weighted sum, once for all edges that are alike.

    Alike are edges of the same operations, channels and stride, which all cells of one resolution
    share.
    """
    _compile_alike((edge for cell in trainer.net.cells for edge in cell.edges), backend)


def _compile_alike(modules: Iterable[nn.Module], backend: Backend) -> None:
    compiled: dict[str, Callable[..., Any]] = {}
    for module in modules:
        # Sizes, strides and padding of all operations, in their order.
        kind = repr(module)
        if kind not in compiled:
            forward = type(module).forward
            # What is compiled is kept by code object, and too much for one is not kept at all.
            own = types.FunctionType(forward.__code__.replace(), forward.__globals__)
            own.__defaults__ = forward.__defaults__
            compiled[kind] = torch.compile(own, dynamic=False, fullgraph=True, backend=backend)
        module.forward = types.MethodType(compiled[kind], module)
