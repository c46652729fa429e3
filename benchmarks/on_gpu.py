"""``python -m benchmarks.on_gpu [STEP ...]``: all that needs a GPU, in small steps.

For machines that can be had for minutes: each step is a process of its own with its own limit, the
first tell the most a second, and a failed one hides none after it. After every step the folder
``--out`` holds all that there is so far: ``summary.txt``, a screen, and ``results.tar.gz`` with
logs, pages, profiles and run directories. Exit code: how many steps failed.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.commandline import known

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 120  # seconds of a step
OK, LEFT_OUT = "ok", "left out"
_LINES = 3  # of a step in the summary
# Of every step, where the caller has not set them.
VARIABLES = {
    "PYTHONUNBUFFERED": "1",
    "TORCH_CUDA_ARCH_LIST": "9.0",
    "MAX_JOBS": str(os.cpu_count() or 1),
}
_PYTHON = "{python} -m"
_UNCOMPILED = "--no-compile --profile"


@dataclass(frozen=True)
class Step:
    """One process.

    Attributes:
        name: what one asks for it by.
        command: as for a shell; ``{python}``, ``{out}`` (where results go), ``{runs}`` and
            ``{data}`` stand for what they are on the machine. Without its program the step is left
            out.
        seconds: most that it may take.
        headline: lines of its log that match are what the summary shows of it.
        variables: of its environment.
        unless: Python code; where it runs without an error, the step is not needed.
    """

    name: str
    command: str
    seconds: int = LONGEST
    headline: str = r"passed|failed|error"
    variables: Mapping[str, str] = field(default_factory=dict)
    unless: str | None = None


def _smoke(part: str) -> Step:
    headline = "FAILED|STEP|launched step|gradient errs"
    return Step(f"smoke-{part}", f"{_PYTHON} benchmarks.smoke {part}", headline=headline)


def _tests(name: str, folders: str) -> Step:
    command = f"{_PYTHON} pytest -m gpu -p no:cacheprovider {folders}"
    if importlib.util.find_spec("xdist"):
        command += " -n 12"
    if importlib.util.find_spec("pytest_timeout"):
        command += " --timeout 60"
    return Step(f"tests-{name}", command, headline=r"^FAILED|passed|failed|error")


def _sanitizer(tool: str) -> Step:
    smoke = f"{_PYTHON} benchmarks.smoke --small launches gradients ops"
    return Step(
        tool,
        f"compute-sanitizer --tool {tool} --error-exitcode 9 {smoke}",
        headline=r"ERROR SUMMARY|RACECHECK SUMMARY|Invalid|hazard",
        # PyTorch's cache of memory would hide reads beyond the end of a tensor.
        variables={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if tool == "memcheck" else {},
    )


def _whole_step(name: str, command: str, headline: str) -> Step:
    return Step(
        name, f"{_PYTHON} benchmarks.{command} --results {{out}}", headline=rf"{headline}|^TF32"
    )


def _search_step(objective: str, precision: str, options: str = _UNCOMPILED) -> Step:
    compiled = "" if "--no-compile" in options else "-compiled"
    return _whole_step(
        f"search-step-{objective}-{precision}{compiled}",
        f"search_step --objective {objective} --precision {precision} {options}",
        r"^\| (reference|fast)",
    )


def _train_step(setting: str, precision: str) -> Step:
    return _whole_step(
        f"train-step-{setting}-{precision}",
        f"train_step --setting {setting} --precision {precision} {_UNCOMPILED}",
        r"^\| fast",  # of the step, and of the evaluation
    )


def _ops(op: str) -> Step:
    command = f"{_PYTHON} benchmarks {op} --no-compile --results {{out}}"
    return Step(f"bench-{op}", command, headline="WRONG|failed|K=35|D=8192")


def _search(name: str, options: str) -> Step:
    place = f"--dataset {{data}} --device cuda {options} --out {{runs}}/{name} --overwrite"
    return Step(name, f"{_PYTHON} ssfnas.search --preset ssfnas {place}", headline="epoch|graph|s$")


def _retrain(graph: str) -> Step:
    """Two epochs, in the second of which paths are dropped; each step is one CUDA graph or not."""
    name = f"retrain-graph-{graph}"
    place = f"--dataset {{data}} --device cuda --out {{runs}}/{name} --overwrite"
    return Step(
        name,
        f"{_PYTHON} ssfnas.retrain --preset longtail --genotype {{runs}}/search-3 --epochs 2 "
        f"--ema 0.99 --cuda-graph {graph} {place}",
        headline="graph|kernel by kernel|steps/s|balanced",
    )


STEPS = (
    Step(
        "build",
        "{python} setup.py -q build_ext --inplace",
        headline="error",
        variables={"SSFNAS_FORCE_CUDA": "1"},
        unless="import torch; from ssfnas import _C; assert _C.cuda_architectures",
    ),
    Step("env", f"{_PYTHON} ssfnas.env", 30, headline="^gpu|^backend"),
    _smoke("gradients"),
    _smoke("supervised-bf16"),
    _smoke("supervised-fp32"),
    _smoke("ops"),
    _tests("ops", "tests/native tests/ops"),
    _tests("kernels", "tests/kernels"),
    _tests("training", "tests/training tests/runtime tests/pipeline"),
    _smoke("ssl-bf16"),
    _search_step("supervised", "bf16"),
    _search_step("supervised", "fp32"),
    Step(
        "launches",
        "ncu --clock-control none --set detailed --launch-count 24 --kernel-name 'regex:(forward|"
        "backward|backward_input|backward_filter|merge_moments|scaled_sums)_kernel' "
        f"--log-file {{out}}/launches-ncu.txt {_PYTHON} benchmarks.smoke launches",
        headline="launched",
    ),
    _sanitizer("memcheck"),
    _sanitizer("racecheck"),
    _search("search-3", "--epochs 3 --derive darts"),
    _search_step("ssl", "bf16"),
    _search_step("ssl", "fp32"),
    _train_step("small", "bf16"),
    _train_step("small", "fp32"),
    *(_ops(op) for op in ("mixed_norm_sum", "mixed_sum", "barlow_twins_loss")),
    _ops("candidate_operations"),
    _search("search-50", "--precision bf16 --derive darts"),
    _train_step("large", "bf16"),
    _train_step("large", "fp32"),
    _search_step("supervised", "bf16", "--compile-unit edge --compile-seconds 80"),
    _retrain("on"),
    _retrain("off"),
)


def program(name: str) -> str | None:
    """The path of a program, on PATH or where CUDA's tools are."""
    tools = Path("/opt/nvidia/nsight-compute")
    places = [os.environ.get("PATH", ""), "/usr/local/cuda/bin", str(tools)]
    places += sorted(map(str, tools.glob("*")), reverse=True)
    return shutil.which(name, path=os.pathsep.join(places))


def run_step(step: Step, words: Mapping[str, str], log: Path, seconds: float) -> tuple[str, float]:
    """Run one step into its log.

    Returns:
        ``"ok"``, or in two words what became of it, and the seconds it took.
    """
    name, *rest = (word.format_map(words) for word in shlex.split(step.command))
    path = program(name)
    if seconds < 5:
        why = "no time was left for it"
    elif path is None:
        why = f"{name} is not installed"
    elif step.unless is not None and _runs(step.unless):
        why = "not needed"
    else:
        return _run([path, *rest], step, log, seconds)
    log.write_text(f"{why}\n")
    return LEFT_OUT, 0.0


def _runs(code: str) -> bool:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0


def _run(command: list[str], step: Step, log: Path, seconds: float) -> tuple[str, float]:
    start = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**VARIABLES, **os.environ, **step.variables},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(min(step.seconds, seconds))
            outcome = OK if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            outcome = "too long"
        finally:
            # Its workers as well, should it have left any.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return outcome, time.monotonic() - start


def headlines(step: Step, log: Path) -> list[str]:
    """The last lines of a log that say the most; without any, its last line."""
    lines = [line.rstrip() for line in log.read_text(errors="replace").splitlines()]
    lines = [line for line in lines if line.strip()]
    return [line for line in lines if re.search(step.headline, line)][-_LINES:] or lines[-1:]


def write_results(out: Path, work: Path, summary: Sequence[str]) -> None:
    """Both files of ``out``, in place of those before."""
    (out / "summary.txt").write_text("\n".join(summary) + "\n")
    partial = out / "results.tar.gz.partial"
    with tarfile.open(partial, "w:gz") as archive:
        archive.add(out / "summary.txt", "results/summary.txt")
        # Checkpoints are large, and of no use elsewhere.
        archive.add(work, "results", filter=lambda x: None if "/checkpoints" in x.name else x)
    partial.replace(out / "results.tar.gz")


def run(steps: Sequence[Step], out: Path, data: str, seconds: float) -> int:
    """Run the steps in order, keeping what there is after each; how many failed."""
    begin = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    summary: list[str] = []
    failed = 0
    with tempfile.TemporaryDirectory(prefix="ssfnas-gpu-") as folder:
        work = Path(folder)
        for name in ("logs", "pages", "runs"):
            (work / name).mkdir()
        words = {"python": sys.executable, "out": f"{work}/pages", "runs": f"{work}/runs"}
        words["data"] = data
        for step in steps:
            log = work / "logs" / f"{step.name}.log"
            left = seconds - (time.monotonic() - begin)
            outcome, taken = run_step(step, words, log, left)
            failed += outcome not in (OK, LEFT_OUT)
            lines = [f"{step.name:<30} {outcome:<13} {taken:5.0f} s"]
            lines += [f"    {line[:150]}" for line in headlines(step, log)]
            print("\n".join(lines), flush=True)
            summary += lines
            write_results(out, work, summary)
    print(f"{failed} failed; everything is in {out / 'results.tar.gz'}")
    return failed


def main(argv: list[str] | None = None) -> int:
    """Run the steps that are named; how many failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.on_gpu", description=__doc__)
    by_name = {step.name: step for step in STEPS}
    add, one = parser.add_argument, known("step", list(by_name))
    add("steps", nargs="*", metavar="STEP", type=one, help="in this order (all)")
    add("--list", action="store_true", help="name all steps and their limits")
    add("--out", type=Path, default=Path("gpu-results"), help="folder to write to")
    add("--seconds", type=float, default=540.0, help="most for all steps together")
    data = "of searches: long-tailed already, as an .npz file or a folder"
    add("--dataset", default="cifar10-lt-mini", help=data)
    arguments = parser.parse_args(argv)
    if arguments.list:
        for step in STEPS:
            print(f"{step.name:<30} {step.seconds:4d} s  {step.command}")
        return 0
    chosen = [by_name[name] for name in arguments.steps or by_name]
    return run(chosen, arguments.out, arguments.dataset, arguments.seconds)


if __name__ == "__main__":
    sys.exit(main())
