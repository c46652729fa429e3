from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from ssfnas.declarations.losses import Cosines, Loss
from ssfnas.errors import RequestError
from ssfnas.objectives import (
    LOSSES,
    ClassificationLoss,
    CosineClassifier,
    CrossEntropy,
    LDAMLoss,
    LogitAdjustedCrossEntropy,
    MultiLabelLoss,
    effective_number_weights,
    make_loss,
)

COUNTS = [500, 120, 40, 7]
SETTINGS = {
    "ce": {},
    "logit-adjusted": {"tau": 1.3},
    "focal": {"gamma": 1.5},
    "class-balanced": {"beta": 0.99},
    "ldam": {"max_margin": 0.4, "scale": 12.0},
}


def softmax(z):
    top = max(z)
    powers = [math.exp(v - top) for v in z]
    return [p / sum(powers) for p in powers]


def cost(name, z, c):
    """The definition of one image's loss, in plain numbers."""
    if name in ("ce", "class-balanced"):
        return -math.log(softmax(z)[c])
    if name == "logit-adjusted":
        shifted = [v + 1.3 * math.log(n / sum(COUNTS)) for v, n in zip(z, COUNTS, strict=True)]
        return -math.log(softmax(shifted)[c])
    if name == "focal":
        p = softmax(z)[c]
        return -((1 - p) ** 1.5) * math.log(p)
    margin = 0.4 * COUNTS[c] ** -0.25 / min(COUNTS) ** -0.25
    lowered = [v - 12.0 * margin if j == c else v for j, v in enumerate(z)]
    return -math.log(softmax(lowered)[c])


def weight(name, c):
    if name != "class-balanced":
        return 1.0
    weights = [(1 - 0.99) / (1 - 0.99**n) for n in COUNTS]
    return weights[c] * len(COUNTS) / sum(weights)


def batch(n=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 4, (n,), generator=generator)
    return logits, labels, generator


def mixed_labels(generator, labels):
    share = torch.rand((), generator=generator, dtype=torch.float64)
    hard = F.one_hot(labels, 4).double()
    return share * hard + (1 - share) * hard.flip(0)


@pytest.mark.parametrize("name", SETTINGS)
def test_value_is_the_definition(name):
    logits, labels, generator = batch()
    loss = make_loss(name, COUNTS, **SETTINGS[name])
    expected = [
        weight(name, int(c)) * cost(name, z.tolist(), int(c))
        for z, c in zip(logits, labels, strict=True)
    ]
    assert float(loss(logits, labels)) == pytest.approx(sum(expected) / 6, rel=1e-6)

    soft = mixed_labels(generator, labels)
    expected = [
        sum(float(t[c]) * weight(name, c) * cost(name, z.tolist(), c) for c in range(4))
        for z, t in zip(logits, soft, strict=True)
    ]
    assert float(loss(logits, soft)) == pytest.approx(sum(expected) / 6, rel=1e-6)

    drw = torch.tensor([0.2, 0.2, 1.6, 2.0])
    expected = [
        float(drw[c] / drw.mean()) * cost(name, z.tolist(), int(c))
        for z, c in zip(logits, labels, strict=True)
    ]
    if name != "class-balanced":
        found = float(loss(logits, labels, class_weights=7 * drw))
        assert found == pytest.approx(sum(expected) / 6, rel=1e-6)


@pytest.mark.parametrize("name", SETTINGS)
def test_one_hot_labels_are_labels(name):
    logits, labels, _ = batch()
    loss = make_loss(name, COUNTS, **SETTINGS[name])
    for weights in (None, torch.tensor([1.0, 2.0, 3.0, 4.0])):
        hard = loss(logits, labels, weights)
        torch.testing.assert_close(loss(logits, F.one_hot(labels, 4).double(), weights), hard)


@pytest.mark.parametrize("name", SETTINGS)
def test_gradients_are_derivatives(name):
    logits, labels, generator = batch()
    soft = mixed_labels(generator, labels)
    loss = make_loss(name, COUNTS, **SETTINGS[name]).double()
    for target in (labels, soft):
        assert torch.autograd.gradcheck(
            lambda z, target=target: loss(z, target), (logits.requires_grad_(),)
        )


@pytest.mark.parametrize("name", SETTINGS)
def test_mean_over_shares_is_that_of_the_whole(name):
    logits, labels, _ = batch(8)
    loss = make_loss(name, COUNTS, **SETTINGS[name])
    for weights in (None, effective_number_weights(COUNTS, 0.999)):
        whole = loss(logits, labels, weights)
        shares = [loss(logits[i : i + 4], labels[i : i + 4], weights) for i in (0, 4)]
        torch.testing.assert_close(sum(shares) / 2, whole)


@pytest.mark.parametrize("name", SETTINGS)
def test_finite_where_a_class_is_certain(name):
    for size in (1.0, 40.0, 1e4):
        logits = (size * torch.eye(4)).requires_grad_()
        loss = make_loss(name, COUNTS, **{**SETTINGS[name], "gamma": 0.5})
        for labels in (torch.arange(4), torch.arange(4).flip(0), torch.full((4, 4), 0.25)):
            value = loss(logits, labels)
            (gradient,) = torch.autograd.grad(value, logits)
            assert value.isfinite()
            assert gradient.isfinite().all()


@pytest.mark.parametrize("name", SETTINGS)
def test_low_precision_logits_are_widened(name):
    logits, labels, _ = batch()
    loss = make_loss(name, COUNTS, **SETTINGS[name])
    half = logits.bfloat16()
    found = loss(half, labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(half.float(), labels))


def test_label_smoothing_as_in_torch():
    logits, labels, generator = batch()
    soft = mixed_labels(generator, labels)
    weights = torch.tensor([0.5, 1.0, 1.0, 1.5], dtype=torch.float64)
    for target in (labels, soft):
        expected = F.cross_entropy(logits, target, label_smoothing=0.1)
        torch.testing.assert_close(CrossEntropy(0.1)(logits, target), expected)
    weighted = F.cross_entropy(logits, soft, weight=weights, label_smoothing=0.1)
    torch.testing.assert_close(CrossEntropy(0.1)(logits, soft, weights), weighted)


def test_logit_adjustment_with_tau_1_is_balanced_softmax():
    # Ren et al.: -log(n_y e^(z_y) / sum_c n_c e^(z_c)).
    logits, labels, _ = batch(50)
    counts = torch.tensor(COUNTS, dtype=torch.float64)
    powers = counts * logits.exp()
    balanced = -(powers.gather(1, labels[:, None])[:, 0] / powers.sum(1)).log().mean()
    torch.testing.assert_close(LogitAdjustedCrossEntropy(COUNTS, 1.0)(logits, labels), balanced)
    # Sizes do not count, only shares; and without adjustment it is cross-entropy.
    scaled = LogitAdjustedCrossEntropy([c * 0.01 for c in COUNTS], 1.0)
    torch.testing.assert_close(scaled(logits, labels), balanced)
    plain = LogitAdjustedCrossEntropy(COUNTS, 0.0)(logits, labels)
    torch.testing.assert_close(plain, F.cross_entropy(logits, labels))


def test_limits_that_are_cross_entropy():
    logits, labels, _ = batch(20)
    expected = F.cross_entropy(logits, labels)
    torch.testing.assert_close(make_loss("focal", COUNTS, gamma=0.0)(logits, labels), expected)
    balanced = make_loss("class-balanced", COUNTS, beta=0.0)(logits, labels)
    torch.testing.assert_close(balanced, expected)
    ldam = LDAMLoss(COUNTS, max_margin=0.0, scale=1.0)(logits, labels)
    torch.testing.assert_close(ldam, expected)


def test_ldam_margins():
    margins = LDAMLoss([16, 81, 256], max_margin=0.5).margins
    torch.testing.assert_close(margins, 0.5 * torch.tensor([1.0, 2 / 3, 0.5]).double())


def test_effective_number_weights():
    weights = effective_number_weights(COUNTS, 0.9999)
    assert float(weights.mean()) == pytest.approx(1)
    # For n far below 1 / (1 - beta) the weight is nearly 1 / n.
    assert float(weights[3] / weights[2]) == pytest.approx(40 / 7, rel=0.01)
    assert torch.equal(effective_number_weights(COUNTS, 0.0), torch.ones(4))
    with_empty = effective_number_weights([10, 0, 5], 0.9)
    assert float(with_empty[1]) == 0
    assert float(with_empty.sum()) == pytest.approx(3)


@pytest.mark.parametrize("name", ["logit-adjusted", "class-balanced", "ldam"])
def test_a_class_without_images_is_named(name):
    with pytest.raises(RequestError, match=f"'{name}': class 2 has no training images"):
        make_loss(name, [5, 3, 0, 2])
    assert make_loss("ce", [5, 3, 0, 2]) is not None


def test_unknown_names_and_options():
    with pytest.raises(RequestError, match="did you mean 'focal'"):
        make_loss("focall", COUNTS)
    with pytest.raises(TypeError, match="temperature"):
        make_loss("ce", COUNTS, temperature=2)


def test_a_loss_of_the_users_is_one_class_and_one_decorator():
    @LOSSES.register("squared")
    def build(class_counts, **options):
        class Squared(ClassificationLoss):
            def per_class(self, logits):
                return (1 - logits) ** 2

        return Squared()

    try:
        logits, labels, _ = batch()
        expected = sum((1 - float(z[c])) ** 2 for z, c in zip(logits, labels, strict=True)) / 6
        assert float(make_loss("squared", COUNTS)(logits, labels)) == pytest.approx(expected)
    finally:
        del LOSSES._entries["squared"]


def test_multi_label():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    labels = (torch.rand(5, 3, generator=generator) > 0.5).float()
    weights = torch.tensor([1.0, 2.0, 6.0])
    total = weighted = 0.0
    for z_row, y_row in zip(logits.tolist(), labels.tolist(), strict=True):
        for j, (z, y) in enumerate(zip(z_row, y_row, strict=True)):
            p = 1 / (1 + math.exp(-z))
            value = -math.log(p if y else 1 - p)
            total += value
            weighted += float(weights[j]) / 3 * value
    assert float(MultiLabelLoss()(logits, labels)) == pytest.approx(total / 15)
    assert float(MultiLabelLoss()(logits, labels, weights)) == pytest.approx(weighted / 15)
    assert MultiLabelLoss()(logits.half(), labels.long()).dtype == torch.float32


def test_ldam_of_a_cosine_head_is_the_published_formula():
    """-log e^(s (cos_y - m_y)) / (e^(s (cos_y - m_y)) + sum of e^(s cos_j)), gradients as well."""
    scale, draws = 30.0, torch.Generator().manual_seed(4)
    features = torch.randn(6, 5, generator=draws, dtype=torch.float64, requires_grad=True)
    head = CosineClassifier(5, 4, seed=1, scale=scale).double()
    labels = torch.tensor([0, 1, 2, 3, 3, 0])
    loss = LDAMLoss(COUNTS, max_margin=0.5, scale=scale)(head(features), labels)
    vectors = head.weight
    lengths = features.norm(dim=1)[:, None] * vectors.norm(dim=1)
    cosines = features @ vectors.T / lengths
    margins = torch.tensor([0.5 * (min(COUNTS) / count) ** 0.25 for count in COUNTS]).double()
    powers = torch.exp(scale * cosines)
    own = torch.exp(scale * (cosines - margins)).gather(1, labels[:, None])[:, 0]
    others = powers.sum(1) - powers.gather(1, labels[:, None])[:, 0]
    expected = -(own / (own + others)).log().mean()
    torch.testing.assert_close(loss, expected, rtol=1e-8, atol=0)
    wanted = (features, vectors)
    for found, gradient in zip(
        torch.autograd.grad(loss, wanted), torch.autograd.grad(expected, wanted), strict=True
    ):
        torch.testing.assert_close(found, gradient, rtol=1e-8, atol=1e-10)


def test_a_loss_of_the_users_that_wants_cosines_reads_their_scale():
    loss = Loss("nowhere:at_all", wants_cosines=True)
    assert Cosines in loss.reads
    assert loss.defaults() == {}  # the head reads it; the loss only where it declares it
    assert Cosines not in Loss("nowhere:at_all").reads


def test_cosine_classifier():
    head = CosineClassifier(6, 3, seed=1, scale=20.0)
    features = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    for i, row in enumerate(head(features)):
        for c, value in enumerate(row):
            expected = 20 * F.cosine_similarity(features[i], head.weight[c], dim=0)
            torch.testing.assert_close(value, expected)
    assert list(head.state_dict()) == ["weight"]  # the scale is a setting
    torch.testing.assert_close(head(10 * features), head(features))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(features), head(features.float()))
        assert head(features.bfloat16()).dtype == torch.float32
    again = CosineClassifier(6, 3, seed=1)
    assert torch.equal(again.weight, head.weight)
    assert not torch.equal(CosineClassifier(6, 3, seed=2).weight, head.weight)
    with torch.no_grad():
        again.weight.zero_()
    again.reset_parameters()
    assert torch.equal(again.weight, head.weight)
    assert torch.autograd.gradcheck(
        CosineClassifier(6, 3).double(), features.double().requires_grad_()
    )
