"""How setup.py finds compilers, what it does without, and that what it builds needs no torch."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from build_script import ROOT, build_script

VARIABLES = ("CXX", "CUDA_HOME", "CUDA_PATH", "SSFNAS_SKIP_CUDA", "SSFNAS_FORCE_CUDA")


@pytest.fixture
def script(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return build_script()


@pytest.fixture
def command(script, tmp_path):
    """The ``build_ext`` command for one extension, in a temporary folder."""
    from setuptools import Distribution, Extension

    extension = Extension("ssfnas._C", sources=["csrc/binding.cpp"])
    command = script.NinjaBuild(Distribution({"ext_modules": [extension]}))
    command.build_lib, command.build_temp = str(tmp_path / "lib"), str(tmp_path / "temp")
    command.finalize_options()
    return command


def toolkit(home: Path, library: str = "lib64") -> Path:
    (home / "bin").mkdir(parents=True)
    nvcc = home / "bin" / "nvcc"
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    if library:
        (home / library).mkdir(parents=True)
        (home / library / "libcudart_static.a").touch()
    return home


def test_every_source_is_compiled(script):
    compiled = {*script.CPU_SOURCES, *script.BINDING_SOURCES, *script.CUDA_SOURCES}
    assert compiled == {
        str(path.relative_to(ROOT / "csrc"))
        for path in (ROOT / "csrc").rglob("*.c*")
        if path.suffix != ".cuh"
    }


def test_architectures_in_pytorchs_notation(script):
    flags, names = script.architectures("8.0;9.0+PTX")
    assert names == ["sm_80", "sm_90", "compute_90"]
    assert flags == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]
    assert script.architectures(" 9.0a, 12.0 ")[1] == ["sm_90a", "sm_120"]
    for wrong in ("Ampere", "80", "8.0+SASS"):
        with pytest.raises(script.BuildError, match="TORCH_CUDA_ARCH_LIST"):
            script.architectures(wrong)


@pytest.mark.parametrize("library", ["lib64", "lib", "targets/x86_64-linux/lib"])
def test_cuda_home_goes_before_path(script, monkeypatch, tmp_path, library):
    named, on_path = toolkit(tmp_path / "named", library), toolkit(tmp_path / "on_path")
    monkeypatch.setenv("PATH", str(on_path / "bin"))
    assert script.find_cuda() == on_path
    monkeypatch.setenv("CUDA_HOME", str(named))
    assert script.find_cuda() == named


def test_a_toolkit_has_a_compiler_and_a_library(script, monkeypatch, tmp_path):
    real = toolkit(tmp_path / "real")
    monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path / "without_library", "")))
    monkeypatch.setenv("PATH", str(toolkit(tmp_path / "wrapper", "") / "bin"))
    assert script.find_cuda() in (None, Path("/usr/local/cuda"))
    # A link on PATH leads to the toolkit, a wrapper script does not.
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "nvcc").symlink_to(real / "bin" / "nvcc")
    monkeypatch.setenv("PATH", str(tmp_path / "links"))
    assert script.find_cuda() == real


def test_forced_cuda_that_is_missing_is_an_error(command, script, monkeypatch):
    monkeypatch.setattr(script, "find_cuda", lambda: None)
    monkeypatch.setattr(script, "find_cxx", lambda: "g++")
    monkeypatch.setenv("SSFNAS_FORCE_CUDA", "1")
    with pytest.raises(script.BuildError, match="SSFNAS_FORCE_CUDA is set, and no CUDA"):
        command.build_extension(command.extensions[0])
    monkeypatch.setattr(script, "find_cxx", lambda: None)
    with pytest.raises(script.BuildError, match=r"SSFNAS_FORCE_CUDA is set, and .* compiler"):
        command.run()


def test_without_a_compiler_one_line_says_so_and_nothing_is_built(command, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "")
    command.run()
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "without native code" in said
    assert "no C++ compiler" in said
    assert command.extensions == []


def test_a_named_compiler_has_to_exist(script, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    with pytest.raises(script.BuildError, match="no-such-compiler"):
        script.find_cxx()
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", f"{compiler} -m64")
    assert script.find_cxx() == f"{compiler} -m64"


@pytest.mark.slow
def test_the_module_is_built_and_imported_without_torch(script, tmp_path):
    pytest.importorskip("pybind11", reason="needs pybind11")
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('torch was imported')\n")
    environment = {**os.environ, "SSFNAS_SKIP_CUDA": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    out = [f"--build-lib={tmp_path / 'lib'}", f"--build-temp={tmp_path / 'temp'}"]
    built = subprocess.run(
        [sys.executable, "setup.py", "build_ext", *out],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "warning" not in built.stdout
    assert "for CPUs alone: SSFNAS_SKIP_CUDA is set" in built.stdout
    (module,) = (tmp_path / "lib" / "ssfnas").glob("_C*")
    use = (
        "import importlib.util as u, sys\n"
        f"spec = u.spec_from_file_location('ssfnas._C', {str(module)!r})\n"
        "c = u.module_from_spec(spec)\n"
        "spec.loader.exec_module(c)\n"
        "assert c.instruction_sets()[0] == 'baseline' and c.cuda_architectures == ''\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", use], check=True, env=environment)
