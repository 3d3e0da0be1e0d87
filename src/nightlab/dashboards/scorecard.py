"""Metrics as a scorecard: a tile per stage, a line per metric, each a button."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar
from urllib.parse import quote

import param
from astropy.table import Table
from panel.custom import JSComponent

from nightlab.dashboards.style import VERDICTS
from nightlab.dashboards.style import readable as ink

SIGNS = {"pass": "✓", "fail": "✗", "unknown": "?", "none": "·"}

#: What people call the rooms that measure.
STAGES = {
    "single_frame": "single frame",
    "template": "template",
    "template_detector": "warped template",
    "difference": "difference",
    "dia_source": "DIA sources",
    "association": "association",
    "forced": "forced photometry",
}


class Choices(JSComponent):
    """Marked-up text whose elements with ``data-key`` are chosen by click or key."""

    markup = param.String(doc="HTML; every text in it escaped already.")
    chosen = param.String(doc="Key of the element that is shown as chosen.")
    clicked = param.String(doc="Key that was clicked, then a running number.")

    _esm = """
export function render({ model }) {
  const root = document.createElement("div");
  root.className = "choices";
  let count = 0;
  const scroller = () => root.querySelector(".scroll") || root;
  const mark = (follow) => root.querySelectorAll("[data-key]").forEach((node) => {
    const on = node.dataset.key === model.chosen;
    node.setAttribute("aria-pressed", on);
    if (!on || !follow || !node.classList.contains("row")) return;
    const box = scroller(), above = node.offsetTop - box.offsetTop, below = above + 30 - box.clientHeight;
    if (box.scrollTop > above || box.scrollTop < below) box.scrollTop = above - box.clientHeight / 3;
  });
  const draw = () => {
    const top = scroller().scrollTop;
    root.innerHTML = model.markup;
    mark(false);
    scroller().scrollTop = top;
  };
  root.addEventListener("click", (event) => {
    const node = event.target.closest("[data-key]");
    if (node) model.clicked = `${node.dataset.key} ${++count}`;
  });
  model.on("markup", draw);
  model.on("chosen", () => mark(true));
  draw();
  model.on("after_layout", () => mark(true));
  return root;
}
"""
    _stylesheets: ClassVar[list[Any]] = [
        """
:host { display: block; width: 100%; }
.choices { font-size: 13px; line-height: 1.3; height: 100%; max-height: inherit; box-sizing: border-box;
  display: flex; flex-direction: column; }
.scroll { overflow-y: auto; flex: 1 1 auto; min-height: 0; position: relative; scrollbar-gutter: stable; }
button { font: inherit; color: inherit; background: none; border: 0; padding: 0; text-align: left; cursor: pointer; }
button:focus-visible { outline: 2px solid #2a6f97; outline-offset: 1px; }
.tiles { display: flex; gap: 10px; flex-wrap: wrap; }
.tile { flex: 1 1 120px; padding: 8px 12px; border-radius: 6px; position: relative; overflow: hidden;
  background: color-mix(in srgb, currentColor 6%, transparent); }
.tile:hover, .row:hover { background: color-mix(in srgb, currentColor 11%, transparent); }
.tile[aria-pressed=true] { box-shadow: inset 0 0 0 2px #2a6f97; }
.tile b { display: block; font-size: 13px; font-weight: 600; }
.tile span { font-size: 12px; }
.tile span span { opacity: 1; font-weight: 600; white-space: nowrap; }
.bar { display: flex; height: 4px; position: absolute; left: 0; right: 0; bottom: 0; gap: 1px; }
.bar i { display: block; height: 100%; }
.row { display: grid; width: 100%; padding: 3px 8px; border-radius: 4px; gap: 6px; align-items: baseline;
  grid-template-columns: 14px minmax(0, 1fr) 54px 54px 70px 34px; font-size: 12px; box-sizing: border-box; }
.row[aria-pressed=true] { background: color-mix(in srgb, #2a6f97 24%, transparent); }
.row > :nth-child(n+3) { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis; }
.row > :nth-child(2) { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.head { cursor: default; font-size: 12px; flex: none; padding-right: 20px; }
.head span { opacity: .75; }
h4 { margin: 8px 8px 2px; font-size: 12px; letter-spacing: .04em; text-transform: uppercase; opacity: .75;
  font-weight: 600; }
p { margin: 6px 8px; opacity: .9; }
.versus.row, .versus .row {
  grid-template-columns: 14px minmax(180px, 1.4fr) repeat(4, minmax(60px, .5fr)) 56px 52px minmax(150px, 1.2fr); }
.row > .last { text-align: left; padding-left: 10px; }
.turned { font-weight: 600; }
.badge { font-style: normal; font-size: 12px; padding: 0 6px; border-radius: 8px; margin-left: 4px;
  border: 1px solid color-mix(in srgb, currentColor 35%, transparent); }
"""
    ]


def number(value: float) -> str:
    """Write a number as short as it says something; a dash where there is none."""
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    if size != 0 and not 1e-3 <= size < 1e5:
        mantissa, _, power = f"{value:.1e}".partition("e")
        return f"{mantissa}e{int(power)}"
    return f"{value:.0f}" if size >= 1000 else f"{value:.4g}" if size >= 100 else f"{value:.3g}"


def readable(target: str) -> str:
    """Markup of a target with the signs of mathematics."""
    return html.escape(target.replace("<=", "≤").replace(">=", "≥").replace("+-", "±"))


def stage_tiles(summary: Table) -> str:
    """Markup of a tile per stage: how many of its judged metrics pass, miss or are unknown; the key is the stage."""
    return f"<div class='tiles'>{''.join(_tile(room, list(rows)) for room, rows in _by_room(summary))}</div>"


def _by_room(summary: Table) -> Iterable[tuple[str, Table]]:
    rooms = [str(name).partition(".")[0] for name in summary["metric"]]
    known = [*(room for room in STAGES if room in rooms), *dict.fromkeys(r for r in rooms if r not in STAGES)]
    for room in known:
        yield room, summary[[each == room for each in rooms]]


def _tile(room: str, rows: list[Any]) -> str:
    count = {verdict: sum(str(row["verdict"]) == verdict for row in rows) for verdict in SIGNS}
    judged = len(rows) - count["none"]
    words = [f"{count['pass']} of {judged} pass"] if judged else [f"{len(rows)} without target"]
    words += [
        f"<span style='color:{ink(VERDICTS[verdict])}'>{count[verdict]} {verdict}</span>"
        for verdict in ("fail", "unknown")
        if count[verdict]
    ]
    bar = "".join(
        f"<i style='flex:{count[verdict]};background:{VERDICTS[verdict]}'></i>"
        for verdict in ("fail", "unknown", "pass")
        if count[verdict]
    )
    title = html.escape(STAGES.get(room, room))
    return (
        f"<button class='tile' data-key='{html.escape(room, quote=True)}'><b>{title}</b>"
        f"<span>{', '.join(words)}</span><div class='bar'>{bar}</div></button>"
    )


def metric_rows(summary: Table, descriptions: Mapping[str, str], missing: Mapping[str, str]) -> str:
    """Markup of a line per metric under the names of the stages; the key is the metric.

    Parameters
    ----------
    summary
        What `nightlab.quality.summarise` gave, cut down to what is to be seen.
    descriptions
        One sentence per metric, shown while pointing at it.
    missing
        Targets that nothing in the run was measured for, by metric.
    """
    if not len(summary):
        return "<p>No metric fits.</p>"
    head = "".join(f"<span>{text}</span>" for text in ("", "metric", "median", "worst", "target", "failed"))
    parts = []
    for room, rows in _by_room(summary):
        parts.append(f"<h4>{html.escape(STAGES.get(room, room))}</h4>")
        parts += [_row(row, descriptions.get(str(row["metric"]), "")) for row in rows]
    if missing:
        parts.append("<h4>target, but not measured in this run</h4>")
        parts += [f"<p>{html.escape(name)} {readable(target)}</p>" for name, target in missing.items()]
    return f"<div class='row head'>{head}</div><div class='scroll'>{''.join(parts)}</div>"


def _row(row: Any, description: str) -> str:
    name, verdict, unit = str(row["metric"]), str(row["verdict"]), str(row["unit"])
    title = html.escape(f"{name}{f' [{unit}]' if unit else ''}: {description}", quote=True)
    words = name.partition(".")[2].replace("_", " ") + (f" [{unit}]" if unit else "")
    sign = (
        f"<span style='color:{ink(VERDICTS[verdict])};font-weight:700' aria-label='{verdict}'>{SIGNS[verdict]}</span>"
    )
    failed = f"{row['failed']}/{row['n']}" if verdict != "none" else f"{row['n']}"
    bad = f" style='color:{ink(VERDICTS['fail'])};font-weight:600'" if row["failed"] else ""
    target = readable(str(row["target"]))
    return (
        f"<button class='row' data-key='{html.escape(name, quote=True)}' title=\"{title}\">{sign}"
        f"<span>{html.escape(words)}</span><span>{number(float(row['median']))}</span>"
        f"<span>{number(float(row['worst']))}</span><span>{target}</span><span{bad}>{failed}</span></button>"
    )


def versus_rows(table: Table, a: str, b: str, only: tuple[list[int], list[int]]) -> str:
    """Markup of a comparison: other verdicts first, then by significance; the key is the metric.

    Parameters
    ----------
    table
        What `nightlab.quality.compare_runs` gave.
    a, b
        What the runs are called.
    only
        Visits of A alone and of B alone.
    """
    turned = [row["verdict_a"] != row["verdict_b"] for row in table]
    strength = [abs(float(row["significance"])) if math.isfinite(row["significance"]) else -1.0 for row in table]
    order = sorted(range(len(table)), key=lambda i: (not turned[i], -strength[i]))
    count = {change: int((table["change"] == change).sum()) for change in CHANGES}
    told = " · ".join(f"{count[change]} {change}" for change in CHANGES if count[change])
    badges = [f"<i class='badge'>{len(visits)} visit{'s' * (len(visits) > 1)} only in {side}</i>"
              for side, visits in zip("AB", only, strict=True) if visits]  # fmt: skip
    names = f"<b>A</b> {html.escape(a)} &nbsp; <b>B</b> {html.escape(b)} &nbsp; {told} {' '.join(badges)}"
    titles = ("", "metric", "A", "B", "B − A", "error", "sigma", "places", "")
    head = "".join(f"<span>{title}</span>" for title in titles)
    rows = "".join(_versus(table[i]) for i in order)
    return f"<p>{names}</p><div class='versus row head'>{head}</div><div class='versus scroll'>{rows}</div>"


CHANGES = {
    "worse": "fail",
    "better": "pass",
    "differs": "unknown",
    "within errors": "none",
    "same": "none",
    "unknown": "none",
}


def _versus(row: Any) -> str:
    name, change, unit = str(row["metric"]), str(row["change"]), str(row["unit"])
    colour = ink(VERDICTS[CHANGES[change]])
    only = "".join(
        f"<i class='badge'>{row[column]} only in {side}</i>" for column, side in (("only_a", "A"), ("only_b", "B"))
        if row[column]
    )  # fmt: skip
    if row["verdict_a"] != row["verdict_b"]:
        only = f"<i class='badge turned'>{row['verdict_a']} → {row['verdict_b']}</i>{only}"
    cells = [number(float(row[column])) for column in ("median_a", "median_b", "difference", "error")]
    sigma = float(row["significance"])
    cells += [f"{sigma:+.1f}" if math.isfinite(sigma) and sigma else "0" if sigma == 0.0 else "–", str(row["n_both"])]
    sign = {"worse": "▼", "better": "▲", "differs": "◆"}.get(change, "·")
    label = f"{html.escape(name)}{f' [{html.escape(unit)}]' if unit else ''}"
    return (
        f"<button class='row' data-key='{html.escape(name, quote=True)}'><span style='color:{colour}'>{sign}</span>"
        f"<span>{label}</span>{''.join(f'<span>{cell}</span>' for cell in cells)}"
        f"<span class='last'><span style='color:{colour}'>{change}</span> {only}</span></button>"
    )


def point_row(row: Any, key: str, detector_name: str, verdict: str) -> str:
    """Markup of one measurement: its data id, its value, and links to the explorers that show what is behind it.

    Parameters
    ----------
    row
        Of `nightlab.quality.tidy`.
    key
        Of the run, as links carry it.
    detector_name
        What people call the detector.
    verdict
        On the value.
    """
    query = html.escape(f"run={quote(key)}&visit={row['visit']}&detector={row['detector']}")
    late = str(row["metric"]).partition(".")[0] in ("association", "forced")
    words = {"dia": "DIA sources", "images": "images"} if late else {"images": "images", "dia": "DIA sources"}
    links = " · ".join(f"<a href='./{slug}?{query}'>{text}</a>" for slug, text in words.items())
    name = f" ({detector_name})" if detector_name not in ("", str(row["detector"])) else ""
    told = f"<span style='color:{ink(VERDICTS[verdict])}'>{verdict}</span>" if verdict != "none" else ""
    cells = (
        f"{row['visit']}{f' ({html.escape(str(row["run"]))})' if row['run'] else ''}",
        html.escape(f"{row['detector']}{name}"),
        html.escape(str(row["band"])),
        f"{number(float(row['value']))} {html.escape(str(row['unit']))}",
        told,
        links,
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
