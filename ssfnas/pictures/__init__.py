"""Pictures of cells and of numbers, and reports that hold both."""

from ssfnas.pictures.cells import draw_cell, save_cell
from ssfnas.pictures.html import report_html

__all__ = ["draw_cell", "report_html", "save_cell"]
