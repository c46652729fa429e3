"""Every kind of page, opened in a real browser at the widths of a phone and of a desktop."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from browser import Browser, find_chromium
from PIL import Image

from ssfnas.config import RetrainConfig, SearchConfig
from ssfnas.data.new_images import ImageName
from ssfnas.evaluation.confusions import confusions
from ssfnas.evaluation.predictor import PredictedBatch
from ssfnas.pictures import report_html
from ssfnas.pictures.prediction_page import PredictionPage
from ssfnas.spaces import Genotype
from ssfnas.yaml_files import dump_yaml

pytestmark = [
    pytest.mark.skipif(find_chromium() is None, reason="no Chromium: apt-get install chromium"),
    pytest.mark.xdist_group("browser"),
]

OPERATIONS = (
    "none", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
    "avg_pool_3x3", "max_pool_3x3", "an_operation_with_a_name_of_some_length",
)  # fmt: skip
# What is wider than its place is found, and what scrolls it, if anything does.
WIDER = """
[...document.querySelectorAll("body *")].filter(element => {
  if (element.closest("svg") && element.tagName !== "svg") return false;
  const box = element.getBoundingClientRect();
  if (!box.width || !box.height || box.right <= innerWidth + 0.5 && box.left >= -0.5) return false;
  for (let up = element.parentElement; up; up = up.parentElement) {
    const style = getComputedStyle(up);
    if (["auto", "scroll"].includes(style.overflowX)) {
      const around = up.getBoundingClientRect();
      return around.right > innerWidth + 0.5 || up.scrollWidth <= up.clientWidth;
    }
  }
  return true;
}).map(element => element.outerHTML.slice(0, 120))
"""
# Text that is cut off without a way to scroll; a name that ends in an ellipsis has its whole text
# as a title.
CUT = """
[...document.querySelectorAll("body *")].filter(element => {
  const style = getComputedStyle(element);
  const hides = overflow => ["hidden", "clip"].includes(overflow);
  return element.clientWidth > 0 && !element.title &&
    (element.scrollWidth > element.clientWidth + 1 && hides(style.overflowX) ||
      element.scrollHeight > element.clientHeight + 1 && hides(style.overflowY));
}).map(element => element.outerHTML.slice(0, 120))
"""
SMALLEST_TEXT = """
Math.min(...[...document.querySelectorAll("svg text")].map(text =>
  text.getBoundingClientRect().height).filter(height => height > 0))
"""
BROKEN = "[...document.images].filter(image => !image.complete || !image.naturalWidth).length"


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


def genotype():
    edges = [
        ("sep_conv_3x3", 0, 2), (OPERATIONS[-1], 1, 2), ("skip_connect", 0, 3),
        ("dil_conv_5x5", 2, 3), ("sep_conv_5x5", 3, 4), ("max_pool_3x3", 4, 5),
        ("skip_connect", 1, 5),
    ]  # fmt: skip
    return Genotype(tuple(edges), (2, 3, 4, 5), tuple(edges), (2, 3, 4, 5))


def write_run(path, config, metrics, names, counts, **data):
    path.mkdir()
    values = {**dataclasses.asdict(config), "dataset": "/a/folder/with/a/long/path/" + "x" * 60}
    for name in ("resume", "overwrite", "dry_run"):
        del values[name]
    command = "search" if isinstance(config, SearchConfig) else "retrain"
    environment = {"torch": "2.11.0", "device": "cpu", "started_with": "python " + "y" * 120}
    text = dump_yaml({"command": command, **values, "environment": environment})
    (path / "config.yaml").write_text(text)
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
    (path / "log.txt").write_text("a line of the log " * 20)
    card = {"name": "animals", "class_names": names, "class_counts": counts, "image_size": [32, 32]}
    (path / "data.json").write_text(json.dumps({**card, **data}))
    return path


def images(n, *shape):
    return np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)


def write_search(path):
    metrics = [
        {"step": e, "epoch": e, "wall_time": 1e9 + 60 * e, "alpha/loss": 1 / e,
         "weight/loss": 2 / e, "entropy/normal": 0.6, "entropy/reduce": 0.5, "skips/normal": 1,
         "knn/top1": 0.4, "knn_corrected/balanced": 0.3}
        for e in (1, 2, 3)
    ]  # fmt: skip
    write_run(path, SearchConfig(epochs=3), metrics, ["cat", "dog"], [50, 5])
    weights = np.random.default_rng(0).uniform(size=(4, 14, len(OPERATIONS))).astype(np.float32)
    tables = {name: weights for name in ("normal", "reduce", "weights_normal", "weights_reduce")}
    np.savez(path / "alphas.npz", operations=np.array(OPERATIONS), **tables)
    genotype().save(path / "genotype.json")
    np.savez(
        path / "samples.npz", images=images(6, 32, 32, 3), labels=np.array([0, 0, 0, 1, 1, 1]),
        views=images(12, 32, 32, 3).reshape(6, 2, 32, 32, 3),
    )  # fmt: skip
    return path


def write_retrain(path, classes=10, *, several=False, derived=True, epochs=3, **changes):
    """A retraining on ``classes`` classes whose names are anything."""
    random = np.random.default_rng(classes)
    names = [f"class {n}" for n in range(classes)]
    names[0], names[1] = "a_very_long_name_without_a_single_space_" * 2, "鳥 <b>&amp;"
    counts = np.sort(random.integers(1, 2000, classes))[::-1].tolist()
    keys = ("auc", "accuracy") if several else ("top1", "balanced_accuracy", "many", "few", "auc")
    metrics = [
        {"step": 9 * e, "epoch": e, "wall_time": 1e9 + 60 * e, "train/loss": 1 / e, "lr": 0.1,
         **{f"test/{key}": 0.2 * e for key in keys}}
        for e in range(1, epochs + 1)
    ]  # fmt: skip
    config = RetrainConfig(epochs=epochs, **changes)
    write_run(path, config, metrics, names, counts, multi_label=several)
    values = random.uniform(0, 1, classes).tolist()
    labels = np.repeat(np.arange(classes), 6)
    predicted = np.where(random.random(len(labels)) < 0.4, labels, random.permutation(labels))
    groups = {"many": list(range(classes // 2)), "few": list(range(classes // 2, classes))}
    last = {key: 0.6 for key in keys} | {"per_class_auc": values}
    if not several:
        last |= {"per_class": [0.0, *values[1:]], "groups": groups}
    evaluation = {"data": {"test_images": len(labels)}, "last_epoch": last, "best": last,
                  "parameters": 3349342, "multiply_adds": 528400000}  # fmt: skip
    wrong = np.flatnonzero(predicted != labels)[:30]
    if several:
        truth = np.eye(classes)[labels[wrong]]
        arrays = {"labels": truth, "scores": 1 - truth * 0.9, "thresholds": np.full(classes, 0.5)}
    else:
        import torch

        evaluation["confusions"] = confusions(
            torch.tensor(predicted), torch.tensor(labels), classes, groups
        )
        falling = np.linspace(1, 0.5, len(wrong))
        arrays = {"labels": labels[wrong], "predicted": predicted[wrong], "scores": falling}
        arrays["label_scores"] = 1 - falling
    (path / "evaluation.json").write_text(json.dumps(evaluation))
    np.savez(
        path / "mistakes.npz", images=images(len(wrong), 120, 160, 3), positions=wrong, **arrays
    )
    np.savez(
        path / "samples.npz", images=images(4, 160, 90),
        views=images(12, 160, 90).reshape(4, 3, 160, 90),
        labels=np.eye(classes)[:4] if several else np.arange(4),
        shares=np.full((4, classes), 1 / classes),
    )  # fmt: skip
    if derived:
        genotype().save(path / "genotype.json")
    return path


def prediction_page(classes=14, *, several=False):
    """Of images with long names, some of which could not be read."""
    import torch

    names = ["a_very_long_name_without_a_single_space_" * 2, "鳥 <b>&amp;"]
    names += [f"class {n}" for n in range(2, classes)]
    count = 60
    scores = torch.rand(count, classes, generator=torch.Generator().manual_seed(0)).double()
    chosen = scores > 0.9 if several else scores == scores.amax(1, keepdim=True)
    files = [
        ImageName(f"/a/folder/{'x' * 80}/{n} 鳥.jpg", n if n % 2 else None) for n in range(count)
    ]
    problems = [f"{'y' * 200}.png: it ends too early" if n % 9 == 0 else "" for n in range(count)]
    page = PredictionPage(names, several, [0.9] * classes if several else ())
    pixels = torch.from_numpy(images(count, 40, 90, 3))
    page.add(PredictedBatch(files, problems, scores / scores.sum(1, True), chosen, pixels))
    return page.html(f"{count} images", "/runs/" + "z" * 90, "last", ["a note " * 30, "n" * 150])


RUNS = {
    "search": lambda path: [write_search(path / "a")],
    "training": lambda path: [write_retrain(path / "a")],
    "one epoch": lambda path: [write_retrain(path / "a", 2, epochs=1)],
    "40 classes": lambda path: [write_retrain(path / "a", 40)],
    "a thousand classes": lambda path: [write_retrain(path / "a", 1000)],
    "several labels": lambda path: [write_retrain(path / "a", 14, several=True)],
    "baseline": lambda path: [
        write_retrain(path / "a", model="timm:resnet18", genotype=None, derived=False)
    ],
    "comparison of trainings": lambda path: [
        write_retrain(path / ("run with a long name " + "z" * 40)),
        write_retrain(path / "b", loss="ce"),
        write_retrain(path / "c", loss="ce", seed=1),
        write_retrain(path / "d", loss="ldam"),
    ],
    "comparison of searches": lambda path: [write_search(path / "a"), write_search(path / "b")],
}
PAGES = {kind: lambda path, runs=runs: report_html(runs(path)) for kind, runs in RUNS.items()} | {
    "prediction": lambda path: prediction_page(),
    "prediction of several labels": lambda path: prediction_page(several=True),
}


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_fits_a_phone_and_a_desktop(browser, tmp_path, kind):
    page = tmp_path / "page.html"
    page.write_text(PAGES[kind](tmp_path))
    for width in (390, 1280):
        browser.open(page, width)
        # All that is folded away is looked at as well.
        browser.run("document.querySelectorAll('details').forEach(part => part.open = true)")
        assert browser.run("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
        assert browser.run(WIDER) == []
        assert browser.run(CUT) == []
        assert browser.run(BROKEN) == 0
        if browser.run("document.querySelectorAll('svg text').length"):
            assert browser.run(SMALLEST_TEXT) >= 7  # pixels
        else:
            assert kind not in RUNS
        assert browser.problems == []


def test_what_does_not_fit_is_found(browser, tmp_path):
    """The checks above fail where they should."""
    page = tmp_path / "page.html"
    page.write_text(
        "<!DOCTYPE html><meta name=viewport content='width=device-width'><body>"
        "<div style='width:2000px;height:9px'></div>"
        "<div style='width:90px;overflow:hidden;white-space:nowrap'>a long line that is cut</div>"
        "<img src='absent.png'><script>console.error('said'); nothing()</script>"
    )
    browser.open(page, 390)
    assert browser.run("document.documentElement.scrollWidth > 390")
    assert len(browser.run(WIDER)) == 1
    assert len(browser.run(CUT)) == 1
    assert browser.run(BROKEN) == 1
    problems = " ".join(browser.problems)
    assert "said" in problems
    assert "nothing is not defined" in problems
    assert "absent.png" in problems or "ERR_FILE_NOT_FOUND" in problems


def test_pages_follow_the_scheme_of_the_system(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(report_html([write_search(tmp_path / "a")]))
    seen = {}
    for dark in (False, True):
        browser.open(page, 800, dark=dark)
        browser.screenshot(tmp_path / "page.png", most=400)
        seen[dark] = np.asarray(Image.open(tmp_path / "page.png").convert("L")).mean()
    assert seen[False] > 200
    assert seen[True] < 80
