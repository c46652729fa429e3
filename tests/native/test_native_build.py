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


@pytest.fixture
def sources(script, monkeypatch, tmp_path):
    """A folder that the script takes for its own, with two sources."""
    for name, text in (("a.cpp", "int a;"), ("cpu/b.h", "int b;")):
        (tmp_path / "csrc" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "csrc" / name).write_text(text)
    (tmp_path / "setup.py").write_text("pass")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "__file__", str(tmp_path / "setup.py"))
    return tmp_path


def test_a_build_is_known_by_all_that_it_is_made_of(script, monkeypatch, sources):
    pytest.importorskip("pybind11", reason="needs pybind11")
    compiler = sources / "c++"

    def version(text: str) -> None:
        compiler.write_text(f"#!/bin/sh\necho {text}\n")
        compiler.chmod(0o755)

    def key(folder: str = "/pip/one", flags: str = "-O3") -> str:
        text = f"c++ {flags} -isystem{folder} -o {folder}/_C.so"
        return script.build_key(text, {folder: "folder"}, [f"{compiler} -m64"])

    version("12.1")
    first = key()
    # Where pip builds, and when files were written, changes nothing.
    os.utime(sources / "csrc" / "a.cpp", (1, 1))
    assert key("/pip/another") == first
    seen = {first, key(flags="-O3 -gencode=arch=compute_90,code=sm_90")}
    version("12.2")
    seen.add(key())
    version("12.1")
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "-G")
    seen.add(key())
    monkeypatch.delenv("NVCC_APPEND_FLAGS")
    for name in ("csrc/a.cpp", "csrc/cpu/b.h", "setup.py"):
        before = (sources / name).read_text()
        (sources / name).write_text(before + " ")
        seen.add(key())
        (sources / name).write_text(before)
    (sources / "csrc" / "a.cpp").rename(sources / "csrc" / "c.cpp")
    seen.add(key())
    (sources / "csrc" / "c.cpp").rename(sources / "csrc" / "a.cpp")
    assert key() == first
    assert len(seen) == 8


def test_a_kept_module_is_taken_whole_or_not_at_all(script, tmp_path):
    kept = script.KeptModule(tmp_path / "build" / "native", "_C.so")
    built, output = tmp_path / "built.so", tmp_path / "_C.so"
    built.write_bytes(b"machine code")
    assert not kept.copy("key", output)
    kept.keep("key", built)
    assert not kept.copy("another key", output)
    assert not output.exists()
    assert kept.copy("key", output)
    assert output.read_bytes() == b"machine code"
    assert os.access(output, os.X_OK)
    output.unlink()
    kept.module.write_bytes(b"machine c0de")
    assert not kept.copy("key", output)
    kept.module.write_bytes(b"machine code")
    kept.key.write_bytes(b"\xff")
    assert not kept.copy("key", output)
    assert not output.exists()


def test_a_second_build_compiles_nothing_and_a_forced_one_does(
    command, script, monkeypatch, tmp_path, capsys
):
    pytest.importorskip("pybind11", reason="needs pybind11")
    compiled = []

    def run(words, **_):
        compiled.append(words)
        if "clean" not in words:
            output.write_bytes(b"machine code")

    output = Path(command.get_ext_fullpath("ssfnas._C")).resolve()
    monkeypatch.setattr(script, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(script, "find_cxx", lambda: "c++")
    monkeypatch.setattr(script, "build_file", lambda *_: "commands")
    monkeypatch.setattr(script, "build_key", lambda text, *_: text)
    monkeypatch.setattr(script, "ninja", lambda: "ninja")
    monkeypatch.setattr(script.subprocess, "run", run)
    monkeypatch.setenv("SSFNAS_SKIP_CUDA", "1")
    for _ in range(2):
        command.build_extension(command.extensions[0])
        assert len(compiled) == 1
        assert output.read_bytes() == b"machine code"
        output.unlink()
    assert "unchanged since it was built" in capsys.readouterr().out
    command.force = True
    command.build_extension(command.extensions[0])
    assert len(compiled) == 3


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
    clone = tmp_path / "clone"  # what it keeps is not to replace what this checkout keeps
    shutil.copytree(ROOT / "csrc", clone / "csrc")
    shutil.copy(ROOT / "setup.py", clone)
    built = subprocess.run(
        [sys.executable, "setup.py", "build_ext", *out],
        cwd=clone,
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
