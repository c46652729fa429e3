"""YAML files of plain values: read strictly, and written so that they read back the same.

Numbers, truth values and null are those of YAML 1.2: ``3e-4`` is a number, ``no`` and
``2024-01-01`` are text.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ssfnas.errors import RequestError

_RESOLVERS = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", tuple("tTfF")),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+", tuple("-+0123456789")),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        tuple("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core schema, without anchors' merge keys, and no key twice."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


class _Dumper(yaml.SafeDumper):
    """Quotes exactly what :class:`_Loader` would otherwise not read as text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in _RESOLVERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern})$"), list(_first))


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    mapping: dict[Hashable, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, Hashable):
            raise yaml.constructor.ConstructorError(
                None, None, "a key has to be a name", key_node.start_mark
            )
        if key in mapping:
            raise yaml.constructor.ConstructorError(
                None, None, f"key {key!r} stands here a second time", key_node.start_mark
            )
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:map", _construct_mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """The mapping that a YAML text holds; an empty text is an empty mapping.

    Args:
        text: the YAML.
        source: what messages call it.

    Raises:
        RequestError: the text is not YAML, or not a mapping with names as keys; with the line.
    """
    try:
        values = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise RequestError(f"{source}{line}: not valid YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        line = f", line {text.count(chr(10), 0, error.position) + 1}"
        raise RequestError(f"{source}{line}: not valid YAML: {error.reason}") from None
    except RecursionError:
        raise RequestError(f"{source}: nested too deeply: write one 'name: value' a line") from None
    except ValueError as error:
        raise RequestError(f"{source}: not valid YAML: {error}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise RequestError(f"{source} holds a {kind}: write one 'name: value' a line")
    for key in values:
        if not isinstance(key, str):
            raise RequestError(f"{source}: key {key!r} is not a name: write 'name: value'")
    return values


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; see :func:`parse_yaml`.

    Raises:
        RequestError: the file cannot be read, or is not what it should be.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RequestError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise RequestError(
            f"{path} is not text in UTF-8 (byte {error.start}): expected a YAML file"
        ) from None
    return parse_yaml(text, str(path))


def dump_yaml(values: Mapping[str, Any]) -> str:
    """YAML of a mapping of plain values, in its order, lists on one line each."""
    return yaml.dump(
        dict(values),
        Dumper=_Dumper,
        sort_keys=False,
        default_flow_style=None,
        width=1000,
        allow_unicode=False,
    )
