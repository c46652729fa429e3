"""From a command line to a checked config.

Values come from the config class's defaults, then a preset, then YAML files, then flags: each
overrules those before, whatever the order of the arguments. With ``--resume`` the values of the run
that is gone on with stand in place of the defaults, and only what does not change its result may
differ, and where its plugins are.
"""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from ssfnas.config import Origin, make_config, read_values, set_origin, values_of
from ssfnas.errors import RequestError, shown, written
from ssfnas.flags import make_parser, read_flags, unexpected
from ssfnas.options import (
    OptionValue,
    OptionValueError,
    check_effects,
    obstacles,
    option_values,
)
from ssfnas.plugins import import_plugins
from ssfnas.presets import preset_values
from ssfnas.runtime.imports import first_imports
from ssfnas.runtime.outcome import exit_code
from ssfnas.yaml_files import dump_yaml, read_yaml

Config = TypeVar("Config")

# What may differ when a run is gone on with: none of it changes the result.
_CHANGEABLE = frozenset(
    (
        *("out", "resume", "overwrite", "device", "threads", "workers"),
        *("checkpoint_minutes", "data_dir", "dry_run"),
    )
)


def parse(
    config_class: type[Config],
    argv: Sequence[str] | None,
    prog: str,
    description: str,
    *,
    default_preset: str | None = None,
    cpu_preset: str | None = None,
) -> Config:
    """The config that a command line asks for.

    ``--help`` and ``--print-config`` print and raise ``SystemExit(0)``.

    Args:
        config_class: a dataclass whose fields are made by :func:`ssfnas.options.option`.
        argv: the arguments; None: those of this process.
        prog: the module that is run: ``"ssfnas.search"``; its last part is the command.
        description: for ``--help``.
        default_preset: the preset where neither a preset, nor a file, nor a data set, nor a run to
            go on with is named.
        cpu_preset: the preset where a data set is named, none of the others, and a CPU computes.

    Raises:
        RequestError: anything in it is wrong; one line.
    """
    command = prog.rpartition(".")[2]
    words = sys.argv[1:] if argv is None else argv
    plugins = _named_plugins(config_class, words)
    absent = [path for path in plugins if not os.path.isfile(path)]  # said when the command runs
    import_plugins([path for path in plugins if path not in absent])
    options = option_values(config_class, extended=bool(plugins))
    if {"-h", "--help"} & set(words):
        make_parser(config_class, options, prog, description).print_help()
        raise SystemExit(0)
    flags, rest = read_flags(config_class, options, words)
    preset, files = flags.pop("preset", None), flags.pop("config", [])
    print_config = flags.pop("print_config", False)
    if absent and flags.get("resume") and "plugins" not in flags:
        raise RequestError(
            f"--resume: the run's plugin {absent[0]} is not there any more: name the new place of "
            f"{written(plugins)} by --plugins"
        )
    if rest:
        import_plugins(absent)  # one of them may have such a flag
        raise unexpected(rest[0], options)

    chosen = None
    if not (preset or files or flags.get("resume")):
        if "dataset" not in flags:
            preset = default_preset
        elif cpu_preset is not None and _computes_on_a_cpu(flags.get("device", "auto")):
            preset = chosen = cpu_preset
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    if preset is not None:
        _overrule(values, preset_values(config_class, preset, command))
    for file in files:
        content = read_yaml(file)
        content.pop("environment", None)  # of a run's config.yaml
        owner = content.pop("command", command)
        if owner != command:
            raise RequestError(f"--config {file} is for {shown(owner)}: give one for {command}")
        read = read_values(options, content, file, lenient=bool(absent))
        _overrule(values, read)
        origins |= dict.fromkeys(read, file)
    _overrule(values, flags)
    if values.get("resume"):
        values = _resumed(values, command)
    config = make_config(config_class, values, options)
    # What a run was started with is what it goes on with.
    asked = values.keys() if values.get("resume") else flags.keys() | origins.keys()
    set_origin(config, Origin(frozenset(asked), chosen))
    for option in options.values():
        if option.required and not getattr(config, option.name):
            raise RequestError(f"{option.flag} is missing: {option.help}")
    check_effects(config, options, flags)
    kept = origins.keys() & (values.keys() - flags.keys())
    _warn_of_files(config, options, {name: origins[name] for name in kept})
    if print_config:
        sys.stdout.write(dump_yaml({"command": command, **values_of(config)}))
        raise SystemExit(0)
    return config


def _named_plugins(config_class: type, words: Sequence[str]) -> list[str]:
    """The plugins that a flag names; else the last file that does, or the run to go on with."""
    declared = option_values(config_class)
    options = {name: declared[name] for name in declared if name in ("plugins", "out", "resume")}
    if "plugins" not in options:
        return []
    flags, _ = read_flags(config_class, options, words)
    if "plugins" in flags:
        return list(flags["plugins"])
    named: list[str] = []
    resumed = [os.path.join(flags["out"], "config.yaml")] if {"out", "resume"} <= set(flags) else []
    for file in [*resumed, *flags.get("config", [])]:
        # What is wrong with a file is said when it is read for its values.
        with contextlib.suppress(RequestError, OptionValueError):
            named = options["plugins"].from_yaml(read_yaml(file).get("plugins", named))
    return named


def _computes_on_a_cpu(device: str) -> bool:
    """Whether ``--device`` comes to a CPU."""
    if device != "auto":
        return device == "cpu"
    with first_imports():  # which the run needs in any case
        import torch
    return not torch.cuda.is_available()


def _warn_of_files(
    config: Any, options: Mapping[str, OptionValue], origins: Mapping[str, str]
) -> None:
    """Say which values of files have no effect; a file of a whole run holds many at the default.

    Args:
        config: made of these values and others.
        options: of its class.
        origins: names of values that come from files -> the file.
    """
    if os.environ.get("RANK", "0") != "0":
        return  # all processes find the same
    without = obstacles(config, options)
    for file in sorted(set(origins.values())):
        found = [
            f"{name} {written(getattr(config, name))} has no effect with {without[name].given}"
            for name, option in options.items()
            if origins.get(name) == file and name in without
            if getattr(config, name) != option.default
        ]
        if found:
            warnings.warn(f"{file}: {'; '.join(found)}", stacklevel=3)


def _overrule(values: dict[str, Any], stronger: Mapping[str, Any]) -> None:
    for given, other in (("epochs", "steps"), ("steps", "epochs")):
        if stronger.get(given) is not None and other not in stronger:
            values.pop(other, None)
    if "dataset" in stronger:
        # A preset's ratio is meant for the preset's data: nobody's own are cut down unasked.
        for name in ("imbalance_ratio", "profile"):
            values.pop(name, None)
    values.update(stronger)


def _resumed(values: dict[str, Any], command: str) -> dict[str, Any]:
    """The stored values of the run that ``out`` holds, with what of ``values`` may differ."""
    from ssfnas.runs.run_files import RunFiles

    out = values.get("out")
    if out is None:
        raise RequestError("--resume needs --out: name the run directory to go on with")
    try:
        run = RunFiles(out)
    except RequestError as error:
        raise RequestError(f"nothing to resume: {error}, or leave out --resume") from None
    if run.command != command:
        raise RequestError(f"--out {out} holds a run of {run.command}, not of {command}")
    complete = values_of(run.read_config())
    for name, value in values.items():
        held = complete.get(name)
        moved = name == "plugins" and len(value) == len(complete[name])
        if name not in _CHANGEABLE and value != held and not moved:
            raise RequestError(
                f"--{name.replace('_', '-')} {written(value)} differs from the run that is "
                f"resumed, which has {written(held)}: leave it out, or start "
                "another run"
            )
    return {**complete, **values}


def main(
    config_class: type[Config],
    run: Callable[[Config], int | None],
    *,
    prog: str,
    description: str,
    argv: Sequence[str] | None = None,
    default_preset: str | None = None,
    cpu_preset: str | None = None,
) -> int:
    """Run what :func:`parse` gives; the exit code, see :mod:`ssfnas.runtime.outcome`."""
    presets = {"default_preset": default_preset, "cpu_preset": cpu_preset}
    asked = partial(parse, config_class, argv, prog, description, **presets)
    return exit_code(prog, asked, run)
