"""What a run directory holds; nothing in it is unpickled or executed."""

from __future__ import annotations

import datetime
import json
import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ssfnas.config import RetrainConfig, SearchConfig, make_config, read_values
from ssfnas.declarations.strategies import STRATEGIES
from ssfnas.errors import RequestError
from ssfnas.options import option_values
from ssfnas.yaml_files import read_yaml

# Torch is imported where it is used: the refusal of a command line does not wait for it.
if TYPE_CHECKING:
    from ssfnas.spaces import Genotype

CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.jsonl"
MESSAGES_FILE = "log.txt"
EVALUATION_FILE = "evaluation.json"
SAMPLES_FILE = "samples.npz"
MISTAKES_FILE = "mistakes.npz"


def evaluation_file(which: str) -> str:
    """Where the evaluation of ``"last"``, ``"best"`` or ``"ema"`` weights on a run's data is."""
    return EVALUATION_FILE if which == "last" else f"evaluation-{which}.json"


_CONFIGS = {"search": SearchConfig, "retrain": RetrainConfig}


class RunFiles:
    """One run, as far as it got.

    What a run may lack is None or empty where it is absent, and is read once, when it is first
    asked for. Methods that read say that a file is missing.

    Args:
        path: the run directory.

    Raises:
        RequestError: it holds no run; from all that reads a file: that file is damaged.

    Attributes:
        path: the run directory.
        command: ``"search"`` or ``"retrain"``.
        values: of the config, as they are written.
        environment: versions, device, threads, commit; empty where it is not written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        file = self.path / CONFIG_FILE
        if not file.is_file():
            what = "holds no run" if self.path.is_dir() else "is no folder"
            raise RequestError(f"{path} {what} ({CONFIG_FILE} is missing): give a run directory")
        self.values = read_yaml(file)
        self.command: str = self.values.pop("command", None)
        environment = self.values.pop("environment", None)
        self.environment: dict[str, Any] = environment if isinstance(environment, dict) else {}
        if self.command not in tuple(_CONFIGS):
            problem = f"its command is {self.command!r}: it has to be search or retrain"
            raise RequestError(f"{file} was not written by a run ({problem}): give a run directory")
        self._written_by_a_run = isinstance(environment, dict)

    def read_config(self) -> Any:
        """The config that the run was started with.

        Raises:
            RequestError: it holds an unknown key or a wrong value, or was not written by a run.
        """
        source = str(self.path / CONFIG_FILE)
        if not self._written_by_a_run:
            raise RequestError(
                f"{source} was not written by a run (it names no environment): give a run directory"
            )
        plugins = bool(self.values.get("plugins"))
        config_class: type[Any] = _CONFIGS[self.command]
        options = option_values(config_class, extended=plugins)
        checked = read_values(options, self.values, source, lenient=plugins)
        return make_config(config_class, checked, options)

    def read_text(self, name: str, errors: str = "strict") -> str:
        """The UTF-8 text of a file; ``errors`` as for :meth:`bytes.decode`."""
        path = self.path / name
        try:
            return path.read_text(encoding="utf-8", errors=errors)
        except FileNotFoundError:
            raise RequestError(f"{path} is missing: the run has not written it") from None
        except OSError as error:
            raise RequestError(f"cannot read {path}: {error.strerror}") from None
        except UnicodeDecodeError as error:
            raise RequestError(f"{path} is damaged: byte {error.start} is not UTF-8") from None

    def read_json(self, name: str) -> dict[str, Any]:
        """The object that a JSON file holds."""
        text = self.read_text(name)
        try:
            return json_object(text)
        except ValueError as error:
            raise RequestError(f"{self.path / name} is damaged: {error}") from None

    def read_metrics(self) -> tuple[list[dict[str, Any]], bool]:
        """One dict a line of ``metrics.jsonl``, and whether the last line is whole."""
        if not (self.path / METRICS_FILE).exists():
            return [], True
        *lines, rest = self.read_text(METRICS_FILE).split("\n")
        entries = []
        for number, line in enumerate([*lines, rest], 1):
            try:
                entries += [json_object(line)] if line.strip() else []
            except ValueError as error:
                # A killed process can leave half a line at the end, and nowhere else.
                if number > len(lines):
                    return entries, False
                place = f"{self.path / METRICS_FILE}, line {number}"
                raise RequestError(f"{place}: damaged: {error}") from None
        return entries, True

    def read_npz(self, name: str) -> dict[str, NDArray[Any]]:
        """The arrays of an .npz file."""
        path = self.path / name
        try:
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
        except FileNotFoundError:
            raise RequestError(f"{path} is missing: the run has not written it") from None
        except Exception as error:  # a zip file can be broken in many ways
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise RequestError(f"{path} is damaged: {first}") from None

    def read_alphas(self) -> dict[str, NDArray[Any]]:
        """The arrays of ``alphas.npz``.

        ``normal`` and ``reduce`` [epochs + 1, edges, operations] after each epoch, row 0 before the
        first; ``weights_normal`` and ``weights_reduce``, what derivation reads, and
        ``open_normal`` and ``open_reduce``, which operations were left, of the same shape; where
        edges have factors, ``edges_normal`` and ``edges_reduce`` [epochs + 1, edges]; further
        parameters of the strategy; the names of the ``operations``; ``use_epoch``, which the
        genotype was derived after.
        """
        from ssfnas.layers.cells import CELL_TYPES, nodes_of

        path = self.path / "alphas.npz"
        arrays = self.read_npz("alphas.npz")
        count = np.size(arrays.get("operations", []))
        for name in (name for name in arrays if name.removeprefix("weights_") in CELL_TYPES):
            shape, kind = arrays[name].shape, arrays[name].dtype.kind
            if len(shape) != 3 or kind != "f" or shape[2] != count or not shape[0]:
                raise RequestError(
                    f"{path} is damaged: {name} has shape {shape} for {count} operations: "
                    "expected numbers [epochs + 1, edges, operations]"
                )
            try:
                nodes_of(shape[1])
            except RequestError as error:
                raise RequestError(f"{path} is damaged: {error}") from None
        return arrays

    @cached_property
    def _metrics(self) -> tuple[list[dict[str, Any]], bool]:
        return self.read_metrics()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """One dict an epoch, as logged; without half a line at the end."""
        return self._metrics[0]

    @property
    def metrics_are_whole(self) -> bool:
        """Whether the last line of ``metrics.jsonl`` is."""
        return self._metrics[1]

    @cached_property
    def genotype(self) -> Genotype | None:
        """What was found, or trained."""
        from ssfnas.spaces import Genotype

        return Genotype.load(self.path) if (self.path / "genotype.json").is_file() else None

    @cached_property
    def alphas(self) -> dict[str, NDArray[Any]]:
        """See :meth:`read_alphas`."""
        return self.read_alphas() if (self.path / "alphas.npz").is_file() else {}

    @cached_property
    def samples(self) -> dict[str, NDArray[Any]]:
        """A few training images and their views; see :mod:`ssfnas.pipeline.samples`."""
        return self._images(SAMPLES_FILE, ("images", "labels", "views"))

    @cached_property
    def mistakes(self) -> dict[str, NDArray[Any]]:
        """A few test images that the network gets wrong; see :mod:`ssfnas.pipeline.mistakes`."""
        return self._images(MISTAKES_FILE, ("images", "labels", "scores"))

    def _images(self, name: str, wanted: tuple[str, ...]) -> dict[str, NDArray[Any]]:
        """The arrays of a file of images, all of the same length; empty where it is absent."""
        if not (self.path / name).is_file():
            return {}
        arrays = self.read_npz(name)
        sizes = {len(arrays[key]) if key in arrays and arrays[key].ndim else -1 for key in wanted}
        if len(sizes) > 1 or -1 in sizes or arrays["images"].dtype != np.uint8:
            raise RequestError(
                f"{self.path / name} is damaged: it does not hold {', '.join(wanted)} of the same "
                "images"
            )
        return arrays

    @cached_property
    def evaluation(self) -> dict[str, Any]:
        """``evaluation.json``."""
        return self._object(EVALUATION_FILE)

    @cached_property
    def data(self) -> dict[str, Any]:
        """``data.json``: class names and sizes, ..."""
        return self._object("data.json")

    @cached_property
    def derivation(self) -> dict[str, Any]:
        """How the genotype was read from the weights; the config's values where that is absent."""
        return self._object("derivation.json") or self.values

    @cached_property
    def log(self) -> list[str]:
        """The lines of ``log.txt``."""
        there = (self.path / MESSAGES_FILE).exists()
        return self.read_text(MESSAGES_FILE, "replace").splitlines() if there else []

    def _object(self, name: str) -> dict[str, Any]:
        return self.read_json(name) if (self.path / name).exists() else {}

    @property
    def operations(self) -> tuple[str, ...]:
        """Names of the candidate operations; empty where there are no alphas."""
        return tuple(map(str, np.atleast_1d(self.alphas.get("operations", []))))

    @property
    def weights(self) -> dict[str, NDArray[np.floating]]:
        """Cell type -> weights of the operations, [epochs + 1, edges, operations]."""
        names = {cell: f"weights_{cell}" for cell in ("normal", "reduce")}
        alphas = self.alphas
        return {cell: alphas[name] for cell, name in names.items() if name in alphas}

    @property
    def name(self) -> str:
        """How a report calls the run."""
        return self.path.resolve().name

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
        return tuple(map(str, self._of_classes("class_names")))

    @property
    def class_counts(self) -> tuple[int, ...]:
        """Training images of each class, as far as known."""
        return tuple(map(int, self._of_classes("class_counts")))

    def _of_classes(self, key: str) -> Any:
        return self.data.get(key) or self.evaluation.get(key) or ()

    def last(self, key: str) -> Any:
        """The latest value that was logged under ``key``; None where there is none."""
        return next((line[key] for line in reversed(self.metrics) if key in line), None)

    @property
    def trains_alphas(self) -> bool:
        """Whether it is the run of a strategy that trains alphas, and does not draw genotypes."""
        strategy = str(self.values.get("strategy"))
        # One that no plugin registers this time may train them.
        return strategy not in STRATEGIES or STRATEGIES.get(strategy).trains_alphas

    @property
    def goal(self) -> tuple[str, int] | None:
        """``("epoch" | "step" | "sample", how many there are to be)``, where that is known."""
        values = self.values
        if not self.trains_alphas:
            return ("sample", values["samples"]) if values.get("samples") else None
        if values.get("steps"):
            extra = values.get("pretrain_epochs") or values.get("crt_epochs")
            return None if extra else ("step", values["steps"])
        if not isinstance(values.get("epochs"), int):
            return None
        classifiers = max(1, len(values.get("crt_lr") or []))
        around = (values.get("pretrain_epochs") or 0) + classifiers * (
            values.get("crt_epochs") or 0
        )
        return "epoch", values["epochs"] + around

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


def json_object(text: str | bytes) -> dict[str, Any]:
    """The object that JSON holds; a ValueError says what is wrong where it holds none."""
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise ValueError(str(error)) from None
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    return value
