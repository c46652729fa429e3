"""When operations leave a search."""

from __future__ import annotations

from dataclasses import dataclass

from ssfnas.options import option
from ssfnas.registry import Component


@dataclass(kw_only=True)
class ClosingOptions:
    """Closing of operations."""

    close_after: int = option(
        2, "epochs of training alpha before which no operation is closed", minimum=0
    )
    close_patience: int = option(
        2,
        "epochs in a row after which an operation's weight has to be below to close it",
        minimum=1,
    )


CLOSING = Component("ssfnas.strategies.closing:Closing", (ClosingOptions,))
