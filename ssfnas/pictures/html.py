"""Reports: one HTML file that needs no network and no script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from ssfnas.errors import RequestError
from ssfnas.pictures.comparison_page import comparison_sections
from ssfnas.pictures.markup import Pictures, joined, tag
from ssfnas.pictures.page_parts import Section
from ssfnas.pictures.page_style import STYLE
from ssfnas.pictures.retrain_page import retrain_sections
from ssfnas.pictures.search_page import search_sections
from ssfnas.runs.run_files import RunFiles

_KINDS = {"search": "Search", "retrain": "Retraining"}


def report_html(run_dirs: Sequence[str | Path]) -> str:
    """A page about one run, or about several beside each other.

    Everything is read from the files of the run directories, as far as they are there; the page of
    a run that was interrupted says so. The same files give the same page.

    Args:
        run_dirs: at least one; see :class:`~ssfnas.runs.run_files.RunFiles`.

    Returns:
        a whole HTML document with its pictures inside.

    Raises:
        RequestError: a directory holds no run, or one of its files is damaged; names the file.
    """
    if not run_dirs:
        raise RequestError("--run is empty: give at least one run directory")
    runs = [RunFiles(path) for path in run_dirs]
    pictures = Pictures()
    if len(runs) > 1:
        kind, title = "Comparison", f"{len(runs)} runs"
        sections = comparison_sections(runs, pictures)
    else:
        run = runs[0]
        kind, title = _KINDS[run.command], run.name
        make = search_sections if run.command == "search" else retrain_sections
        sections = make(run, pictures)
    read = Markup(", ").join(tag("code", str(run.path)) for run in runs)
    note = joined(["Read from ", read, "."])
    return _document(kind, title, [part for part in sections if part is not None], note)


def predictions_html(title: str, read: str, sections: Sequence[Section | None]) -> str:
    """A page about what a network says of new images.

    Args:
        title: of the page.
        read: where the network comes from.
        sections: see :mod:`ssfnas.pictures.prediction_page`.
    """
    note = joined(["Made with the network of ", tag("code", read), "."])
    return _document("Predictions", title, [part for part in sections if part is not None], note)


def _document(kind: str, title: str, sections: Sequence[Section], note: Markup) -> str:
    links = [tag("a", section.title, href=f"#{section.identity}") for section in sections]
    bodies = [
        tag(
            "section",
            tag("h2", section.title),
            section.body,
            id=section.identity,
            class_=("alert" if section.alert else "part") + (" half" if section.half else ""),
        )
        for section in sections
    ]
    head = joined(
        [
            Markup('<meta charset="utf-8">'),
            Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            tag("title", f"{title} - {kind.lower()} - ssfnas"),
            tag("style", Markup(STYLE)),
        ]
    )
    body = joined(
        [
            tag("header", tag("p", f"ssfnas · {kind}", class_="kind"), tag("h1", title)),
            tag("nav", *links),
            tag("main", *bodies),
            tag("footer", note),
        ]
    )
    page = tag("html", tag("head", head), tag("body", body), lang="en")
    return f"<!DOCTYPE html>\n{page}\n"
