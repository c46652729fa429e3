"""Every operation against its written-out definition, in float64."""

from __future__ import annotations

import definitions
import pytest
import torch

from ssfnas.declarations.strategies import DARTS_OPERATIONS
from ssfnas.errors import RequestError
from ssfnas.layers.operations import FactorizedReduce, check_operations, make_operation


def randomized(module, seed):
    draws = torch.Generator().manual_seed(seed)
    module = module.double()
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draws, dtype=torch.float64)
    return module


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (5, 4), (2, 3)])
@pytest.mark.parametrize("searching", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", DARTS_OPERATIONS)
def test_operation_is_its_definition(name, stride, searching, size):
    draws = torch.Generator().manual_seed(7)
    module = randomized(make_operation(name, 4, stride, searching=searching), 1)
    parameters = list(module.parameters())
    x = torch.randn(3, 4, *size, generator=draws, dtype=torch.float64, requires_grad=True)

    found = module(x)
    wanted = definitions.operation(name, x, parameters, stride, searching=searching)

    assert found.shape == (3, 4, -(-size[0] // stride), -(-size[1] // stride))
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
    if name == "none":
        assert not found.requires_grad
        return
    cotangent = torch.randn(found.shape, generator=draws, dtype=torch.float64)
    inputs = [x, *parameters]
    # Through the identity both would be the same tensor.
    found_grads = torch.autograd.grad((found * cotangent).sum(), inputs)
    wanted_grads = torch.autograd.grad((wanted * cotangent).sum(), inputs)
    for one, other in zip(found_grads, wanted_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 1)])
def test_factorized_reduce_pads_the_smallest_images(size):
    module = randomized(FactorizedReduce(3, 5, True), 2)
    draws = torch.Generator().manual_seed(3)
    x = torch.randn(6, 3, *size, generator=draws, dtype=torch.float64)
    wanted = definitions.factorized_reduce(x, iter(module.parameters()), True)
    torch.testing.assert_close(module(x), wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("channels", [4, 8])
def test_factorized_reduce_of_large_images_is_the_same_in_both_layouts(channels):
    """A strided convolution of these sizes writes beyond its memory in PyTorch 2.11."""
    module = FactorizedReduce(channels, channels, True)
    draws = torch.Generator().manual_seed(4)
    found = []
    for order in (torch.contiguous_format, torch.channels_last):
        draws.manual_seed(4)
        x = torch.randn(2, channels, 64, 64, generator=draws).contiguous(memory_format=order)
        y = module(x.requires_grad_())
        cotangent = torch.randn(y.shape, generator=draws)
        dx, *of_parameters = torch.autograd.grad(y, [x, *module.parameters()], cotangent)
        assert dx.is_contiguous(memory_format=order)
        found.append([y, dx, *of_parameters])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_factorized_reduce_refuses_one_channel():
    with pytest.raises(RequestError, match="at least 2 channels"):
        FactorizedReduce(4, 1, False)


@pytest.mark.parametrize(
    ("name", "stride", "searching", "count"),
    [
        # channels C = 6: depthwise k*k*C, pointwise C*C, BatchNorm 2C.
        ("none", 2, True, 0),
        ("max_pool_3x3", 2, True, 0),
        ("avg_pool_3x3", 1, False, 0),
        ("skip_connect", 1, False, 0),
        ("skip_connect", 2, True, 36),
        ("skip_connect", 2, False, 36 + 12),
        ("sep_conv_3x3", 1, True, 2 * (54 + 36)),
        ("sep_conv_5x5", 2, False, 2 * (150 + 36 + 12)),
        ("dil_conv_3x3", 2, False, 54 + 36 + 12),
        ("dil_conv_5x5", 1, True, 150 + 36),
    ],
)
def test_parameters_counted_by_hand(name, stride, searching, count):
    module = make_operation(name, 6, stride, searching=searching)
    assert sum(parameter.numel() for parameter in module.parameters()) == count


def test_average_pool_does_not_count_the_padding():
    module = make_operation("avg_pool_3x3", 1, 1, searching=False)
    torch.testing.assert_close(module(torch.ones(1, 1, 4, 4)), torch.ones(1, 1, 4, 4))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "no operations"),
        (("skip_connect", "skip_connect"), "listed twice"),
        (("skip_conect",), "did you mean 'skip_connect'"),
    ],
)
def test_wrong_lists_of_candidates(names, message):
    with pytest.raises(RequestError, match=message):
        check_operations(names)
