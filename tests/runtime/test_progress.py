"""What people see of a loop that runs."""

import io

from ssfnas.runtime.progress import Progress


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(total, steps, seconds, **options):
    """Lines written by a loop that takes ``seconds`` a step."""
    clock, stream = Clock(), io.StringIO()
    with Progress(total, title="search", stream=stream, clock=clock, **options) as bar:
        for step in steps:
            clock.now += seconds
            bar.update(step, {"loss": 1 / step, "skips": 2})
    return stream.getvalue().splitlines()


def test_plain_lines_every_interval_and_at_the_end():
    lines = run(100, range(1, 101), 1.0, interval=30)
    assert len(lines) == 4
    assert lines[0] == "search  30/100  30%  1 steps/s  0:01:10 left  loss 0.03333  skips 2"
    assert lines[-1].startswith("search  100/100  100%  1 steps/s  0:00:00 left  loss 0.01")


def test_the_rate_is_that_of_the_last_minute():
    clock, stream = Clock(), io.StringIO()
    with Progress(1000, stream=stream, clock=clock, interval=1e9) as bar:
        for step in range(1, 101):
            clock.now += 10
            bar.update(step)
        for step in range(101, 301):
            clock.now += 0.5
            bar.update(step)
        assert abs(bar.rate() - 2) < 0.01
    assert stream.getvalue().strip().endswith("0:05:50 left")


def test_a_resumed_loop_counts_only_its_own_steps():
    lines = run(100, range(51, 101), 2.0, interval=40, start=50)
    assert lines[0].startswith("search  70/100  70%  0.5 steps/s  0:01:00 left")


def test_hours_are_shown():
    lines = run(10_000, range(1, 5), 10.0, interval=15)
    assert "27:46:" in lines[0]


def test_values_are_only_made_when_shown():
    clock, stream, made = Clock(), io.StringIO(), []

    def values():
        made.append(clock.now)
        return {"loss": 1.0}

    with Progress(100, stream=stream, clock=clock, interval=10) as bar:
        for step in range(1, 101):
            clock.now += 1
            bar.update(step, values)
    assert len(made) == 10


def test_disabled_shows_nothing():
    assert run(100, range(1, 101), 1.0, enabled=False) == []


def test_nothing_to_do_and_nothing_done():
    assert run(0, [], 1.0) == []
    assert run(10, [], 1.0, start=10) == []


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    clock, stream = Clock(), Terminal()
    with Progress(100, title="search", stream=stream, clock=clock) as bar:
        for step in range(1, 41):
            clock.now += 1
            bar.update(step, {"loss": 0.5, "[red]": 1.0})
    text = stream.getvalue()
    assert "\x1b[" in text
    assert "40/100" in text
    assert "40%" in text
    assert "loss 0.5" in text
    assert "[red] 1" in text
    assert "0:01:00 left" in text


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    clock, stream = Clock(), Terminal()
    with Progress(2, title="search", stream=stream, clock=clock) as bar:
        clock.now += 1
        bar.update(2)
    assert stream.getvalue() == "search  2/2  100%  2 steps/s  0:00:00 left\n"
