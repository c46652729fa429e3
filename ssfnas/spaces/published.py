"""Published cells, as facts: DARTS (arXiv 1806.09055) and FairDARTS (arXiv 1911.12126)."""

from __future__ import annotations

# Name -> normal and reduction cell, edges as "operation from to". Every one of them lists all four
# nodes as output, absent ones included.
PUBLISHED_CELLS: dict[str, tuple[str, str]] = {
    "DARTS_V1": (
        "sep_conv_3x3 1 2; sep_conv_3x3 0 2; skip_connect 0 3; sep_conv_3x3 1 3; skip_connect "
        "0 4; sep_conv_3x3 1 4; sep_conv_3x3 0 5; skip_connect 2 5",
        "max_pool_3x3 0 2; max_pool_3x3 1 2; skip_connect 2 3; max_pool_3x3 0 3; max_pool_3x3 "
        "0 4; skip_connect 2 4; skip_connect 2 5; avg_pool_3x3 0 5",
    ),
    "DARTS_V2": (
        "sep_conv_3x3 0 2; sep_conv_3x3 1 2; sep_conv_3x3 0 3; sep_conv_3x3 1 3; sep_conv_3x3 "
        "1 4; skip_connect 0 4; skip_connect 0 5; dil_conv_3x3 2 5",
        "max_pool_3x3 0 2; max_pool_3x3 1 2; skip_connect 2 3; max_pool_3x3 1 3; max_pool_3x3 "
        "0 4; skip_connect 2 4; skip_connect 2 5; max_pool_3x3 1 5",
    ),
    "FairDARTS_a": (
        "sep_conv_3x3 0 2; sep_conv_5x5 1 2; max_pool_3x3 0 4; sep_conv_3x3 0 5",
        "max_pool_3x3 0 2; avg_pool_3x3 1 2; avg_pool_3x3 0 3; dil_conv_5x5 1 3; avg_pool_3x3 "
        "0 4; sep_conv_5x5 1 4; skip_connect 0 5; skip_connect 1 5",
    ),
    "FairDARTS_b": (
        "sep_conv_3x3 0 2; sep_conv_3x3 1 2; sep_conv_3x3 1 3; dil_conv_3x3 0 4; sep_conv_5x5 "
        "1 4; dil_conv_5x5 1 5",
        "skip_connect 0 2; dil_conv_3x3 1 2; skip_connect 0 3; dil_conv_3x3 1 3; max_pool_3x3 "
        "0 4; sep_conv_3x3 1 4; skip_connect 2 5; max_pool_3x3 0 5",
    ),
    "FairDARTS_c": (
        "max_pool_3x3 0 2; sep_conv_5x5 1 2; dil_conv_3x3 0 4; dil_conv_5x5 2 4; skip_connect "
        "3 5; sep_conv_3x3 0 5",
        "dil_conv_3x3 1 2; dil_conv_5x5 0 2; dil_conv_3x3 0 3; sep_conv_3x3 1 3; sep_conv_5x5 "
        "0 4; sep_conv_5x5 3 4; sep_conv_5x5 0 5; skip_connect 1 5",
    ),
    "FairDARTS_d": (
        "sep_conv_3x3 0 2; sep_conv_5x5 1 2; dil_conv_3x3 1 3; max_pool_3x3 0 3; dil_conv_3x3 "
        "0 4; dil_conv_3x3 1 4; sep_conv_3x3 0 5; dil_conv_5x5 1 5",
        "max_pool_3x3 0 2; sep_conv_5x5 1 2; avg_pool_3x3 0 3; dil_conv_5x5 2 3; dil_conv_3x3 "
        "3 4; avg_pool_3x3 0 4; avg_pool_3x3 0 5; skip_connect 3 5",
    ),
    "FairDARTS_e": (
        "sep_conv_3x3 0 2; sep_conv_3x3 1 2; dil_conv_3x3 1 4; dil_conv_3x3 2 4; dil_conv_3x3 "
        "0 5; dil_conv_5x5 1 5",
        "max_pool_3x3 1 2; max_pool_3x3 0 2; max_pool_3x3 1 3; max_pool_3x3 0 3; sep_conv_5x5 "
        "1 4; max_pool_3x3 0 4; avg_pool_3x3 0 5; dil_conv_5x5 1 5",
    ),
    "FairDARTS_f": (
        "max_pool_3x3 0 2; sep_conv_3x3 1 2; dil_conv_3x3 1 3; sep_conv_5x5 1 4; sep_conv_3x3 "
        "0 5; sep_conv_3x3 1 5",
        "max_pool_3x3 0 2; max_pool_3x3 1 2; max_pool_3x3 0 3; dil_conv_3x3 1 3; dil_conv_3x3 "
        "2 4; max_pool_3x3 0 4; max_pool_3x3 0 5; sep_conv_3x3 1 5",
    ),
    "FairDARTS_g": (
        "sep_conv_3x3 0 2; sep_conv_3x3 1 2; skip_connect 3 4; sep_conv_5x5 1 4; dil_conv_3x3 "
        "0 5; sep_conv_3x3 1 5",
        "avg_pool_3x3 1 2; skip_connect 0 2; skip_connect 2 3; max_pool_3x3 1 3; sep_conv_5x5 "
        "3 4; max_pool_3x3 0 4; dil_conv_3x3 1 5; dil_conv_3x3 4 5",
    ),
}
