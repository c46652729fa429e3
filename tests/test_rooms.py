"""Imports go one way: from a room of the house to those below it, never up."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import ssfnas

PACKAGE = Path(ssfnas.__file__).parent

# From the top of the house down; rooms of one line know nothing of each other.
FLOORS = (
    "__main__",
    "search derive retrain evaluate report env",
    "pipeline",
    "training pictures",
    "evaluation",
    "runs strategies objectives",
    "data spaces runtime",
    "fused",
    "layers",
    "ops",
    "kernels",
)
# What stands beside the house: no room of it, and used by all.
COMMON = {"commandline", "config", "errors", "option_values", "plugins", "registry", "seeding"}
COMMON |= {"yaml_files", "presets", "declarations", "effects", "options", "_C", "__init__"}
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
# kernels/ is a link, which globbing does not follow.
FILES = sorted([*PACKAGE.rglob("*.py"), *(PACKAGE / "kernels").glob("*.py")])


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Modules of ours that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name.startswith("ssfnas."))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path):
    room = room_of(path)
    if room in COMMON:
        return
    for name in imported(path):
        other = name.split(".")[1]
        if other in FLOOR and other != room:
            assert FLOOR[other] > FLOOR[room], f"{room} imports {name}"


def test_every_room_has_its_floor_and_says_what_lives_there():
    rooms = {room_of(path) for path in FILES} - COMMON
    assert rooms == set(FLOOR)
    for room in rooms:
        init = PACKAGE / room / "__init__.py"
        if init.is_file():
            text = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8")))
            assert text
            assert text.splitlines()[0].endswith(".")
