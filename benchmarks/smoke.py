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

from benchmarks import commandline, pages
from benchmarks.cases import OPS, cases
from benchmarks.checks import error, one_line
from benchmarks.pages import EAGER
from benchmarks.search_runner import SearchRunner
from benchmarks.search_step import VARIANTS
from benchmarks.step_measure import check_step
from benchmarks.step_variants import FAST, GRAPHED, TRUTH, StepVariant
from benchmarks.variants import check, expected, variants
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


def failed(name: str, function: Callable[[], object]) -> bool:
    """Call the function; an error is printed with where it arose, and goes no further."""
    try:
        function()
    except Exception as error:
        say(f"FAILED {name}: {one_line(error)}")
        traceback.print_exc(limit=-4)
        return True
    return False


def check_ops(device: torch.device, small: bool) -> None:
    """Each backend of each function at the sizes of a search, against float64."""
    wrong = 0
    for op in OPS:
        for case in cases(op, quick=small, cpu=device.type == "cpu"):
            inputs = case.inputs(device)
            known = expected(case, inputs)
            for variant in variants(case, device, compiled=False):
                if variant.name == EAGER:
                    continue
                name = f"{case.name}: {variant.name}"
                if failed(name, partial(check, case, variant, inputs, known)):
                    wrong += 1
                else:
                    say(f"right: {name}")
    if wrong:
        raise RuntimeError(f"{wrong} results were wrong")


def runner_of(name: str, variant: StepVariant, device: torch.device, small: bool) -> SearchRunner:
    """Runs steps of the search that is meant by ``OBJECTIVE-PRECISION``."""
    objective, _, precision = name.partition("-")
    config = SearchConfig(objective=objective, precision=precision)
    if small:
        config.channels, config.layers, config.batch_size, config.projector = 4, 3, 8, [16, 16]
    return SearchRunner(variant, config, device.type, min(16, config.batch_size))


def check_gradients(device: torch.device, small: bool) -> None:
    """Losses and gradients of a step on a few images, against the reference in float64."""
    wrong = sum(failed(name, partial(_compare_gradients, name, device, small)) for name in STEPS)
    if wrong:
        raise RuntimeError(f"{wrong} steps were wrong")


def _compare_gradients(name: str, device: torch.device, small: bool) -> None:
    truth, plain, fast = (
        runner_of(name, variant, device, small).gradients()
        for variant in (TRUTH, VARIANTS[EAGER], VARIANTS[FAST])
    )
    for result, exact in truth.items():
        mine, own = error(fast[result], exact), error(plain[result], exact)
        say(f"{name}: {result} errs by {mine:.1e}, the reference by {own:.1e}")
    check_step(FAST, fast, plain, truth, name.partition("-")[2])


def run_steps(name: str, device: torch.device, small: bool) -> None:
    """Steps as a search makes them."""
    on_gpu = device.type == "cuda"
    runner = runner_of(name, VARIANTS[GRAPHED if on_gpu else FAST], device, small)
    say(f"{name}: built as '{runner.variant.name}'")
    for number in range(5):
        say(f"{name}: step {number} takes {1e3 * runner.seconds():.0f} ms")
    if on_gpu:
        _compare_replays(name, runner)
    times = [1e3 * runner.seconds() for _ in range(3 if small else _ROUNDS)]
    say(f"STEP {name}: median {statistics.median(times):.2f} ms, best {min(times):.2f} ms")
    spent = runner.spent()
    calls, busy = sum(each.calls for each in spent), sum(each.seconds for each in spent)
    say(f"{name}: {calls} kernels or operators, busy for {1e3 * busy:.2f} ms")
    for each in spent[:_KERNELS]:
        print(f"    {1e3 * each.seconds:8.3f} ms {each.calls:6d}  {each.name[:100]}", flush=True)


def _compare_replays(name: str, runner: SearchRunner) -> None:
    """From one state: a replay, another one, and the step launched kernel by kernel."""
    places = list(_changed_by_a_step(runner))
    before = [place.detach().clone() for place in places]

    def after(step: Callable[..., object]) -> list[Tensor]:
        for place, value in zip(places, before, strict=True):
            place.data.copy_(value)
        step(runner.alpha_batch, runner.weight_batch)
        torch.cuda.synchronize()
        return [place.detach().double() for place in places]

    replay = runner.trainer.graphed
    assert replay is not None
    first = after(replay)
    for what, step in (("replay", replay), ("launched step", runner.trainer.bilevel.step)):
        apart = max(
            float((x - y).norm() / (y - z.double()).norm().clamp_min(1e-12))
            for x, y, z in zip(after(step), first, before, strict=True)
            if x.is_floating_point()
        )
        say(f"{name}: a replay and a {what} differ by {apart:.1e} of what they change, at most")


def _changed_by_a_step(runner: SearchRunner) -> Iterator[Tensor]:
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
        variant.run(case.inputs(device))
        say(f"launched: {case.name}: {backend}")


def main(argv: list[str] | None = None) -> int:
    """Run the parts that are named; how many of them failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smoke", description=__doc__)
    add, names = parser.add_argument, f"{', '.join(PARTS)} (all)"
    add("parts", nargs="*", metavar="part", type=commandline.known("part", PARTS), help=names)
    add("--device", default="auto", type=commandline.device, help=", ".join(commandline.DEVICES))
    add("--small", action="store_true", help="sizes that a checker gets through")
    arguments = parser.parse_args(argv)
    device = arguments.device
    say(f"{pages.device_name(device)}; {pages.versions(device)}")
    say("; ".join(f"{name}: {reason or 'available'}" for name, reason in ops.backends().items()))
    whole = {"ops": check_ops, "gradients": check_gradients, "launches": launch_units}
    failures = 0
    for part in arguments.parts or PARTS:
        look = whole.get(part) or partial(run_steps, part)
        failures += failed(part, partial(look, device, arguments.small))
    say(f"done: {failures} parts failed")
    return failures


if __name__ == "__main__":
    sys.exit(main())
