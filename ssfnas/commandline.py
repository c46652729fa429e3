"""From a command line to a checked config, and from what happens then to an exit code.

Values come from the config class's defaults, then a preset, then YAML files, then flags: each
overrules those before, whatever the order of the arguments. With ``--resume`` the values of the run
that is gone on with stand in place of the defaults, and only what does not change its result may
differ.
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import importlib.resources
import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TextIO, TypeVar

import jsonargparse

from ssfnas.config import Above
from ssfnas.errors import NumericalError, RequestError, found_everywhere
from ssfnas.option_values import (
    OptionValue,
    OptionValueError,
    did_you_mean,
    option_values,
    read_values,
    shown,
)
from ssfnas.runtime.interruption import Interrupted
from ssfnas.yaml_files import dump_yaml, parse_yaml, read_yaml

Config = TypeVar("Config")

# (a, b): b stands in place of a, so giving a undoes a b that was given by something weaker.
_ALTERNATIVES = (("epochs", "steps"),)

# What may differ when a run is gone on with: none of it changes the result.
_CHANGEABLE = frozenset(
    ("out", "resume", "overwrite", "device", "workers", "checkpoint_minutes", "data_dir", "dry_run")
)

_REFUSED_BY_SYSTEM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def preset_names(command: str | None = None) -> list[str]:
    """Names of the presets shipped with the package: all, or those of one command."""
    names = sorted(
        entry.name.removesuffix(".yaml")
        for entry in importlib.resources.files("ssfnas.presets").iterdir()
        if entry.name.endswith(".yaml")
    )
    if command is None:
        return names
    return [name for name in names if _preset_file(name).get("command") == command]


def _preset_file(name: str) -> dict[str, Any]:
    file = importlib.resources.files("ssfnas.presets").joinpath(f"{name}.yaml")
    return parse_yaml(file.read_text(encoding="utf-8"), f"preset {name}")


def preset_values(config_class: type, name: str, command: str) -> dict[str, Any]:
    """The checked values of a preset of that command.

    Raises:
        RequestError: there is no such preset, or it is for another command.
    """
    if name not in preset_names():
        mine = preset_names(command)
        problem = f"--preset {shown(name)}: there is no such preset{did_you_mean(name, mine)}"
        raise RequestError(problem + _listed(mine, command))
    values = _preset_file(name)
    owner = values.pop("command", None)
    if owner != command:
        raise RequestError(
            f"--preset {name} is for {owner}" + _listed(preset_names(command), command)
        )
    return read_values(option_values(config_class), values, f"preset {name}")


def _listed(names: list[str], command: str) -> str:
    return f": {command} has {', '.join(names)}" if names else f": {command} has no presets"


def config_file_values(
    config_class: type, path: str, command: str, *, extended: bool = False
) -> dict[str, Any]:
    """The checked values of a YAML file; also of a run's ``config.yaml``.

    Args:
        config_class: the command's dataclass.
        path: the file.
        command: the command's name.
        extended: see :func:`ssfnas.option_values.option_values`.

    Raises:
        RequestError: the file cannot be read, is for another command, or a key or value is wrong.
    """
    values = read_yaml(path)
    values.pop("environment", None)
    owner = values.pop("command", command)
    if owner != command:
        raise RequestError(f"--config {path} is for {shown(owner)}: give one for {command}")
    options = option_values(config_class, extended=extended or bool(values.get("plugins")))
    return read_values(options, values, path)


class _Parser(jsonargparse.ArgumentParser):
    """Raises :class:`RequestError` where the base class prints usage and exits."""

    options: Mapping[str, OptionValue]

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        if match := re.match(r"argument (\S+?),?(?: \S+)*: (expected .*argument)$", message):
            option = self.options.get(match[1].lstrip("-").replace("-", "_"))
            expected = f": expected {option.expected}" if option else ""
            raise RequestError(f"{match[1]} needs a value{expected}")
        if match := re.match(r"argument \S+: (--.*)$", message, re.DOTALL):
            raise RequestError(match[1])
        if match := re.match(r"unrecognized arguments: (.*)$", message, re.IGNORECASE | re.DOTALL):
            raise RequestError(
                f"unexpected argument {shown(match[1])}: a value follows its flag, as in --seed 1"
            )
        raise RequestError(message)


def _reader(option: OptionValue) -> Callable[[Any], Any]:
    def read(text: Any) -> Any:
        if not isinstance(text, str):
            return text  # the parser hands results back for a second look
        try:
            return option.from_text(text)
        except OptionValueError as problem:
            raise argparse.ArgumentTypeError(f"{option.flag} {problem}") from None

    return read


def _help(option: OptionValue, default: Any) -> str:
    """The field's documentation with the values it may have and its default."""
    notes = []
    if not option.metadata["choices"] and option.kind in (int, float):
        notes += [option.bounds] if option.bounds else []
    if option.kind is bool:
        notes.append(f"--no-{option.flag[2:]} turns it off" if default else "off by default")
    elif option.metadata["required"]:
        notes.append("required")
    elif isinstance(default, list):
        notes += ["default: " + ",".join(map(str, default))] if default else []
    elif default is not None:
        notes.append(f"default: {default}")
    text = option.metadata["help"] + (f" ({'; '.join(notes)})" if notes else "")
    return text.replace("%", "%%")


def _metavar(option: OptionValue) -> str:
    if option.metadata["choices"]:
        return "{" + ",".join(option.metadata["choices"]) + "}"
    if option.kind is bool:
        return "true|false"
    return {int: "N", float: "X", str: "TEXT"}[option.kind]


def _add_flags(parser: _Parser, config_class: Any) -> None:
    """One flag a field, in one group a class that declares fields."""
    defaults: dict[str, Any] = {}
    for entry in dataclasses.fields(config_class):
        defaults[entry.name] = entry.default
        if entry.default_factory is not dataclasses.MISSING:
            defaults[entry.name] = entry.default_factory()
    # The class itself first: what a command is for stands above what all of them share.
    for owner in config_class.__mro__:
        declared = [name for name in inspect.get_annotations(owner) if name in defaults]
        if not declared:
            continue
        title = (owner.__doc__ or owner.__name__).strip().splitlines()[0].rstrip(".")
        group = parser.add_argument_group(title.replace("``", ""))
        for name in declared:
            option = parser.options[name]
            shape: dict[str, Any] = {}
            if option.is_list:
                shape = {"nargs": "+"}
            elif option.kind is bool:
                shape = {"nargs": "?", "const": "true"}
            group.add_argument(
                option.flag,
                type=_reader(option),
                metavar=_metavar(option),
                help=_help(option, defaults[name]),
                **shape,
            )


def _make_parser(config_class: type, prog: str, description: str, extended: bool) -> _Parser:
    parser = _Parser(
        prog=prog,
        usage=f"python -m {prog} [--preset NAME] [--config FILE.yaml] [--FLAG VALUE ...]",
        description=description,
        formatter_class=argparse.HelpFormatter,
        allow_abbrev=False,
    )
    parser.options = option_values(config_class, extended=extended)
    presets = ", ".join(preset_names(_command(prog))) or "none for this command"
    parser.add_argument("--preset", metavar="NAME", help=f"a named set of values: {presets}")
    parser.add_argument(
        "--config",
        metavar="FILE.yaml",
        action="append",
        help="values from a file (name: value); overrules the preset; a later file the earlier",
    )
    parser.add_argument(
        "--print-config",
        action="store_true",
        help="print all values as YAML, fit for --config, and stop",
    )
    _add_flags(parser, config_class)
    return parser


def _command(prog: str) -> str:
    return prog.rpartition(".")[2]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _normalised(argv: Sequence[str], options: Mapping[str, OptionValue]) -> list[str]:
    """The arguments with dashes in flags, ``--no-x`` as ``--x=false``, negative numbers attached.

    Raises:
        RequestError: a flag is unknown.
    """
    flags = {option.flag: option for option in options.values()}
    known = [*flags, "--preset", "--config", "--print-config", "--help"]
    result: list[str] = []
    takes_value = False
    for word in argv:
        if word.startswith("-") and _is_number(word):
            # argparse would take -1e-3 and -inf for flags.
            if takes_value:
                result[-1] += "=" + word
            else:
                result.append(word)
            takes_value = False
            continue
        takes_value = False
        if not word.startswith("-") or word in ("-", "-h"):
            result.append(word)
            continue
        name, equals, value = word.partition("=")
        name = name.replace("_", "-")
        positive = flags.get("--" + name.removeprefix("--no-"))
        if name not in known and name.startswith("--no-") and positive and positive.kind is bool:
            if equals:
                raise RequestError(f"{name} takes no value: give {name} or {positive.flag} {value}")
            result.append(f"{positive.flag}=false")
        elif name in known:
            result.append(name + equals + value)
            takes_value = not equals
        else:
            hint = did_you_mean(name, known) or ": see --help"
            raise RequestError(f"unknown flag {shown(name)}{hint}")
    return result


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
    command = _command(prog)
    options = option_values(config_class)
    words = _normalised(sys.argv[1:] if argv is None else argv, options)
    extended = _names_plugins(words)
    parser = _make_parser(config_class, prog, description, extended)
    given = parser.parse_args(words, defaults=False).as_dict()
    preset = given.pop("preset", None)
    files = given.pop("config", None) or []
    print_config = given.pop("print_config", False)
    flags = {
        name: [item for part in value for item in part] if options[name].is_list else value
        for name, value in given.items()
    }
    _check_alternatives(flags)

    if not (preset or files or "dataset" in flags or flags.get("resume")):
        preset = default_preset
    values: dict[str, Any] = {}
    if preset is not None:
        _overrule(values, preset_values(config_class, preset, command))
    for file in files:
        _overrule(values, config_file_values(config_class, file, command, extended=extended))
    _overrule(values, flags)
    if values.get("resume"):
        values = _resumed(config_class, values, command)
    config = config_class(**values)
    _check_required(config, options)
    _check_relevance(config, options, flags)
    if print_config:
        listed = {name: getattr(config, name) for name in options}
        sys.stdout.write(dump_yaml({"command": command, **listed}))
        raise SystemExit(0)
    return config, set(flags)


def _names_plugins(words: Sequence[str]) -> bool:
    """Whether a flag, or a file that a flag names, asks for plugins; files are checked later."""
    for number, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == "--plugins":
            return True
        if name == "--config" and (equals or number + 1 < len(words)):
            try:
                if read_yaml(value if equals else words[number + 1]).get("plugins"):
                    return True
            except RequestError:
                continue
    return False


def _check_alternatives(flags: Mapping[str, Any]) -> None:
    for first, second in _ALTERNATIVES:
        if first in flags and flags.get(second) is not None:
            raise RequestError(f"--{first} and --{second} exclude each other: give one of them")


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
    options = option_values(config_class, extended=bool(stored.get("plugins")))
    stored = read_values(options, stored, os.path.join(out, CONFIG_FILE))
    former = config_class(**stored)
    complete = {entry.name: getattr(former, entry.name) for entry in dataclasses.fields(former)}
    for name, value in values.items():
        if name in _CHANGEABLE:
            complete[name] = value
        elif value != complete[name]:
            flag = "--" + name.replace("_", "-")
            raise RequestError(
                f"{flag} {_written(value)} differs from the run that is resumed, which has "
                f"{_written(complete[name])}: leave it out, or start another run"
            )
    return complete


def _written(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, list):
        return ",".join(map(str, value)) or "[]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return shown(value)


def _check_required(config: Any, options: Mapping[str, OptionValue]) -> None:
    for name, option in options.items():
        if option.metadata["required"] and not getattr(config, name):
            raise RequestError(f"{option.flag} is missing: {option.metadata['help']}")


def _check_relevance(
    config: Any, options: Mapping[str, OptionValue], flags: Mapping[str, Any]
) -> None:
    for name in flags:
        obstacle = _obstacle(config, options, name)
        if obstacle is not None:
            other, right = obstacle
            values = [str(right)] if isinstance(right, Above) else map(_written, right)
            alternatives = " or ".join(f"{options[other].flag} {value}" for value in values)
            raise RequestError(
                f"{options[name].flag} has no effect with {options[other].flag} "
                f"{_written(getattr(config, other))}: leave it out or use {alternatives}"
            )


def _obstacle(
    config: Any, options: Mapping[str, OptionValue], name: str
) -> tuple[str, tuple[Any, ...] | Above] | None:
    """The field, and its right values, that keeps ``name`` from having an effect."""
    for other, right in options[name].metadata["only_if"].items():
        if (deeper := _obstacle(config, options, other)) is not None:
            return deeper
        value, choices = getattr(config, other), options[other].metadata["choices"]
        # What goes with a name that a plugin registers, only the plugin knows.
        if value not in right and (choices is None or value in choices):
            return other, right
    return None


def main(
    config_class: type[Config],
    run: Callable[[Config], int | None],
    *,
    prog: str,
    description: str,
    argv: Sequence[str] | None = None,
    default_preset: str | None = None,
) -> int:
    """Parse, run, and turn the outcome into an exit code; see :func:`parse` for the arguments.

    Returns:
        what ``run`` returned (None: 0); 2 where the request was wrong or the system refused a file,
        with one line on stderr (where all processes find it, the first of a machine says it); 1
        where numbers or memory gave out, likewise; 130 or 143 after SIGINT or SIGTERM. Any other
        exception is a fault of the program: it keeps its traceback.
    """

    def complain(message: str, level: str = "error") -> None:
        rank = os.environ.get("RANK", "0")
        who = prog if rank == "0" else f"{prog}[rank {rank}]"
        print(f"{who}: {level}: {_one_line(message)}", file=sys.stderr, flush=True)

    def warn(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        complain(str(message), "warning")

    try:
        with found_everywhere():
            config, _ = parse(config_class, argv, prog, description, default_preset=default_preset)
        with warnings.catch_warnings():
            warnings.showwarning = warn
            return run(config) or 0
    except RequestError as error:
        # Files may differ from machine to machine, so the first process of each speaks.
        local_rank = os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0"))
        if not error.everywhere or local_rank == "0":
            complain(str(error))
        return 2
    except NumericalError as error:
        complain(str(error))
        return 1
    except Interrupted as interrupted:
        complain(str(interrupted), "interrupted")
        return interrupted.exit_code
    except KeyboardInterrupt:
        complain("stopped before the state could be saved", "interrupted")
        return 130
    except BrokenPipeError:
        # The reader of a pipe went away: say no more, not even when Python flushes at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        if error.errno not in _REFUSED_BY_SYSTEM:
            raise
        what = "a file" if error.filename is None else str(error.filename)
        complain(f"cannot use {what}: {error.strerror}: choose a place with room and permission")
        return 2
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, without importing torch
            raise
        complain(f"out of memory on the device: use a smaller --batch-size ({error})")
        return 1


def _one_line(message: str) -> str:
    text = " ".join(message.split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
