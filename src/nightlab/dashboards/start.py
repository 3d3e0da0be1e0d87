"""The start page: which runs there are, what each contains, and where to look at it."""

from __future__ import annotations

import html
from typing import Any
from urllib.parse import urlencode

import panel as pn

from nightlab.dashboards.library import Library
from nightlab.dashboards.page import template
from nightlab.dashboards.states import EmptyState, Pane, Reason
from nightlab.data.runs import Run

#: Which product each explorer opens on.
_OPENS = {
    "overview": ("", "overview"),
    "images": ("visit_image", "images"),
    "dia": ("dia_source", "sources and objects"),
    "metrics": ("metrics", "metrics"),
    "workbench": ("visit_image", "workbench"),
}

_CSS = """
.nl-runs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 16px; }
.nl-run { border: 1px solid color-mix(in srgb, currentColor 18%, transparent); border-radius: 8px; padding: 14px 18px;
  font-size: 14px; line-height: 1.5; display: flex; flex-direction: column; }
.nl-run h3 { margin: 0 0 2px; font-size: 17px; }
.nl-run .facts { opacity: .85; margin: 0 0 8px; font-size: 13px; }
.nl-run .counts { display: flex; flex-wrap: wrap; gap: 4px 6px; margin: 0 0 12px; font-size: 12px; flex: 1;
  align-content: flex-start; }
.nl-run .counts span { padding: 1px 8px; border-radius: 9px;
  background: color-mix(in srgb, currentColor 7%, transparent); }
.nl-run .counts b { font-variant-numeric: tabular-nums; }
.nl-run a.open { display: inline-block; padding: 4px 12px; margin: 0 8px 4px 0; border-radius: 5px;
  text-decoration: none; color: #fff; background: #2a6f97; font-size: 13px; }
.nl-run a.open:hover, .nl-run a.open:focus-visible { background: #1d5373; }
"""


def start_page(library: Library) -> Any:
    """Make the start page.

    Parameters
    ----------
    library
        The runs; looked for again each time the page is opened.
    """
    library.refresh()
    runs = "".join(_card(library, key) for key in library)
    cards: Any = pn.pane.HTML(f"<div class='nl-runs'>{runs}</div>", sizing_mode="stretch_width", stylesheets=[_CSS])
    head = pn.pane.HTML(
        "<h1>A night, stage by stage</h1><p>Runs found on this machine, and the explorers that open them.</p>",
        stylesheets=["h1 { font-size: 24px; margin: 10px 0 4px; } p { font-size: 14px; margin: 0 0 6px; }"],
    )
    if not len(library):
        pane = Pane("runs")
        where = ", ".join(folder.name or str(folder) for folder in library.folders) or "no folder"
        pane.empty(
            EmptyState(
                Reason.NOT_RUN,
                f"No run was found in {where}.",
                "Make one: nightlab demo — or on real sky: nightlab run ApPipe --data stripe82",
            )
        )
        cards = pane
    broken = [
        pn.pane.Alert(f"{html.escape(name)}: {html.escape(what)}", alert_type="warning")
        for name, what in library.broken.items()
    ]
    body = pn.Column(head, cards, *broken, sizing_mode="stretch_width")
    return template("NightLab", main=[body])


def _card(library: Library, key: str) -> str:
    run = library[key]
    counts = run.types()
    visits = run.visits()
    bands = "".join(band for band in "ugrizy" if band in set(visits["band"]))
    n_visits, n_detectors = len(set(visits["visit"])), len(set(visits["detector"]))
    facts = (
        f"{_many(n_visits, 'visit')}, {_many(n_detectors, 'detector')}, bands {bands}{_nights(visits)}"
        if len(visits)
        else "no images yet"
    )
    shown = {name: n for name, n in counts.items() if "metrics" not in name or name == "metrics"}
    products = "".join(f"<span>{html.escape(name)} <b>{n}</b></span>" for name, n in shown.items())
    links = "".join(
        f"<a class='open' href='./{slug}?{urlencode({'run': key})}'>{words}</a>"
        for slug, (product, words) in _OPENS.items()
        if not product or counts.get(product)
    )
    return (
        f"<div class='nl-run'><h3>{html.escape(_title(run))}</h3><p class='facts'>{facts}</p>"
        f"<div class='counts'>{products}</div><div>{links}</div></div>"
    )


def _nights(visits: Any) -> str:
    """Say from which nights visits are: `` · 2027-04-19 … 2027-04-25``."""
    days = [
        f"{day // 10000}-{day // 100 % 100:02d}-{day % 100:02d}" for day in sorted({int(d) for d in visits["day_obs"]})
    ]
    return " · " + (days[0] if len(days) == 1 else f"{days[0]} … {days[-1]}")


def _title(run: Run) -> str:
    return run.label


def _many(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
