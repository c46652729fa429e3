"""The moving average of weights against PyTorch's, to the bit."""

from __future__ import annotations

import torch
from recorders import NoLooking
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ssfnas.training.weight_average import WeightAverage


def network() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False))
    net.register_buffer("counts", torch.tensor([3, 9]))
    return net


def change(net: nn.Module, draws: torch.Generator) -> None:
    with torch.no_grad():
        for tensor in net.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=draws))
            else:
                tensor += torch.randint(1, 50, tensor.shape, generator=draws)


def test_it_is_the_average_of_pytorch_counts_of_batches_included():
    net, draws = network(), torch.Generator().manual_seed(1)
    ours = WeightAverage(net, 0.75)
    theirs = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.75), use_buffers=True)
    places = [tensor.data_ptr() for tensor in ours.state_dict().values()]
    for step in range(5):
        change(net, draws)
        with NoLooking():
            ours.update(net)
        if step == 0:
            ours.restart(net)
        theirs.update_parameters(net)
    found, expected = ours.module.state_dict(), theirs.module.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert not torch.equal(found["0.weight"], net.state_dict()["0.weight"])
    assert [tensor.data_ptr() for tensor in ours.state_dict().values()] == places
    x = torch.randn(4, 2, 3, 3, generator=draws)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
