"""The fast supernet against the reference, in float64: results, gradients, statistics, training."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from form_checks import assert_same, loss_of
from torch import Tensor, nn
from torch.nn import functional as F

from ssfnas.ops import backend
from ssfnas.spaces import (
    DARTS_OPERATIONS,
    FAIRDARTS_OPERATIONS,
    OPERATIONS,
    ReferenceSupernet,
    Supernet,
    frozen_statistics,
    register_operation,
)

SMALL = {"num_classes": 4, "channels": 4, "layers": 3}


def networks(dtype=torch.float64, **options):
    """A reference and a fast supernet with the same weights and decided alphas."""
    pair = []
    for form in (ReferenceSupernet, Supernet):
        net = form(**{**SMALL, **options}, generator=torch.Generator().manual_seed(3)).to(dtype)
        with torch.no_grad():
            for seed, alpha in enumerate(net.alphas()):
                alpha.copy_(torch.randn(alpha.shape, generator=torch.Generator().manual_seed(seed)))
        pair.append(net)
    return pair


def images(size=8, count=3, channels=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, channels, size, size, generator=generator, dtype=dtype)


def evaluated(pair, x):
    """The pair in evaluation, with running statistics that are neither 0 nor 1."""
    for net in pair:
        net(x)
        net.eval()
    return pair


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(
    ("operations", "relaxation", "size", "nodes"),
    [
        (FAIRDARTS_OPERATIONS, "sigmoid", 8, 4),
        (DARTS_OPERATIONS, "softmax", 9, 4),
        (DARTS_OPERATIONS, "sigmoid", 7, 2),
        (("skip_connect", "max_pool_3x3"), "softmax", 8, 3),
        (("avg_pool_3x3",), "sigmoid", 8, 2),
        (("sep_conv_5x5",), "sigmoid", 8, 1),
        (("dil_conv_3x3", "none"), "softmax", 8, 2),
        (("none", "skip_connect"), "sigmoid", 8, 2),
    ],
)
def test_equals_the_reference(operations, relaxation, size, nodes, training):
    options = {"operations": operations, "relaxation": relaxation, "nodes": nodes}
    pair, x = networks(**options), images(size)
    assert_same(*(pair if training else evaluated(pair, x)), x)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(
    ("share", "operations", "size", "nodes"),
    [
        (2, FAIRDARTS_OPERATIONS, 8, 4),
        (4, DARTS_OPERATIONS, 9, 3),
        (4, ("skip_connect", "none"), 7, 2),
        (8, ("sep_conv_3x3", "avg_pool_3x3"), 8, 1),
    ],
)
def test_partial_channels_equal_the_reference(share, operations, size, nodes, training):
    pair = networks(channels=8, operations=operations, nodes=nodes, partial_channels=share)
    x = images(size)
    assert all(fused is not None for fused in pair[1]._fused_cells()._fused)
    assert_same(*(pair if training else evaluated(pair, x)), x)


@pytest.mark.parametrize("size", [(65, 65), (97, 97), (129, 65)], ids=str)
def test_equals_the_reference_on_images_above_64_pixels(size):
    draws = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, *size, generator=draws, dtype=torch.float64)
    pair = networks(channels=2, layers=2, nodes=2, image_size=size)
    assert_same(*pair, x)
    features = [net.forward_features(x) for net in pair]
    halvings = 2 if max(size) > 128 else 1
    sides = [-(-side // 2**halvings) for side in size]
    # Both cells reduce: a third and two thirds of two are the first and the second.
    assert features[1].shape[2:] == tuple(-(-side // 4) for side in sides)
    assert features[0].shape == features[1].shape


@pytest.mark.parametrize("channels", [1, 2, 17])
def test_any_number_of_channels(channels):
    if channels == 1:
        # A factorized reduce needs two channels, and reduction cells have twice as many.
        assert_same(*networks(channels=2, in_channels=1, layers=2), images(channels=1))
    else:
        assert_same(*networks(channels=channels, layers=2, nodes=2), images())


@pytest.mark.parametrize("name", ["torch", "native"])
def test_every_backend_on_cpus(name):
    from ssfnas.ops import backends

    if backends()[name] is not None:
        pytest.skip(f"{name}: {backends()[name]}")
    reference, fast = networks()
    with backend(name):
        assert_same(reference, fast, images())


def test_the_reference_backend_is_the_reference():
    reference, fast = networks()
    with backend("reference"):
        first, second = (loss_of(net, images()) for net in (reference, fast))
        assert torch.equal(first, second)
        (gradient,) = torch.autograd.grad(second, fast.alphas_normal, create_graph=True)
        (curvature,) = torch.autograd.grad(gradient.square().sum(), fast.alphas_normal)
    assert curvature.abs().sum() > 0


@pytest.mark.parametrize("constant", [False, True])
def test_cannot_be_differentiated_twice_otherwise(constant):
    _, fast = networks()
    # The last cell's gradient is constant below a sum of features, and not below a loss.
    loss = fast.forward_features(images()).sum() if constant else loss_of(fast, images())
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(loss, fast.alphas_normal, create_graph=True)


def test_one_seed_is_one_network_in_either_form():
    pair = [
        form(generator=torch.Generator().manual_seed(5)) for form in (ReferenceSupernet, Supernet)
    ]
    states = [net.state_dict() for net in pair]
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert sum(p.numel() for p in pair[1].parameters()) - 2 * 14 * 7 == 1_930_618
    assert [id(p) for p in pair[1].parameters()] != [id(p) for p in pair[0].parameters()]


def test_checkpoints_interchange():
    reference, fast = networks()
    loss_of(fast, images())
    reference.load_state_dict(fast.state_dict())
    assert_same(reference, fast, images())


@pytest.mark.parametrize("kind", ["weights", "alphas"])
def test_frozen_parameters_get_no_gradient_and_the_others_the_same(kind):
    pair = networks()
    for net in pair:
        for parameter in getattr(net, kind)():
            parameter.requires_grad_(False)
    assert_same(*pair, images())
    assert all(parameter.grad is None for parameter in getattr(pair[1], kind)())


def test_frozen_statistics_stay():
    pair = networks()
    before = {name: buffer.clone() for name, buffer in pair[1].named_buffers()}
    with frozen_statistics(*pair):
        assert_same(*pair, images())
    assert all(torch.equal(before[name], buffer) for name, buffer in pair[1].named_buffers())


def test_some_frozen_batchnorms_fall_back_to_the_reference():
    pair = networks()
    for net in pair:
        net.cells[1].edges[0].operations[3][3].eval()
    assert_same(*pair, images())


def test_copies_are_independent():
    _, fast = networks()
    loss_of(fast, images())
    copied, pickled = copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))
    for other in (copied, pickled):
        other.eval()
        fast.eval()
        assert torch.equal(fast(images()), other(images()))
        with torch.no_grad():
            for weight in other.weights():
                weight.zero_()
        assert not torch.equal(fast(images()), other(images()))


def test_gradients_can_be_taken_again_from_a_kept_graph():
    _, fast = networks()
    loss = loss_of(fast, images())
    weights = [p for p in fast.parameters() if p.requires_grad]
    first = torch.autograd.grad(loss, weights, retain_graph=True)
    again = torch.autograd.grad(loss, weights)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_single_value_a_channel_is_refused_in_training():
    for net in networks():
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            net(images(size=2, count=1))


def test_nan_is_not_hidden():
    _, fast = networks()
    x = images()
    x[0, 0, 0, 0] = float("nan")
    assert torch.isnan(fast(x)).any()


class Gate(nn.Module):
    """With weights, statistics and an odd form, as users write them."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.mix = nn.Conv2d(channels, channels, 3, stride, 1, bias=True)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(x)
        return self.norm(y * torch.sigmoid(y))


@pytest.fixture
def gate():
    register_operation("gate")(lambda channels, stride, affine: Gate(channels, stride))
    register_operation("lp_pool", pool=True)(
        lambda channels, stride, affine: nn.AvgPool2d(5, stride, 2, count_include_pad=True)
    )
    yield ("gate", "sep_conv_3x3", "lp_pool", "skip_connect", "max_pool_3x3")
    del OPERATIONS._entries["gate"], OPERATIONS._entries["lp_pool"]


@pytest.mark.parametrize("training", [True, False])
def test_operations_of_users_share_a_cell_with_fused_ones(gate, training):
    pair = networks(operations=gate, nodes=2)
    assert_same(*(pair if training else evaluated(pair, images())), images())


def test_frozen_weights_of_users_operations(gate):
    pair = networks(operations=gate, nodes=2)
    for net in pair:
        for weight in net.weights():
            weight.requires_grad_(False)
    assert_same(*pair, images())


@pytest.mark.parametrize("relaxation", ["sigmoid", pytest.param("softmax", marks=pytest.mark.slow)])
def test_a_hundred_bilevel_steps_give_the_same_alphas(relaxation):
    pair = networks(relaxation=relaxation, nodes=2)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    for net in pair:
        generator = torch.Generator().manual_seed(8)
        sgd = torch.optim.SGD(net.weights(), lr=0.02, momentum=0.9, weight_decay=3e-4)
        adam = torch.optim.Adam(net.alphas(), lr=3e-3, betas=(0.5, 0.999), weight_decay=1e-3)
        for _ in range(100):
            for optimizer in (adam, sgd):
                x = torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64)
                optimizer.zero_grad()
                F.cross_entropy(net(x), labels).backward()
                if optimizer is sgd:
                    nn.utils.clip_grad_norm_(net.weights(), 5.0)
                optimizer.step()
    for alpha, fast in zip(pair[0].alphas(), pair[1].alphas(), strict=True):
        assert (alpha - fast).abs().max() < 1e-10
    assert (
        pair[1].alphas_normal - networks(relaxation=relaxation, nodes=2)[1].alphas_normal
    ).abs().max() > 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_is_no_worse_than_the_references(dtype):
    exact, _ = networks()
    truth = loss_of(exact, images())
    wanted = torch.autograd.grad(truth, exact.alphas())
    errors = []
    for net in networks(torch.float32):
        x = images(dtype=torch.float32)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = net(x).float()
        loss = (y * torch.arange(y.numel(), dtype=y.dtype).view_as(y).sin()).sum()
        found = torch.autograd.grad(loss, net.alphas())
        assert all(gradient.dtype == torch.float32 for gradient in found)
        errors.append(
            max(float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True))
        )
    assert errors[1] <= 2 * errors[0] + 1e-6


def exchange_operation(net):
    layer = nn.Conv2d(4, 4, 3, padding=1, bias=False).double()
    layer.weight.data = torch.randn(
        4, 4, 3, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64
    )
    net.cells[0].edges[2].operations[4] = layer


def give_norm_weights(net):
    """A BatchNorm in the middle, one at an end, and one behind a pool get weights."""
    draws = torch.Generator().manual_seed(9)
    for edge, operation, place in ((0, 3, 3), (1, 4, 7), (3, 0, 1)):
        layers = net.cells[0].edges[edge].operations[operation]
        norm = type(layers[place])(4, affine=True).double()
        for parameter in norm.parameters():
            parameter.data = torch.randn(4, generator=draws, dtype=torch.float64)
        layers[place] = norm


def remove_norm(net):
    net.cells[0].edges[0].operations[0] = net.cells[0].edges[0].operations[0][0]


@pytest.mark.parametrize("exchange", [exchange_operation, give_norm_weights, remove_norm])
def test_an_exchanged_module_is_noticed(exchange):
    pair = networks()
    for net in pair:
        loss_of(net, images())
        exchange(net)
    assert_same(*pair, images())


@pytest.mark.parametrize(
    "place", ["cells.0.edges.0.operations.3.1", "cells.0.edges.1", "cells.0.preprocess1"]
)
def test_hooks_are_called_and_change_what_is_computed(place):
    pair, calls = networks(), []
    for net in pair:
        loss_of(net, images())
        net.get_submodule(place).register_forward_hook(
            lambda module, inputs, output: calls.append(1) or output * 1.5
        )
    assert_same(*pair, images())
    assert len(calls) == 2


def test_cells_with_momenta_of_their_own_fold_each_by_its_own():
    pair = networks()
    for net in pair:
        for module in net.cells[1].modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.3
    assert_same(*pair, images())
