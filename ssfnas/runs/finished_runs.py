"""Refusing what an interrupted run has not left behind, with the line that goes on with it."""

from __future__ import annotations

from pathlib import Path

from ssfnas.errors import RequestError
from ssfnas.runs.next_commands import derive_command, resume_command
from ssfnas.runs.run_files import CONFIG_FILE, RunFiles


def require_finished(path: str | Path, flag: str) -> None:
    """Refuse a run that has not come to its end.

    Args:
        path: its directory.
        flag: that names it, with its value, for the message: ``"--run runs/mine"``.

    Raises:
        RequestError: it says how to go on with the run.
    """
    run = RunFiles(path)
    if not run.finished:
        raise RequestError(
            f"{flag} holds a {run.command} that has not finished: go on with it by "
            f"{resume_command(run.command, run.path)}"
        )


def require_genotype(path: str | Path, flag: str) -> None:
    """Refuse the directory of a run that has no genotype; whatever else ``path`` is passes.

    Args:
        path: of a directory, a file, or a published cell's name.
        flag: see :func:`require_finished`.

    Raises:
        RequestError: it says how to get one.
    """
    path = Path(path)
    if not (path / CONFIG_FILE).is_file() or (path / "genotype.json").is_file():
        return
    run = RunFiles(path)
    if run.command == "retrain" and run.values.get("model", "derived") != "derived":
        raise RequestError(
            f"{flag} holds a retraining of {run.values['model']}, which has no genotype: give the "
            "directory of a search"
        )
    require_finished(path, flag)
    plugins = run.values.get("plugins") or []
    raise RequestError(
        f"{flag} holds a search that found no genotype: derive one with "
        f"{derive_command(plugins, path, 'darts')}"
    )
