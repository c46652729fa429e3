"""Builds ``ssfnas._C`` from csrc/: C++ always, CUDA C++ where nvcc is found; without torch.

Environment variables:

- ``CXX``: the C++ compiler (default: g++, then c++, then clang++). Without one the package is
  installed without ``ssfnas._C``, and its functions run in PyTorch.
- ``CUDA_HOME``: where the CUDA toolkit is; looked for before PATH and /usr/local/cuda.
- ``SSFNAS_SKIP_CUDA=1`` leaves CUDA out; ``SSFNAS_FORCE_CUDA=1`` makes its absence an error.
- ``TORCH_CUDA_ARCH_LIST``: what GPUs to compile for (default ``8.0;9.0+PTX``).
- ``MAX_JOBS``: how many files are compiled at once (default: one a core).
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError

ROOT = Path(__file__).resolve().parent
DEFAULT_ARCHITECTURES = "8.0;9.0+PTX"

# Compiled once for each instruction set; the fastest that the CPU has is taken at run time,
# so that a wheel runs everywhere and is fast where it can be.
CPU_SOURCES = tuple(
    f"cpu/{name}.cpp" for name in ("mixed_sum", "mixed_norm_sum", "separable", "pools")
)
BINDING_SOURCES = ("cpu/instruction_sets.cpp", "binding.cpp")
CUDA_SOURCES = (
    *("cuda/mixed_sum.cu", "cuda/mixed_norm_sum.cu"),
    *("cuda/fused_forward.cu", "cuda/fused_backward.cu"),
    *("cuda/depthwise.cu", "cuda/candidate_pools.cu"),
)
X86_INSTRUCTION_SETS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c", "-mbmi2"],
    "avx512": [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
        *("-mfma", "-mf16c", "-mbmi2", "-mprefer-vector-width=512"),
    ],
}
CXX_FLAGS = [
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"),
    *("-Wall", "-Wextra", "-Wno-psabi", "-Wno-unknown-pragmas"),
]
CUDA_FLAGS = [
    *("-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xcompiler=-fPIC,-fvisibility=hidden"),
    "-Werror=all-warnings",
]


class BuildError(BaseError):
    """What was asked for cannot be built on this machine."""


def flag(name: str) -> bool:
    """Whether an environment variable is set to something that means yes."""
    return os.environ.get(name, "0").lower() not in ("", "0", "off", "no", "false")


def find_cxx() -> str | None:
    """The C++ compiler's path."""
    named = os.environ.get("CXX")
    if named:
        path = shutil.which(named.split()[0])
        if path is None:
            raise BuildError(f"CXX is '{named}', which is no program on PATH")
        return " ".join([path, *named.split()[1:]])
    found = (shutil.which(name) for name in ("g++", "c++", "clang++"))
    return next((path for path in found if path is not None), None)


def cuda_library(home: Path) -> Path | None:
    """The folder of a toolkit's static runtime library."""
    folders = ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib")
    for folder in folders:
        if (home / folder / "libcudart_static.a").is_file():
            return home / folder
    return None


def find_cuda() -> Path | None:
    """The CUDA toolkit's folder: one that holds bin/nvcc and the static runtime library."""

    def candidates() -> Iterator[Path]:
        for name in ("CUDA_HOME", "CUDA_PATH"):
            if os.environ.get(name):
                yield Path(os.environ[name])
        nvcc = shutil.which("nvcc")
        if nvcc is not None:
            # It may be a link, or a wrapper script far from the toolkit.
            yield Path(nvcc).resolve().parent.parent
        yield Path("/usr/local/cuda")

    for home in candidates():
        if (home / "bin" / "nvcc").is_file() and cuda_library(home) is not None:
            return home
    return None


def architectures(text: str) -> tuple[list[str], list[str]]:
    """nvcc's flags, and the names of what they compile for, from e.g. ``"8.0;9.0+PTX"``."""
    flags, names = [], []
    for entry in re.split(r"[;,\s]+", text.strip()):
        match = re.fullmatch(r"(\d+)\.(\d[a-z]?)(\+PTX)?", entry)
        if match is None:
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST has '{entry}': its entries look like 8.0, 9.0a or 9.0+PTX"
            )
        number = match[1] + match[2]
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        names.append(f"sm_{number}")
        if match[3]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
            names.append(f"compute_{number}")
    return flags, names


def ninja() -> str:
    """The path of ninja, of the Python package or of the system."""
    try:
        from ninja import BIN_DIR
    except ImportError:
        path = shutil.which("ninja")
    else:
        path = shutil.which("ninja", path=BIN_DIR) or shutil.which("ninja")
    if path is None:
        raise BuildError("ninja is missing: pip install ninja")
    return path


def compiles(cxx: str, flags: list[str], folder: Path) -> bool:
    """Whether the compiler takes these flags for an empty program that is linked."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "probe.cpp"
    source.write_text("int main() { return 0; }\n")
    command = [*cxx.split(), *flags, str(source), "-o", str(folder / "probe")]
    return subprocess.run(command, capture_output=True).returncode == 0


def instruction_sets(cxx: str, folder: Path) -> dict[str, list[str]]:
    """Names and flags of the instruction sets to compile for."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return {"baseline": []}
    return {
        name: flags
        for name, flags in X86_INSTRUCTION_SETS.items()
        if not flags or compiles(cxx, flags, folder)
    }


def escaped(text: object) -> str:
    """A path or flag as build.ninja wants it."""
    return str(text).replace("$", "$$").replace(":", "$:").replace(" ", "$ ")


def build_file(output: Path, folder: Path, cxx: str, cuda: Path | None) -> str:
    """The text of build.ninja, which makes ``output`` in ``folder``."""
    import pybind11

    source = ROOT / "csrc"
    openmp = ["-fopenmp"] if compiles(cxx, ["-fopenmp"], folder) else []
    sets = instruction_sets(cxx, folder)
    defines = [f"-DSSFNAS_HAS_{name.upper()}" for name in sets]
    includes = [sysconfig.get_path("include"), pybind11.get_include()]
    link = [*openmp]
    if sys.platform == "darwin":
        link += ["-undefined", "dynamic_lookup"]
    else:
        # Of the static libraries inside nothing may be seen: torch has another copy of CUDA's.
        link += ["-Wl,--exclude-libs,ALL", "-Wl,-O1"]
    objects: list[tuple[Path, str, Path, list[str]]] = []
    for name in CPU_SOURCES:
        for isa, flags in sets.items():
            built = folder / f"{name}.{isa}.o"
            objects.append((built, "cxx", source / name, [*openmp, f"-DSSFNAS_ISA={isa}", *flags]))
    if cuda is not None:
        flags, names = architectures(
            os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_ARCHITECTURES
        )
        defines += ["-DSSFNAS_HAS_CUDA", f'-DSSFNAS_CUDA_ARCHITECTURES="{" ".join(names)}"']
        for name in CUDA_SOURCES:
            objects.append((folder / f"{name}.o", "nvcc", source / name, flags))
        link += [f"-L{cuda_library(cuda)}", "-lcudart_static", "-lpthread", "-ldl", "-lrt"]
    for name in BINDING_SOURCES:
        extra = [*defines, *(f"-isystem{path}" for path in includes)]
        objects.append((folder / f"{name}.o", "cxx", source / name, extra))

    def quoted(flags: list[str]) -> str:
        return " ".join(f"'{f}'" if '"' in f or " " in f else f for f in flags).replace("$", "$$")

    lines = [
        f"cxx = {cxx}",
        f"cxx_flags = {quoted(CXX_FLAGS)}",
        f"nvcc = {'' if cuda is None else cuda / 'bin' / 'nvcc'}",
        f"nvcc_flags = {quoted(CUDA_FLAGS)} -ccbin {cxx.split()[0]}",
        "rule cxx",
        "  description = c++ $in ($out)",
        "  command = $cxx $cxx_flags $flags -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule nvcc",
        "  description = nvcc $in",
        "  command = $nvcc $nvcc_flags $flags -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        "  description = link $out",
        "  command = $cxx -shared $in -o $out $flags",
    ]
    for built, rule, path, flags in objects:
        lines += [f"build {escaped(built)}: {rule} {escaped(path)}", f"  flags = {quoted(flags)}"]
    inputs = " ".join(escaped(built) for built, *_ in objects)
    lines += [f"build {escaped(output)}: link {inputs}", f"  flags = {quoted(link)}"]
    return "\n".join(lines) + "\n"


class NinjaBuild(build_ext):
    """``build_ext`` by ninja."""

    def run(self) -> None:
        """Build, unless nothing can be built here: then say why."""
        reason = self.why_not()
        if reason is None:
            super().run()
            return
        if flag("SSFNAS_FORCE_CUDA"):
            raise BuildError(f"SSFNAS_FORCE_CUDA is set, and {reason}")
        print(f"ssfnas: built without native code, PyTorch serves instead: {reason}")
        self.extensions = []

    def why_not(self) -> str | None:
        """Why no native code can be built on this machine, or None."""
        if sys.platform == "win32":
            return "it is not supported on Windows"
        if find_cxx() is None:
            return "there is no C++ compiler (g++, c++ or clang++ on PATH, or CXX)"
        header = Path(sysconfig.get_path("include"), "Python.h")
        if not header.is_file():
            return f"Python's headers are missing ({header}; Debian: apt install python3-dev)"
        return None

    def build_extension(self, ext: Extension) -> None:
        """Write build.ninja and run it."""
        cxx = find_cxx()
        assert cxx is not None
        cuda = None if flag("SSFNAS_SKIP_CUDA") else find_cuda()
        if cuda is None and flag("SSFNAS_FORCE_CUDA"):
            raise BuildError(
                "SSFNAS_FORCE_CUDA is set, and no CUDA toolkit is found (one with bin/nvcc and "
                "libcudart_static.a: in CUDA_HOME, on PATH, or in /usr/local/cuda)"
                + (", or SSFNAS_SKIP_CUDA is set too" if flag("SSFNAS_SKIP_CUDA") else "")
            )
        if cuda is not None:
            print(f"ssfnas: building for CPUs and, with {cuda}, for GPUs", flush=True)
        elif flag("SSFNAS_SKIP_CUDA"):
            print("ssfnas: building for CPUs alone: SSFNAS_SKIP_CUDA is set", flush=True)
        else:
            print("ssfnas: building for CPUs alone: no CUDA toolkit found", flush=True)
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(self.build_temp).resolve() / "native"
        folder.mkdir(parents=True, exist_ok=True)
        text = build_file(output, folder, cxx, cuda)
        path = folder / "build.ninja"
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
        jobs = os.environ.get("MAX_JOBS")
        command = [ninja(), "-C", str(folder), *(["-j", jobs] if jobs else [])]
        if self.force:
            subprocess.run([*command, "-t", "clean"], check=True)
        try:
            subprocess.run(command, check=True)
        except subprocess.CalledProcessError as error:
            raise BuildError(
                "the native code does not compile (see above); SSFNAS_SKIP_CUDA=1 leaves its CUDA "
                "part out"
            ) from error


if __name__ == "__main__":
    setup(
        ext_modules=[Extension("ssfnas._C", sources=[f"csrc/{name}" for name in BINDING_SOURCES])],
        cmdclass={"build_ext": NinjaBuild},
    )
