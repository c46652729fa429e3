"""How far a loop is: two lines that stay in place on a terminal, or plain lines."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

Values = Sequence[str] | Callable[[], Sequence[str]]

_RATE_WINDOW = 60.0
_RATE_STEPS = 4096
_VALUES_INTERVAL = 0.5
_REFRESHES_A_SECOND = 4
_GAP = 2
_SHORTEST_BAR, _LONGEST_BAR = 10, 40
# From left to right, and in the order in which they are left out, the last first.
_PLACES = ("title", "place", "steps", "bar", "percent", "elapsed", "left", "pace")
_ALWAYS = ("place", "percent", "left")
_WHERE_THERE_IS_ROOM = ("bar", "title", "elapsed", "steps", "pace")


class Progress:
    """Shows the progress of a loop while entered.

    On a terminal the first line says where the loop is and how long it takes, as much of it as the
    width allows; the second says how good it is, the first values first. Elsewhere it prints a
    plain line every ``interval`` seconds and whenever that is asked for.

    Args:
        total: the steps there are.
        title: what stands first.
        unit: what a step is called.
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
        unit: str = "step",
        start: int = 0,
        enabled: bool = True,
        interval: float = 30.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.title, self.unit, self.step = total, title, unit, start
        self.enabled = enabled
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._began = clock()
        self._seen = deque([(self._began, start)], maxlen=_RATE_STEPS)
        self._shown_at, self._shown_step = self._began, start
        self._place, self._notice = "", ""
        self._values: Values = ()
        self._texts: Sequence[str] = ()
        self._interval = interval
        self._live: Live | None = None
        console = Console(file=self._stream)
        if enabled and console.is_terminal and not console.is_dumb_terminal:
            self._interval = _VALUES_INTERVAL
            display = _Display(self)
            self._live = Live(display, console=console, refresh_per_second=_REFRESHES_A_SECOND)

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.enabled and self.step != self._shown_step:
            self._show()
        if self._live is not None:
            self._live.stop()

    def update(
        self, step: int, place: str = "", values: Values | None = None, *, now: bool = False
    ) -> None:
        """Say that ``step`` steps are done.

        Args:
            step: steps done.
            place: where that is, in words: ``"epoch 3 of 20"``.
            values: current measurements with their names, the most important first; a function is
                called only when they are shown, as making them may wait for the device.
            now: whether a plain line is due, whenever the last one was.
        """
        self.step, self._place = step, place
        if values is not None:
            self._values = values
        if not self.enabled:
            return
        moment = self._clock()
        self._seen.append((moment, step))
        while len(self._seen) > 2 and moment - self._seen[0][0] > _RATE_WINDOW:
            self._seen.popleft()
        if now or moment - self._shown_at >= self._interval:
            self._show()

    def notice(self, text: str) -> bool:
        """Show ``text`` below the rest from now on; whether there is a terminal to show it on.

        Only notes it, for those who may neither wait nor write: handlers of signals.
        """
        self._notice = text
        return self._live is not None

    def rate(self) -> float | None:
        """Steps a second over the last minute; None before the first step."""
        (first, before), (last, after) = self._seen[0], self._seen[-1]
        return (after - before) / (last - first) if last > first and after > before else None

    def fields(self) -> dict[str, str]:
        """What is to be said of the way, by what it is about; what is not known is empty."""
        rate = self.rate()
        through = self.step >= self.total
        left = (
            "" if rate is None or through else f"{_duration((self.total - self.step) / rate)} left"
        )
        pace = ""
        if rate is not None:
            each = f"{'an' if self.unit[0] in 'aeiou' else 'a'} {self.unit}"
            pace = f"{rate:.3g} {self.unit}s/s" if rate >= 1 else f"{1 / rate:.3g} s {each}"
        # Rounded down: 100 % is said of a loop that is through.
        percent = 100 * self.step // self.total if self.total else 100
        return {
            "title": self.title,
            "place": self._place,
            "steps": f"{self.unit} {self.step:,} of {self.total:,}",
            "percent": f"{percent} %",
            "elapsed": f"{_duration(self._clock() - self._began)} elapsed",
            "left": left,
            "pace": pace,
        }

    @property
    def values(self) -> Sequence[str]:
        """The measurements that were last shown."""
        return self._texts

    @property
    def noticed(self) -> str:
        """What :meth:`notice` was last told."""
        return self._notice

    def _show(self) -> None:
        self._shown_at, self._shown_step = self._clock(), self.step
        self._texts = self._values() if callable(self._values) else self._values
        if self._live is not None:
            return  # drawn by a thread of its own, also in steps that take minutes
        texts = [text for text in (*self.fields().values(), *self._texts) if text]
        print("  ".join(texts), file=self._stream, flush=True)


class _Display:
    """The lines on a terminal, made for the width that it has at the moment."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        yield self._way(width)
        if texts := _fitting(self.progress.values, width):
            yield _line(texts)
        if self.progress.noticed:
            yield Text(self.progress.noticed, style="bold")

    def _way(self, width: int) -> Table | Text:
        """Where, and how long."""
        fields = self.progress.fields()
        lengths = {name: cell_len(text) + _GAP for name, text in fields.items() if text}
        lengths["bar"] = _SHORTEST_BAR + _GAP
        chosen = {name for name in _ALWAYS if fields[name]}
        room = width + _GAP - sum(lengths[name] for name in chosen)
        for name in _WHERE_THERE_IS_ROOM:
            if lengths.get(name, width) <= room:
                chosen.add(name)
                room -= lengths[name]
        names = [name for name in _PLACES if name in chosen]
        if "bar" not in chosen:
            return _line([fields[name] for name in names])
        bar = ProgressBar(
            max(1, self.progress.total),
            self.progress.step if self.progress.total else 1,
            width=min(_LONGEST_BAR, _SHORTEST_BAR + room),
        )
        table = Table.grid(padding=(0, _GAP), pad_edge=False)
        cells = [bar if name == "bar" else Text(fields[name], no_wrap=True) for name in names]
        table.add_row(*cells)
        return table


def _line(texts: Sequence[str]) -> Text:
    return Text((" " * _GAP).join(texts), no_wrap=True, overflow="ellipsis")


def _fitting(texts: Sequence[str], width: int) -> list[str]:
    """The first of the texts, and of the others those that fit beside those before."""
    chosen: list[str] = []
    for text in texts:
        if not chosen or cell_len((" " * _GAP).join([*chosen, text])) <= width:
            chosen.append(text)
    return chosen


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
