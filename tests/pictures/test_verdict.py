import json

import numpy as np
import pytest

from ssfnas.pictures.chance import Chance, chance_of
from ssfnas.pictures.verdict import retrain_verdict, search_verdict
from ssfnas.runs.run_files import RunFiles
from ssfnas.spaces import Genotype
from ssfnas.yaml_files import dump_yaml

NAMES = ["cat", "dog", "gnu", "yak"]


def run_with(path, *, command="retrain", counts=(500, 100, 50, 5), images=None, **evaluation):
    path.mkdir()
    (path / "config.yaml").write_text(dump_yaml({"command": command, "environment": {}}))
    data = {"class_names": NAMES, "class_counts": counts}
    (path / "data.json").write_text(json.dumps(data))
    if images is not None:
        evaluation["confusions"] = {"images": images, **evaluation.get("confusions", {})}
        evaluation["data"] = {"test_images": sum(images)}
    if evaluation:
        (path / "evaluation.json").write_text(json.dumps(evaluation))
    return RunFiles(path)


def said(run, **last):
    verdict = retrain_verdict(run, last)
    return " ".join(verdict.sentences), verdict.alert


def test_chance_is_one_class_of_all_or_the_largest_each_time(tmp_path):
    run = run_with(tmp_path / "run", images=[70, 10, 10, 10])
    assert chance_of(run, 4) == Chance(0.25, 0.7)
    assert chance_of(run, 4).best == 0.7
    assert chance_of(run_with(tmp_path / "old"), 4).largest is None


def test_a_good_result_is_told_beside_chance_with_groups_and_the_weakest_class(tmp_path):
    between = {"few": {"right": 10, "many": 45, "medium": 25, "few": 0}}
    run = run_with(tmp_path / "run", images=[100] * 4, confusions={"groups": between})
    text, alert = said(
        run,
        top1=0.6,
        balanced_accuracy=0.6,
        many=0.9,
        few=0.125,
        per_class=[0.9, 0.8, 0.575, 0.125],
    )
    assert not alert
    assert text == (
        "Right on 60.00 % of 400 test images; guessing gives 25.00 %. Every class counted alike: "
        "60.00 % (chance 25.00 %). By the training images of a class: many 90.00 %, few 12.50 %. "
        "Weakest: yak, 12.50 %. 56.25 % of the test images of classes with few training images are "
        "taken for classes with many."
    )


@pytest.mark.parametrize(("top1", "amiss"), [(0.7, True), (0.73, True), (0.80, False)])
def test_naming_the_largest_class_is_no_merit(tmp_path, top1, amiss):
    """At 100 images a standard error is 4.6 percent."""
    run = run_with(tmp_path / "run", images=[70, 10, 10, 10])
    text, alert = said(run, top1=top1, balanced_accuracy=0.25, per_class=[1.0, 0.0, 0.0, 0.0])
    assert alert == amiss
    assert "naming the largest class each time gives 70.00 %, and guessing gives 25.00 %" in text
    assert ("no better than chance" in text) == amiss
    assert "Never right: dog, gnu, yak (3 of 4 classes)." in text


def test_small_classes_may_be_told_apart_all_the_same(tmp_path):
    run = run_with(tmp_path / "run", images=[70, 10, 10, 10])
    text, alert = said(run, top1=0.5, balanced_accuracy=0.6, per_class=[0.4, 0.7, 0.7, 0.6])
    assert alert
    assert "but the classes that have few of them are told apart" in text


def test_labels_that_are_guessed_are_named(tmp_path):
    run = run_with(tmp_path / "run")
    text, alert = said(run, auc=0.7, per_class_auc=[0.9, 0.5, None, 0.7])
    assert not alert
    assert "Best: cat, 90.00 %; weakest: dog, 50.00 %. Not better than chance: dog." in text
    text, alert = said(run, auc=0.52, per_class_auc=[0.55, 0.5, 0.51, 0.52])
    assert alert
    assert "hardly better than chance" in text


def test_nothing_is_said_where_nothing_was_measured(tmp_path):
    assert retrain_verdict(run_with(tmp_path / "run"), {}) is None
    assert search_verdict(run_with(tmp_path / "search", command="search")) is None


def searched(path, weights, operation="sep_conv_3x3"):
    run = run_with(path, command="search")
    Genotype(
        normal=((operation, 0, 2), ("skip_connect", 1, 2), (operation, 1, 3)),
        normal_concat=(2, 3),
        reduce=((operation, 1, 3),),
        reduce_concat=(3,),
    ).save(path / "genotype.json")
    values = np.asarray(weights, dtype=np.float32)
    arrays = {name: values for name in ("normal", "reduce", "weights_normal", "weights_reduce")}
    np.savez(path / "alphas.npz", operations=np.array(["skip_connect", "sep_conv_3x3"]), **arrays)
    (path / "metrics.jsonl").write_text(json.dumps({"step": 1, "knn/balanced": 0.5}) + "\n")
    return search_verdict(RunFiles(run.path))


def test_a_search_says_what_it_found_and_how_decided_it_was(tmp_path):
    decided = searched(tmp_path / "a", np.tile([0.02, 0.95], (2, 5, 1)))
    assert not decided.alert
    assert decided.sentences == [
        "Found a normal cell of 3 operations and a reduction cell of 1 operation; 1 of the 4 is a "
        "skip connection.",
        "100.00 % of the weights are decided (below 0.1 or above 0.9).",
        "Nearest neighbors by its features: 50.00 %, every class counted alike (chance 25.00 %).",
    ]
    open_ = searched(tmp_path / "b", np.tile([0.45, 0.52], (2, 5, 1)))
    assert open_.alert
    assert "0.00 % of the weights are decided" in open_.sentences[1]
    assert "they lie from 0.45 to 0.52: the search was too short" in open_.sentences[1]
    shared = searched(tmp_path / "c", np.tile([0.1, 0.9], (2, 5, 1)))
    assert "is 0.90 on average" in shared.sentences[1]
    assert not shared.alert
    alike = searched(tmp_path / "d", np.tile([0.48, 0.52], (2, 5, 1)))
    assert "have 0.50 each: the search was too short" in alike.sentences[1]
    assert alike.alert


def test_mostly_skip_connections_are_a_warning(tmp_path):
    verdict = searched(tmp_path / "a", np.tile([0.02, 0.95], (2, 5, 1)), "skip_connect")
    assert verdict.alert
    assert any("Mostly skip connections" in sentence for sentence in verdict.sentences)
