"""Pictures of metrics: a value along the night between its targets, its spread over the detectors, the camera."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table
from bokeh.models import (
    BoxAnnotation,
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    Label,
    Legend,
    LegendItem,
    Range1d,
    Span,
    TapTool,
)

from nightlab.dashboards.style import ACCENT, VERDICTS, band_style, figure, ink
from nightlab.quality import LEVELS, Level, Spec, Statistic, bounds, house_specs, judge, jumps, series
from nightlab.report import UNJUDGED

if TYPE_CHECKING:
    import xarray as xr

#: How the good side of a threshold is tinted, and how its edge is dashed.
SHADES = {"minimum": (0.07, "solid"), "design": (0.07, "dashed"), "stretch": (0.07, "dotted")}
GRAY = "#8a8f94"

#: Of visits: mjd and observing day.
Times = Mapping[int, tuple[float, int]]


def plot_metric(
    metrics: xr.Dataset,
    name: str,
    *,
    level: Level = "minimum",
    statistic: Statistic = "median",
    x: str = "visit",
    mark_jumps: bool = False,
    **options: Any,
) -> Any:
    """Plot a metric along the visits, between its targets.

    Parameters
    ----------
    metrics
        What `nightlab.metrics` gave, of one run or several.
    name
        The metric, such as ``difference.noise_ratio``.
    level
        Which targets decide about pass and fail; those that fit are all drawn.
    statistic
        How the detectors of a visit become one value: ``median``, ``mean``, ``worst``, or ``each``.
    x
        ``visit`` or ``run``.
    mark_jumps
        Whether to mark where the metric steps to another level.
    **options
        Passed on to the figure, such as ``height``.

    Returns
    -------
    panel.pane.Bokeh
        A cell shows it.
    """
    import panel as pn

    from nightlab.dashboards.setup import setup

    setup()
    attrs = bounds(metrics, name, level=level)
    table = series(metrics, name, statistic=statistic, attrs=attrs)
    unit = str(metrics[name].attrs.get("unit", ""))
    drawn = trend(table, name, unit, level=level, attrs=attrs, x=x, mark_jumps=mark_jumps, **options)
    return pn.pane.Bokeh(drawn, sizing_mode="stretch_width")


def trend(
    table: Table,
    name: str,
    unit: str = "",
    *,
    level: Level = "minimum",
    attrs: Mapping[str, Any] = UNJUDGED,
    x: str = "visit",
    times: Times | None = None,
    mark_jumps: bool = False,
    on_point: Callable[[int], None] | None = None,
    specs: Mapping[str, Spec] | None = None,
    **options: Any,
) -> Any:
    """Draw a series of `nightlab.quality.series`.

    A thin bar spans the detectors of a visit. A gap stays a gap: lines break where a visit has no value, and what
    could not be measured is a cross at the bottom.

    Parameters
    ----------
    table
        The series.
    name, unit
        What the axis says.
    level, attrs, specs
        Targets: which level decides, what it is, and where the other levels are found.
    x
        ``visit``, ``time``, ``night`` or ``run``; time and night need `times`.
    times
        Of each visit.
    mark_jumps
        Whether to mark steps.
    on_point
        Called with the row of a point that was clicked.
    **options
        Passed on to the figure.
    """
    if x == "run":  # there are no gaps between runs
        table = table[(np.asarray(table["n"]) + np.asarray(table["unknown"])) > 0]
    where, ticks, title = positions(table, x, times or {})
    values = np.asarray(table["value"], float)
    spec = (house_specs() if specs is None else specs).get(name)
    ends = np.concatenate([values, *(np.asarray(table[end], float) for end in ("least", "most"))])
    low, high = value_range(ends, spec, attrs)
    drawn = figure(
        f"{axis_label(name, unit)} along {title}",
        **{
            "height": 280,
            "y_range": Range1d(low, high),
            "x_axis_label": title,
            "tools": "pan,wheel_zoom,reset,save",
            "y_axis_label": axis_label(name, unit),
            **options,
        },
    )
    draw_targets(drawn, spec, attrs, level, low, high)
    if ticks:
        draw_ticks(drawn, ticks)
    points = _points(drawn, table, where, attrs, unit, low, high, on_point, apart=title != "run")
    if mark_jumps:
        _jumps(drawn, table, where, unit, high)
    tooltips = [("", "@place @detector"), ("", "@text"), ("", "@verdict"), ("run", "@run")]
    if len(set(table["run"])) < 2:
        tooltips.pop()
    drawn.add_tools(HoverTool(renderers=points, tooltips=tooltips), TapTool(renderers=points))
    return drawn


def axis_label(name: str, unit: str = "") -> str:
    """What an axis says of a metric: its words, and its unit."""
    words = name.partition(".")[2] or name
    return words.replace("_", " ") + (f" [{unit}]" if unit else "")


def positions(table: Table, x: str, times: Times) -> tuple[np.ndarray, dict[float, str], str]:
    """Say where the rows of a series lie: their x, words for ticks (none for a plain scale), what the axis is."""
    visits = np.asarray(table["visit"], np.int64)
    known = len(visits) > 0 and all(int(visit) in times for visit in visits)
    if x == "run" or (len(visits) > 0 and (visits < 0).all() and set(table["place"]) == {"run"}):
        labels = list(dict.fromkeys(str(run) for run in table["run"]))
        place = np.array([labels.index(str(run)) for run in table["run"]], float)
        words = {float(i): label.replace(" · ", "\n") or "run" for i, label in enumerate(labels)}
        return place + _spread(place), words, "run"
    if x == "time" and known:
        return np.array([times[int(visit)][0] for visit in visits]), {}, "MJD (TAI) [day]"
    if x == "night" and known:
        days = sorted({times[int(visit)][1] for visit in visits})
        place = np.array([days.index(times[int(visit)][1]) for visit in visits], float)
        text = {float(i): f"{day // 10000}-{day // 100 % 100:02d}-{day % 100:02d}" for i, day in enumerate(days)}
        return place + _spread(place), text, "night"
    order = {int(visit): str(visit) for visit in np.unique(visits[visits >= 0])}
    places = list(order.values()) or list(dict.fromkeys(str(place) for place in table["place"]))
    index = {place: float(i) for i, place in enumerate(places)}
    title = "visit" if order else "place"
    return np.array([index[str(place)] for place in table["place"]]), {i: place for place, i in index.items()}, title


def _spread(place: np.ndarray) -> np.ndarray:
    """Put the rows that share a place side by side, in their order."""
    offset = np.zeros(place.size)
    for value in np.unique(place):
        mine = np.flatnonzero(place == value)
        offset[mine] = (np.arange(mine.size) - (mine.size - 1) / 2) * min(0.12, 0.6 / mine.size)
    return offset


def draw_ticks(drawn: Any, ticks: Mapping[float, str], most: int = 9) -> None:
    """Write words along the x axis, at most so many."""
    step = max(1, math.ceil(len(ticks) / most))
    shown = dict(list(ticks.items())[::step])
    drawn.xaxis.ticker = FixedTicker(ticks=list(shown))
    drawn.xaxis.major_label_overrides = shown
    drawn.x_range = Range1d(-0.6, len(ticks) - 0.4)
    drawn.xgrid.grid_line_color = None


def value_range(values: np.ndarray, spec: Spec | None, attrs: Mapping[str, Any]) -> tuple[float, float]:
    """Limits of the value axis: all values, and the targets that lie near them."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return 0.0, 1.0
    low, high = float(finite.min()), float(finite.max())
    size = (high - low) or abs(high) * 0.1 or 1.0
    near = [edge for edge in _edges(spec, attrs) if low - 2.5 * size <= edge <= high + 2.5 * size]
    # an interval around a target has a natural scale: it is always seen whole
    near += interval(attrs) if attrs.get("sense") == "near" else ()
    low, high = min(low, *near, high), max(high, *near, low)
    size = (high - low) or size
    return low - 0.16 * size, high + 0.12 * size


def _edges(spec: Spec | None, attrs: Mapping[str, Any]) -> list[float]:
    if spec is not None:
        return [edge for level in LEVELS for edge in spec.limits(level) if math.isfinite(edge)]
    return [edge for edge in interval(attrs) if math.isfinite(edge)]


def interval(attrs: Mapping[str, Any]) -> tuple[float, float]:
    """Give the good interval of a target, infinite where it is open."""
    target = float(attrs.get("target", math.nan))
    match attrs.get("sense", "none"):
        case "lower":
            return -math.inf, target
        case "higher":
            return target, math.inf
        case "near":
            return target - float(attrs["tolerance"]), target + float(attrs["tolerance"])
    return -math.inf, math.inf


def draw_targets(
    drawn: Any, spec: Spec | None, attrs: Mapping[str, Any], level: Level, low: float, high: float
) -> None:
    """Tint the good side of each target, darker where more is asked, and write its name on the edge."""
    intervals = {name: spec.limits(name) for name in LEVELS} if spec else {level: interval(attrs)}
    written: list[float] = []
    for name in sorted(intervals, key=lambda each: each != level):
        bottom, top = intervals[name]
        if not (math.isfinite(bottom) or math.isfinite(top)):
            continue
        alpha, dash = SHADES[name]
        sides = {"bottom": bottom if math.isfinite(bottom) else None, "top": top if math.isfinite(top) else None}
        drawn.add_layout(BoxAnnotation(fill_color=VERDICTS["pass"], fill_alpha=alpha, line_color=None, **sides))
        for edge in (bottom, top):
            if not low < edge < high:
                continue
            width = 1.6 if name == level else 1.0
            line = {"line_color": VERDICTS["pass"], "line_dash": dash, "line_width": width, "line_alpha": 0.9}
            drawn.add_layout(Span(location=edge, dimension="width", **line))
            # where two edges nearly meet only the one that decides is named
            if all(abs(edge - other) > 0.1 * (high - low) for other in written):
                written.append(edge)
                drawn.add_layout(
                    Label(
                        x=4,
                        x_units="screen",
                        y=edge,
                        text=name,
                        text_font_size="12px",
                        text_color=ink("pass"),
                        text_baseline="bottom" if edge == top else "top",
                    )
                )


def _points(
    drawn: Any,
    table: Table,
    where: np.ndarray,
    attrs: Mapping[str, Any],
    unit: str,
    low: float,
    high: float,
    on_point: Callable[[int], None] | None,
    apart: bool,
) -> list[Any]:
    """Draw the values by band, and by run where these share an axis: the first one filled, another one open."""
    values = np.asarray(table["value"], float)
    runs = list(dict.fromkeys(str(run) for run in table["run"])) if apart else [""]
    bands = sorted({str(band) for band in table["band"]}, key=lambda band: ("ugrizy".find(band) % 99, band))
    columns = _columns(table, where, values, attrs, unit, low, high)
    renderers, items = [], []
    for number, run in enumerate(runs):
        for band in bands:
            mine = np.flatnonzero(
                (np.asarray(table["band"]) == band) & (np.asarray(table["run"]) == run if apart else True)
            )
            if not (np.asarray(table["n"])[mine] + np.asarray(table["unknown"])[mine]).any():
                continue
            mine = mine[np.argsort(where[mine], kind="stable")]
            style = band_style(band)
            filled = style.colour if number == 0 else None
            if apart and len(set(where[mine])) == mine.size:  # not through several detectors of one visit
                drawn.line(where[mine], values[mine], line_color=style.colour, line_dash=style.dash, line_alpha=0.45)
            wide = mine[np.asarray(table["most"])[mine] > np.asarray(table["least"])[mine]]
            drawn.segment(where[wide], np.asarray(table["least"])[wide], where[wide], np.asarray(table["most"])[wide],
                          line_color=style.colour, line_alpha=0.5)  # fmt: skip
            source = ColumnDataSource({key: [column[i] for i in mine] for key, column in columns.items()})
            dots = drawn.scatter(
                "x",
                "y",
                source=source,
                marker=style.marker,
                size=9,
                line_color=style.colour,
                fill_color=filled,
                fill_alpha=0.85,
                line_width=1.5,
                selection_line_color=ACCENT,
                selection_line_width=4,
                nonselection_fill_alpha=0.55,
                nonselection_line_alpha=0.7,
            )
            unknown = mine[np.asarray(table["unknown"])[mine] > np.asarray(table["n"])[mine]]
            at = ColumnDataSource({"x": where[unknown], "y": np.full(unknown.size, low + 0.05 * (high - low))})
            drawn.scatter("x", "y", source=at, marker="x", size=8, line_color=VERDICTS["unknown"], line_width=2)
            if on_point is not None:
                source.selected.on_change("indices", _tapped(mine, on_point))
            renderers.append(dots)
            words = " · ".join(word for word in (band, run if len(runs) > 1 else "") if word)
            items.append(LegendItem(label=f"{words or 'all'} ({np.isfinite(values[mine]).sum()})", renderers=[dots]))
    if len(items) > 1 or bands != [""]:
        legend = Legend(
            items=items,
            orientation="horizontal",
            click_policy="hide",
            border_line_color=None,
            padding=0,
            background_fill_alpha=0.0,
            label_text_font_size="12px",
            spacing=6,
            margin=4,
            glyph_height=14,
            label_height=14,
            ncols=2 if len(runs) > 1 else 6,
        )
        drawn.add_layout(legend, "above")
    return renderers


def _tapped(rows: np.ndarray, on_point: Callable[[int], None]) -> Callable[[str, Any, list[int]], None]:
    def told(_attr: str, _old: Any, new: list[int]) -> None:
        if new:
            on_point(int(rows[new[0]]))

    return told


def _columns(
    table: Table, where: np.ndarray, values: np.ndarray, attrs: Mapping[str, Any], unit: str, low: float, high: float
) -> dict[str, list[Any]]:
    """What each point tells; ids are text."""
    detectors = [
        f"detector {d}" if d >= 0 else f"{n} detectors" for d, n in zip(table["detector"], table["n"], strict=True)
    ]
    return {
        "x": list(where),
        "y": list(values),
        "place": [
            f"visit {place}" if visit >= 0 else str(place)
            for place, visit in zip(table["place"], table["visit"], strict=True)
        ],
        "detector": [text if visit >= 0 else "" for text, visit in zip(detectors, table["visit"], strict=True)],
        "text": [f"{value:.4g} {unit}".strip() for value in values],
        "verdict": [verdict if (verdict := judge(float(value), attrs)) != "none" else "" for value in values],
        "run": [str(run) for run in table["run"]],
    }


def _jumps(drawn: Any, table: Table, where: np.ndarray, unit: str, high: float) -> None:
    """Mark the steps of each run and band by a line and their height."""
    for row, height in find_jumps(table):
        drawn.add_layout(
            Span(
                location=float(where[row]),
                dimension="height",
                line_color=VERDICTS["fail"],
                line_width=1.5,
                line_dash=[2, 3],
            )
        )
        drawn.add_layout(
            Label(
                x=float(where[row]),
                y=high,
                x_offset=4,
                text=f"{height:+.3g} {unit}".strip(),
                text_baseline="top",
                text_font_size="12px",
                text_color=ink("fail"),
            )
        )


def find_jumps(table: Table) -> list[tuple[int, float]]:
    """Find the steps in a series, for each run, band and detector alone: the row they begin at, and their height."""
    found = []
    keys = list(zip(table["run"], table["band"], table["detector"], strict=True))
    for key in dict.fromkeys(keys):
        rows = np.array([i for i, other in enumerate(keys) if other == key])
        rows = rows[np.argsort(np.asarray(table["visit"])[rows], kind="stable")]
        found += [(int(rows[i]), height) for i, height in jumps(np.asarray(table["value"], float)[rows])]
    return found
