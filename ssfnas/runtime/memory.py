"""Memory that a step frees is kept for the next one, not given back to the system."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# Numbers of mallopt in the GNU C library.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
_NEVER = -1
# Large blocks come from the heap, too.
_KEPT = {_MMAP_MAX: 0, _TRIM_THRESHOLD: _NEVER, _TOP_PAD: 64 << 20}
# What they are before anybody sets them; the thresholds then are where they grow to by themselves.
_USUAL = {
    _MMAP_MAX: 65536,
    _MMAP_THRESHOLD: 32 << 20,
    _TRIM_THRESHOLD: 64 << 20,
    _TOP_PAD: 128 << 10,
}

_lock = threading.Lock()
_depth = 0  # contexts that are open, in all threads


def who_keeps_memory() -> str:
    """Whether freed memory is kept, and who says so."""
    if _library() is None:
        return "as the system does (no GNU C library)"
    chosen = variable_of_user(os.environ)
    return f"as {chosen} says" if chosen else "kept while a CPU computes (set by ssfnas)"


def variable_of_user(environ: Mapping[str, str]) -> str | None:
    """The variable by which somebody has decided what the C library does, if there is one."""
    for name, value in environ.items():
        if name.startswith("MALLOC_") or (name == "GLIBC_TUNABLES" and "glibc.malloc" in value):
            return name
    return None


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
    if library is None or variable_of_user(os.environ):
        yield
        return
    _enter(library, 1)
    try:
        yield
    finally:
        _enter(library, -1)


@contextmanager
def settled_objects() -> Iterator[None]:
    """What is there now the garbage collector does not look through inside.

    A supernet is hundreds of thousands of objects, none of which ends while its steps make others.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _enter(library: ctypes.CDLL, step: int) -> None:
    """Count a context; the first sets what is kept, the last gives back what is free."""
    global _depth
    with _lock:
        _depth += step
        if (step, _depth) not in ((1, 1), (-1, 0)):
            return
        for option, value in (_KEPT if step == 1 else _USUAL).items():
            library.mallopt(option, value)
        if step == -1:
            library.malloc_trim(0)


def _library() -> ctypes.CDLL | None:
    """The GNU C library, if that is this process'."""
    try:
        known = (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (AttributeError, OSError, ValueError):
        return None
    return ctypes.CDLL(None) if known else None
