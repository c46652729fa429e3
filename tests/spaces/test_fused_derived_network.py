"""The fast derived network against the reference, in float64: results, gradients, training."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from form_checks import assert_same, close, loss_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ssfnas.layers.operations import Zero
from ssfnas.ops import backend, backends
from ssfnas.spaces import (
    NETWORKS,
    OPERATIONS,
    DerivedNetwork,
    Genotype,
    ReferenceDerivedNetwork,
    count_multiply_adds,
    frozen_statistics,
    register_operation,
)

SMALL = {"num_classes": 3, "channels": 4, "layers": 5, "auxiliary": True}
ODD = Genotype(  # every operation, a node with three edges, an input that no edge leaves
    normal=(
        ("sep_conv_5x5", 1, 2), ("dil_conv_5x5", 1, 2), ("max_pool_3x3", 1, 2),
        ("avg_pool_3x3", 2, 4), ("max_pool_3x3", 2, 4), ("skip_connect", 1, 4),
        ("dil_conv_3x3", 4, 5), ("sep_conv_3x3", 1, 5),
    ),
    normal_concat=(4, 5),
    reduce=(
        ("skip_connect", 0, 2), ("max_pool_3x3", 1, 2), ("avg_pool_3x3", 0, 3),
        ("skip_connect", 2, 3), ("sep_conv_3x3", 0, 4), ("dil_conv_3x3", 1, 4),
    ),
    reduce_concat=(2, 3, 4),
)  # fmt: skip


def networks(genotype: Genotype | str, dtype=torch.float64, **options):
    """A reference and a fast network with the same weights, BatchNorms' decided and some zero."""
    genotype = Genotype.load(genotype) if isinstance(genotype, str) else genotype
    pair = []
    for form in (ReferenceDerivedNetwork, DerivedNetwork):
        net = form(genotype, **{**SMALL, **options}, generator=seeded(3)).to(dtype)
        draws = seeded(4)
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                for parameter in (module.weight, module.bias):
                    parameter.data = torch.randn(parameter.shape, generator=draws, dtype=dtype)
                module.weight.data[0] = 0
        pair.append(net)
    return pair


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(size=9, count=5, dtype=torch.float64) -> Tensor:
    return torch.randn(count, 3, size, size, generator=seeded(1), dtype=dtype)


@pytest.mark.parametrize("dropped", [0.0, 0.4])
@pytest.mark.parametrize("genotype", ["DARTS_V1", "DARTS_V2", "FairDARTS_a", "FairDARTS_g", ODD])
def test_equals_the_reference_in_training(genotype, dropped):
    pair = networks(genotype)
    for net in pair:
        net.set_drop_path(dropped, seed=2, step=7)
    assert_same(*pair, images())


@pytest.mark.parametrize("genotype", ["DARTS_V2", "FairDARTS_b", ODD])
def test_equals_the_reference_in_evaluation(genotype):
    pair = networks(genotype)
    for net in pair:
        net(images())
        net.eval()
    assert_same(*pair, images(size=8))


@pytest.mark.parametrize("channels", [2, 17])
def test_any_number_of_channels(channels):
    pair = networks("DARTS_V2", channels=channels, layers=3)
    assert_same(*pair, images(size=7, count=3))


@pytest.mark.parametrize("name", ["torch", "native"])
def test_every_backend_on_cpus(name):
    if backends()[name] is not None:
        pytest.skip(f"{name}: {backends()[name]}")
    pair = networks("DARTS_V2")
    for net in pair:
        net.set_drop_path(0.3, seed=2, step=7)
    with backend(name):
        assert_same(*pair, images())


def test_one_seed_is_one_network_in_either_form():
    states = [
        form(Genotype.load("DARTS_V2"), generator=seeded(5), **SMALL).state_dict()
        for form in NETWORKS.values()
    ]
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_hundred_steps_give_the_same_network():
    pair = networks("DARTS_V2", layers=3)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    for net in pair:
        draws = seeded(8)
        sgd = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
        for step in range(100):
            x = torch.randn(6, 3, 8, 8, generator=draws, dtype=torch.float64)
            net.set_drop_path(0.002 * step, seed=1, step=step)
            logits, auxiliary = net(x)
            loss = F.cross_entropy(logits, labels) + 0.4 * F.cross_entropy(auxiliary, labels)
            sgd.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            sgd.step()
    for (name, value), other in zip(
        pair[0].state_dict().items(), pair[1].state_dict().values(), strict=True
    ):
        assert close(other.double(), value.double(), 1e-9), name


def test_given_factors_are_what_would_have_been_drawn():
    for net in networks("DARTS_V2"):
        net.set_drop_path(0.3, seed=2, step=7)
        factors = net.draw_path_factors(5, torch.float64)
        net.set_drop_path(0.3, seed=2, step=7)
        drawn = loss_of(net, images())
        net.give_path_factors(factors)
        assert torch.equal(loss_of(net, images()), drawn)


def test_frozen_parameters_get_no_gradient_and_the_others_the_same():
    pair = networks("DARTS_V2")
    for net in pair:
        for name, parameter in net.named_parameters():
            parameter.requires_grad_("norm" not in name and not name.startswith("cells.0"))
    assert_same(*pair, images())


def test_frozen_statistics_stay():
    pair = networks("DARTS_V1")
    before = {name: buffer.clone() for name, buffer in pair[1].named_buffers()}
    with frozen_statistics(*pair):
        assert_same(*pair, images())
    assert all(torch.equal(before[name], buffer) for name, buffer in pair[1].named_buffers())


def test_some_frozen_batchnorms_fall_back_to_the_reference():
    pair = networks("DARTS_V2")
    for net in pair:
        net.cells[2].operations[0][3].eval()
    assert_same(*pair, images())


def test_copies_are_independent():
    _, fast = networks("DARTS_V2")
    loss_of(fast, images())
    fast.eval()
    for other in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert torch.equal(fast(images()), other(images()))
        with torch.no_grad():
            for weight in other.parameters():
                weight.zero_()
        assert not torch.equal(fast(images()), other(images()))


def test_cannot_be_differentiated_twice_but_under_the_reference():
    _, fast = networks("DARTS_V2")
    weights = list(fast.parameters())
    with pytest.raises(RuntimeError, match=r'backend\("reference"\)'):
        torch.autograd.grad(loss_of(fast, images()), weights, create_graph=True)
    with backend("reference"):
        found = torch.autograd.grad(loss_of(fast, images()), weights, create_graph=True)
        twice = torch.autograd.grad(found[0].square().sum(), weights[0])
    assert twice[0].abs().sum() > 0


class Gate(nn.Module):
    """With weights, statistics and an odd form, as users write them."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 3, stride, 1, bias=True)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(x)
        return self.norm(y * torch.sigmoid(y))


def test_operations_of_users_share_a_cell_with_fused_ones():
    register_operation("gate")(lambda channels, stride, affine: Gate(channels, stride))
    try:
        edges = (("gate", 0, 2), ("sep_conv_3x3", 1, 2), ("gate", 2, 3), ("skip_connect", 0, 3))
        pair = networks(Genotype(edges, (2, 3), edges, (2, 3)))
        for net in pair:
            net.set_drop_path(0.4, seed=1, step=1)
        assert_same(*pair, images())
    finally:
        del OPERATIONS._entries["gate"]


def exchange_operation(net):
    """A separable convolution becomes a plain one."""
    net.cells[0].operations[0] = seeded_layer(nn.Conv2d(4, 4, 3, padding=1))


def exchange_norm(net):
    norm = net.cells[2].operations[0][3]
    net.cells[2].operations[0][3] = seeded_layer(nn.GroupNorm(2, norm.num_features))


def exchange_preprocessing(net):
    net.cells[2].preprocess1 = seeded_layer(nn.Conv2d(32, 8, 1))


def exchange_cell(net):
    net.cells[3] = copy.deepcopy(net.cells[3])
    with torch.no_grad():
        for parameter in net.cells[3].parameters():
            parameter.mul_(1.5)


def exchange_slope(net):
    net.cells[0].operations[1][0] = nn.LeakyReLU(0.2)


def seeded_layer(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=seeded(9))
    return layer.double()


@pytest.mark.parametrize(
    "exchange",
    [exchange_operation, exchange_norm, exchange_preprocessing, exchange_cell, exchange_slope],
)
def test_an_exchanged_module_is_noticed(exchange):
    pair = networks("DARTS_V2")
    before = loss_of(pair[1], images())
    loss_of(pair[0], images())
    for net in pair:
        exchange(net)
    assert not torch.allclose(loss_of(copy.deepcopy(pair[1]), images()), before)
    assert_same(*pair, images())


@pytest.mark.parametrize(
    "place", ["cells.2.operations.0.3", "cells.2.operations.0", "cells.2.preprocess1", "cells.2"]
)
def test_hooks_are_called_and_change_what_is_computed(place):
    pair = networks("DARTS_V2")
    calls = [0, 0]

    def hook_of(number):
        def hook(module, inputs, output):
            calls[number] += 1
            return output * 1.5

        return hook

    for net in pair:
        loss_of(net, images())
    handles = [
        net.get_submodule(place).register_forward_hook(hook_of(number))
        for number, net in enumerate(pair)
    ]
    assert_same(*pair, images())
    assert calls == [1, 1]
    for handle, net in zip(handles, pair, strict=True):
        handle.remove()
        net.zero_grad()
    assert_same(*pair, images())
    assert calls == [1, 1]


def test_multiply_adds_are_counted_alike():
    counts = [count_multiply_adds(net, 9) for net in networks("DARTS_V2")]
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_is_no_worse_than_the_references(dtype):
    exact, _ = networks("DARTS_V2")
    wanted = torch.autograd.grad(loss_of(exact, images()), list(exact.parameters()))
    errors = []
    for net in networks("DARTS_V2", torch.float32):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            outputs = net(images(dtype=torch.float32))
        loss = sum(
            (y * torch.arange(y.numel(), dtype=y.dtype).view_as(y).sin()).sum()
            for y in (output.float() for output in outputs)
        )
        found = torch.autograd.grad(loss, list(net.parameters()))
        assert all(gradient.dtype == torch.float32 for gradient in found)
        squares = sum(float((a - b).square().sum()) for a, b in zip(found, wanted, strict=True))
        errors.append(squares**0.5 / sum(float(b.square().sum()) for b in wanted) ** 0.5)
    assert errors[1] <= 2 * errors[0] + 1e-6


def bias_of_a_convolution(net):
    net.cells[0].operations[0][2].bias = nn.Parameter(torch.ones(4, dtype=torch.float64))


def no_bias_in_a_norm(net):
    net.cells[0].operations[0][3].bias = None


def wider_pools(net):
    for module in net.modules():
        if isinstance(module, nn.MaxPool2d):
            module.kernel_size, module.padding = 5, 2
    net._fused = None  # attributes are not looked at again


def grouped_entry(net):
    net.cells[0].preprocess1[1] = seeded_layer(nn.Conv2d(12, 4, 1, groups=2, bias=False))


def own_forward(net):
    operation = net.cells[0].operations[0]
    operation.forward = lambda x, whole=operation.forward: 2 * whole(x)
    net._fused = None


def other_cells(net):
    net.cells = copy.deepcopy(net.cells)
    exchange_slope(net)


def node_of_nothing(net):
    for place, (_, to) in enumerate(net.cells[0].edges):
        if to == 2:
            net.cells[0].operations[place] = Zero(1)


@pytest.mark.parametrize(
    "change",
    [bias_of_a_convolution, no_bias_in_a_norm, wider_pools, grouped_entry, own_forward, other_cells,
     node_of_nothing],
)  # fmt: skip
def test_what_is_changed_is_computed_as_it_is(change):
    pair = networks("DARTS_V2")
    for net in pair:
        loss_of(net, images())
        change(net)
    # A bias before a BatchNorm has no gradient but what rounding leaves.
    assert_same(*pair, images(), 1e-9)


def test_no_images_at_all():
    for net in networks("DARTS_V2"):
        assert net.eval()(images(count=0)).shape == (0, 3)


def test_a_checkpoint_around_the_network():
    pair = networks("DARTS_V2", auxiliary=False)
    found = []
    for net in pair:
        x = images().requires_grad_()
        checkpoint(net, x, use_reentrant=False).square().sum().backward()
        found.append([x.grad, *(p.grad for p in net.parameters() if p.grad is not None)])
    assert all(close(fast, wanted, 1e-10) for wanted, fast in zip(*found, strict=True))


def test_an_activation_that_a_hook_keeps_stays_in_the_graph():
    found = []
    for net in networks("DARTS_V2", auxiliary=False):
        kept = []
        net.cells[0].operations[1].register_forward_hook(lambda m, i, o, k=kept: k.append(o))
        x = images().requires_grad_()
        loss = net(x).square().sum() + kept[0].sum()
        found.append(torch.autograd.grad(loss, [x, kept[0]]))
    assert all(close(fast, wanted) for wanted, fast in zip(*found, strict=True))


def test_a_parameter_that_is_not_an_operations_own_is_refused():
    outer = nn.Parameter(torch.ones((), dtype=torch.float64))

    class Borrows(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) * outer

    _, fast = networks("DARTS_V2")
    fast.cells[0].operations[0] = Borrows(4, 4, 1).double()
    with pytest.raises(RuntimeError, match=r"a Borrows, uses a parameter \[\] that is not its own"):
        fast(images())
    with torch.no_grad(), backend("reference"):
        fast(images())


def test_replicas_use_their_own_weights():
    _, fast = networks("DARTS_V2")
    fast.eval()
    before = fast(images())
    replica = fast._replicate_for_data_parallel()
    replica.cells = copy.deepcopy(fast.cells)
    with torch.no_grad():
        for parameter in replica.cells.parameters():
            parameter.mul_(1.5)
    assert not torch.allclose(replica(images()), before)
    assert torch.equal(fast(images()), before)


def test_transforms_and_tracers_follow_the_reference():
    reference, fast = networks("DARTS_V2", auxiliary=False)
    found = []
    for net in (reference.eval(), fast.eval()):

        def loss(x, net=net):
            return net(x).square().sum()

        found.append(torch.func.grad(loss)(images()))
    assert close(found[1], found[0])
    traced = torch.jit.trace(fast, images())
    assert torch.allclose(traced(images(count=2)), reference(images(count=2)))


def test_nothing_is_kept_where_no_gradient_can_be_asked_for():
    register_operation("gate")(lambda channels, stride, affine: Gate(channels, stride))
    seen = []
    try:
        edges = (("gate", 0, 2), ("sep_conv_3x3", 1, 2))
        _, fast = networks(Genotype(edges, (2,), edges, (2,)), auxiliary=False)
        for module in fast.modules():
            if isinstance(module, Gate):
                module.forward = lambda x, whole=module.forward: (
                    seen.append(torch.is_grad_enabled()) or whole(x)
                )
        with torch.no_grad():
            fast.eval()(images())
    finally:
        del OPERATIONS._entries["gate"]
    assert seen
    assert not any(seen)
