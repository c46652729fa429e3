"""The tensors of a tree of tuples, lists and dicts, as autograd wants to save them: in one list.

A supernet's step takes hundreds of trees apart; PyTorch's own functions for that, which know any
kind of tree, take three times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor


class _Place(int):
    """Where a tensor stands in the list."""


def apart(tree: Any, tensors: list[Tensor]) -> Any:
    """The tree with places in the stead of its tensors, which are added to the list.

    Args:
        tree: of tuples, named ones too, lists and dicts; other values stay as they are.
        tensors: to be filled.
    """
    kind = type(tree)
    if isinstance(tree, Tensor):
        tensors.append(tree)
        return _Place(len(tensors) - 1)
    if kind is list:
        return [apart(value, tensors) for value in tree]
    if kind is dict:
        return {key: apart(value, tensors) for key, value in tree.items()}
    if isinstance(tree, tuple):
        values = [apart(value, tensors) for value in tree]
        return kind(*values) if hasattr(kind, "_fields") else tuple(values)
    return tree


def together(tree: Any, tensors: Sequence[Tensor]) -> Any:
    """What :func:`apart` was given, with these tensors."""
    kind = type(tree)
    if kind is _Place:
        return tensors[tree]
    if kind is list:
        return [together(value, tensors) for value in tree]
    if kind is dict:
        return {key: together(value, tensors) for key, value in tree.items()}
    if isinstance(tree, tuple):
        values = [together(value, tensors) for value in tree]
        return kind(*values) if hasattr(kind, "_fields") else tuple(values)
    return tree
