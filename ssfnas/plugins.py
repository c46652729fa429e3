"""Python files of the user's that register operations, objectives, losses or strategies."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from ssfnas.errors import RequestError, printable


def import_plugins(paths: Sequence[str]) -> None:
    """Import each file once a process, in order.

    Raises:
        RequestError: a path is no Python file, or importing it fails.
    """
    for path in paths:
        try:
            file = Path(path).resolve()
            exists = file.suffix == ".py" and file.is_file()
        except ValueError:  # a name that no file can have
            exists = False
        if not exists:
            raise RequestError(f"--plugins: '{printable(path)}' is not a Python file that exists")
        name = f"ssfnas_plugin:{file}"
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, file)
        if spec is None or spec.loader is None:
            raise RequestError(f"--plugins: '{path}' cannot be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # what ends a program ends no request
            del sys.modules[name]
            raise RequestError(
                f"--plugins: importing '{path}' failed: {type(error).__name__}: {error}"
            ) from error
