"""Imports go one way: from a room to those below it, never up, and never in a circle."""

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
    "search derive retrain evaluate predict export report env",
    "pipeline",
    "timm_models",
    "training pictures exports",
    "evaluation",
    "runs strategies objectives",
    "data spaces runtime",
    "fused",
    "layers",
    "ops",
    "kernels",
)
# What stands beside the house: no room of it, and used by all.
COMMON = {
    *("commandline", "config", "declarations", "flags", "options", "presets", "yaml_files"),
    *("atomic_files", "errors", "plugins", "registry", "seeding", "_C", "__init__"),
}
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


def modules() -> dict[str, set[str]]:
    """Module -> the modules of ours that it imports when it is imported itself."""
    names = {}
    for path in FILES:
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[path] = ".".join(parts).removesuffix(".__init__")
    known = set(names.values())
    return {name: set(imported(path)) & known - {name} for path, name in names.items()}


def test_no_two_modules_import_each_other():
    graph = modules()
    # A package's own __init__ gathers what its modules define.
    packages = {name for name in graph if any(other.startswith(name + ".") for other in graph)}
    seen: dict[str, int] = {}

    def visit(name: str, path: list[str]) -> None:
        if seen.get(name) == 2:
            return
        assert seen.get(name) != 1, f"a circle: {' -> '.join([*path, name])}"
        seen[name] = 1
        for other in sorted(graph[name] - packages):
            visit(other, [*path, name])
        seen[name] = 2

    for name in graph:
        visit(name, [])


def test_every_room_has_its_floor_and_says_what_lives_there():
    rooms = {room_of(path) for path in FILES} - COMMON
    assert rooms == set(FLOOR)
    for room in rooms:
        init = PACKAGE / room / "__init__.py"
        if init.is_file():
            text = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8")))
            assert text
            assert text.splitlines()[0].endswith(".")
