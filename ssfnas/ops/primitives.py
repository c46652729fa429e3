"""The passes over memory that fused functions are made of, computed by the fastest backend.

Each is the function of the same name that is its definition, in plain PyTorch, with the backend in
force for the tensors of a call in its place (:mod:`ssfnas.ops.selection`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from ssfnas.ops import norm_coefficients as coefficients
from ssfnas.ops import torch_candidates as candidates
from ssfnas.ops import torch_partial_channels as partial_channels
from ssfnas.ops import torch_pointwise as pointwise
from ssfnas.ops import torch_reduces as reduces
from ssfnas.ops import torch_sums as sums
from ssfnas.ops.selection import AUTO, choose, has_op, op_of, primitive, requested

Function = TypeVar("Function", bound=Callable[..., Any])


def _dispatched(definition: Function) -> Function:
    name = definition.__name__
    op = op_of(name)
    # A choice depends on these alone, and makes as many checks as a small pass takes.
    known: dict[tuple[object, ...], Callable[..., Any]] = {}

    @functools.wraps(definition)
    def call(*args: Any, **options: Any) -> Any:
        asked = requested()
        # The first list: backends may be limited in how many tensors they take.
        tensors = next((x for x in args if type(x) is list), args)
        first: Tensor = tensors[0]
        key = asked, type(first), first.dtype, first.device, len(tensors)
        function = known.get(key)
        if function is None:
            several = list(tensors) if tensors is not args else [first]
            # PyTorch stands in for an op that a backend, asked for by name, does not have at all.
            has = asked == AUTO or has_op(asked, op, first.device.type)
            function = primitive(choose(op, several, asked) if has else "torch", name)
            known[key] = function
        return function(*args, **options)

    call.forget = known.clear  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


enter_statistics = _dispatched(coefficients.enter_statistics)
node_coefficients = _dispatched(coefficients.node_coefficients)
gradient_coefficients = _dispatched(coefficients.gradient_coefficients)
norm_sum_forward = _dispatched(sums.norm_sum_forward)
norm_sum_reduce = _dispatched(sums.norm_sum_reduce)
separable_forward = _dispatched(candidates.separable_forward)
separable_backward = _dispatched(candidates.separable_backward)
pools_forward = _dispatched(candidates.pools_forward)
pools_backward = _dispatched(candidates.pools_backward)
pointwise_forward = _dispatched(pointwise.pointwise_forward)
pointwise_backward = _dispatched(pointwise.pointwise_backward)
reduces_forward = _dispatched(reduces.reduces_forward)
reduces_backward = _dispatched(reduces.reduces_backward)
split_forward = _dispatched(partial_channels.split_forward)
split_backward = _dispatched(partial_channels.split_backward)
merge_forward = _dispatched(partial_channels.merge_forward)
merge_backward = _dispatched(partial_channels.merge_backward)
