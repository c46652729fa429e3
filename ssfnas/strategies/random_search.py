"""Random search: genotypes drawn uniformly from the space, of equal budget."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from ssfnas.errors import RequestError
from ssfnas.seeding import generator
from ssfnas.spaces import Genotype


def sample_genotype(
    seed: int, index: int, *, operations: Sequence[str], nodes: int = 4
) -> Genotype:
    """The ``index``-th genotype of a seed, independent of all others.

    Each node has two different incoming edges, every pair alike, with one operation each, every
    operation alike: uniform over what the rule ``darts`` can derive.

    Args:
        seed: of the search.
        index: number of the sample, from 0.
        operations: names; ``none`` is left out.
        nodes: intermediate nodes a cell.

    Raises:
        RequestError: there is no operation but ``none``.
    """
    names = [name for name in operations if name != "none"]
    if not names:
        raise RequestError("random search needs an operation besides 'none'")
    draws = generator(seed, "genotype", index)
    cells = []
    for _ in range(2):
        edges = []
        for target in range(2, nodes + 2):
            sources = torch.randperm(target, generator=draws)[:2].sort().values.tolist()
            for source in sources:
                choice = int(torch.randint(len(names), (1,), generator=draws))
                edges.append((names[choice], source, target))
        cells.append(tuple(edges))
    concat = tuple(range(2, nodes + 2))
    return Genotype(normal=cells[0], normal_concat=concat, reduce=cells[1], reduce_concat=concat)


def split_budget(steps: int, samples: int) -> list[int]:
    """Steps of each sample: equal shares, the first ones one more where they do not divide."""
    share, extra = divmod(steps, samples)
    return [share + (number < extra) for number in range(samples)]


def best(scores: Sequence[float]) -> int:
    """Position of the lowest score, the first of equals; NaN is never the best."""
    return min(range(len(scores)), key=lambda i: (math.isnan(scores[i]), scores[i], i))
