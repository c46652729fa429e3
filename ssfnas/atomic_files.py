"""Files that are written whole or not at all, whatever ends the process meanwhile."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ssfnas.errors import RequestError

PARTIAL_SUFFIX = ".partial"

_REMEDIES = {
    errno.ENOSPC: "make room on that disk; a run goes on with --resume",
    errno.EDQUOT: "make room in that quota; a run goes on with --resume",
    errno.EROFS: "choose a folder that can be written",
    errno.EACCES: "choose a folder that can be written",
    errno.EPERM: "choose a folder that can be written",
    errno.ENOENT: "the folder is gone: choose another",
    errno.ENOTDIR: "a part of that path is a file: choose another",
    errno.EISDIR: "a folder has that name: choose another",
    errno.EBUSY: "a folder has that name: choose another",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def write_problem(error: OSError, path: Path) -> RequestError:
    """The one line that tells why ``path`` could not be written, and what to do."""
    reason = error.strerror or str(error)
    remedy = _REMEDIES.get(error.errno or 0, "check that disk")
    return RequestError(f"cannot write {path}: {reason}: {remedy}")


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path`` so that a reader finds the old file or the new one, never a part.

    Written beside, synced, renamed, and the folder synced: after it returns the new file outlives a
    power cut. Where it raises, the old file is as it was, unless only the last of these failed.

    Raises:
        RequestError: the disk is full, read-only, or otherwise refuses.
    """
    with written_atomically(path) as file:
        file.write(data)


@contextlib.contextmanager
def written_atomically(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` when the block has ended well.

    For what is too much to be held in memory; otherwise as :func:`write_atomically`. Whatever ends
    the block early leaves ``path`` as it was.

    Raises:
        RequestError: the disk is full, read-only, or otherwise refuses, at once where it can be
            told.
    """
    path = Path(path)
    partial = path.parent / f".{path.name}.{os.getpid()}{PARTIAL_SUFFIX}"
    try:
        if path.is_dir():
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
        try:
            with open(partial, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise write_problem(error, path) from error


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable; does nothing where a file system knows no such thing."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
