"""``python -m ssfnas.env``: versions, devices, and the backends of the fast functions."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import ssfnas
from ssfnas.commandline import main as run_command
from ssfnas.errors import RequestError
from ssfnas.runtime.environment import commit, cpu_name, package_versions
from ssfnas.runtime.memory import who_keeps_memory


@dataclass(kw_only=True)
class EnvConfig:
    """``python -m ssfnas.env``: there is nothing to choose."""


def describe() -> Iterator[tuple[str, str]]:
    """(name, value) of everything that matters in a report of a problem.

    Whatever cannot be found out is said with its reason: this command has to work where nothing
    else does.
    """
    yield "python", f"{platform.python_version()} ({sys.executable})"
    yield "platform", platform.platform()
    yield "processor", f"{cpu_name()}, {os.cpu_count()} threads"
    for name, version in package_versions().items():
        yield name, version or "not installed"
    yield "commit", commit() or "not a checkout"
    yield from _torch()
    yield from _backends()


def _torch() -> Iterator[tuple[str, str]]:
    try:
        import torch
        import torch.distributed as dist
    except Exception as error:
        yield "torch fails", _reason(error)
        return
    yield "threads", _threads()
    yield "waiting", ssfnas.waiting
    yield "freed memory", who_keeps_memory()
    yield "cuda of torch", torch.version.cuda or "none (a build for CPUs)"
    yield "cudnn", str(torch.backends.cudnn.version() or "none")
    if not torch.cuda.is_available():
        yield "gpus", "none"
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        yield (
            f"gpu {index}",
            f"{facts.name}, {facts.total_memory / 2**30:.0f} GiB, compute capability "
            f"{facts.major}.{facts.minor}",
        )
    known = [
        name
        for name, there in (
            ("gloo", dist.is_available() and dist.is_gloo_available()),
            ("nccl", dist.is_available() and dist.is_nccl_available()),
        )
        if there
    ]
    yield "distributed", ", ".join(known) or "none"


def _threads() -> str:
    try:
        from ssfnas.runtime.threads import choice

        return str(choice())
    except RequestError as error:
        return str(error)


def _backends() -> Iterator[tuple[str, str]]:
    try:
        from ssfnas.ops import backends, native

        found = backends()
    except Exception as error:
        yield "backends fail", _reason(error)
        return
    for name, reason in found.items():
        available = "available"
        if name == "native" and reason is None:
            available += f", on this CPU with {native.instruction_set()}"
        yield f"backend {name}", reason or available


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def env(config: EnvConfig) -> None:
    """Print :func:`describe`, one line each."""
    lines = list(describe())
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(
        EnvConfig,
        env,
        prog="ssfnas.env",
        description="Print versions, devices and backends, for reports of problems.",
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
