"""The benchmark of whole search steps: its page, what it refuses, and what it counts."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from written_pages import lines_of

from benchmarks import search_step
from benchmarks.checks import WorkerError, WrongResultError
from benchmarks.pages import EAGER
from benchmarks.search_runner import SearchRunner
from benchmarks.search_step import VARIANTS, main
from benchmarks.step_counts import bytes_moved, multiply_adds
from benchmarks.step_measure import check_step
from benchmarks.step_variants import FAST, TRUTH, StepVariant, compile_edges
from benchmarks.step_worker import Worker
from ssfnas.config import SearchConfig

TINY = ["--device", "cpu", "--channels", "4", "--layers", "1", "--batch-size", "4",
        "--projector", "8,8", "--rounds", "1"]  # fmt: skip
UNCOMPILED = [*TINY, "--no-compile"]


@pytest.fixture
def config():
    return SearchConfig(
        objective="supervised", channels=4, layers=1, nodes=2, batch_size=4, projector=[8, 8]
    )


def spoil(trainer):
    """One of the many weights of the network is slightly another."""
    with torch.no_grad():
        trainer.net.alphas_reduce[1, 2] += 1e-5


def spoil_much(trainer):
    with torch.no_grad():
        trainer.net.alphas_reduce[1, 2] += 1


def test_page(page_of):
    name, page = page_of(search_step, *UNCOMPILED)
    assert name.endswith("-search-step.md")
    assert page.index("## supervised") < page.index("## ssl")
    assert page.count("Floor: ") == 1 + 2
    assert page.count("Views of both batches of a step: ") == 2
    assert page.count("% of a step of `fast`") == 2
    for start in ("reference, eager", "fast"):
        rows = lines_of(page, start)
        assert len(rows) == 2
        for found in rows:
            assert float(found["ms"]) > 0
            assert float(found["CPU ms"]) > 0
            assert found["x compiled"] == "-"
            assert int(found["calls"].replace(",", "")) > 100
    assert [found["x eager"] for found in lines_of(page, "reference, eager")] == ["1.00", "1.00"]
    assert not lines_of(page, "reference, compiled")


def test_compiled_variant_is_timed_and_said_how(page_of, monkeypatch):
    uncompiling = functools.partial(compile_edges, backend="eager")
    monkeypatch.setitem(search_step.UNITS, "edge", uncompiling)
    _, page = page_of(search_step, *TINY, "--objective", "supervised")
    assert "`reference, compiled` (edge by edge, " in page
    assert page.count("Compiling, warm-up included: ") == 1
    (found,) = lines_of(page, "reference, compiled")
    assert float(found["ms"]) > 0
    assert found["x compiled"] == "1.00"
    assert found["calls"] == "-"


def test_compiling_that_takes_too_long_is_noted(page_of, monkeypatch):
    def forward(*_):
        raise WorkerError("not done after 900 s")

    def endless(trainer):
        for cell in trainer.net.cells:
            cell.forward = forward

    monkeypatch.setitem(search_step.UNITS, "cell", endless)
    _, page = page_of(search_step, *TINY, "--compile-unit", "cell", "--objective", "supervised")
    assert "`reference, compiled` (cell by cell, " in page
    assert "Compiling, " not in page
    (row,) = lines_of(page, "reference, compiled")
    assert row["ms"] == "failed: not done after 900 s"
    (fast,) = lines_of(page, "fast")
    assert float(fast["ms"]) > 0


def test_alike_edges_share_what_is_compiled(config):
    config = dataclasses.replace(
        config, layers=6, operations=["max_pool_3x3", "skip_connect", "dil_conv_3x3"]
    )
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    plain = StepVariant("plain", "reference")
    compiled = dataclasses.replace(plain, prepare=functools.partial(compile_edges, backend=counter))
    runner, usual = (SearchRunner(variant, config, "cpu", 4) for variant in (compiled, plain))
    found, wanted = runner.gradients(), usual.gradients()
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, atol=1e-6)
    # 30 edges of 3 widths, of which 2 also come with stride 2. Each kind is compiled for both
    # updates, and that of the first cells once more: their input has no gradient for the alphas.
    assert counter.frame_count == 5 * 2 + 1
    for one in (runner, usual):
        one.step()
        one.step()
    assert counter.frame_count == 5 * 2 + 1
    states = (one.trainer.net.state_dict() for one in (runner, usual))
    for mine, other in zip(*(state.items() for state in states), strict=True):
        torch.testing.assert_close(mine[1], other[1], rtol=1e-4, atol=1e-5, msg=mine[0])


def test_profile_says_where_the_time_of_a_step_goes(page_of):
    options = ["--objective", "supervised", "--precision", "bf16", "--profile"]
    name, page = page_of(search_step, *UNCOMPILED, *options)
    assert name.endswith("-search-step-bf16-supervised.md")
    _, eager, fast = page.split("### Time of ")
    assert lines_of(eager, "aten::convolution_backward")
    assert lines_of(fast, "_CellFunctionBackward")
    for part in (eager, fast):
        shares = [float(line["share"].rstrip("%")) for line in lines_of(part, "")]
        assert len(shares) == 15 + 1
        assert sum(shares) == pytest.approx(100, abs=1)
        assert shares[:15] == sorted(shares[:15], reverse=True)


def test_wrong_variant_is_refused(page_of, monkeypatch):
    wrong = dataclasses.replace(VARIANTS[FAST], prepare=spoil)
    monkeypatch.setitem(search_step.VARIANTS, FAST, wrong)
    _, page = page_of(search_step, *UNCOMPILED, "--objective", "supervised", code=1)
    (row,) = lines_of(page, "fast")
    assert row.pop("ms").startswith("WRONG: fast: ")
    assert set(row.values()) == {"fast", ""}


def test_variant_that_is_wrong_only_in_single_precision_is_refused(config):
    wrong = dataclasses.replace(VARIANTS[FAST], prepare=spoil_much)
    truth, plain, found = (
        SearchRunner(variant, config, "cpu", 4).gradients()
        for variant in (TRUTH, VARIANTS[EAGER], wrong)
    )
    check_step("reference", plain, plain, truth, "fp32")
    with pytest.raises(WrongResultError, match="the reference in fp32"):
        check_step("fast", found, plain, truth, "fp32")


def test_gradients_are_those_of_both_updates(config):
    runner = SearchRunner(TRUTH, config, "cpu", 4)
    first, second = runner.gradients(), runner.gradients()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
    net = runner.trainer.net
    batch = runner.weight_batch
    loss = nn.functional.cross_entropy(net(batch.views[0]), batch.labels)
    wanted = torch.cat([grad.flatten() for grad in torch.autograd.grad(loss, net.weights())])
    np.testing.assert_allclose(first["weight loss"], loss.item(), rtol=1e-12)
    np.testing.assert_allclose(first["weight gradient"], wanted.numpy(), rtol=1e-9, atol=1e-12)


def test_variant_out_of_time_is_ended(config, tmp_path):
    worker = Worker(str(tmp_path), SearchRunner, TRUTH, config, "cpu", 4)
    try:
        with pytest.raises(WorkerError, match="not done after 0 s"):
            worker.ask("gradients", seconds=1e-6)
        assert not worker._process.is_alive()
    finally:
        worker.close()


@pytest.mark.slow
def test_each_variant_in_a_process_of_its_own(tmp_path):
    assert main([*UNCOMPILED, "--objective", "ssl", "--results", str(tmp_path)]) == 0
    (path,) = tmp_path.iterdir()
    (eager,), (fast,) = (lines_of(path.read_text(), start) for start in ("reference, e", "fast"))
    assert float(eager["ms"]) > 0
    assert float(fast["ms"]) > 0


def test_grouped_convolutions_gradients_cost_as_much_as_itself():
    convolution = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
    x = torch.zeros(2, 6, 5, 7)
    forward = 2 * 6 * 5 * 7 * 9
    assert multiply_adds(lambda: convolution(x)) == forward
    # The images want no gradient.
    assert multiply_adds(lambda: convolution(x).sum().backward()) == 2 * forward
    x.requires_grad_()
    assert multiply_adds(lambda: convolution(x).sum().backward()) == 3 * forward


def test_bytes_are_those_of_the_published_search():
    config = SearchConfig(batch_size=128, precision="bf16")
    # 2 cells at 16 x 32 x 32, 3 at 32 x 16 x 16, 3 at 64 x 8 x 8; 14 edges each.
    elements = 14 * (2 * 16 * 32 * 32 + 3 * 32 * 16 * 16 + 3 * 64 * 8 * 8)
    assert bytes_moved(config, (32, 32), views=2) == 54 * 2 * elements * 128 * 2 * 2
    # The stem halves larger images, twice above 128 pixels.
    assert bytes_moved(config, (128, 128), views=2) == 4 * bytes_moved(config, (32, 32), views=2)
    assert bytes_moved(config, (224, 224), views=2) == bytes_moved(config, (56, 56), views=2)


@pytest.mark.parametrize(
    "argv",
    [
        ["--objective", "labels"],
        ["--channels", "1"],
        ["--layers", "0"],
        ["--batch-size", "1"],
        ["--rounds", "0"],
        ["--projector", "8,wide"],
        ["--projector", "8,0"],
        ["--precision", "fp16"],
        ["--compile-seconds", "0"],
        ["--compile-unit", "node"],
        ["--steps", "3"],
    ],
)
def test_bad_arguments_are_refused(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--device", "cpu", *argv])
    assert stop.value.code == 2
    assert argv[0] in capsys.readouterr().err
