"""The two ways in which a run of ssfnas may end early by itself, and words for their messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class RequestError(ValueError):
    """What was asked for is wrong: commands print the message as one line and exit with code 2.

    The message says what is wrong, where, and what would be right.

    Attributes:
        everywhere: each of the processes that run together finds it, so that one of them says it.
    """

    everywhere = False


@contextmanager
def found_everywhere() -> Iterator[None]:
    """Mark what is refused inside as refused by every process that runs together with this one."""
    try:
        yield
    except RequestError as error:
        error.everywhere = True
        raise


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``" (did you mean ...?)"``, or nothing where no known name comes near."""
    by_core = {other.lstrip("-").lower(): other for other in known}
    close = difflib.get_close_matches(name.lstrip("-").lower(), by_core, n=1)
    return f" (did you mean {by_core[close[0]]}?)" if close else ""


def shown(value: Any) -> str:
    """A value as messages show it: on one line, short, quoted where that helps."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) > 60:
        text = text[:57] + "..."
    plain = isinstance(value, str) and text.isprintable() and text.strip() == text and text
    return text if plain or not isinstance(value, str) else ascii(text)


def printable(text: str) -> str:
    """A text on one line that any terminal and any page shows; the rest as Python escapes it."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def written(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, list):
        return ",".join(map(str, value)) or "[]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return shown(value)


class NumericalError(RuntimeError):
    """A loss or a weight became NaN or infinite.

    The message names the step, the term, and the checkpoint to go back to.
    """
