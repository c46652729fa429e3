"""Strategies by name."""

from __future__ import annotations

import pytest
import torch

from ssfnas.config import SearchConfig
from ssfnas.errors import RequestError
from ssfnas.strategies import STRATEGIES
from ssfnas.strategies.regularizers import zero_one_loss


def test_fairdarts_adds_its_loss_with_its_weight():
    alphas = [torch.linspace(-2, 2, 14, dtype=torch.float64).reshape(2, 7)]
    config = SearchConfig(strategy="fairdarts", w01=3.0, zero_one="l1")
    terms = STRATEGIES.get("fairdarts").make_regularizer(alphas, config)()
    assert terms["zero_one"].item() == zero_one_loss(alphas, "l1").item()
    assert terms["loss"].item() == pytest.approx(3 * terms["zero_one"].item(), rel=1e-14)


@pytest.mark.parametrize(("name", "relaxation"), [("darts", "softmax"), ("random", "sigmoid")])
def test_others_add_nothing(name, relaxation):
    strategy = STRATEGIES.get(name)
    assert strategy.relaxation == relaxation
    assert strategy.make_regularizer([torch.zeros(2, 7)], SearchConfig()) is None


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(RequestError, match=r"fairdart.*fairdarts.*random"):
        STRATEGIES.get("fairdart")
