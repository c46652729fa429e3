"""Backward passes that have no derivative of their own, and say so."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

_REFERENCE = 'compute the loss under ssfnas.ops.backend("reference")'


def differentiable_once(
    what: str, instead: str = _REFERENCE
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorates the ``backward`` of an autograd function whose gradients have no graph.

    ``torch.autograd.function.once_differentiable`` refuses only where an incoming gradient requires
    one itself. Where it is constant, as it is right below a sum, the second derivative would come
    without what goes through ``what``, and nothing would tell.

    Args:
        what: the function as its caller knows it.
        instead: what the caller can do.

    Raises:
        RuntimeError: by the decorated pass, whenever ``create_graph=True`` is asked of it.
    """

    def decorate(backward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(backward)
        def refusing(ctx: Any, *gradients: Any) -> Any:
            if torch.is_grad_enabled():
                raise RuntimeError(
                    f"{what} is differentiable once, and create_graph=True asks for more: {instead}"
                )
            return backward(ctx, *gradients)

        return refusing

    return decorate
