"""From a command line to a checked config, and from what happens then to an exit code.

Values come from the config class's defaults, then a preset, then YAML files, then flags: each
overrules those before, whatever the order of the arguments. With ``--resume`` the values of the run
that is gone on with stand in place of the defaults, and only what does not change its result may
differ.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from ssfnas.effects import check_effects
from ssfnas.errors import RequestError, did_you_mean
from ssfnas.option_values import (
    OptionValue,
    OptionValueError,
    make_config,
    option_values,
    read_values,
    shown,
    values_of,
    written,
)
from ssfnas.plugins import import_plugins
from ssfnas.presets import preset_names, preset_values
from ssfnas.runtime.outcome import exit_code
from ssfnas.yaml_files import dump_yaml, parse_value, read_yaml

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


def _help(option: OptionValue) -> str:
    """The field's documentation with the values it may have and its default."""
    notes = [option.bounds] if option.bounds else []
    if option.kind is bool:
        notes.append(f"--no-{option.flag[2:]} turns it off" if option.default else "off by default")
    elif option.metadata["required"]:
        notes.append("required")
    elif option.default not in (None, []):
        notes.append(f"default: {written(option.default)}")
    text = option.metadata["help"] + (f" ({'; '.join(notes)})" if notes else "")
    return text.replace("%", "%%")


def _add_flag(group: Any, option: OptionValue) -> None:
    """Values are kept as text: what they may be is known when all plugins are."""
    nargs, const = "+" if option.is_list else None, None
    names = "{" + ",".join(option.choices) + "}"
    metavar = names if option.choices else {int: "N", float: "X", str: "TEXT"}.get(option.kind)
    if option.kind is bool:
        metavar, nargs, const = "true|false", "?", "true"
        off: dict[str, Any] = {"action": "store_const", "const": "false", "dest": option.name}
        group.add_argument(f"--no-{option.flag[2:]}", help=argparse.SUPPRESS, **off)
    group.add_argument(option.flag, metavar=metavar, nargs=nargs, const=const, help=_help(option))


def _make_parser(
    config_class: Any, options: Mapping[str, OptionValue], prog: str, description: str
) -> argparse.ArgumentParser:
    """One flag a field, in one group a class that declares fields."""
    parser = argparse.ArgumentParser(
        usage=f"python -m {prog} [--preset NAME] [--config FILE.yaml] [--FLAG VALUE ...]",
        description=description,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
        exit_on_error=False,
    )
    presets = ", ".join(preset_names(prog.rpartition(".")[2])) or "none for this command"
    note = "values from a file (name: value); overrules the preset; a later file the earlier"
    printing = "print all values as YAML, fit for --config, and stop"
    parser.add_argument("-h", "--help", action="store_true", help="show this and stop")
    parser.add_argument("--preset", metavar="NAME", help=f"a named set of values: {presets}")
    parser.add_argument("--config", metavar="FILE.yaml", action="append", help=note)
    parser.add_argument("--print-config", action="store_true", help=printing)
    # The class itself first: what a command is for stands above what all of them share.
    owners = dict.fromkeys([*config_class.__mro__, *(o.owner for o in options.values())])
    for owner in owners:
        title = (owner.__doc__ or "").strip().partition("\n")[0].rstrip(".").replace("``", "")
        group = parser.add_argument_group(title)  # shown only where it has flags
        for option in options.values():
            if option.owner is owner:
                _add_flag(group, option)
    return parser


def _below_zero(word: str) -> bool:
    return (word.startswith("-") and type(parse_value(word)) in (int, float)) or word == "-inf"


def _split(
    parser: argparse.ArgumentParser, argv: Sequence[str], options: Mapping[str, OptionValue]
) -> tuple[dict[str, Any], list[str]]:
    """Texts of the flags that are given, and the words that are none of theirs."""
    flags = {option.flag: option for option in options.values()}
    words: list[str] = []
    for word in argv:
        name, equals, value = word.partition("=")
        if words and re.fullmatch(r"--[^=]+", words[-1]) and _below_zero(word):
            words[-1] += "=" + word  # argparse would take -1e-3 for a flag
        else:
            words.append((name.replace("_", "-") if name[:2] == "--" else name) + equals + value)
    try:
        given, rest = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        flag = str(error.argument_name)
        if error.message.startswith("ignored"):
            raise RequestError(f"{flag} takes no value: leave it out") from None
        expected = f": expected {flags[flag].expected}" if flag in flags else ""
        raise RequestError(f"{flag} needs a value{expected}") from None
    return vars(given), rest or [word for word in words if word == "--"]


def _unexpected(word: str, options: Mapping[str, OptionValue]) -> RequestError:
    if not word.startswith("-") or _below_zero(word):
        said = f"unexpected argument {shown(word)}: a value follows its flag, as in --seed 1"
        return RequestError(said)
    name = word.partition("=")[0]
    known = [option.flag for option in options.values()]
    hint = did_you_mean(name, [*known, "--preset", "--config", "--print-config", "--help"])
    return RequestError(f"unknown flag {shown(name)}{hint or ': see --help'}")


def _flag_values(options: Mapping[str, OptionValue], given: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, text in given.items():
        option = options[name]
        try:
            if option.is_list:
                values[name] = [item for word in text for item in option.from_text(word)]
            else:
                values[name] = option.from_text(text)
        except OptionValueError as problem:
            raise RequestError(f"{option.flag} {problem}") from None
    for first, second in _ALTERNATIVES:
        if first in values and values.get(second) is not None:
            raise RequestError(f"--{first} and --{second} exclude each other: give one of them")
    return values


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
    parser = _make_parser(config_class, options, prog, description)
    given, rest = _split(parser, words, options)
    plugins = _named_plugins(given, options)
    absent = [path for path in plugins if not os.path.isfile(path)]  # said when the command runs
    if plugins:
        import_plugins([path for path in plugins if path not in absent])
        options = option_values(config_class, extended=True)
        parser = _make_parser(config_class, options, prog, description)
        given, rest = _split(parser, words, options)
    preset, files = given.pop("preset", None), given.pop("config", [])
    print_config = given.pop("print_config", False)
    if given.pop("help", False):
        parser.print_help()
        raise SystemExit(0)
    if rest:
        import_plugins(absent)  # one of them may have such a flag
        raise _unexpected(rest[0], options)
    flags = _flag_values(options, given)

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
        if option.metadata["required"] and not getattr(config, option.name):
            raise RequestError(f"{option.flag} is missing: {option.metadata['help']}")
    check_effects(config, options, flags)
    if print_config:
        sys.stdout.write(dump_yaml({"command": command, **values_of(config)}))
        raise SystemExit(0)
    return config, set(flags)


def _named_plugins(given: Mapping[str, Any], options: Mapping[str, OptionValue]) -> list[str]:
    """The plugins that a flag names, or a file, or the run to go on with."""
    if "plugins" not in options:
        return []
    flag = {name: text for name, text in given.items() if name == "plugins"}
    named: list[str] = _flag_values(options, flag).get("plugins", [])
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
    plugins = bool(stored.get("plugins"))
    options = option_values(config_class, extended=plugins)
    stored = read_values(options, stored, os.path.join(out, CONFIG_FILE), lenient=plugins)
    complete = values_of(make_config(config_class, stored, options))
    for name, value in values.items():
        if name in _CHANGEABLE:
            complete[name] = value
        elif value != complete[name]:
            flag = "--" + name.replace("_", "-")
            raise RequestError(
                f"{flag} {written(value)} differs from the run that is resumed, which has "
                f"{written(complete[name])}: leave it out, or start another run"
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
    """Parse, run, and turn the outcome into an exit code.

    See :func:`parse` for the arguments and :func:`ssfnas.runtime.outcome.exit_code` for the codes.
    """

    def request() -> Config:
        return parse(config_class, argv, prog, description, default_preset=default_preset)[0]

    return exit_code(prog, request, run)
