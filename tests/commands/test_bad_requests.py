"""Every command, asked wrongly: one line, exit code 2, nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_words import MAINS, SMALL
from image_files import write_npz

from ssfnas import search

TINY = [*SMALL, "--derive", "darts"]


def refused(capsys, command: str, *words: str) -> str:
    """Run a command that has to be refused; the one line it said."""
    code = MAINS[command]([str(word) for word in words])
    said = capsys.readouterr().err.strip().splitlines()
    said = [line for line in said if ": warning: " not in line]
    assert code == 2, said
    assert len(said) == 1, said
    assert said[0].startswith(f"ssfnas.{command}: error: ")
    assert "Traceback" not in said[0]
    return said[0]


def search_on(capsys, data, tmp_path, *words: str) -> str:
    line = refused(capsys, "search", "--dataset", data, "--out", tmp_path / "out", *TINY, *words)
    assert not (tmp_path / "out").exists()
    return line


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--imbalance-ratio", "0.5"], "imbalance-ratio"),
        (["--imbalance-ratio", "nan"], "imbalance-ratio"),
        (["--strategy", "dart"], "darts"),
        (["--objective", "sssl"], "ssl"),
        (["--operations", "sep_conv_3x3,sep_conv_9x9"], "sep_conv_9x9"),
        (["--operations", "none"], "no operation besides 'none'"),
        (["--batch-size", "0"], "batch-size"),
        (["--batch-size", "1"], "Barlow Twins"),
        (["--epochs", "ten"], "epochs"),
        (["--no-such-flag", "1"], "no-such-flag"),
        (["--mu", "2"], "--objective"),
        (["--strategy", "random"], "--derive"),
        (["--projector", "[]"], "projector"),
        (["--plugins", "missing.py"], "missing.py"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--preset", "missing"], "missing"),
        (["--image-size", "3"], "image-size"),
        (["--projector", "0"], "projector"),
        (["--layers", "0"], "layers"),
        (["--resume", "--overwrite"], "resume"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_wrong_values_of_search(capsys, small_npz, tmp_path, words, expected):
    assert expected in search_on(capsys, small_npz, tmp_path, *words)


def test_a_gpu_that_is_not_there(capsys, small_npz, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "cuda" in search_on(capsys, small_npz, tmp_path, "--device", "cuda")


@pytest.mark.parametrize("command", ["search", "retrain"])
def test_a_graph_without_a_gpu_is_refused_before_data_are_loaded(capsys, tmp_path, command):
    words = [] if command == "search" else ["--genotype", "DARTS_V2"]
    data = ["--dataset", tmp_path / "absent.npz", "--device", "cpu", "--cuda-graph", "on"]
    line = refused(capsys, command, *data, *words)
    assert "--cuda-graph on: there is no CUDA device; use auto or off" in line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("raise SystemExit(5)", "SystemExit: 5"),
        ("1 / 0", "ZeroDivisionError"),
        ("def broken(:", "SyntaxError"),
    ],
    ids=["exit", "error", "syntax"],
)
def test_plugins_that_cannot_be_imported(capsys, small_npz, tmp_path, text, expected):
    plugin = tmp_path / "my_ops.py"
    plugin.write_text(text)
    line = search_on(capsys, small_npz, tmp_path, "--plugins", plugin)
    assert "my_ops.py" in line
    assert expected in line


def test_data_that_cannot_be_read(capsys, tmp_path):
    assert "absent.npz" in search_on(capsys, tmp_path / "absent.npz", tmp_path)
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK\x03\x04 not a zip file")
    assert "broken.npz" in search_on(capsys, broken, tmp_path)
    (tmp_path / "plain.txt").write_text("text")
    assert "plain.txt" in search_on(capsys, tmp_path / "plain.txt", tmp_path)
    assert "cifar1O" in search_on(capsys, "cifar1O", tmp_path)


def test_a_class_without_images_and_labels_out_of_range(capsys, tmp_path):
    gap = write_npz(tmp_path / "gap.npz", (8, 0, 8))
    line = search_on(capsys, gap, tmp_path)
    assert "class 1" in line or "'1'" in line
    far = write_npz(tmp_path / "far.npz", (8, 8), test_labels=np.full(8, 7, np.int64))
    assert "7" in search_on(capsys, far, tmp_path)
    negative = write_npz(tmp_path / "neg.npz", (8, 8), train_labels=np.full(16, -1, np.int64))
    assert "-1" in search_on(capsys, negative, tmp_path)


@pytest.mark.parametrize("words", [[], ["--strategy", "random"]], ids=["alphas", "random"])
def test_classes_of_one_image_leave_none_for_the_alphas(capsys, tmp_path, words):
    data = write_npz(tmp_path / "single.npz", (1, 1, 1))
    common = ["--dataset", data, "--out", tmp_path / "out", *SMALL, *words]
    line = refused(capsys, "search", *common, *(["--samples", "1"] if words else []))
    assert "single" in line
    assert "alphas" in line
    assert not (tmp_path / "out").exists()


def test_a_ratio_that_the_data_cannot_give(capsys, tmp_path):
    data = write_npz(tmp_path / "d.npz", (20, 2, 20))
    line = search_on(capsys, data, tmp_path, "--imbalance-ratio", "4")
    assert "2" in line
    assert "10" in line


def test_images_of_several_sizes(capsys, tmp_path):
    from PIL import Image

    for part in ("train", "test"):
        for number, size in enumerate((10, 12)):
            folder = tmp_path / "images" / part / f"class{number}"
            folder.mkdir(parents=True)
            for i in range(4):
                Image.new("RGB", (size, size)).save(folder / f"{i}.png")
    assert "--image-size" in search_on(capsys, tmp_path / "images", tmp_path)


def test_an_output_folder_in_use_read_only_or_not_a_runs(capsys, small_npz, tmp_path, monkeypatch):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.tex").write_text("mine")
    line = refused(capsys, "search", "--dataset", small_npz, "--out", taken, *TINY)
    assert "thesis" not in line
    assert "not a run" in line
    refused(capsys, "search", "--dataset", small_npz, "--out", taken, "--overwrite", *TINY)
    assert [path.name for path in taken.iterdir()] == ["thesis.tex"]
    file = tmp_path / "file"
    file.write_text("x")
    refused(capsys, "search", "--dataset", small_npz, "--out", file, *TINY)
    held = tmp_path / "held"
    assert search.main(["--dataset", str(small_npz), "--out", str(held), *TINY]) == 0
    capsys.readouterr()
    line = refused(capsys, "search", "--dataset", small_npz, "--out", held, *TINY)
    assert "--resume" in line
    assert "--overwrite" in line
    line = refused(
        capsys, "search", "--dataset", small_npz, "--out", held, "--resume", "--channels", "3"
    )
    assert "--channels" in line


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder but the lock, which names its last holder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".ssfnas-lock"
    }


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--operations", "none"], "no operation besides 'none'"),
        (["--strategy", "random", "--operations", "none"], "no operation besides 'none'"),
        (["--derive", "dart"], "did you mean 'darts'"),
    ],
    ids=["operations", "operations of a random search", "derivation"],
)
def test_a_refused_search_leaves_the_run_that_it_would_overwrite(
    capsys, small_npz, tmp_path, words, expected
):
    held, plugin = tmp_path / "held", tmp_path / "my_rules.py"
    plugin.write_text("")
    # Without a rule of derivation, which a random search would refuse.
    common = ["--dataset", small_npz, "--plugins", plugin, *SMALL]
    assert search.main([str(w) for w in [*common, "--derive", "darts", "--out", held]]) == 0
    before = contents(held)
    capsys.readouterr()
    assert expected in refused(capsys, "search", *common, "--out", held, "--overwrite", *words)
    assert contents(held) == before
    assert expected in refused(capsys, "search", *common, "--out", tmp_path / "new", *words)
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(
    os.geteuid() != 0 and not Path("/dev/full").exists(), reason="needs a full disk"
)
def test_a_full_disk(small_npz, tmp_path):
    """With files limited to 200 kB a checkpoint cannot be written: one line, no partial file."""
    out = tmp_path / "out"
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)); "
        "from ssfnas.search import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["--dataset", str(small_npz), "--out", str(out), *TINY]
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert list((out / "checkpoints").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "--genotype"),
        (["--genotype", "FairDARTS_z"], "FairDARTS_z"),
        (["--genotype", "missing.json"], "missing.json: there is no such file or directory"),
        (["--genotype", "runs/absent"], "runs/absent: there is no such file or directory"),
        (["--genotype", "DARTS_v2"], "did you mean DARTS_V2?"),
        (["--genotype", "DARTS_V2", "--seed", "9" * 23], "and at most 9223372036854775807"),
        (["--preset", "Longtai"], "did you mean longtail?"),
        (["--model", "timm:resnet1234"], "resnet"),
        (["--model", "vgg"], "timm:"),
        (["--genotype", "DARTS_V2", "--loss", "mse"], "logit-adjusted"),
        (["--genotype", "DARTS_V2", "--gamma", "1"], "--loss"),
        (["--genotype", "DARTS_V2", "--batch-size", "1"], "batch"),
        (["--genotype", "DARTS_V2", "--model", "timm:resnet18"], "--model"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else "",
)
def test_wrong_values_of_retrain(capsys, small_npz, tmp_path, words, expected):
    out = tmp_path / "out"
    common = ["--dataset", small_npz, "--out", out, "--device", "cpu", "--steps", "1"]
    assert expected in refused(capsys, "retrain", *common, *words)
    assert not out.exists()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "Genotype(normal=__import__('os').system('true'))",
        json.dumps({"format": 1, "space": "mobilenet", "normal": [], "reduce": []}),
        json.dumps(
            {
                "format": 1, "space": "darts", "normal": [["warp", 0, 2]], "normal_concat": [2],
                "reduce": [["skip_connect", 0, 2]], "reduce_concat": [2],
            }
        ),
    ],
    ids=["empty", "list", "code", "another space", "unknown operation"],
)  # fmt: skip
def test_genotypes_that_cannot_be_trained(capsys, small_npz, tmp_path, content):
    file = tmp_path / "genotype.json"
    file.write_text(content)
    out = tmp_path / "out"
    line = refused(
        capsys, "retrain", "--dataset", small_npz, "--out", out, "--genotype", file, "--steps", "1"
    )
    assert "genotype.json" in line
    assert not out.exists()


def test_a_genotype_text_with_an_unknown_operation_names_the_file(capsys, small_npz, tmp_path):
    file = tmp_path / "g.txt"
    cell = "[('warp', 0), ('skip_connect', 1)]"
    file.write_text(f"Genotype(normal={cell}, normal_concat=[2], reduce={cell}, reduce_concat=[2])")
    line = refused(capsys, "retrain", "--dataset", small_npz, "--genotype", file, "--dry-run")
    assert str(file) in line
    assert "'warp'" in line


def test_derive_evaluate_and_report_of_what_is_no_run(capsys, tmp_path):
    for command in ("derive", "evaluate", "report"):
        assert "--run" in refused(capsys, command)
        assert str(tmp_path) in refused(capsys, command, "--run", tmp_path)


def test_derive_and_evaluate_refuse_the_other_kind_of_run(capsys, small_npz, tmp_path):
    out = tmp_path / "run"
    assert search.main(["--dataset", str(small_npz), "--out", str(out), *TINY]) == 0
    capsys.readouterr()
    assert "search" in refused(capsys, "evaluate", "--run", out)
    assert "--epoch 9" in refused(capsys, "derive", "--run", out, "--epoch", "9")
    line = refused(capsys, "derive", "--run", out, "--derive", "threshold", "--threshold", "0.999")
    assert "0.999" in line
    before = (out / "genotype.json").read_bytes()
    limited = ["--run", out, "--derive", "darts", "--max-params", "1"]
    line = refused(capsys, "derive", *limited)
    assert "--max-params cannot be kept" in line
    assert "raise --max-params, or give fewer" in line
    assert "--max-flops" not in line
    assert "raise --max-params or --max-flops" in refused(
        capsys, "derive", *limited, "--max-flops", "1"
    )
    assert (out / "genotype.json").read_bytes() == before


def test_no_network_for_a_download(tmp_path):
    words = ["--dataset", "cifar10", "--data-dir", str(tmp_path / "data"), *TINY]
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise OSError('no network')\n"
        "socket.getaddrinfo = refuse\n"
        "from ssfnas.search import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words, "--out", str(tmp_path / "out")],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
