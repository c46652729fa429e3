"""An exported network that computes something else is refused."""

from __future__ import annotations

import pytest
import torch
from exported_networks import card, network

from ssfnas.errors import NumericalError
from ssfnas.exports.checks import check
from ssfnas.exports.plain_network import PlainNetwork


@pytest.fixture(scope="module")
def plain() -> PlainNetwork:
    return PlainNetwork(network(), card(), "float", "logits")


def test_the_network_agrees_with_itself_and_with_another_order_of_sums(plain):
    assert check("it", plain, plain).difference == 0
    found = check("it", lambda images: plain.exact(images).float(), plain)
    assert 0 < found.difference < 1e-4 * found.size


@pytest.mark.parametrize(
    "wrong",
    [
        lambda output: output * (1 + 2e-4),
        lambda output: output + torch.nan,
        lambda output: output.flip(1),
        lambda output: output[:, :2],
    ],
    ids=["scaled", "nan", "classes", "shape"],
)
def test_what_differs_is_refused(plain, wrong):
    with pytest.raises(NumericalError, match="nothing is written"):
        check("it", lambda images: wrong(plain(images)), plain)


def test_both_sizes_of_batches_are_compared(plain):
    seen = []

    def first_alone(images):
        seen.append(len(images))
        return plain(images[:1]).expand(len(images), -1)

    with pytest.raises(NumericalError, match="batch of 5"):
        check("it", first_alone, plain)
    assert seen == [1, 5]
