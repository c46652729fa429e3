"""The Python text of a genotype, as the programs of DARTS and FairDARTS print and store it.

``Genotype(normal=[...], normal_concat=range(2, 6), reduce=[...], reduce_concat=[2, 3, 4, 5])``.
DARTS writes an edge (operation, from), two for each node in order. FairDARTS writes
(operation, to, from).
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ssfnas.errors import RequestError

FIELDS = ("normal", "normal_concat", "reduce", "reduce_concat")
_START = re.compile(r"\bGenotype\s*\(")


def write(parts: Mapping[str, Any], style: str | None) -> str:
    """One line in a style, for edges (operation, from, to) and concats by field.

    See :meth:`ssfnas.spaces.Genotype.to_text`.
    """
    lonely = {cell: _lonely_node(parts[cell]) for cell in ("normal", "reduce")}
    if style is None:
        style = "darts" if set(lonely.values()) == {None} else "fairdarts"
    if style not in ("darts", "fairdarts"):
        raise RequestError(f"no genotype text is called '{style}': it is darts or fairdarts")
    fields = []
    for name, values in parts.items():
        shown: Any
        if name.endswith("_concat"):
            nodes = range(values[0], values[-1] + 1) if values else ()
            shown = nodes if tuple(nodes) == values else list(values)
        elif style == "fairdarts":
            shown = [(op, to, start) for op, start, to in values]
        elif lonely[name] is None:
            shown = [(op, start) for op, start, _ in sorted(values, key=lambda edge: edge[2])]
        else:
            raise RequestError(
                f"node {lonely[name]} of the {name} cell has not two edges: the darts text has two "
                "for each, use fairdarts"
            )
        fields.append(f"{name}={shown!r}")
    return f"Genotype({', '.join(fields)})"


def _lonely_node(edges: Sequence[tuple[str, int, int]]) -> int | None:
    """The first node, up to the last that has any edge, without exactly two."""
    targets = [to for _, _, to in edges]
    nodes = range(2, max(targets, default=1) + 1)
    return next((node for node in nodes if targets.count(node) != 2), None)


def read(text: str) -> dict[str, Any]:
    """The four fields as they stand in the text, but edges as (operation, from, to).

    Raises:
        RequestError: no genotype, several, or something in it that is no plain value.
    """
    starts = [match.start() for match in _START.finditer(text)]
    if len(starts) != 1:
        found = "several genotypes" if starts else "no Genotype(normal=..., ...)"
        raise RequestError(f"genotype: the text holds {found}: it has to hold one")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            call = ast.parse(text[starts[0] :].strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else error
        raise RequestError(f"genotype: not a Python text: {reason}") from None
    if not isinstance(call, ast.Call):
        raise RequestError("genotype: Genotype(...) has to stand alone")
    given = [*zip(FIELDS, call.args, strict=False)]
    given += [(str(keyword.arg), keyword.value) for keyword in call.keywords]
    if len(call.args) > len(FIELDS) or sorted(name for name, _ in given) != sorted(FIELDS):
        raise RequestError(f"genotype: Genotype(...) has to have {', '.join(FIELDS)}, once each")
    return {name: _value(name, node) for name, node in given}


def _value(name: str, node: ast.expr) -> Any:
    """What a field is given: a literal, ``range(...)``, or a list or tuple of that."""
    try:
        match node:
            case ast.Call(ast.Name("list" | "tuple"), [inner], []):
                return _value(name, inner)
            case ast.Call(ast.Name("range"), bounds, []):
                return range(*map(ast.literal_eval, bounds))
        value = ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError, MemoryError):
        raise RequestError(
            f"genotype: {name} has to be a list of names and numbers, or range(...), whose step "
            "must not be zero; nothing else is read"
        ) from None
    return value if name.endswith("_concat") else _edges(name, value)


def _edges(cell: str, edges: Any) -> Any:
    """Either style's edges as (operation, from, to); whether they make sense is not seen here."""
    if not isinstance(edges, (list, tuple)):
        return edges
    lengths = {len(edge) if isinstance(edge, (list, tuple)) else 0 for edge in edges}
    if lengths == {3}:
        return [(op, start, to) for op, to, start in edges]
    if not lengths <= {2}:
        raise RequestError(
            f"genotype, {cell} cell: edges have to be all (operation, from), or all (operation, "
            "to, from)"
        )
    if len(edges) % 2:
        raise RequestError(
            f"genotype, {cell} cell: {len(edges)} edges (operation, from): there have to be two "
            "for each node"
        )
    return [(op, start, 2 + position // 2) for position, (op, start) in enumerate(edges)]
