"""Candidate operations of GPUs against their definitions: on a GPU, or emulated on a CPU."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sysconfig

import pytest
import torch
from build_script import ROOT, build_script
from candidate_calls import KINDS, SHAPES, Calls, assert_right
from native_checks import DTYPES, Draws, assert_variance, displaced, over_places, wide

from ssfnas.ops import backend, cuda_candidates, native, native_candidates, torch_candidates
from ssfnas.ops.candidate_arguments import Units
from ssfnas.spaces import (
    DerivedNetwork,
    Genotype,
    ReferenceDerivedNetwork,
    ReferenceSupernet,
    Supernet,
)

HERE = ROOT / "tests" / "native"
SOURCES = (
    *("fused_forward.cu", "fused_backward.cu", "candidate_pools.cu"),
    *("depthwise.cu", "depthwise_filters.cu", "scaled_sums.cu"),
)


# One process compiles the kernels for all tests.
pytestmark = pytest.mark.xdist_group("emulated-kernels")


@pytest.fixture(scope="module")
def emulated_core(tmp_path_factory):
    """The kernels and what launches them, compiled for CPUs."""
    pybind11 = pytest.importorskip("pybind11", reason="needs pybind11")
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    toolkit = build_script().find_cuda()
    if toolkit is None:
        pytest.skip("needs CUDA's headers: a toolkit in CUDA_HOME, on PATH or in /usr/local/cuda")
    folder = tmp_path_factory.mktemp("emulated")
    includes = [f"-I{ROOT / 'csrc'}", f"-isystem{toolkit / 'include'}"]
    includes += [
        f"-isystem{path}" for path in (sysconfig.get_path("include"), pybind11.get_include())
    ]
    # Without warnings: CUDA's headers and pragmas are not for this compiler.
    flags = ["-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-w", *includes]
    ways = [
        *(["-x", "c++", "-include", HERE / "cuda_emulation.h", ROOT / "csrc/cuda" / name]
          for name in SOURCES),
        [HERE / "emulated_candidates.cpp"],
    ]  # fmt: skip
    objects, running = [], []
    for number, way in enumerate(ways):
        objects.append(folder / f"{number}.o")
        command = [compiler, *flags, *map(str, way), "-c", "-o", str(objects[-1])]
        running.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    library = folder / f"emulated_candidates{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run([compiler, "-shared", *map(str, objects), "-o", str(library)], check=True)
    spec = importlib.util.spec_from_file_location("emulated_candidates", library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def _one_thread(threads):
    """Definitions of small tensors wait for other threads longer than they run."""
    threads(1)


@pytest.fixture(
    params=[
        "emulated",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
            ],
        ),
    ]
)
def place(request, monkeypatch):
    """The device that the functions are called on."""
    if request.param == "cuda":
        reason = native.unsupported("candidate_operations", [torch.empty(1, device="cuda")])
        assert reason is None, reason
        return "cuda"
    core = request.getfixturevalue("emulated_core")
    monkeypatch.setattr(native_candidates, "_device", lambda x: cuda_candidates)
    monkeypatch.setattr(cuda_candidates, "_core", lambda: core)
    monkeypatch.setattr(cuda_candidates, "_place", lambda x: (0, 0))
    monkeypatch.setattr(cuda_candidates, "norm_statistics", _statistics)
    return "cpu"


@pytest.fixture(params=["fused", "unfused"])
def way(request, monkeypatch):
    """Whether depthwise results stay on the chip, where they can; in float64 they often cannot."""
    decide, fused, answers = cuda_candidates._is_fused, request.param == "fused", []

    def chosen(raw):
        answers.append(fused and decide(raw))
        return answers[-1]

    monkeypatch.setattr(cuda_candidates, "_is_fused", chosen)
    yield request.param
    assert any(answers) == fused


def _statistics(zs, wanted):
    moments = [torch_candidates.channel_moments(z) for z in zs]
    return torch.stack([m for m, _ in moments]), torch.stack([v for _, v in moments])


def to(device, value):
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, list):
        return [to(device, each) for each in value]
    if isinstance(value, dict):
        return {name: to(device, each) for name, each in value.items()}
    return value


def calls_on(device, *args, **options):
    calls = Calls(*args, **options)
    for name, value in list(vars(calls).items()):
        setattr(calls, name, to(device, value))
    return calls


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_units_are_their_definition(place, way, dtype, stride, shared):
    # Four channels fill 16 bytes in single precision, and half of them in 16 bits.
    for shape in (*SHAPES, (2, 4, 6, 8)):
        calls = calls_on(place, dtype, shape, stride=stride, shared=shared)
        truth = calls_on("cpu", dtype, shape, stride=stride, shared=shared).double()
        found = to("cpu", calls.separable(native_candidates))
        # What goes by way of memory is rounded on it: gradients of depthwise results always are.
        scale = 1 if dtype.itemsize > 2 else 4 if way == "fused" else 8
        assert_right(found, truth.separable(torch_candidates), dtype, f"{shape}", scale)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_blocks_go_over_several_tiles(place, shared):
    options = {"stride": 1, "shared": shared, "kinds": KINDS[:1] * 40}
    calls = calls_on(place, torch.float32, (3, 33, 17, 17), **options)
    truth = calls_on("cpu", torch.float32, (3, 33, 17, 17), **options).double()
    truth = truth.separable(torch_candidates)
    assert_right(
        to("cpu", calls.separable(native_candidates)), truth, torch.float32, "both filters"
    )
    dxs = to("cpu", _without_filters(calls)[0])
    first = truth[len(calls.zs) + 2 :]
    assert_right(dxs, first[: len(dxs)], torch.float32, "no filter")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [1, 3, 16, 32, 48, 64, 65, 72, 128, 256])
def test_units_of_few_channels_are_fused(emulated_core, monkeypatch, dtype, stride, channels):
    monkeypatch.setattr(cuda_candidates, "_core", lambda: emulated_core)
    x = torch.zeros(1, channels, 8, 8, dtype=dtype)
    depthwise = [torch.zeros(channels, 1, k, k) for k, _ in KINDS]
    pointwise = [torch.zeros(channels, channels, 1, 1) for _ in KINDS]
    dilations = [dilation for _, dilation in KINDS]
    units = Units([x], depthwise, pointwise, stride=stride, dilations=dilations)
    assert cuda_candidates._is_fused(units.native(emulated_core)) == (channels <= 64)


def test_moments_of_channels_far_from_zero(place, way):
    """A variance around another place than the mean would lose all its digits."""
    draws = Draws(torch.float32, "channels_last")
    x = draws.tensor((5, 16, 19, 21), mean=1e3).to(place)
    depthwise = [torch.ones(16, 1, 1, 1, device=place)] * 2
    mixing = torch.eye(16)[..., None, None] + draws.values(16, 16, 1, 1).abs() / 100
    options = {"stride": 1, "dilations": [1, 1]}
    results = native_candidates.separable_forward([x], depthwise, [mixing.to(place)] * 2, **options)
    zs, mean, var = to("cpu", [*results])
    for g, z in enumerate(zs):
        exact, variance = torch_candidates.channel_moments(wide(z))
        assert variance.max() < 3 < 500 < exact.min()
        torch.testing.assert_close(wide(mean[g]), exact, rtol=3e-7, atol=0)
        size = over_places(wide(z).abs()) / (z.numel() / 16)
        assert_variance(var[g], variance, size, torch.float32, f"{g}")


def test_infinity_reaches_what_it_belongs_to(place, way):
    calls = calls_on(place, torch.float32, (2, 5, 6, 7), stride=1, shared=True)
    # Definitions multiply by zero where a ReLU is shut, and here nothing is looked at there.
    calls.xs[0].abs_()
    calls.xs[0][0, 1, 2, 6], calls.grads[2][1, 3, 5, 6] = float("inf"), float("nan")
    truth = calls_on("cpu", torch.float32, (2, 5, 6, 7), stride=1, shared=True)
    truth.xs, truth.grads = to("cpu", calls.xs), to("cpu", calls.grads)
    expected = truth.double().separable(torch_candidates)
    found, groups = to("cpu", calls.separable(native_candidates)), len(KINDS)
    # But for depthwise filters: their gradients take in zeros times what lies beyond an edge.
    for place_of in (slice(None, groups + 3), slice(-groups, None)):
        for a, b in zip(found[place_of], expected[place_of], strict=True):
            assert torch.equal(a.isfinite(), b.isfinite())


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_pools_are_their_definition(place, dtype, stride):
    for shape in SHAPES:
        calls = calls_on(place, dtype, shape, stride=stride, shared=True)
        truth = calls_on("cpu", dtype, shape, stride=stride, shared=True).double()
        found = to("cpu", calls.pools(native_candidates))
        # Statistics are of the results as they are stored.
        scale = 1 if dtype.itemsize > 2 else 2
        assert_right(found, truth.pools(torch_candidates), dtype, f"{shape}", scale)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_memory_may_begin_anywhere(place, way, shared):
    options = {"stride": 1, "shared": shared}
    calls = calls_on(place, torch.float32, (2, 16, 5, 11), **options)
    truth = calls_on("cpu", torch.float32, (2, 16, 5, 11), **options).double()
    for name in ("xs", "zs", "grads"):
        setattr(calls, name, [displaced(x) for x in getattr(calls, name)])
    found = to("cpu", [*calls.separable(native_candidates), *calls.pools(native_candidates)])
    expected = [*truth.separable(torch_candidates), *truth.pools(torch_candidates)]
    assert_right(found, expected, torch.float32, "displaced")


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_the_same_call_gives_the_same_bits(place, way, shared):
    calls = calls_on(place, torch.float32, (3, 16, 12, 12), stride=1, shared=shared)
    first, second = calls.separable(native_candidates), calls.separable(native_candidates)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_filters_that_want_no_gradient_get_none(place, way, shared):
    calls = calls_on(place, torch.float32, (2, 4, 6, 7), stride=2, shared=shared)
    every, few = _backward(calls), _without_filters(calls)
    assert few[2] is None
    assert few[3] is None
    # Not to the bit: compilers may round a product and a sum once or twice.
    for a, b in zip(few[0], every[0], strict=True):
        torch.testing.assert_close(a, b)
    for a, b in zip(few[1] or (), every[1] or (), strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_of_inputs_alone_need_no_depthwise_results(place, way, monkeypatch):
    calls = calls_on(place, torch.float32, (2, 4, 6, 7), stride=2, shared=True)
    monkeypatch.setattr(cuda_candidates, "_depthwise", None)
    assert _without_filters(calls)[0][0].isfinite().all()


def _backward(calls, **options):
    return native_candidates.separable_backward(
        *(calls.xs, calls.zs, calls.grads, calls.p, calls.q, calls.r),
        *(calls.depthwise, calls.pointwise),
        **(calls.keywords | calls.backward),
        into=None if calls.into is None else calls.into.clone(),
        **options,
    )


def _without_filters(calls):
    return _backward(calls, needs_weights=False)


def test_a_coefficient_of_results_that_is_none_leaves_them_unread(place, way):
    calls = calls_on(place, torch.float32, (2, 4, 6, 7), stride=2, shared=True)
    zeros = calls_on(place, torch.float32, (2, 4, 6, 7), stride=2, shared=True)
    calls.q = calls.r = None
    calls.zs = [torch.full_like(z, float("nan")) for z in calls.zs]
    zeros.q, zeros.r = torch.zeros_like(zeros.q), torch.zeros_like(zeros.r)
    for a, b in zip(
        calls.separable(native_candidates), zeros.separable(native_candidates), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("needs_weights", [True, False], ids=["filters", "inputs"])
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_no_factors_are_ones_and_no_center_is_zero(place, way, shared, needs_weights):
    calls = calls_on(place, torch.float32, (3, 16, 6, 7), stride=1, shared=shared)
    calls.backward = {name: torch.ones_like(x) for name, x in calls.backward.items()}
    if not shared:
        calls.backward["center"].zero_()
    given = _backward(calls, needs_weights=needs_weights)
    calls.backward = {}
    for a, b in zip(given, _backward(calls, needs_weights=needs_weights), strict=True):
        assert (a is None) == (b is None)
        for x, y in zip(a or (), b or (), strict=True):
            assert torch.equal(x, y)


def test_maxima_treat_nan_and_infinity_as_pytorch_does(place):
    x = torch.round(Draws(torch.float32, "channels_last").tensor((2, 17, 6, 7)))
    x[0, 3, 2, 2], x[1, 16, 0, 0], x[1, 0] = float("nan"), float("inf"), -float("inf")
    for stride in (1, 2):
        expected = torch_candidates.pools_forward(x, stride)
        found = native_candidates.pools_forward(x.to(place), stride)[0].cpu()
        assert torch.equal(found.isnan(), expected[0].isnan())
        assert torch.equal(found.nan_to_num(7.0), expected[0].nan_to_num(7.0))
        grad = torch.ones_like(expected[0])
        dx = native_candidates.pools_backward(x.to(place), grad.to(place), None, stride).cpu()
        assert torch.equal(dx, torch_candidates.pools_backward(x, grad, None, stride))


def test_a_supernet_of_these_is_the_reference(place):
    """Both strides, shared and own inputs, both updates of a search: results and all gradients."""
    options = {"num_classes": 3, "channels": 4, "layers": 3, "nodes": 2}
    draws = torch.Generator().manual_seed(5)
    reference = ReferenceSupernet(**options, generator=draws).to(place, torch.float64)
    fast = Supernet(**options).to(place, torch.float64)
    fast.load_state_dict(reference.state_dict())
    x = torch.randn(2, 3, 6, 7, generator=draws, dtype=torch.float64).to(place)
    for kind in ("weights", "alphas"):
        found = []
        for net, name in ((reference, "reference"), (fast, "native")):
            with backend(name):
                wanted = getattr(net, kind)()
                found.append(torch.autograd.grad(net(x).square().sum(), wanted, allow_unused=True))
        for value, truth in zip(found[1], found[0], strict=True):
            assert (value is None) == (truth is None)
            if truth is not None:
                assert (value - truth).norm() <= 1e-10 * max(float(truth.norm()), 1e-3)
    for value, truth in zip(fast.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(value, truth, rtol=1e-10, atol=1e-10)


def test_a_derived_network_of_these_is_the_reference(place):
    """Centers of BatchNorms with weights, and factors of dropped paths."""
    options, genotype = {"num_classes": 3, "channels": 4, "layers": 3}, Genotype.load("DARTS_V2")
    draws = torch.Generator().manual_seed(5)
    reference = ReferenceDerivedNetwork(genotype, **options, generator=draws)
    fast = DerivedNetwork(genotype, **options)
    for parameter in reference.parameters():
        if parameter.dim() == 1:
            parameter.data = torch.randn(parameter.shape, generator=draws)
    fast.load_state_dict(reference.state_dict())
    x = torch.randn(3, 3, 6, 7, generator=draws, dtype=torch.float64).to(place)
    found = []
    for net, name in ((reference, "reference"), (fast, "native")):
        net.to(place, torch.float64).set_drop_path(0.4, seed=2, step=7)
        with backend(name):
            found.append(torch.autograd.grad(net(x).square().sum(), [*net.parameters()]))
    for value, truth in zip(found[1], found[0], strict=True):
        assert (value - truth).norm() <= 1e-10 * max(float(truth.norm()), 1e-3)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_images_without_pixels_are_taken(place, shared):
    calls = calls_on(place, torch.float32, (0, 4, 5, 5), stride=1, shared=shared)
    zs, mean, _ = native_candidates.separable_forward(
        calls.xs, calls.depthwise, calls.pointwise, **calls.keywords
    )
    assert zs[0].shape == (0, 4, 5, 5)
    assert mean.shape == (len(KINDS), 4)
    dxs, sums, d_depthwise, d_pointwise = _backward(calls)
    assert all(dx.shape == (0, 4, 5, 5) for dx in dxs)
    for found, filters in ((d_depthwise, calls.depthwise), (d_pointwise, calls.pointwise)):
        for a, b in zip(found, filters, strict=True):
            assert torch.equal(a, torch.zeros_like(b))
    assert all(torch.equal(total, torch.zeros_like(total)) for total in sums or ())
    assert _without_filters(calls)[2:] == (None, None)
