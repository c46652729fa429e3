import dataclasses
import datetime
import json
from html.parser import HTMLParser

import numpy as np
import pytest

from ssfnas.config import RetrainConfig, SearchConfig
from ssfnas.errors import RequestError
from ssfnas.pictures import comparison_page, report_html
from ssfnas.pictures.class_bars import class_accuracy
from ssfnas.pictures.comparison_page import grouped_by_seed
from ssfnas.runs.run_files import RunFiles
from ssfnas.spaces import Genotype
from ssfnas.yaml_files import dump_yaml, parse_yaml

NASTY = "<script>alert('x')</script>\"&amp;"
NAMES = ["cat", NASTY, "鳥"]
COUNTS = [500, 50, 5]
OPERATIONS = np.array(["skip_connect", "sep_conv_3x3"])
GENOTYPE = Genotype(
    normal=(("sep_conv_3x3", 0, 2), ("skip_connect", 2, 4)),
    normal_concat=(2, 4),
    reduce=(("sep_conv_3x3", 1, 3),),
    reduce_concat=(3,),
)
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that elements nest; keeps texts, ids and what is fetched from elsewhere."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.tags, self.external, self.words = [], [], set(), [], []
        self.feed(html)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            inside = ("#", "data:image/")
            if name in ("src", "href", "xlink:href") and not (value or "").startswith(inside):
                self.external.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


def page_of(*paths):
    html = report_html(paths)
    assert html.startswith("<!DOCTYPE html>")
    assert "@import" not in html
    page = Page(html)
    assert not page.external
    assert "script" not in page.tags
    return page


def write_run(path, command, config, metrics):
    path.mkdir(parents=True)
    values = dataclasses.asdict(config)
    for name in ("resume", "overwrite", "dry_run"):
        del values[name]
    environment = {"torch": "2.11.0", "device": f"cpu {NASTY}", "threads": 2}
    text = dump_yaml({"command": command, **values, "environment": environment})
    (path / "config.yaml").write_text(text)
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    data = {"name": "animals", "class_names": NAMES, "class_counts": COUNTS, "multi_label": False,
            "in_channels": 3, "image_size": [32, 32], "mean": [0.5], "std": [0.2]}  # fmt: skip
    (path / "data.json").write_text(json.dumps(data))
    return path


def write_search(path, *, epochs=3, done=3, genotype=True, high=0.9, **changes):
    metrics = [
        {"step": 7 * e, "epoch": e, "wall_time": 1e9 + 60 * e, "alpha/loss": 1.0 / e,
         "alpha/zero_one": -0.01 * e, "weight/loss": 2.0 / e, "entropy/normal": 0.6,
         "entropy/reduce": 0.5, "skips/normal": 1, "skips/reduce": 0, "knn/top1": 0.4321}
        for e in range(1, done + 1)
    ]  # fmt: skip
    write_run(path, "search", SearchConfig(epochs=epochs, **changes), metrics)
    if done == epochs:
        weights = np.full((done + 1, 14, 2), 0.25, dtype=np.float32)
        weights[-1, 0, 1] = high
        np.savez_compressed(
            path / "alphas.npz", operations=OPERATIONS, normal=weights, reduce=weights,
            weights_normal=weights, weights_reduce=weights,
        )  # fmt: skip
        if genotype:
            GENOTYPE.save(path / "genotype.json")
    return path


def measured(top1):
    return {"top1": top1, "balanced_accuracy": top1 - 0.1, "worst_class": 0.125, "ece": 0.05,
            "many": 0.9, "medium": 0.5, "few": 0.125, "auc": 0.9,
            "groups": {"many": [0], "medium": [1], "few": [2]},
            "per_class": [0.9, 0.5, 0.125], "per_class_auc": [0.9, None, 0.7]}  # fmt: skip


def write_retrain(path, *, done=4, top1=0.7, **changes):
    metrics = [
        {"step": 9 * e, "epoch": e, "wall_time": 1e9 + 60 * e, "phase": "train",
         "train/loss": 1.0 / e, "lr": 0.1, "test/top1": top1 - 0.1 * abs(3 - e),
         "test/balanced_accuracy": 0.5}
        for e in range(1, done + 1)
    ]  # fmt: skip
    write_run(path, "retrain", RetrainConfig(epochs=4, genotype="DARTS_V2", **changes), metrics)
    if done == 4:
        evaluation = {
            "data": {"name": "animals", "test_images": 300},
            "weights": "last",
            "parameters": 3349342,
            "multiply_adds": 528400000,
            "last_epoch": measured(top1 - 0.1),
            "best": measured(top1),
            "swept_on": "validation",
            "choices": {
                "epoch": {
                    "chosen": {"epoch": 3, "phase": "train", "weights": "model"},
                    "on": "validation",
                    "by": "balanced_accuracy",
                    "among": [1, 2, 3, 4],
                    "value": 0.5125,
                    "test": {"top1": top1, "worst_class": 0.125},
                },
                "tau_normalization": {
                    "chosen": {"tau": 0.5},
                    "on": "validation",
                    "by": "balanced_accuracy",
                    "among": [0.0, 0.5],
                    "value": 0.375,
                    "test": {"top1": top1 - 0.05},
                },
            },
            "post_hoc": {
                "logit_adjustment": {"left_out": "adjusting again would correct twice"},
                "tau_normalization": [
                    {"tau": 0.0, "top1": 0.6, "worst_class": 0.1},
                    {"tau": 0.5, "top1": 0.6525, "worst_class": 0.2},
                ],
            },
            "probe": {
                "long_tailed": {"training_images": 555, "top1": 0.4125},
                "balanced": {"training_images": 15, "top1": 0.3},
            },
        }
        (path / "evaluation.json").write_text(json.dumps(evaluation))
        GENOTYPE.save(path / "genotype.json")
    return path


def test_a_search_is_shown_whole_with_every_text_escaped(tmp_path):
    path = write_search(tmp_path / "a <b> run")
    (path / "log.txt").write_text(f"said {NASTY}\n")
    page = page_of(path)
    for text in (
        "a <b> run", "finished", "3 min", "43.21 %", "fairdarts", "Barlow Twins, no labels",
        "2 normal, 1 reduction", "normal cell (without node 1)", "Weights over time",
        "zero-one loss", "animals", "imbalance ratio 100", "checkpoint_minutes", "2.11.0",
        f"said {NASTY}", f"cpu {NASTY}", "鳥",
    ):  # fmt: skip
        assert text in page.text, text
    assert "alpha_lr 0.003" in page.text
    assert "Not finished" not in page.text


def test_the_same_files_give_the_same_page(tmp_path):
    path = write_search(tmp_path / "run")
    assert report_html([path]) == report_html([path])


def test_an_interrupted_search_says_how_far_it_got_and_how_to_go_on(tmp_path):
    path = write_search(tmp_path / "half run", done=2)
    with open(path / "metrics.jsonl", "a") as file:
        file.write('{"step": 21, "ep')
    page = page_of(path)
    assert "epoch 2 of 3" in page.text
    assert "The last line of metrics.jsonl is incomplete" in page.text
    assert f"python -m ssfnas.search --out '{path}' --resume" in page.text


def test_a_run_that_has_just_begun_has_a_page(tmp_path):
    path = write_search(tmp_path / "run", done=0)
    (path / "metrics.jsonl").unlink()
    (path / "data.json").unlink()
    page = page_of(path)
    assert "epoch 0 of 3" in page.text
    assert "Nothing has been logged yet" in page.text


def test_a_search_without_genotype_names_the_largest_weights_and_the_way_out(tmp_path):
    path = write_search(tmp_path / "run", genotype=False, high=0.734)
    page = page_of(path)
    assert "No genotype was derived" in page.text
    assert "threshold of 0.85" in page.text
    assert "normal sep_conv_3x3 cₖ₋₂ → 0 0.734" in page.text
    assert f"python -m ssfnas.derive --run {path} --derive darts" in page.text
    assert "--derive threshold --threshold 0.73" in page.text


def test_early_stopping_is_told_from_interruption(tmp_path):
    path = write_search(tmp_path / "run", epochs=3)
    text = (path / "config.yaml").read_text()
    (path / "config.yaml").write_text(text.replace("epochs: 3", "epochs: 30"))
    page = page_of(path)
    assert "stopped early, epoch 3 of 30" in page.text
    assert "Not finished" not in page.text


def test_a_retraining_tells_the_last_epoch_from_the_chosen_one(tmp_path):
    page = page_of(write_retrain(tmp_path / "run"))
    for text in (
        "top-1 accuracy 60.00 % 70.00 %", "last epoch epoch chosen on the validation part",
        "The validation part chose epoch 3, phase train, weights model.",
        "epoch epoch 3, phase train, weights model balanced accuracy 1, 2, 3, 4 51.25 % 70.00 %",
        "tau-normalization tau 0.5 balanced accuracy 0, 0.5 37.50 % 65.00 % -",
        "Measured on the validation part, which chooses the strength",
        "3,349,342", "528.4 M", "worst class 12.50 %",
        "classes with few images (1 of them) 12.50 % 12.50 %",
        "adjusting again would correct twice",
        "0.5 65.25 % 20.00 %", "a tau of 0 is not quite the network itself",
        "fitted on the training images", "41.25 %", "DARTS_V2",
        f"{NASTY} 50 50.00 % 50.00 %", "normal cell (without node 1)",
    ):  # fmt: skip
        assert text in page.text, text


def test_a_page_of_a_run_from_before_there_were_choices(tmp_path):
    """Without a validation part, and as an evaluation was written that named a best epoch."""
    path = write_retrain(tmp_path / "run")
    evaluation = json.loads((path / "evaluation.json").read_text())
    for name in ("best", "choices", "swept_on"):
        del evaluation[name]
    evaluation["best_epoch"] = {"epoch": 3, "test/top1": 0.7}
    (path / "evaluation.json").write_text(json.dumps(evaluation))
    page = page_of(path)
    assert "top-1 accuracy 60.00 %" in page.text
    assert "Chosen on the validation part" not in page.text
    assert "best epoch" not in page.text
    assert "Measured on the test part, so a strength picked" in page.text


def test_an_unfinished_retraining_shows_the_latest_test(tmp_path):
    page = page_of(write_retrain(tmp_path / "run", done=2))
    assert "epoch 2 of 4" in page.text
    assert "latest epoch tested" in page.text
    assert "top-1 accuracy 60.00 %" in page.text


def test_multi_label_results_are_areas(tmp_path):
    path = write_retrain(tmp_path / "run")
    evaluation = {
        "last_epoch": {
            "mean_average_precision": 0.625, "auc": 0.8, "accuracy": 0.9,
            "per_class_auc": [0.9, None, 0.7], "per_class_average_precision": [0.75, None, 0.5],
            "per_class_f1": [0.375, None, 0.25],
        },
        "choices": {
            "thresholds": {
                "chosen": {"probability": [0.25, 0.5, 0.125], "logit": [-1.1, 0.0, -1.95]},
                "on": "validation", "by": "F1 of each label", "among": "all thresholds",
                "value": 0.5, "test": {"macro_f1": 0.4375, "accuracy": 0.8},
                "per_class_f1": [0.5, None, 0.375],
            }
        },
    }  # fmt: skip
    (path / "evaluation.json").write_text(json.dumps(evaluation))
    page = page_of(path)
    assert "AUC (macro) 80.00 %" in page.text
    assert "AUC of each class on the test part, in percent." in page.text
    assert "in 80.00 % of the cases" in page.text
    assert f"Best: cat, 90.00 %; weakest: {NAMES[2]}, 70.00 %." in page.text
    assert "probabilities 0.25, 0.5, 0.125 F1 of each label all thresholds 50.00 %" in page.text
    assert "43.75 %" in page.text
    assert "mAP 62.50 %" in page.text
    assert "90.00 % 75.00 % 37.50 % 50.00 %" in page.text
    assert f"{NASTY} 50 - - - -" in page.text


def test_seeds_share_a_column_with_mean_and_spread(tmp_path):
    runs = [
        write_retrain(tmp_path / "one", top1=0.70, seed=0),
        write_retrain(tmp_path / "two", top1=0.74, seed=1),
        write_retrain(tmp_path / "other", top1=0.5, loss="ce"),
    ]
    groups = grouped_by_seed([RunFiles(run) for run in runs])
    assert [[run.name for run in group] for group in groups] == [["one", "two"], ["other"]]
    page = page_of(*runs)
    # 60 and 64 percent: mean 62, sample standard deviation sqrt(8).
    assert "top-1 accuracy 62.00 ± 2.83 % 40.00 %" in page.text
    chosen = "epoch chosen on the validation part, top-1 accuracy 72.00 ± 2.83 % 50.00 %"
    assert chosen in page.text
    assert "tau-normalization of the classifier, top-1 accuracy 67.00 ± 2.83 % 45.00 %" in page.text
    assert "one and 1 more seed" in page.text
    assert "loss logit-adjusted logit-adjusted ce" in page.text
    assert "parameters 3,349,342 3,349,342" in page.text


def test_classes_of_several_runs_are_compared_by_name(tmp_path, monkeypatch):
    """The second run numbers its classes otherwise; a third has others."""
    shown = []

    def keep(means, names, counts, **more):
        shown.append((means, names, counts))
        return class_accuracy(means, names, counts, **more)

    monkeypatch.setattr(comparison_page, "class_accuracy", keep)
    one, two = write_retrain(tmp_path / "one"), write_retrain(tmp_path / "two", loss="ce")
    data = json.loads((two / "data.json").read_text())
    order = [2, 0, 1]
    for key in ("class_names", "class_counts"):
        data[key] = [data[key][place] for place in order]
    (two / "data.json").write_text(json.dumps(data))
    evaluation = json.loads((two / "evaluation.json").read_text())
    evaluation["last_epoch"]["per_class"] = [0.25, 0.75, 0.5]
    (two / "evaluation.json").write_text(json.dumps(evaluation))
    page_of(one, two)
    ((means, names, counts),) = shown
    assert means == {"one": [90.0, 50.0, 12.5], "two": [75.0, 50.0, 25.0]}
    assert (list(names), list(counts)) == (NAMES, COUNTS)
    data["class_names"][0] = "fox"
    (two / "data.json").write_text(json.dumps(data))
    page_of(one, two)
    assert len(shown) == 1


def test_a_run_of_one_epoch_has_a_time(tmp_path):
    path = write_search(tmp_path / "run", epochs=1, done=1)
    assert "time 1 min" not in page_of(path).text
    file = path / "config.yaml"
    config = parse_yaml(file.read_text(), str(file))
    began = datetime.datetime.fromtimestamp(1e9 - 12, datetime.UTC).isoformat()
    config["environment"]["started"] = began
    file.write_text(dump_yaml(config))
    assert "time 1 min 12 s" in page_of(path).text


def test_what_was_measured_once_has_no_curve(tmp_path):
    run = write_retrain(tmp_path / "run")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert "curves" in page_of(run).ids
    (run / "metrics.jsonl").write_text(json.dumps(lines[0]) + "\n")
    assert "curves" not in page_of(run).ids


def test_epochs_that_steps_stand_in_place_of_are_not_compared(tmp_path):
    runs = [
        write_retrain(tmp_path / "long"),
        write_retrain(tmp_path / "one", steps=2, seed=1),
        write_retrain(tmp_path / "two", steps=2, seed=2),
    ]
    for run, epochs in zip(runs, (300, 600, 5), strict=True):
        text = (run / "config.yaml").read_text()
        assert "epochs: 4\n" in text
        (run / "config.yaml").write_text(text.replace("\nepochs: 4\n", f"\nepochs: {epochs}\n"))
    page = page_of(*runs)
    assert "epochs 300 - - " in page.text
    assert "steps - 2 2 " in page.text
    groups = grouped_by_seed([RunFiles(run) for run in runs])
    assert [len(group) for group in groups] == [1, 2]
    assert "epochs 600" not in page_of(runs[1]).text


def test_searches_are_compared_too(tmp_path):
    runs = [write_search(tmp_path / "one"), write_search(tmp_path / "two", w01=5.0, done=2)]
    page = page_of(*runs)
    assert "w01 10 5" in page.text
    assert "epoch 2 of 3" in page.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.jsonl", b'{"step": 1}\n{oops\n{"step": 3}\n', "metrics.jsonl, line 2: damaged"),
        ("metrics.jsonl", b'[1]\n{"step": 3}\n', "metrics.jsonl, line 1: damaged"),
        ("metrics.jsonl", b"\xff\xfe\n", "is damaged: byte 0"),
        ("data.json", b"{", "data.json is damaged"),
        ("evaluation.json", b"[]", "evaluation.json is damaged: it holds no JSON object"),
        ("alphas.npz", b"PK\x03\x04 no archive", "alphas.npz is damaged"),
        ("genotype.json", b"{}", "genotype.json"),
        ("config.yaml", b"command: [", "not valid YAML"),
        ("config.yaml", b"command: bake\n", "it has to be search or retrain"),
    ],
)
def test_a_damaged_file_is_one_line_that_names_it(tmp_path, name, content, message):
    write = write_retrain if name == "evaluation.json" else write_search
    path = write(tmp_path / "run")
    (path / name).write_bytes(content)
    with pytest.raises(RequestError) as caught:
        report_html([path])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_alphas_of_the_wrong_shape_are_refused_and_pickles_never_loaded(tmp_path):
    path = write_search(tmp_path / "run")
    for arrays in (
        {"operations": OPERATIONS, "normal": np.zeros((3, 13, 2))},
        {"operations": OPERATIONS, "normal": np.zeros((3, 14, 3))},
        {"operations": np.array([{"a": 1}], dtype=object)},
    ):
        np.savez(path / "alphas.npz", **arrays)
        with pytest.raises(RequestError, match=r"alphas\.npz is damaged"):
            report_html([path])


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(RequestError, match="holds no run"):
        report_html([tmp_path])
    with pytest.raises(RequestError, match="is no folder"):
        report_html([tmp_path / "absent"])
    with pytest.raises(RequestError, match="at least one"):
        report_html([])
