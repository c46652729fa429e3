"""What an installation holds, and from where it can be imported."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from build_script import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_every_package_is_installed():
    folders = {path.parent for path in (ROOT / "ssfnas").rglob("__init__.py")}
    folders.add(ROOT / "ssfnas" / "kernels")  # a link, which globbing does not follow
    found = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def test_an_editable_install_is_imported_beside_the_clone(tmp_path):
    """There the clone's folder has the package's name, and would be an empty namespace package."""
    pytest.importorskip("setuptools.errors", reason="needs setuptools")
    clone, site = tmp_path / "ssfnas", tmp_path / "site"
    left_out = shutil.ignore_patterns("*.so", "__pycache__", "kernels")
    shutil.copytree(ROOT / "ssfnas", clone / "ssfnas", ignore=left_out)
    shutil.copytree(ROOT / "kernels", clone / "ssfnas" / "kernels")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, clone)
    site.mkdir()
    code = f"from setuptools.build_meta import build_editable as b; print(b({str(site)!r}))"
    # No compiler is found there, so nothing native is built.
    environment = {**os.environ, "PATH": "", "PYTHONPATH": ""}
    environment = {k: v for k, v in environment.items() if not k.startswith(("CXX", "SSFNAS_"))}
    built = subprocess.run(
        [sys.executable, "-c", code], cwd=clone, env=environment, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = site.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)

    parent = Path(tmp_path)
    (parent / "script.py").write_text(
        f"import site; site.addsitedir({str(site)!r})\nimport ssfnas; print(ssfnas.__file__)\n"
    )
    for words in (["script.py"], ["-c", (parent / "script.py").read_text()]):
        # Without the packages of this environment, in which ssfnas may be installed otherwise.
        done = subprocess.run(
            [sys.executable, "-S", *words], cwd=parent, env=environment, capture_output=True,
            text=True,
        )  # fmt: skip
        missing = "No module named 'yaml'" in done.stderr
        assert missing or done.returncode == 0, done.stderr
        origin = str(clone / "ssfnas" / "__init__.py")
        assert origin in done.stdout + done.stderr
