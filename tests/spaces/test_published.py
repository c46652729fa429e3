"""Published cells: networks of exactly the size that their papers' programs count."""

from __future__ import annotations

import pytest
import torch

from ssfnas.spaces import PUBLISHED, DerivedNetwork, count_multiply_adds, count_parameters

# Cell -> parameters without and with the auxiliary head, multiply-adds in millions (32x32).
SIZES = {
    "DARTS_V2": (3_349_342, 3_825_768, 528.4),
    "FairDARTS_a": (2_360_782, 2_837_208, 371.5),
    "FairDARTS_b": (3_407_878, 3_884_304, 536.5),
    "FairDARTS_c": (2_598_814, 3_075_240, 400.0),
    "FairDARTS_d": (3_365_542, 3_841_968, 532.5),
    "FairDARTS_e": (2_643_742, 3_120_168, 414.7),
    "FairDARTS_f": (3_151_054, 3_627_480, 497.6),
    "FairDARTS_g": (2_899_054, 3_375_480, 453.4),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes(name):
    without, with_head, millions = SIZES[name]
    with torch.device("meta"):
        net = DerivedNetwork(PUBLISHED[name], auxiliary=True)
        plain = DerivedNetwork(PUBLISHED[name])
    assert count_parameters(net, auxiliary=True) == with_head
    assert count_parameters(net) == count_parameters(plain, auxiliary=True) == without
    assert round(count_multiply_adds(net) / 1e6, 1) == millions


def test_all_are_there_and_complete():
    assert list(PUBLISHED) == ["DARTS_V1", *SIZES]
    for name, genotype in PUBLISHED.items():
        genotype.check()
        assert genotype.nodes == 4
        assert genotype.normal_concat == genotype.reduce_concat == (2, 3, 4, 5), name
    # Only DARTS' cells have two edges at each node.
    assert "('skip_connect', 2)" in PUBLISHED["DARTS_V1"].to_text("darts")
    assert PUBLISHED["FairDARTS_a"].pruned().normal_concat == (2, 4, 5)
