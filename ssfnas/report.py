"""``python -m ssfnas.report``: one HTML page about a run, or several beside each other."""

from __future__ import annotations

import sys
from pathlib import Path

from ssfnas.commandline import main as run_command
from ssfnas.config import ReportConfig
from ssfnas.runtime.imports import first_imports


def report(config: ReportConfig) -> None:
    """Write the page that ``config`` asks for, and print where it is."""
    with first_imports():
        from ssfnas.atomic_files import write_atomically
        from ssfnas.errors import RequestError
        from ssfnas.pictures import report_html

    places = [Path(path).resolve() for path in config.run]
    for number, place in enumerate(places):
        if (first := places.index(place)) < number:
            raise RequestError(
                f"--run {config.run[first]} and {config.run[number]} are the same run: name each "
                "once"
            )
    file = Path(config.out) if config.out else Path(config.run[0]) / "report.html"
    page = report_html([Path(path) for path in config.run])
    write_atomically(file, page.encode())
    print(f"report       {file}")


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    return run_command(
        ReportConfig,
        report,
        prog="ssfnas.report",
        description="Write one HTML page about a run, or about several beside each other.",
        argv=argv,
    )


if __name__ == "__main__":
    sys.exit(main())
