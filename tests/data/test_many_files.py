"""A function of many files by several processes is that function of each."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pytest

from ssfnas.data import many_files
from ssfnas.data.file_warnings import about
from ssfnas.data.many_files import map_files
from ssfnas.errors import RequestError

PATHS = [Path(f"folder/{number}.png") for number in range(23)]


@pytest.fixture(params=[1, 2], ids=["here", "two processes"])
def processes(request, monkeypatch):
    monkeypatch.setattr(many_files, "_FEW", 0)
    monkeypatch.setattr(many_files, "_CHUNK", 5)
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(request.param)))
    return request.param


def number_and_process(path):
    return int(path.stem), os.getpid()


def refused(path):
    if int(path.stem) in (7, 18):
        raise RequestError(f"{path}: broken")
    return 0


def warned(path):
    with about(path):
        if int(path.stem) in (11, 18):
            warnings.warn("odd", UserWarning, stacklevel=1)
    return 1


def test_results_are_in_order(processes):
    found = map_files(number_and_process, PATHS)
    assert [number for number, _ in found] == list(range(23))
    assert ({process for _, process in found} == {os.getpid()}) == (processes == 1)
    assert map_files(number_and_process, []) == []


def test_the_first_file_that_is_refused_is_told_of(processes):
    with pytest.raises(RequestError, match=r"^folder/7.png: broken$"):
        map_files(refused, PATHS)


def test_a_kind_of_warnings_arrives_once(processes):
    with pytest.warns(UserWarning, match=r"^folder/11.png: odd \(and so 1 more files\)$") as caught:
        assert map_files(warned, PATHS) == [1] * 23
    assert len(caught) == 1
