"""What a run measured and said: ``metrics.jsonl``, TensorBoard events, ``log.txt``."""

from __future__ import annotations

import json
import math
import os
import time
import warnings
from pathlib import Path
from typing import Any, TextIO

from ssfnas.atomic_files import write_atomically, write_problem
from ssfnas.errors import NumericalError
from ssfnas.runs.run_files import MESSAGES_FILE, METRICS_FILE, json_object

EVENT_FILES = "events.out.tfevents.*"


class RunLog:
    """The logs of one run; one process writes them.

    ``metrics.jsonl`` is the truth: one object a line with ``step``, ``epoch``, ``wall_time``
    (seconds since 1970) and what was measured, shares such as accuracies in 0..1; what people read
    is in percent, and named by :mod:`ssfnas.evaluation.measure_names`. TensorBoard's events say
    the same, and are made anew from it when a run goes back to a checkpoint.

    Args:
        folder: the run's directory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._metrics: TextIO | None = None
        self._events: Any = None

    def log(self, step: int, epoch: int, **values: Any) -> None:
        """Append one line, and its numbers to TensorBoard; it is on the disk afterward.

        Args:
            step: steps done.
            epoch: epochs done.
            values: plain values: numbers, texts, lists of them, None.

        Raises:
            NumericalError: a number is NaN or infinite; names it. Nothing was written.
            RequestError: the disk refuses.
        """
        for name, value in values.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise NumericalError(f"{name} is {value} after step {step}")
        entry = {"step": step, "epoch": epoch, "wall_time": time.time(), **values}
        line = json.dumps(entry, allow_nan=False)
        path = self.folder / METRICS_FILE
        try:
            if self._metrics is None:
                self._metrics = open(path, "a", encoding="utf-8")  # noqa: SIM115
            self._metrics.write(line + "\n")
            self._metrics.flush()
            os.fsync(self._metrics.fileno())
            self._to_events(entry)
            self._events.flush()
        except OSError as error:
            raise write_problem(error, path) from error

    def cut_back(self, step: int) -> None:
        """Forget what was measured after ``step``: from ``metrics.jsonl`` and from TensorBoard.

        A line that a crash cut short is left out, with a warning.

        Raises:
            RequestError: the disk refuses.
        """
        path = self.folder / METRICS_FILE
        kept = [entry for entry in _read_entries(path) if entry["step"] <= step]
        self.close()
        if path.exists() or kept:
            text = "".join(json.dumps(entry) + "\n" for entry in kept)
            write_atomically(path, text.encode())
        try:
            for file in self.folder.glob(EVENT_FILES):
                file.unlink()
            for entry in kept:
                self._to_events(entry)
            if self._events is not None:
                self._events.flush()
        except OSError as error:
            raise write_problem(error, self.folder) from error

    def message(self, text: str, *, show: bool = True) -> None:
        """Append ``text`` with the time of day to ``log.txt``, and print it.

        Args:
            text: what happened.
            show: False only writes, what was printed before there was a log.

        Raises:
            RequestError: the disk refuses.
        """
        if show:
            print(text, flush=True)
        path = self.folder / MESSAGES_FILE
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")
        except OSError as error:
            raise write_problem(error, path) from error

    def close(self) -> None:
        """Close the files; a later call opens them again."""
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        if self._events is not None:
            self._events.close()
            self._events = None

    def _to_events(self, entry: dict[str, Any]) -> None:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self.folder))
        for name, value in entry.items():
            if name not in ("step", "wall_time") and type(value) in (int, float):
                self._events.add_scalar(name, value, entry["step"], entry["wall_time"])


def _read_entries(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    entries = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json_object(line)
            complete = type(entry["step"]) is int and type(entry["wall_time"]) in (int, float)
        except (ValueError, KeyError):
            complete = False
        if complete:
            entries.append(entry)
        else:
            warnings.warn(f"{path}, line {number}, is damaged: it is left out", stacklevel=3)
    return entries
