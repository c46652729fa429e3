"""``python -m benchmarks.smoke``: a first look at a device, in parts of about a minute each.

Every line is printed at once, and what fails hides nothing that comes after it. Parts: ``ops``
compares each fast function with its reference in float64, ``gradients`` the gradients of whole
search steps; ``OBJECTIVE-PRECISION`` runs such steps, compares a replayed graph with launched
kernels, and says where a step's time goes; ``launches`` runs the kernels of separable units a few
times, for a profiler. Exit code: how many parts failed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from benchmarks import report
from benchmarks.cases import OPS, cases
from benchmarks.search_step import TRUTH, VARIANTS, check, error
from benchmarks.step_page import FAST, GRAPHED
from benchmarks.step_runner import StepRunner
from benchmarks.variants import EAGER, expected, variants
from benchmarks.variants import check as check_op
from ssfnas import ops
from ssfnas.config import SearchConfig

STEPS = ("supervised-fp32", "supervised-bf16", "ssl-fp32", "ssl-bf16")
PARTS = ("ops", "gradients", *STEPS, "launches")
_KERNELS = 30
_ROUNDS = 20
_START = time.perf_counter()


def say(text: str) -> None:
    """Print with the seconds since the start."""
    print(f"[{time.perf_counter() - _START:6.1f}] {text}", flush=True)


class Failures:
    """Counts what raised, after printing where."""

    def __init__(self) -> None:
        self.count = 0

    def tried(self, name: str, function: Callable[[], object]) -> bool:
        """Call the function; an error is printed and goes no further. Whether there was none."""
        try:
            function()
            return True
        except Exception as error:
            self.count += 1
            first = (str(error).splitlines() or [""])[0]
            say(f"FAILED {name}: {type(error).__name__}: {first}")
            traceback.print_exc(limit=-4)
            return False


def check_ops(device: torch.device, small: bool) -> None:
    """Each backend of each function at the sizes of a search, against float64."""
    failures = Failures()
    for op in OPS:
        for case in cases(op, quick=small, cpu=device.type == "cpu"):
            inputs = case.make(device, 0)
            known = expected(case, inputs)
            for variant in variants(case, device, compiled=False):
                if variant.name != EAGER:
                    name = f"{case.name}: {variant.name}"
                    compared = partial(check_op, case, variant, inputs, known)
                    if failures.tried(name, compared):
                        say(f"right: {name}")
    if failures.count:
        raise RuntimeError(f"{failures.count} results were wrong")


def config_of(name: str, small: bool) -> SearchConfig:
    """The search whose steps are looked at."""
    objective, _, precision = name.partition("-")
    config = SearchConfig(objective=objective, precision=precision)
    if small:
        config.channels, config.layers, config.batch_size, config.projector = 4, 3, 8, [16, 16]
    return config


def check_gradients(device: torch.device, small: bool) -> None:
    """Losses and gradients of a step on a few images, against the reference in float64."""
    failures = Failures()
    for name in STEPS:
        failures.tried(name, partial(_compare_gradients, name, device, small))
    if failures.count:
        raise RuntimeError(f"{failures.count} steps were wrong")


def _compare_gradients(name: str, device: torch.device, small: bool) -> None:
    config = config_of(name, small)
    kinds = [TRUTH, *(kind for kind in VARIANTS if kind.name in (EAGER, FAST))]
    truth, plain, fast = (
        StepRunner(kind, config, device.type, min(16, config.batch_size)).gradients()
        for kind in kinds
    )
    for result, exact in truth.items():
        mine, own = error(fast[result], exact), error(plain[result], exact)
        say(f"{name}: {result} errs by {mine:.1e}, the reference by {own:.1e}")
    check(FAST, fast, plain, truth, config.precision)


def run_steps(name: str, device: torch.device, small: bool) -> None:
    """Steps as a search makes them."""
    config = config_of(name, small)
    kind = next(v for v in VARIANTS if v.name == (GRAPHED if device.type == "cuda" else FAST))
    runner = StepRunner(kind, config, device.type, 1)
    say(f"{name}: built as '{kind.name}'")
    for number in range(5):
        say(f"{name}: step {number} takes {1e3 * runner.seconds():.0f} ms")
    if device.type == "cuda":
        _compare_replays(name, runner)
    times = [1e3 * runner.seconds() for _ in range(3 if small else _ROUNDS)]
    say(f"STEP {name}: median {statistics.median(times):.2f} ms, best {min(times):.2f} ms")
    spent = runner.spent()
    calls, busy = sum(each.calls for each in spent), sum(each.seconds for each in spent)
    say(f"{name}: {calls} kernels or operators, busy for {1e3 * busy:.2f} ms")
    for each in spent[:_KERNELS]:
        print(f"    {1e3 * each.seconds:8.3f} ms {each.calls:6d}  {each.name[:100]}", flush=True)


def _compare_replays(name: str, runner: StepRunner) -> None:
    """From one state: a replay, another one, and the step launched kernel by kernel."""
    bilevel = runner.trainer.bilevel
    places = list(_changed_by_a_step(runner))
    before = [place.detach().clone() for place in places]

    def after(step: Callable[..., object]) -> list[Tensor]:
        for place, value in zip(places, before, strict=True):
            place.data.copy_(value)
        step(runner.alpha_batch, runner.weight_batch)
        torch.cuda.synchronize()
        return [place.detach().double() for place in places]

    assert runner.trainer.graphed is not None
    first = after(runner.trainer.graphed)
    for what, step in (("replay", runner.trainer.graphed), ("launched step", bilevel.step)):
        apart = max(
            float((x - y).norm() / (y - z.double()).norm().clamp_min(1e-12))
            for x, y, z in zip(after(step), first, before, strict=True)
            if x.is_floating_point()
        )
        say(f"{name}: a replay and a {what} differ by {apart:.1e} of what they change, at most")


def _changed_by_a_step(runner: StepRunner) -> Iterator[Tensor]:
    trainer = runner.trainer
    yield from trainer.net.state_dict().values()
    yield from trainer.objective.state_dict().values()
    for optimizer in (trainer.weight_optimizer, trainer.alpha_optimizer):
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def launch_units(device: torch.device, small: bool) -> None:
    """Both passes of the candidates of a cell's source, once at each size of a search."""
    backend = "native" if ops.backends()["native"] is None else "torch"
    for case in cases("candidate_operations", quick=small, cpu=device.type == "cpu"):
        variant = next(v for v in variants(case, device, compiled=False) if v.name == backend)
        variant.run(case.make(device, 0))
        say(f"launched: {case.name}: {backend}")


def main(argv: list[str] | None = None) -> int:
    """Run the parts that are named; how many of them failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smoke", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)} (all)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--small", action="store_true", help="sizes that a checker gets through")
    arguments = parser.parse_args(argv)
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"unknown part '{min(unknown)}': it is one of {', '.join(PARTS)}")
    kind = arguments.device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(kind)
    say(f"{report.device_name(device)}; {report.versions(device)}")
    say("; ".join(f"{name}: {reason or 'available'}" for name, reason in ops.backends().items()))
    failures = Failures()
    for part in arguments.parts or PARTS:
        action = {"ops": check_ops, "gradients": check_gradients, "launches": launch_units}.get(
            part, partial(run_steps, part)
        )
        failures.tried(part, partial(action, device, arguments.small))
    say(f"done: {failures.count} parts failed")
    return failures.count


if __name__ == "__main__":
    sys.exit(main())
