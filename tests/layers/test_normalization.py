"""BatchNorm alone is PyTorch's; over two processes it is that of the whole batch."""

from __future__ import annotations

import copy

import definitions
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from ssfnas.errors import RequestError
from ssfnas.spaces import BatchNorm1d, BatchNorm2d, frozen_statistics, synchronize_batchnorm


def images(*shape, seed=0):
    draws = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(*shape, generator=draws, dtype=torch.float64) + 0.7


def filled(module, seed=5):
    draws = torch.Generator().manual_seed(seed)
    module = module.double()
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draws, dtype=torch.float64)
    return module


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
def test_alone_it_is_torchs_and_the_definition(affine, momentum):
    ours = filled(BatchNorm2d(3, affine=affine, momentum=momentum))
    theirs = filled(nn.BatchNorm2d(3, affine=affine, momentum=momentum))
    for step in range(3):
        x = images(4, 3, 5, 2, seed=step).requires_grad_()
        outputs = [ours(x), theirs(x), definitions.batch_norm(x, ours.weight, ours.bias)]
        cotangent = images(4, 3, 5, 2, seed=10 + step)
        grads = [torch.autograd.grad((y * cotangent).sum(), x)[0] for y in outputs]
        for found, wanted in ((outputs, outputs[2]), (grads, grads[2])):
            for value in found[:2]:
                torch.testing.assert_close(value, wanted, rtol=1e-11, atol=1e-11)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_differentiable_twice():
    norm = filled(BatchNorm2d(2))
    x = images(3, 2, 2, 2).requires_grad_()
    with frozen_statistics(norm):
        assert torch.autograd.gradgradcheck(norm, (x,))


def test_frozen_statistics_are_left_alone_but_not_used_in_training():
    net = nn.Sequential(BatchNorm2d(3), nn.BatchNorm2d(3), BatchNorm2d(3)).double()
    net[2].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = images(4, 3, 5, 5)
    with frozen_statistics(net), frozen_statistics(net):
        found = net[0](x)
        rest = net(x)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    torch.testing.assert_close(found, definitions.batch_norm(x), rtol=1e-12, atol=1e-12)
    # In evaluation running statistics (mean 0, variance 1) are used as ever.
    twice = definitions.batch_norm(definitions.batch_norm(x)) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(rest, twice, rtol=1e-9, atol=1e-9)
    net(x)
    assert net[0].num_batches_tracked == 1
    assert not torch.equal(net[0].running_mean, before["0.running_mean"])


def test_frozen_statistics_end_with_an_error_inside():
    norm = BatchNorm2d(3)
    with pytest.raises(KeyError), frozen_statistics(norm):
        raise KeyError
    norm(torch.ones(2, 3, 2, 2))
    assert norm.num_batches_tracked == 1


def test_a_single_value_is_an_error():
    with pytest.raises(ValueError, match="more than 1 value"):
        BatchNorm2d(3)(torch.ones(1, 3, 1, 1))


class _Unknown(nn.BatchNorm3d):
    pass


def test_unknown_kinds_cannot_be_synchronized():
    net = nn.Sequential(_Unknown(3))
    assert synchronize_batchnorm(net, None) is net
    with pytest.raises(RequestError, match="layer '0' is a _Unknown"):
        synchronize_batchnorm(net, object())


def make_net():
    from timm.layers import BatchNormAct2d

    net = nn.Sequential(
        BatchNorm2d(3),
        nn.Conv2d(3, 4, 1, bias=False),
        BatchNormAct2d(4),
        nn.Conv2d(4, 3, 3, padding=1),
        BatchNorm2d(3, affine=False, momentum=None),
        nn.BatchNorm2d(3, momentum=0.4),
        nn.Flatten(),
        nn.Linear(60, 4),
        nn.BatchNorm1d(4),
        BatchNorm1d(4, eps=0.1),
    )
    return filled(net)


ROWS = ((0, 5), (5, 7))  # uneven on purpose


def results(net, x, cotangent):
    """Output, gradients of x and of the parameters for the loss <output, cotangent>, buffers."""
    for _ in range(2):
        net.zero_grad()
        x = x.detach().requires_grad_()
        y = net(x)
        (y * cotangent).sum().backward()
    return {
        "output": y.detach(),
        "input": x.grad,
        "parameters": [parameter.grad for parameter in net.parameters()],
        "buffers": [buffer.clone() for buffer in net.buffers()],
    }


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    group = dist.group.WORLD
    net = synchronize_batchnorm(make_net(), group)
    assert list(net.state_dict()) == list(make_net().state_dict())
    rows = slice(*ROWS[rank])
    x, cotangent = images(7, 3, 4, 5), images(7, 4, seed=1)
    found = results(net, x[rows], cotangent[rows])
    with frozen_statistics(net):
        net(x[rows])
    found["frozen"] = [buffer.clone() for buffer in net.buffers()]
    single = BatchNorm2d(3).double()
    single.group = group
    found["one pixel"] = single(x[rank : rank + 1, :, :1, :1]).detach()
    # A copy shares the group, and forgets it when told to.
    clone = synchronize_batchnorm(copy.deepcopy(net), None)
    assert net[0].group is group
    assert clone[0].group is None
    found["alone"] = clone[0](x[rows]).detach()
    found["refusals"] = []
    for power in (1, 2):  # below a sum the gradient that comes in is constant
        pixels = x[rows].clone().requires_grad_()
        loss = (single(pixels) ** power).sum()
        try:
            torch.autograd.grad(loss, pixels, create_graph=True)
        except RuntimeError as error:
            found["refusals"].append(str(error))
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def test_two_processes_are_one_on_the_whole_batch(tmp_path):
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    x = images(7, 3, 4, 5)
    wanted = results(make_net(), x, images(7, 4, seed=1))

    def close(one, other):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)

    for part in ("output", "input"):
        close(torch.cat([result[part] for result in found]), wanted[part])
    for first, second, whole in zip(
        found[0]["parameters"], found[1]["parameters"], wanted["parameters"], strict=True
    ):
        # Averaged gradients belong to the mean of the losses: half of their sum.
        close((first + second) / 2, whole / 2)
    for result in found:
        for buffer, whole, frozen in zip(
            result["buffers"], wanted["buffers"], result["frozen"], strict=True
        ):
            close(buffer, whole)
            assert torch.equal(buffer, frozen)
    close(
        torch.cat([result["one pixel"] for result in found]),
        definitions.batch_norm(x[:2, :, :1, :1]),
    )
    for result in found:
        assert len(result["refusals"]) == 2
        for words in result["refusals"]:
            assert "BatchNorm over several processes is differentiable once" in words
            assert "in one process" in words
    norm = make_net()[0]
    for rank, result in enumerate(found):
        rows = slice(*ROWS[rank])
        close(result["alone"], definitions.batch_norm(x[rows], norm.weight, norm.bias).detach())
