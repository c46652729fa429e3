"""Genotypes: which operations a cell keeps. Built by searches, read from files, never executed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ssfnas.atomic_files import write_atomically
from ssfnas.errors import RequestError, did_you_mean, shown
from ssfnas.layers.cells import CELL_TYPES
from ssfnas.layers.operations import OPERATIONS
from ssfnas.spaces import genotype_text

Edge = tuple[str, int, int]

SPACE = "darts"
FORMAT = 1
_FIELDS = ("format", "space", *genotype_text.FIELDS)
_MOST_NODES = 100
_LARGEST_FILE = 2**20


@dataclass(frozen=True)
class Genotype:
    """Both cells of a network.

    States of a cell: 0 and 1 are its inputs (the outputs of the cell before the previous one, and
    of the previous one), 2, 3, ... its intermediate nodes.

    Attributes:
        normal, reduce: edges (operation, from, to), ``from < to``; a node is the sum over its
            edges. A node without edges is absent, and so is whatever only absent nodes feed.
        normal_concat, reduce_concat: the nodes that make the output; absent ones may be listed, as
            published cells do.
        space: what the cells belong to; ``"darts"``.

    Raises:
        RequestError: anything malformed. Operations may be unknown until :meth:`check`.
    """

    normal: tuple[Edge, ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[Edge, ...]
    reduce_concat: tuple[int, ...]
    space: str = SPACE

    def __post_init__(self) -> None:
        if self.space != SPACE:
            raise RequestError(
                f"genotype of the space {self.space!r}: only cells of '{SPACE}' can be read"
            )
        for name, values in self._parts().items():
            if not isinstance(values, (list, tuple, range)):
                raise RequestError(f"genotype: {name} is {shown(values)}: it has to be a list")
            # Before anything walks through it: range(10**12) is quickly written, and has no len().
            if values[_MOST_NODES**2 :]:
                raise RequestError(f"genotype: {name} is too long for one cell")
            checked = _checked_edges if name in CELL_TYPES else _checked_concat
            object.__setattr__(self, name, checked(name, values))

    def edges(self, cell: str) -> tuple[Edge, ...]:
        """The edges of ``"normal"`` or ``"reduce"``."""
        return getattr(self, _cell_type(cell))

    def concat(self, cell: str) -> tuple[int, ...]:
        """The output nodes of ``"normal"`` or ``"reduce"``."""
        return getattr(self, f"{_cell_type(cell)}_concat")

    @property
    def nodes(self) -> int:
        """Intermediate nodes of a cell, up to the last that any edge or concat names."""
        ends = [to for _, _, to in (*self.normal, *self.reduce)]
        return max([*ends, *self.normal_concat, *self.reduce_concat], default=1) - 1

    def check(self, operations: Iterable[str] | None = None) -> None:
        """See that a network can be built of it.

        Args:
            operations: the names that may occur; None: all that are registered.

        Raises:
            RequestError: an operation is not known, or a cell is empty.
        """
        allowed = OPERATIONS.names() if operations is None else list(operations)
        for cell in CELL_TYPES:
            for name, start, to in self.edges(cell):
                try:
                    OPERATIONS.get(name)
                    if name not in allowed:
                        raise RequestError(f"operation '{name}' is not one of {', '.join(allowed)}")
                except RequestError as error:
                    raise RequestError(f"{cell} cell, edge {start} -> {to}: {error}") from None
        self.pruned()

    def pruned(self) -> Genotype:
        """The same without absent nodes: no edge comes from one, and no concat lists one.

        ``none`` counts as no edge. The network is the same one.

        Raises:
            RequestError: nothing of a cell's output is left.
        """
        parts: dict[str, Any] = {}
        for cell in CELL_TYPES:
            kept, present = reached([edge for edge in self.edges(cell) if edge[0] != "none"])
            concat = tuple(node for node in self.concat(cell) if node in present)
            if not concat:
                raise RequestError(
                    f"the {cell} cell is empty: no node of its concat {list(self.concat(cell))} is "
                    "reached from the inputs"
                )
            parts |= {cell: kept, f"{cell}_concat": concat}
        return Genotype(**parts, space=self.space)

    def to_json(self) -> str:
        """``genotype.json``: edges as [operation, from, to], one a line."""
        fields = {"format": str(FORMAT), "space": json.dumps(self.space)}
        for name, values in self._parts().items():
            fields[name] = json.dumps(values)
            if name in CELL_TYPES and values:
                edges = ",\n".join(f"    {json.dumps(edge)}" for edge in values)
                fields[name] = f"[\n{edges}\n  ]"
        body = ",\n".join(f'  "{name}": {value}' for name, value in fields.items())
        return f"{{\n{body}\n}}\n"

    @staticmethod
    def from_json(text: str) -> Genotype:
        """Read what :meth:`to_json` writes.

        Raises:
            RequestError: anything else.
        """
        try:
            value = json.loads(text, object_pairs_hook=_without_duplicates)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"genotype: not JSON: {error}") from None
        if not isinstance(value, dict):
            raise RequestError("genotype: the JSON has to be one object {...}")
        found = value.pop("format", "missing")
        if type(found) is not int or found != FORMAT:
            raise RequestError(
                f"genotype: format is {found!r:.60}: this version reads format {FORMAT}"
            )
        fields = ", ".join(_FIELDS)
        if missing := [name for name in _FIELDS[1:] if name not in value]:
            raise RequestError(f"genotype: {', '.join(missing)} missing: it has {fields}")
        if unknown := [name for name in value if name not in _FIELDS]:
            raise RequestError(f"genotype: field {unknown[0]!r:.60} is unknown: it has {fields}")
        return Genotype(**value)

    def to_text(self, style: str | None = None) -> str:
        """The Python text that DARTS and FairDARTS print, ``Genotype(normal=[...], ...)``.

        Args:
            style: ``"darts"``: (operation, from), two for each node in order; ``"fairdarts"``:
                (operation, to, from). None: the first where it can say it, else the second.

        Raises:
            RequestError: an unknown style, or ``"darts"`` where a node has not two edges.
        """
        return genotype_text.write(self._parts(), style)

    @staticmethod
    def from_text(text: str) -> Genotype:
        """Read :meth:`to_text`'s text in either style, also out of a line of a log or a program.

        It is parsed, never evaluated.

        Raises:
            RequestError: no genotype in it, several, or a malformed one.
        """
        return Genotype(**genotype_text.read(text))

    @staticmethod
    def load(path_or_name: str | os.PathLike[str]) -> Genotype:
        """Read a genotype from a file (JSON or text), a run's directory, or by a published name.

        Raises:
            RequestError: there is none, or it is malformed; the message names the file.
        """
        if isinstance(path_or_name, str) and path_or_name in PUBLISHED:
            return PUBLISHED[path_or_name]
        path, text = _read(str(path_or_name))
        is_json = path.suffix == ".json" and "Genotype" not in text
        try:
            if is_json or text.lstrip().startswith("{"):
                return Genotype.from_json(text)
            return Genotype.from_text(text)
        except RequestError as error:
            raise RequestError(f"{path}: {error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON, or the text where the name ends in ``.txt`` or ``.py``; whole or not at all.

        Raises:
            RequestError: the file cannot be written.
        """
        path = Path(path)
        text = self.to_text() + "\n" if path.suffix in (".txt", ".py") else self.to_json()
        write_atomically(path, text.encode())

    def _parts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in genotype_text.FIELDS}


def reached(edges: Iterable[Edge]) -> tuple[tuple[Edge, ...], set[int]]:
    """The edges that start from a state which the inputs reach, and those states, 0 and 1 too."""
    edges = tuple(edges)
    present = {0, 1}
    # An edge leads to a later node, so one walk in the order of nodes finds all.
    for _, start, to in sorted(edges, key=lambda edge: edge[2]):
        if start in present:
            present.add(to)
    return tuple(edge for edge in edges if edge[1] in present), present


def _cell_type(cell: str) -> str:
    if cell not in CELL_TYPES:
        raise RequestError(f"no cell is called '{cell}': it is normal or reduce")
    return cell


def _checked_edges(cell: str, edges: Iterable[Any]) -> tuple[Edge, ...]:
    for edge in edges:
        where = f"genotype, {cell} cell: edge {shown(edge)}"
        if not isinstance(edge, (list, tuple)) or len(edge) != 3:
            raise RequestError(f"{where} has to be [operation, from, to]")
        name, start, to = edge
        if not isinstance(name, str) or not name or not name.isprintable():
            raise RequestError(f"{where}: the operation has to be a name")
        if type(start) is not int or type(to) is not int:
            raise RequestError(f"{where}: from and to have to be whole numbers")
        if not 0 <= start < to or not 2 <= to < _MOST_NODES + 2:
            raise RequestError(
                f"genotype, {cell} cell: edge {shown(name)} from {shown(start)} to {shown(to)} "
                "has to lead from a state (0, 1: the inputs; 2 ...: the nodes) to a later node, at "
                f"most {_MOST_NODES + 1}; entries are [operation, from, to], in a text "
                "(operation, to, from) or (operation, from)"
            )
    return tuple((name, start, to) for name, start, to in edges)


def _checked_concat(name: str, nodes: Iterable[Any]) -> tuple[int, ...]:
    seen: list[int] = []
    for node in nodes:
        if type(node) is not int or not 2 <= node < _MOST_NODES + 2:
            raise RequestError(
                f"genotype: {name} lists {shown(node)}: it names nodes, from 2 to {_MOST_NODES + 1}"
            )
        if node in seen:
            raise RequestError(f"genotype: {name} lists node {node} twice: once is enough")
        seen.append(node)
    return tuple(seen)


def _read(name: str) -> tuple[Path, str]:
    """The file that ``name`` means, and its text."""
    path = Path(name)
    try:
        if path.is_dir():
            path /= "genotype.json"
            if not path.is_file():
                raise RequestError(
                    f"{name} holds no genotype.json: give a genotype's file, or the directory of a "
                    "search that has finished"
                )
        if not path.is_file():
            is_path = path.suffix or len(path.parts) > 1
            problem = (
                f"genotype {name}: there is no such file or directory"
                if is_path
                else f"no genotype '{name}'{did_you_mean(name, PUBLISHED)}"
            )
            raise RequestError(
                f"{problem}: give a genotype's file, a run's directory, or one of "
                f"{', '.join(PUBLISHED)}"
            )
        if path.stat().st_size > _LARGEST_FILE:
            raise RequestError(f"{path} is no genotype: it is larger than {_LARGEST_FILE} bytes")
        return path, path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise RequestError(f"{path} is no genotype: it is not a text in UTF-8") from None
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror or error}") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("it names a field twice")
    return fields


def _published() -> dict[str, Genotype]:
    text = (resources.files("ssfnas.spaces") / "published.txt").read_text(encoding="utf-8")
    _, *entries = text.split("\n\n")
    return {entry.split(" = ")[0]: Genotype.from_text(entry) for entry in entries}


PUBLISHED = _published()
