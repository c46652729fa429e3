"""The pages name files that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMED = re.compile(r"`([\w./-]+/[\w.-]+\.(?:py|cpp|cu|cuh|h|sh))`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page):
    named = set(NAMED.findall(page.read_text(encoding="utf-8")))
    there = {name for name in named for at in (ROOT, ROOT / "ssfnas") if (at / name).is_file()}
    assert named == there


def test_pages_name_files():
    assert any(NAMED.search(page.read_text(encoding="utf-8")) for page in PAGES)
