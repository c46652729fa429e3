"""What is held out for validation: a share of every class, the same images wherever it is drawn."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from image_files import write_npz
from tiny_runs import tiny_retrain, tiny_search

from ssfnas.data import load_data
from ssfnas.data.splits import held_out
from ssfnas.errors import RequestError


def test_a_share_of_every_class_is_held_out_and_nothing_lost():
    counts = [50, 7, 2, 13, 3]
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    kept, chosen = held_out(labels, 0.2, 5)
    assert torch.equal(torch.cat([kept, chosen]).sort().values, torch.arange(len(labels)))
    # 10, 1.4, 0.4, 2.6 and 0.6: rounded, and at least one.
    assert torch.bincount(labels[chosen]).tolist() == [10, 1, 1, 3, 1]


def test_the_split_is_a_function_of_the_seed():
    labels = torch.arange(3).repeat(20)
    first, again, other = (held_out(labels, 0.2, seed)[1] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_single_image_is_trained_on_and_that_is_said():
    with pytest.warns(UserWarning, match="class 1: too few images to hold one out"):
        kept, chosen = held_out(torch.tensor([0, 0, 1, 0, 0]), 0.25, 0)
    assert 2 in kept.tolist()
    assert len(chosen) == 1


def test_every_label_of_several_is_split_in_proportion():
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.tensor([0.5, 0.3, 0.1, 0.05, 0.01])
    labels = (torch.rand((2000, 5), generator=generator) < probabilities).float()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        kept, chosen = held_out(labels, 0.1, 0)
    assert torch.equal(torch.cat([kept, chosen]).sort().values, torch.arange(2000))
    assert len(chosen) == 200
    off = labels[chosen].sum(0) - 0.1 * labels.sum(0)
    assert off.abs().max() <= 2
    assert torch.equal(held_out(labels, 0.1, 0)[1], chosen)
    assert not torch.equal(held_out(labels, 0.1, 1)[1], chosen)


@pytest.mark.parametrize("seed", range(8))
def test_rare_labels_are_trained_on_first_and_held_out_where_there_are_two(seed):
    labels = torch.zeros(40, 4)
    labels[::2, 0] = 1
    labels[3, 1] = 1
    labels[[5, 7], 2] = 1
    labels[:, 3] = 1
    with pytest.warns(UserWarning, match="label 1: too few positive images"):
        kept, chosen = held_out(labels, 0.2, seed)
    assert 3 in kept.tolist()
    assert labels[chosen].sum(0).tolist() == [4, 0, 1, 8]


def test_search_and_retraining_hold_out_the_same_images(tmp_path):
    path = write_npz(tmp_path / "d.npz", (30, 20, 10))
    changes = {"validation_share": 0.2, "data_seed": 7, "imbalance_ratio": 3.0}
    searched = load_data(tiny_search(path, seed=1, **changes))
    trained = load_data(tiny_retrain(path, seed=2, **changes))
    assert trained.class_counts == [24, 14, 8]
    assert trained.validation.class_counts(3) == [6, 3, 2] == searched.validation.class_counts(3)
    for part in ("train", "validation"):
        assert torch.equal(getattr(searched, part).images, getattr(trained, part).images)
    whole = load_data(tiny_retrain(path, data_seed=7, imbalance_ratio=3.0))
    both = torch.cat([trained.train.images, trained.validation.images]).flatten(1).numpy()
    expected = whole.train.images.flatten(1).numpy()
    assert np.array_equal(np.unique(both, axis=0), np.unique(expected, axis=0))
    assert trained.mean != whole.mean


def test_data_with_a_validation_part_keep_it(tmp_path):
    parts = {"val_images": np.zeros((3, 8, 8, 3), np.uint8), "val_labels": np.arange(3)}
    config = tiny_retrain(write_npz(tmp_path / "d.npz", (9, 6, 3), **parts))
    with pytest.raises(RequestError, match=r"share 0\.2: d has a validation part of 3 images"):
        load_data(dataclasses.replace(config, validation_share=0.2))


def test_single_images_alone_cannot_be_held_out(tmp_path):
    config = tiny_retrain(write_npz(tmp_path / "d.npz", (1, 1)), validation_share=0.2)
    with (
        pytest.warns(UserWarning, match="class '0', '1'"),
        pytest.raises(RequestError, match="no class of d has two training images"),
    ):
        load_data(config)
