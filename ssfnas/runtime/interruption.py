"""Stopping on SIGINT or SIGTERM where the state can be saved, not in the middle of a step."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):  # noqa: N818
    """The run stopped on a signal with its state saved.

    Attributes:
        exit_code: what the process has to end with: 130 after SIGINT, 143 after SIGTERM.
    """

    def __init__(self, signal_number: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number  # the shell's convention


class Interruption:
    """While entered, the first SIGINT or SIGTERM is only noted; loops look at :attr:`signal`.

    A second SIGINT raises ``KeyboardInterrupt`` at once, for a run that does not come to its next
    look. The former handlers are back afterward. Outside the main thread, where Python allows no
    handlers, signals keep their meaning and :attr:`signal` stays None.

    Attributes:
        signal: the number of the first signal that came, here or to a process that this one
            follows; or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._former.items():
            # None: the handler was not set from Python, so Python cannot set it back.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._former.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None:
            self.signal = int(number)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    def stop(self, message: str) -> Interrupted:
        """The exception to raise once the state is saved: ``raise interruption.stop("...")``.

        Args:
            message: what to print: where the state is, and the line to resume.
        """
        assert self.signal is not None
        return Interrupted(self.signal, message)
