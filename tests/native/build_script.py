"""setup.py as a module, without running it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def build_script() -> ModuleType:
    """The module; the test is skipped where setuptools is missing."""
    pytest.importorskip("setuptools.errors", reason="needs setuptools")
    spec = importlib.util.spec_from_file_location("ssfnas_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
