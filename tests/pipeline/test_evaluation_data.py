"""What a trained network is measured on: its classes by name, its size of images, its probes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from image_files import striped_images, write_npz
from PIL import Image
from tiny_runs import tiny_retrain

from ssfnas import evaluate, retrain
from ssfnas.data import load_data
from ssfnas.errors import RequestError
from ssfnas.evaluation.monitor import pooled_features
from ssfnas.evaluation.probe import apply_linear_probe, fit_linear_probe
from ssfnas.pipeline.retrain_run import run_retrain
from ssfnas.pipeline.run import load

CPU = torch.device("cpu")
NAMES = np.array(["ant", "bee", "cow"])


def reordered(source, path, order):
    """The same images, classes numbered otherwise: new class i is the old class order[i]."""
    arrays = dict(np.load(source))
    number = {old: new for new, old in enumerate(order)}
    for part in ("train_labels", "test_labels"):
        arrays[part] = np.array([number[old] for old in arrays[part].tolist()], np.uint8)
    np.savez(path, **{**arrays, "class_names": NAMES[list(order)]})
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose network tells most of its test images apart, and its data."""
    folder = tmp_path_factory.mktemp("trained")
    data = write_npz(folder / "home.npz", (24, 20, 16), test_each=8, class_names=NAMES)
    changes = {"epochs": 8, "channels": 8, "lr": 0.1, "augment": "none", "cutout": 0}
    run = run_retrain(
        tiny_retrain(data, folder / "run", drop_path=0.0, evaluate_every=8, **changes)
    )
    assert run.evaluation["last_epoch"]["balanced_accuracy"] > 0.7
    return run.path, data


@pytest.fixture
def run(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    return load(tmp_path / "run")


def measured(run, *words):
    name = "evaluation.json"
    if "--dataset" in words:
        name = f"evaluation-on-{words[words.index('--dataset') + 1].rpartition('/')[2][:-4]}.json"
    assert evaluate.main(["--run", str(run.path), "--device", "cpu", *words]) == 0
    return json.loads((run.path / name).read_text())


def test_the_same_images_under_other_numbers_give_the_same_result(run, trained, tmp_path, capsys):
    other = reordered(trained[1], tmp_path / "other.npz", (2, 0, 1))
    found = measured(run, "--dataset", str(other))
    own = run.evaluation["last_epoch"]
    assert found["last_epoch"]["per_class"] == own["per_class"]
    assert found["last_epoch"]["ece"] == pytest.approx(own["ece"], abs=1e-6)
    assert "matched by name" in capsys.readouterr().out
    assert "matched by name" in found["data"]["notes"][0]


def test_own_data_that_have_changed_are_matched_too_and_warned_of(run, trained, tmp_path, capsys):
    config = run.path / "config.yaml"
    other = reordered(trained[1], tmp_path / "other.npz", (1, 0, 2))
    config.write_text(config.read_text().replace(str(trained[1]), str(other)))
    before = run.evaluation["last_epoch"]["per_class"]
    assert measured(run)["last_epoch"]["per_class"] == before
    said = capsys.readouterr()
    assert "matched by name" in said.out
    fewer = write_npz(tmp_path / "fewer.npz", (24, 19, 16), test_each=8, class_names=NAMES)
    config.write_text(config.read_text().replace(str(other), str(fewer)))
    measured(run)
    said = capsys.readouterr().err
    assert "has changed since" in said
    assert "training images of class 'bee': 19 in place of 20" in said


def test_other_classes_are_refused(run, tmp_path, capsys):
    other = write_npz(tmp_path / "o.npz", (3, 3, 3), class_names=np.array(["ant", "bee", "dog"]))
    assert evaluate.main(["--run", str(run.path), "--dataset", str(other)]) == 2
    assert "does not know ('dog'), and lacks 1 of its 3 ('cow')" in capsys.readouterr().err
    assert not list(run.path.glob("evaluation-on*"))


@pytest.mark.parametrize("layout", ["one size", "several sizes"])
def test_images_of_other_sizes_are_resized_and_that_is_said(run, tmp_path, capsys, layout):
    root = tmp_path / "many.dir"
    for part in ("train", "test"):
        for label, name in enumerate(NAMES):
            folder = root / part / str(name)
            folder.mkdir(parents=True)
            for number in range(3):
                size = 12 + number * (layout == "several sizes")
                image = striped_images(np.array([label]), size, 3, number)[0]
                Image.fromarray(image).save(folder / f"{number}.png")
    words = ["--run", str(run.path), "--dataset", str(root), "--device", "cpu"]
    assert evaluate.main(words) == 0
    said = capsys.readouterr()
    assert "were resized to 8 x 8, as the network takes them" in said.out
    assert "--image-size" not in said.out + said.err


def test_images_that_no_square_can_hold_need_that_size(tmp_path, capsys):
    shape = np.zeros((12, 8, 12, 3), np.uint8)
    labels = np.repeat(np.arange(3), 4).astype(np.uint8)
    arrays = {"train_images": shape, "train_labels": labels, "test_images": shape}
    np.savez(tmp_path / "wide.npz", **arrays, test_labels=labels)
    run = run_retrain(tiny_retrain(tmp_path / "wide.npz", tmp_path / "run", steps=1))
    other = write_npz(tmp_path / "o.npz", (4, 4, 4))
    assert evaluate.main(["--run", str(run.path), "--dataset", str(other)]) == 2
    assert "images of 8 x 8 pixels, and the network takes 12 x 8" in capsys.readouterr().err


def test_probes_are_fitted_on_the_runs_own_images(run, tmp_path):
    """The other data's training part is of one color: a probe fitted on it would know nothing."""
    gray = np.full((12, 8, 8, 3), 90, np.uint8)
    other = write_npz(tmp_path / "o.npz", (4, 4, 4), seed=7, class_names=NAMES, train_images=gray)
    found = measured(run, "--dataset", str(other), "--probe")["probe"]
    own, net = load_data(run.config), run.network()
    features, labels = pooled_features(net, own.train, own, device=CPU)
    probe = fit_linear_probe(features, labels, 3)
    test = load_data(tiny_retrain(other)).test
    features, labels = pooled_features(net, test, own, device=CPU)
    right = (apply_linear_probe(probe, features).argmax(1) == labels).double().mean()
    assert found["long_tailed"]["training_images"] == 60
    assert found["balanced"]["training_images"] == 48
    assert found["long_tailed"]["top1"] == pytest.approx(float(right))
    assert found["long_tailed"]["top1"] > 0.5


def test_what_means_nothing_with_several_labels_is_refused(tmp_path, capsys):
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 2, (24, 3)).astype(np.uint8)
    test = np.array([[0, 1, 0], [1, 0, 1], [1, 1, 0], [0, 0, 1]], np.uint8)
    data = write_npz(tmp_path / "multi.npz", (24,), train_labels=labels, test_labels=test)
    run = run_retrain(tiny_retrain(data, tmp_path / "run", steps=1))
    for flag in ("--probe", "--thirds"):
        assert evaluate.main(["--run", str(run.path), flag]) == 2
        assert f"{flag} has no effect on multi-label data" in capsys.readouterr().err


def test_a_run_does_not_go_on_with_other_data(small_npz, tmp_path, capsys):
    config = tiny_retrain(small_npz, tmp_path / "run", epochs=1)
    run_retrain(config)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    words = ["--out", str(tmp_path / "run"), "--resume", "--device", "cpu"]
    capsys.readouterr()
    write_npz(small_npz, (16, 12, 9, 4))
    assert retrain.main(words) == 2
    said = capsys.readouterr().err
    assert "training images of class '2': 9 in place of 8" in said
    assert len(said.splitlines()) == 1
    write_npz(small_npz, (16, 12, 8, 4), seed=3)
    with pytest.raises(RequestError, match="but others: mean and deviation"):
        run_retrain(tiny_retrain(small_npz, tmp_path / "run", epochs=1, resume=True))
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    write_npz(small_npz, (16, 12, 8, 4))
    assert retrain.main(words) == 0


def test_a_run_from_before_there_were_choices_is_evaluated(run, tmp_path):
    config = run.path / "config.yaml"
    lines = config.read_text().splitlines(keepends=True)
    old = [line for line in lines if not line.startswith(("validation_share:", "crt_lr:"))]
    assert len(old) == len(lines) - 2
    config.write_text("".join(old))
    before = json.loads((run.path / "evaluation.json").read_text())
    for name in ("choices", "swept_on"):
        del before[name]
    before["best_epoch"] = {"epoch": 8, "test/top1": 0.9}
    (run.path / "evaluation.json").write_text(json.dumps(before))
    other = write_npz(tmp_path / "o.npz", (4, 4, 4), seed=7, class_names=NAMES)
    assert measured(run, "--dataset", str(other))["choices"] == {}
    after = measured(run)
    assert after["last_epoch"] == before["last_epoch"]
    assert "best_epoch" not in after
