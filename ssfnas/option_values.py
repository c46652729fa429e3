"""Values of a config's fields: read from a flag or from YAML, and checked against the field.

One :class:`OptionValue` knows one field of a dataclass made of :func:`ssfnas.config.option`.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ssfnas.errors import RequestError

_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_LARGEST_INT = 2**63 - 1

# Fields whose choices are names of a registry, which plugins add to.
_REGISTERED = frozenset(
    ("strategy", "objective", "supernet", "derive", "loss", "augment", "early_stop")
)


def shown(value: Any) -> str:
    """A value as messages show it: on one line, short, quoted where that helps."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) > 60:
        text = text[:57] + "..."
    plain = isinstance(value, str) and text.isprintable() and text.strip() == text and text
    return text if plain or not isinstance(value, str) else ascii(text)


def did_you_mean(name: str, known: typing.Iterable[str]) -> str:
    """``" (did you mean ...?)"``, or nothing where no known name comes near."""
    by_core = {other.lstrip("-").lower(): other for other in known}
    close = difflib.get_close_matches(name.lstrip("-").lower(), by_core, n=1)
    return f" (did you mean {by_core[close[0]]}?)" if close else ""


def number(value: float) -> str:
    """A number without a needless ``.0``."""
    return str(int(value)) if float(value).is_integer() else str(value)


class OptionValueError(ValueError):
    """A value does not fit its field; the message says what was expected."""


@dataclass(frozen=True)
class OptionValue:
    """What one field may hold.

    Attributes:
        name: of the field, with underscores.
        kind: ``str``, ``int``, ``float`` or ``bool``; of a list, its items' kind.
        is_list: whether the field is a list of them.
        optional: whether it may be None.
        metadata: what :func:`ssfnas.config.option` noted.
    """

    name: str
    kind: type
    is_list: bool
    optional: bool
    metadata: Mapping[str, Any]

    @property
    def flag(self) -> str:
        """The field as a flag: ``--batch-size``."""
        return "--" + self.name.replace("_", "-")

    @property
    def expected(self) -> str:
        """In words, what a value has to be."""
        if choices := self.metadata["choices"]:
            words = _one_of(choices)
        elif self.kind is bool:
            words = "true or false"
        elif self.kind is str:
            words = "a text"
        else:
            words = "a whole number" if self.kind is int else "a number"
            words += f", {self.bounds}" if self.bounds else ""
        if self.is_list:
            example = "2048,2048" if self.kind is int else "one,two"
            words = f"a list such as {example}, each {words}"
        return f"{words}, or null" if self.optional else words

    @property
    def bounds(self) -> str:
        """In words, the bounds of a number; empty where it has none."""
        limits = (
            ("minimum", "at least"),
            ("above", "above"),
            ("maximum", "at most"),
            ("below", "below"),
        )
        return " and ".join(
            f"{words} {number(self.metadata[key])}"
            for key, words in limits
            if self.metadata[key] is not None
        )

    def from_text(self, text: str) -> Any:
        """The value that a flag's text stands for; for a list field, the list one word stands for.

        Raises:
            OptionValueError: the text stands for no value of this field.
        """
        if self.is_list:
            return [self._checked(item) for item in self._split(text)]
        if self.optional and (text == "null" or (self.kind is not str and text == "none")):
            return None
        return self._checked(self._parsed(text))

    def from_yaml(self, value: Any) -> Any:
        """The value that a YAML file's value stands for: of the right type already.

        Raises:
            OptionValueError: it is not.
        """
        if self.optional and value is None:
            return None
        if self.is_list:
            if not isinstance(value, list):
                raise self._problem(value)
            return [self._checked(item) for item in value]
        return self._checked(value)

    def _split(self, text: str) -> list[Any]:
        if text.lstrip().startswith("["):
            try:
                items = json.loads(text)
            except (ValueError, RecursionError):
                items = None
            if isinstance(items, list):
                return items
            text = text.strip().removeprefix("[").removesuffix("]")
        return [self._parsed(item.strip()) for item in text.split(",")]

    def _parsed(self, text: str) -> Any:
        try:
            if self.kind is bool:
                return _TRUTHS[text.lower()]
            if self.kind is int and re.fullmatch(r"[-+]?[0-9]+", text):
                return int(text)
            if self.kind is float and re.fullmatch(r"[-+0-9.eE]+", text):
                return float(text)
        except (KeyError, ValueError):
            pass
        if self.kind is str and text:
            return text
        raise self._problem(text)

    def _checked(self, value: Any) -> Any:
        """``value`` itself, where it is of this field's kind and within its bounds."""
        if self.kind is float and type(value) is int and abs(value) <= _LARGEST_INT:
            value = float(value)
        if type(value) is not self.kind or value == "":
            raise self._problem(value)
        if isinstance(value, float) and not math.isfinite(value):
            raise self._problem(value)
        if isinstance(value, int) and abs(value) > _LARGEST_INT:
            raise self._problem(value)
        limits = self.metadata
        if limits["choices"] and value not in limits["choices"]:
            raise self._problem(value)
        if self.kind in (int, float) and (
            (limits["minimum"] is not None and value < limits["minimum"])
            or (limits["maximum"] is not None and value > limits["maximum"])
            or (limits["above"] is not None and value <= limits["above"])
            or (limits["below"] is not None and value >= limits["below"])
        ):
            raise self._problem(value)
        return value

    def _problem(self, value: Any) -> OptionValueError:
        hint = ""
        if self.metadata["choices"] and isinstance(value, str):
            hint = did_you_mean(value, self.metadata["choices"])
        elif self.kind is str and isinstance(value, (bool, int, float)):
            hint = " (put it in quotes)"
        elif self.kind is str and isinstance(value, os.PathLike):
            hint = " (str() makes one of a path)"
        elif self.kind is int and self.metadata["maximum"] is None and _too_large(value):
            hint = f" and at most {_LARGEST_INT}"
        return OptionValueError(f"{shown(value)}: expected {self.expected}{hint}")


def _too_large(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"\+?0*[1-9][0-9]{18,}", value) is not None
    return isinstance(value, int) and value > _LARGEST_INT


def _one_of(names: typing.Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    return ", ".join(names[:-1]) + " or " + names[-1]


def option_values(config_class: type, *, extended: bool = False) -> dict[str, OptionValue]:
    """Name -> :class:`OptionValue`, for every field of a config dataclass, in its order.

    Args:
        config_class: a dataclass whose fields are made by :func:`ssfnas.config.option`.
        extended: whether plugins are asked for, whose names are choices as well; the registries
            check them once the plugins are imported.
    """
    hints = typing.get_type_hints(config_class)
    values = {}
    for entry in dataclasses.fields(config_class):
        metadata: Mapping[str, Any] = entry.metadata
        if extended and entry.name in _REGISTERED:
            metadata = {**metadata, "choices": None}
        hint = hints[entry.name]
        optional = typing.get_origin(hint) in (types.UnionType, typing.Union)
        if optional:
            (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
        is_list = typing.get_origin(hint) is list
        if is_list:
            (hint,) = typing.get_args(hint)
        if hint not in (str, int, float, bool):
            raise TypeError(f"{config_class.__name__}.{entry.name}: no flag for type {hint}")
        values[entry.name] = OptionValue(entry.name, hint, is_list, optional, metadata)
    return values


def check_values(config: Any) -> None:
    """Hold the values of a config that was made in Python to what its flags would be held to.

    Names that plugins may register are left to the registries.

    Raises:
        RequestError: a value has the wrong type or is out of bounds; names class and field.
    """
    values = {entry.name: getattr(config, entry.name) for entry in dataclasses.fields(config)}
    values = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
    read_values(option_values(type(config), extended=True), values, type(config).__name__)


def read_values(
    options: Mapping[str, OptionValue], values: Mapping[str, Any], source: str
) -> dict[str, Any]:
    """Checked values of fields from a YAML mapping, keys with dashes or underscores.

    Args:
        options: the fields there are; see :func:`option_values`.
        values: what the file holds, without keys that are no fields.
        source: the file, for messages.

    Raises:
        RequestError: a key is no field, stands twice, or its value does not fit; names ``source``.
    """
    checked: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in options:
            hint = did_you_mean(name, options) or ": leave it out"
            raise RequestError(f"{source}: unknown key {shown(key)}{hint}")
        if name in checked:
            raise RequestError(f"{source}: {name} stands there twice: leave one out")
        try:
            checked[name] = options[name].from_yaml(value)
        except OptionValueError as problem:
            raise RequestError(f"{source}: {name}: {problem}") from None
    return checked
