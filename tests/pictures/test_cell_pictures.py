import itertools
import xml.etree.ElementTree as ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from ssfnas.errors import RequestError
from ssfnas.pictures import draw_cell, save_cell
from ssfnas.pictures.style import inline_svg
from ssfnas.spaces import Genotype

DARTS_LIKE = (
    ("sep_conv_3x3", 0, 2),
    ("sep_conv_3x3", 1, 2),
    ("sep_conv_3x3", 0, 3),
    ("sep_conv_3x3", 1, 3),
    ("sep_conv_3x3", 1, 4),
    ("skip_connect", 0, 4),
    ("skip_connect", 0, 5),
    ("dil_conv_3x3", 2, 5),
)
SPARSE = (("dil_conv_3x3", 1, 3), ("sep_conv_5x5", 3, 5), ("skip_connect", 3, 5))


def genotype(normal=DARTS_LIKE, reduce=SPARSE):
    def concat(edges):
        return tuple(sorted({to for _, _, to in edges}))

    return Genotype(
        normal=normal,
        normal_concat=concat(normal),
        reduce=reduce,
        reduce_concat=concat(reduce),
    )


def texts(figure):
    return [text.get_text().replace("\n", "") for text in figure.axes[0].texts]


def test_every_operation_and_every_present_state_is_written_once():
    written = texts(draw_cell(genotype(), "normal"))
    assert written[0] == "normal cell"
    expected = [name for name, _, _ in DARTS_LIKE] + ["0", "1", "2", "3", "cₖ", "cₖ₋₁", "cₖ₋₂"]
    assert sorted(written[1:]) == sorted(expected)


def test_absent_nodes_are_left_out_and_named():
    written = texts(draw_cell(genotype(), "reduce"))
    assert written[0] == "reduction cell  (without nodes 0, 2)"
    expected = [name for name, _, _ in SPARSE] + ["1", "3", "cₖ", "cₖ₋₁", "cₖ₋₂"]
    assert sorted(written[1:]) == sorted(expected)


LONG = (
    ("an_operation_of_mine_with_a_very_long_name_v2", 0, 2),
    ("averyverylongnamewithoutanyunderscoreinit", 1, 2),
    ("costs_$5$_or_$x^2", 2, 3),
    ("conv_1x1", 0, 3),
)
ALL = tuple(
    (name, start, to)
    for to in range(2, 6)
    for start in range(to)
    for name in ("sep_conv_3x3", "max_pool_3x3")
)


@pytest.mark.parametrize("edges", [DARTS_LIKE, SPARSE, LONG, ALL])
def test_boxes_do_not_overlap_and_texts_stay_inside_them(edges):
    figure = draw_cell(genotype(normal=edges), "normal")
    renderer = FigureCanvasAgg(figure).get_renderer()
    axes = figure.axes[0]
    boxes = [patch.get_window_extent() for patch in axes.patches if type(patch) is FancyBboxPatch]
    assert len(boxes) == len(edges) + len({to for _, _, to in edges}) + 3
    for one, other in itertools.combinations(boxes, 2):
        apart_x = min(one.x1, other.x1) <= max(one.x0, other.x0)
        apart_y = min(one.y1, other.y1) <= max(one.y0, other.y0)
        assert apart_x or apart_y
    for text in axes.texts[1:]:
        extent = text.get_window_extent(renderer)
        assert any(
            box.x0 <= extent.x0 and extent.x1 <= box.x1 and box.y0 <= extent.y0 + 1
            and extent.y1 <= box.y1 + 1
            for box in boxes
        ), text.get_text()  # fmt: skip


def test_a_name_too_long_for_its_box_is_cut():
    (name,) = [
        text
        for text in texts(draw_cell(genotype(normal=(("x" * 200, 0, 2),)), "normal"))
        if text.startswith("xx")
    ]
    assert name.endswith("…")
    assert 50 < len(name) < 80


def test_svg_is_the_same_each_time_and_has_no_date(tmp_path):
    files = [tmp_path / "one.svg", tmp_path / "two.svg"]
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": "another"}):
        save_cell(genotype(), "normal", files[0])
    save_cell(genotype(), "normal", files[1])
    assert files[0].read_bytes() == files[1].read_bytes()
    assert b"date" not in files[0].read_bytes().lower().replace(b"cc:date", b"date")
    ElementTree.parse(files[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.svg", "two.svg"]


def test_png_shows_something_on_white(tmp_path):
    save_cell(genotype(), "normal", tmp_path / "cell.png")
    pixels = np.asarray(Image.open(tmp_path / "cell.png").convert("RGB"))
    assert (pixels[0] == 255).all()
    assert 0.01 < (pixels.min(axis=2) < 200).mean() < 0.5


def test_drawing_leaves_matplotlibs_settings_alone():
    before = dict(matplotlib.rcParams)
    inline_svg(draw_cell(genotype(), "normal"), "a", "a cell")
    assert dict(matplotlib.rcParams) == before


def test_inline_svg_follows_the_page_and_keeps_its_ids_apart():
    first = inline_svg(draw_cell(genotype(), "normal"), "one", 'a "cell" <b>')
    second = inline_svg(draw_cell(genotype(), "normal"), "two", "a cell")
    assert first.startswith("<svg ")
    assert 'aria-label="a &quot;cell&quot; &lt;b&gt;"' in first
    assert "var(--ink)" in first
    assert "#1d2733" not in first
    assert "date" not in first

    def ids(svg):
        return {node.get("id") for node in ElementTree.fromstring(svg).iter()} - {None}

    assert ids(first)
    assert not ids(first) & ids(second)


def test_what_is_no_cell_is_refused(tmp_path):
    with pytest.raises(RequestError, match="no cell is called 'both': it is normal or reduce"):
        draw_cell(genotype(), "both")
    with pytest.raises(RequestError, match=r"has to end in \.svg or \.png"):
        save_cell(genotype(), "normal", tmp_path / "cell.bmp")
    with pytest.raises(RequestError, match=r"cannot write .*cell\.svg: No such file"):
        save_cell(genotype(), "normal", tmp_path / "absent" / "cell.svg")
