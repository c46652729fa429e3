"""Everything for a GPU in small steps: what fails or takes too long hides nothing after it."""

from __future__ import annotations

import shlex
import tarfile
import time
from pathlib import Path

import pytest

from benchmarks import __main__ as ops
from benchmarks import search_step, smoke, train_step
from benchmarks.checks import WrongResultError
from benchmarks.on_gpu import LONGEST, STEPS, Step, main, run
from ssfnas import config
from ssfnas.commandline import parse


def step(name, code, **options):
    return Step(name, f"{{python}} -c {shlex.quote(code)} {{out}} {{runs}} {{data}}", **options)


def results_of(out: Path) -> dict[str, str]:
    with tarfile.open(out / "results.tar.gz") as archive:
        files = [member for member in archive.getmembers() if member.isfile()]
        return {member.name: archive.extractfile(member).read().decode() for member in files}


PAGE = """
import os, sys
out, runs, data = sys.argv[1:]
open(out + "/page.md", "w").write(data)
os.makedirs(runs + "/search/checkpoints")
open(runs + "/search/metrics.jsonl", "w").write("{{}}")
open(runs + "/search/checkpoints/step-1.pt", "w").write("large")
print("7 passed")
print("and more")
"""


def test_a_step_that_fails_hides_nothing(tmp_path, capsys):
    steps = [
        step("fails", "print('1 failed'); raise SystemExit(3)"),
        step("crashes", "import os; os.abort()"),
        step("works", PAGE),
        Step("nowhere", "no-such-program {out}"),
        step("there", "raise SystemExit(1)", unless="import os"),
    ]
    assert run(steps, tmp_path / "out", "images.npz", 100) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "results.tar.gz",
        "summary.txt",
    ]
    summary = (tmp_path / "out" / "summary.txt").read_text()
    for name, outcome, line in [
        ("fails", "exit code 3", "1 failed"),
        ("works", "ok", "7 passed"),
        ("nowhere", "left out", "no-such-program is not installed"),
        ("there", "left out", "not needed"),
    ]:
        told = summary[summary.index(f"{name} ") :].splitlines()
        assert outcome in told[0]
        assert told[1].strip() == line
    assert "exit code -6" in summary
    assert summary in capsys.readouterr().out
    found = results_of(tmp_path / "out")
    assert found["results/summary.txt"] == summary
    assert found["results/pages/page.md"] == "images.npz"
    assert found["results/logs/works.log"] == "7 passed\nand more\n"
    assert "results/runs/search/metrics.jsonl" in found
    assert not any("checkpoints" in name for name in found)


def test_a_step_that_takes_too_long_is_ended_with_what_it_started(tmp_path):
    pids = tmp_path / "pid"
    forever = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open({str(pids)!r}, "w").write(str(child.pid))
print("begun", flush=True)
child.wait()
"""
    steps = [step("forever", forever, seconds=3), step("after", "print('passed')")]
    assert run(steps, tmp_path / "out", "", 100) == 1
    summary = (tmp_path / "out" / "summary.txt").read_text()
    assert "too long" in summary
    assert "begun" in summary
    assert "passed" in summary
    for _ in range(100):
        state = Path(f"/proc/{pids.read_text()}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the child of a step goes on")


def test_all_steps_together_have_a_limit(tmp_path):
    assert run([step("late", "print('passed')")], tmp_path, "", 1) == 0
    assert "no time was left for it" in (tmp_path / "summary.txt").read_text()


def test_what_is_there_is_kept_after_each_step(tmp_path):
    look = f"import tarfile; print(tarfile.open({str(tmp_path / 'results.tar.gz')!r}).getnames())"
    run([step("first", "print('passed')"), step("second", look, headline="logs")], tmp_path, "", 99)
    assert "results/logs/first.log" in (tmp_path / "summary.txt").read_text()


def test_every_step_is_short_and_can_be_named(capsys):
    assert len({each.name for each in STEPS}) == len(STEPS)
    assert max(each.seconds for each in STEPS) <= LONGEST <= 120
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == [each.name for each in STEPS]
    with pytest.raises(SystemExit) as left:
        main(["smoke-gradiants"])
    assert left.value.code == 2
    assert "unknown step 'smoke-gradiants'" in capsys.readouterr().err


def test_commands_of_steps_are_ones_that_there_are(tmp_path):
    """Flags are parsed by the commands themselves: a typing error would cost minutes of a GPU."""
    parsed = 0
    for each in STEPS:
        words = [word.format(python="python", out=tmp_path, runs=tmp_path, data="images.npz")
                 for word in shlex.split(each.command)]  # fmt: skip
        module, *rest = words[words.index("-m") + 1 :] if "-m" in words else [""]
        if module == "benchmarks.search_step":
            search_step._arguments(rest)
        elif module == "benchmarks.train_step":
            train_step._arguments(rest)
        elif module == "benchmarks":
            ops._arguments(rest)
        elif module == "benchmarks.smoke":
            assert set(rest) - {"--small"} <= set(smoke.PARTS)
        elif module in ("ssfnas.search", "ssfnas.retrain"):
            kind = {"search": config.SearchConfig, "retrain": config.RetrainConfig}
            parse(kind[module.partition(".")[2]], rest, module, "")
        else:
            continue
        parsed += 1
    assert parsed >= 19


@pytest.mark.parametrize("parts", [["ops", "launches"], ["gradients"], ["supervised-fp32"]])
def test_the_first_look_works_without_a_gpu_too(parts, capsys):
    assert smoke.main([*parts, "--device", "cpu", "--small"]) == 0
    told = capsys.readouterr().out
    assert told.rstrip().endswith("done: 0 parts failed")
    for part, line in [
        ("ops", "right: candidate_operations"),
        ("launches", "launched: candidate_operations"),
        ("gradients", "ssl-bf16: weight gradient errs by"),
        ("supervised-fp32", "STEP supervised-fp32: median"),
    ]:
        assert (line in told) == (part in parts)


def test_wrong_gradients_of_one_step_hide_no_other(capsys, monkeypatch):
    right = smoke.check_step

    def check(variant, found, plain, truth, precision):
        if precision == "bf16":
            raise WrongResultError("a gradient is wrong")
        right(variant, found, plain, truth, precision)

    monkeypatch.setattr(smoke, "check_step", check)
    assert smoke.main(["gradients", "--device", "cpu", "--small"]) == 1
    told = capsys.readouterr().out
    assert told.count("FAILED ") == 2 + 1
    assert "FAILED gradients: RuntimeError: 2 steps were wrong" in told
    for name in smoke.STEPS:
        assert f"{name}: weight gradient errs by" in told


def test_the_first_look_goes_on_after_a_failure(capsys, monkeypatch):
    def broken(device, small):
        raise ValueError("a kernel is wrong\nat length")

    monkeypatch.setattr(smoke, "check_ops", broken)
    assert smoke.main(["ops", "launches", "--device", "cpu", "--small"]) == 1
    told = capsys.readouterr().out
    assert "FAILED ops: ValueError: a kernel is wrong\n" in told
    assert "launched: " in told
    assert told.rstrip().endswith("done: 1 parts failed")
