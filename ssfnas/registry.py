"""Names that users type (operations, objectives, losses, ...), each mapped to what builds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from ssfnas.errors import RequestError, did_you_mean

Entry = TypeVar("Entry")


class Registry(Generic[Entry]):
    """An ordered mapping from names to entries whose errors name what was meant.

    Args:
        kind: what an entry is, in the singular, for messages: ``"operation"``.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def add(self, name: str, entry: Entry) -> None:
        """Enter ``entry`` under ``name``; a name that is taken is a :class:`RequestError`."""
        if name in self._entries:
            raise RequestError(f"{self.kind} '{name}' is registered already: choose another name")
        self._entries[name] = entry

    def register(self, name: str) -> Callable[[Entry], Entry]:
        """Decorator form of :meth:`add`."""

        def enter(entry: Entry) -> Entry:
            self.add(name, entry)
            return entry

        return enter

    def get(self, name: str) -> Entry:
        """The entry of that name; for an unknown one a :class:`RequestError` lists the known."""
        if name not in self._entries:
            hint = did_you_mean(f"'{name}'", [f"'{known}'" for known in self._entries])
            known = ", ".join(self._entries)
            raise RequestError(f"unknown {self.kind} '{name}'{hint}: it is one of {known}")
        return self._entries[name]

    def names(self) -> list[str]:
        """All names, in the order of registration."""
        return list(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)
