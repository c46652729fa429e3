"""Published cells, as facts: DARTS (arXiv 1806.09055) and FairDARTS (arXiv 1911.12126)."""

from __future__ import annotations

from ssfnas.spaces.genotype import Edge, Genotype


def _cell(*edges: str) -> tuple[Edge, ...]:
    """Edges from ``"operation from to"``."""
    parsed = (edge.split() for edge in edges)
    return tuple((name, int(start), int(to)) for name, start, to in parsed)


def _genotype(normal: tuple[Edge, ...], reduce: tuple[Edge, ...]) -> Genotype:
    """Every one of them lists all four nodes as output, absent ones included."""
    return Genotype(normal, (2, 3, 4, 5), reduce, (2, 3, 4, 5))


PUBLISHED: dict[str, Genotype] = {
    "DARTS_V1": _genotype(
        _cell(
            "sep_conv_3x3 1 2",
            "sep_conv_3x3 0 2",
            "skip_connect 0 3",
            "sep_conv_3x3 1 3",
            "skip_connect 0 4",
            "sep_conv_3x3 1 4",
            "sep_conv_3x3 0 5",
            "skip_connect 2 5",
        ),
        _cell(
            "max_pool_3x3 0 2",
            "max_pool_3x3 1 2",
            "skip_connect 2 3",
            "max_pool_3x3 0 3",
            "max_pool_3x3 0 4",
            "skip_connect 2 4",
            "skip_connect 2 5",
            "avg_pool_3x3 0 5",
        ),
    ),
    "DARTS_V2": _genotype(
        _cell(
            "sep_conv_3x3 0 2",
            "sep_conv_3x3 1 2",
            "sep_conv_3x3 0 3",
            "sep_conv_3x3 1 3",
            "sep_conv_3x3 1 4",
            "skip_connect 0 4",
            "skip_connect 0 5",
            "dil_conv_3x3 2 5",
        ),
        _cell(
            "max_pool_3x3 0 2",
            "max_pool_3x3 1 2",
            "skip_connect 2 3",
            "max_pool_3x3 1 3",
            "max_pool_3x3 0 4",
            "skip_connect 2 4",
            "skip_connect 2 5",
            "max_pool_3x3 1 5",
        ),
    ),
    "FairDARTS_a": _genotype(
        _cell(
            "sep_conv_3x3 0 2",
            "sep_conv_5x5 1 2",
            "max_pool_3x3 0 4",
            "sep_conv_3x3 0 5",
        ),
        _cell(
            "max_pool_3x3 0 2",
            "avg_pool_3x3 1 2",
            "avg_pool_3x3 0 3",
            "dil_conv_5x5 1 3",
            "avg_pool_3x3 0 4",
            "sep_conv_5x5 1 4",
            "skip_connect 0 5",
            "skip_connect 1 5",
        ),
    ),
    "FairDARTS_b": _genotype(
        _cell(
            "sep_conv_3x3 0 2",
            "sep_conv_3x3 1 2",
            "sep_conv_3x3 1 3",
            "dil_conv_3x3 0 4",
            "sep_conv_5x5 1 4",
            "dil_conv_5x5 1 5",
        ),
        _cell(
            "skip_connect 0 2",
            "dil_conv_3x3 1 2",
            "skip_connect 0 3",
            "dil_conv_3x3 1 3",
            "max_pool_3x3 0 4",
            "sep_conv_3x3 1 4",
            "skip_connect 2 5",
            "max_pool_3x3 0 5",
        ),
    ),
    "FairDARTS_c": _genotype(
        _cell(
            "max_pool_3x3 0 2",
            "sep_conv_5x5 1 2",
            "dil_conv_3x3 0 4",
            "dil_conv_5x5 2 4",
            "skip_connect 3 5",
            "sep_conv_3x3 0 5",
        ),
        _cell(
            "dil_conv_3x3 1 2",
            "dil_conv_5x5 0 2",
            "dil_conv_3x3 0 3",
            "sep_conv_3x3 1 3",
            "sep_conv_5x5 0 4",
            "sep_conv_5x5 3 4",
            "sep_conv_5x5 0 5",
            "skip_connect 1 5",
        ),
    ),
    "FairDARTS_d": _genotype(
        _cell(
            "sep_conv_3x3 0 2",
            "sep_conv_5x5 1 2",
            "dil_conv_3x3 1 3",
            "max_pool_3x3 0 3",
            "dil_conv_3x3 0 4",
            "dil_conv_3x3 1 4",
            "sep_conv_3x3 0 5",
            "dil_conv_5x5 1 5",
        ),
        _cell(
            "max_pool_3x3 0 2",
            "sep_conv_5x5 1 2",
            "avg_pool_3x3 0 3",
            "dil_conv_5x5 2 3",
            "dil_conv_3x3 3 4",
            "avg_pool_3x3 0 4",
            "avg_pool_3x3 0 5",
            "skip_connect 3 5",
        ),
    ),
    "FairDARTS_e": _genotype(
        _cell(
            "sep_conv_3x3 0 2",
            "sep_conv_3x3 1 2",
            "dil_conv_3x3 1 4",
            "dil_conv_3x3 2 4",
            "dil_conv_3x3 0 5",
            "dil_conv_5x5 1 5",
        ),
        _cell(
            "max_pool_3x3 1 2",
            "max_pool_3x3 0 2",
            "max_pool_3x3 1 3",
            "max_pool_3x3 0 3",
            "sep_conv_5x5 1 4",
            "max_pool_3x3 0 4",
            "avg_pool_3x3 0 5",
            "dil_conv_5x5 1 5",
        ),
    ),
    "FairDARTS_f": _genotype(
        _cell(
            "max_pool_3x3 0 2",
            "sep_conv_3x3 1 2",
            "dil_conv_3x3 1 3",
            "sep_conv_5x5 1 4",
            "sep_conv_3x3 0 5",
            "sep_conv_3x3 1 5",
        ),
        _cell(
            "max_pool_3x3 0 2",
            "max_pool_3x3 1 2",
            "max_pool_3x3 0 3",
            "dil_conv_3x3 1 3",
            "dil_conv_3x3 2 4",
            "max_pool_3x3 0 4",
            "max_pool_3x3 0 5",
            "sep_conv_3x3 1 5",
        ),
    ),
    "FairDARTS_g": _genotype(
        _cell(
            "sep_conv_3x3 0 2",
            "sep_conv_3x3 1 2",
            "skip_connect 3 4",
            "sep_conv_5x5 1 4",
            "dil_conv_3x3 0 5",
            "sep_conv_3x3 1 5",
        ),
        _cell(
            "avg_pool_3x3 1 2",
            "skip_connect 0 2",
            "skip_connect 2 3",
            "max_pool_3x3 1 3",
            "sep_conv_5x5 3 4",
            "max_pool_3x3 0 4",
            "dil_conv_3x3 1 5",
            "dil_conv_3x3 4 5",
        ),
    ),
}
