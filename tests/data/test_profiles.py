import hashlib
import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ssfnas.data import long_tail_counts, long_tail_indices
from ssfnas.errors import RequestError

CIFAR10_COUNTS = {
    200: [5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25],
    100: [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50],
    50: [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100],
    20: [5000, 3584, 2569, 1842, 1320, 946, 678, 486, 348, 250],
    10: [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500],
}
SUBSETS = {
    (10, 5000, 100): "8a54f5b6fa972295",
    (10, 5000, 50): "7bb90363b243a944",
    (10, 5000, 20): "a7d33406202ee724",
    (10, 5000, 10): "2b3a8656bec514c6",
    (100, 500, 100): "f123ec136d44ab1b",
    (100, 500, 50): "1bc82de2629e5cbd",
    (100, 500, 20): "03ac457e9ab1e6bd",
    (100, 500, 10): "5906ba7310b91b5e",
}


@pytest.mark.parametrize("ratio", CIFAR10_COUNTS)
def test_exponential_counts_are_the_published_ones(ratio):
    assert long_tail_counts(5000, 10, ratio) == CIFAR10_COUNTS[ratio]


@pytest.mark.parametrize(("case", "digest"), SUBSETS.items())
def test_subset_is_the_one_most_papers_use(case, digest):
    classes, n_max, ratio = case
    labels = np.repeat(np.arange(classes), n_max)
    indices = long_tail_indices(labels, long_tail_counts(n_max, classes, ratio))
    within = (indices % n_max).astype("<i8")
    assert hashlib.sha256(within.tobytes()).hexdigest()[:16] == digest


def test_subset_of_interleaved_labels_holds_positions_of_the_right_class():
    labels = np.random.default_rng(3).integers(0, 4, 200)
    counts = [20, 10, 5, 1]
    indices = long_tail_indices(labels, counts)
    assert np.array_equal(labels[indices], np.repeat(np.arange(4), counts))
    assert len(set(indices.tolist())) == 36
    assert indices.dtype == np.int64
    assert not np.array_equal(indices, long_tail_indices(labels, counts, seed=1))


@pytest.mark.parametrize(
    ("classes", "expected"),
    [(4, [60, 60, 6, 6]), (5, [60, 60, 6, 6, 6]), (2, [60, 6])],
)
def test_step_profile_keeps_the_first_half(classes, expected):
    assert long_tail_counts(60, classes, 10, "step") == expected


def test_a_ratio_that_divides_keeps_whole_numbers_whole():
    assert long_tail_counts(49, 2, 49) == [49, 1]  # 49 * (1 / 49) < 1 in floating point


@given(
    n_max=st.integers(1, 5000),
    classes=st.integers(1, 50),
    ratio=st.floats(1, 1000),
    profile=st.sampled_from(["exp", "step"]),
)
def test_counts_fall_from_the_largest_to_the_ratio(n_max, classes, ratio, profile):
    assume(not 0 < ratio / n_max - 1 < 1e-9)  # whole but for rounding
    if n_max < ratio and classes > 1:
        with pytest.raises(RequestError, match="must be at most"):
            long_tail_counts(n_max, classes, ratio, profile)
        return
    counts = long_tail_counts(n_max, classes, ratio, profile)
    assert len(counts) == classes
    assert counts[0] == n_max
    assert all(a >= b >= 1 for a, b in itertools.pairwise(counts))
    if classes > 1:
        exact = Fraction(n_max) / Fraction(ratio)
        assert abs(counts[-1] - exact) < 1 + Fraction(1, 10**6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((100, 10, 0.5), "at least 1"),
        ((100, 10, float("nan")), "at least 1"),
        ((100, 10, float("inf")), "at least 1"),
        ((0, 10, 2), "at least 1"),
        ((100, 0, 2), "at least 1"),
        ((100, 10, 101), "class 9"),
        ((100, 10, 2, "linear"), "exp, step"),
    ],
)
def test_counts_refuse(arguments, words):
    with pytest.raises(RequestError, match=words):
        long_tail_counts(*arguments)


def test_a_class_too_small_is_named_with_both_numbers():
    with pytest.raises(RequestError, match="class 1 has 3 images and cannot give 4"):
        long_tail_indices([0, 0, 0, 0, 0, 1, 1, 1], [5, 4])


@pytest.mark.parametrize("labels", [[[0, 1], [1, 0]], [0.0, 1.0]])
def test_subset_refuses_other_labels(labels):
    with pytest.raises(RequestError, match="one integer label"):
        long_tail_indices(labels, [1, 1])


def test_subset_refuses_a_seed_out_of_range():
    with pytest.raises(RequestError, match=str(2**32 - 1)):
        long_tail_indices([0, 1], [1, 1], seed=2**32)
