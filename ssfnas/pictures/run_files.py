"""What a run directory holds, for reports: a missing file is noted, a damaged one an error."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssfnas.errors import RequestError
from ssfnas.spaces import Genotype
from ssfnas.yaml_files import read_yaml

_LOG_LINES = 60
_CELLS = ("normal", "reduce")


@dataclass(frozen=True)
class RunFiles:
    """One run, as far as it got.

    Attributes:
        path: its directory.
        name: how a report calls it.
        command: ``"search"`` or ``"retrain"``.
        config: its values.
        environment: versions, device, threads, commit.
        metrics: one dict a line of ``metrics.jsonl``.
        data: ``data.json``: class names and sizes, ...; empty where absent.
        genotype: what was found or trained; None where absent.
        derivation: how the genotype was read from the weights, of ``derivation.json``; the config
            where that is absent.
        operations: names of the candidate operations; empty where there are no alphas.
        alphas: cell type -> [epochs + 1, edges, operations].
        weights: the same after the relaxation.
        evaluation: ``evaluation.json``; empty where absent.
        log: the last lines of ``log.txt``.
        notes: what is missing or was left out, in sentences.
    """

    path: Path
    name: str
    command: str
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    metrics: list[dict[str, Any]]
    data: Mapping[str, Any]
    genotype: Genotype | None
    derivation: Mapping[str, Any]
    operations: tuple[str, ...]
    alphas: Mapping[str, NDArray[np.floating]]
    weights: Mapping[str, NDArray[np.floating]]
    evaluation: Mapping[str, Any]
    log: list[str]
    notes: list[str]

    def last(self, key: str) -> Any:
        """The latest value that was logged under ``key``; None where there is none."""
        for line in reversed(self.metrics):
            if key in line:
                return line[key]
        return None

    @property
    def values(self) -> dict[str, Any]:
        """The config's values, without the epochs where a number of steps stands in their place."""
        replaced = {"epochs"} if self.config.get("steps") else set()
        return {key: value for key, value in self.config.items() if key not in replaced}

    @property
    def started(self) -> float | None:
        """When the run began, in seconds since 1970; None where that is not known."""
        try:
            return datetime.datetime.fromisoformat(str(self.environment.get("started"))).timestamp()
        except (ValueError, OverflowError, OSError):
            return None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in label order, as far as known."""
        names = self.data.get("class_names") or self.evaluation.get("class_names") or ()
        return tuple(str(name) for name in names)

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Training images of each class, as far as known."""
        counts = self.data.get("class_counts") or self.evaluation.get("class_counts") or ()
        return tuple(int(count) for count in counts)

    @property
    def goal(self) -> tuple[str, int] | None:
        """``("epoch" | "step" | "sample", how many there are to be)``, where that is known."""
        config = self.config
        if config.get("strategy") == "random":
            return ("sample", config["samples"]) if config.get("samples") else None
        if config.get("steps"):
            extra = config.get("pretrain_epochs") or config.get("crt_epochs")
            return None if extra else ("step", config["steps"])
        if not isinstance(config.get("epochs"), int):
            return None
        around = (config.get("pretrain_epochs") or 0) + (config.get("crt_epochs") or 0)
        return "epoch", config["epochs"] + around

    @property
    def done(self) -> int | None:
        """How far the metrics go, in the unit of :attr:`goal`."""
        if self.goal is None:
            return None
        value = self.last("step" if self.goal[0] == "step" else "epoch")
        return int(value) if isinstance(value, (int, float)) and math.isfinite(value) else 0

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        if self.command == "retrain":
            return bool(self.evaluation) or (self.path / "model.safetensors").is_file()
        # The alphas are written at the end, also where no operation passes the threshold.
        return self.genotype is not None or bool(self.alphas)


def read_run(path: str | Path) -> RunFiles:
    """Read a run directory; files that it lacks are noted.

    Raises:
        RequestError: it is no run's, or one of its files is damaged.
    """
    path = Path(path)
    config_file = path / "config.yaml"
    if not config_file.is_file():
        what = "holds no run" if path.is_dir() else "is no folder"
        raise RequestError(f"--run {path} {what} (config.yaml is missing): give a run directory")
    config = read_yaml(config_file)
    command = config.pop("command", None)
    environment = config.pop("environment", None)
    if command not in ("search", "retrain"):
        raise RequestError(f"{config_file}: command is {command!r}: it has to be search or retrain")
    if not isinstance(environment, dict):
        environment = {}
    notes: list[str] = []
    operations, alphas, weights = _read_alphas(path / "alphas.npz")
    metrics = _read_metrics(path / "metrics.jsonl", notes)
    if not metrics:
        notes.append("Nothing has been logged yet: the run ended in its first epoch, or has begun.")
    return RunFiles(
        path=path,
        name=path.resolve().name,
        command=command,
        config=config,
        environment=environment,
        metrics=metrics,
        data=_read_object(path / "data.json"),
        genotype=Genotype.load(path) if (path / "genotype.json").is_file() else None,
        derivation=_read_object(path / "derivation.json") or config,
        operations=operations,
        alphas=alphas,
        weights=weights,
        evaluation=_read_object(path / "evaluation.json"),
        log=_read_log(path / "log.txt"),
        notes=notes,
    )


def _read_text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is damaged: byte {error.start} is not UTF-8") from None


def _read_object(path: Path) -> dict[str, Any]:
    text = _read_text(path)
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is damaged: {error}") from None
    if not isinstance(value, dict):
        raise RequestError(f"{path} is damaged: it holds no JSON object")
    return value


def _read_metrics(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    text = _read_text(path)
    if text is None:
        return []
    lines = text.split("\n")
    # A killed process can leave half a line at the end, and nowhere else.
    rest = lines.pop()
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise RequestError(f"{path}, line {number}: damaged: it holds no JSON object")
        records.append(record)
    if rest.strip():
        try:
            record = json.loads(rest)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict):
            records.append(record)
        else:
            notes.append("The last line of metrics.jsonl is incomplete and was left out.")
    return records


def _read_log(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from None
    return text.splitlines()[-_LOG_LINES:]


def _read_alphas(
    path: Path,
) -> tuple[tuple[str, ...], dict[str, NDArray[np.floating]], dict[str, NDArray[np.floating]]]:
    if not path.is_file():
        return (), {}, {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # a zip file can be broken in many ways
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise RequestError(f"{path} is damaged: {first}") from None
    operations = tuple(str(name) for name in np.atleast_1d(arrays.get("operations", [])))
    alphas = {cell: arrays[cell] for cell in _CELLS if cell in arrays}
    weights = {cell: arrays[f"weights_{cell}"] for cell in _CELLS if f"weights_{cell}" in arrays}
    for cell, values in [*alphas.items(), *weights.items()]:
        if values.ndim != 3 or values.dtype.kind != "f" or values.shape[2] != len(operations):
            raise RequestError(
                f"{path} is damaged: {cell} has shape {values.shape} for {len(operations)} "
                "operations: expected numbers [epochs + 1, edges, operations]"
            )
        if not _whole_nodes(values.shape[1]) or not values.shape[0]:
            raise RequestError(f"{path} is damaged: {values.shape[1]} edges fill no whole nodes")
    return operations, alphas, weights


def _whole_nodes(edges: int) -> bool:
    count, to = 0, 2
    while count < edges:
        count, to = count + to, to + 1
    return count == edges and edges > 0
