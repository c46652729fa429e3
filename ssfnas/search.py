"""``python -m ssfnas.search``: find a genotype for long-tailed images."""

from __future__ import annotations

import sys

from ssfnas.commandline import main as run_command
from ssfnas.config import SearchConfig
from ssfnas.runtime.imports import first_imports


def search(config: SearchConfig) -> None:
    """Run the search that ``config`` describes."""
    with first_imports():
        from ssfnas.pipeline.search_run import run_search

    run_search(config)


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(
        SearchConfig,
        search,
        prog="ssfnas.search",
        description="Search a genotype by differentiable architecture search. Without arguments: "
        "SSF-NAS on the embedded sample, in minutes.",
        argv=argv,
        default_preset="quick",
        cpu_preset="small",
    )


if __name__ == "__main__":
    sys.exit(main())
