"""From a command line to a checked config.

Values come from the config class's defaults, then a preset, then YAML files, then flags: each
overrules those before, whatever the order of the arguments. With ``--resume`` the values of the run
that is gone on with stand in place of the defaults, and only what does not change its result may
differ.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ssfnas.config import make_config, read_values, values_of
from ssfnas.effects import check_effects
from ssfnas.errors import RequestError, shown, written
from ssfnas.flags import flag_values, make_parser, split, unexpected
from ssfnas.option_values import OptionValue, OptionValueError, option_values
from ssfnas.plugins import import_plugins
from ssfnas.presets import preset_names, preset_values
from ssfnas.runtime.outcome import exit_code
from ssfnas.yaml_files import dump_yaml, read_yaml

__all__ = ["main", "parse", "preset_names", "preset_values"]

Config = TypeVar("Config")

# (a, b): b stands in place of a, so giving a undoes a b that was given by something weaker.
_ALTERNATIVES = (("epochs", "steps"),)

# What may differ when a run is gone on with: none of it changes the result.
_CHANGEABLE = frozenset(
    ("out", "resume", "overwrite", "device", "workers", "checkpoint_minutes", "data_dir", "dry_run")
)


def _file_values(
    options: Mapping[str, OptionValue], path: str, command: str, *, lenient: bool
) -> dict[str, Any]:
    """The checked values of a YAML file; also of a run's ``config.yaml``."""
    values = read_yaml(path)
    values.pop("environment", None)
    owner = values.pop("command", command)
    if owner != command:
        raise RequestError(f"--config {path} is for {shown(owner)}: give one for {command}")
    return read_values(options, values, path, lenient=lenient)


def parse(
    config_class: type[Config],
    argv: Sequence[str] | None,
    prog: str,
    description: str,
    *,
    default_preset: str | None = None,
) -> tuple[Config, set[str]]:
    """The config that a command line asks for, and the names of the fields given as flags.

    ``--help`` and ``--print-config`` print and raise ``SystemExit(0)``.

    Args:
        config_class: a dataclass whose fields are made by :func:`ssfnas.config.option`.
        argv: the arguments; None: those of this process.
        prog: the module that is run: ``"ssfnas.search"``; its last part is the command.
        description: for ``--help``.
        default_preset: the preset where neither a preset, nor a file, nor a data set, nor a run to
            go on with is named.

    Raises:
        RequestError: anything in it is wrong; one line.
    """
    command = prog.rpartition(".")[2]
    words = sys.argv[1:] if argv is None else argv
    options = option_values(config_class)
    parser = make_parser(config_class, options, prog, description)
    given, rest = split(parser, words, options)
    plugins = _named_plugins(given, options)
    absent = [path for path in plugins if not os.path.isfile(path)]  # said when the command runs
    if plugins:
        import_plugins([path for path in plugins if path not in absent])
        options = option_values(config_class, extended=True)
        parser = make_parser(config_class, options, prog, description)
        given, rest = split(parser, words, options)
    preset, files = given.pop("preset", None), given.pop("config", [])
    print_config = given.pop("print_config", False)
    if given.pop("help", False):
        parser.print_help()
        raise SystemExit(0)
    if rest:
        import_plugins(absent)  # one of them may have such a flag
        raise unexpected(rest[0], options)
    flags = flag_values(options, given)
    for first, second in _ALTERNATIVES:
        if first in flags and flags.get(second) is not None:
            raise RequestError(f"--{first} and --{second} exclude each other: give one of them")

    if not (preset or files or "dataset" in flags or flags.get("resume")):
        preset = default_preset
    values: dict[str, Any] = {}
    if preset is not None:
        _overrule(values, preset_values(config_class, preset, command))
    for file in files:
        _overrule(values, _file_values(options, file, command, lenient=bool(absent)))
    _overrule(values, flags)
    if values.get("resume"):
        values = _resumed(config_class, values, command)
    config = make_config(config_class, values, options)
    for option in options.values():
        if option.note.required and not getattr(config, option.name):
            raise RequestError(f"{option.flag} is missing: {option.note.help}")
    check_effects(config, options, flags)
    if print_config:
        sys.stdout.write(dump_yaml({"command": command, **values_of(config)}))
        raise SystemExit(0)
    return config, set(flags)


def _named_plugins(given: Mapping[str, Any], options: Mapping[str, OptionValue]) -> list[Any]:
    """The plugins that a flag names, or a file, or the run to go on with."""
    if "plugins" not in options:
        return []
    named = flag_values(options, {"plugins": given.get("plugins", ["[]"])})["plugins"]
    run = [os.path.join(given["out"], "config.yaml")] if {"out", "resume"} <= set(given) else []
    for file in [*given.get("config", []), *run]:
        # What is wrong with a file is said when it is read for its values.
        with contextlib.suppress(RequestError, OptionValueError):
            named += options["plugins"].from_yaml(read_yaml(file).get("plugins", []))
    return named


def _overrule(values: dict[str, Any], stronger: Mapping[str, Any]) -> None:
    for first, second in _ALTERNATIVES:
        if first in stronger and second not in stronger:
            values.pop(second, None)
    if "dataset" in stronger:
        # A preset's ratio is meant for the preset's data: nobody's own are cut down unasked.
        for name in ("imbalance_ratio", "profile"):
            values.pop(name, None)
    values.update(stronger)


def _resumed(config_class: type, values: dict[str, Any], command: str) -> dict[str, Any]:
    """The stored values of the run that ``out`` holds, with what of ``values`` may differ."""
    from ssfnas.runs.run_directory import CONFIG_FILE, read_run_config

    if values.get("out") is None:
        raise RequestError("--resume needs --out: name the run directory to go on with")
    out = values["out"]
    try:
        owner, stored, _ = read_run_config(out)
    except RequestError as error:
        raise RequestError(f"nothing to resume: {error}, or leave out --resume") from None
    if owner != command:
        raise RequestError(f"--out {out} holds a run of {owner}, not of {command}")
    named = bool(stored.get("plugins"))
    options = option_values(config_class, extended=named)
    stored = read_values(options, stored, os.path.join(out, CONFIG_FILE), lenient=named)
    complete = values_of(make_config(config_class, stored, options))
    for name, value in values.items():
        if name in _CHANGEABLE:
            complete[name] = value
        elif value != complete.get(name):
            raise RequestError(
                f"--{name.replace('_', '-')} {written(value)} differs from the run that is "
                f"resumed, which has {written(complete.get(name))}: leave it out, or start "
                "another run"
            )
    return complete


def main(
    config_class: type[Config],
    run: Callable[[Config], int | None],
    *,
    prog: str,
    description: str,
    argv: Sequence[str] | None = None,
    default_preset: str | None = None,
) -> int:
    """Run what :func:`parse` gives; the exit code, see :mod:`ssfnas.runtime.outcome`."""

    def request() -> Config:
        return parse(config_class, argv, prog, description, default_preset=default_preset)[0]

    return exit_code(prog, request, run)
