"""The benchmark of whole training steps: its page, what it refuses, and what it counts."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from written_pages import lines_of

from benchmarks import train_step
from benchmarks.checks import WrongResultError
from benchmarks.step_measure import OF, check_exactly, check_step
from benchmarks.step_page import StepRow
from benchmarks.step_variants import FAST, GRAPHED, TRUTH, compile_cells, compile_network
from benchmarks.timing import Ceilings
from benchmarks.train_counts import Products, products
from benchmarks.train_page import CHANNELS_LAST, NCHW, Measured, section
from benchmarks.train_runner import TrainRunner
from benchmarks.train_step import VARIANTS
from ssfnas.config import RetrainConfig
from ssfnas.spaces import NETWORKS, Genotype, count_multiply_adds

TINY = ["--device", "cpu", "--channels", "4", "--layers", "2", "--batch-size", "4",
        "--rounds", "1"]  # fmt: skip
UNCOMPILED = [*TINY, "--no-compile"]


@pytest.fixture
def config():
    return RetrainConfig(genotype="DARTS_V2", loss="ce", channels=4, layers=2, batch_size=4)


def spoil(trainer):
    """One of the many weights of the network is slightly another."""
    with torch.no_grad():
        trainer.net.cells[1].preprocess0.norm.weight[2] += 1e-6


def spoil_much(trainer):
    with torch.no_grad():
        trainer.net.cells[1].preprocess0.norm.weight[2] += 1


def test_page(page_of):
    name, page = page_of(train_step, *UNCOMPILED)
    assert name.endswith("-train-step-own.md")
    assert "\n\n## own: 4 channels, 2 cells, batch 4\n\n### Training step\n\n" in page
    assert page.index("### Training step") < page.index("### Evaluation")
    assert page.count("\n\nFloor: ") == 1 + 2
    assert "DARTS_V2, auxiliary head 0.4, drop-path 0.2, 32x32 images, fp32." in page
    assert "at a stated 30 GFLOP/s a core" in page
    assert "Calls: operators called." in page
    for start in VARIANTS:
        found = lines_of(page, start)
        assert len(found) == 2 * (start in (NCHW, CHANNELS_LAST, FAST))
        for line in found:
            for column in ("ms", "CPU ms", "images/s", "x NCHW", "x best other", "x floor"):
                assert float(line[column]) > 0
            assert int(line["calls"].replace(",", "")) > 20
    assert [line["x NCHW"] for line in lines_of(page, NCHW)] == ["1.00", "1.00"]


def test_half_precision_keeps_the_yardstick(page_of):
    name, page = page_of(train_step, *UNCOMPILED, "--precision", "bf16")
    assert name.endswith("-train-step-bf16-own.md")
    step, evaluation = lines_of(page, NCHW)
    assert (step["x NCHW"], step["x best other"]) == ("1.00", "-")
    assert evaluation["x best other"] == "-"
    assert all(float(line["x best other"]) > 0 for line in lines_of(page, FAST))


def test_compiled_variant_is_timed_and_said_how(page_of, monkeypatch):
    uncompiling = functools.partial(compile_cells, backend="eager")
    monkeypatch.setitem(train_step.UNITS, "cell", uncompiling)
    _, page = page_of(train_step, *TINY)
    assert "`reference, compiled` (channels_last, cell by cell, " in page
    assert page.count("Compiling, warm-up of all parts included: ") == 1
    for line in lines_of(page, "reference, compiled"):
        assert float(line["ms"]) > 0
        assert line["calls"] == "-"


@pytest.mark.parametrize(("unit", "kinds"), [(compile_network, 1), (compile_cells, 2)])
def test_compiled_computes_the_same_and_is_not_compiled_again(config, unit, kinds):
    torch.compiler.reset()
    counter = CompileCounterWithBackend("eager")
    prepare = functools.partial(unit, backend=counter)
    compiled = dataclasses.replace(VARIANTS[CHANNELS_LAST], prepare=prepare)
    one, usual = (TrainRunner(it, config, "cpu", 4) for it in (compiled, VARIANTS[CHANNELS_LAST]))
    found, wanted = one.gradients(), usual.gradients()
    assert list(found) == list(wanted)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-6)
    # In training, and in evaluation.
    assert counter.frame_count == 2 * kinds
    for _ in range(2):
        one.step()
        one.evaluation()
    assert counter.frame_count == 2 * kinds


def test_wrong_variant_is_refused(page_of, monkeypatch):
    wrong = dataclasses.replace(VARIANTS[FAST], prepare=spoil)
    monkeypatch.setitem(train_step.VARIANTS, FAST, wrong)
    _, page = page_of(train_step, *UNCOMPILED, code=1)
    for line in lines_of(page, "fast"):
        assert line.pop("ms").startswith("WRONG: fast: ")
        assert set(line.values()) == {"fast", ""}
    assert all(float(line["ms"]) > 0 for line in lines_of(page, NCHW))


def test_variant_that_is_wrong_only_in_single_precision_is_refused(config):
    wrong = dataclasses.replace(VARIANTS[FAST], prepare=spoil_much)
    truth, plain, found = (
        TrainRunner(variant, config, "cpu", 4).gradients()
        for variant in (TRUTH, VARIANTS[NCHW], wrong)
    )
    check_step("reference", plain, plain, truth, "fp32")
    with pytest.raises(WrongResultError, match="the reference in fp32"):
        check_step("fast", found, plain, truth, "fp32")


def test_without_usual_code_of_its_memory_layout_nothing_says_how_far_one_may_err(
    page_of, monkeypatch
):
    def fails(images):
        raise ValueError("no memory is left")

    def broken(trainer):
        trainer.net.forward = fails

    failing = dataclasses.replace(VARIANTS[CHANNELS_LAST], prepare=broken)
    monkeypatch.setitem(train_step.VARIANTS, CHANNELS_LAST, failing)
    _, page = page_of(train_step, *UNCOMPILED)
    for start, note in [
        (CHANNELS_LAST, "failed: ValueError: no memory is left"),
        (FAST, "failed: its reference did"),
    ]:
        assert [line["ms"] for line in lines_of(page, start)] == [note, note]
    assert all(float(line["ms"]) > 0 for line in lines_of(page, NCHW))


def test_each_gradient_counts_in_double_precision(config):
    truth = TrainRunner(TRUTH, config, "cpu", 3).gradients()
    check_exactly("fast", truth, truth)
    # The smallest of them, which their sum would hide.
    smallest = min((n for n in truth if n.startswith(OF)), key=lambda n: np.linalg.norm(truth[n]))
    spoiled = {**truth, smallest: truth[smallest] * (1 + 1e-8)}
    with pytest.raises(WrongResultError, match=f"fast: {smallest} has error"):
        check_exactly("fast", spoiled, truth)


def test_gradients_are_those_of_a_step_with_auxiliary_head_and_dropped_paths(config):
    runner = TrainRunner(TRUTH, config, "cpu", 3)
    first, second = runner.gradients(), runner.gradients()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    net, phase = runner.trainer.net, runner.phase
    batch = phase.stream.next()
    images, labels = batch.views[0][:3], batch.labels[:3]
    net.train()
    # The last of 600 epochs.
    net.set_drop_path(0.2 * 599 / 600, *net._drop_path[1:3])
    factors = net.draw_path_factors(3, torch.float64)
    assert (factors == 0).any()
    net.give_path_factors(factors)
    logits, auxiliary = net(images)
    loss = nn.functional.cross_entropy(logits, labels)
    total = loss + 0.4 * nn.functional.cross_entropy(auxiliary, labels)
    names, parameters = zip(*net.named_parameters(), strict=True)
    np.testing.assert_allclose(first["loss"], loss.item(), rtol=1e-12)
    for name, wanted in zip(names, torch.autograd.grad(total, parameters), strict=True):
        wanted = wanted.flatten().numpy()
        np.testing.assert_allclose(first[OF + name], wanted, rtol=1e-9, atol=1e-12)
    with torch.no_grad():
        np.testing.assert_allclose(first["logits"], net.eval()(images), rtol=1e-6)


@pytest.mark.parametrize(
    ("channels", "layers", "millions"), [(16, 8, (36, 6, 1)), (36, 20, (487, 38, 3))]
)
def test_products_are_those_of_the_network(channels, layers, millions):
    net = NETWORKS["reference"](
        Genotype.load("DARTS_V2"), channels=channels, layers=layers, auxiliary=True
    ).eval()
    image = torch.zeros(2, 3, 32, 32)
    with torch.no_grad():
        counted = products(net, lambda: net(image), 2)
    assert tuple(round(count / 1e6) for count in counted) == millions
    assert sum(counted) == count_multiply_adds(net)


def test_floor_and_ratios(config):
    counted = Products(pointwise=800, depthwise=300, other=200)
    reached = Ceilings(1.0, 2000e9)
    assert counted.seconds(12, reached, 2) == pytest.approx(12 * 2 * (1000 / 2e12 + 300 / 60e9))
    assert counted.seconds(12, reached, None) == pytest.approx(12 * 2 * 1300 / 2e12)
    rows = {
        name: StepRow(name, seconds=seconds, precision="bf16")
        for name, seconds in [(NCHW, 8.0), (CHANNELS_LAST, 4.0), ("reference, compiled", 2.0),
                              (FAST, 1.0), (GRAPHED, 0.5)]
    }  # fmt: skip
    rows[NCHW].precision = "fp32"
    # Two seconds for 4 images and three passes.
    slow = Ceilings(1.0, 12.0)
    measured = Measured(rows, Products(pointwise=1, depthwise=0, other=0))
    page = section("own", {"step": measured}, config, slow, torch.device("cpu"))
    columns = ("x NCHW", "x best other", "x floor")
    for start, wanted in [
        (NCHW, ("1.00", "-", "4.0")),
        (CHANNELS_LAST, ("2.00", "0.50", "2.0")),
        ("reference, compiled", ("4.00", "2.00", "1.0")),
        (GRAPHED, ("16.00", "4.00", "0.2")),
    ]:
        (line,) = lines_of(page, start)
        assert tuple(line[column] for column in columns) == wanted
    assert lines_of(page, FAST)[0]["x best other"] == "2.00"


def test_settings():
    chosen = {
        (): {"small": (16, 8, 96), "large": (36, 20, 32)},
        ("--setting", "both"): {"small": (16, 8, 96), "large": (36, 20, 32)},
        ("--setting", "large"): {"large": (36, 20, 32)},
        ("--layers", "5"): {"own": (16, 5, 96)},
        ("--setting", "large", "--batch-size", "8"): {"own": (36, 20, 8)},
    }
    for argv, wanted in chosen.items():
        settings = train_step._arguments(["--device", "cpu", *argv]).settings
        assert {name: tuple(sizes.values()) for name, sizes in settings.items()} == wanted


@pytest.mark.parametrize(
    "argv",
    [
        ["--setting", "medium"],
        ["--setting", "both", "--channels", "8"],
        ["--channels", "1"],
        ["--layers", "0"],
        ["--threads", "0"],
        ["--precision", "fp16"],
        ["--compile-unit", "edge"],
    ],
)
def test_bad_arguments_are_refused(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        train_step.main(["--device", "cpu", *argv])
    assert stop.value.code == 2
    assert argv[0] in capsys.readouterr().err


@pytest.mark.slow
def test_each_variant_in_a_process_of_its_own(tmp_path):
    assert train_step.main([*UNCOMPILED, "--results", str(tmp_path)]) == 0
    (path,) = tmp_path.iterdir()
    for start in (NCHW, FAST):
        assert all(float(line["ms"]) > 0 for line in lines_of(path.read_text(), start))
