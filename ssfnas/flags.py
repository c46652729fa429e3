"""Flags: one for each option of a command, read from the words of a command line by argparse."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ssfnas.errors import RequestError, did_you_mean, shown, written
from ssfnas.options import OptionValue, OptionValueError
from ssfnas.presets import preset_names

_BELOW_ZERO = re.compile(r"-(\.?\d.*|inf)$")
_OTHER_WORDS = {
    "--lr": ("--weight-lr", "--alpha-lr"),
    "--learning-rate": ("--lr", "--weight-lr", "--alpha-lr"),
    "--run": ("--genotype",),
    "--search": ("--genotype",),
    "--genotype": ("--run",),
    "--checkpoint": ("--run",),
    "--evaluate-every": ("--knn-every",),
    "--knn-every": ("--evaluate-every",),
    "--network": ("--supernet",),
    "--supernet": ("--network",),
    "--loss": ("--objective",),
    "--objective": ("--loss",),
    "--arch": ("--model", "--genotype"),
    "--data": ("--dataset",),
    "--input": ("--dataset",),
    "--output": ("--out",),
    "--gpu": ("--device",),
    "--cuda": ("--device",),
    "--num-workers": ("--workers",),
    "--wd": ("--weight-decay",),
    "--amp": ("--precision",),
    "--continue": ("--resume",),
    "--force": ("--overwrite",),
}
"""What a flag is called by another command of ours or elsewhere, and what it may be here."""
_MOST_HINTS = 3
_METAVARS = {int: "N", float: "X", str: "TEXT", bool: "true|false"}


def _help(option: OptionValue) -> str:
    """The field's documentation with the values it may have and its default."""
    notes = [option.bounds] if option.bounds else []
    if option.kind is bool:
        notes.append(f"--no-{option.flag[2:]} turns it off" if option.default else "off by default")
    elif option.required:
        notes.append("required")
    elif option.default not in (None, []):
        notes.append(f"default: {written(option.default)}")
    text = option.help + (f" ({'; '.join(notes)})" if notes else "")
    return text.replace("%", "%%")


def _add_flag(group: Any, option: OptionValue) -> None:
    names = "{" + ",".join(option.choices) + "}"
    how: dict[str, Any] = {"metavar": names if option.choices else _METAVARS[option.kind]}
    if option.positional:
        group.add_argument(option.name, nargs="*", metavar=option.flag, help=_help(option))
        return
    if option.is_list:
        how["nargs"] = "+"
    if option.alone is not None:
        how["nargs"] = "?"  # for the help alone, see _with_values
    if option.kind is bool:
        how |= {"nargs": "?", "const": True}
        off: dict[str, Any] = {"action": "store_false", "dest": option.name}
        group.add_argument(f"--no-{option.flag[2:]}", help=argparse.SUPPRESS, **off)
    group.add_argument(option.flag, type=option.from_text, help=_help(option), **how)


def make_parser(
    config_class: type, options: Mapping[str, OptionValue], prog: str = "", description: str = ""
) -> argparse.ArgumentParser:
    """One flag an option, in one group a class that declares options."""
    values = "".join(f" {option.flag} ..." for option in options.values() if option.positional)
    parser = argparse.ArgumentParser(
        usage=f"python -m {prog}{values} [--preset NAME] [--config FILE.yaml] [--FLAG VALUE ...]",
        description=description,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
        exit_on_error=False,
    )
    parser._negative_number_matcher = _BELOW_ZERO  # its own takes -1e-3 and -inf for flags
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


def read_flags(
    config_class: type, options: Mapping[str, OptionValue], argv: Sequence[str]
) -> tuple[dict[str, Any], list[str]]:
    """Values of the flags that are given, and the words that are none of theirs.

    Where an option has no flag, words that begin with no dash are its values, and so is all that
    stands after ``--``.

    Raises:
        RequestError: a flag has no value, a wrong one, or one where it takes none.
    """
    flagless = [option for option in options.values() if option.positional]
    flagged = {name: option for name, option in options.items() if not option.positional}
    end = [*argv, "--"].index("--") if flagless else len(argv)
    before = argv[:end]
    words = [re.sub("^--[^=]*", lambda flag: flag[0].replace("_", "-"), word) for word in before]
    words = _with_values(words, options)
    try:
        given, rest = make_parser(config_class, flagged).parse_known_args(words)
    except argparse.ArgumentError as error:
        flag = str(error.argument_name)
        if isinstance(error.__context__, OptionValueError):
            problem = error.message
        elif error.message.startswith("ignored"):
            problem = "takes no value: leave it out"
        else:
            expected = [f": expected {o.expected}" for o in options.values() if o.flag == flag]
            problem = "".join(["needs a value", *expected])
        raise RequestError(f"{flag} {problem}") from None
    values = vars(given)
    for name in values.keys() & {option.name for option in options.values() if option.is_list}:
        values[name] = [item for items in values[name] for item in items]
    for option in flagless:
        items = [word for word in rest if not word.startswith("-")] + [*argv[end + 1 :]]
        rest = [word for word in rest if word.startswith("-")]
        try:
            values |= {option.name: option.from_yaml(items)} if items else {}
        except OptionValueError as problem:
            raise RequestError(f"{option.flag}: {problem}") from None
    return values, rest or [word for word in words if word == "--"]


def _with_values(words: list[str], options: Mapping[str, OptionValue]) -> list[str]:
    """The words with a value joined to each flag that may stand alone and is not followed by one.

    Argparse would take whatever word comes next, such as the first of those that have no flag.
    """
    alone = {option.flag: option for option in options.values() if option.alone is not None}
    return [
        f"{word}={alone[word].alone}"
        if word in alone and not alone[word].ends_well(following)
        else word
        for word, following in zip(words, [*words, ""][1:], strict=True)
    ]


def unexpected(word: str, options: Mapping[str, OptionValue]) -> RequestError:
    """What to say of a word that is no flag and no flag's value."""
    if not word.startswith("-") or _BELOW_ZERO.match(word):
        said = f"unexpected argument {shown(word)}: a value follows its flag, as in --seed 1"
        return RequestError(said)
    name = word.partition("=")[0]
    known = [option.flag for option in options.values()]
    hint = _alike(name, known)
    hint = hint or did_you_mean(name, [*known, "--preset", "--config", "--print-config", "--help"])
    return RequestError(f"unknown flag {shown(name)}{hint or ': see --help'}")


def _alike(name: str, known: Sequence[str]) -> str:
    """A hint at flags that stand for the same, or have a word more or less (``--weight-lr``)."""
    core = name.lstrip("-")
    found = [flag for flag in _OTHER_WORDS.get(name, ()) if flag in known] or [
        flag
        for flag in known
        if f"{flag[1:]}-".startswith(f"-{core}-")
        or flag.endswith(f"-{core}")
        or core.endswith(flag[1:])
    ]
    # Of --epochs and --warmup-epochs the longer one is nearer to --alpha-warmup-epochs.
    found = [flag for flag in found if not any(o.endswith(flag[1:]) for o in found if o != flag)]
    if not core or not 0 < len(found) <= _MOST_HINTS:
        return ""
    return f" (did you mean {' or '.join(found)}?)"
