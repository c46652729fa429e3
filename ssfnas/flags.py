"""Flags: one for each option of a command, split from the words of a command line by argparse."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ssfnas.errors import RequestError, did_you_mean, shown, written
from ssfnas.option_values import OptionValue, OptionValueError
from ssfnas.presets import preset_names

_BELOW_ZERO = re.compile(r"-(\.?\d.*|inf)$")  # argparse takes -1e-3 and -inf for flags


def _help(option: OptionValue) -> str:
    """The field's documentation with the values it may have and its default."""
    notes = [option.bounds] if option.bounds else []
    if option.kind is bool:
        notes.append(f"--no-{option.flag[2:]} turns it off" if option.default else "off by default")
    elif option.note.required:
        notes.append("required")
    elif option.default not in (None, []):
        notes.append(f"default: {written(option.default)}")
    text = option.note.help + (f" ({'; '.join(notes)})" if notes else "")
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


def make_parser(
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


def split(
    parser: argparse.ArgumentParser, argv: Sequence[str], options: Mapping[str, OptionValue]
) -> tuple[dict[str, Any], list[str]]:
    """Texts of the flags that are given, and the words that are none of theirs.

    Raises:
        RequestError: a flag has no value, or one that takes none.
    """
    flags = {option.flag: option for option in options.values()}
    words: list[str] = []
    for word in argv:
        name, equals, value = word.partition("=")
        if words and re.fullmatch(r"--[^=]+", words[-1]) and _BELOW_ZERO.match(word):
            words[-1] += "=" + word
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


def unexpected(word: str, options: Mapping[str, OptionValue]) -> RequestError:
    """What to say of a word that is no flag and no flag's value."""
    if not word.startswith("-") or _BELOW_ZERO.match(word):
        said = f"unexpected argument {shown(word)}: a value follows its flag, as in --seed 1"
        return RequestError(said)
    name = word.partition("=")[0]
    known = [option.flag for option in options.values()]
    hint = did_you_mean(name, [*known, "--preset", "--config", "--print-config", "--help"])
    return RequestError(f"unknown flag {shown(name)}{hint or ': see --help'}")


def flag_values(options: Mapping[str, OptionValue], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values that the flags' texts stand for.

    Raises:
        RequestError: a text stands for no value of its flag.
    """
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
    return values
