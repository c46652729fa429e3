"""From the way in which a command ends to an exit code and one line on stderr."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable
from typing import TextIO, TypeVar

from ssfnas.errors import NumericalError, RequestError, found_everywhere, printable
from ssfnas.runtime.interruption import Interrupted

Request = TypeVar("Request")

_REFUSED_BY_SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def exit_code(
    prog: str, request: Callable[[], Request], run: Callable[[Request], int | None]
) -> int:
    """Find out what is asked for and do it.

    Args:
        prog: who speaks: ``"ssfnas.search"``.
        request: makes the request; every process that runs together makes the same.
        run: does what it says.

    Returns:
        what ``run`` returned (None: 0); 2 where the request was wrong or the system refused a file,
        with one line on stderr (where all processes find it, the first of a machine says it); 1
        where numbers or memory gave out, likewise; 130 or 143 after SIGINT or SIGTERM. Any other
        exception is a fault of the program: it keeps its traceback.
    """

    def complain(message: str, level: str = "error") -> None:
        rank = os.environ.get("RANK", "0")
        who = prog if rank == "0" else f"{prog}[rank {rank}]"
        print(f"{who}: {level}: {_one_line(message)}", file=sys.stderr, flush=True)

    def warn(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        complain(str(message), "warning")

    try:
        with warnings.catch_warnings():
            warnings.showwarning = warn
            with found_everywhere():
                asked = request()
            return run(asked) or 0
    except RequestError as error:
        # Files may differ from machine to machine, so the first process of each speaks.
        local_rank = os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0"))
        if not error.everywhere or local_rank == "0":
            complain(str(error))
        return 2
    except NumericalError as error:
        complain(str(error))
        return 1
    except Interrupted as interrupted:
        complain(str(interrupted), "interrupted")
        return interrupted.exit_code
    except KeyboardInterrupt:
        complain("stopped at once: what was written before is kept", "interrupted")
        return 130
    except BrokenPipeError:
        # The reader of a pipe went away: say no more, not even when Python flushes at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in _REFUSED_BY_SYSTEM:
            raise
        what = "a file" if error.filename is None else str(error.filename)
        complain(f"cannot use {what}: {error.strerror}: choose a place with room and permission")
        return 2
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, without importing torch
            raise
        complain(f"out of memory on the device: use a smaller --batch-size ({error})")
        return 1


def _one_line(message: str) -> str:
    return printable(" ".join(message.split()))
