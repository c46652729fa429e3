"""The benchmarks refuse wrong results, and their columns say what they claim."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _root_is_importable(monkeypatch, pytestconfig):
    monkeypatch.syspath_prepend(str(pytestconfig.rootpath))


@pytest.fixture
def case():
    from benchmarks.cases import cases

    return cases("mixed_sum", quick=True)[0]


def test_a_wrong_result_is_refused(case):
    from benchmarks.variants import EAGER, Variant, WrongResultError, check, variants

    device = torch.device("cpu")
    right = next(one for one in variants(case, device, compiled=False) if one.name == EAGER)
    inputs = case.make(device, 0)
    check(case, right, inputs)

    def slightly_wrong(inputs):
        results = right.run(inputs)
        results[2] = results[2] * 1.001
        return results

    with pytest.raises(WrongResultError, match="sloppy: result 2"):
        check(case, Variant("sloppy", slightly_wrong), inputs)


def test_a_wrong_variant_is_reported_and_not_timed(case, monkeypatch, capsys):
    from benchmarks import __main__ as command
    from benchmarks.variants import Variant

    def nothing(inputs):
        return [torch.zeros(()), *(torch.zeros_like(x) for x in inputs)]

    variants = command.variants
    monkeypatch.setattr(
        command, "variants", lambda *a, **k: [*variants(*a, **k), Variant("zero", nothing)]
    )
    monkeypatch.setattr(command, "cases", lambda op, **_: [case])
    monkeypatch.setattr(command, "copy_ceiling", lambda *_: 1e9)
    monkeypatch.setattr(command, "matmul_ceiling", lambda *_: 1e9)
    code = command.main(["mixed_sum", "--quick", "--no-compile", "--device", "cpu"])
    assert code == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("| zero" in line and "WRONG" in line for line in lines)
    assert any("reference, eager" in line and "1.00" in line for line in lines)


def test_columns(case):
    from benchmarks.report import HEADER, Ceilings, Row, cells
    from benchmarks.timing import Timing
    from benchmarks.variants import EAGER

    assert case.bytes_moved == (3 * 2 + 2) * 4 * 16 * 16 * 16 * 4
    rows = [
        Row(case, EAGER, Timing(4e-6, 3 << 20)),
        Row(case, "triton", Timing(1e-6, None, replayed=False)),
    ]
    rate = case.bytes_moved / 1e-6
    line = dict(zip(HEADER, cells(rows[1], rows, Ceilings(2 * rate, 1.0)), strict=True))
    assert line["variant"] == "triton (launched)"
    assert line["us"] == "1.0"
    assert line["x eager"] == "4.00"
    assert line["x compiled"] == "-"
    assert line["GB/s"] == f"{rate / 1e9:.1f}"
    assert line["% ceiling"] == "50%"
    assert line["peak MB"] == "-"
    assert cells(rows[0], rows, Ceilings(rate, 1.0))[-1] == "3.0"


def test_inputs_push_each_other_out_of_the_cache(case):
    from benchmarks.timing import input_sets

    sets = input_sets(case, torch.device("cpu"))
    assert len(sets) == 16
    assert len({x.data_ptr() for inputs in sets for x in inputs}) == 16 * 3


def test_unknown_op_is_refused(capsys):
    from benchmarks.__main__ import main

    with pytest.raises(SystemExit) as stop:
        main(["mixed_product"])
    assert stop.value.code == 2
    assert "mixed_sum" in capsys.readouterr().err
