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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ssfnas.errors import RequestError, did_you_mean
from ssfnas.registry import Component
from ssfnas.yaml_files import parse_value

Config = TypeVar("Config")

_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_LARGEST_INT = 2**63 - 1
_LIMITS = {
    "minimum": ("at least", operator.ge),
    "above": ("above", operator.gt),
    "maximum": ("at most", operator.le),
    "below": ("below", operator.lt),
}


def shown(value: Any) -> str:
    """A value as messages show it: on one line, short, quoted where that helps."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) > 60:
        text = text[:57] + "..."
    plain = isinstance(value, str) and text.isprintable() and text.strip() == text and text
    return text if plain or not isinstance(value, str) else ascii(text)


def written(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, list):
        return ",".join(map(str, value)) or "[]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return shown(value)


class OptionValueError(ValueError):
    """A value does not fit its field; the message says what was expected."""


@dataclass(frozen=True)
class OptionValue:
    """What one field may hold.

    Attributes:
        name: of the field, with underscores.
        owner: the dataclass that declares it.
        kind: ``str``, ``int``, ``float`` or ``bool``; of a list, its items' kind.
        is_list: whether the field is a list of them.
        optional: whether it may be None.
        default: the value without a flag.
        metadata: what :func:`ssfnas.options.option` noted.
        choices: the names that it may have; empty: any value of its kind.
        closed: whether other names are refused here.
    """

    name: str
    owner: type
    kind: type
    is_list: bool
    optional: bool
    default: Any
    metadata: Mapping[str, Any]
    choices: tuple[str, ...]
    closed: bool

    @property
    def components(self) -> dict[str, Component]:
        """The components that values of it stand for."""
        if (names := self.metadata["names"]) is not None:
            return {name: names.get(name) for name in names}
        switched = self.metadata["turns_on"]
        return {} if switched is None else {"above 0": switched}

    @property
    def flag(self) -> str:
        """The field as a flag: ``--batch-size``."""
        return "--" + self.name.replace("_", "-")

    @property
    def bounds(self) -> str:
        """In words, the bounds of a number; empty where it has none."""
        given = [(words, self.metadata[key]) for key, (words, _) in _LIMITS.items()]
        return " and ".join(f"{words} {bound:.15g}" for words, bound in given if bound is not None)

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
        """The value that a flag's text stands for; for a list field, the list one word stands for.

        Raises:
            OptionValueError: the text stands for no value of this field.
        """
        if self.is_list and not text.lstrip().startswith("["):
            return [self._checked(self._parsed(item.strip())) for item in text.split(",")]
        if self.is_list:
            return self.from_yaml(parse_value(text))
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
            largest = _LARGEST_INT if self.kind is int else math.inf
            limits = [(self.metadata[key], holds) for key, (_, holds) in _LIMITS.items()]
            fits = abs(value) <= largest and (self.kind is int or math.isfinite(value))
            fits = fits and all(bound is None or holds(value, bound) for bound, holds in limits)
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
            hint = f" and at most {_LARGEST_INT}" if self.metadata["maximum"] is None else ""
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
            for option in (
                o for owner in component.reads for o in _declared(owner, False).values()
            ):
                if values.setdefault(option.name, option).owner is not option.owner:
                    raise RequestError(
                        f"{selector.name} '{name}' declares the option {option.flag}, which there "
                        "is already: choose another name"
                    )
    return values


def _declared(owner: type, extended: bool) -> dict[str, OptionValue]:
    """The options of one dataclass, in its order."""
    hints = typing.get_type_hints(owner)
    values = {}
    for entry in dataclasses.fields(owner):
        by = next(c for c in owner.__mro__ if entry.name in inspect.get_annotations(c))
        hint = hints[entry.name]
        optional = typing.get_origin(hint) in (types.UnionType, typing.Union)
        if optional:
            (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
        is_list = typing.get_origin(hint) is list
        kind = typing.get_args(hint)[0] if is_list else hint
        if kind not in (str, int, float, bool):
            raise TypeError(f"{owner.__name__}.{entry.name}: no flag for type {hint}")
        default = entry.default
        if entry.default_factory is not dataclasses.MISSING:
            default = entry.default_factory()
        noted = entry.metadata
        choices = (*noted["choices"], *(noted["names"] or ()))
        closed = not (extended and noted["extensible"])
        values[entry.name] = OptionValue(
            entry.name, by, kind, is_list, optional, default, noted, choices, closed
        )
    return values


def values_of(config: Any) -> dict[str, Any]:
    """All values of a config, those of plugins' options included."""
    return {**dataclasses.asdict(config), **getattr(config, "more", {})}


def make_config(
    config_class: type[Config], values: Mapping[str, Any], options: Mapping[str, OptionValue]
) -> Config:
    """A config of checked values; what is no field of the class goes to ``more``."""
    own = {entry.name for entry in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    more = {name: option.default for name, option in options.items() if name not in own}
    more |= {name: value for name, value in values.items() if name not in own}
    fields = {name: value for name, value in values.items() if name in own}
    return config_class(**fields, **({"more": more} if more else {}))


def check_values(config: Any) -> None:
    """Hold the values of a config that was made in Python to what its flags would be held to.

    Names that plugins may register are left to the registries; what plugins' options are not given
    becomes their default. Plugins are imported already.

    Raises:
        RequestError: a value has the wrong type or is out of bounds; names class and field.
    """
    values = {n: list(v) if isinstance(v, tuple) else v for n, v in values_of(config).items()}
    options = option_values(type(config), extended=True)
    checked = read_values(options, values, type(config).__name__)
    config.more = make_config(type(config), checked, options).more


def read_values(
    options: Mapping[str, OptionValue],
    values: Mapping[str, Any],
    source: str,
    *,
    lenient: bool = False,
) -> dict[str, Any]:
    """Checked values of fields from a YAML mapping, keys with dashes or underscores.

    Args:
        options: the fields there are; see :func:`option_values`.
        values: what the file holds, without keys that are no fields.
        source: the file, for messages.
        lenient: keep keys that are no fields, as those of plugins that are not imported.

    Raises:
        RequestError: a key is no field, stands twice, or its value does not fit; names ``source``.
    """
    checked: dict[str, Any] = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in options and lenient:
            checked[name] = value
            continue
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
