"""A user's operation works by its name everywhere."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ssfnas.errors import RequestError
from ssfnas.layers import operations
from ssfnas.layers.operations import make_operation
from ssfnas.spaces import (
    OPERATIONS,
    BatchNorm2d,
    DerivedNetwork,
    Genotype,
    ReferenceSupernet,
    count_parameters,
    register_operation,
)
from ssfnas.strategies.derivation import derive


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """A copy of the entries, so that tests leave nothing behind."""
    monkeypatch.setattr(OPERATIONS, "_entries", OPERATIONS.entries())


def conv(channels, stride, affine):
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, 1, stride=stride, bias=False),
        BatchNorm2d(channels, affine=affine),
    )


def test_searched_derived_and_trained():
    register_operation("my_conv")(conv)
    names = ("skip_connect", "my_conv")
    draws = torch.Generator().manual_seed(0)
    net = ReferenceSupernet(3, channels=4, layers=3, nodes=2, operations=names, generator=draws)
    x = torch.randn(2, 3, 9, 7, generator=draws)
    net(x).sum().backward()
    assert net.alphas_reduce.grad.abs().sum() > 0
    with torch.no_grad():
        net.alphas_normal[:, 1] = 3
        net.alphas_reduce[:, 1] = 3
    genotype = derive(net.edge_weights(), names, "threshold")
    assert {name for name, _, _ in genotype.normal + genotype.reduce} == {"my_conv"}
    genotype = Genotype.from_text(genotype.to_text())
    genotype.check()
    derived = DerivedNetwork(genotype, 3, channels=4, layers=3, generator=draws)
    derived(x).sum().backward()
    assert all(parameter.grad is not None for parameter in derived.parameters())
    # BatchNorm has weights in the derived network only.
    assert len(list(derived.cells[0].operations[0].parameters())) == 3
    assert len(list(net.cells[0].edges[0].operations[1].parameters())) == 1


def test_a_pool_gets_its_batch_norm_in_the_search_only():
    @register_operation("min_pool", pool=True)
    class MinPool(nn.MaxPool2d):
        def __init__(self, channels, stride, affine):
            super().__init__(3, stride, 1)

        def forward(self, x):
            return -super().forward(-x)

    searching = make_operation("min_pool", 4, 2, searching=True)
    x = 3 + torch.rand(5, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    y = searching(x)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    plain = make_operation("min_pool", 4, 2, searching=False)
    assert torch.equal(plain(x), -nn.functional.max_pool2d(-x, 3, 2, 1))
    assert count_parameters(searching) == 0


def test_trying_an_operation_out_shifts_no_draws():
    def net():
        draws = torch.Generator().manual_seed(0)
        return ReferenceSupernet(
            channels=4, layers=1, nodes=1, operations=("my_conv",), generator=draws
        ).state_dict()

    register_operation("my_conv")(conv)
    operations._try_out.cache_clear()
    first = net()  # tries it out
    assert all(torch.equal(value, first[name]) for name, value in net().items())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda channels, stride, affine: nn.Conv2d(channels, channels, 3), "it has to be"),
        (lambda channels, stride, affine: nn.Identity(), "with stride 2 maps"),
        (lambda channels, stride, affine: torch.relu, "has to return an nn.Module"),
        (lambda channels, stride, affine: nn.Flatten(), "it has to be"),
        (lambda channels, stride, affine: 1 / 0, "cannot be built .*ZeroDivisionError.*channels"),
        (lambda channels: nn.Identity(), "cannot be built .*TypeError: .*argument"),
        (lambda channels, stride, affine: nn.Bilinear(2, 2, 2), "fails on .*TypeError"),
        # Only with the channels of this network, not with those that it is tried out with.
        (
            lambda channels, stride, affine: nn.Conv2d(
                channels, channels, 3, stride, 1, groups=8, bias=False
            ),
            "cannot be built with channels=12, .*ValueError: .*groups",
        ),
    ],
)
def test_an_operation_that_breaks_the_contract(build, message):
    register_operation("mine")(build)
    with pytest.raises(RequestError, match=f"operation 'mine'.*{message}"):
        ReferenceSupernet(channels=6, layers=1, nodes=1, operations=("mine",))


def test_names():
    register_operation("mine")(conv)
    with pytest.raises(RequestError, match="registered already"):
        register_operation("mine")(conv)
    for wrong in ("", " a", "a\nb"):
        with pytest.raises(RequestError, match="a name is printable"):
            register_operation(wrong)
    assert OPERATIONS.register("other")(conv) is conv
