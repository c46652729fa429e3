from __future__ import annotations

import types

import pytest
import torch

from ssfnas.errors import RequestError
from ssfnas.ops import (
    BackendError,
    backend,
    backends,
    barlow_twins_loss,
    mixed_norm_sum,
    mixed_sum,
    selection,
)


@pytest.fixture
def registry(monkeypatch):
    """Backends of the test's making; each is the plain one that notes who was called."""
    monkeypatch.delenv("SSFNAS_BACKEND", raising=False)
    calls: list[str] = []

    def clear():
        for function in ("why_unavailable", "_modules", "_has", "_primitives"):
            getattr(selection, function).cache_clear()

    def make(name, *, unavailable=None, unsupported=None, without=()):
        module = types.ModuleType(f"made_{name}")
        module.unavailable = lambda: unavailable
        module.unsupported = lambda op, tensors: unsupported

        def noting(function):
            def called(*args):
                calls.append(name)
                return selection.primitive("torch", function)(*args)

            return called

        for functions in selection._PRIMITIVES.values():
            for function in functions:
                if function not in without:
                    setattr(module, function, noting(function))
        monkeypatch.setitem(selection._MODULES, name, (module.__name__,))
        monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
        clear()
        return calls

    yield make
    monkeypatch.undo()
    clear()


XS, WEIGHTS = [torch.ones(2, 3), torch.ones(2, 3)], torch.ones(2)


def test_backends_say_why_they_cannot_run():
    found = backends()
    assert set(found) == {"torch", "native", "triton"}
    assert found["torch"] is None
    assert all(reason is None or len(reason) > 10 for reason in found.values())


def test_auto_takes_the_first_that_fits(registry):
    calls = registry("native")
    mixed_sum(XS, WEIGHTS)
    assert calls == ["native"]
    registry("native", unsupported="no such tensors")
    mixed_sum(XS, WEIGHTS)
    registry("native", unavailable="not built")
    mixed_sum(XS, WEIGHTS)
    assert calls == ["native"]


def test_auto_never_interprets_on_a_cpu(registry):
    registry("native", unavailable="not built")
    calls = registry("triton")
    mixed_sum(XS, WEIGHTS)
    assert calls == []
    with backend("triton"):
        mixed_sum(XS, WEIGHTS)
    assert calls == ["triton"]


def test_a_backend_may_lack_an_op(registry):
    calls = registry("native", without=("barlow_twins_forward",))
    z = torch.arange(6.0).reshape(3, 2)
    barlow_twins_loss(z, z)
    assert calls == []
    with backend("native"):
        mixed_sum(XS, WEIGHTS)
        with pytest.raises(BackendError, match="'native' cannot compute barlow_twins_loss"):
            barlow_twins_loss(z, z)


def test_backward_stays_with_the_backend_of_the_forward(registry):
    calls = registry("native")
    weights = WEIGHTS.clone().requires_grad_()
    with backend("native"):
        out = mixed_sum(XS, weights)
    with backend("torch"):
        out.sum().backward()
    assert calls == ["native", "native"]


def test_forcing_ends_with_the_block_and_nests(registry):
    calls = registry("native")
    with backend("torch"):
        with backend("native"):
            mixed_sum(XS, WEIGHTS)
        mixed_sum(XS, WEIGHTS)
        with pytest.raises(ZeroDivisionError), backend("native"):
            raise ZeroDivisionError
        mixed_sum(XS, WEIGHTS)
    assert calls == ["native"]

    @backend("native")
    def compute():
        return mixed_sum(XS, WEIGHTS)

    compute()
    compute()
    assert calls == ["native"] * 3


def test_what_cannot_run_is_an_error_never_another_backend(registry):
    registry("native", unavailable="it was not built")
    for error in (RuntimeError, RequestError):
        with pytest.raises(error, match="it was not built"), backend("native"):
            pass
    registry("native", unsupported="int8 tensors")
    z = torch.arange(12.0).reshape(2, 3, 2)
    with backend("native"):
        for call in (
            lambda: mixed_sum(XS, WEIGHTS),
            lambda: mixed_norm_sum([z], torch.ones(1)),
            lambda: barlow_twins_loss(XS[0], XS[0]),
        ):
            with pytest.raises(BackendError, match=r"'native' cannot compute .* int8 tensors"):
                call()
    known = r"no such backend.*auto, torch, native, triton"
    with pytest.raises(BackendError, match=known), backend("cuda"):
        pass


def test_environment_variable(registry, monkeypatch):
    calls = registry("triton")
    monkeypatch.setenv("SSFNAS_BACKEND", "triton")
    mixed_sum(XS, WEIGHTS)
    with backend("torch"):
        mixed_sum(XS, WEIGHTS)
    with backend("auto"):
        mixed_sum(XS, WEIGHTS)
    assert calls == ["triton"]
    registry("triton", unavailable="no GPU")
    with pytest.raises(BackendError, match=r"SSFNAS_BACKEND=triton: .*no GPU"):
        mixed_sum(XS, WEIGHTS)
    monkeypatch.setenv("SSFNAS_BACKEND", "fast")
    with pytest.raises(BackendError, match="SSFNAS_BACKEND=fast: there is no such backend"):
        mixed_sum(XS, WEIGHTS)


def test_a_module_that_does_not_import_is_a_reason(registry, monkeypatch):
    registry("native")
    monkeypatch.setitem(selection._MODULES, "native", ("ssfnas.ops.no_such_module",))
    selection._modules.cache_clear()
    selection.why_unavailable.cache_clear()
    assert "no_such_module" in backends()["native"]
    torch.testing.assert_close(mixed_sum(XS, WEIGHTS), torch.full((2, 3), 2.0))


def test_reference_can_be_asked_for():
    weights = torch.ones(2, dtype=torch.float64, requires_grad=True)
    xs = [x.double() for x in XS]
    z = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z.requires_grad_()
    with backend("reference"):
        for value in (
            mixed_sum(xs, weights).pow(3).sum(),
            mixed_norm_sum([z, z], weights).pow(3).sum(),
            barlow_twins_loss(z, z.square()) * weights.sum() ** 2,
        ):
            (first,) = torch.autograd.grad(value, weights, create_graph=True)
            (second,) = torch.autograd.grad(first.sum(), weights)
            assert second.isfinite().all()
            assert second.abs().sum() > 0


def test_tensors_without_memory_stay_with_torch(registry):
    from torch._subclasses.fake_tensor import FakeTensorMode

    calls = registry("native")
    with FakeTensorMode():
        out = mixed_sum([torch.ones(2, 3), torch.ones(2, 3)], torch.ones(2))
    assert out.shape == (2, 3)
    assert mixed_sum([x.to("meta") for x in XS], WEIGHTS.to("meta")).shape == (2, 3)
    assert calls == []
