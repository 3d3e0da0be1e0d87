import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_of_targets_in_the_documentation_is_that_of_the_specs():
    script = runpy.run_path(str(DOCS / "specs_table.py"))
    text = (DOCS / "metrics.md").read_text(encoding="utf-8")
    assert "difference.noise_ratio" in script["table"]()
    assert script["page"](text) == text, "run `python docs/specs_table.py`"
