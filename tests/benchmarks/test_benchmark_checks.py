"""The benchmarks refuse wrong results, and their columns say what they claim."""

from __future__ import annotations

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks.cases import cases
from benchmarks.checks import WrongResultError
from benchmarks.pages import COMPILED, EAGER, markdown
from benchmarks.timing import Ceilings, Row, peak_bytes, time_in_turn
from benchmarks.variants import Variant, check, expected, variants

CPU = torch.device("cpu")


@pytest.fixture
def case():
    return cases("mixed_sum", quick=True)[0]


def test_a_wrong_result_is_refused(case):
    right = next(one for one in variants(case, CPU, compiled=False) if one.name == EAGER)
    inputs = case.inputs(CPU)
    known = expected(case, inputs)
    check(case, right, inputs, known)

    def slightly_wrong(inputs):
        results = right.run(inputs)
        results[2] = results[2] * 1.001
        return results

    with pytest.raises(WrongResultError, match="sloppy: result 2"):
        check(case, Variant("sloppy", slightly_wrong), inputs, known)


def test_a_wrong_variant_is_reported_and_not_timed(case, monkeypatch, capsys):
    def zeros(inputs):
        return [torch.zeros(()), *(torch.zeros_like(x) for x in inputs)]

    def broken(inputs):
        raise ValueError("cannot run\nat length")

    added = [Variant("zero", zeros), Variant("broken", broken)]
    monkeypatch.setattr(command, "variants", lambda *a, **k: [*variants(*a, **k), *added])
    monkeypatch.setattr(command, "cases", lambda op, **_: [case])
    monkeypatch.setattr(command, "ceilings", lambda *_: Ceilings(1e9, 1e9))
    code = command.main(["mixed_sum", "--quick", "--no-compile", "--device", "cpu"])
    assert code == 1
    lines = capsys.readouterr().out.splitlines()
    assert any("| zero" in line and "WRONG" in line for line in lines)
    assert any("| broken" in line and "failed: ValueError: cannot run " in line for line in lines)
    assert any("reference, eager" in line and "1.00" in line for line in lines)


def test_a_page_is_written(case, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(command, "cases", lambda op, **_: [case])
    monkeypatch.setattr(command, "ceilings", lambda *_: Ceilings(1e9, 2e12))
    argv = ["mixed_sum", "--no-compile", "--rounds", "1", "--results", str(tmp_path)]
    assert command.main([*argv, "--device", "cpu"]) == 0
    (path,) = tmp_path.iterdir()
    assert path.name.endswith("-mixed_sum.md")
    page = path.read_text()
    assert "\n\nWritten by `python -m benchmarks` on " in page
    assert f", torch {torch.__version__}, " in page
    assert "\n\nCeilings: copy 1 GB/s, float32 matrix product 2.00 TFLOP/s.\n\n" in page
    printed = capsys.readouterr().out
    assert printed.endswith(f"written to {path}\n")
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert "\n".join(table) in page


def test_columns(case):
    assert case.bytes_moved == (3 * 2 + 2) * 4 * 16 * 16 * 16 * 4
    eager = Row(EAGER, seconds=4e-6, peak_bytes=3 << 20)
    fast = Row("triton", seconds=1e-6, launched=True)
    rows = [eager, Row(COMPILED, "failed: it cannot be"), fast]
    rate = case.bytes_moved / 1e-6
    cells = command.cells(case, fast, rows, Ceilings(2 * rate, 1.0))
    line = dict(zip(command.HEADER, cells, strict=True))
    assert line["variant"] == "triton (launched)"
    assert line["us"] == "1.0"
    assert line["x eager"] == "4.00"
    assert line["x compiled"] == "-"
    assert line["GB/s"] == f"{rate / 1e9:.1f}"
    assert line["% ceiling"] == "50%"
    assert line["peak MB"] == "-"
    assert command.cells(case, eager, rows, Ceilings(rate, 1.0))[-1] == "3.0"


def test_a_line_of_a_table_may_end_early():
    lines = markdown(("variant", "us"), [["fast"], ["torch", "12.5"]]).splitlines()
    assert lines[2:] == ["| fast    |      |", "| torch   | 12.5 |"]
    assert len({len(line) for line in lines}) == 1


def test_things_are_timed_in_turn_and_a_first_round_warms_up():
    order, taken = [], iter([100.0, 100.0, 1.0, 5.0, 3.0, 7.0, 2.0, 9.0])

    def run(name):
        order.append(name)
        return next(taken)

    rows = [Row("a"), Row("b")]
    time_in_turn([(row, row.variant) for row in rows], 3, run)
    assert order == ["a", "b"] * 4
    assert [row.seconds for row in rows] == [2.0, 7.0]


def test_what_fails_while_it_is_timed_ends_nothing_else():
    def run(row):
        if row.variant == "bad":
            raise RuntimeError("out of memory\nat length")
        return 1.0

    rows = [Row("bad"), Row("good")]
    time_in_turn([(row, row) for row in rows], 2, run)
    assert rows[0].note == "failed: RuntimeError: out of memory"
    assert rows[0].seconds is None
    assert rows[1].seconds == 1.0


def test_inputs_push_each_other_out_of_the_cache(case):
    sets = case.input_sets(CPU)
    assert len(sets) == 16
    assert len({x.data_ptr() for inputs in sets for x in inputs}) == 16 * 3


def test_peak_memory_of_a_process():
    found = peak_bytes(lambda: torch.ones(64 << 20, dtype=torch.uint8), CPU)
    assert found is None or 60 << 20 < found < 80 << 20


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["mixed_product"], "unknown op 'mixed_product': it is one of mixed_sum, "),
        (["--rounds", "0"], "--rounds: has to be at least 1"),
        (["--rounds", "many"], "--rounds: invalid int value: 'many'"),
        (["--device", "tpu"], "--device: 'tpu' is none of auto, cpu, cuda"),
    ],
)
def test_bad_arguments_are_refused(argv, said, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(argv)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
