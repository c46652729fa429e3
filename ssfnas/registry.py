"""Names that users type (operations, objectives, losses, ...), each mapped to what builds it."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ssfnas.errors import RequestError, did_you_mean

Entry = TypeVar("Entry")
Declared = TypeVar("Declared", bound="Component")
Build = TypeVar("Build", bound=Callable[..., Any])


class Registry(Generic[Entry]):
    """Names and their entries, in the order of registration; errors say what was meant.

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
            raise RequestError(
                f"unknown {self.kind} '{name}'{hint}: it is one of {known}, or "
                "one of --plugins FILE.py"
            )
        return self._entries[name]

    def entries(self) -> dict[str, Entry]:
        """Name -> entry, in the order of registration."""
        return dict(self._entries)

    def names(self) -> list[str]:
        """All names, in the order of registration."""
        return list(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)


@dataclass(frozen=True)
class Component:
    """What stands under a name: what builds it, and the options that it reads.

    Kinds of components add *traits*: what the rest of the program has to know of one.

    Attributes:
        build: a callable, or where one is to be found when it is first called:
            ``"package.module:name"``. So declarations cost no import of torch.
        options: dataclasses of the options that ``build`` is given or reads.
        for_labels: it may be named for images with several labels each.
    """

    build: Callable[..., Any] | str
    options: tuple[type, ...] = ()
    for_labels: bool = True

    @property
    def reads(self) -> tuple[type, ...]:
        """All options that have an effect with it: its own, and those that its traits imply."""
        return self.options

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What ``build`` makes of the arguments."""
        build = self.build
        if isinstance(build, str):
            module, _, name = build.partition(":")
            build = getattr(importlib.import_module(module), name)
        return build(*args, **kwargs)

    def settings(self, config: Any) -> dict[str, Any]:
        """Its own options' values in a config; the default where that does not have one."""
        return {name: getattr(config, name, value) for name, value in self.defaults().items()}

    def defaults(self) -> dict[str, Any]:
        """Its own options and their defaults."""
        owners = [owner() for owner in self.options]
        return {
            f.name: getattr(owner, f.name) for owner in owners for f in dataclasses.fields(owner)
        }


class Components(Registry[Declared]):
    """A registry of components.

    Args:
        kind: see :class:`Registry`.
        component: the class of its entries.
    """

    def __init__(self, kind: str, component: type[Declared]) -> None:
        super().__init__(kind)
        self.component = component

    def register(self, name: str, **declared: Any) -> Callable[[Build], Build]:  # type: ignore[override]
        """Decorator that enters what builds a component, with its options and traits."""

        def enter(build: Build) -> Build:
            self.add(name, self.component(build, **declared))
            return build

        return enter

    def build(self, name: str, options: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Build the entry of that name, given its own among the options of all entries.

        Raises:
            RequestError: there is none.
            TypeError: an option is none of any entry.
        """
        chosen = self.get(name)
        known = {option for entry in self._entries.values() for option in entry.defaults()}
        if strange := set(options) - known:
            raise TypeError(f"no {self.kind} has an option {', '.join(sorted(strange))}")
        own = {key: options.get(key, value) for key, value in chosen.defaults().items()}
        return chosen(*args, **kwargs, **own)
