"""How far a loop is: a bar with rate, remaining time and current values, or plain lines."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskProgressColumn,
    TextColumn,
)
from rich.progress import Progress as RichProgress
from rich.text import Text

Values = Mapping[str, float] | Callable[[], Mapping[str, float]]

_RATE_WINDOW = 60.0
_RATE_STEPS = 4096
_BAR_INTERVAL = 0.5


class Progress:
    """Shows the progress of a loop while entered.

    Args:
        total: the steps there are.
        title: what stands before the bar.
        start: steps done already.
        enabled: False shows nothing.
        interval: seconds between plain lines, where the stream is no terminal.
        stream: where to write; None: stderr.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        total: int,
        *,
        title: str = "",
        start: int = 0,
        enabled: bool = True,
        interval: float = 30.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.title, self.step = total, title, start
        self.enabled = enabled
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._seen = deque([(clock(), start)], maxlen=_RATE_STEPS)
        self._shown_at, self._shown_step = clock(), start
        self._values: Values = {}
        self._console = Console(file=self._stream)
        self._bar: RichProgress | None = None
        self._interval = interval
        if enabled and self._console.is_terminal and not self._console.is_dumb_terminal:
            self._interval = _BAR_INTERVAL
            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[state]}"),
                console=self._console,
            )
            self._task = self._bar.add_task(title, total=total, completed=start, state="")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.enabled and self.step != self._shown_step:
            self._show()
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, values: Values | None = None) -> None:
        """Say that ``step`` steps are done.

        Args:
            step: steps done.
            values: current numbers; a function is called only when they are shown, as making them
                may wait for the device.
        """
        self.step = step
        if values is not None:
            self._values = values
        if not self.enabled:
            return
        now = self._clock()
        self._seen.append((now, step))
        while len(self._seen) > 2 and now - self._seen[0][0] > _RATE_WINDOW:
            self._seen.popleft()
        if now - self._shown_at >= self._interval:
            self._show()

    def rate(self) -> float | None:
        """Steps a second over the last minute; None before the first step."""
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return (after - before) / (last - first) if last > first and after > before else None

    def _state(self) -> str:
        rate = self.rate()
        parts = []
        if rate is not None:
            parts.append(f"{rate:.3g} steps/s")
            parts.append(f"{_duration((self.total - self.step) / rate)} left")
        values = self._values() if callable(self._values) else self._values
        parts += [f"{name} {value:.4g}" for name, value in values.items()]
        return "  ".join(parts)

    def _show(self) -> None:
        self._shown_at, self._shown_step = self._clock(), self.step
        state = self._state()
        if self._bar is not None:
            self._bar.update(self._task, completed=self.step, state=Text(state).markup)
            return
        share = f"{100 * self.step / self.total:.0f}%" if self.total else "100%"
        line = f"{self.title}  {self.step}/{self.total}  {share}  {state}".strip()
        print(line, file=self._stream, flush=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
