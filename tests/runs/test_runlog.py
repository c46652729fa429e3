"""Metrics are kept line by line, and cut back together with TensorBoard's events."""

import errno
import json
import math
import os

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssfnas.errors import NumericalError, RequestError
from ssfnas.runs import runlog
from ssfnas.runs.run_directory import RunDirectory
from ssfnas.runs.runlog import RunLog


def lines_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def events_of(folder) -> dict[str, list[tuple[int, float, float]]]:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    return {
        tag: [(event.step, event.value, event.wall_time) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


@pytest.fixture
def folder(tmp_path):
    log = RunLog(tmp_path)
    for epoch in (1, 2, 3):
        log.log(
            10 * epoch,
            epoch,
            **{
                "loss": 0.5 * epoch,
                "test/top1": epoch,
                "phase": "train",
                "list": [1],
                "none": None,
            },
        )
    log.close()
    return tmp_path


def test_lines_and_events_say_the_same(folder):
    lines, events = lines_of(folder), events_of(folder)
    assert [line["step"] for line in lines] == [10, 20, 30]
    assert lines[1]["phase"] == "train"
    assert lines[1]["list"] == [1]
    assert lines[1]["none"] is None
    assert set(events) == {"epoch", "loss", "test/top1"}
    for tag, points in events.items():
        assert points == [(line["step"], line[tag], line["wall_time"]) for line in lines]


def test_a_line_is_there_as_soon_as_it_is_logged(tmp_path):
    log = RunLog(tmp_path)
    log.log(1, 1, loss=1.0)
    assert len(lines_of(tmp_path)) == 1
    assert events_of(tmp_path)["loss"][0][:2] == (1, 1.0)
    log.close()


def test_cut_back_forgets_later_steps_in_both(folder):
    before = lines_of(folder)
    log = RunLog(folder)
    log.cut_back(20)
    assert lines_of(folder) == before[:2]
    assert [point[0] for point in events_of(folder)["loss"]] == [10, 20]
    log.log(30, 3, loss=9.0)
    log.close()
    assert [line["loss"] for line in lines_of(folder)] == [0.5, 1.0, 9.0]
    events = events_of(folder)["loss"]
    assert events == [(line["step"], line["loss"], line["wall_time"]) for line in lines_of(folder)]


def test_cut_back_to_the_start_leaves_no_points(folder):
    log = RunLog(folder)
    log.cut_back(0)
    log.close()
    assert lines_of(folder) == []
    assert events_of(folder) == {}
    fresh = RunLog(folder / "none")
    (folder / "none").mkdir()
    fresh.cut_back(0)
    assert os.listdir(folder / "none") == []


@pytest.mark.parametrize("tail", [b'{"step": 40, "ep', b"\xff\n", b"[1]\n", b'{"step": "x"}\n'])
def test_a_line_cut_short_by_a_crash_is_dropped(folder, tail):
    with open(folder / "metrics.jsonl", "ab") as file:
        file.write(tail)
    log = RunLog(folder)
    with pytest.warns(UserWarning, match="line 4, is damaged"):
        log.cut_back(100)
    log.log(40, 4, loss=1.0)
    log.close()
    assert [line["step"] for line in lines_of(folder)] == [10, 20, 30, 40]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_stop_the_run(tmp_path, value):
    log = RunLog(tmp_path)
    with pytest.raises(NumericalError, match=r"loss is .* after step 3"):
        log.log(3, 1, loss=value)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_is_one_line_and_keeps_what_was_there(folder, monkeypatch, function):
    before = lines_of(folder)

    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, function, fail)
    log = RunLog(folder)
    write = {"fsync": lambda: log.log(40, 4, loss=1.0), "replace": lambda: log.cut_back(10)}
    with pytest.raises(RequestError, match=r"metrics\.jsonl: No space left"):
        write[function]()
    monkeypatch.undo()
    log.close()
    assert lines_of(folder)[:3] == before


def test_messages_go_to_the_console_and_the_log(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runlog.time, "strftime", lambda _: "2030-01-02 03:04:05")
    log = RunLog(tmp_path)
    log.message("one")
    log.message("two é")
    assert capsys.readouterr().out == "one\ntwo é\n"
    expected = "2030-01-02 03:04:05  one\n2030-01-02 03:04:05  two é\n"
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == expected


def test_overwriting_a_run_removes_its_logs(tmp_path):
    with RunDirectory.create(tmp_path / "run", command="search") as run:
        log = RunLog(run.path)
        log.log(1, 1, loss=1.0)
        log.message("hello")
        log.close()
    with RunDirectory.create(tmp_path / "run", command="search", overwrite=True) as run:
        assert sorted(os.listdir(run.path)) == [".ssfnas-lock", "checkpoints"]
