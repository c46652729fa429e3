"""Checkpoints: whole state in one file, its digest in its name, the last ones kept.

A file is complete or absent (written beside, synced, renamed), is read without unpickling anything
but tensors and plain values, and is not believed before its digest is right.
"""

from __future__ import annotations

import hashlib
import io
import re
import warnings
from pathlib import Path
from typing import Any

import torch

from ssfnas.atomic_files import PARTIAL_SUFFIX, write_atomically, write_problem
from ssfnas.errors import RequestError

_NAME = re.compile(r"step-(\d{8,})-([0-9a-f]{16})\.pt")
_PLAIN = (str, int, float, bool, type(None))


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: where they lie; made where it is missing.
        keep: how many of the last ones are kept, at least 1.
    """

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}: at least 1")
        self.folder = Path(folder)
        self.keep = keep

    def files(self) -> list[tuple[int, Path]]:
        """(step, file) of all there are, last step first, whether intact or not."""
        if not self.folder.is_dir():
            return []
        found = [
            (int(match[1]), file)
            for file in self.folder.iterdir()
            if (match := _NAME.fullmatch(file.name)) and file.is_file()
        ]
        return sorted(found, key=lambda entry: (entry[0], entry[1].name), reverse=True)

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write the state after ``step``; afterward only the last ``keep`` checkpoints are left.

        Files of the same or of later steps belong to a past that was given up when the run went
        back to an earlier checkpoint: they go too, once the new file is safe.

        Args:
            step: how many steps the state has behind it, at least 0.
            state: nested dicts, lists and tuples of tensors and plain values.

        Raises:
            TypeError: the state holds something else, which could not be read back safely.
            RequestError: the file cannot be written; those before it are as they were.
        """
        buffer = io.BytesIO()
        torch.save(_compact(state, "state"), buffer)
        data = buffer.getvalue()
        path = self.folder / f"step-{step:08d}-{hashlib.sha256(data).hexdigest()[:16]}.pt"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_problem(error, self.folder) from error
        write_atomically(path, data)
        self._prune(step, path)
        return path

    def _prune(self, step: int, newest: Path) -> None:
        earlier = [file for other, file in self.files() if other < step]
        kept = {newest, *earlier[: self.keep - 1]}
        try:
            for _, file in self.files():
                if file not in kept:
                    file.unlink()
            for partial in self.folder.glob(f".*{PARTIAL_SUFFIX}"):
                partial.unlink()
        except OSError as error:
            raise write_problem(error, self.folder) from error

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """(step, state, on the CPU) of the last intact checkpoint, or None where there are none.

        A damaged one is reported by a warning and passed over.

        Raises:
            RequestError: there are checkpoints, but none is intact.
        """
        problems: list[str] = []
        for step, file in self.files():
            try:
                state = self.read(file)
            except RequestError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                warnings.warn(f"{problem}: the one of step {step:,} is used", stacklevel=2)
            return step, state
        for problem in problems:
            warnings.warn(problem, stacklevel=2)
        if problems:
            raise RequestError(
                f"no checkpoint in {self.folder} is intact: start the run again with --overwrite"
            )
        return None

    @staticmethod
    def read(file: str | Path) -> dict[str, Any]:
        """The state that one checkpoint file holds, on the CPU.

        Raises:
            RequestError: the file is damaged, or is no checkpoint.
        """
        file = Path(file)
        match = _NAME.fullmatch(file.name)
        if match is None:
            raise RequestError(f"{file} is not named like a checkpoint (step-00000490-<digest>.pt)")
        try:
            data = file.read_bytes()
        except OSError as error:
            raise RequestError(f"checkpoint {file} cannot be read ({error.strerror})") from None
        if hashlib.sha256(data).hexdigest()[:16] != match[2]:
            raise RequestError(f"checkpoint {file} is damaged (its digest is wrong)")
        try:
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise RequestError(f"checkpoint {file} is refused ({first})") from None
        if not isinstance(state, dict):
            raise RequestError(f"checkpoint {file} is refused (it holds no state)")
        return state


def _compact(value: Any, where: str) -> Any:
    """``value`` with tensors detached, on the CPU and without the rest of a shared storage."""
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
        whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        return tensor if whole else tensor.clone()
    if isinstance(value, dict):
        for key in value:
            if type(key) not in (str, int):
                raise TypeError(f"{where} has a key of type {type(key).__name__}")
        return {key: _compact(item, f"{where}[{key!r}]") for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_compact(item, f"{where}[{i}]") for i, item in enumerate(value))
    if type(value) not in _PLAIN:
        raise TypeError(f"{where} is a {type(value).__name__}: only tensors and plain values")
    return value
