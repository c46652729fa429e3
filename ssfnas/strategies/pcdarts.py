"""PC-DARTS: operations see a part of the channels, and edges of a node share a weight."""

from __future__ import annotations

from ssfnas.strategies.strategy import SearchStrategy


class PCDarts(SearchStrategy):
    """DARTS with edge normalization (arXiv 1907.05737).

    Partial channels are the space's; genotypes are read from weight times factor of the edge.
    """

    normalizes_edges = True
