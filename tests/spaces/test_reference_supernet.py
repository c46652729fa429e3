"""The supernet against the formula of its graph, in float64."""

from __future__ import annotations

import definitions
import pytest
import torch

from ssfnas.declarations.strategies import DARTS_OPERATIONS, FAIRDARTS_OPERATIONS
from ssfnas.errors import RequestError
from ssfnas.layers.cells import MixedEdge, cell_edges, nodes_of
from ssfnas.layers.normalization import BatchNorm2d
from ssfnas.spaces import (
    PUBLISHED,
    ReferenceDerivedNetwork,
    ReferenceSupernet,
    count_multiply_adds,
    count_parameters,
)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def drawn_alphas(net, seed=9):
    draws = seeded(seed)
    for alpha in net.alphas():
        alpha.data = torch.randn(alpha.shape, generator=draws, dtype=alpha.dtype)
    return net


def relation(alpha, kind):
    if kind == "sigmoid":
        return 1 / (1 + torch.exp(-alpha))
    return torch.exp(alpha) / torch.exp(alpha).sum(1, keepdim=True)


def stem_written_out(stem, x):
    """3x3 convolutions, each normalized, with ReLU between; as sums over shifted images."""
    convolutions = [layer for layer in stem if isinstance(layer, torch.nn.Conv2d)]
    norms = [layer for layer in stem if isinstance(layer, BatchNorm2d)]
    for place, (conv, norm) in enumerate(zip(convolutions, norms, strict=True)):
        x = definitions.relu(x) if place else x
        views = definitions.shifted(x, 3, conv.stride[0], 1, 0.0)
        x = sum(
            definitions.pointwise(views[u][v], conv.weight[:, :, u, v][:, :, None, None])
            for u in range(3)
            for v in range(3)
        )
        x = definitions.batch_norm(x, norm.weight, norm.bias)
    return x


def written_out(net, x, kind):
    """Logits by the formula s_j = sum over i < j, o of w(i, j, o) o(s_i); layers by definitions."""
    weights = {
        "normal": relation(net.alphas_normal, kind),
        "reduce": relation(net.alphas_reduce, kind),
    }
    s0 = s1 = stem_written_out(net.stem, x)
    reductions = {net.layers // 3, 2 * net.layers // 3}
    for layer, cell in enumerate(net.cells):
        table = weights["reduce" if layer in reductions else "normal"]
        first = list(cell.preprocess0.parameters())
        if layer - 1 in reductions:
            before = definitions.factorized_reduce(s0, iter(first), False)
        else:
            before = definitions.batch_norm(definitions.pointwise(definitions.relu(s0), first[0]))
        second = cell.preprocess1[1].weight
        after = definitions.batch_norm(definitions.pointwise(definitions.relu(s1), second))
        states = {0: before, 1: after}
        for j in range(2, net.nodes + 2):
            states[j] = 0
            for i in range(j):
                edge = sum(range(2, j)) + i
                stride = 2 if layer in reductions and i < 2 else 1
                for o, name in enumerate(net.operations):
                    parameters = list(cell.edges[edge].operations[o].parameters())
                    states[j] = states[j] + table[edge, o] * definitions.operation(
                        name, states[i], parameters, stride, searching=True
                    )
        s0, s1 = s1, torch.cat([states[j] for j in range(2, net.nodes + 2)], 1)
    pooled = s1.mean((2, 3))
    return pooled @ net.classifier.weight.T + net.classifier.bias


@pytest.mark.parametrize("stride", [1, 2])
def test_mixed_edge_is_the_weighted_sum(stride):
    edge = MixedEdge(DARTS_OPERATIONS, 4, stride).double()
    draws = seeded(2)
    x = torch.randn(2, 4, 7, 6, generator=draws, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(8, generator=draws, dtype=torch.float64, requires_grad=True)
    outputs = [
        definitions.operation(name, x, list(module.parameters()), stride, searching=True)
        for name, module in zip(DARTS_OPERATIONS, edge.operations, strict=True)
    ]
    found = edge(x, weights)
    wanted = sum(weights[o] * output for o, output in enumerate(outputs))
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
    cotangent = torch.randn(found.shape, generator=draws, dtype=torch.float64)
    grad_x, grad_weights = torch.autograd.grad((found * cotangent).sum(), (x, weights))
    torch.testing.assert_close(
        grad_weights, torch.stack([(output * cotangent).sum() for output in outputs])
    )
    (wanted_x,) = torch.autograd.grad((wanted * cotangent).sum(), x)
    torch.testing.assert_close(grad_x, wanted_x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("layers", "nodes", "size", "in_channels", "operations", "kind"),
    [
        (1, 1, (5, 5), 3, FAIRDARTS_OPERATIONS, "sigmoid"),
        (2, 2, (9, 7), 3, DARTS_OPERATIONS, "softmax"),
        (3, 3, (8, 11), 2, ("skip_connect", "max_pool_3x3", "sep_conv_3x3"), "sigmoid"),
        (3, 4, (28, 28), 1, ("none", "dil_conv_5x5", "avg_pool_3x3"), "softmax"),
        (4, 2, (6, 6), 1, ("skip_connect", "dil_conv_3x3"), "softmax"),
        (2, 1, (97, 65), 3, ("skip_connect", "max_pool_3x3"), "sigmoid"),
        (2, 1, (129, 20), 1, ("skip_connect", "avg_pool_3x3"), "sigmoid"),
    ],
)
def test_supernet_is_its_formula(layers, nodes, size, in_channels, operations, kind):
    net = ReferenceSupernet(
        5,
        in_channels=in_channels,
        channels=4,
        layers=layers,
        nodes=nodes,
        operations=operations,
        relaxation=kind,
        image_size=size,
        generator=seeded(0),
    ).double()
    drawn_alphas(net)
    draws = seeded(1)
    x = torch.randn(3, in_channels, *size, generator=draws, dtype=torch.float64)
    found, wanted = net(x), written_out(net, x, kind)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    cotangent = torch.randn(found.shape, generator=draws, dtype=torch.float64)
    parameters = list(net.parameters())
    pairs = zip(
        torch.autograd.grad((found * cotangent).sum(), parameters, allow_unused=True),
        torch.autograd.grad((wanted * cotangent).sum(), parameters, allow_unused=True),
        strict=True,
    )
    for one, other in pairs:
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def test_papers_numbers():
    net = ReferenceSupernet(generator=seeded(0))
    assert count_parameters(net) == 1_930_618
    assert round(count_multiply_adds(net) / 1e6, 1) == 300.3
    assert net.alphas_normal.shape == net.alphas_reduce.shape == (14, 7)
    assert net.num_features == 4 * 64


def test_operations_see_a_share_of_the_channels():
    """A weight of theirs is there once for K^2, or K for depthwise ones; entries keep theirs."""
    nets = [ReferenceSupernet(partial_channels=k, generator=seeded(0)) for k in (1, 4)]
    assert nets[1].num_features == nets[0].num_features
    names = [[name for name, _ in net.named_parameters()] for net in nets]
    assert names[0] == names[1]
    for name, whole in nets[0].named_parameters():
        part = nets[1].get_parameter(name)
        if ".operations." not in name:
            assert part.shape == whole.shape, name
        else:
            depthwise = whole.shape[1] == 1
            assert part.numel() * (4 if depthwise else 16) == whole.numel(), name


def test_weights_and_alphas_partition_the_parameters():
    net = ReferenceSupernet(channels=4, layers=2, nodes=2, generator=seeded(0))
    weights, alphas = {*map(id, net.weights())}, {*map(id, net.alphas())}
    assert not weights & alphas
    assert weights | alphas == {*map(id, net.parameters())}
    assert len(net.weights()) + len(net.alphas()) == len(list(net.parameters()))
    assert count_parameters(net) == sum(parameter.numel() for parameter in net.weights())
    weighted = [module for module in net.modules() if getattr(module, "affine", False)]
    assert weighted == [net.stem[1]]


def test_head_and_features():
    net = ReferenceSupernet(3, channels=4, layers=3, nodes=2, generator=seeded(0)).eval()
    x = torch.randn(2, 3, 15, 10, generator=seeded(1))
    features = net.forward_features(x)
    assert features.shape == (2, net.num_features, 4, 3)
    pooled = net.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pooled, features.flatten(2).mean(-1))
    torch.testing.assert_close(net(x), net.get_classifier()(pooled))
    assert set(net.edge_weights()) == {"normal", "reduce"}
    assert torch.equal(net.edge_weights()["reduce"], torch.full((5, 7), 0.5))


@pytest.mark.parametrize(
    ("size", "strides", "seen"),
    [
        (8, [1], (8, 8)),
        (64, [1], (64, 64)),
        (65, [2], (33, 33)),
        ((97, 65), [2], (49, 33)),
        (128, [2], (64, 64)),
        ((65, 129), [2, 2], (17, 33)),
        (224, [2, 2], (56, 56)),
        (257, [2, 2, 2], (33, 33)),
    ],
)
def test_larger_images_are_halved_by_the_stem_until_at_most_64_pixels_are_left(size, strides, seen):
    net = ReferenceSupernet(channels=2, layers=1, nodes=1, image_size=size, generator=seeded(0))
    assert [layer.stride[0] for layer in net.stem if isinstance(layer, torch.nn.Conv2d)] == strides
    height, width = size if isinstance(size, tuple) else (size, size)
    x = torch.randn(2, 3, height, width, generator=seeded(1))
    assert net.stem(x).shape[2:] == seen
    derived = ReferenceDerivedNetwork(PUBLISHED["DARTS_V2"], channels=2, layers=1, image_size=size)
    assert [str(layer) for layer in net.stem] == [str(layer) for layer in derived.stem]


def test_up_to_64_pixels_the_parameters_do_not_depend_on_the_size():
    plain, *others = (
        ReferenceSupernet(channels=2, layers=2, nodes=1, generator=seeded(4), **given)
        for given in ({}, {"image_size": 28}, {"image_size": (64, 40)})
    )
    for other in others:
        assert list(other.state_dict()) == list(plain.state_dict())
        for name, value in plain.state_dict().items():
            assert torch.equal(other.state_dict()[name], value), name


def test_initial_draws_are_the_generators_alone():
    def build(seed):
        return ReferenceSupernet(
            channels=4, layers=2, nodes=2, relaxation="softmax", generator=seeded(seed)
        )

    before = torch.get_rng_state()
    first = build(4)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(99)
        again = build(4)
    other = build(5)
    assert torch.equal(torch.get_rng_state(), before)
    states = first.state_dict(), again.state_dict(), other.state_dict()
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    for name in ("alphas_normal", "alphas_reduce", "stem.0.weight", "classifier.weight"):
        assert not torch.equal(states[0][name], states[2][name])
    assert not torch.equal(first.alphas_normal, first.alphas_reduce)


def test_meta_device_needs_no_memory():
    with torch.device("meta"):
        net = ReferenceSupernet(channels=256)
    assert net.stem[0].weight.is_meta
    assert net.alphas_normal.is_meta
    assert count_parameters(net) > 100_000_000


def test_edges_in_darts_order():
    assert cell_edges(2) == [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    assert [nodes_of(edges) for edges in (2, 5, 9, 14)] == [1, 2, 3, 4]
    for edges in (0, 1, 3, 13):
        with pytest.raises(RequestError, match=f"no cell has {edges} edges"):
            nodes_of(edges)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": 0}, "layers is 0"),
        ({"channels": 0}, "channels is 0"),
        ({"nodes": 0}, "nodes is 0"),
        ({"in_channels": 0}, "in_channels is 0"),
        ({"image_size": (0, 0)}, "image_size is 0"),
        ({"partial_channels": 0}, "partial_channels is 0"),
        ({"partial_channels": 3}, "partial_channels is 3: channels 16 cannot be divided by it"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"operations": ()}, "no operations"),
        ({"operations": ("warp",)}, "unknown operation 'warp'"),
        ({"relaxation": "hard"}, "unknown relaxation 'hard'"),
    ],
)
def test_wrong_requests(arguments, message):
    with pytest.raises(RequestError, match=message):
        ReferenceSupernet(**arguments)
