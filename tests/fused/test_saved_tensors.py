"""Trees of tensors are taken apart and put together again as they were."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ssfnas.fused.saved_tensors import apart, together


class Pair(NamedTuple):
    left: object
    right: object


def test_a_tree_comes_back_with_the_tensors_it_is_given():
    a, b, c, d = (torch.full((2,), float(value)) for value in range(4))
    tree = Pair({3: [a, None], 1: b}, (7, [Pair(c, "name")], [], d, True))

    tensors: list[torch.Tensor] = []
    rest = apart(tree, tensors)
    found = together(rest, [10 * tensor for tensor in tensors])

    assert [id(tensor) for tensor in tensors] == [id(tensor) for tensor in (a, b, c, d)]
    assert type(found) is Pair
    assert type(found.right[1][0]) is Pair
    assert list(found.left) == [3, 1]  # in its order
    assert found.left[3][1] is None
    (number, pairs, empty, last, flag) = found.right
    assert (number, empty, flag, pairs[0].right) == (7, [], True, "name")
    leaves = found.left[3][0], found.left[1], pairs[0].left, last
    for leaf, value in zip(leaves, (a, b, c, d), strict=True):
        assert torch.equal(leaf, 10 * value)
    # What is kept in between holds no tensor, which autograd has to be able to free.
    assert not any(isinstance(part, torch.Tensor) for part in _leaves(rest))


def _leaves(tree):
    if isinstance(tree, dict):
        tree = tuple(tree.values())
    if isinstance(tree, (list, tuple)):
        return [leaf for part in tree for leaf in _leaves(part)]
    return [tree]
