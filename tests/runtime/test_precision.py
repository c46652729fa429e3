"""Half precision where it was asked for and can run, and nowhere else."""

import pytest
import torch

from ssfnas.errors import RequestError
from ssfnas.ops import native
from ssfnas.runtime.precision import (
    autocast,
    check_precision,
    make_scaler,
    what_bf16_gains,
)

CPU = torch.device("cpu")


def test_bf16_computes_in_bf16_and_keeps_parameters():
    layer = torch.nn.Linear(3, 2)
    with autocast("bf16", CPU):
        out = layer(torch.ones(1, 3))
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert layer.weight.dtype == layer.weight.grad.dtype == torch.float32


def test_fp32_leaves_every_dtype_alone():
    for dtype in (torch.float32, torch.float64):
        with autocast("fp32", CPU):
            assert torch.nn.Linear(3, 2).to(dtype)(torch.ones(1, 3, dtype=dtype)).dtype == dtype


def test_only_fp16_scales():
    assert make_scaler("fp32", CPU) is None
    assert make_scaler("bf16", CPU) is None


@pytest.mark.parametrize("use", [autocast, make_scaler, check_precision])
def test_what_cannot_run_is_refused(use):
    with pytest.raises(RequestError, match="fp16 needs a GPU: use bf16 or fp32"):
        use("fp16", CPU)
    with pytest.raises(RequestError, match="fp8: expected fp32, bf16 or fp16"):
        use("fp8", CPU)


def test_gpus_without_bf16_are_told_apart(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    with pytest.raises(RequestError, match="this GPU has none: use fp16"):
        check_precision("bf16", torch.device("cuda"))
    check_precision("fp16", torch.device("cuda"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_fp16_scales_on_a_gpu():
    device = torch.device("cuda")
    scaler = make_scaler("fp16", device)
    assert scaler is not None
    with autocast("fp16", device):
        out = torch.nn.Linear(3, 2, device=device)(torch.ones(1, 3, device=device))
    assert out.dtype == torch.float16
    assert scaler.scale(out.float().sum()).item() == 65536 * out.float().sum().item()


@pytest.mark.parametrize(
    ("sets", "found"),
    [("amx", "the CPU's matrix unit"), ("avx2", "no matrix unit"), (None, "no matrix unit")],
)
def test_bf16_on_a_cpu_says_what_it_gains(monkeypatch, sets, found):
    monkeypatch.setattr(native, "unavailable", lambda: None if sets else "not built")
    monkeypatch.setattr(native, "instruction_set", lambda: sets)
    assert found in what_bf16_gains("bf16", torch.device("cpu"))
    assert what_bf16_gains("fp32", torch.device("cpu")) is None
    assert what_bf16_gains("bf16", torch.device("cuda")) is None
