"""What a training has corrected is not corrected again: Gaussians whose Bayes rule is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from ssfnas.config import RetrainConfig
from ssfnas.evaluation.posthoc import adjust_logits
from ssfnas.objectives.class_prior import prior_left

COUNTS = [4000, 400, 40]
MEANS = torch.tensor([0.0, 1.5, 3.0], dtype=torch.float64)
BETA = 0.999
EFFECTIVE = [(1 - BETA) / (1 - BETA**n) for n in COUNTS]


def log_likelihoods(x):
    return -((x[:, None] - MEANS) ** 2) / 2


def powers(exponent):
    return [float(n) ** exponent for n in COUNTS]


@pytest.mark.parametrize(
    ("changes", "drawn"),
    [
        ({}, powers(1)),
        ({"loss": "focal"}, powers(1)),
        ({"sampling_exponent": 0.5}, powers(0.5)),
        ({"loss": "logit-adjusted", "tau": 0.5}, powers(0.5)),
        ({"loss": "logit-adjusted", "tau": 1.5}, powers(-0.5)),
        ({"loss": "logit-adjusted", "tau": 0.5, "sampling_exponent": 0.5}, powers(0.25)),
        ({"loss": "class-balanced", "beta": BETA}, np.multiply(powers(1), EFFECTIVE)),
        ({"drw": 0.5, "beta": BETA}, np.multiply(powers(1), EFFECTIVE)),
        (
            {"drw": 0.5, "beta": BETA, "sampling_exponent": 0.5},
            np.multiply(powers(0.5), EFFECTIVE),
        ),
        ({"loss": "ldam", "beta": BETA}, np.multiply(powers(1), EFFECTIVE)),
        ({"loss": "ldam", "beta": BETA, "drw": 1.0}, powers(1)),
    ],
)
def test_adjusting_for_the_rest_gives_the_bayes_rule_of_the_balanced_error(changes, drawn):
    """A network that has learned the posteriors under what it was trained on, tau 1 on top."""
    config = RetrainConfig(**{"loss": "ce", **changes})
    x = torch.linspace(-4, 7, 500, dtype=torch.float64)
    learned = log_likelihoods(x) + torch.tensor(drawn, dtype=torch.float64).log()
    left = prior_left(config, COUNTS)
    assert not left.uniform
    assert float(left.shares.sum()) == pytest.approx(1)
    adjusted = adjust_logits(learned, left.shares, 1.0).log_softmax(1)
    bayes = log_likelihoods(x).log_softmax(1)
    torch.testing.assert_close(adjusted, bayes, rtol=0, atol=1e-6)
    assert not torch.equal(learned.argmax(1), bayes.argmax(1))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"crt_epochs": 3}, "--crt-epochs 3"),
        ({"crt_epochs": 3, "loss": "ldam"}, "--crt-epochs 3"),
        ({"crt_epochs": 3, "sampling_exponent": 0.5, "drw": 0.5}, "--crt-epochs 3"),
        ({"sampling_exponent": 0.0}, "--sampling-exponent 0"),
        ({"loss": "logit-adjusted"}, "--loss logit-adjusted"),
        ({"loss": "class-balanced", "beta": 0.999999}, "--loss class-balanced"),
        ({"drw": 0.8, "beta": 0.999999}, "--drw 0.8"),
        ({"loss": "ldam", "beta": 0.999999}, "--loss ldam"),
    ],
)
def test_nothing_is_left_after_a_whole_correction(changes, named):
    left = prior_left(RetrainConfig(**{"loss": "ce", **changes}), COUNTS)
    assert left.uniform
    assert left.corrected_by == (named,)


def test_sampling_alike_and_weights_besides_leave_the_weights():
    config = RetrainConfig(loss="ce", sampling_exponent=0.0, drw=0.5, beta=BETA)
    shares = np.array(EFFECTIVE) / math.fsum(EFFECTIVE)
    np.testing.assert_allclose(prior_left(config, COUNTS).shares, shares, rtol=1e-6)


def test_weights_taken_before_a_stage_know_nothing_of_it():
    natural = np.array(COUNTS) / sum(COUNTS)
    for changes, taken in (
        ({"crt_epochs": 3}, {"phase": "train"}),
        ({"drw": 0.5}, {"reweighted": False}),
    ):
        config = RetrainConfig(loss="ce", **changes)
        np.testing.assert_allclose(prior_left(config, COUNTS, **taken).shares, natural, rtol=1e-12)
