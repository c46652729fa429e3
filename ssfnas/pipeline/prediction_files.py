"""Predictions as they are written: CSV or JSON, row by row, so that millions need no memory."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ssfnas.atomic_files import written_atomically
from ssfnas.evaluation.predictor import PredictedBatch

SEPARATOR = " | "
"""Between the names of several classes in one column."""


class PredictionFile(Protocol):
    """A file that takes predictions."""

    def add(self, batch: PredictedBatch) -> None:
        """The rows of a batch."""

    def end(self, summary: Mapping[str, Any]) -> None:
        """What is known when all are there."""


@contextmanager
def prediction_file(
    out: str, class_names: tuple[str, ...], settings: Mapping[str, Any]
) -> Iterator[PredictionFile]:
    """A file to add predictions to, which is there when the block ends well.

    Args:
        out: where; the ending ``.csv`` or ``.json`` says the format.
        class_names: in label order.
        settings: what JSON holds beside the predictions; ``top_k`` and ``multi_label`` count for
            CSV as well.
    """
    kind = _Csv if Path(out).suffix.lower() == ".csv" else _Json
    with written_atomically(out) as file:
        yield kind(file, class_names, settings)


def ranked(
    batch: PredictedBatch, class_names: tuple[str, ...], count: int
) -> list[list[tuple[str, float]]]:
    """The most probable classes of each image with their probabilities, the first of equals first.

    Nothing where an image could not be read.
    """
    values, numbers = batch.probabilities.sort(dim=1, descending=True, stable=True)
    pairs = zip(values[:, :count].tolist(), numbers[:, :count].tolist(), strict=True)
    named = [list(zip((class_names[n] for n in row), v, strict=True)) for v, row in pairs]
    return [[] if problem else own for own, problem in zip(named, batch.problems, strict=True)]


def decided_names(batch: PredictedBatch, class_names: tuple[str, ...]) -> list[list[str]]:
    """The classes that are decided for, of each image, in label order."""
    return [
        [name for name, there in zip(class_names, row, strict=True) if there]
        for row in batch.decided.tolist()
    ]


class _Csv:
    """One row an image; see ``docs/prediction.md`` for the columns."""

    def __init__(
        self, file: BinaryIO, class_names: tuple[str, ...], settings: Mapping[str, Any]
    ) -> None:
        # Names that are no text in UTF-8 keep their bytes.
        self._text = io.TextIOWrapper(file, "utf-8", errors="surrogateescape", newline="")
        self._rows = csv.writer(self._text, lineterminator="\n")
        self._names, self._top_k = class_names, settings["top_k"]
        self._several = settings["multi_label"]
        head = ["file", "index"]
        if self._several:
            head += ["classes", *(f"probability of {name}" for name in class_names)]
        else:
            head += ["class", "probability"]
            for place in range(2, self._top_k + 1):
                head += [f"class {place}", f"probability {place}"]
        self._width = len(head) - 2
        self._rows.writerow(head)

    def add(self, batch: PredictedBatch) -> None:
        columns = self._several_labels(batch) if self._several else self._one_label(batch)
        for name, problem, values in zip(batch.names, batch.problems, columns, strict=True):
            index = "" if name.index is None else name.index
            self._rows.writerow([name.file, index, *([""] * self._width if problem else values)])

    def _one_label(self, batch: PredictedBatch) -> list[list[str]]:
        return [
            [text for name, value in row for text in (name, _written(value))]
            for row in ranked(batch, self._names, self._top_k)
        ]

    def _several_labels(self, batch: PredictedBatch) -> list[list[str]]:
        decided = decided_names(batch, self._names)
        return [
            [SEPARATOR.join(names), *map(_written, values)]
            for names, values in zip(decided, batch.probabilities.tolist(), strict=True)
        ]

    def end(self, summary: Mapping[str, Any]) -> None:
        self._text.flush()
        self._text.detach()


class _Json:
    """One object, whose ``predictions`` are a line each."""

    def __init__(
        self, file: BinaryIO, class_names: tuple[str, ...], settings: Mapping[str, Any]
    ) -> None:
        self._file, self._names, self._settings = file, class_names, settings
        head = json.dumps({**settings, "class_names": class_names}, indent=2, allow_nan=False)
        self._write(head.removesuffix("\n}") + ',\n  "predictions": [')
        self._between = "\n    "

    def _write(self, text: str) -> None:
        self._file.write(text.encode("ascii"))  # JSON escapes all else, lone surrogates as well

    def add(self, batch: PredictedBatch) -> None:
        several = self._settings["multi_label"]
        top = ranked(batch, self._names, self._settings["top_k"])
        decided = decided_names(batch, self._names)
        lines = []
        for row, (name, problem) in enumerate(zip(batch.names, batch.problems, strict=True)):
            entry: dict[str, Any] = {"file": name.file, "index": name.index}
            if several:
                values = [_rounded(value) for value in batch.probabilities[row].tolist()]
                entry |= {"classes": decided[row], "probabilities": values}
            elif not problem:
                first, *_ = pairs = top[row]
                entry |= {"class": first[0], "probability": _rounded(first[1])}
                if self._settings["top_k"] > 1:
                    entry["top"] = [{"class": n, "probability": _rounded(v)} for n, v in pairs]
            if problem:
                empty = ("classes", "probabilities") if several else ("class", "probability")
                entry |= {**dict.fromkeys(empty), "problem": problem}
            lines.append(self._between + json.dumps(entry, allow_nan=False))
            self._between = ",\n    "
        self._write("".join(lines))

    def end(self, summary: Mapping[str, Any]) -> None:
        tail = json.dumps(dict(summary), indent=2, allow_nan=False)
        self._write("\n  ]," + tail.removeprefix("{") + "\n")


def _rounded(value: float) -> float:
    return float(_written(value))


def _written(value: float) -> str:
    return f"{value:.7g}"
