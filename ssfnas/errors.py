"""The two ways in which a run of ssfnas may end early by itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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


class NumericalError(RuntimeError):
    """A loss or a weight became NaN or infinite.

    The message names the step, the term, and the checkpoint to go back to.
    """
