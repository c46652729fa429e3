"""What goes on exactly where its state was taken."""

from __future__ import annotations

import copy
from typing import Any, ClassVar


class Resumable:
    """Something that goes on exactly where its state was taken.

    Attributes:
        kept: the attributes that the future depends on: plain values, or what has a state itself.
    """

    kept: ClassVar[tuple[str, ...]]

    def state_dict(self) -> dict[str, Any]:
        """Everything that the future depends on."""
        parts = {name: getattr(self, name) for name in self.kept}
        return {
            name: part.state_dict() if hasattr(part, "state_dict") else copy.copy(part)
            for name, part in parts.items()
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where :meth:`state_dict` was taken."""
        for name in self.kept:
            part = getattr(self, name)
            if hasattr(part, "load_state_dict"):
                part.load_state_dict(state[name])
            else:
                setattr(self, name, copy.copy(state[name]))
