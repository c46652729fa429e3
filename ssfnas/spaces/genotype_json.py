"""The JSON form of a genotype."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ssfnas.errors import RequestError

FORMAT = 1
_FIELDS = ("format", "space", "normal", "normal_concat", "reduce", "reduce_concat")


def write(space: str, parts: Mapping[str, Any]) -> str:
    """Format 1, ending in a line break.

    Args:
        space: of the genotype.
        parts: its edges (operation, from, to) and concats, by field.
    """
    lines = ["{", f'  "format": {FORMAT},', f'  "space": {json.dumps(space)}']
    for name, values in parts.items():
        lines[-1] += ","
        if name.endswith("_concat") or not values:
            lines.append(f'  "{name}": {json.dumps(list(values))}')
        else:
            edges = ",\n".join(f"    {json.dumps(list(edge))}" for edge in values)
            lines.append(f'  "{name}": [\n{edges}\n  ]')
    return "\n".join([*lines, "}", ""])


def read(text: str) -> dict[str, Any]:
    """The fields besides ``format``; what they hold is the genotype's to check.

    Raises:
        RequestError: not JSON, not format 1, or other fields than format 1 has.
    """
    try:
        value = json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError:
        raise RequestError("genotype: nested too deeply to be one") from None
    except RequestError:
        raise
    except ValueError as error:
        raise RequestError(f"genotype: not JSON: {error}") from None
    if not isinstance(value, dict):
        raise RequestError("genotype: the JSON has to be one object {...}")
    if type(value.get("format")) is not int or value["format"] != FORMAT:
        found = repr(value["format"]) if "format" in value else "missing"
        raise RequestError(f"genotype: format is {found[:60]}: this version reads format {FORMAT}")
    missing = [name for name in _FIELDS if name not in value]
    if missing:
        raise RequestError(f"genotype: {', '.join(missing)} missing: it has {', '.join(_FIELDS)}")
    unknown = [name for name in value if name not in _FIELDS]
    if unknown:
        raise RequestError(
            f"genotype: field {unknown[0]!r:.60} is unknown: it has {', '.join(_FIELDS)}"
        )
    return {name: value[name] for name in _FIELDS[1:]}


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise RequestError("genotype: the JSON names a field twice")
    return fields
