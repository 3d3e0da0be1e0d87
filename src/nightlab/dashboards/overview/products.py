"""What a quantum read and made, what it said, how long it took, and what the run was made with."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import numpy as np
from bokeh.models import ColumnDataSource, FactorRange, HoverTool
from lsst.daf.butler import Butler, DatasetRef

from nightlab.dashboards.forms import changes
from nightlab.dashboards.overview.board import COLOURS, Key, Status, data_id_of, key_names
from nightlab.dashboards.overview.graph import makers_of
from nightlab.dashboards.style import figure
from nightlab.pipelines.events import label
from nightlab.pipelines.table import STAGES

if TYPE_CHECKING:
    from nightlab.data.runs import Run

#: At most this many products are listed, and this many times read.
MOST = 200
#: More inputs of one kind than this are only counted.
MANY = 12
#: Packages whose versions decide what pixels come out.
DECISIVE = re.compile(r"nightlab|python|numpy|scipy|numba|astropy|sep|piff|galsim|lsst[-_.].*|daf_butler|pipe_base")
#: What the image viewer calls what it can show.
_PANES = {"visit_image": "science", "template_detector": "template", "difference_image": "difference"}
_TABLES = ("dia_source", "dia_object", "dia_forced_source", "dia_source_unassociated", "apdb_visits")


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When a quantum ran.

    Attributes
    ----------
    stage, key
        Which one.
    start, end
        Seconds since the first quantum of the run.
    """

    stage: str
    key: Key
    start: float
    end: float


def link(run_key: str, name: str, data_id: Mapping[str, int | str]) -> str:
    """Give the address of the explorer that opens a product, with its data id filled in; empty where none does."""
    slug = "images" if name in _PANES else "dia" if name in _TABLES else "metrics" if name == "metrics" else ""
    if not slug:
        return ""
    query: dict[str, Any] = {"run": run_key}
    if slug == "images":
        query |= {key: data_id[key] for key in ("visit", "detector") if key in data_id}
        query["panes"] = json.dumps([_PANES[name]])
    return f"./{slug}?{urlencode(query)}"


def products_html(run: Run, run_key: str, stages: Iterable[str], cell: tuple[str, Key] | None) -> str:
    """List products as a table with links; of one cell also what it read and who makes what is missing.

    Parameters
    ----------
    run
        The output run.
    run_key
        What links call it.
    stages
        Whose products; only that of `cell` when there is one.
    cell
        Stage and data id.
    """
    butler = run.fresh()
    if cell is None:
        names = [row.name for stage in stages for row in STAGES[stage].outputs.values()]
        refs = [ref for name in names for ref in _refs(butler, name, [run.name], {})]
        return _table([(ref.datasetType.name, ref) for ref in refs[:MOST]], run_key, len(refs))
    stage, key = cell
    chosen = data_id_of(stage, key)
    rows: list[tuple[str, DatasetRef | str]] = []
    for row in STAGES[stage].inputs.values():
        refs = _refs(butler, row.name, list(run.collections), chosen)
        rows += [(row.name, ref) for ref in refs] if len(refs) <= MANY else [(row.name, f"{len(refs)} of them")]
        if not refs and row.minimum > 0:
            maker = makers_of(stage)[row.name]
            rows.append((row.name, f"missing; {f'made by {maker}' if maker else 'to be ingested'}"))
    made: list[tuple[str, DatasetRef | str]] = []
    for row in STAGES[stage].outputs.values():
        refs = _refs(butler, row.name, [run.name], chosen)
        made += [(row.name, ref) for ref in refs[:MOST]]
        if not refs:
            made.append((row.name, "not made"))
    return f"<h4>made</h4>{_table(made, run_key)}<h4>read</h4>{_table(rows, run_key)}"


def _refs(butler: Butler, name: str, collections: list[str], chosen: Mapping[str, Any]) -> list[DatasetRef]:
    if not butler.registry.queryDatasetTypes([name]):
        return []
    known = butler.get_dataset_type(name).dimensions.names
    if "exposure" in known and "visit" in chosen:
        chosen = {**chosen, "exposure": chosen["visit"]}
    fits = {key: value for key, value in chosen.items() if key in known}
    for kind in ("instrument", "skymap"):  # the middleware wants them said
        records = butler.query_dimension_records(kind, explain=False)
        if kind in known and len(records) == 1:
            fits[kind] = records[0].name
    for collection in collections:
        found = butler.query_datasets(
            name, collections=collection, find_first=False, data_id=fits, explain=False, limit=None
        )
        if found:
            return sorted(found, key=lambda ref: ref.dataId.required_values)
    return []


def _table(rows: Iterable[tuple[str, DatasetRef | str]], run_key: str, total: int = 0) -> str:
    lines = []
    for name, what in rows:
        if isinstance(what, str):
            lines.append(f"<tr><td>{html.escape(name)}</td><td class='none'>{html.escape(what)}</td><td></td></tr>")
            continue
        data_id = dict(what.dataId.required)
        target = link(run_key, name, data_id)
        title = f"<a href='{html.escape(target)}'>{html.escape(name)}</a>" if target else html.escape(name)
        lines.append(
            f"<tr><td>{title}</td><td>{html.escape(label(data_id))}</td><td>{html.escape(what.run)}</td></tr>"
        )
    if not lines:
        return "<p>none</p>"
    more = f"<p>{len(lines)} of {total}; click a cell to see its own</p>" if total > len(lines) else ""
    head = "<tr><th>product</th><th>of</th><th>in</th></tr>"
    return f"<table class='nl'>{head}{''.join(lines)}</table>{more}"


def log_of(run: Run, cell: tuple[str, Key], most: int = 200) -> list[str]:
    """Read the last lines that a quantum has logged."""
    stage, key = cell
    butler = run.fresh()
    refs = _refs(butler, f"{stage}_log", [run.name], dict(zip(key_names(stage), key, strict=False)))
    records = butler.get(refs[0]) if refs else []
    lines = []
    for record in list(records)[-most:]:
        text = record.message + (f"\n{record.exc_info}" if getattr(record, "exc_info", None) else "")
        lines += [f"{record.asctime:%H:%M:%S} {record.levelname} {line}" for line in text.splitlines()]
    return lines[-most:]


def timings(run: Run, stages: Iterable[str], most: int = MOST) -> tuple[list[Timing], int]:
    """Read when the quanta of a run were at work; of at most `most` of them, and how many there are."""
    found: list[tuple[str, Key, float, float]] = []
    total = 0
    butler = run.fresh()
    known = [stage for stage in stages if butler.registry.queryDatasetTypes([f"{stage}_metadata"])]
    for stage in known:
        refs = _refs(butler, f"{stage}_metadata", [run.name], {})
        total += len(refs)
        for ref in refs[: max(1, most // len(known))]:
            told = butler.get(ref).get("quantum", {})
            begin, end = (told.get(name, None) for name in ("prepUtc", "endUtc"))
            if begin and end:
                key = tuple(ref.dataId[name] for name in key_names(stage))
                found.append((stage, key, _seconds(begin), _seconds(end)))
    first = min((begin for _, _, begin, _ in found), default=0.0)
    return [Timing(stage=s, key=k, start=b - first, end=e - first) for s, k, b, e in found], total


def _seconds(told: Any) -> float:
    text = told[-1] if isinstance(told, list | tuple) else told
    return datetime.fromisoformat(str(text)).timestamp()


def timing_figure(found: list[Timing], stages: tuple[str, ...], total: int) -> Any:
    """Draw when each quantum was at work, one line per stage."""
    shown = [stage for stage in stages if any(timing.stage == stage for timing in found)]
    sums = {stage: sum(t.end - t.start for t in found if t.stage == stage) for stage in shown}
    names = {stage: f"{stage}  {sums[stage]:.1f} s" for stage in shown}
    lanes = _lanes(found)
    source = ColumnDataSource(
        {
            "y": [(names[t.stage], offset) for t, offset in zip(found, lanes, strict=True)],
            "left": [t.start for t in found],
            "right": [t.end for t in found],
            "of": [label(data_id_of(t.stage, t.key)) for t in found],
            "stage": [t.stage for t in found],
            "seconds": [f"{t.end - t.start:.2f}" for t in found],
        }
    )
    made = figure(
        "how long each quantum took, by stage",
        y_range=FactorRange(*[names[stage] for stage in reversed(shown)]),
        height=int(70 + 26 * len(shown)),
        tools="xpan,xwheel_zoom,reset,save",
        active_drag="xpan",
        active_scroll=None,
        x_axis_label="time since the first quantum started [s]",
    )
    made.hbar(y="y", left="left", right="right", height=0.34, source=source, fill_alpha=0.75,
              fill_color=COLOURS[Status.RUNNING], line_color="white", line_width=0.5)  # fmt: skip
    made.add_tools(HoverTool(tooltips="@stage @of: @seconds s"))
    made.ygrid.visible = False
    if total > len(found):
        made.title.text = f"{len(found)} of {total} quanta"
    return made


def _lanes(found: list[Timing]) -> list[float]:
    """Shift bars of a stage apart where they are at work at the same time."""
    ends: dict[str, list[float]] = {}
    lane = {}
    for timing in sorted(found, key=lambda t: t.start):
        lanes = ends.setdefault(timing.stage, [])
        free = next((n for n, end in enumerate(lanes) if end <= timing.start), len(lanes))
        lanes[free : free + 1] = [timing.end]
        lane[timing.stage, timing.key] = free
    return [float(np.clip(0.18 * (2 * (lane[t.stage, t.key] % 2) - 1), -0.4, 0.4)) for t in found]


def provenance_html(run: Run, stages: tuple[str, ...], configs: Mapping[str, Any]) -> str:
    """Tell what a run was made with: knobs that are no defaults, versions, collections it read."""
    rows = []
    for stage in stages:
        config = configs.get(stage)
        if config is None:
            continue
        changed = changes(config)
        said = html.escape(", ".join(f"{k} = {v!r}" for k, v in changed.items()) or "all defaults")
        rows.append(f"<tr><td>{stage}</td><td><code>{config.digest}</code></td><td>{said}</td></tr>")
    butler = run.fresh()
    refs = _refs(butler, "packages", [run.name], {})
    versions = dict(butler.get(refs[0])) if refs else {}
    lines = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(version).split(' (')[0])}</td></tr>"
        for name, version in sorted(versions.items())
        if DECISIVE.fullmatch(name)
    )
    return (
        "<h4>knobs</h4><table class='nl'><tr><th>stage</th><th>digest</th><th>other than default</th></tr>"
        f"{''.join(rows)}</table><h4>read from</h4><p>{html.escape(', '.join(run.collections[1:]) or 'nothing')}</p>"
        f"<h4>made with</h4><table class='nl'>{lines}</table>"
    )


def recorded_configs(run: Run, stages: Iterable[str]) -> dict[str, Any]:
    """Read the configurations a run was made with, by stage; what another version wrote is left out."""
    found = {}
    butler = run.fresh()
    wanted = {f"{stage}_config": stage for stage in stages}
    known = [kind.name for kind in butler.registry.queryDatasetTypes(list(wanted), missing=[])]
    refs = butler.query_all_datasets(run.name, name=known, find_first=False, limit=None) if known else []
    for ref in refs:
        try:
            config = butler.get(ref).model()
        except (ValueError, AttributeError):
            # the Butler's word for a file that its formatter cannot read: knobs have come or gone since
            continue
        if config is not None:
            found[wanted[ref.datasetType.name]] = config
    return found
