import re

import numpy as np

from ssfnas.pictures.heat_maps import confusion_matrix, final_weights

OPERATIONS = ("skip_connect", "sep_conv_3x3", "mine_$1$")


def cells_of(page):
    """(attributes, text) of each cell, row by row, and the names of the rows."""
    rows = re.findall(r"<tr>(.*?)</tr>", page)[1:]
    names = [re.search(r'<th scope="row"[^>]*>(.*?)</th>', row)[1] for row in rows]
    return names, [re.findall(r"<td([^>]*)>(.*?)</td>", row) for row in rows]


def test_weights_are_written_and_what_is_kept_is_framed():
    random = np.random.default_rng(0).uniform(size=(2, 14, 3))
    weights = {"normal": random[0], "reduce": random[1]}
    page = final_weights(weights, OPERATIONS, kept={"normal": {("sep_conv_3x3", 1, 2)}})
    tables = page.split("</table>")[:2]
    for table, values in zip(tables, weights.values(), strict=True):
        assert all(f">{name}</span>" in table for name in OPERATIONS)
        names, rows = cells_of(table)
        assert names[:3] == ["cₖ₋₂ → 0", "cₖ₋₁ → 0", "cₖ₋₂ → 1"]
        written = [[text for _, text in row] for row in rows]
        assert written == [[f"{value:.2f}" for value in row] for row in values]
        shades = [[int(re.search(r"--heat:(\d+)%", a)[1]) for a, _ in row] for row in rows]
        np.testing.assert_allclose(shades, 75 * values, atol=0.51)
    framed = [
        (row, column)
        for row, cells in enumerate(cells_of(tables[0])[1])
        for column, (attributes, _) in enumerate(cells)
        if "framed" in attributes
    ]
    assert framed == [(1, 1)]
    assert "framed" not in tables[1]


def test_weights_that_are_not_finite_have_no_shade():
    values = np.full((2, 3), np.nan)
    assert "--heat" not in final_weights({"normal": values}, OPERATIONS, kept={})


def test_a_confusion_matrix_is_shaded_by_rows_and_names_what_is_where():
    page = confusion_matrix(["<cat>", "dog"], [[3, 1], [0, 0]], [4, 0])
    names, rows = cells_of(page)
    assert names == ["&lt;cat&gt;", "dog"]
    assert [[text for _, text in row] for row in rows] == [["3", "1", "4"], ["", "", ""]]
    (right, _), (wrong, _), (other, _) = rows[0]
    assert "--heat:28%" in right  # three quarters of 3 / 8
    assert "--heat:9%" in wrong
    assert "--heat:38%" in other
    assert "framed" in right
    assert "framed" not in wrong
    assert "1 of 8 images of &lt;cat&gt;: predicted dog" in wrong
    assert "--heat" not in "".join(attributes for attributes, _ in rows[1])
    assert "another class" not in confusion_matrix(["a", "b"], [[1, 0], [0, 1]], [0, 0])
