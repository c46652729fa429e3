"""``ssfnas COMMAND``: all commands under one name; each is also ``python -m ssfnas.COMMAND``."""

from __future__ import annotations

import importlib
import sys

from ssfnas.errors import RequestError, did_you_mean
from ssfnas.runtime.outcome import exit_code

COMMANDS = ("search", "derive", "retrain", "evaluate", "predict", "export", "report", "env")


def main(argv: list[str] | None = None) -> int:
    """The command that the first argument names, with the others; returns its exit code."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        return exit_code("ssfnas", lambda: None, lambda _: print(_help(), flush=True))
    if name not in COMMANDS:
        return exit_code("ssfnas", lambda: _unknown(name), lambda _: None)
    code: int = importlib.import_module(f"ssfnas.{name}").main(rest)
    return code


def _help() -> str:
    lines = ["usage: ssfnas COMMAND [--FLAG VALUE ...]", ""]
    for name in COMMANDS:
        said = importlib.import_module(f"ssfnas.{name}").__doc__ or ""
        lines.append(f"  {name:<9} {said.partition(': ')[2].splitlines()[0]}")
    return "\n".join([*lines, "", "ssfnas COMMAND --help shows the flags of one."])


def _unknown(name: str) -> None:
    hint = did_you_mean(name, COMMANDS)
    raise RequestError(f"unknown command {name}{hint}: it is one of {', '.join(COMMANDS)}")


if __name__ == "__main__":
    sys.exit(main())
