"""Genotypes: which operations a cell keeps, and the texts they are written in."""

from __future__ import annotations

import ast
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssfnas.errors import RequestError
from ssfnas.spaces.operations import OPERATIONS

Edge = tuple[str, int, int]
FORMAT = 1
SPACE = "darts"
CELLS = ("normal", "reduce")


@dataclass(frozen=True)
class Genotype:
    """Two cells of the DARTS space.

    States 0 and 1 are a cell's inputs (the outputs of the cell before the previous one, and of the
    previous one); 2 and up are its nodes.

    Attributes:
        normal, reduce: edges (operation, from, to), from < to.
        normal_concat, reduce_concat: nodes whose concatenation is the output. Published files may
            list nodes that nothing reaches; they are kept here and left out by :meth:`pruned`.
        space: the space that the operations belong to.

    Raises:
        RequestError: an edge or a concatenation is malformed.
    """

    normal: tuple[Edge, ...]
    normal_concat: tuple[int, ...]
    reduce: tuple[Edge, ...]
    reduce_concat: tuple[int, ...]
    space: str = SPACE

    def __post_init__(self) -> None:
        if self.space != SPACE:
            raise RequestError(
                f"genotype of space {self.space!r}: networks are built of space '{SPACE}'"
            )
        for cell in CELLS:
            edges = tuple(_edge(edge, cell) for edge in _sequence(getattr(self, cell), cell))
            name = f"{cell}_concat"
            concat = tuple(_node(node, name) for node in _sequence(getattr(self, name), name))
            if len(set(concat)) != len(concat):
                raise RequestError(f"genotype, {name}: {list(concat)} names a node twice")
            object.__setattr__(self, cell, edges)
            object.__setattr__(self, name, concat)

    @property
    def nodes(self) -> int:
        """Intermediate nodes of the larger cell, counting absent ones before the last."""
        states = [target for cell in CELLS for _, _, target in getattr(self, cell)]
        states += [*self.normal_concat, *self.reduce_concat]
        return max(states, default=1) - 1

    def check(self) -> None:
        """Make sure that a network can be built.

        Raises:
            RequestError: an operation is not registered, or a cell is empty.
        """
        for cell in CELLS:
            for name, _, _ in getattr(self, cell):
                OPERATIONS.get(name)
        self.pruned()

    def pruned(self) -> Genotype:
        """Without edges from absent nodes, and with concatenations of present nodes alone.

        Raises:
            RequestError: nothing is left of a cell's output.
        """
        cells: dict[str, Any] = {}
        for cell in CELLS:
            edges = getattr(self, cell)
            present = {0, 1}
            kept: list[Edge] = []
            for target in sorted({edge[2] for edge in edges}):
                reached = [e for e in edges if e[2] == target and e[1] in present]
                if reached:
                    present.add(target)
                    kept += reached
            concat = tuple(node for node in getattr(self, f"{cell}_concat") if node in present)
            if not concat:
                raise RequestError(
                    f"the {cell} cell of the genotype is empty: no node of its output has an edge"
                )
            cells[cell] = tuple(kept)
            cells[f"{cell}_concat"] = concat
        return Genotype(**cells, space=self.space)

    def to_json(self) -> str:
        """The JSON form, one object; ends with a newline."""
        value: dict[str, Any] = {"format": FORMAT, "space": self.space}
        for cell in CELLS:
            value[cell] = [list(edge) for edge in getattr(self, cell)]
            value[f"{cell}_concat"] = list(getattr(self, f"{cell}_concat"))
        return json.dumps(value) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Genotype:
        """Read the JSON form.

        Raises:
            RequestError: the text is not of that form.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"genotype is no JSON: {error}") from None
        if not isinstance(value, dict):
            raise RequestError("genotype is no JSON object with normal, reduce and their concats")
        if value.get("format") != FORMAT:
            raise RequestError(f"genotype of format {value.get('format')!r}: {FORMAT} is known")
        wanted = [f"{cell}{end}" for cell in CELLS for end in ("", "_concat")]
        missing = [name for name in wanted if name not in value]
        unknown = sorted(set(value) - {*wanted, "format", "space"})
        if missing or unknown:
            what = f"lacks {', '.join(missing)}" if missing else f"has unknown {', '.join(unknown)}"
            raise RequestError(f"genotype {what}")
        space = value.get("space", SPACE)
        return cls(**{name: value[name] for name in wanted}, space=space)

    def to_text(self, style: str = "fairdarts") -> str:
        """The text that DARTS or FairDARTS print.

        Args:
            style: ``"darts"``: (operation, from), two edges a node in order; ``"fairdarts"``:
                (operation, to, from).

        Raises:
            RequestError: DARTS' form cannot say this genotype, as a node has not two edges.
        """
        if style not in ("darts", "fairdarts"):
            raise RequestError(f"genotype text of style {style!r}: it is darts or fairdarts")
        parts = []
        for cell in CELLS:
            edges = sorted(getattr(self, cell), key=lambda edge: edge[2])
            if style == "darts":
                if [edge[2] for edge in edges] != [2 + i // 2 for i in range(len(edges))]:
                    raise RequestError(
                        f"the {cell} cell has a node without two edges: use the fairdarts style"
                    )
                shown = [(name, source) for name, source, _ in edges]
            else:
                shown = [(name, target, source) for name, source, target in edges]  # type: ignore[misc]
            concat = list(getattr(self, f"{cell}_concat"))
            parts.append(f"{cell}={shown}, {cell}_concat={concat}")
        return f"Genotype({', '.join(parts)})"

    @classmethod
    def from_text(cls, text: str) -> Genotype:
        """Read the text form of DARTS (2-tuples) or FairDARTS (3-tuples); nothing is executed.

        Raises:
            RequestError: the text is not of that form.
        """
        try:
            tree = ast.parse(text.strip(), mode="exec")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise RequestError(f"genotype text cannot be read: {error}") from None
        calls = [
            statement.value
            for statement in tree.body
            if isinstance(statement, ast.Assign | ast.Expr) and isinstance(statement.value, ast.Call)
        ]
        if len(tree.body) != 1 or len(calls) != 1 or _name(calls[0].func) != "Genotype":
            raise RequestError("genotype text is not one Genotype(normal=[...], ...)")
        call = calls[0]
        wanted = [f"{cell}{end}" for cell in CELLS for end in ("", "_concat")]
        values = {}
        for name, node in [
            *zip(wanted[: len(call.args)], call.args, strict=False),
            *((keyword.arg, keyword.value) for keyword in call.keywords),
        ]:
            if name not in wanted or name in values:
                raise RequestError(f"genotype text has an unexpected {name!r}")
            values[name] = _literal(node)
        missing = [name for name in wanted if name not in values]
        if missing or len(call.args) > len(wanted):
            raise RequestError(f"genotype text lacks {', '.join(missing)}")
        for cell in CELLS:
            values[cell] = _ordered(_sequence(values[cell], cell), cell)
        return cls(**values)

    @classmethod
    def load(cls, path: str | Path) -> Genotype:
        """Read a file in JSON or text form, a run directory's genotype, or a published cell.

        Args:
            path: a file, a directory that holds ``genotype.json``, or a name such as ``DARTS_V2``.

        Raises:
            RequestError: there is nothing of that kind, or it is malformed.
        """
        from ssfnas.spaces.published import PUBLISHED

        if str(path) in PUBLISHED:
            return PUBLISHED[str(path)]
        file = Path(path)
        if file.is_dir():
            file = file / "genotype.json"
            if not file.is_file():
                raise RequestError(f"{path} holds no genotype.json: derive one from the run first")
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise RequestError(
                f"genotype '{path}' is neither a file, nor a run directory, nor one of "
                f"{', '.join(PUBLISHED)}"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"genotype {file} cannot be read: {error}") from None
        try:
            return cls.from_json(text) if text.lstrip()[:1] in ("{", "[", "") else cls.from_text(text)
        except RequestError as error:
            raise RequestError(f"{file}: {error}") from None

    def save(self, path: str | Path) -> None:
        """Write the JSON form, whole or not at all."""
        path = Path(path)
        partial = path.with_name(f".{path.name}.partial")
        try:
            with open(partial, "w", encoding="utf-8") as file:
                file.write(self.to_json())
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise RequestError(f"{path} cannot be written: {error.strerror}") from error


def _sequence(value: Any, where: str) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise RequestError(f"genotype, {where}: {value!r} is no list")
    return value


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _edge(value: Any, cell: str) -> Edge:
    if not (
        isinstance(value, list | tuple)
        and len(value) == 3
        and isinstance(value[0], str)
        and _integer(value[1])
        and _integer(value[2])
    ):
        raise RequestError(f"genotype, {cell}: edge {value!r} is not [operation, from, to]")
    name, source, target = value
    if not 0 <= source < target or target < 2:
        raise RequestError(
            f"genotype, {cell}: edge {list(value)} does not lead from a state to a later node "
            "(states 0 and 1 are the inputs, nodes count from 2)"
        )
    return name, source, target


def _node(value: Any, where: str) -> int:
    if not _integer(value) or value < 2:
        raise RequestError(f"genotype, {where}: {value!r} is no node (they count from 2)")
    return int(value)


def _ordered(edges: Any, cell: str) -> list[Any]:
    """Edges (operation, from, to) of the tuples of a text."""
    lengths = {len(edge) if isinstance(edge, list | tuple) else 0 for edge in edges}
    if lengths <= {2}:
        if len(edges) % 2:
            raise RequestError(f"genotype, {cell}: {len(edges)} edges of form (operation, from): two a node")
        return [(name, source, 2 + i // 2) for i, (name, source) in enumerate(edges)]
    if lengths == {3}:
        return [(name, source, target) for name, target, source in edges]
    raise RequestError(
        f"genotype, {cell}: edges are (operation, from) or (operation, to, from), all alike"
    )


def _name(node: ast.expr) -> str | None:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and _name(node.func) in ("range", "list") and not node.keywords:
        values = [_literal(argument) for argument in node.args]
        if _name(node.func) == "list" and len(values) == 1 and isinstance(values[0], list | tuple):
            return values[0]
        if (
            _name(node.func) == "range"
            and 1 <= len(values) <= 2
            and all(_integer(value) and abs(value) < 1000 for value in values)
        ):
            return list(range(*values))
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise RequestError("genotype text holds more than names and numbers") from None
