"""How a metric is spread: over the detectors, or as a histogram."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from astropy.table import Table
from bokeh.models import ColumnDataSource, HoverTool, Legend, LegendItem, Range1d, Span

from nightlab.dashboards.charts import axis_label, draw_targets, draw_ticks, interval, value_range
from nightlab.dashboards.style import ACCENT, VERDICTS, figure
from nightlab.quality import Level
from nightlab.report import UNJUDGED

#: Colour of a second run.
SECOND = "#d55e00"


def over_detectors(
    table: Table,
    name: str,
    unit: str = "",
    *,
    names: Mapping[int, str] | None = None,
    attrs: Mapping[str, Any] = UNJUDGED,
    level: Level = "minimum",
    **options: Any,
) -> Any:
    """Draw the spread of a metric in each detector: median, 16 to 84 per cent, extremes.

    Parameters
    ----------
    table
        What `nightlab.quality.per_detector` gave.
    name, unit
        What the axis says.
    names
        Of the detectors.
    attrs, level
        The targets and what they are called; the good side is tinted.
    **options
        Passed on to the figure.
    """
    detectors = sorted({int(detector) for detector in table["detector"]})
    runs = list(dict.fromkeys(str(run) for run in table["run"]))
    ends = np.concatenate([np.asarray(table["least"], float), np.asarray(table["most"], float)])
    low, high = value_range(ends, None, attrs)
    drawn = figure(
        f"{axis_label(name, unit)} of each detector",
        **{
            "height": 230,
            "y_range": Range1d(low, high),
            "x_axis_label": "detector",
            "y_axis_label": axis_label(name, unit),
            "tools": "pan,wheel_zoom,reset,save",
            **options,
        },
    )
    draw_targets(drawn, None, attrs, level, low, high)
    draw_ticks(drawn, {float(i): (names or {}).get(d, str(d)) for i, d in enumerate(detectors)}, most=14)
    shift = 0.0 if len(runs) == 1 else 0.16
    renderers = []
    for number, run in enumerate(runs):
        mine = table[np.asarray(table["run"]) == run]
        x = np.array([detectors.index(int(d)) for d in mine["detector"]]) + shift * (2 * number - 1)
        columns = {key: np.asarray(mine[key], float) for key in ("least", "low", "median", "high", "most")}
        text = [f"{m:.4g} {unit}".strip() for m in columns["median"]]
        source = ColumnDataSource(
            {
                "x": x,
                "n": [int(n) for n in mine["n"]],
                "text": text,
                "run": [run] * len(mine),
                "detector": [(names or {}).get(int(d), str(d)) for d in mine["detector"]],
                **columns,
            }
        )
        colour = ACCENT if number == 0 else SECOND
        drawn.segment("x", "least", "x", "most", source=source, line_color=colour, line_alpha=0.5)
        drawn.segment("x", "low", "x", "high", source=source, line_color=colour, line_alpha=0.35, line_width=9)
        renderers.append(
            drawn.scatter(
                "x", "median", source=source, size=8, color=colour, marker="circle" if number == 0 else "square"
            )
        )
    if len(runs) > 1:
        items = [LegendItem(label=run, renderers=[dots]) for run, dots in zip(runs, renderers, strict=True)]
        drawn.add_layout(_legend(items), "above")
    tips = [("detector", "@detector"), ("median", "@text"), ("n", "@n"), ("run", "@run")][: 4 if len(runs) > 1 else 3]
    drawn.add_tools(HoverTool(renderers=renderers, tooltips=tips))
    return drawn


def histogram(
    runs: Mapping[str, Sequence[float]],
    name: str,
    unit: str = "",
    *,
    attrs: Mapping[str, Any] = UNJUDGED,
    **options: Any,
) -> Any:
    """Draw how the values of a metric are spread, and say how many were left out for being NaN.

    Parameters
    ----------
    runs
        By run (n,) numbers; those that are not finite are counted and left out. The first run is filled, others are
        outlines.
    name, unit, attrs
        As in `nightlab.dashboards.charts.trend`.
    **options
        Passed on to the figure.
    """
    numbers = {run: np.asarray(values, float) for run, values in runs.items()}
    finite = np.concatenate([values[np.isfinite(values)] for values in numbers.values()])
    # the automatic width of bins can ask for millions of them when all values but one agree
    edges = np.histogram_bin_edges(finite, bins=min(40, max(5, int(math.sqrt(finite.size) * 2))))
    lost = sum(values.size for values in numbers.values()) - finite.size
    label = axis_label(name, unit) + f"; n = {finite.size}" + (f", {lost} unknown" if lost else "")
    given = {"height": 230, "x_axis_label": label, "y_axis_label": "places", "tools": "pan,wheel_zoom,reset,save"}
    drawn = figure(f"histogram of {axis_label(name, unit)}", **{**given, **options})
    items = []
    for number, (run, values) in enumerate(numbers.items()):
        counts, _ = np.histogram(values[np.isfinite(values)], bins=edges)
        colour, alpha = (ACCENT, 0.55) if number == 0 else (SECOND, 0.0)
        bars = drawn.quad(left=edges[:-1], right=edges[1:], bottom=0, top=counts, fill_color=colour, fill_alpha=alpha,
                          line_color=colour, line_width=1 if number == 0 else 2)  # fmt: skip
        items.append(LegendItem(label=run, renderers=[bars]))
    if len(items) > 1:
        drawn.add_layout(_legend(items), "above")
    for edge in interval(attrs):
        if math.isfinite(edge) and edges[0] <= edge <= edges[-1]:
            drawn.add_layout(Span(location=edge, dimension="height", line_color=VERDICTS["pass"], line_width=1.6))
    drawn.y_range.start = 0
    drawn.yaxis.ticker.min_interval = 1
    drawn.yaxis.minor_tick_line_color = None
    return drawn


def _legend(items: list[LegendItem]) -> Legend:
    look = {"border_line_color": None, "padding": 0, "margin": 4, "background_fill_alpha": 0.0}
    return Legend(items=items, orientation="horizontal", label_text_font_size="12px", **look)
