"""A small search or retraining that says how long its steps take, once it is told to go.

Started as ``python -m benchmarks.manners_worker KIND CHANNELS LAYERS BATCH SECONDS``.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from pathlib import Path

import ssfnas
from ssfnas.config import RetrainConfig, SearchConfig
from ssfnas.data import load_data
from ssfnas.runtime.distributed import start_world
from ssfnas.runtime.memory import kept_memory
from ssfnas.runtime.threads import choice, computing_threads
from ssfnas.spaces import Genotype
from ssfnas.training.retrain_trainer import RetrainTrainer
from ssfnas.training.search_trainer import SearchTrainer
from ssfnas.training.trainer import Trainer

_FIRST = 3  # steps that are left out: they make what is made once


def trainer_of(kind: str, channels: int, layers: int, batch_size: int) -> Trainer:
    """What trains as the commands do, on the embedded sample.

    Args:
        kind: ``"search"`` or ``"retrain"``.
        channels, layers, batch_size: see the configs.
    """
    world = start_world("cpu")
    if kind == "search":
        search = SearchConfig(
            channels=channels, layers=layers, batch_size=batch_size, projector=[256, 256]
        )
        return SearchTrainer(search, load_data(search), world)
    retrain = RetrainConfig(
        channels=channels, layers=layers, batch_size=batch_size, genotype="FairDARTS_a"
    )
    genotype = Genotype.load("FairDARTS_a")
    return RetrainTrainer(retrain, load_data(retrain), genotype, world)


def _busy() -> float:
    """Seconds that all CPUs of the machine have worked; 0 where the system does not tell."""
    try:
        times = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    except OSError:
        return 0.0
    worked = sum(map(int, times)) - int(times[3]) - int(times[4])  # idle, waiting for a disk
    return worked / os.sysconf("SC_CLK_TCK")


def measure(trainer: Trainer, seconds: float) -> dict[str, float]:
    """Steps for so many seconds: how long one takes, and how many CPUs others kept busy."""
    taken: list[float] = []
    busy, own, start = _busy(), time.process_time(), time.perf_counter()
    while not taken or sum(taken) < seconds:
        before = time.perf_counter()
        trainer.run_step()
        taken.append(time.perf_counter() - before)
    passed = time.perf_counter() - start
    others = (_busy() - busy - (time.process_time() - own)) / passed
    return {"seconds": statistics.median(taken), "others": max(0.0, others)}


def main(kind: str, channels: str, layers: str, batch_size: str, seconds: str) -> None:
    """Make ready, say so with how it computes, wait for a line, measure, and say the result."""
    trainer = trainer_of(kind, int(channels), int(layers), int(batch_size))
    chosen = str(choice())
    with computing_threads(None), kept_memory("cpu"):
        for _ in range(_FIRST):
            trainer.run_step()
        print(json.dumps({"threads": chosen, "waiting": ssfnas.waiting}), flush=True)
        sys.stdin.readline()
        print(json.dumps(measure(trainer, float(seconds))), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
