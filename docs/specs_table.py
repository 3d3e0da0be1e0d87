"""Write the table of specs into metrics.md; run it after a change of specs.yaml."""

from pathlib import Path

from nightlab.quality import LEVELS, house_specs, target_text

PAGE = Path(__file__).with_name("metrics.md")
BEGIN, END = "<!-- specs: made by docs/specs_table.py -->\n", "<!-- end of specs -->\n"


def table() -> str:
    """Markdown, a row per spec."""
    rows = ["| metric | unit | minimum | design | stretch | why |", "|---|---|---|---|---|---|"]
    for name, spec in house_specs().items():
        levels = [target_text(spec.attrs(level)) for level in LEVELS]
        asked = " | ".join(text.replace("<=", "≤").replace(">=", "≥").replace("+-", "±") for text in levels)
        rows.append(f"| `{name}` | {spec.unit} | {asked} | {spec.why} |")
    return "\n".join(rows) + "\n"


def page(text: str) -> str:
    """The page with the table of today."""
    head, rest = text.split(BEGIN)
    return head + BEGIN + table() + END + rest.split(END)[1]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
