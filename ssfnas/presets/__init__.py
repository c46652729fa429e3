"""Named sets of values, one YAML file each: the command it is for, then the command's fields."""

from __future__ import annotations

import importlib.resources
from typing import Any

from ssfnas.config import read_values
from ssfnas.errors import RequestError, did_you_mean, shown
from ssfnas.options import option_values
from ssfnas.yaml_files import parse_yaml


def _presets() -> dict[str, dict[str, Any]]:
    """Name -> content of the presets shipped with the package."""
    files = importlib.resources.files("ssfnas.presets").iterdir()
    texts = {f.name[:-5]: f.read_text(encoding="utf-8") for f in files if f.name.endswith(".yaml")}
    return {name: parse_yaml(texts[name], f"preset {name}") for name in sorted(texts)}


def preset_names(command: str | None = None) -> list[str]:
    """Names of the presets shipped with the package: all, or those of one command."""
    return [name for name, file in _presets().items() if command in (None, file["command"])]


def preset_values(config_class: type, name: str, command: str) -> dict[str, Any]:
    """The checked values of a preset of that command.

    Raises:
        RequestError: there is no such preset, or it is for another command.
    """
    presets, mine = _presets(), preset_names(command)
    listed = f"{command} has {', '.join(mine) or 'no presets'}"
    if name not in presets:
        hint = did_you_mean(name, mine)
        raise RequestError(f"--preset {shown(name)}: there is no such preset{hint}: {listed}")
    owner = presets[name].pop("command")
    if owner != command:
        raise RequestError(f"--preset {name} is for {owner}: {listed}")
    return read_values(option_values(config_class), presets[name], f"preset {name}")
