"""Every CUDA source compiles for the GPUs that we name, without spilling registers."""

from __future__ import annotations

import re
import subprocess

import pytest
from build_script import ROOT, build_script


@pytest.mark.parametrize("architecture", ["8.0", "9.0"])
@pytest.mark.parametrize("source", sorted(path.name for path in ROOT.glob("csrc/*.cu")))
def test_no_kernel_spills(source, architecture, tmp_path):
    script = build_script()
    toolkit = script.find_cuda()
    if toolkit is None:
        pytest.skip("needs nvcc: a CUDA toolkit in CUDA_HOME, on PATH or in /usr/local/cuda")
    flags, (name,) = script.architectures(architecture)
    command = [toolkit / "bin" / "nvcc", *script.CUDA_FLAGS, *flags, "-Xptxas", "-v"]
    command += ["-c", ROOT / "csrc" / source, "-o", tmp_path / "kernels.o"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    report = done.stdout + done.stderr
    assert done.returncode == 0, report
    kernels = re.findall(rf"Compiling entry function '(\S+)' for '{name}'", report)
    stores = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert kernels
    assert len(stores) == len(kernels)
    spilled = [
        f"{kernel}: {spills}"
        for kernel, spills in zip(kernels, stores, strict=True)
        if spills != ("0", "0")
    ]
    assert not spilled
