"""The camera, each detector coloured by a number: all of them at a glance, before one is looked at."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from bokeh.models import ColorBar, ColumnDataSource, HoverTool, LinearColorMapper, TapTool
from bokeh.palettes import Viridis256

from nightlab.dashboards.charts import GRAY, axis_label
from nightlab.dashboards.style import ACCENT, VERDICTS, figure
from nightlab.quality import judge
from nightlab.report import UNJUDGED

if TYPE_CHECKING:
    from nightlab.data.runs import Run

#: Corners of a detector [arcmin] east and north of the middle of the camera.
Outline = tuple[list[float], list[float]]


def outlines(run: Run, detectors: list[int]) -> tuple[dict[int, Outline], bool]:
    """Find where the detectors lie.

    Parameters
    ----------
    run
        Whose repository knows the footprint of each detector on the sky.
    detectors
        Those to place.

    Returns
    -------
    tuple
        Corners of each detector, and whether they are true: offsets on the sky [arcmin], from the visit with most of
        them. Where footprints overlap (a camera that drifts over one field) or are unknown, tiles in rows.
    """
    footprints: dict[int, dict[int, np.ndarray]] = {}
    for record in run.butler.query_dimension_records("visit_detector_region", explain=False, limit=None):
        if record.region is not None and record.detector in detectors:
            corners = np.array([(v.x(), v.y(), v.z()) for v in record.region.getVertices()])
            footprints.setdefault(record.visit, {})[record.detector] = corners
    best = max(footprints.values(), key=len, default={})
    if len(best) == len(detectors) > 1 and (placed := _projected(best)) is not None:
        return placed, True
    return _tiles(detectors), False


def _projected(footprints: Mapping[int, np.ndarray]) -> dict[int, Outline] | None:
    """Gnomonic offsets from the common middle; None where detectors overlap."""
    middle = np.concatenate(list(footprints.values())).mean(axis=0)
    middle /= np.linalg.norm(middle)
    east = np.cross((0.0, 0.0, 1.0), middle)
    if np.linalg.norm(east) < 1e-6:  # at a pole any direction is east
        east = np.cross((0.0, 1.0, 0.0), middle)
    east /= np.linalg.norm(east)
    north = np.cross(middle, east)
    scale = 60.0 * 180.0 / math.pi
    placed = {
        detector: ((c @ east / (c @ middle) * scale).tolist(), (c @ north / (c @ middle) * scale).tolist())
        for detector, c in footprints.items()
    }
    centres = np.array([(np.mean(x), np.mean(y)) for x, y in placed.values()])
    sizes = np.array([min(np.ptp(x), np.ptp(y)) for x, y in placed.values()])
    apart = np.hypot(*(centres[:, None] - centres[None]).transpose(2, 0, 1))
    np.fill_diagonal(apart, np.inf)
    return placed if (apart.min(axis=1) > 0.5 * sizes).all() else None


def _tiles(detectors: list[int]) -> dict[int, Outline]:
    columns = math.ceil(math.sqrt(len(detectors))) if len(detectors) > 6 else max(len(detectors), 1)
    tiles = {}
    for i, detector in enumerate(detectors):
        x, y = i % columns, -(i // columns)
        tiles[detector] = ([x - 0.47, x + 0.47, x + 0.47, x - 0.47], [y - 0.47, y - 0.47, y + 0.47, y + 0.47])
    return tiles


def focal_plane(
    values: Mapping[int, float],
    shapes: Mapping[int, Outline],
    name: str,
    unit: str = "",
    *,
    on_sky: bool = True,
    names: Mapping[int, str] | None = None,
    attrs: Mapping[str, Any] = UNJUDGED,
    on_detector: Callable[[int], None] | None = None,
    **options: Any,
) -> Any:
    """Draw the camera.

    Parameters
    ----------
    values
        Of each detector; one that is NaN or absent is hatched.
    shapes
        Corners of each detector.
    name, unit
        What the colour bar says.
    on_sky
        Whether the corners are offsets on the sky (east to the left), or just tiles.
    names
        Of the detectors.
    attrs
        Targets; a detector that misses them has a red edge.
    on_detector
        Called with the detector that was clicked.
    **options
        Passed on to the figure.
    """
    detectors = list(shapes)
    numbers = np.array([float(values.get(detector, math.nan)) for detector in detectors])
    finite = numbers[np.isfinite(numbers)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    mapper = LinearColorMapper(palette=Viridis256, low=low, high=high, nan_color="rgba(0,0,0,0)")
    verdicts = [judge(value, attrs) for value in numbers]
    source = ColumnDataSource(
        {
            "xs": [shapes[detector][0] for detector in detectors],
            "ys": [shapes[detector][1] for detector in detectors],
            "x": [float(np.mean(shapes[detector][0])) for detector in detectors],
            "y": [float(np.mean(shapes[detector][1])) for detector in detectors],
            "value": numbers,
            "text": [f"{value:.4g} {unit}".strip() if math.isfinite(value) else "no value" for value in numbers],
            "name": [(names or {}).get(detector, str(detector)) for detector in detectors],
            "verdict": ["" if verdict == "none" else verdict for verdict in verdicts],
            "edge": [VERDICTS["fail"] if verdict == "fail" else GRAY for verdict in verdicts],
            "width": [3 if verdict == "fail" else 1 for verdict in verdicts],
            # black on the light half of the map, white on the dark one, gray where there is no colour
            "ink": [GRAY if not math.isfinite(v) else "black" if v > 0.5 * (low + high) else "white" for v in numbers],
            "hatch": [" " if math.isfinite(value) else "/" for value in numbers],
        }
    )
    given = {"height": 230, "tools": "reset,save", "match_aspect": True, "active_drag": None, "active_scroll": None}
    drawn = figure(f"{axis_label(name, unit)} of each detector, in the camera", **{**given, **options})
    patches = drawn.patches(
        "xs", "ys", source=source, fill_color={"field": "value", "transform": mapper}, line_color="edge",
        line_width="width", hatch_pattern="hatch", hatch_color=GRAY, hatch_alpha=0.6, nonselection_fill_alpha=0.8,
        selection_line_color=ACCENT, selection_line_width=4,
    )  # fmt: skip
    if len(detectors) <= 40:
        drawn.text("x", "y", text="name", source=source, text_align="center", text_baseline="middle",
                   text_font_size="12px", text_color="ink")  # fmt: skip
    drawn.add_layout(
        ColorBar(color_mapper=mapper, width=10, title=axis_label(name, unit), title_text_font_size="12px",
                 background_fill_alpha=0.0, major_label_text_font_size="12px", padding=4), "right"
    )  # fmt: skip
    drawn.grid.visible = False
    if on_sky:
        drawn.x_range.flipped = True
        drawn.xaxis.axis_label, drawn.yaxis.axis_label = "east [arcmin]", "north [arcmin]"
    else:
        drawn.axis.visible = False
        drawn.match_aspect = len(detectors) > 6
    drawn.add_tools(
        HoverTool(renderers=[patches], tooltips=[("detector", "@name"), ("", "@text"), ("", "@verdict")]),
        TapTool(renderers=[patches]),
    )
    if on_detector is not None:
        source.selected.on_change("indices", lambda _attr, _old, new: on_detector(detectors[new[0]]) if new else None)
    return drawn
