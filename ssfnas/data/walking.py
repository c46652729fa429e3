"""Walking through folders: what is hidden, where links lead, and what was left aside."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ssfnas.data.endings import IMAGES, readable_endings
from ssfnas.errors import RequestError

_SYSTEM_FOLDERS = frozenset(
    {"__macosx", "$recycle.bin", "system volume information", "lost+found", "#recycle", "#snapshot"}
)


@dataclass
class Aside:
    """What was found and is not read.

    Attributes:
        hidden: names of hidden folders.
        hidden_files: how many.
        others: endings of files that are no images.
        unreadable: endings of images that cannot be read here.
        outside: images beside the folders of classes.
        beside: folders beside those of the parts.
        again: folders and files that links lead to once more.
        broken: paths of links that lead nowhere.
    """

    hidden: Counter[str] = field(default_factory=Counter)
    hidden_files: int = 0
    others: Counter[str] = field(default_factory=Counter)
    unreadable: Counter[str] = field(default_factory=Counter)
    outside: int = 0
    beside: list[str] = field(default_factory=list)
    again: int = 0
    broken: list[str] = field(default_factory=list)

    def add(self, other: Aside) -> None:
        """Count what was found elsewhere as well."""
        for name, value in vars(other).items():
            own = getattr(self, name)
            if isinstance(own, Counter):
                own.update(value)
            else:
                setattr(self, name, own + value)

    def notes(self) -> list[str]:
        """A line each for people."""
        lines = []
        if self.unreadable:
            lines.append(
                f"{_counted(self.unreadable.total(), 'image')} left aside, unreadable here "
                f"({_listed(self.unreadable)}): convert to PNG or JPEG, or add a plugin of Pillow"
            )
        if self.others:
            lines.append(
                f"{_counted(self.others.total(), 'file')} left aside, by the ending no image: "
                f"{_listed(self.others)}"
            )
        if self.hidden:
            count = _counted(self.hidden.total(), "hidden folder")
            lines.append(f"{count} left aside: {_listed(self.hidden)}")
        if self.hidden_files:
            lines.append(f"{_counted(self.hidden_files, 'hidden file')} left aside")
        if self.outside:
            count = _counted(self.outside, "image")
            lines.append(f"{count} left aside, beside the folders of classes")
        if self.beside:
            shown = ", ".join(self.beside[:5]) + (", ..." if len(self.beside) > 5 else "")
            lines.append(
                f"{_counted(len(self.beside), 'folder')} left aside beside those of the parts: "
                f"{shown}"
            )
        if self.again:
            lines.append(
                f"{_counted(self.again, 'folder or file', 'folders or files')} that links lead to "
                "once more, read once"
            )
        if self.broken:
            count = _counted(len(self.broken), "link")
            lines.append(f"{count} to nowhere left aside, such as {self.broken[0]}")
        return lines


def _counted(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _listed(counts: Counter[str]) -> str:
    most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5]
    shown = [f"{count:,} {name or 'without one'}" for name, count in most]
    return ", ".join([*shown, "..."] if len(counts) > 5 else shown)


def entries(folder: Path | str, aside: Aside) -> Iterator[os.DirEntry[str]]:
    """What a folder shows, by name; hidden things and broken links are counted.

    Hidden is what begins with a dot, folders whose names begin with ``@`` (such as ``@eaDir``), and
    those that systems keep for themselves.

    Raises:
        RequestError: the folder cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            listed = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise RequestError(f"{folder}: cannot be read ({error.strerror or error})") from error
    for entry in listed:
        is_folder = _leads_to_folder(entry)
        if is_folder and (entry.name[0] in ".@" or entry.name.lower() in _SYSTEM_FOLDERS):
            aside.hidden[entry.name] += 1
        elif entry.name[0] == ".":
            aside.hidden_files += 1
        elif not is_folder and entry.is_symlink() and not os.path.exists(entry.path):
            aside.broken.append(entry.path)
        else:
            yield entry


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def folders_of(folder: Path, aside: Aside) -> list[str]:
    """Names of the folders that a folder shows, sorted; images beside them are counted.

    A link back to the folder, or to one that it lies in, is none of them.
    """
    readable = readable_endings()
    real = os.path.realpath(folder)
    names = []
    for entry in entries(folder, aside):
        if entry.is_dir():
            if entry.is_symlink() and _inside(real, os.path.realpath(entry.path)):
                aside.again += 1
            else:
                names.append(entry.name)
        elif _ending(entry.name) in readable:
            aside.outside += 1
    return names


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


class ImageFinder:
    """Finds the images of classes.

    Args:
        aside: where to count what is no image.
    """

    def __init__(self, aside: Aside) -> None:
        self.aside = aside
        self.readable = readable_endings()

    def below(self, folder: Path) -> dict[str, Path]:
        """The images at any depth below a folder: real path -> path, sorted by path.

        Links to folders and files are followed. What is reached in several ways is read once, under
        the name without a link where there is one. A link back to a folder that it lies in is not
        followed.

        Raises:
            RequestError: a folder cannot be read.
        """
        start = os.path.realpath(folder)
        seen: set[str] = set()
        found: dict[str, tuple[bool, str]] = {}
        direct, linked = [(str(folder), start, False)], deque[tuple[str, str, bool]]()
        while direct or linked:
            # What links lead to comes last: a folder keeps the name that it has without them.
            path, real, by_link = direct.pop() if direct else linked.popleft()
            if real in seen:
                self.aside.again += 1
                continue
            seen.add(real)
            for entry in entries(path, self.aside):
                is_link = entry.is_symlink()
                target = os.path.realpath(entry.path) if is_link else os.path.join(real, entry.name)
                if entry.is_dir():
                    if _inside(real, target) or _inside(start, target):
                        self.aside.again += 1
                    elif is_link:
                        linked.append((entry.path, target, True))
                    else:
                        direct.append((entry.path, target, by_link))
                elif self._is_image(entry):
                    before = found.get(target)
                    self.aside.again += before is not None
                    if before is None or (before[0] and not (by_link or is_link)):
                        found[target] = (by_link or is_link, entry.path)
        by_path = sorted(found.items(), key=lambda item: item[1][1].split(os.sep))
        return {real: Path(path) for real, (_, path) in by_path}

    def _is_image(self, entry: os.DirEntry[str]) -> bool:
        ending = _ending(entry.name)
        if ending in self.readable and entry.is_file():
            return True
        (self.aside.unreadable if ending in IMAGES else self.aside.others)[ending] += 1
        return False


def _inside(folder: str, other: str) -> bool:
    """Whether a real path is ``other`` or lies below it."""
    return folder == other or folder.startswith(other.rstrip(os.sep) + os.sep)
