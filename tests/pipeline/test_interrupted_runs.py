"""A run that is killed at any moment and resumed ends with the bits of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ranks import environments

from ssfnas.runs.checkpoints import CheckpointStore

SEARCH = (
    "ssfnas.search --strategy fairdarts --objective joint --channels 2 --layers 3 --nodes 2 "
    "--projector 8,8 --derive darts --batch-size 8 --epochs 16"
)
RETRAIN = (
    "ssfnas.retrain --genotype FairDARTS_a --channels 4 --layers 3 --auxiliary 0.4 --augment "
    "crop_flip --cutout 2 --batch-size 8 --epochs 3 --mixup 0.5 --ema 0.9 --pretrain-epochs 1 "
    "--pretrain-batch-size 8 --projector 8,8 --crt-epochs 1 --drop-path 0.1 --evaluate-every 1 "
    "--validation-share 0.25 --crt-lr 0.1,0.01"
)
ALONE = {**os.environ, "OMP_NUM_THREADS": "1"}
WALL_TIMES = ("time", "wall", "seconds", "images_per_second")


def command(text: str, dataset: Path, out: Path, *more: str) -> list[str]:
    words = [*text.split(), "--dataset", str(dataset), "--out", str(out), "--device", "cpu"]
    return [sys.executable, "-m", *words, "--seed", "3", "--deterministic", *more]


def final_state(out: Path) -> dict:
    found = CheckpointStore(out / "checkpoints").latest()
    assert found is not None
    return found[1]


def differences(first: object, second: object, where: str = "state") -> list[str]:
    """Every place where two nested states differ in a bit."""
    if isinstance(first, torch.Tensor):
        assert isinstance(second, torch.Tensor)
        return [] if torch.equal(first, second) else [where]
    if isinstance(first, dict):
        assert isinstance(second, dict)
        assert first.keys() == second.keys(), where
        return [d for key in first for d in differences(first[key], second[key], f"{where}.{key}")]
    if isinstance(first, list | tuple):
        assert len(first) == len(second), where  # type: ignore[arg-type]
        pairs = enumerate(zip(first, second, strict=True))  # type: ignore[arg-type]
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{where}[{i}]")]
    return [] if first == second else [where]


def metrics(out: Path) -> list[dict]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [
        {k: v for k, v in entry.items() if not any(word in k for word in WALL_TIMES)}
        for entry in entries
    ]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(SEARCH, id="search"),
        pytest.param(RETRAIN, id="retrain", marks=pytest.mark.slow),
    ],
)
def test_killed_at_random_moments_and_resumed_gives_the_same_bits(small_npz, tmp_path, text):
    calm, hunted = tmp_path / "calm", tmp_path / "hunted"
    subprocess.run(command(text, small_npz, calm), env=ALONE, check=True, timeout=300)
    draws = random.Random(11)
    kills = 0
    more: list[str] = ["--checkpoint-minutes", "0.0001"]
    for _ in range(12):
        process = subprocess.Popen(
            command(text, small_npz, hunted, *more), env=ALONE, stderr=subprocess.PIPE
        )
        # Wait until it writes, so that the kills fall on the training and not on the imports.
        seen = len(list(hunted.glob("checkpoints/*.pt")))
        newest = max((p.stat().st_mtime_ns for p in hunted.glob("checkpoints/*.pt")), default=0)
        while process.poll() is None:
            now = max((p.stat().st_mtime_ns for p in hunted.glob("checkpoints/*.pt")), default=0)
            if now > newest or len(list(hunted.glob("checkpoints/*.pt"))) > seen:
                break
            time.sleep(0.005)
        time.sleep(draws.uniform(0, 0.4))
        if kills < 3 and process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        code = process.wait(timeout=300)
        if code == 0:
            break
        assert code == -signal.SIGKILL, process.stderr.read().decode()  # type: ignore[union-attr]
        more = ["--checkpoint-minutes", "0.0001"]
        if (hunted / "config.yaml").exists():
            more.append("--resume")
        else:
            more.append("--overwrite")
    assert code == 0
    assert kills > 0
    assert differences(final_state(calm), final_state(hunted)) == []
    assert metrics(calm) == metrics(hunted)
    written = ("genotype.json", "model.safetensors", "model_best.safetensors", "evaluation.json")
    for name in written:
        if (calm / name).exists():
            assert (calm / name).read_bytes() == (hunted / name).read_bytes(), name


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_state_and_prints_the_line_to_resume(small_npz, tmp_path, number, code):
    out = tmp_path / "run"
    text = SEARCH.replace("--epochs 16", "--epochs 400")
    process = subprocess.Popen(
        command(text, small_npz, out), env=ALONE, stderr=subprocess.PIPE, text=True
    )
    while not list(out.glob("checkpoints/*.pt")) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert f"--out {out} --resume" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    step, state = CheckpointStore(out / "checkpoints").latest()
    assert step == state["step"]
    assert f"after step {step:,} of" in errors


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_processes_that_follow_an_interrupted_one_end_with_its_code(
    small_npz, tmp_path, number, code
):
    out = tmp_path / "run"
    processes = [
        subprocess.Popen(
            command(SEARCH.replace("--epochs 16", "--epochs 400"), small_npz, out),
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in environments(2)
    ]
    while not list(out.glob("checkpoints/*.pt")) and processes[0].poll() is None:
        time.sleep(0.01)
    time.sleep(0.3)
    processes[1].send_signal(number)
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == code, errors


def test_a_damaged_last_checkpoint_is_reported_and_the_one_before_is_used(small_npz, tmp_path):
    calm, hurt = tmp_path / "calm", tmp_path / "hurt"
    subprocess.run(command(SEARCH, small_npz, hurt), env=ALONE, check=True, timeout=300)
    shutil.copytree(hurt, calm)
    (last, *_) = sorted((hurt / "checkpoints").glob("*.pt"), reverse=True)
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1
    last.write_bytes(data)
    again = subprocess.run(
        command(SEARCH, small_npz, hurt, "--resume"),
        env=ALONE,
        check=True,
        timeout=300,
        capture_output=True,
        text=True,
    )
    assert "damaged" in again.stderr
    assert last.name in again.stderr
    assert differences(final_state(calm), final_state(hurt)) == []
