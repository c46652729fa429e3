"""Leaving out image files that cannot be read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from ssfnas.data.decoding import map_threads
from ssfnas.data.image_file import check_readable
from ssfnas.data.layout import Classes
from ssfnas.errors import RequestError

_CHUNK = 1024
_SHOWN = 10


def without_unreadable(
    root: Path, names: Sequence[str], parts: dict[str, Classes], limit: int
) -> tuple[dict[str, Classes], tuple[str, ...], list[str]]:
    """The files that can be decoded, each tried once.

    Args:
        root: the folder, for messages.
        names: of the classes.
        parts: the files of each class in every part.
        limit: how many may be left out.

    Returns:
        The parts without those that cannot, the paths of those, and lines that list some of them.

    Raises:
        RequestError: more than ``limit`` cannot, or a class loses its last training image, or the
            validation or test part all of its own.
    """
    paths = [path for classes in parts.values() for files in classes for path in files]
    problems: dict[Path, str] = {}
    for start in range(0, len(paths), _CHUNK):
        chunk = paths[start : start + _CHUNK]
        for path, problem in zip(chunk, map_threads(_problem, chunk), strict=True):
            if problem:
                problems[path] = problem
        if len(problems) > limit:
            raise RequestError(
                f"{root}: {len(problems)} of the first {start + len(chunk):,} files cannot be "
                f"read, more than --skip-corrupt {limit}; first {next(iter(problems.values()))}"
            )
    kept = {
        part: [[path for path in files if path not in problems] for files in classes]
        for part, classes in parts.items()
    }
    if [] in kept["train"]:
        name = names[kept["train"].index([])]
        raise RequestError(
            f"{root}: no training image of class '{name}' can be read; the first: "
            f"{problems[parts['train'][kept['train'].index([])][0]]}"
        )
    for part, files in kept.items():
        if not any(files):
            called = {"val": "validation"}.get(part, part)
            first = next(chain(*parts[part]))
            raise RequestError(
                f"{root}: no {called} image can be read; the first: {problems[first]}"
            )
    return kept, tuple(map(str, problems)), _lines(problems, len(paths))


def _problem(path: Path) -> str:
    try:
        check_readable(path)
    except RequestError as error:
        return str(error)
    return ""


def _lines(problems: dict[Path, str], tried: int) -> list[str]:
    head = f"all {tried:,} files were decoded once (--skip-corrupt)"
    if not problems:
        return [f"{head}: each can be read"]
    listed = [f"  {path}" for path in problems]
    more = []
    if len(listed) > _SHOWN:
        more = [f"  ... and {len(listed) - _SHOWN:,} more, which data.json of the run names"]
    return [f"{head}; {len(problems):,} cannot be read and were left out:", *listed[:_SHOWN], *more]
