import numpy as np
import pytest
import torch
from image_files import write_npz
from tiny_runs import tiny_retrain, tiny_search

from ssfnas.data import ImageStream, load_data
from ssfnas.pipeline.retrain_run import run_retrain
from ssfnas.pipeline.samples import sample_arrays, shown_classes
from ssfnas.runtime.distributed import World
from ssfnas.spaces import Genotype
from ssfnas.training.retrain_trainer import RetrainTrainer
from ssfnas.training.search_trainer import SearchTrainer

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def trainer_of(config):
    data = load_data(config)
    if hasattr(config, "genotype"):
        return RetrainTrainer(config, data, Genotype.load("FairDARTS_a"), ALONE)
    return SearchTrainer(config, data, ALONE)


def seen_in_an_epoch(stream, batches):
    """Image -> what the first batches make of it, by taking them."""
    found = {}
    for _ in range(batches):
        batch = stream.next()
        for row, index in enumerate(batch.indices.tolist()):
            found.setdefault(index, [view[row] for view in batch.views])
    return found


def looked_at(view, mean, std):
    shape = (-1, 1, 1)
    pixels = np.asarray(view) * np.reshape(std, shape) + np.reshape(mean, shape)
    return np.clip(np.round(255 * pixels), 0, 255).transpose(1, 2, 0)


@pytest.mark.parametrize(
    ("changes", "phase"),
    [
        ({}, 0),
        ({"mixup": 0.8}, 0),
        ({"pretrain_epochs": 1, "pretrain_batch_size": 8, "projector": [8, 8]}, 1),
        ({"sampling_exponent": 0.0}, 0),
        ({"crt_epochs": 1}, 0),
    ],
)
def test_samples_are_what_the_batches_of_the_first_epoch_hold(small_npz, changes, phase):
    trainer = trainer_of(tiny_retrain(small_npz, augment="autoaugment", **changes))
    samples = sample_arrays(trainer)
    data, phase_of_labels = trainer.data, trainer.phases[phase]
    assert phase_of_labels.name == "train"
    assert phase_of_labels.stream.state_dict()["position"] == 0
    stream = phase_of_labels.stream
    seen = seen_in_an_epoch(stream, stream.steps_per_epoch)
    plain = data.train.images.numpy()
    for image, label, views in zip(
        samples["images"], samples["labels"], samples["views"], strict=True
    ):
        (index,) = [i for i in range(len(plain)) if np.array_equal(plain[i], image)]
        assert label == data.train.labels[index]
        expected = looked_at(seen[index][0], data.mean, data.std)
        np.testing.assert_array_equal(views[-1], expected)
    assert samples["views"].shape[1] == (3 if phase else 1)
    assert set(samples["labels"].tolist()) == {0, 1, 2, 3}
    assert ("shares" in samples) == ("mixup" in changes)
    if "shares" in samples:
        np.testing.assert_allclose(samples["shares"].sum(1), 1, rtol=1e-6)


def test_samples_of_a_search_are_two_views_of_images_of_one_half(small_npz):
    trainer = trainer_of(tiny_search(small_npz, objective="ssl"))
    samples = sample_arrays(trainer)
    assert samples["views"].shape == (11, 2, 8, 8, 3)  # the smallest class has two there
    seen = seen_in_an_epoch(trainer.alpha_stream, trainer.alpha_stream.steps_per_epoch)
    data = trainer.data
    plain = data.train.images.numpy()
    for image, views in zip(samples["images"], samples["views"], strict=True):
        (index,) = [i for i in range(len(plain)) if np.array_equal(plain[i], image)]
        for view, expected in zip(views, seen[index], strict=True):
            pixels = looked_at(expected, data.mean, data.std)
            np.testing.assert_allclose(view, pixels, rtol=0, atol=1)  # halves round either way


def test_places_of_a_stream_are_the_rows_of_its_batches_for_any_number_of_processes(small_npz):
    for changes in ({}, {"mixup": 0.8}, {"mixup": 0.8, "mixup_epochs": 1}):
        trainer = trainer_of(tiny_retrain(small_npz))
        whole: ImageStream = trainer.make_stream("x", "barlow_twins")
        world = World(rank=1, size=2, device=torch.device("cpu"))
        share: ImageStream = trainer.make_stream("x", "barlow_twins", world=world)
        for stream in (whole, share):
            for name, value in changes.items():
                setattr(stream, name, value)
        places = torch.tensor([0, 7, 8, 39, 41, 83])
        at = [stream.at(places) for stream in (whole, share)]
        batches = [whole.next() for _ in range(11)]
        for row, place in enumerate(places.tolist()):
            batch, inside = batches[place // 8], place % 8
            for single in at:
                assert single.indices[row] == batch.indices[inside]
                torch.testing.assert_close(single.labels[row], batch.labels[inside])
                for view, other in zip(single.views, batch.views, strict=True):
                    torch.testing.assert_close(view[row], other[inside], rtol=0, atol=1e-6)


def test_a_thousand_classes_are_shown_by_the_largest_the_middle_and_the_smallest():
    counts = [1000 - number for number in range(1000)]
    assert shown_classes(counts) == [*range(4), *range(498, 502), *range(996, 1000)]
    assert shown_classes([3, 0, 5]) == [2, 0]


def test_a_run_keeps_its_samples_and_is_the_same_without(small_npz, tmp_path, monkeypatch):
    kept = run_retrain(tiny_retrain(small_npz, tmp_path / "kept", epochs=1, mixup=0.5))
    monkeypatch.setattr("ssfnas.pipeline.session._keep_samples", lambda *_: None)
    plain = run_retrain(tiny_retrain(small_npz, tmp_path / "plain", epochs=1, mixup=0.5))
    assert kept.samples["images"].shape == (12, 8, 8, 3)
    assert plain.samples == {}
    ours, others = (run.path / "model.safetensors" for run in (kept, plain))
    assert ours.read_bytes() == others.read_bytes()


def test_images_of_several_labels_and_large_gray_ones(tmp_path):
    labels = np.array([[1, 0], [1, 1], [0, 1], [0, 0], [1, 0], [1, 0]], dtype=np.uint8)
    data = write_npz(
        tmp_path / "d.npz", (6,), size=170, channels=1, test_each=6,
        train_labels=labels, test_labels=labels,
    )  # fmt: skip
    samples = sample_arrays(trainer_of(tiny_retrain(data, batch_size=2)))
    assert samples["images"].shape[1:] == (160, 160)
    assert samples["views"].shape[1:] == (1, 160, 160)
    # Three of the first label; of the second those that are not among them.
    assert samples["labels"].sum(0)[0] >= 3
    assert samples["labels"].shape == (len(samples["images"]), 2)
    assert 4 <= len(samples["images"]) <= 5
    assert samples["labels"].any(1).all()
