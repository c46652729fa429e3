from __future__ import annotations

import copy

import pytest
import torch
from objectives_of_a_rank import TinyNet, batch, objective
from torch import nn
from torch.nn import functional as F

from ssfnas.errors import RequestError
from ssfnas.objectives import OBJECTIVES, SearchObjective, make_search_objective
from ssfnas.ops import backend
from ssfnas.ops.barlow_twins_loss import barlow_twins_loss_reference
from ssfnas.spaces import ReferenceSupernet

WHOLE = slice(None)


def embeddings(net, module, views):
    return [
        module.projector(net.forward_head(net.forward_features(view), pre_logits=True))
        for view in views
    ]


def test_supervised_is_cross_entropy_of_the_first_view():
    net, module, data = TinyNet().double(), objective("supervised"), batch(WHOLE)
    terms = module.terms(net, data)
    torch.testing.assert_close(terms["loss"], F.cross_entropy(net(data.views[0]), data.labels))
    assert module.views == "crop_flip"
    assert list(module.parameters()) == []
    several = objective("supervised", multi_label=True)
    data = batch(WHOLE, multi_label=True)
    expected = F.binary_cross_entropy_with_logits(net(data.views[0]), data.labels.double())
    torch.testing.assert_close(several.terms(net, data)["loss"], expected)


def test_ssl_is_barlow_twins_over_its_width():
    net, module, data = TinyNet().double(), objective("ssl"), batch(WHOLE)
    terms = module.terms(net, data)
    expected = barlow_twins_loss_reference(*embeddings(net, module, data.views), lambd=0.1) / 5
    torch.testing.assert_close(terms["loss"], expected)
    torch.testing.assert_close(terms["barlow_twins"], expected.detach())
    assert module.views == "barlow_twins"
    assert set(terms) == {"loss", "barlow_twins"}


def test_ssl_never_reads_labels():
    net, module, data = TinyNet().double(), objective("ssl"), batch(WHOLE)
    blind = type(data)(data.views, None, data.indices)
    assert torch.equal(module.terms(net, blind)["loss"], module.terms(net, data)["loss"])


@pytest.mark.parametrize("multi_label", [False, True])
def test_joint_is_the_sum(multi_label):
    net, module = TinyNet().double(), objective("joint", multi_label=multi_label)
    data = batch(WHOLE, multi_label=multi_label)
    terms = module.terms(net, data)
    twins = barlow_twins_loss_reference(*embeddings(net, module, data.views), lambd=0.1) / 5
    if multi_label:
        labels = data.labels.double()
        costs = [F.binary_cross_entropy_with_logits(net(view), labels) for view in data.views]
    else:
        costs = [F.cross_entropy(net(view), data.labels) for view in data.views]
    entropy = (costs[0] + costs[1]) / 2
    torch.testing.assert_close(terms["cross_entropy"], entropy.detach())
    torch.testing.assert_close(terms["barlow_twins"], twins.detach())
    torch.testing.assert_close(terms["loss"], entropy + 0.7 * twins)
    assert module.views == "barlow_twins"


@pytest.mark.parametrize("name", ["supervised", "ssl", "joint"])
def test_only_the_loss_carries_a_gradient(name):
    terms = objective(name).terms(TinyNet().double(), batch(WHOLE))
    assert [key for key, value in terms.items() if value.requires_grad] == ["loss"]
    assert all(value.dim() == 0 for value in terms.values())


@pytest.mark.parametrize("name", ["supervised", "ssl", "joint"])
def test_every_part_is_trained_by_its_objective(name):
    net = ReferenceSupernet(
        3, in_channels=2, channels=4, layers=3, nodes=2, generator=torch.Generator().manual_seed(0)
    ).double()
    module = objective(name, num_features=net.num_features)
    module.terms(net, batch(WHOLE))["loss"].backward()
    trained = [*net.alphas(), *module.parameters()]
    if name != "ssl":
        trained += list(net.get_classifier().parameters())
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in trained)


def test_second_derivatives_through_the_reference():
    net, module, data = TinyNet().double(), objective("ssl"), batch(WHOLE)
    parameter = net.convolution.weight

    def gradient():
        return torch.autograd.grad(module.terms(net, data)["loss"], parameter, create_graph=True)[0]

    with backend("reference"):
        direction = torch.ones_like(parameter)
        (exact,) = torch.autograd.grad((gradient() * direction).sum(), parameter)
        step = 1e-6
        with torch.no_grad():
            parameter += step * direction
        above = gradient().detach()
        with torch.no_grad():
            parameter -= 2 * step * direction
        below = gradient().detach()
    torch.testing.assert_close(exact, (above - below) / (2 * step), rtol=1e-5, atol=1e-7)


def test_a_copy_can_leave_the_group():
    module = objective("ssl")
    marker = object()
    module.set_group(marker)
    alone = copy.deepcopy(module)
    alone.set_group(None)
    norms = [layer for layer in alone.projector if isinstance(layer, nn.BatchNorm1d)]
    assert alone.criterion.group is None
    assert all(norm.group is None for norm in norms)
    assert module.criterion.group is marker
    assert all(n.group is marker for n in module.projector if isinstance(n, nn.BatchNorm1d))


def test_projector_is_a_function_of_the_generator():
    first, second = objective("ssl"), objective("ssl")
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    other = objective("ssl", generator=torch.Generator().manual_seed(4))
    assert not torch.equal(next(other.parameters()), next(first.parameters()))


def test_an_objective_of_the_users_is_one_class_and_one_decorator():
    @OBJECTIVES.register("brightness")
    def build(*, num_features, **options):
        class Brightness(SearchObjective):
            views = "none"

            def terms(self, net, batch):
                loss = net.forward_features(batch.views[0]).square().mean() * num_features
                return {"loss": loss, "brightness": loss.detach()}

        return Brightness()

    try:
        terms = objective("brightness").terms(TinyNet().double(), batch(WHOLE))
        assert set(terms) == {"loss", "brightness"}
    finally:
        del OBJECTIVES._entries["brightness"]


def test_unknown_objective_is_named():
    with pytest.raises(RequestError, match="unknown objective 'sssl'"):
        make_search_objective("sssl", num_features=4, num_classes=2, multi_label=False)
