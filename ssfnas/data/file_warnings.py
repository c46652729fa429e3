"""What Pillow warns of while it reads many files: each kind once, with the file it is about."""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from PIL import Image

Found = tuple[Path, str]
"""A file, and what was warned of it."""

_current = threading.local()
_said: set[str] = set()
_recording = threading.Lock()


def _record_anew() -> None:
    """A process that was forked within a pass has passes of its own."""
    global _recording
    _recording = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_record_anew)


@contextmanager
def about(path: Path) -> Iterator[None]:
    """What is warned of in this thread is about that file."""
    _current.path = path
    try:
        yield
    finally:
        _current.path = None


@contextmanager
def recorded_warnings() -> Iterator[list[Found]]:
    """Keep what is warned about files instead of showing it, whatever threads read them.

    Which warnings are shown is a setting of the whole process: inside another such pass nothing is
    recorded, since that one does.
    """
    found: list[Found] = []
    if not _recording.acquire(blocking=False):
        yield found
        return
    try:
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
                else:
                    found.append((path, " ".join(str(message).split())))

            warnings.showwarning = record
            yield found
    finally:
        _recording.release()


@contextmanager
def gathered_warnings(*, once: bool = False) -> Iterator[None]:
    """Say what is warned of inside when it ends: a line a kind, naming the first of the files.

    Args:
        once: leave out what this process has said before.
    """
    with recorded_warnings() as found:
        yield
    kinds: dict[str, list[Found]] = {}
    for path, text in found:
        # The same with other numbers is the same kind.
        kinds.setdefault(re.sub(r"\d+", "#", text), []).append((path, text))
    for kind, alike in kinds.items():
        if once and kind in _said:
            continue
        _said.add(kind)
        path, text = alike[0]
        others = len({other for other, _ in alike}) - 1
        more = f" (and so {others:,} more files)" if others else ""
        warnings.warn(f"{path}: {text}{more}", stacklevel=4)
