"""Values of a config's fields: read from a flag or from YAML, and checked against the field.

One :class:`OptionValue` knows one field of a dataclass made of :func:`ssfnas.options.option`.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import operator
import os
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ssfnas.errors import RequestError, did_you_mean, shown
from ssfnas.options import Note
from ssfnas.registry import Component
from ssfnas.yaml_files import parse_value

_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_LARGEST_INT = 2**63 - 1
_RESERVED = ("preset", "config", "print_config", "help", "command", "environment", "more")
_LIMITS = (
    ("minimum", "at least", operator.ge),
    ("above", "above", operator.gt),
    ("maximum", "at most", operator.le),
    ("below", "below", operator.lt),
)


class OptionValueError(ValueError):
    """A value does not fit its field; the message says what was expected."""


@dataclass(frozen=True)
class OptionValue:
    """What one option may hold.

    Attributes:
        name: of the field, with underscores.
        owner: the dataclass that declares it.
        kind: ``str``, ``int``, ``float`` or ``bool``; of a list, its items' kind.
        is_list: whether it is a list of them.
        optional: whether it may be None.
        default: the value without a flag.
        note: what was noted of it.
        closed: whether names that are no choices are refused here.
    """

    name: str
    owner: type
    kind: type
    is_list: bool
    optional: bool
    default: Any
    note: Note
    closed: bool

    @property
    def choices(self) -> tuple[str, ...]:
        """The names that it may be; empty: any value of its kind."""
        return (*self.note.choices, *(self.note.names or ()))

    @property
    def components(self) -> dict[str, Component]:
        """The components that values of it stand for."""
        if self.note.turns_on is not None:
            return {"above 0": self.note.turns_on}
        return {} if self.note.names is None else self.note.names.entries()

    @property
    def flag(self) -> str:
        """The field as a flag: ``--batch-size``."""
        return "--" + self.name.replace("_", "-")

    @property
    def bounds(self) -> str:
        """In words, the bounds of a number; empty where it has none."""
        return " and ".join(f"{words} {bound:.15g}" for words, bound, _ in self._limits())

    def _limits(self) -> list[tuple[str, float, Callable[[Any, float], bool]]]:
        given = [(words, getattr(self.note, key), holds) for key, words, holds in _LIMITS]
        return [limit for limit in given if limit[1] is not None]

    @property
    def expected(self) -> str:
        """In words, what a value has to be."""
        kinds = {bool: "true or false", str: "a text", int: "a whole number", float: "a number"}
        words = kinds[self.kind] + (f", {self.bounds}" if self.bounds else "")
        if self.closed and self.choices:
            words = " or ".join(filter(None, (", ".join(self.choices[:-1]), self.choices[-1])))
        if self.is_list:
            example = "2048,2048" if self.kind is int else "one,two"
            words = f"a list such as {example}, each {words}"
        return f"{words}, or null" if self.optional else words

    def from_text(self, text: str) -> Any:
        """The value that a flag's text stands for, of a list the items of one word; or an error."""
        if self.is_list and not text.lstrip().startswith("["):
            return [self._checked(self._parsed(item.strip())) for item in text.split(",")]
        if self.is_list:
            return self.from_yaml(parse_value(text))
        if self.optional and (text == "null" or (self.kind is not str and text == "none")):
            return None
        return self._checked(self._parsed(text))

    def from_yaml(self, value: Any) -> Any:
        """The value itself, where it fits; else an :class:`OptionValueError`."""
        if self.optional and value is None:
            return None
        if not self.is_list:
            return self._checked(value)
        if not isinstance(value, list):
            raise self._problem(value)
        return [self._checked(item) for item in value]

    def _parsed(self, text: str) -> Any:
        if self.kind is bool:
            return _TRUTHS.get(text.lower(), text)
        value = text if self.kind is str else parse_value(text)
        return value if type(value) in (int, float) else text

    def _checked(self, value: Any) -> Any:
        """``value`` itself, where it is of this field's kind and within its bounds."""
        if self.kind is float and type(value) is int and abs(value) <= _LARGEST_INT:
            value = float(value)
        fits = type(value) is self.kind and value != ""
        if fits and self.kind in (int, float):
            finite = abs(value) <= _LARGEST_INT if self.kind is int else math.isfinite(value)
            fits = finite and all(holds(value, bound) for _, bound, holds in self._limits())
        if not fits or (self.closed and self.choices and value not in self.choices):
            raise self._problem(value)
        return value

    def _problem(self, value: Any) -> OptionValueError:
        hint = ""
        if self.choices and isinstance(value, str):
            hint = did_you_mean(value, self.choices)
        elif self.kind is str and isinstance(value, (bool, int, float)):
            hint = " (put it in quotes)"
        elif self.kind is str and isinstance(value, os.PathLike):
            hint = " (str() makes one of a path)"
        elif self.kind is int and isinstance(value, int) and value > _LARGEST_INT:
            hint = f" and at most {_LARGEST_INT}" if self.note.maximum is None else ""
        return OptionValueError(f"{shown(value)}: expected {self.expected}{hint}")


def option_values(config_class: type, *, extended: bool = False) -> dict[str, OptionValue]:
    """Name -> :class:`OptionValue`: the fields of a config, then what plugins' components declare.

    Args:
        config_class: a dataclass whose fields are made by :func:`ssfnas.options.option`.
        extended: whether plugins are asked for, whose names are choices as well; the registries
            check them once the plugins are imported.

    Raises:
        RequestError: a plugin declares an option that there is already.
    """
    values = _declared(config_class, extended)
    for selector in list(values.values()):
        for name, component in selector.components.items():
            read = [option for owner in component.reads for option in _declared(owner).values()]
            for option in read:
                taken = values.setdefault(option.name, option).owner is not option.owner
                if taken or option.name in _RESERVED:
                    raise RequestError(
                        f"{selector.name} '{name}' declares the option {option.flag}, which there "
                        "is already: choose another name"
                    )
    return values


def _declared(owner: type, extended: bool = False) -> dict[str, OptionValue]:
    """The options of one dataclass, in its order."""
    hints, blank, values = typing.get_type_hints(owner), owner(), {}
    for entry in dataclasses.fields(owner):
        name, hint, note = entry.name, hints[entry.name], entry.metadata["note"]
        by = next(c for c in owner.__mro__ if name in inspect.get_annotations(c))
        optional = isinstance(hint, types.UnionType)
        hint = typing.get_args(hint)[0] if optional else hint  # written X | None
        is_list = typing.get_origin(hint) is list
        kind = typing.get_args(hint)[0] if is_list else hint
        if kind not in (str, int, float, bool):
            raise TypeError(f"{owner.__name__}.{name}: no flag for type {hints[name]}")
        closed = not (extended and (note.extensible or note.names is not None))
        values[name] = OptionValue(
            name, by, kind, is_list, optional, getattr(blank, name), note, closed
        )
    return values
