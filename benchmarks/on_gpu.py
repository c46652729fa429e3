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

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 120  # seconds of a step
OK, LEFT_OUT = "ok", "left out"
_LINES = 3  # of a step in the summary
_KERNELS = "(forward|backward|backward_input|backward_filter|merge_moments|scaled_sums)_kernel"
# Of every step, where the caller has not set them.
VARIABLES = {
    "PYTHONUNBUFFERED": "1",
    "TORCH_CUDA_ARCH_LIST": "9.0",
    "MAX_JOBS": str(os.cpu_count() or 1),
}
_CUDA_TOOLS = ("/usr/local/cuda/bin", "/opt/nvidia/nsight-compute")


@dataclass(frozen=True)
class Step:
    """One process.

    Attributes:
        name: what one asks for it by.
        command: words; ``{python}``, ``{out}`` (where results go), ``{runs}`` and ``{data}`` stand
            for what they are on the machine.
        seconds: most that it may take.
        headline: lines of its log that match are what the summary shows of it.
        variables: of its environment.
        needs: the program that has to be there; without it the step is left out.
        unless: Python code; where it runs without an error, the step is not needed.
    """

    name: str
    command: tuple[str, ...]
    seconds: int = LONGEST
    headline: str = r"passed|failed|error"
    variables: Mapping[str, str] = field(default_factory=dict)
    needs: str | None = None
    unless: str | None = None


def _module(name: str, *words: str) -> tuple[str, ...]:
    return ("{python}", "-m", name, *words)


def _smoke(part: str) -> Step:
    headline = "FAILED|STEP|launched step|gradient errs"
    return Step(f"smoke-{part}", _module("benchmarks.smoke", part), headline=headline)


def _tests(name: str, *folders: str) -> Step:
    words = ["-m", "gpu", "-p", "no:cacheprovider", *(f"tests/{folder}" for folder in folders)]
    if importlib.util.find_spec("xdist"):
        words += ["-n", "12"]
    if importlib.util.find_spec("pytest_timeout"):
        words += ["--timeout", "60"]
    return Step(f"tests-{name}", _module("pytest", *words), headline=r"^FAILED|passed|failed|error")


def _sanitizer(tool: str) -> Step:
    words = ("--tool", tool, "--error-exitcode", "9", *_module("benchmarks.smoke", "--small"))
    return Step(
        tool,
        ("compute-sanitizer", *words, "launches", "gradients", "ops"),
        headline=r"ERROR SUMMARY|RACECHECK SUMMARY|Invalid|hazard",
        # PyTorch's cache of memory would hide reads beyond the end of a tensor.
        variables={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if tool == "memcheck" else {},
        needs="compute-sanitizer",
    )


def _search_step(objective: str, precision: str, *words: str) -> Step:
    compiled = "-compiled" if words else ""
    options = ("--objective", objective, "--precision", precision, "--results", "{out}")
    return Step(
        f"search-step-{objective}-{precision}{compiled}",
        _module("benchmarks.search_step", *options, *(words or ("--no-compile", "--profile"))),
        headline=r"^\| (reference|fast)|^TF32",
    )


def _ops(op: str) -> Step:
    words = (op, "--no-compile", "--results", "{out}")
    return Step(f"bench-{op}", _module("benchmarks", *words), headline="WRONG|failed|K=35|D=8192")


def _search(name: str, *words: str) -> Step:
    options = ("--preset", "ssfnas", "--dataset", "{data}", "--device", "cuda")
    out = ("--out", "{runs}/" + name, "--overwrite")
    return Step(name, _module("ssfnas.search", *options, *words, *out), headline="epoch|graph|s$")


STEPS = (
    Step(
        "build",
        ("{python}", "setup.py", "-q", "build_ext", "--inplace"),
        headline="error",
        variables={"SSFNAS_FORCE_CUDA": "1"},
        unless="import torch; from ssfnas import _C; assert _C.cuda_architectures",
    ),
    Step("env", _module("ssfnas.env"), 30, headline="^gpu|^backend"),
    _smoke("gradients"),
    _smoke("supervised-bf16"),
    _smoke("supervised-fp32"),
    _smoke("ops"),
    _tests("ops", "native", "ops"),
    _tests("kernels", "kernels"),
    _tests("training", "training", "runtime", "pipeline"),
    _smoke("ssl-bf16"),
    _search_step("supervised", "bf16"),
    _search_step("supervised", "fp32"),
    Step(
        "launches",
        (
            *("ncu", "--clock-control", "none", "--set", "detailed", "--launch-count", "24"),
            *("--kernel-name", f"regex:{_KERNELS}", "--log-file", "{out}/launches-ncu.txt"),
            *_module("benchmarks.smoke", "launches"),
        ),
        headline="launched",
        needs="ncu",
    ),
    _sanitizer("memcheck"),
    _sanitizer("racecheck"),
    _search("search-3", "--epochs", "3", "--derive", "darts"),
    _search_step("ssl", "bf16"),
    _search_step("ssl", "fp32"),
    *(_ops(op) for op in ("mixed_norm_sum", "mixed_sum", "barlow_twins_loss")),
    _ops("candidate_operations"),
    _search("search-50", "--precision", "bf16", "--derive", "darts"),
    _search_step("supervised", "bf16", "--compile-unit", "edge", "--compile-seconds", "80"),
    Step(
        "retrain-2",
        _module(
            *("ssfnas.retrain", "--preset", "longtail", "--genotype", "{runs}/search-3"),
            *("--dataset", "{data}", "--epochs", "2", "--device", "cuda"),
            *("--out", "{runs}/retrain-2", "--overwrite"),
        ),
        headline="epoch|balanced",
    ),
)


def tool(name: str) -> str | None:
    """The path of a program, on PATH or where CUDA's tools are."""
    places = [os.environ.get("PATH", ""), *_CUDA_TOOLS]
    places += sorted(map(str, Path("/opt/nvidia/nsight-compute").glob("*")), reverse=True)
    return shutil.which(name, path=os.pathsep.join(places))


def run_step(step: Step, words: Mapping[str, str], log: Path, seconds: float) -> tuple[str, float]:
    """Run one step into its log.

    Returns:
        ``"ok"``, or in two words what became of it, and the seconds it took.
    """
    command = [word.format_map(words) for word in step.command]
    if seconds < 5:
        log.write_text("no time was left for it\n")
        return LEFT_OUT, 0.0
    if step.needs is not None:
        path = tool(step.needs)
        if path is None:
            log.write_text(f"{step.needs} is not installed\n")
            return LEFT_OUT, 0.0
        command[0] = path
    if step.unless is not None:
        check = [sys.executable, "-c", step.unless]
        if subprocess.run(check, cwd=ROOT, capture_output=True).returncode == 0:
            log.write_text("not needed\n")
            return LEFT_OUT, 0.0
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
        words = {
            "python": sys.executable,
            "out": str(work / "pages"),
            "runs": str(work / "runs"),
            "data": data,
        }
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
    names = [step.name for step in STEPS]
    parser.add_argument("steps", nargs="*", metavar="STEP", help="in this order (all)")
    parser.add_argument("--list", action="store_true", help="name all steps and their limits")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder to write to")
    parser.add_argument("--seconds", type=float, default=540.0, help="most for all steps together")
    parser.add_argument(
        "--dataset",
        default="cifar10-lt-mini",
        help="of searches: long-tailed already, as an .npz file or a folder",
    )
    arguments = parser.parse_args(argv)
    if unknown := [name for name in arguments.steps if name not in names]:
        parser.error(f"unknown step '{unknown[0]}': it is one of {', '.join(names)}")
    if arguments.list:
        for step in STEPS:
            print(f"{step.name:<30} {step.seconds:4d} s  {' '.join(step.command)}")
        return 0
    by_name = {step.name: step for step in STEPS}
    chosen = [by_name[name] for name in arguments.steps or names]
    return run(chosen, arguments.out, arguments.dataset, arguments.seconds)


if __name__ == "__main__":
    sys.exit(main())
