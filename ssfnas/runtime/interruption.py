"""Stopping on SIGINT or SIGTERM where the state can be saved, not in the middle of a step."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_STDERR = 2
BEFORE_THE_LOOP = "stopping after the first step, with its state saved"
IN_THE_LOOP = "stopping after this step, with its state saved"
AFTER_THE_LOOP = "trained already, the results are being written"


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

    It is answered at once, as a step may take minutes: with what is going to happen, by the first
    process of those that run together. A second SIGINT raises ``KeyboardInterrupt`` at once, for a
    run that does not come to its next look. The former handlers are back afterward. Outside the
    main thread, where Python allows no handlers, signals keep their meaning and :attr:`signal`
    stays None.

    Attributes:
        signal: the number of the first signal that came, here or to a process that this one
            follows; or None.
        outlook: what the first signal leads to, as things stand.
        show: takes the answer where it can be shown, and says whether it can; it is called in the
            handler, so it may neither wait nor write to a buffered stream.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.outlook = BEFORE_THE_LOOP
        self.show: Callable[[str], bool] | None = None
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
            self._answer()
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    def _answer(self) -> None:
        if os.environ.get("RANK", "0") != "0":
            return
        text = f"{self.outlook}; Ctrl-C once more stops at once"
        if self.show is None or not self.show(text):
            with contextlib.suppress(OSError):
                os.write(_STDERR, f"{text}\n".encode())  # unbuffered: nothing to be torn

    def stop(self, message: str) -> Interrupted:
        """The exception to raise once the state is saved: ``raise interruption.stop("...")``.

        Args:
            message: what to print: where the state is, and the line to resume.
        """
        assert self.signal is not None
        return Interrupted(self.signal, message)
