"""From a folder to the image files of each part and class, and what its layout is refused for."""

from __future__ import annotations

import unicodedata
import warnings
from dataclasses import dataclass
from pathlib import Path

from ssfnas.data.walking import Aside, ImageFinder, folders_of
from ssfnas.errors import RequestError

Classes = list[list[Path]]
"""The files of each class, in label order."""

_SPELLINGS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_PART = {spelling: part for part, spellings in _SPELLINGS.items() for spelling in spellings}
_CALLED = {"train": "training", "val": "validation", "test": "test"}
_LAYOUT = "it must hold train/<class>/* and test/<class>/*, or <class>/* to be split"


@dataclass(frozen=True)
class FolderLayout:
    """Which files a folder has.

    Attributes:
        names: of the classes, sorted, in Unicode's composed form (NFC).
        parts: ``"train"`` and, where the folder has parts, ``"test"`` and perhaps ``"val"``.
        notes: what was left aside or decided, a line each.
    """

    names: tuple[str, ...]
    parts: dict[str, Classes]
    notes: tuple[str, ...]


def read_layout(root: Path) -> FolderLayout:
    """The classes of a folder, and the files of each in every part.

    Parts are called as :data:`_SPELLINGS` says, in any case of letters. Without a test folder the
    validation folder is the test part.

    Raises:
        RequestError: no classes or a single one, a class without training images or that only
            another part has, the same part or class twice, no training part beside others, or
            parts that stand where classes should.
    """
    aside = Aside()
    top = folders_of(root, aside)
    folders, notes = _part_folders(root, top, aside), []
    if not folders:
        _check_one_level(root, top)
        folders = {"train": root}
    elif "test" not in folders:
        folders["test"] = folders.pop("val")
        notes.append(
            f"no test folder: {folders['test'].name} is the test part, and there is no validation "
            "part"
        )
    by_part = {
        part: _class_folders(folder, top if folder == root else folders_of(folder, aside))
        for part, folder in folders.items()
    }
    names = tuple(sorted(by_part["train"]))
    if not names:
        raise RequestError(f"{folders['train']}: no class folders: {_LAYOUT}")
    if len(names) < 2:
        inner = folders["train"] / top[0] if folders["train"] == root else root
        hint = f", or {inner}" if len(folders_of(inner, Aside())) > 1 and inner != root else ""
        raise RequestError(f"{root}: only the class '{names[0]}': give two classes or more{hint}")
    finder = ImageFinder(aside)
    found = {part: _files(folders, part, by_part, names, finder) for part in folders}
    _warn_of_the_same(root, names, found)
    parts = {part: [list(files.values()) for files in classes] for part, classes in found.items()}
    return FolderLayout(names, parts, (*notes, *aside.notes()))


def _part_folders(root: Path, names: list[str], aside: Aside) -> dict[str, Path]:
    """The folders of the parts; empty where there are classes in their place."""
    spelled = [name for name in names if _plain(name) in _PART]
    others = [name for name in names if name not in spelled]
    if not any(folders_of(root / name, Aside()) for name in spelled):
        # A class of vehicles may be called train.
        if not spelled or (others and [_plain(name) for name in spelled] == ["train"]):
            return {}
        raise RequestError(f"{root / spelled[0]}: no class folders: {_LAYOUT}")
    folders: dict[str, Path] = {}
    for name in spelled:
        part = _PART[_plain(name)]
        if part in folders:
            raise RequestError(
                f"{root}: {folders[part].name} and {name} are both the {_CALLED[part]} part: keep "
                "one of them"
            )
        folders[part] = root / name
    there = " and ".join(folder.name for folder in folders.values())
    if "train" not in folders:
        raise RequestError(f"{root}: {there} without a train folder: {_LAYOUT}")
    if len(folders) == 1:
        raise RequestError(f"{root}: {there} but no test folder: {_LAYOUT}")
    aside.beside += others
    return {part: folders[part] for part in _SPELLINGS if part in folders}


def _plain(name: str) -> str:
    return _composed(name).casefold()


def _composed(name: str) -> str:
    """The same text in one form, whichever an operating system wrote it in."""
    return unicodedata.normalize("NFC", name)


def _check_one_level(root: Path, names: list[str]) -> None:
    """Refuse classes that are parts, or hold them."""
    common: dict[str, str] | None = None
    for name in names:
        below = {_plain(folder): folder for folder in folders_of(root / name, Aside())}
        common = below if common is None else {key: common[key] for key in common if key in below}
        if not common:
            return
    if common is None:
        return
    shown = _shown(list(common.values()))
    parts = {_PART[name] for name in common if name in _PART}
    if len(names) == 1 and parts:
        raise RequestError(f"{root}: the parts {shown} lie in {names[0]}: give {root / names[0]}")
    if len(names) == 1 or len(common) < 2:
        return
    if len(parts) >= 2:
        raise RequestError(
            f"{root}: {_shown(names)} each hold {shown}: parts lie within classes: make it "
            f"train/{names[0]}/* and test/{names[0]}/*, and so on"
        )
    raise RequestError(
        f"{root}: {_shown(names)} each hold the same folders ({shown}), as parts or groups do that "
        "are no classes: call parts train, val and test, or put the folder of each class right "
        f"into {root.name or root}"
    )


def _shown(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")


def _class_folders(folder: Path, found: list[str]) -> dict[str, Path]:
    """The folders of classes by their names."""
    classes: dict[str, Path] = {}
    for written in found:
        name = _composed(written)
        if name in classes:
            raise RequestError(
                f"{folder}: two folders are called '{name}', in two forms of Unicode "
                f"({classes[name].name!a} and {written!a}): put their images into one"
            )
        classes[name] = folder / written
    return classes


def _files(
    folders: dict[str, Path],
    part: str,
    by_part: dict[str, dict[str, Path]],
    names: tuple[str, ...],
    finder: ImageFinder,
) -> list[dict[str, Path]]:
    """The files of each class in one part: real path -> path."""
    folder, classes = folders[part], by_part[part]
    unknown = [name for name in classes if name not in names]
    if unknown:
        raise RequestError(
            f"{classes[unknown[0]]}: the class '{unknown[0]}' has no training images: add "
            f"{folders['train'] / unknown[0]} or remove it"
        )
    if not classes:
        raise RequestError(f"{folder}: no class folders: {_LAYOUT}")
    found = [finder.below(classes[name]) if name in classes else {} for name in names]
    no_images = f"no images ({', '.join(sorted(finder.readable))})"
    if part == "train" and {} in found:
        empty = classes[names[found.index({})]]
        # What the class has instead.
        aside = Aside()
        ImageFinder(aside).below(empty)
        instead = "".join(f"; {note}" for note in aside.notes())
        raise RequestError(f"{empty}: {no_images} of this class{instead}")
    if not any(found):
        raise RequestError(f"{folder}: {no_images}: {_LAYOUT}")
    return found


def _warn_of_the_same(
    root: Path, names: tuple[str, ...], found: dict[str, list[dict[str, Path]]]
) -> None:
    """Warn where links make one file an image of two classes, or of two parts."""
    parts: dict[str, set[str]] = {}
    for part, classes in found.items():
        owner: dict[str, str] = {}
        twice = []
        for name, files in zip(names, classes, strict=True):
            twice += [(path, owner[real], name) for real, path in files.items() if real in owner]
            owner.update(dict.fromkeys(files, name))
        if twice:
            path, first, second = twice[0]
            warnings.warn(
                f"{root}: files linked into two classes: {len(twice):,}, such as {path} of "
                f"'{first}' and '{second}': each is read with both labels",
                stacklevel=4,
            )
        for other, reals in parts.items():
            shared = sorted(reals & owner.keys())
            if shared:
                warnings.warn(
                    f"{root}: files linked into the {_CALLED[other]} and the {_CALLED[part]} part: "
                    f"{len(shared):,}, such as {shared[0]}: what is measured on one of them is no "
                    "longer independent of the other",
                    stacklevel=4,
                )
        parts[part] = set(owner)
