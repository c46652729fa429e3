"""Which options have an effect with which others, as the components that read them declare."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from ssfnas.errors import RequestError, written
from ssfnas.option_values import OptionValue


def check_effects(config: Any, options: Mapping[str, OptionValue], given: Iterable[str]) -> None:
    """Refuse options that were given and have no effect.

    Args:
        config: all values.
        options: see :func:`~ssfnas.option_values.option_values`.
        given: names of the options to hold to it.

    Raises:
        RequestError: one has no effect; names the option that it depends on, and its right values.
    """
    for name in given:
        if (obstacle := _obstacle(config, options, name)) is not None:
            other, right = obstacle
            ways = " or ".join(f"{options[other].flag} {written(value)}" for value in right)
            raise RequestError(
                f"{options[name].flag} has no effect with {options[other].flag} "
                f"{written(getattr(config, other))}: leave it out or use {ways}"
            )


def _conditions(options: Mapping[str, OptionValue], name: str) -> dict[str, list[Any]]:
    """Option -> its values with which ``name`` has an effect; one that holds is enough."""
    conditions = {other: list(right) for other, right in options[name].note.only_if.items()}
    for other in options.values():
        right = [
            value
            for value, component in other.components.items()
            if name in {field.name for cls in component.reads for field in dataclasses.fields(cls)}
        ]
        if right:
            conditions[other.name] = right
    return conditions


def _obstacle(
    config: Any, options: Mapping[str, OptionValue], name: str
) -> tuple[str, list[Any]] | None:
    """The option, and its right values, that keeps ``name`` from having an effect."""
    obstacle = None
    for other, right in _conditions(options, name).items():
        deeper = _obstacle(config, options, other)
        value, note = getattr(config, other), options[other].note
        holds = value > 0 if note.turns_on is not None else value in right
        # What goes with a name of a plugin that is not imported, only the plugin knows.
        unknown = note.names is not None and value not in options[other].choices
        if deeper is None and (holds or unknown):
            return None
        obstacle = obstacle or deeper or (other, right)
    return obstacle
