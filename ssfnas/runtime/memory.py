"""Memory that a step frees is kept for the next one, not given back to the system."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# Numbers of mallopt in the GNU C library.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_NEVER = -1
_PAD = 64 << 20
# What they are before anybody sets them; the threshold then is where it grows to by itself.
_USUAL = {_MMAP_MAX: 65536, _TRIM_THRESHOLD: 64 << 20, _TOP_PAD: 128 << 10}


def who_keeps_memory(environ: Mapping[str, str] | None = None) -> str:
    """Whether freed memory is kept, and why.

    Args:
        environ: variables of the environment; None: this process'.
    """
    environ = os.environ if environ is None else environ
    for name, value in environ.items():
        if name.startswith("MALLOC_") or (name == "GLIBC_TUNABLES" and "glibc.malloc" in value):
            return f"as {name} says"
    if _library() is None:
        return "as the system does (no GNU C library)"
    return "kept while a CPU computes (set by ssfnas)"


@contextmanager
def kept_memory(device_type: str) -> Iterator[None]:
    """Keep freed memory in the process while a CPU computes, and give it back afterward.

    A step asks for what the last one has freed. The GNU C library by itself gives large blocks back
    to the system, which clears every page that is asked for again: 90,000 a step of a small
    retraining, with a fifth of its time.

    Args:
        device_type: what computes; memory of a GPU is kept by torch.
    """
    library = _library() if device_type == "cpu" else None
    if library is None or not who_keeps_memory().startswith("kept"):
        yield
        return
    library.mallopt(_MMAP_MAX, 0)  # large blocks come from the heap, too
    library.mallopt(_TRIM_THRESHOLD, _NEVER)
    library.mallopt(_TOP_PAD, _PAD)
    try:
        yield
    finally:
        for option, value in _USUAL.items():
            library.mallopt(option, value)
        library.malloc_trim(0)


def _library() -> ctypes.CDLL | None:
    """The GNU C library, if that is this process'."""
    try:
        known = (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, OSError, ValueError):
        return None
    return ctypes.CDLL(None) if known else None
