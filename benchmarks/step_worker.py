"""A variant of a search step in a process of its own, which can be ended and shares no memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.step_runner import StepRunner, StepVariant
from ssfnas.config import SearchConfig


class WorkerError(RuntimeError):
    """A variant could not be built or run, ended by itself, or took too long."""


class Worker:
    """A :class:`StepRunner` in another process.

    Args:
        variant, config, device: see there.
        cache: folder for what torch.compile makes.
        checked_images: see there.
    """

    def __init__(
        self,
        variant: StepVariant,
        config: SearchConfig,
        device: str,
        cache: str,
        checked_images: int,
    ) -> None:
        # A forked process could neither use CUDA nor threads that it has no part of.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(theirs, cache, variant, config, device, checked_images),
            daemon=True,
        )
        self._process.start()
        theirs.close()
        self._built = False

    def ask(self, question: str, seconds: float | None = None) -> Any:
        """The answer of the runner's method of that name.

        Args:
            question: name of the method.
            seconds: how long to wait; after that the process is ended.

        Raises:
            WorkerError: see there; one line.
        """
        if not self._built:
            self._answer(None)
            self._built = True
        try:
            self._connection.send(question)
        except OSError:
            raise WorkerError(self._ended()) from None
        return self._answer(seconds)

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.kill()
        self._process.join()

    def _answer(self, seconds: float | None) -> Any:
        if not self._connection.poll(seconds):
            self.close()
            raise WorkerError(f"not done after {seconds:.0f} s")
        try:
            fine, answer = self._connection.recv()
        except (EOFError, OSError):
            raise WorkerError(self._ended()) from None
        if not fine:
            raise WorkerError(answer)
        return answer

    def _ended(self) -> str:
        self._process.join()
        return f"its process ended with exit code {self._process.exitcode}"


def _serve(connection: Connection, cache: str, *what: Any) -> None:
    # An interruption is the parent's to handle, which ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    try:
        runner = StepRunner(*what)
        connection.send((True, None))
        while True:
            question = connection.recv()
            connection.send((True, getattr(runner, question)()))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:
        # Whatever it is, it is one row of a table.
        lines = str(error).splitlines() or [""]
        connection.send((False, f"{type(error).__name__}: {lines[0]}"))
