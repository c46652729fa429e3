"""The folder that one run writes: made safely, locked, and every file in it written atomically."""

from __future__ import annotations

import contextlib
import fcntl
import io
import itertools
import json
import os
import re
import time
import warnings
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ssfnas.atomic_files import (
    PARTIAL_SUFFIX,
    sync_folder,
    write_atomically,
    write_problem,
)
from ssfnas.config import values_of
from ssfnas.errors import RequestError
from ssfnas.runs.run_files import (
    CONFIG_FILE,
    EVALUATION_FILE,
    MESSAGES_FILE,
    METRICS_FILE,
    MISTAKES_FILE,
    SAMPLES_FILE,
    RunFiles,
)
from ssfnas.yaml_files import dump_yaml

LOCK_FILE = ".ssfnas-lock"
CHECKPOINT_FOLDER = "checkpoints"
DERIVED_FOLDER = "derived"
PERTURBATION_FILE = "perturbation.json"
RUN_FILES = (
    METRICS_FILE,
    MESSAGES_FILE,
    "alphas.npz",
    "genotype.json",
    "derivation.json",
    "genotype_normal.*",
    "genotype_reduce.*",
    "report.html",
    "data.json",
    "model.safetensors",
    "model_best.safetensors",
    "model_ema.safetensors",
    EVALUATION_FILE,
    "evaluation-*.json",
    SAMPLES_FILE,
    MISTAKES_FILE,
    "events.out.tfevents.*",
    f"{CHECKPOINT_FOLDER}/step-*.pt",
    "export/model*.onnx",
    "export/model*.pt2",
    "export/model*.json",
    "export/model*/config.json",
    "export/model*/model.safetensors",
    *(
        f"{DERIVED_FOLDER}/*/{name}"
        for name in ("genotype*.*", "derivation.json", PERTURBATION_FILE)
    ),
    f".*{PARTIAL_SUFFIX}",
    f"{CHECKPOINT_FOLDER}/.*{PARTIAL_SUFFIX}",
    CONFIG_FILE,
)
"""Patterns of all that a run writes; ``--overwrite`` removes nothing else."""

_NUMBERS = re.compile(r"\[\n[-+\d.eE,\snul]*\]", re.ASCII)  # null is one of them

_INVOCATION_FIELDS = ("resume", "overwrite", "dry_run")


class RunDirectory:
    """A run's folder, to write; :class:`~.run_files.RunFiles` reads it.

    A run makes its own by :meth:`create`, which locks it; whoever adds files later needs no lock.

    Attributes:
        path: the folder.
        command: what writes it: ``"search"``, ``"retrain"``.
    """

    def __init__(self, path: Path, command: str, lock: int | None = None) -> None:
        self.path = path
        self.command = command
        self._lock = lock
        if lock is not None:
            _OPEN.add(self)

    @classmethod
    def create(
        cls,
        out: str | Path | None,
        *,
        command: str,
        resume: bool = False,
        overwrite: bool = False,
    ) -> RunDirectory:
        """Make the folder, or take over the one that is there, and lock it.

        Args:
            out: the folder, made with its parents; None: ``runs/<command>-<date>-<time>``.
            command: what is going to write it.
            resume: go on with the run that it holds.
            overwrite: remove the files of the run that it holds, and no others.

        Raises:
            RequestError: it holds a run and neither was asked for, or another command's run, or
                other files; it is in use by another process; it cannot be written.
        """
        if resume and overwrite:
            raise RequestError("--resume and --overwrite exclude each other: give one of them")
        if resume and out is None:
            raise RequestError("--resume needs --out: name the run directory to go on with")
        path = _dated_folder(command) if out is None else Path(out)
        if resume and not _holds_run(path):
            raise RequestError(f"--out {path} holds no run to go on with: leave out --resume")
        try:
            path.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise RequestError(f"--out {path} is a file: choose a folder") from None
        except OSError as error:
            raise write_problem(error, path) from error
        if not _holds_run(path) and any(path.iterdir()):
            raise RequestError(
                f"--out {path} holds files that are not a run's: choose a new or empty folder"
            )
        directory = cls(path, command, _lock(path, command))
        try:
            directory._take_over(resume, overwrite)
        except BaseException:
            directory.close()
            raise
        return directory

    def _take_over(self, resume: bool, overwrite: bool) -> None:
        if (self.path / CONFIG_FILE).exists():
            held = RunFiles(self.path).command
            if held != self.command:
                raise RequestError(
                    f"--out {self.path} holds a run of {held}, not of {self.command}: choose "
                    "another folder"
                )
            if not resume and not overwrite:
                raise RequestError(
                    f"--out {self.path} holds a run already: give --resume to go on with it, "
                    "--overwrite to replace it, or another folder"
                )
        elif not resume and not overwrite and self._written():
            raise RequestError(
                f"--out {self.path} holds the beginning of a run: give --overwrite to replace it, "
                "or another folder"
            )
        try:
            if overwrite:
                for file in self._written():
                    file.unlink()
            (self.path / CHECKPOINT_FOLDER).mkdir(exist_ok=True)
            sync_folder(self.path)
        except OSError as error:
            raise write_problem(error, self.path) from error

    def _written(self) -> list[Path]:
        linked = (self.path / CHECKPOINT_FOLDER).is_symlink()
        return [
            file
            for pattern in RUN_FILES
            if not (linked and "/" in pattern)
            for file in sorted(self.path.glob(pattern))
            if file.is_symlink() or file.is_file()
        ]

    def write_bytes(self, name: str, data: bytes) -> Path:
        """Write a file whole or not at all; see :func:`~.atomic_files.write_atomically`."""
        write_atomically(self.path / name, data)
        return self.path / name

    def write_text(self, name: str, text: str) -> Path:
        """Write a file of UTF-8 text."""
        return self.write_bytes(name, text.encode())

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file.

        Raises:
            ValueError: ``value`` holds NaN or infinity, which JSON has no word for.
        """
        text = json.dumps(value, indent=2, allow_nan=False)
        # A list of numbers, such as a row of a matrix, takes a line: in texts no line ends.
        text = _NUMBERS.sub(lambda found: f"[{' '.join(found[0][1:-1].split())}]", text)
        return self.write_text(name, text + "\n")

    def write_npz(self, name: str, arrays: Mapping[str, np.ndarray]) -> Path:
        """Write an .npz file of arrays of plain numbers or texts.

        Raises:
            TypeError: an array holds Python objects, which would be pickled.
        """
        for key, array in arrays.items():
            if np.asarray(array).dtype.hasobject:
                raise TypeError(f"array {key} holds Python objects")
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **dict(arrays))  # type: ignore[arg-type]
        return self.write_bytes(name, buffer.getvalue())

    def write_config(self, config: Any, environment: Mapping[str, Any]) -> Path:
        """Write ``config.yaml``: the command, every value of ``config``, and the environment.

        What belongs to one invocation and not to the run (resume, overwrite, dry_run) is left out.

        Args:
            config: a config dataclass.
            environment: see :func:`ssfnas.runtime.environment.environment`.
        """
        values = values_of(config)
        for name in _INVOCATION_FIELDS:
            values.pop(name, None)
        return self.write_text(
            CONFIG_FILE,
            dump_yaml({"command": self.command, **values, "environment": dict(environment)}),
        )

    def close(self) -> None:
        """Unlock the directory."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            self.close()


def _dated_folder(command: str) -> Path:
    base = Path("runs") / f"{command}-{time.strftime('%Y%m%d-%H%M%S')}"
    numbered = (base.with_name(f"{base.name}-{number}") for number in itertools.count(2))
    return next(path for path in itertools.chain([base], numbered) if not path.exists())


def _holds_run(path: Path) -> bool:
    if (path / LOCK_FILE).is_file():
        return True
    try:
        RunFiles(path)
    except RequestError:
        return False
    return True


def _lock(path: Path, command: str) -> int | None:
    """An open descriptor that holds the lock; the kernel lets go of it when the process dies."""
    file = path / LOCK_FILE
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise write_problem(error, file) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 100, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise RequestError(
            f"--out {path} is in use by {holder or 'another process'}: wait for it, or choose "
            "another folder"
        ) from None
    except OSError as error:
        warnings.warn(f"{path} cannot be locked ({error.strerror})", stacklevel=3)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{command}, process {os.getpid()}\n".encode(), 0)
    except OSError as error:
        os.close(descriptor)
        raise write_problem(error, file) from error
    return descriptor


_OPEN: weakref.WeakSet[RunDirectory] = weakref.WeakSet()


def _close_in_child() -> None:
    # A forked worker that outlives a killed run would otherwise keep the lock.
    for directory in list(_OPEN):
        directory.close()


os.register_at_fork(after_in_child=_close_in_child)
