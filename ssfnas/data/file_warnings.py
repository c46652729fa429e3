"""What Pillow warns of while it reads many files: each kind once, with the file it is about."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from PIL import Image

_current = threading.local()
_said: set[str] = set()


@contextmanager
def about(path: Path) -> Iterator[None]:
    """What is warned of in this thread is about that file."""
    _current.path = path
    try:
        yield
    finally:
        _current.path = None


@contextmanager
def gathered_warnings(*, once: bool = False) -> Iterator[None]:
    """Say what is warned of inside when it ends: a line a kind, naming the first of the files.

    Wrapped around a pass over many files, whatever threads read them: which warnings are shown is a
    setting of the whole process.

    Args:
        once: leave out what this process has said before.
    """
    kinds: dict[str, tuple[Path, str, set[Path]]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        show_others = warnings.showwarning

        def record(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            path = getattr(_current, "path", None)
            if path is None:
                show_others(message, category, filename, lineno, file, line)
                return
            text = " ".join(str(message).split())
            # The same with other numbers is the same kind.
            kinds.setdefault(re.sub(r"\d+", "#", text), (path, text, set()))[2].add(path)

        warnings.showwarning = record
        yield
    for kind, (path, text, paths) in kinds.items():
        if once and kind in _said:
            continue
        _said.add(kind)
        more = f" (and so {len(paths) - 1:,} more files)" if len(paths) > 1 else ""
        warnings.warn(f"{path}: {text}{more}", stacklevel=4)
