"""Options: how they are declared, what they may hold, and with which others they have an effect.

A dataclass field made by :func:`option` is a flag (``batch_size`` is ``--batch-size``), a key of a
YAML file, and an attribute of a config. What reads options declares them in a dataclass beside it;
one :class:`OptionValue` knows one such field.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import math
import operator
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ssfnas.errors import RequestError, did_you_mean, shown, written
from ssfnas.registry import Component, Components
from ssfnas.yaml_files import parse_value

_TRUTHS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_KINDS = {bool: "true or false", str: "a text", int: "a whole number", float: "a number"}
_LARGEST_INT = 2**63 - 1
_RESERVED = ("preset", "config", "print_config", "help", "command", "environment", "more", "origin")
_LIMITS = (
    ("minimum", "at least", operator.ge),
    ("above", "above", operator.gt),
    ("maximum", "at most", operator.le),
    ("below", "below", operator.lt),
)


@dataclass(frozen=True, kw_only=True)
class Note:
    """What an option means, and what it may be.

    Attributes:
        help: one sentence for ``--help``.
        choices: the only values allowed, where they are names.
        names: whose entries are allowed as well, those of plugins included. The options that the
            entries read have an effect only with an entry that reads them.
        extensible: plugins add names to ``choices``; whoever looks a name up refuses others.
        turns_on: the component that any value but those of ``off`` turns on; what it reads has no
            effect without.
        off: the values that turn nothing on.
        minimum, maximum: bounds that are allowed themselves.
        above, below: bounds that are not.
        only_if: other options and the values of them with which this one has an effect; all of
            them have to hold.
        single_label: it has an effect only on images with one label each.
        required: the command cannot run without it.
        positional: it has no flag: all words that belong to no flag are its values, as they stand.
        endings: how the name of a file has to end.
        alone: what a flag stands for that no word of such an ending follows; None: it has to have
            a value.
    """

    help: str
    choices: tuple[str, ...] = ()
    names: Components[Any] | None = None
    extensible: bool = False
    turns_on: Component | None = None
    off: tuple[Any, ...] = (None, 0)
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    only_if: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    single_label: bool = False
    required: bool = False
    positional: bool = False
    endings: tuple[str, ...] = ()
    alone: str | None = None


def option(default: Any, help: str, **noted: Any) -> Any:
    """A dataclass field with its default, of which every config gets its own; see :class:`Note`."""
    metadata = {"note": Note(help=help, **noted)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


class OptionValueError(argparse.ArgumentTypeError):
    """A value does not fit its field; the message says what was expected."""


@dataclass(frozen=True, kw_only=True)
class OptionValue(Note):
    """What one option may hold; ``choices`` has the names of the components as well.

    Attributes:
        name: of the field, with underscores.
        owner: the dataclass that declares it.
        kind: ``str``, ``int``, ``float`` or ``bool``; of a list, its items' kind.
        is_list: whether it is a list of them.
        optional: whether it may be None.
        default: the value without a flag.
        closed: whether names that are no choices are refused here.
        needs: option -> its values whose components read this one; one that holds is enough, and
            where there is none it is read without any.
    """

    name: str
    owner: type
    kind: type
    is_list: bool
    optional: bool
    default: Any
    closed: bool
    needs: dict[str, list[str]]

    @property
    def components(self) -> dict[str, Component]:
        """The components that values of it stand for."""
        if self.turns_on is not None:
            numbers = [value for value in self.off if value is not None]
            return {f"above {max(numbers):g}" if numbers else "X": self.turns_on}
        return {} if self.names is None else self.names.entries()

    def chooses(self, value: Any, names: Iterable[str]) -> bool:
        """Whether a value stands for one of these components."""
        if self.turns_on is not None:
            return value not in self.off
        # What goes with a name of a plugin that is not imported, only the plugin knows.
        return value in names or (self.names is not None and value not in self.choices)

    @property
    def flag(self) -> str:
        """The field as a flag: ``--batch-size``; ``IMAGES`` where it has none."""
        return self.name.upper() if self.positional else "--" + self.name.replace("_", "-")

    @property
    def bounds(self) -> str:
        """In words, the bounds of a number; empty where it has none."""
        return " and ".join(f"{words} {bound:.15g}" for words, bound, _ in self._limits())

    def _limits(self) -> list[tuple[str, float, Callable[[Any, float], bool]]]:
        given = [(words, getattr(self, key), holds) for key, words, holds in _LIMITS]
        return [limit for limit in given if limit[1] is not None]

    @property
    def expected(self) -> str:
        """In words, what a value has to be."""
        words = _KINDS[self.kind] + (f", {self.bounds}" if self.bounds else "")
        if self.endings:
            words = f"a name that ends in {' or '.join(self.endings)}"
        if self.closed and self.choices:
            words = " or ".join(filter(None, (", ".join(self.choices[:-1]), self.choices[-1])))
            if self.extensible or self.names is not None:
                words += ", or one of --plugins FILE.py"
        if self.is_list:
            example = {int: "2048,2048", float: "0.1,0.01"}.get(self.kind, "one,two")
            words = f"a list such as {example}, each {words}"
        return f"{words}, or null" if self.optional else words

    def ends_well(self, text: str) -> bool:
        """Whether the name of a file ends as it has to."""
        return text.lower().endswith(self.endings) if self.endings else True

    def from_text(self, text: str) -> Any:
        """The value that a flag's text stands for, of a list the items of one word; or an error."""
        if self.is_list and text.lstrip().startswith("["):
            return self.from_yaml(parse_value(text))
        if self.is_list:
            return self.from_yaml([self._meant(item.strip()) for item in text.split(",")])
        if self.optional and (text == "null" or (self.kind is not str and text == "none")):
            return None
        return self._checked(self._meant(text))

    def from_yaml(self, value: Any) -> Any:
        """The value itself, where it fits; else an :class:`OptionValueError`."""
        if self.optional and value is None:
            return None
        if not self.is_list:
            return self._checked(value)
        if not isinstance(value, list):
            raise self._problem(value)
        return [self._checked(item) for item in value]

    def _meant(self, text: str) -> Any:
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
        fits = fits and (self.kind is not str or value == self.alone or self.ends_well(value))
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
            hint = f" and at most {_LARGEST_INT}" if self.maximum is None else ""
        return OptionValueError(f"{shown(value)}: expected {self.expected}{hint}")


def option_values(config_class: type, *, extended: bool = False) -> dict[str, OptionValue]:
    """Name -> :class:`OptionValue`: the fields of a config, then what plugins' components declare.

    Args:
        config_class: a dataclass whose fields are made by :func:`option`.
        extended: whether plugins are asked for, whose names are choices as well; the registries
            check them once the plugins are imported.

    Raises:
        RequestError: a plugin declares an option that there is already.
    """
    values = _declared(config_class, extended)
    for selector in list(values.values()):
        for name, component in selector.components.items():
            for read in [o for owner in component.reads for o in _declared(owner).values()]:
                known = values.setdefault(read.name, read)
                if known.owner is not read.owner or read.name in _RESERVED:
                    raise RequestError(
                        f"{selector.name} '{name}' declares the option {read.flag}, which there "
                        "is already: choose another name"
                    )
                right = known.needs.setdefault(selector.name, [])
                if name not in right:
                    right.append(name)
    return values


def _declared(owner: type, extended: bool = False) -> dict[str, OptionValue]:
    """The options of one dataclass, in its order."""
    hints, blank, values = typing.get_type_hints(owner), owner(), {}
    for entry in dataclasses.fields(owner):
        name, hint, note = entry.name, hints[entry.name], entry.metadata["note"]
        optional = isinstance(hint, types.UnionType)
        hint = typing.get_args(hint)[0] if optional else hint  # written X | None
        is_list = typing.get_origin(hint) is list
        kind = typing.get_args(hint)[0] if is_list else hint
        if kind not in _KINDS:
            raise TypeError(f"{owner.__name__}.{name}: no flag for type {hints[name]}")
        values[name] = OptionValue(
            **{**vars(note), "choices": (*note.choices, *(note.names or ()))},
            name=name,
            owner=next(c for c in owner.__mro__ if name in inspect.get_annotations(c)),
            kind=kind,
            is_list=is_list,
            optional=optional,
            default=getattr(blank, name),
            closed=not (extended and (note.extensible or note.names is not None)),
            needs={},
        )
    return values


@dataclass(frozen=True)
class Obstacle:
    """What keeps an option from having an effect.

    Attributes:
        given: what it has none with: another option and its value, or the data.
        ways: what it would have one with; empty where that is not to be chosen.
    """

    given: str
    ways: tuple[str, ...] = ()


def obstacles(
    config: Any, options: Mapping[str, OptionValue], *, multi_label: bool = False
) -> dict[str, Obstacle]:
    """The options that have no effect with the other values of a config, and why.

    Nothing else decides that: a test runs trainings whose configs note what is read of them, and
    compares.

    Args:
        config: its values are checked already.
        options: those of its class; see :func:`option_values`.
        multi_label: whether the data are known to have several labels an image.
    """
    found: dict[str, Obstacle | None] = {}

    def given(other: str) -> str:
        return f"{options[other].flag} {written(getattr(config, other))}"

    def obstacle(name: str) -> Obstacle | None:
        if name not in found:
            found[name] = _first(name)
        return found[name]

    def _first(name: str) -> Obstacle | None:
        option = options[name]
        if multi_label and option.single_label:
            return Obstacle("multi-label data")
        for other, right in option.only_if.items():
            if (deeper := obstacle(other)) is not None:
                return deeper
            if getattr(config, other) not in right:
                ways = tuple(f"{options[other].flag} {written(value)}" for value in right)
                return Obstacle(given(other), ways)
        deeper, without, ways = None, None, ()
        # What is chosen by name is said before what a number turns on.
        needed = sorted(option.needs.items(), key=lambda need: options[need[0]].names is None)
        for other, names in needed:
            above = obstacle(other)
            if above is not None:
                deeper = deeper or above
                continue
            if options[other].chooses(getattr(config, other), names):
                return None
            without = without or given(other)
            ways += tuple(f"{options[other].flag} {name}" for name in names)
        return deeper if without is None else Obstacle(without, ways)

    for name in options:
        obstacle(name)
    return {name: why for name, why in found.items() if why is not None}


def check_effects(config: Any, options: Mapping[str, OptionValue], given: Iterable[str]) -> None:
    """Refuse options that were given and have no effect with the other values of the config.

    Raises:
        RequestError: one has no effect; names the option that it depends on, and its right values.
    """
    found = obstacles(config, options)
    for name in given:
        if (why := found.get(name)) is None:
            continue
        turned_off = getattr(config, name) is False and options[name].default is True
        flag = options[name].flag.replace("--", "--no-", 1) if turned_off else options[name].flag
        raise RequestError(
            f"{flag} has no effect with {why.given}: leave it out or use {' or '.join(why.ways)}"
        )


def check_multi_label(config: Any, options: Mapping[str, OptionValue]) -> None:
    """Refuse values that ask for what images with several labels each do not have.

    Options at their default and switches that are off ask for nothing.

    Raises:
        RequestError: one has an effect only on images with one label each; names it.
    """
    before = obstacles(config, options)
    after = obstacles(config, options, multi_label=True)
    for name, option in options.items():
        value = getattr(config, name)
        if value == option.default or value is False or name in before:
            continue
        chosen = option.components.get(value) if option.names is not None else None
        unfit = chosen is not None and not chosen.for_labels
        if unfit or name in after:
            asked = option.flag if value is True else f"{option.flag} {written(value)}"
            plain = (
                "leave it out"
                if unfit or value is True
                else f"leave it at {written(option.default)}"
            )
            raise RequestError(f"{asked} has no effect on multi-label data: {plain}")
