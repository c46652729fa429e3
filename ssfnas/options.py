"""How an option is declared: a dataclass field with its documentation and the values it may have.

A field made by :func:`option` is a flag (``batch_size`` is ``--batch-size``), a key of a YAML file,
and an attribute of a config. What reads options declares them in a dataclass beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssfnas.registry import Component, Components


def option(
    default: Any,
    help: str,
    *,
    choices: Sequence[str] = (),
    names: Components[Any] | None = None,
    extensible: bool = False,
    turns_on: Component | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    only_if: dict[str, tuple[Any, ...]] | None = None,
    required: bool = False,
) -> Any:
    """A dataclass field with its documentation and the values that it may have.

    Args:
        default: the value without a flag; a list is copied for each config.
        help: one sentence for ``--help``.
        choices: the only values allowed, where they are names.
        names: whose entries are allowed as well, those of plugins included. The options that the
            entries declare have an effect only with an entry that declares them.
        extensible: plugins add names to ``choices``; whoever looks a name up refuses others.
        turns_on: the component that a value above 0 turns on; its options have no effect otherwise.
        minimum, maximum: bounds that are allowed themselves.
        above, below: bounds that are not.
        only_if: other fields and the values of them with which this one has a meaning; given as a
            flag without that, it is an error instead of being ignored.
        required: the command cannot run without it.
    """
    metadata = {
        "help": help,
        "choices": tuple(choices),
        "names": names,
        "extensible": extensible or names is not None,
        "turns_on": turns_on,
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
        "below": below,
        "only_if": only_if or {},
        "required": required,
    }
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)
