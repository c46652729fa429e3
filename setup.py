"""Builds ``ssfnas._C`` from csrc/: C++ always, CUDA C++ where nvcc is found; without torch.

Environment variables:

- ``CXX``: the C++ compiler (default: g++, then c++, then clang++). Without one the package is
  installed without ``ssfnas._C``, and its functions run in PyTorch.
- ``CUDA_HOME``: where the CUDA toolkit is; looked for before PATH and /usr/local/cuda.
- ``SSFNAS_SKIP_CUDA=1`` leaves CUDA out; ``SSFNAS_FORCE_CUDA=1`` makes its absence an error.
- ``TORCH_CUDA_ARCH_LIST``: what GPUs to compile for (default ``8.0;9.0+PTX``).
- ``MAX_JOBS``: how many files are compiled at once (default: one a core).

What was built is kept in ``build/native`` and taken from there until something it is made of
changes; see :func:`build_key`.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError

ROOT = Path(__file__).resolve().parent
KEPT = ROOT / "build" / "native"
DEFAULT_ARCHITECTURES = "8.0;9.0+PTX"

# Compiled once for each instruction set; the fastest that the CPU has is taken at run time,
# so that a wheel runs everywhere and is fast where it can be.
CPU_SOURCES = (
    *("cpu/mixed_sum.cpp", "cpu/mixed_norm_sum.cpp", "cpu/mixed_norm_sum_reductions.cpp"),
    *("cpu/separable_forward.cpp", "cpu/separable_backward.cpp", "cpu/pointwise.cpp"),
    *("cpu/reduces.cpp", "cpu/pools.cpp"),
    *("cpu/norm_coefficients.cpp", "cpu/partial_channels.cpp"),
)
BINDING_SOURCES = ("cpu/instruction_sets.cpp", "binding.cpp")
CUDA_SOURCES = (
    *("cuda/mixed_sum.cu", "cuda/mixed_norm_sum.cu", "cuda/mixed_norm_sum_reductions.cu"),
    *("cuda/fused_forward.cu", "cuda/fused_backward.cu"),
    *("cuda/depthwise.cu", "cuda/depthwise_filters.cu", "cuda/scaled_sums.cu"),
    "cuda/candidate_pools.cu",
)
X86_INSTRUCTION_SETS = {
    "baseline": [],
    "avx2": ["-mavx2", "-mfma", "-mf16c", "-mbmi2"],
    "avx512": [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
        *("-mfma", "-mf16c", "-mbmi2", "-mprefer-vector-width=512"),
    ],
}
X86_INSTRUCTION_SETS["amx"] = [
    *X86_INSTRUCTION_SETS["avx512"],
    *("-mavx512bf16", "-mamx-tile", "-mamx-bf16"),
]
CXX_FLAGS = [
    *("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-fno-trapping-math"),
    *("-Wall", "-Wextra", "-Wno-psabi", "-Wno-unknown-pragmas"),
]
CUDA_FLAGS = [
    *("-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xcompiler=-fPIC,-fvisibility=hidden"),
    "-Werror=all-warnings",
]

READ_BY_COMPILERS = (
    *("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "COMPILER_PATH"),
    *("GCC_EXEC_PREFIX", "NVCC_PREPEND_FLAGS", "NVCC_APPEND_FLAGS"),
)


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
    names = ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib")
    folders = (home / name for name in names)
    return next((path for path in folders if (path / "libcudart_static.a").is_file()), None)


def find_cuda() -> Path | None:
    """The CUDA toolkit's folder: one that holds bin/nvcc and the static runtime library."""
    nvcc = shutil.which("nvcc")
    homes = [
        os.environ.get("CUDA_HOME"),
        os.environ.get("CUDA_PATH"),
        # It may be a link, or a wrapper script far from the toolkit.
        nvcc and Path(nvcc).resolve().parent.parent,
        "/usr/local/cuda",
    ]
    for home in (Path(home) for home in homes if home):
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
    command = [*cxx.split(), *flags, "-x", "c++", "-", "-o", str(folder / "probe")]
    program = b"int main() { return 0; }"
    return subprocess.run(command, input=program, capture_output=True).returncode == 0


def instruction_sets(cxx: str, folder: Path) -> dict[str, list[str]]:
    """Names and flags of the instruction sets to compile for."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return {"baseline": []}
    return {
        name: flags
        for name, flags in X86_INSTRUCTION_SETS.items()
        if not flags or compiles(cxx, flags, folder)
    }


def build_file(output: Path, folder: Path, cxx: str, cuda: Path | None) -> str:
    """The text of build.ninja, which makes ``output`` in ``folder``."""
    import pybind11

    cxx_words = [*cxx.split(), *CXX_FLAGS]
    openmp = ["-fopenmp"] if compiles(cxx, ["-fopenmp"], folder) else []
    sets = instruction_sets(cxx, folder)
    defines = [f"-DSSFNAS_HAS_{name.upper()}" for name in sets]
    if sys.platform == "darwin":
        link = [*openmp, "-undefined", "dynamic_lookup"]
    else:
        # Of the static libraries inside nothing may be seen: torch has another copy of CUDA's.
        link = [*openmp, "-Wl,--exclude-libs,ALL", "-Wl,-O1"]
    objects: dict[str, tuple[str, list[str]]] = {}  # file -> source, what compiles it
    for name in CPU_SOURCES:
        for isa, flags in sets.items():
            words = [*cxx_words, *openmp, f"-DSSFNAS_ISA={isa}", *flags]
            objects[f"{name}.{isa}.o"] = name, words
    if cuda is not None:
        flags, names = architectures(
            os.environ.get("TORCH_CUDA_ARCH_LIST") or DEFAULT_ARCHITECTURES
        )
        nvcc = [str(cuda / "bin" / "nvcc"), *CUDA_FLAGS, "-ccbin", cxx.split()[0], *flags]
        objects |= {f"{name}.o": (name, nvcc) for name in CUDA_SOURCES}
        defines += ["-DSSFNAS_HAS_CUDA", f'-DSSFNAS_CUDA_ARCHITECTURES="{" ".join(names)}"']
        link += [f"-L{cuda_library(cuda)}", "-lcudart_static", "-lpthread", "-ldl", "-lrt"]
    includes = [f"-isystem{sysconfig.get_path('include')}", f"-isystem{pybind11.get_include()}"]
    for name in BINDING_SOURCES:
        objects[f"{name}.o"] = name, [*cxx_words, *defines, *includes]

    def path(file: Path) -> str:
        return re.sub("[$: ]", r"$\g<0>", str(file))

    def command(words: list[str]) -> str:
        return shlex.join(words).replace("$", "$$")

    lines = [
        "rule compile",
        "  description = compile $in ($out)",
        "  command = $compiler -MMD -MF $out.d -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "rule link",
        "  description = link $out",
        f"  command = {command(cxx.split())} -shared $in -o $out {command(link)}",
    ]
    for built, (name, words) in objects.items():
        source = path(ROOT / "csrc" / name)
        lines += [f"build {built}: compile {source}", f"  compiler = {command(words)}"]
    return "\n".join([*lines, f"build {path(output)}: link {' '.join(objects)}", ""])


def build_key(build_file: str, volatile: dict[str, str], compilers: list[str]) -> str:
    """A digest of all that decides what comes out of a build.

    Sources, this script, every command, compilers and what they read of the environment, Python and
    pybind11: by what they hold, not by the times of files.

    Args:
        build_file: the text of build.ninja.
        volatile: paths in it that differ from build to build -> what stands for them.
        compilers: commands that tell their version by ``--version``.
    """
    import pybind11

    digest = hashlib.sha256()

    def add(part: bytes) -> None:
        digest.update(len(part).to_bytes(8, "little") + part)

    for path in [Path(__file__), *sorted((ROOT / "csrc").rglob("*"))]:
        if path.is_file():
            add(str(path.relative_to(ROOT)).encode())
            add(path.read_bytes())
    for found, name in volatile.items():
        build_file = build_file.replace(found, name)
    add(build_file.encode())
    for compiler in compilers:
        add(subprocess.run([*compiler.split(), "--version"], capture_output=True).stdout)
    for name in READ_BY_COMPILERS:
        add(os.environ.get(name, "").encode())
    add(f"{sys.version} {sysconfig.get_config_var('SOABI')} {pybind11.__version__}".encode())
    return digest.hexdigest()


class KeptModule:
    """The module of the last build, whole, with the key of what it was made of.

    Args:
        folder: where it is kept.
        name: of the module's file.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.module, self.key = folder / name, folder / f"{name}.key"

    def copy(self, key: str, output: Path) -> bool:
        """Copy it to ``output``, if it is of that key and no byte is lost; whether it was."""
        try:
            content = self.module.read_bytes()
            if self.key.read_text().split() != [key, hashlib.sha256(content).hexdigest()]:
                return False
        except (OSError, UnicodeDecodeError):
            return False
        # Beside and renamed: a process may have the old file mapped.
        partial = output.with_name(f".{output.name}.partial")
        partial.write_bytes(content)
        partial.chmod(0o755)
        partial.replace(output)
        return True

    def keep(self, key: str, output: Path) -> None:
        """Keep what was built, where this folder can be written."""
        content = output.read_bytes()
        try:
            self.module.parent.mkdir(parents=True, exist_ok=True)
            self.module.write_bytes(content)
            self.key.write_text(f"{key} {hashlib.sha256(content).hexdigest()}\n")
        except OSError as error:
            print(f"ssfnas: the next install compiles again: {error}")


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
        skipped = flag("SSFNAS_SKIP_CUDA")
        cuda = None if skipped else find_cuda()
        if cuda is None and flag("SSFNAS_FORCE_CUDA"):
            raise BuildError(
                "SSFNAS_FORCE_CUDA is set, and no CUDA toolkit is found (one with bin/nvcc and "
                "libcudart_static.a: in CUDA_HOME, on PATH, or in /usr/local/cuda)"
                + (", or SSFNAS_SKIP_CUDA is set too" if skipped else "")
            )
        why = "SSFNAS_SKIP_CUDA is set" if skipped else "no CUDA toolkit found"
        where = f"CPUs alone: {why}" if cuda is None else f"CPUs and, with {cuda}, for GPUs"
        print(f"ssfnas: building for {where}", flush=True)
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(self.build_temp).resolve() / "native"
        folder.mkdir(parents=True, exist_ok=True)
        text = build_file(output, folder, cxx, cuda)
        key = build_key(text, *self._told(output, cxx, cuda))
        kept = KeptModule(KEPT, output.name)
        if not self.force and kept.copy(key, output):
            print(f"ssfnas: unchanged since it was built, taken from {KEPT}", flush=True)
            return
        (folder / "build.ninja").write_text(text)
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
        kept.keep(key, output)

    @staticmethod
    def _told(output: Path, cxx: str, cuda: Path | None) -> tuple[dict[str, str], list[str]]:
        """What :func:`build_key` has to know besides the commands."""
        import pybind11

        compilers = [cxx] if cuda is None else [cxx, str(cuda / "bin" / "nvcc")]
        # pip builds in a new folder each time, with a pybind11 of that folder's own.
        return {str(output): "output", pybind11.get_include(): "pybind11"}, compilers


if __name__ == "__main__":
    setup(
        ext_modules=[Extension("ssfnas._C", sources=[f"csrc/{name}" for name in BINDING_SOURCES])],
        cmdclass={"build_ext": NinjaBuild},
    )
