"""How an option is declared: a dataclass field with its documentation and the values it may have.

A field made by :func:`option` is a flag (``batch_size`` is ``--batch-size``), a key of a YAML file,
and an attribute of a config. What reads options declares them in a dataclass beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssfnas.registry import Component, Components


@dataclass(frozen=True, kw_only=True)
class Note:
    """What an option means, and what it may be.

    Attributes:
        help: one sentence for ``--help``.
        choices: the only values allowed, where they are names.
        names: whose entries are allowed as well, those of plugins included. The options that the
            entries read have an effect only with an entry that reads them.
        extensible: plugins add names to ``choices``; whoever looks a name up refuses others.
        turns_on: the component that a value above 0 turns on; what it reads has no effect without.
        minimum, maximum: bounds that are allowed themselves.
        above, below: bounds that are not.
        only_if: other options and the values of them with which this one has an effect.
        required: the command cannot run without it.
    """

    help: str
    choices: tuple[str, ...] = ()
    names: Components[Any] | None = None
    extensible: bool = False
    turns_on: Component | None = None
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None
    only_if: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    required: bool = False


def option(default: Any, help: str, **noted: Any) -> Any:
    """A dataclass field with its default, of which every config gets its own; see :class:`Note`."""
    metadata = {"note": Note(help=help, **noted)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)
