"""Derived networks against the graph of their genotype, in float64."""

from __future__ import annotations

import copy

import definitions
import pytest
import torch
from torch.nn import functional as F

from ssfnas.declarations.strategies import FAIRDARTS_OPERATIONS
from ssfnas.errors import RequestError
from ssfnas.spaces import PUBLISHED, DerivedNetwork, Genotype
from ssfnas.spaces.reference_derived import AuxiliaryHead


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def images(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def random_genotype(seed, nodes=4, most=4):
    """0 to ``most`` edges a node, in any order, as long as neither cell is empty."""
    draws = seeded(seed)

    def number(upper):
        return int(torch.randint(upper, (), generator=draws))

    parts = []
    for _ in range(2):
        edges = [("skip_connect", number(2), 2 + number(nodes))]
        for to in range(2, nodes + 2):
            for _ in range(number(most + 1)):
                edges.append((FAIRDARTS_OPERATIONS[number(7)], number(to), to))
        order = torch.randperm(len(edges), generator=draws).tolist()
        parts += [tuple(edges[i] for i in order), tuple(range(2, nodes + 2))]
    return Genotype(*parts)


def written_out(net, genotype, x):
    """The last cell's output: each node by recursion over its edges, absent ones left out."""
    conv, norm = net.stem
    stem = F.conv2d(x, conv.weight, padding=1)
    s0 = s1 = definitions.batch_norm(stem, norm.weight, norm.bias)
    reductions = {net_layers(net) // 3, 2 * net_layers(net) // 3}
    for layer, cell in enumerate(net.cells):
        kind = "reduce" if layer in reductions else "normal"
        edges, concat = genotype.edges(kind), genotype.concat(kind)
        modules = iter(cell.operations)
        inputs = []
        for state, part, reduced in (
            (s0, cell.preprocess0, layer - 1 in reductions),
            (s1, cell.preprocess1, False),
        ):
            parameters = iter(part.parameters())
            if reduced:
                inputs.append(definitions.factorized_reduce(state, parameters, True))
            else:
                y = definitions.pointwise(definitions.relu(state), next(parameters))
                inputs.append(definitions.batch_norm(y, *parameters))
        states = dict(enumerate(inputs))
        for node in range(2, 6):
            paths = [
                definitions.operation(
                    name,
                    states[start],
                    list(next(modules).parameters()),
                    2 if kind == "reduce" and start < 2 else 1,
                    searching=False,
                )
                for name, start, to in edges
                if to == node and start in states
            ]
            if paths:
                states[node] = sum(paths)
        assert next(modules, None) is None
        s0, s1 = s1, torch.cat([states[node] for node in concat if node in states], 1)
    return s1


def net_layers(net):
    return len(net.cells)


@pytest.mark.parametrize("seed", range(8))
def test_network_is_its_genotype(seed):
    genotype = random_genotype(seed)
    layers = 1 + seed % 4
    net = DerivedNetwork(
        genotype, 3, in_channels=1, channels=4, layers=layers, generator=seeded(seed)
    ).double()
    assert net.genotype == genotype
    for parameter in net.parameters():
        parameter.data += 0.1 * images(*parameter.shape, seed=1)
    x = images(3, 1, 11, 8)
    features, wanted = net.forward_features(x), written_out(net, genotype, x)
    torch.testing.assert_close(features, wanted, rtol=1e-9, atol=1e-9)
    assert features.shape[1] == net.num_features
    logits = wanted.mean((2, 3)) @ net.classifier.weight.T + net.classifier.bias
    torch.testing.assert_close(net(x), logits, rtol=1e-9, atol=1e-9)
    cotangent = images(*logits.shape, seed=2)
    pairs = zip(
        torch.autograd.grad((net(x) * cotangent).sum(), list(net.parameters()), allow_unused=True),
        torch.autograd.grad((logits * cotangent).sum(), list(net.parameters()), allow_unused=True),
        strict=True,
    )
    for one, other in pairs:
        if other is None:
            assert one is None
        else:
            torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def test_auxiliary_head_on_8x8_is_that_of_darts():
    net = DerivedNetwork(
        PUBLISHED["DARTS_V2"], 5, channels=4, layers=3, auxiliary=True, generator=seeded(0)
    ).double()
    x = images(4, 3, 32, 32)
    logits, auxiliary = net(x)
    head = net.auxiliary_head
    mid = net.forward_features(x)  # with three cells the second reduction is the last cell
    assert mid.shape[-2:] == (8, 8)
    y = F.avg_pool2d(F.relu(mid), 5, stride=3)
    conv1, norm1, _, conv2, norm2, _ = head.features
    y = F.relu(definitions.batch_norm(F.conv2d(y, conv1.weight), norm1.weight, norm1.bias))
    y = F.relu(definitions.batch_norm(F.conv2d(y, conv2.weight), norm2.weight, norm2.bias))
    wanted = F.linear(y.flatten(1), head.classifier.weight, head.classifier.bias)
    torch.testing.assert_close(auxiliary, wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(logits, net.forward_head(mid), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(8, 8), (1, 1), (1, 3), (5, 7), (2, 9)])
def test_auxiliary_head_averages_four_corners(size):
    head = AuxiliaryHead(3, 2)
    head.features = head.classifier = torch.nn.Identity()
    x = images(2, 3, *size)
    height, width = (-(-5 * side // 8) for side in size)
    corners = [
        x[:, :, rows, columns].relu().mean((2, 3))
        for rows in (slice(height), slice(size[0] - height, None))
        for columns in (slice(width), slice(size[1] - width, None))
    ]
    wanted = torch.stack(corners, dim=2).flatten(1)
    for layout in (torch.contiguous_format, torch.channels_last):
        found = head(x.contiguous(memory_format=layout))
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("size", "mid"),
    [(28, 7), (32, 8), (64, 16), (96, 12), (224, 14), (33, 9), (4, 1), ((20, 70), 9)],
)
def test_any_size_of_images(size, mid):
    height, width = (size, size) if isinstance(size, int) else size
    net = DerivedNetwork(
        PUBLISHED["FairDARTS_a"], 3, in_channels=1, channels=4, layers=3,
        auxiliary=True, image_size=size, generator=seeded(0),
    )  # fmt: skip
    x = images(2, 1, height, width).float()
    logits, auxiliary = net(x)
    assert logits.shape == auxiliary.shape == (2, 3)
    assert net.forward_features(x).shape[-1] == mid
    (logits.sum() + auxiliary.sum()).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    assert net.eval()(x).shape == (2, 3)


def test_no_auxiliary_logits_in_evaluation_or_without_the_head():
    arguments = {"channels": 4, "layers": 3, "generator": seeded(0)}
    headless = DerivedNetwork(PUBLISHED["DARTS_V1"], **arguments)
    assert isinstance(headless(images(2, 3, 8, 8).float()), torch.Tensor)
    net = DerivedNetwork(PUBLISHED["DARTS_V1"], auxiliary=True, **arguments)
    x = images(2, 3, 8, 8).float()
    assert isinstance(net(x), tuple)
    net.eval()
    pooled = net.forward_head(net.forward_features(x), pre_logits=True)
    torch.testing.assert_close(net(x), net.get_classifier()(pooled))


def dropping(genotype, channels=4, layers=3, **arguments):
    """A network whose only training behavior is drop path: images do not see each other."""
    net = DerivedNetwork(genotype, 3, channels=channels, layers=layers, generator=seeded(0),
                         **arguments).double().eval()  # fmt: skip
    net.training = True
    return net


def test_drop_path_of_two_processes_is_that_of_one():
    net = dropping(PUBLISHED["DARTS_V2"])
    x = images(6, 3, 8, 8)
    plain = net(x)
    net.set_drop_path(0.5, seed=3, step=7, rank=0, world_size=1)
    whole = [net(x), net(x)]
    halves = []
    for rank in range(2):
        part = copy.deepcopy(net)
        part.set_drop_path(0.5, seed=3, step=7, rank=rank, world_size=2)
        halves.append([part(x[3 * rank : 3 * rank + 3]) for _ in range(2)])
    for forward in range(2):
        joined = torch.cat([halves[0][forward], halves[1][forward]])
        torch.testing.assert_close(joined, whole[forward], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(whole[0], plain)
    assert not torch.allclose(whole[0], whole[1])
    net.set_drop_path(0.5, seed=3, step=7, rank=0, world_size=1)
    assert torch.equal(net(x), whole[0])
    for other in ({"seed": 4, "step": 7}, {"seed": 3, "step": 8}):
        net.set_drop_path(0.5, **other)
        assert not torch.allclose(net(x), whole[0])


def test_dropped_paths_are_zero_and_the_others_scaled():
    conv = ("dil_conv_3x3", 1, 2)
    genotype = Genotype((conv,), (2,), (("skip_connect", 0, 2),), (2,))
    net = dropping(genotype, layers=5)  # cells 1 and 3 reduce, so 4 is normal
    probability, images_count = 0.3, 400
    net.set_drop_path(probability, seed=1, step=0)
    x = images(images_count, net.num_features, 2, 2, seed=5)
    cell = net.cells[4]
    factors = net._path_factors(x)
    found = cell(net_input(cell, x), x, factors[4])
    whole = cell(net_input(cell, x), x)
    kept = found.flatten(1).abs().amax(1) > 0
    torch.testing.assert_close(found[kept], whole[kept] / (1 - probability))
    assert 0.6 < kept.double().mean() < 0.8
    # Each path and each layer has masks of its own.
    rows = torch.cat(factors)
    assert len(rows.unique(dim=0)) == len(rows) == 5


def net_input(cell, x):
    """Something of the shape that the cell's first input has."""
    channels = next(cell.preprocess0.parameters()).shape[1]
    scale = 2 if type(cell.preprocess0).__name__ == "FactorizedReduce" else 1
    return x.new_ones(x.shape[0], channels, x.shape[2] * scale, x.shape[3] * scale)


def test_the_identity_is_never_dropped():
    genotype = Genotype((("skip_connect", 1, 2),), (2,), (("sep_conv_3x3", 0, 2),), (2,))
    net = dropping(genotype, layers=5)
    net.set_drop_path(0.9, seed=0, step=0)
    factors = net._path_factors(images(4, 3, 8, 8))
    assert [len(of_cell) for of_cell in factors] == [0, 1, 0, 1, 0]


def test_drop_path_only_in_training_once_set_and_above_zero():
    x = images(3, 3, 8, 8)
    net = dropping(PUBLISHED["DARTS_V1"], drop_path=0.6)
    plain = net(x)
    net.set_drop_path(0.0, seed=1, step=1)
    assert torch.equal(net(x), plain)
    net.set_drop_path(seed=1, step=1)
    dropped = net(x)
    assert not torch.allclose(dropped, plain)
    explicit = dropping(PUBLISHED["DARTS_V1"])
    explicit.set_drop_path(0.6, seed=1, step=1)
    assert torch.equal(explicit(x), dropped)
    assert torch.equal(net.eval()(x), plain)
    for wrong in (1.0, -0.1, float("nan")):
        with pytest.raises(RequestError, match="drop_path is"):
            net.set_drop_path(wrong)


def test_mask_draws_leave_the_global_generator_alone_and_keep_autocast():
    net = dropping(PUBLISHED["DARTS_V1"]).float()
    net.set_drop_path(0.5, seed=1, step=1)
    before = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        assert net.forward_features(images(2, 3, 8, 8).float()).dtype == torch.bfloat16
    assert torch.equal(torch.get_rng_state(), before)


def test_initial_draws_are_the_generators_alone():
    def build(seed):
        return DerivedNetwork(
            PUBLISHED["FairDARTS_b"], channels=4, layers=3, auxiliary=True, generator=seeded(seed)
        ).state_dict()

    before = torch.get_rng_state()
    first, again, other = build(1), build(1), build(2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert not torch.equal(first["stem.0.weight"], other["stem.0.weight"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": 0}, "layers is 0"),
        ({"channels": -1}, "channels is -1"),
        ({"image_size": 0}, "image_size is 0"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"drop_path": 1.0}, "drop_path is 1.0"),
    ],
)
def test_wrong_requests(arguments, message):
    with pytest.raises(RequestError, match=message):
        DerivedNetwork(PUBLISHED["DARTS_V1"], **arguments)


def test_unknown_operations_and_empty_cells_are_requests():
    good = (("skip_connect", 0, 2),)
    with pytest.raises(RequestError, match="unknown operation 'warp'"):
        DerivedNetwork(Genotype((("warp", 0, 2),), (2,), good, (2,)), layers=1)
    with pytest.raises(RequestError, match="the reduce cell is empty"):
        DerivedNetwork(Genotype(good, (2,), (("skip_connect", 2, 3),), (2, 3)), layers=1)
