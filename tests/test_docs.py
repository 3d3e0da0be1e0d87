"""The examples of the documentation run as they stand."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGES = sorted((DOCS / "systems").glob("*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_system_has_a_page():
    assert {"single_frame", "templates", "differencing", "association"} <= {page.stem for page in PAGES}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples_of_a_system_run(page, tmp_path, monkeypatch):
    text = page.read_text()
    blocks = list(BLOCK.finditer(text))
    assert blocks, f"{page.name} has no example"
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": page.stem}
    for block in blocks:
        # blank lines in front, so that a traceback names the line of the page
        padding = "\n" * (text.count("\n", 0, block.start()) + 1)
        exec(compile(padding + block[1], str(page), "exec"), names)
