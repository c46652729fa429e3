"""A variant of a step in a process of its own, which can be ended and shares no memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.checks import WorkerError, one_line
from benchmarks.step_runner import StepRunner
from ssfnas.runtime.memory import kept_memory, settled_objects


class Worker:
    """A runner in another process.

    Args:
        cache: folder for what torch.compile makes.
        runner: its class.
        what: arguments of that.
    """

    def __init__(self, cache: str, runner: type[StepRunner], *what: Any) -> None:
        # A forked process could neither use CUDA nor threads that it has no part of.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, cache, runner, what), daemon=True
        )
        self._process.start()
        theirs.close()

    def ask(self, question: str, *about: str, seconds: float | None = None) -> Any:
        """The answer of the runner's method of that name.

        Args:
            question: name of the method.
            about: its arguments.
            seconds: how long to wait; after that the process is ended.

        Raises:
            WorkerError: see there.
        """
        with contextlib.suppress(OSError):  # what it failed with may wait to be read
            self._connection.send((question, about))
        try:
            if not self._connection.poll(seconds):
                self.close()
                raise WorkerError(f"not done after {seconds:.0f} s")
            fine, answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode
            raise WorkerError(f"its process ended with exit code {code}") from None
        if not fine:
            raise WorkerError(answer)
        return answer

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.join()


def _serve(
    connection: Connection, cache: str, runner: type[StepRunner], what: tuple[Any, ...]
) -> None:
    # An interruption is the parent's to handle, which ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    try:
        built = runner(*what)
        # As in a run, for every variant.
        with kept_memory(built.device.type), settled_objects():
            while True:
                question, about = connection.recv()
                connection.send((True, getattr(built, question)(*about)))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:
        # Whatever it is, it is one row of a table.
        connection.send((False, one_line(error)))
