"""What all pictures share: colors, fonts, and SVG whose bytes depend on its contents only.

Figures are made without pyplot, so drawing neither needs a display nor leaves anything behind.
"""

from __future__ import annotations

import io
import itertools
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import escape

from matplotlib import style
from matplotlib.figure import Figure

from ssfnas.atomic_files import write_atomically
from ssfnas.errors import RequestError

INK = "#1d2733"
MUTED = "#66727f"
GRID = "#d8dde3"
SURFACE = "#fdfefe"
NODE = "#e6ebf1"
WARNING = "#b4371f"

# Middle tones: they can be told apart on white and on near-black alike.
_OPERATIONS = {
    "sep_conv_3x3": "#2f7fd1",
    "max_pool_3x3": "#e08a1e",
    "skip_connect": "#2f9e62",
    "dil_conv_3x3": "#d6456f",
    "sep_conv_5x5": "#7a5fd0",
    "dil_conv_5x5": "#13a0a6",
    "avg_pool_3x3": "#bf9b00",
    "none": "#8b949e",
}
_OTHER_OPERATIONS = ("#a0522d", "#c04fc0", "#5c7f1f", "#4a6fa5", "#c2573f", "#6f6f8f")
SERIES = tuple(_OPERATIONS.values())
GROUP_COLORS = {"many": "#2f7fd1", "medium": "#2f9e62", "few": "#e08a1e"}

# The colors that a page replaces so that they follow its light or dark scheme.
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    SURFACE: "--surface",
    NODE: "--node",
    WARNING: "--warning",
}

_SETTINGS: dict[str, object] = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.0,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 9.0,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.0,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.5,
    "svg.hashsalt": "ssfnas",
    "svg.fonttype": "path",
}

# Neither the day nor the version of matplotlib.
_METADATA = {".svg": {"Date": None, "Creator": "ssfnas"}, ".png": {"Software": None}}


def operation_colors(operations: Iterable[str]) -> dict[str, str]:
    """Operation -> color; users' operations get further colors in the order given."""
    others = itertools.cycle(_OTHER_OPERATIONS)
    return {name: _OPERATIONS.get(name) or next(others) for name in dict.fromkeys(operations)}


@contextmanager
def drawing(**settings: object) -> Iterator[None]:
    """Matplotlib with this module's settings, whatever the user's own are; undone at the end."""
    with warnings.catch_warnings():
        # A class name may be written in a script that the shipped font lacks: in a page the
        # browser's fonts show it.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        with style.context(["default", {**_SETTINGS, **settings}]):
            yield


def inline_svg(figure: Figure, identity: str, description: str) -> str:
    """An ``<svg>`` element to stand in a page: transparent, text as text, colors by CSS variables.

    Args:
        figure: what to draw.
        identity: a name that no other picture of the page has; prefixes the ids inside.
        description: what the picture shows, for those who cannot see it.
    """
    stream = io.StringIO()
    with drawing(**{"svg.fonttype": "none"}):
        figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{identity}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{identity}-", text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    label = escape(description, {'"': "&quot;"})
    text = text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
    return re.sub(r"\n\s*\n+", "\n", text).strip()


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure to a file, whole or not at all; the same figure gives the same bytes.

    Args:
        figure: what to draw.
        path: ends in ``.svg`` (white behind) or ``.png`` (144 dots an inch).

    Raises:
        RequestError: the ending is another, or the file cannot be written.
    """
    ending = Path(path).suffix
    if ending not in _METADATA:
        raise RequestError(f"cannot draw to '{path}': the name has to end in .svg or .png")
    stream = io.BytesIO()
    with drawing():
        figure.savefig(stream, format=ending[1:], dpi=144, metadata=_METADATA[ending])
    write_atomically(path, stream.getvalue())
