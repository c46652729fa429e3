"""Importing everything at once, at the start of a command."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def first_imports() -> Iterator[None]:
    """Imports what a command needs without collecting garbage meanwhile.

    Importing torch and its like makes a million objects that all stay: looking through them again
    and again takes as long as a third of the imports. They are set aside, so that nothing looks at
    them later either, at the exit least of all. In a process that has the package already, as with
    tests or a notebook, nothing is changed.
    """
    if "ssfnas.pictures" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
