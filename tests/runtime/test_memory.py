"""Memory that a step frees stays with the process while a CPU computes."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest

from ssfnas.runtime import memory
from ssfnas.runtime.memory import (
    kept_memory,
    settled_objects,
    variable_of_user,
    who_keeps_memory,
)

FAULTS = """
import resource
import statistics
import torch
from ssfnas.runtime.memory import kept_memory


def faults():
    '''Of a step; the first few may find a hole that is too small for an aligned block.'''
    found = []
    for _ in range(9):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(80 << 18)  # 80 MiB
        found.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return statistics.median(found)


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() >> 20


before, at_first = faults(), resident()
with kept_memory("{device}"):
    inside, most = faults(), resident()
print(before, inside, faults(), at_first, most, resident())
"""


def measured(device: str = "cpu", **variables: str) -> list[float]:
    """Faults of a step before, inside, after; and MiB that are resident."""
    code = FAULTS.replace("{device}", device)
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path), **variables},
    )
    return [float(value) for value in done.stdout.split()]


needs_glibc = pytest.mark.skipif(memory._library() is None, reason="no GNU C library")


@needs_glibc
def test_blocks_are_kept_inside_and_given_back_afterward():
    before, inside, after, at_first, most, at_last = measured()
    # 80 MiB are 20,480 pages of 4 KiB; with larger pages there are fewer, but some.
    assert inside < before / 10
    assert after > before / 2
    assert most > at_first + 70
    assert at_last < at_first + 20


@needs_glibc
def test_whoever_sets_a_variable_or_has_a_gpu_is_left_alone():
    for device, variables in (("cpu", {"MALLOC_MMAP_THRESHOLD_": "1000000"}), ("cuda", {})):
        before, inside, *_ = measured(device, **variables)
        assert inside > before / 2, (device, variables)


@needs_glibc
def test_who_decides_is_said(monkeypatch):
    assert variable_of_user({"PATH": "/bin"}) is None
    assert variable_of_user({"MALLOC_ARENA_MAX": "2"}) == "MALLOC_ARENA_MAX"
    assert variable_of_user({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}) == "GLIBC_TUNABLES"
    assert variable_of_user({"GLIBC_TUNABLES": "glibc.cpu.x86_shstk=on"}) is None
    monkeypatch.setattr(memory.os, "environ", {})
    assert who_keeps_memory().startswith("kept")
    monkeypatch.setattr(memory.os, "environ", {"MALLOC_ARENA_MAX": "2"})
    assert who_keeps_memory() == "as MALLOC_ARENA_MAX says"


@needs_glibc
def test_only_the_last_context_to_end_gives_back(monkeypatch):
    class Library:
        def __init__(self):
            self.calls = []

        def mallopt(self, option, value):
            self.calls.append((option, value))

        def malloc_trim(self, padding):
            self.calls.append("trim")

    library = Library()
    monkeypatch.setattr(memory, "_library", lambda: library)
    monkeypatch.setattr(memory, "variable_of_user", lambda environ: None)
    with kept_memory("cpu"):
        kept = list(library.calls)
        with pytest.raises(ZeroDivisionError), kept_memory("cpu"):
            raise ZeroDivisionError
        assert library.calls == kept == list(memory._KEPT.items())
    assert library.calls == [*kept, *memory._USUAL.items(), "trim"]


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory.os, "confstr", lambda name: None)
    assert memory._library() is None
    assert "no GNU C library" in who_keeps_memory()
    with kept_memory("cpu"):
        pass


class Ring:
    def __init__(self):
        self.own = self


def test_what_is_made_meanwhile_is_collected_and_afterward_all_is():
    before, counted = Ring(), gc.get_freeze_count()
    kept = weakref.ref(before)
    with settled_objects():
        assert gc.get_freeze_count() > counted
        of_step = weakref.ref(Ring())
        del before
        gc.collect()
        assert of_step() is None
        assert kept() is not None  # nobody looks there
    gc.collect()
    assert kept() is None
