"""Cells that were published, as lists of operations, to be retrained and compared with."""

from __future__ import annotations

from ssfnas.spaces.genotype import Genotype

_ALL = (2, 3, 4, 5)


def _pairs(*edges: tuple[str, int]) -> tuple[tuple[str, int, int], ...]:
    """Two incoming edges (operation, from) a node, in the order of the nodes."""
    return tuple((name, source, 2 + i // 2) for i, (name, source) in enumerate(edges))


def _triples(*edges: tuple[str, int, int]) -> tuple[tuple[str, int, int], ...]:
    """Edges (operation, to, from), as FairDARTS writes them."""
    return tuple((name, source, target) for name, target, source in edges)


def _cells(
    normal: tuple[tuple[str, int, int], ...], reduce: tuple[tuple[str, int, int], ...]
) -> Genotype:
    return Genotype(normal=normal, normal_concat=_ALL, reduce=reduce, reduce_concat=_ALL)


_SEP3, _SEP5, _DIL3, _DIL5 = "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5"
_MAX, _AVG, _SKIP = "max_pool_3x3", "avg_pool_3x3", "skip_connect"

PUBLISHED: dict[str, Genotype] = {
    # Liu et al., arXiv 1806.09055: first and second order.
    "DARTS_V1": _cells(
        _pairs(
            (_SEP3, 1), (_SEP3, 0), (_SKIP, 0), (_SEP3, 1), (_SKIP, 0), (_SEP3, 1), (_SEP3, 0), (_SKIP, 2)
        ),
        _pairs(
            (_MAX, 0), (_MAX, 1), (_SKIP, 2), (_MAX, 0), (_MAX, 0), (_SKIP, 2), (_SKIP, 2), (_AVG, 0)
        ),
    ),
    "DARTS_V2": _cells(
        _pairs(
            (_SEP3, 0), (_SEP3, 1), (_SEP3, 0), (_SEP3, 1), (_SEP3, 1), (_SKIP, 0), (_SKIP, 0), (_DIL3, 2)
        ),
        _pairs(
            (_MAX, 0), (_MAX, 1), (_SKIP, 2), (_MAX, 1), (_MAX, 0), (_SKIP, 2), (_SKIP, 2), (_MAX, 1)
        ),
    ),
    # Chu et al., arXiv 1911.12126: seven searches, threshold 0.85.
    "FairDARTS_a": _cells(
        _triples((_SEP3, 2, 0), (_SEP5, 2, 1), (_MAX, 4, 0), (_SEP3, 5, 0)),
        _triples(
            (_MAX, 2, 0), (_AVG, 2, 1), (_AVG, 3, 0), (_DIL5, 3, 1), (_AVG, 4, 0), (_SEP5, 4, 1),
            (_SKIP, 5, 0), (_SKIP, 5, 1),
        ),
    ),
    "FairDARTS_b": _cells(
        _triples(
            (_SEP3, 2, 0), (_SEP3, 2, 1), (_SEP3, 3, 1), (_DIL3, 4, 0), (_SEP5, 4, 1), (_DIL5, 5, 1)
        ),
        _triples(
            (_SKIP, 2, 0), (_DIL3, 2, 1), (_SKIP, 3, 0), (_DIL3, 3, 1), (_MAX, 4, 0), (_SEP3, 4, 1),
            (_SKIP, 5, 2), (_MAX, 5, 0),
        ),
    ),
    "FairDARTS_c": _cells(
        _triples(
            (_MAX, 2, 0), (_SEP5, 2, 1), (_DIL3, 4, 0), (_DIL5, 4, 2), (_SKIP, 5, 3), (_SEP3, 5, 0)
        ),
        _triples(
            (_DIL3, 2, 1), (_DIL5, 2, 0), (_DIL3, 3, 0), (_SEP3, 3, 1), (_SEP5, 4, 0), (_SEP5, 4, 3),
            (_SEP5, 5, 0), (_SKIP, 5, 1),
        ),
    ),
    "FairDARTS_d": _cells(
        _triples(
            (_SEP3, 2, 0), (_SEP5, 2, 1), (_DIL3, 3, 1), (_MAX, 3, 0), (_DIL3, 4, 0), (_DIL3, 4, 1),
            (_SEP3, 5, 0), (_DIL5, 5, 1),
        ),
        _triples(
            (_MAX, 2, 0), (_SEP5, 2, 1), (_AVG, 3, 0), (_DIL5, 3, 2), (_DIL3, 4, 3), (_AVG, 4, 0),
            (_AVG, 5, 0), (_SKIP, 5, 3),
        ),
    ),
    "FairDARTS_e": _cells(
        _triples(
            (_SEP3, 2, 0), (_SEP3, 2, 1), (_DIL3, 4, 1), (_DIL3, 4, 2), (_DIL3, 5, 0), (_DIL5, 5, 1)
        ),
        _triples(
            (_MAX, 2, 1), (_MAX, 2, 0), (_MAX, 3, 1), (_MAX, 3, 0), (_SEP5, 4, 1), (_MAX, 4, 0),
            (_AVG, 5, 0), (_DIL5, 5, 1),
        ),
    ),
    "FairDARTS_f": _cells(
        _triples(
            (_MAX, 2, 0), (_SEP3, 2, 1), (_DIL3, 3, 1), (_SEP5, 4, 1), (_SEP3, 5, 0), (_SEP3, 5, 1)
        ),
        _triples(
            (_MAX, 2, 0), (_MAX, 2, 1), (_MAX, 3, 0), (_DIL3, 3, 1), (_DIL3, 4, 2), (_MAX, 4, 0),
            (_MAX, 5, 0), (_SEP3, 5, 1),
        ),
    ),
    "FairDARTS_g": _cells(
        _triples(
            (_SEP3, 2, 0), (_SEP3, 2, 1), (_SKIP, 4, 3), (_SEP5, 4, 1), (_DIL3, 5, 0), (_SEP3, 5, 1)
        ),
        _triples(
            (_AVG, 2, 1), (_SKIP, 2, 0), (_SKIP, 3, 2), (_MAX, 3, 1), (_SEP5, 4, 3), (_MAX, 4, 0),
            (_DIL3, 5, 1), (_DIL3, 5, 4),
        ),
    ),
}  # fmt: skip
