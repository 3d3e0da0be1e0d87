"""Points on the sky or the focal plane, any number of them: few are drawn as markers, many are counted on the server.

The browser sees at most a few thousand markers or one small picture; clicks, boxes and hovering are answered here,
from coordinates, so that it makes no difference which of the two is drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import panel as pn
import param
from numpy.typing import NDArray

from nightlab.dashboards.live import live
from nightlab.dashboards.style import band_style, figure

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

MARKERS = 5000  # more points than this in view are counted, not drawn one by one
CELL = 2  # screen pixels of a counted cell
REACH = 12  # screen pixels within which a click or the pointer finds a point
WAIT = 120  # milliseconds of rest before the server hears of a move


@dataclass(frozen=True)
class Points:
    """Points to be shown.

    Attributes
    ----------
    x, y
        (n,) coordinates; NaN is never drawn.
    band
        (n,) band of each, or empty text.
    x_label, y_label
        With units.
    flipped
        Whether x increases to the left, as right ascension does.
    stretch
        Length on the sky of one unit of x over one of y; cos(dec) for a map of the sky.
    wraps
        Length after which x repeats itself, such as 360; 0 for none.
    """

    x: Floats
    y: Floats
    band: NDArray[np.str_]
    x_label: str
    y_label: str
    flipped: bool = False
    stretch: float = 1.0
    wraps: float = 0.0


def sky_points(ra: Floats, dec: Floats, band: NDArray[np.str_]) -> Points:
    """Lay positions [deg] out on the sky; right ascensions on both sides of 0 stay together."""
    ra, dec = np.asarray(ra, dtype=float), np.asarray(dec, dtype=float)
    good = np.isfinite(ra) & np.isfinite(dec)
    if good.any():
        angle = np.deg2rad(ra[good])
        middle = np.rad2deg(np.arctan2(np.sin(angle).mean(), np.cos(angle).mean())) % 360.0
        ra = middle + (ra - middle + 180.0) % 360.0 - 180.0
    stretch = float(np.cos(np.deg2rad(np.median(dec[good])))) if good.any() else 1.0
    return Points(ra, dec, band, "RA [deg]", "Dec [deg]", flipped=True, stretch=max(stretch, 0.05), wraps=360.0)


class SkyMap(pn.viewable.Viewer):
    """A map of points.

    Parameters
    ----------
    describe
        Takes a row number, gives a few words about it for the pointer.
    """

    box = param.Tuple(default=None, length=4, allow_None=True, doc="Chosen rectangle: x0, x1, y0, y1.")
    picked = param.Integer(default=-1, doc="Row of the last point clicked.")

    _view_js: ClassVar[str] = """
        clearTimeout(plot._nl_timer);
        plot._nl_timer = setTimeout(() => {
          pulse.data = {x0: [plot.x_range.start], x1: [plot.x_range.end], y0: [plot.y_range.start],
                        y1: [plot.y_range.end], w: [plot.inner_width], h: [plot.inner_height]};
        }, wait);"""
    _hover_js: ClassVar[str] = """
        // at once, then every 50 ms while the pointer moves, and where it stops
        const ask = () => {
          const {_nl_x: x, _nl_y: y} = plot;
          pointer.data = {x: [x], y: [y]};
          plot._nl_hover = setTimeout(() => {
            plot._nl_hover = null;
            if (x != plot._nl_x || y != plot._nl_y) ask();
          }, 50);
        };
        if (!plot._nl_hover) ask();"""

    def __init__(self, describe: Callable[[int], str] | None = None, *, height: int = 330, **params: Any) -> None:
        super().__init__(**params)
        self.describe = describe
        self.height = height
        self.points: Points | None = None
        self.keep: Bools = np.zeros(0, dtype=bool)
        self.drawn_as = ""
        self._marked = -1
        self._body = pn.Column(sizing_mode="stretch_width", margin=0)
        self._words = pn.pane.HTML("", sizing_mode="stretch_width", height=20, margin=(0, 10))
        self._plot: Any = None
        self.param.watch(self._draw_box, "box")

    def fill(self, points: Points, keep: Bools | None = None) -> None:
        """Show other points, from afar."""
        self.points = points
        self.keep = np.isfinite(points.x) & np.isfinite(points.y)
        self._finite = self.keep
        if keep is not None:
            self.keep = self._finite & keep
        self._marked = -1
        self._build()
        self._draw()

    def choose(self, keep: Bools) -> None:
        """Show some of the points only."""
        if self.points is not None:
            self.keep = self._finite & keep
            self._draw()

    def mark(self, row: int) -> None:
        """Put a ring around a point; -1 takes it away."""
        self._marked = row
        if self._plot is not None and self.points is not None:
            there = [row] if 0 <= row < self.points.x.size else []
            place = {"x": self.points.x[there].tolist(), "y": self.points.y[there].tolist()}
            live(self._pane, partial(self._ring.update, data=place))

    def inside(self) -> Bools | None:
        """Which points lie in the box, as (n,) booleans; None without a box."""
        if self.box is None or self.points is None:
            return None
        x0, x1, y0, y1 = self.box
        x, y = self.points.x, self.points.y
        if self.points.wraps:
            turn = self.points.wraps
            return ((x - x0) % turn <= x1 - x0) & (y >= y0) & (y <= y1)
        return (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)

    def nearest(self, x: float, y: float, reach: float = REACH) -> int:
        """Row of the shown point nearest to a place, within `reach` screen pixels; -1 where there is none."""
        if self.points is None or not self.keep.any():
            return -1
        x0, x1, y0, y1, width, height = self._view
        across, up = abs(x1 - x0) / width * reach, abs(y1 - y0) / height * reach
        px, py = self.points.x, self.points.y
        near = np.flatnonzero(self.keep & (np.abs(px - x) <= across) & (np.abs(py - y) <= up))
        if not near.size:
            return -1
        distance = ((px[near] - x) / across) ** 2 + ((py[near] - y) / up) ** 2
        best = int(np.argmin(distance))
        return int(near[best]) if distance[best] <= 1.0 else -1

    # drawing

    def _build(self) -> None:
        from bokeh.events import MouseLeave, MouseMove, RangesUpdate, SelectionGeometry, Tap
        from bokeh.models import BoxAnnotation, ColumnDataSource, CustomJS, CustomJSTickFormatter, Range1d

        points = self.points
        assert points is not None, "there is nothing to draw"
        x0, x1, y0, y1 = self._frame(points)
        left, right = (x1, x0) if points.flipped else (x0, x1)
        plot = figure(
            f"map, {points.y_label} against {points.x_label}",
            height=self.height, x_range=Range1d(start=left, end=right), y_range=Range1d(start=y0, end=y1), name="map",
            tools="pan,wheel_zoom,box_select,reset", x_axis_label=points.x_label, y_axis_label=points.y_label,
        )  # fmt: skip
        plot.xaxis.ticker.desired_num_ticks = 4
        if points.wraps:
            plot.xaxis.formatter = CustomJSTickFormatter(
                args={"turn": points.wraps}, code="return `${+(((tick % turn) + turn) % turn).toFixed(6)}`"
            )
        self._view = (x0, x1, y0, y1, 380.0, self.height - 60.0)
        self._density = ColumnDataSource({name: [] for name in ("image", "x", "y", "dw", "dh")})
        plot.image("image", "x", "y", "dw", "dh", source=self._density, color_mapper=_density_colours())
        self._markers = ColumnDataSource({name: [] for name in ("x", "y", "colour", "marker")})
        plot.scatter("x", "y", source=self._markers, marker="marker", size=6, fill_color="colour", line_color="colour",
                     fill_alpha=0.55, nonselection_fill_alpha=0.55, nonselection_line_alpha=1.0)  # fmt: skip
        self._ring = ColumnDataSource({"x": [], "y": []})
        plot.scatter("x", "y", source=self._ring, size=18, fill_color=None, line_color="#e6a100", line_width=2.4)
        self._box = BoxAnnotation(
            line_color="#e6a100", line_width=1.5, line_dash="dashed", fill_alpha=0.06, visible=False
        )
        plot.add_layout(self._box)
        pulse, pointer = ColumnDataSource({"x0": []}), ColumnDataSource({"x": []})
        pulse.on_change("data", lambda attr, old, new: self._moved(new))
        pointer.on_change("data", lambda attr, old, new: self._hover(new))
        view = CustomJS(args={"plot": plot, "pulse": pulse, "wait": WAIT}, code=self._view_js)
        plot.js_on_event(RangesUpdate, view)
        plot.js_on_change("inner_width", view)
        move = "plot._nl_x = cb_obj.x; plot._nl_y = cb_obj.y;" + self._hover_js
        plot.js_on_event(MouseMove, CustomJS(args={"plot": plot, "pointer": pointer}, code=move))
        plot.on_event(MouseLeave, lambda _: self._say(""))
        plot.on_event(Tap, lambda event: self._tap(event.x, event.y))
        plot.on_event(SelectionGeometry, self._boxed)
        self._plot = plot
        self._pane = pn.pane.Bokeh(plot, sizing_mode="stretch_width", margin=0)
        self._body.objects = [self._pane, self._words]
        self._draw_box()

    def _frame(self, points: Points) -> tuple[float, float, float, float]:
        """Limits that hold all points, with one scale on the sky for both axes."""
        good = self.keep if self.keep.any() else self._finite
        if not good.any():
            return 0.0, 1.0, 0.0, 1.0
        x, y = points.x[good], points.y[good]
        x0, x1, y0, y1 = float(x.min()), float(x.max()), float(y.min()), float(y.max())
        wide, high = (x1 - x0) * points.stretch, y1 - y0
        aspect = 380.0 / (self.height - 60.0)
        high = 1.08 * max(high, wide / aspect, 1e-3 if points.wraps else 1.0)
        wide = high * aspect / points.stretch
        mx, my = (x0 + x1) / 2, (y0 + y1) / 2
        return mx - wide / 2, mx + wide / 2, my - high / 2, my + high / 2

    def _draw(self) -> None:
        points = self.points
        if points is None or self._plot is None:
            return
        x0, x1, y0, y1, width, height = self._view
        more_x, more_y = 0.15 * (x1 - x0), 0.15 * (y1 - y0)  # so that a short pan finds points there already
        x0, x1, y0, y1 = x0 - more_x, x1 + more_x, y0 - more_y, y1 + more_y
        rows = np.flatnonzero(self.keep & (points.x >= x0) & (points.x <= x1) & (points.y >= y0) & (points.y <= y1))
        none: list[Any] = []
        markers: dict[str, Any] = dict.fromkeys(("x", "y", "colour", "marker"), none)
        picture: dict[str, Any] = dict.fromkeys(("image", "x", "y", "dw", "dh"), none)
        if rows.size <= MARKERS:
            self.drawn_as = "markers"
            looks = {band: band_style(band) for band in np.unique(points.band[rows]).tolist()}
            markers = {
                "x": points.x[rows],
                "y": points.y[rows],
                "colour": [looks[band].colour for band in points.band[rows].tolist()],
                "marker": [looks[band].marker for band in points.band[rows].tolist()],
            }
        else:
            self.drawn_as = "density"
            wide, high = (int(1.3 * length / CELL) for length in (width, height))
            counts = density(points.x[rows], points.y[rows], (x0, x1), (y0, y1), wide, high)
            picture = {"image": [shades(counts)], "x": [x0], "y": [y0], "dw": [x1 - x0], "dh": [y1 - y0]}
        live(self._pane, partial(self._markers.update, data=markers))
        live(self._pane, partial(self._density.update, data=picture))
        self.mark(self._marked)

    def _draw_box(self, *_: Any) -> None:
        if self._plot is None:
            return
        x0, x1, y0, y1 = self.box or (0.0, 0.0, 0.0, 0.0)
        visible = self.box is not None
        live(self._pane, partial(self._box.update, left=x0, right=x1, bottom=y0, top=y1, visible=visible))

    # what the reader does

    def _moved(self, seen: Any) -> None:
        if not len(seen.get("w", [])):
            return
        x0, x1, y0, y1, width, height = (float(seen[name][0]) for name in ("x0", "x1", "y0", "y1", "w", "h"))
        if width > 0 and height > 0:
            self._view = (min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1), width, height)
            self._draw()

    def _hover(self, at: Any) -> None:
        if len(at["x"]):
            row = self.nearest(float(at["x"][0]), float(at["y"][0]))
            self._say(self.describe(row) if row >= 0 and self.describe is not None else "")

    def _say(self, words: str) -> None:
        if self._words.object != words:
            self._words.object = words

    def _tap(self, x: float, y: float) -> None:
        row = self.nearest(x, y)
        if row >= 0:
            self.picked = row
            self.param.trigger("picked")

    def _boxed(self, event: Any) -> None:
        if event.final and event.geometry.get("type") == "rect":
            g = event.geometry
            self.box = (min(g["x0"], g["x1"]), max(g["x0"], g["x1"]), min(g["y0"], g["y1"]), max(g["y0"], g["y1"]))

    def __panel__(self) -> pn.Column:
        return self._body


def density(
    x: Floats, y: Floats, x_range: tuple[float, float], y_range: tuple[float, float], width: int, height: int
) -> NDArray[np.uint32]:
    """Count points in the cells of a grid, as (height, width) with row 0 at the bottom; others are left out."""
    width, height = max(width, 1), max(height, 1)
    (x0, x1), (y0, y1) = x_range, y_range
    inside = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
    if not inside.all():
        x, y = x[inside], y[inside]
    # a point on the last edge belongs to the last cell
    columns = np.minimum(((x - x0) * (width / (x1 - x0))).astype(np.int32), width - 1)
    rows = np.minimum(((y - y0) * (height / (y1 - y0))).astype(np.int32), height - 1)
    return np.bincount(rows * width + columns, minlength=width * height).reshape(height, width).astype(np.uint32)


def shades(counts: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """Turn counts into 8-bit shades: 0 for none, 1 to 255 by the logarithm."""
    most = max(int(counts.max(initial=0)), 2)
    level = 1 + 254 * np.log(np.maximum(counts, 1)) / np.log(most)
    return np.where(counts > 0, np.minimum(level, 255), 0).astype(np.uint8)


def _density_colours() -> Any:
    from bokeh.models import LinearColorMapper

    from nightlab.dashboards.images.scaling import ramp

    # from the dark end of the map only what can be told from a dark page
    colours = ramp("viridis", 290)[35:]
    return LinearColorMapper(palette=["#00000000", *colours], low=-0.5, high=255.5)
