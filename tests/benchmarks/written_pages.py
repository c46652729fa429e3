"""What stands in the tables of a page."""

from __future__ import annotations


def lines_of(page: str, start: str) -> list[dict[str, str]]:
    """Lines of tables whose first cell begins so: by the names of their columns."""
    found, header = [], None
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            header = None
        elif header is None:
            header = cells
        elif cells[0].startswith(start) and cells[0].strip("-"):
            found.append(dict(zip(header, cells, strict=True)))
    return found
