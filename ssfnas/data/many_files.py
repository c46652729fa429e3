"""A function of many files, by several processes: parsing headers is Python, one thread's work."""

from __future__ import annotations

import multiprocessing
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TypeVar

from ssfnas.data.file_warnings import Found, about, gathered_warnings, recorded_warnings
from ssfnas.data.loading import ignore_signals

Result = TypeVar("Result")

_FEW = 2_000  # are done before processes have started
_CHUNK = 256
_MOST_PROCESSES = 8


def map_files(function: Callable[[Path], Result], paths: Sequence[Path]) -> list[Result]:
    """``function`` of every file, in order; what it warns of is said once a kind.

    Args:
        function: of a module, so that other processes find it.
        paths: the files; few are read by this process alone.

    Raises:
        Exception: what the first of the files raises for which the function does.
    """
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}
    processes = min(_MOST_PROCESSES, len(usable))
    forks = "fork" in multiprocessing.get_all_start_methods()
    if len(paths) < _FEW or processes < 2 or not forks:
        with gathered_warnings():
            return [function(path) for path in paths]
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    # Forked: a fresh interpreter would import torch first, which takes longer than the files.
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, context, ignore_signals) as pool:
        pairs = list(pool.map(partial(_of_chunk, function), chunks))
    with gathered_warnings():
        for path, text in chain(*(found for _, found in pairs)):
            with about(path):
                warnings.warn(text, stacklevel=2)
    return list(chain(*(results for results, _ in pairs)))


def _of_chunk(
    function: Callable[[Path], Result], paths: Sequence[Path]
) -> tuple[list[Result], list[Found]]:
    with recorded_warnings() as found:
        results = [function(path) for path in paths]
    return results, found
