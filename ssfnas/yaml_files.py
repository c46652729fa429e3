"""YAML files of plain values: read strictly, and written so that they read back the same.

Numbers, truth values and null are those of YAML 1.2: ``3e-4`` is a number, ``no`` and
``2024-01-01`` are text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ssfnas.errors import RequestError

_SCALARS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema, and no key twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)  # refuses lists as keys
        keys = [key.value for key, _ in node.value]
        for number, (key, _) in enumerate(node.value):
            if key.value in keys[:number]:
                problem = f"key {key.value!r} stands here a second time"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
        return mapping

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        return int(node.value)  # zeros in front do not make it octal


class _Dumper(yaml.SafeDumper):
    """Quotes exactly what :class:`_Loader` would otherwise not read as text."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _kind, _pattern in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_kind}", re.compile(f"(?:{_pattern})$"), None
        )
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


class FileValues(dict[str, Any]):
    """The mapping that a YAML file holds, and where it holds it.

    Args:
        values: by key.
        source: what messages call the file.
        lines: key -> its line, from 1.
    """

    def __init__(self, values: Mapping[str, Any], source: str, lines: Mapping[str, int]) -> None:
        super().__init__(values)
        self.source, self.lines = source, dict(lines)

    def place(self, key: str) -> str:
        """Where a key stands: ``my.yaml, line 3``."""
        return f"{self.source}, line {self.lines[key]}" if key in self.lines else self.source


def parse_value(text: str) -> Any:
    """The value that a short text stands for; the text itself where it is not YAML."""
    try:
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def parse_yaml(text: str, source: str) -> FileValues:
    """The mapping that a YAML text holds; an empty text is an empty mapping.

    Args:
        text: the YAML.
        source: what messages call it.

    Raises:
        RequestError: the text is not YAML, or not a mapping with names as keys; with the line.
    """
    try:
        values, lines = _load(text)
    except RecursionError:
        raise RequestError(f"{source}: nested too deeply: write one 'name: value' a line") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        position = mark.index if mark else getattr(error, "position", None)
        line = "" if position is None else f", line {text.count(chr(10), 0, position) + 1}"
        problem = getattr(error, "problem", None) or getattr(error, "reason", error)
        raise RequestError(f"{source}{line}: not valid YAML: {problem}") from None
    values = {} if values is None else values
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise RequestError(f"{source} holds a {kind}: write one 'name: value' a line")
    held = FileValues(values, source, lines)
    for key in (key for key in values if not isinstance(key, str)):
        raise RequestError(f"{held.place(key)}: key {key!r} is not a name: write 'name: value'")
    return held


def _load(text: str) -> tuple[Any, dict[Any, int]]:
    """What a YAML text holds, and the lines of its outermost keys."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None, {}
        values = loader.construct_document(node)
    finally:
        loader.dispose()
    if not isinstance(node, yaml.MappingNode):
        return values, {}
    marks = [key.start_mark.line + 1 for key, _ in node.value]
    return values, dict(zip(values, marks, strict=True))  # in the order of the file, no key twice


def read_yaml(path: str | Path) -> FileValues:
    """The mapping that a YAML file holds; see :func:`parse_yaml`.

    Raises:
        RequestError: the file cannot be read, or is not what it should be.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        problem = f"{path} is not text in UTF-8 (byte {error.start}): expected a YAML file"
        raise RequestError(problem) from None
    except ValueError as error:  # a name that no file can have
        raise RequestError(f"cannot read {str(path)!a}: {error}") from None
    return parse_yaml(text, str(path))


def dump_yaml(values: Mapping[str, Any]) -> str:
    """YAML of a mapping of plain values, in its order, lists on one line each."""
    style: dict[str, Any] = {"sort_keys": False, "default_flow_style": None, "width": 1000}
    return yaml.dump(dict(values), Dumper=_Dumper, **style)
