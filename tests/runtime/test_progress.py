"""What people see of a loop that runs."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

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
            bar.update(step, f"epoch {step // 50 + 1} of 2", [f"loss {1 / step:.4g}", "AUC 2 %"])
    return stream.getvalue().splitlines()


def test_plain_lines_every_interval_and_at_the_end():
    lines = run(100, range(1, 101), 1.0, interval=30)
    assert len(lines) == 4
    assert lines[0] == (
        "search  epoch 1 of 2  step 30 of 100  30 %  0:00:30 elapsed  0:01:10 left  1 steps/s  "
        "loss 0.03333  AUC 2 %"
    )
    assert "  step 100 of 100  100 %  0:01:40 elapsed  1 steps/s  loss 0.01" in lines[-1]


def test_a_plain_line_is_written_whenever_it_is_asked_for():
    clock, stream = Clock(), io.StringIO()
    with Progress(10, stream=stream, clock=clock, interval=30) as bar:
        for step in range(1, 11):
            clock.now += 1
            bar.update(step, "here", now=step % 5 == 0)
    lines = stream.getvalue().splitlines()
    assert [line.split("  ")[1] for line in lines] == ["step 5 of 10", "step 10 of 10"]


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
    assert "0:05:50 left" in stream.getvalue()


def test_a_resumed_loop_counts_only_its_own_steps():
    lines = run(100, range(51, 101), 2.0, interval=40, start=50)
    assert "step 70 of 100  70 %  0:00:40 elapsed  0:01:00 left  2 s a step" in lines[0]


def test_hours_are_shown():
    lines = run(10_000, range(1, 5), 10.0, interval=15)
    assert "27:46:" in lines[0]


def test_hundred_percent_is_said_at_the_end_alone():
    lines = run(1000, range(990, 1000), 1.0, interval=1)
    assert all(" 99 %" in line for line in lines)


def test_values_are_only_made_when_shown():
    clock, stream, made = Clock(), io.StringIO(), []

    def values():
        made.append(clock.now)
        return ["loss 1"]

    with Progress(100, stream=stream, clock=clock, interval=10) as bar:
        for step in range(1, 101):
            clock.now += 1
            bar.update(step, "", values)
    assert len(made) == 10


def test_disabled_shows_nothing():
    assert run(100, range(1, 101), 1.0, enabled=False) == []


def test_nothing_to_do_and_nothing_done():
    assert run(0, [], 1.0) == []
    assert run(10, [], 1.0, start=10) == []


@pytest.fixture
def screen(monkeypatch):
    """Lines that stay on a terminal so many columns wide, in the middle of a loop."""

    def lines(width, place="epoch 13 of 200", values=(), notice=""):
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", str(width))
        clock, stream = Clock(), Terminal()
        with Progress(8000, title="retrain", stream=stream, clock=clock) as bar:
            for step in range(1, 1205):
                clock.now += 5
                bar.update(step, place, values)
            if notice:
                assert bar.notice(notice)
            drawn = io.StringIO()
            Console(file=drawn, width=width).print(bar._live.renderable)
        assert "\x1b[" in stream.getvalue()
        return [line.rstrip() for line in drawn.getvalue().splitlines()]

    return lines


VALUES = (
    "loss (training) 2.31",
    "balanced accuracy (validation) 32.75 %",
    "top-1 accuracy (validation) 41.50 %",
    "[red] 1",
)


@pytest.mark.parametrize("width", [200, 160, 120, 80, 60, 40])
def test_all_that_matters_is_shown_at_every_width(screen, width):
    way, values = screen(width, values=VALUES)
    assert cell_len(way) <= width
    assert cell_len(values) <= width
    assert "epoch 13 of 200" in way
    assert " 15 %" in way
    assert "9:26:20 left" in way
    assert values.startswith("loss (training) 2.31")


def test_wide_terminals_show_more(screen):
    way, values = screen(160, values=VALUES)
    assert way.startswith("retrain  epoch 13 of 200  step 1,204 of 8,000  ━━━━")
    assert way.endswith("15 %  1:40:20 elapsed  9:26:20 left  5 s a step")
    assert values == "  ".join(VALUES)


def test_eighty_columns_show_place_bar_times_and_how_good_it_is(screen):
    way, values = screen(80, "classifier 2 of 3, epoch 13 of 200", VALUES)
    assert way.startswith("retrain  classifier 2 of 3, epoch 13 of 200  ━━")
    assert way.endswith("15 %  9:26:20 left")
    way, values = screen(80, values=VALUES)
    assert way.endswith("15 %  1:40:20 elapsed  9:26:20 left")
    assert values == "loss (training) 2.31  balanced accuracy (validation) 32.75 %  [red] 1"


def test_narrow_terminals_leave_the_bar_out(screen):
    assert screen(40) == ["epoch 13 of 200  15 %  9:26:20 left"]
    assert screen(20) == ["epoch 13 of 200  15…"]


def test_a_notice_is_shown_below(screen):
    assert screen(80, values=VALUES, notice="[b]stopping[/b]")[-1] == "[b]stopping[/b]"


def test_without_a_terminal_a_notice_is_for_others_to_say():
    stream = io.StringIO()
    with Progress(2, stream=stream) as bar:
        assert not bar.notice("stopping")
    assert stream.getvalue() == ""


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    clock, stream = Clock(), Terminal()
    with Progress(2, title="search", stream=stream, clock=clock) as bar:
        clock.now += 1
        bar.update(2)
    assert stream.getvalue() == "search  step 2 of 2  100 %  0:00:01 elapsed  2 steps/s\n"


@pytest.mark.parametrize(("seconds", "pace"), [(0.25, "4 images/s"), (2.0, "2 s an image")])
def test_steps_are_called_what_they_are(seconds, pace):
    clock, stream = Clock(), io.StringIO()
    with Progress(10, unit="image", stream=stream, clock=clock, interval=0) as bar:
        clock.now += seconds
        bar.update(1)
    assert "image 1 of 10" in stream.getvalue()
    assert pace in stream.getvalue()
