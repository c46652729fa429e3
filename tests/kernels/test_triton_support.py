"""Where the Triton kernels say they cannot run."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from ssfnas import kernels

WITHOUT_TRITON = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "triton":
            raise ModuleNotFoundError("No module named 'triton'", name="triton")

sys.meta_path.insert(0, Blocker())
import ssfnas.kernels
print(ssfnas.kernels.unavailable())
"""


def test_imports_without_triton(pytestconfig):
    child = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRITON],
        capture_output=True,
        text=True,
        cwd=pytestconfig.rootpath,
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.startswith("Triton, which comes with PyTorch on Linux, cannot be imported")


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'mixed_product'"):
        _ = kernels.mixed_product


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_needs_a_device():
    assert "no CUDA device is visible" in kernels.unavailable()


def test_cpu_tensors_are_for_the_interpreter_alone():
    assert "on 'cpu'" in kernels.unsupported("mixed_sum", [torch.zeros(3)])


@pytest.mark.interpreter
def test_available_in_the_interpreter():
    assert kernels.unavailable() is None
    assert kernels.unsupported("mixed_sum", [torch.zeros(3)] * kernels.MAX_INPUTS) is None
    assert kernels.unsupported("mixed_sum", []) is None
    assert kernels.unsupported("barlow_twins_loss", [torch.zeros(3, 3)] * 2) is None


@pytest.mark.interpreter
def test_refuses_what_no_kernel_is_for():
    many = [torch.zeros(3)] * (kernels.MAX_INPUTS + 1)
    assert "more than the 48" in kernels.unsupported("mixed_norm_sum", many)
    assert "int64" in kernels.unsupported("mixed_sum", [torch.zeros(3, dtype=torch.int64)])
    assert "'meta'" in kernels.unsupported("mixed_sum", [torch.zeros(3, device="meta")])
