"""Every CUDA source compiles for the GPUs that we name, without spilling registers."""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from build_script import ROOT, build_script

# One process compiles for all tests.
pytestmark = pytest.mark.xdist_group("compilations")
SOURCES = sorted(path.name for path in ROOT.glob("csrc/cuda/*.cu"))
Compilation = Future[tuple[int, str]]


@pytest.fixture(scope="module")
def compilations(request, tmp_path_factory):
    """What nvcc says of each source and architecture that a test asks for; all cores compile."""
    script = build_script()
    toolkit = script.find_cuda()
    if toolkit is None:
        pytest.skip("needs nvcc: a CUDA toolkit in CUDA_HOME, on PATH or in /usr/local/cuda")
    folder = tmp_path_factory.mktemp("kernels")

    def compiled(source: str, architecture: str) -> tuple[int, str]:
        flags, _ = script.architectures(architecture)
        command = [toolkit / "bin" / "nvcc", *script.CUDA_FLAGS, *flags, "-Xptxas", "-v"]
        command += ["-c", ROOT / "csrc/cuda" / source, "-o", Path(folder, source + architecture)]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    wanted = [
        (item.callspec.params["source"], item.callspec.params["architecture"])
        for item in request.session.items
        if item.path == request.path
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running: dict[tuple[str, str], Compilation] = {
            each: pool.submit(compiled, *each) for each in wanted
        }
        yield running


@pytest.mark.parametrize("architecture", ["9.0", pytest.param("8.0", marks=pytest.mark.slow)])
@pytest.mark.parametrize("source", SOURCES)
def test_no_kernel_spills(compilations, source, architecture):
    code, report = compilations[source, architecture].result()
    assert code == 0, report
    _, (name,) = build_script().architectures(architecture)
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
