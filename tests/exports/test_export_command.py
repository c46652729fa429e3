"""``python -m ssfnas.export``, as people type it, and what the page about it shows."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_networks import GENOTYPE
from image_files import striped_images, write_npz
from PIL import Image
from tiny_runs import tiny_retrain

import ssfnas
from ssfnas import export
from ssfnas.data.image_file import decode_image
from ssfnas.data.resizing import resize_square

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
PROGRAMS = {
    block.split("\n", 1)[0].removeprefix("# "): block
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> ssfnas.Run:
    """A network with an auxiliary head and an average of its weights."""
    folder = tmp_path_factory.mktemp("exported")
    data = write_npz(folder / "small.npz", (16, 12, 8, 4))
    changes = {"auxiliary": 0.4, "epochs": 1, "ema": 0.9}
    GENOTYPE.save(folder / "genotype.json")
    changes["genotype"] = str(folder / "genotype.json")
    return ssfnas.run_retrain(tiny_retrain(data, folder / "run", **changes))


@pytest.fixture(scope="module")
def several_labels(tmp_path_factory) -> ssfnas.Run:
    """A network for several labels an image, with thresholds that a validation part chose."""
    folder = tmp_path_factory.mktemp("several")
    draws = np.random.default_rng(0)
    parts = {}
    for part, count in (("train", 24), ("val", 12), ("test", 12)):
        labels = draws.integers(0, 2, (count, 3))
        labels[:3] = np.eye(3)
        parts |= {
            f"{part}_images": striped_images(labels[:, 0], 8, 1, seed=count),
            f"{part}_labels": labels.astype(np.uint8),
        }
    np.savez(folder / "labels.npz", class_names=["a", "b", "c"], **parts)
    return ssfnas.run_retrain(tiny_retrain(folder / "labels.npz", folder / "run", epochs=1))


def exported(capsys, run: ssfnas.Run, *words: str) -> dict[str, str]:
    """What the command says, name -> text."""
    assert export.main(["--run", str(run.path), *map(str, words)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return {line[:12].strip(): line[13:] for line in captured.out.splitlines()}


def refused(capsys, *words: object) -> str:
    assert export.main([str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_a_program_of_torch_loads_without_ssfnas(capsys, run, tmp_path):
    out = tmp_path / "model.pt2"
    said = exported(capsys, run, "--format", "torch-export", "--which", "ema", "--out", out)
    assert said["written"].startswith(f"{out} (torch.export, ")
    assert "gives" in said["checked"] or "differs by at most" in said["checked"]
    facts = json.loads((tmp_path / "model.pt2.json").read_text())
    assert facts["weights"] == "ema"
    assert facts["class_names"] == list(run.class_names)
    assert facts["parameters"] < sum(p.numel() for p in run.network().parameters())

    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v)[:, None, None] for v in (facts["mean"], facts["std"]))
    with torch.no_grad():
        expected = run.network("ema")((images - mean) / std)
    program = torch.export.load(out).module()
    torch.testing.assert_close(program(images), expected, rtol=0, atol=1e-5)
    done = _without_ssfnas(PROGRAMS["with_torch.py"], tmp_path)
    assert done.stdout == "logits (3, 4)\n"


def test_thresholds_of_labels_go_along(capsys, several_labels, tmp_path):
    words = ["--format", "torch-export", "--output", "probabilities", "--pixels", "uint8"]
    out = tmp_path / "labels.pt2"
    exported(capsys, several_labels, *words, "--out", out)
    facts = json.loads((tmp_path / "labels.pt2.json").read_text())
    chosen = several_labels.evaluation["choices"]["thresholds"]["chosen"]["probability"]
    assert facts["thresholds"] == chosen
    assert facts["multi_label"]
    assert facts["input"]["shape"] == ["batch", 8, 8, 1]
    levels = torch.randint(256, (4, 8, 8, 1), dtype=torch.uint8)
    found = torch.export.load(out).module()(levels)
    card = several_labels.data_card
    unit = levels.permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        logits = several_labels.network()((unit - card.mean[0]) / card.std[0])
    torch.testing.assert_close(found, logits.sigmoid(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["run", "several_labels"])
def test_an_exported_folder_predicts_what_the_run_does(capsys, request, kind, tmp_path):
    run = request.getfixturevalue(kind)
    capsys.readouterr()
    exported(capsys, run, "--format", "timm", "--out", tmp_path / "network")
    levels = torch.randint(256, (20, 11, 9, 3), dtype=torch.uint8)
    found, expected = ssfnas.load(tmp_path / "network").predict(levels), run.predict(levels)
    assert torch.equal(found.probabilities, expected.probabilities)
    assert torch.equal(found.decided, expected.decided)
    assert found.class_names == expected.class_names
    assert found.notes == expected.notes


def test_a_folder_for_timm_is_the_pages(capsys, run, tmp_path):
    out = tmp_path / "my-network"
    said = exported(capsys, run, "--format", "timm", "--out", out)
    assert said["checked"] == "gives the same bits as the network for 6 images"
    assert "import ssfnas.timm_models" in said["load"].replace(", ssf", "; import ssf")
    assert not any("auxiliary" in name for name in ssfnas.load(out).network().state_dict())
    for program in ("with_timm.py", "with_the_hub.py"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAMS[program]], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert str(list(run.class_names))[1:-1] in done.stdout
    assert (tmp_path / "copy" / "config.json").is_file()


def test_onnx_on_images_in_files_is_the_pages(capsys, run, tmp_path):
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    draws = np.random.default_rng(0)
    own_size = Image.fromarray(draws.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    own_size.save(tmp_path / "a.png")
    coarse = draws.integers(0, 256, (6, 9, 4), dtype=np.uint8)
    Image.fromarray(coarse).resize((45, 30), Image.Resampling.BICUBIC).save(tmp_path / "b.png")
    said = exported(capsys, run, "--out", tmp_path / "model.onnx")
    assert "opset 18" in said["written"]

    program = PROGRAMS["with_onnxruntime.py"]
    done = _without_ssfnas(program + "np.savez('out.npz', images=images, logits=logits)", tmp_path)
    result = np.load(tmp_path / "out.npz")
    ours = [
        resize_square(torch.from_numpy(decode_image(tmp_path / name, 3, "white"))[None], 8)[0]
        for name in ("a.png", "b.png")
    ]
    levels = torch.stack(ours).permute(0, 3, 1, 2).numpy()
    found = np.rint(result["images"] * 255)
    np.testing.assert_array_equal(found[0], levels[0])
    assert np.abs(found[1] - levels[1]).max() <= 1
    card = run.data_card
    mean, std = (torch.tensor(v)[:, None, None] for v in (card.mean, card.std))
    with torch.no_grad():
        expected = run.network()((torch.from_numpy(result["images"]) - mean) / std)
    np.testing.assert_allclose(result["logits"], expected.numpy(), rtol=0, atol=1e-5)
    names = [run.class_names[index] for index in expected.argmax(1)]
    assert done.stdout.split() == names


def _without_ssfnas(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A program of the page, in a process that cannot import ssfnas."""
    code = f"import sys; sys.modules['ssfnas'] = None\n{program}"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_what_is_there_is_replaced_only_when_asked(capsys, run, tmp_path):
    words = ["--run", run.path, "--format", "timm", "--out", tmp_path / "network"]
    assert export.main([str(word) for word in words]) == 0
    assert "is there already: give --overwrite" in refused(capsys, *words)
    assert export.main([str(word) for word in [*words, "--overwrite"]]) == 0
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("mine")
    assert "holds other files" in refused(capsys, *words[:-1], tmp_path / "other", "--overwrite")
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["letter.txt"]
    assert "is a folder: name a file" in refused(
        capsys, "--run", run.path, "--format", "torch-export", "--out", tmp_path
    )


def test_bad_requests(capsys, run, tmp_path):
    search = tmp_path / "search"
    search.mkdir()
    (search / "config.yaml").write_text("command: search\nenvironment: {}\n")
    said = refused(capsys, "--run", search, "--format", "timm")
    assert f"--genotype {search}" in said
    assert not (search / "export").exists()
    assert "keeps no best weights" in refused(
        capsys, "--run", run.path, "--format", "timm", "--which", "best"
    )
    assert not (run.path / "export").exists()
    assert "--opset has no effect with --format timm" in refused(
        capsys, "--run", run.path, "--format", "timm", "--opset", "20"
    )
    assert "onnx, torch-export" in refused(capsys, "--run", run.path, "--format", "tflite")


def test_an_export_in_the_run_goes_when_the_run_is_replaced(capsys, tmp_path):
    data = write_npz(tmp_path / "small.npz", (16, 12, 8, 4))
    run = ssfnas.run_retrain(tiny_retrain(data, tmp_path / "run", steps=1))
    capsys.readouterr()
    exported(capsys, run, "--format", "timm")
    written = {path.name for path in (run.path / "export").rglob("*") if path.is_file()}
    assert written == {"config.json", "model.safetensors"}
    others = ("model_best.onnx", "model_best.onnx.json", "model.pt2", "model.pt2.json")
    for name in (*others, "mine.onnx"):
        (run.path / "export" / name).touch()
    ssfnas.run_retrain(tiny_retrain(data, tmp_path / "run", steps=1, overwrite=True))
    left = [path.name for path in (run.path / "export").rglob("*") if path.is_file()]
    assert left == ["mine.onnx"]
