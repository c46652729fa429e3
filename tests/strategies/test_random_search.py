"""Random genotypes: valid, of one seed, and uniform."""

from __future__ import annotations

from collections import Counter

import pytest

from ssfnas.errors import RequestError
from ssfnas.spaces import DARTS_OPERATIONS, FAIRDARTS_OPERATIONS
from ssfnas.strategies.random_search import best, sample_genotype, split_budget


def test_samples_are_what_the_rule_darts_could_derive():
    for index in range(20):
        genotype = sample_genotype(1, index, operations=DARTS_OPERATIONS)
        for edges in (genotype.normal, genotype.reduce):
            assert [target for _, _, target in edges] == [2, 2, 3, 3, 4, 4, 5, 5]
            assert all(0 <= source < target for _, source, target in edges)
            assert len({(source, target) for _, source, target in edges}) == 8
            assert all(name != "none" for name, _, _ in edges)
        assert genotype.normal_concat == genotype.reduce_concat == (2, 3, 4, 5)


def test_a_sample_depends_on_seed_and_index_alone():
    first = sample_genotype(7, 3, operations=FAIRDARTS_OPERATIONS)
    sample_genotype(7, 0, operations=FAIRDARTS_OPERATIONS)
    assert sample_genotype(7, 3, operations=FAIRDARTS_OPERATIONS) == first
    assert sample_genotype(7, 4, operations=FAIRDARTS_OPERATIONS) != first
    assert sample_genotype(8, 3, operations=FAIRDARTS_OPERATIONS) != first


def test_operations_and_edges_are_uniform():
    operations, edges = Counter(), Counter()
    count = 400
    for index in range(count):
        genotype = sample_genotype(0, index, operations=FAIRDARTS_OPERATIONS)
        operations.update(name for name, _, _ in genotype.normal)
        edges.update(source for _, source, target in genotype.normal if target == 5)
    # Five standard deviations of a binomial.
    for name in FAIRDARTS_OPERATIONS:
        expected = 8 * count / 7
        assert abs(operations[name] - expected) < 5 * (expected * 6 / 7) ** 0.5
    for source in range(5):
        assert abs(edges[source] - 2 * count / 5) < 5 * (2 * count / 5 * 3 / 5) ** 0.5


def test_only_none_is_nothing_to_sample():
    with pytest.raises(RequestError, match="besides 'none'"):
        sample_genotype(0, 0, operations=("none",))


@pytest.mark.parametrize(("steps", "samples"), [(10, 3), (3, 3), (2, 5), (100, 7)])
def test_the_budget_is_spent_and_shared_evenly(steps, samples):
    shares = split_budget(steps, samples)
    assert sum(shares) == steps
    assert len(shares) == samples
    assert max(shares) - min(shares) <= 1


def test_the_best_is_the_lowest_and_never_nan():
    assert best([2.0, float("nan"), 1.0, 1.0]) == 2
    assert best([float("nan"), 3.0]) == 1
    assert best([float("nan"), float("nan")]) == 0
