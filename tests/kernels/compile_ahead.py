"""Compile what a call would launch, for a GPU that need not be there.

The call itself runs, on meta tensors: so the kernels, their constants, and what Triton derives from
the arguments (divisibility by 16, ones) are those of a real call.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Compiled:
    """One kernel as compiled, and what ptxas says of it."""

    name: str
    ptx: str
    shared: int
    registers: int
    spilled: int


class _Driver:
    """As much of a driver as compiling asks for; one pretended device an architecture."""

    def __init__(self, capability: int) -> None:
        from triton.backends.compiler import GPUTarget

        self.capability = capability
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_current_target(self) -> object:
        return self.target


def compile_ahead(
    call: Callable[[], object], capability: int, monkeypatch: pytest.MonkeyPatch
) -> list[Compiled]:
    """Every kernel that ``call`` would launch, compiled for ``capability`` (80, 90)."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    kernels = []
    run = JITFunction.run

    def compile_only(self, *args, grid, warmup, **kwargs):
        kernels.append(run(self, *args, grid=grid, warmup=True, **kwargs))

    with monkeypatch.context() as patch:
        patch.setattr(JITFunction, "run", compile_only)
        patch.setattr(driver, "_active", _Driver(capability))
        call()
    return [_measure(kernel) for kernel in kernels]


def _measure(kernel) -> Compiled:
    from triton import knobs

    ptx = kernel.asm["ptx"]
    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE).group(1)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(ptx)
        command = [knobs.nvidia.ptxas.path, "-v", f"--gpu-name={target}", str(source)]
        done = subprocess.run(
            [*command, "-o", str(source.with_suffix(".cubin"))],
            capture_output=True,
            text=True,
            check=True,
        )
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    return Compiled(
        name=kernel.metadata.name,
        ptx=ptx,
        shared=kernel.metadata.shared,
        registers=int(re.search(r"Used (\d+) registers", done.stderr).group(1)),
        spilled=sum(map(int, spills.groups())),
    )
