"""Light curves as figures, and with their controls."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import panel as pn
import param
from astropy.table import Table
from numpy.typing import NDArray

from nightlab.dashboards.curves import QUANTITIES, Curve, CurvePoints, best_period, calendar, curve
from nightlab.dashboards.forms import COMPACT, SMALL_BUTTON, UNSEEN_LABEL, tick
from nightlab.dashboards.live import live
from nightlab.dashboards.setup import setup
from nightlab.dashboards.states import EmptyState, Nothing, Pane, Reason
from nightlab.dashboards.style import band_style, figure, wrapping

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CLOCKS = ("MJD", "date", "days since first")
UNIX_EPOCH_MJD = 40587.0
_NO_OBJECT = EmptyState(
    Reason.NO_DATA_SELECTED, "No object is chosen.", "Click a point on the map or a row of the table."
)


def light_curve_figure(
    light_curve: Curve,
    *,
    clock: str = "MJD",
    period: float | None = None,
    forced: bool = True,
    limits: bool = True,
    hidden: tuple[str, ...] = (),
    chosen: str = "",
    on_pick: Callable[[str], None] | None = None,
    on_hide: Callable[[tuple[str, ...]], None] | None = None,
    height: int = 260,
) -> Any:
    """Draw a light curve with Bokeh.

    Parameters
    ----------
    light_curve
        What `curve` made.
    clock
        One of `CLOCKS`.
    period
        In days: draw two cycles of phase instead of time.
    forced, limits
        Whether forced points and upper limits are drawn.
    hidden
        Bands that start hidden; the legend brings them back.
    chosen
        Epoch with a ring around its points.
    on_pick, on_hide
        Called with the epoch of a clicked point, and with the hidden bands after a click on the legend.
    height
        In screen pixels.
    """
    from bokeh.models import BasicTickFormatter, HoverTool, NumeralTickFormatter, TapTool
    from bokeh.models.annotations import Span

    folded = period is not None
    as_date = clock == "date" and not folded
    words = f"light curve, {light_curve.label}, {'folded' if folded else 'against time'}"
    plot = figure(words, height=height, x_axis_type="datetime" if as_date else "linear", name="light curve")
    plot.xaxis.axis_label = _time_label(clock, light_curve, period)
    plot.yaxis.axis_label = light_curve.label
    plot.y_range.flipped = light_curve.magnitudes
    plot.xaxis.ticker.desired_num_ticks = 4
    if not as_date:
        plot.xaxis.formatter = BasicTickFormatter(use_scientific=False)
    if not light_curve.magnitudes:
        plot.add_layout(Span(location=0, dimension="width", line_color="#888888", line_alpha=0.6, line_dash="dotted"))
        plot.yaxis.formatter = NumeralTickFormatter(format="0,0.[00]")
    drawn: dict[str, _Drawn] = {}
    for band, points in light_curve.bands.items():
        shown = (forced | ~points.forced) & (limits | (points.kind != "limit"))
        if shown.any():
            drawn[band] = _draw_band(plot, points, shown, _times(points, light_curve, clock, period), folded)
            for glyph in drawn[band].glyphs:
                glyph.visible = band not in hidden
    _legend(plot, drawn)
    marks = [mark for each in drawn.values() for mark in each.marks]
    plot.add_tools(HoverTool(renderers=marks, tooltips=_TOOLTIPS, point_policy="snap_to_data"))
    plot.add_tools(TapTool(renderers=marks))
    _ring(plot, [each.source for each in drawn.values()], chosen)
    for each in drawn.values():
        if on_pick is not None:
            each.source.selected.on_change("indices", _picker(each.source, on_pick))
        if on_hide is not None:
            each.glyphs[0].on_change("visible", lambda attr, old, new: on_hide(_hidden(drawn)))
    lost = [f"{light_curve.left_out} without a finite value left out"] if light_curve.left_out else []
    plot.title.update(text=" · ".join([*light_curve.notes, *lost]), text_font_style="normal", text_font_size="12px")
    return plot


@dataclass(frozen=True)
class _Drawn:
    glyphs: list[Any]  # all renderers of a band; the first is one of its marks
    marks: list[Any]  # those one can pick
    source: Any
    label: str


def _hidden(drawn: dict[str, _Drawn]) -> tuple[str, ...]:
    return tuple(band for band, each in drawn.items() if not each.glyphs[0].visible)


def _legend(plot: Any, drawn: dict[str, _Drawn]) -> None:
    from bokeh.models.annotations import Legend, LegendItem

    items = [LegendItem(label=each.label, renderers=each.glyphs, name=band) for band, each in drawn.items()]
    legend = Legend(
        items=items, click_policy="hide", location="top_left", border_line_alpha=0, background_fill_alpha=0,
        label_text_font_size="12px", spacing=3, glyph_width=22,
        glyph_height=14, label_height=14, margin=0,
        padding=2, name="bands", ncols=3,
        orientation="horizontal",
    )  # fmt: skip
    plot.add_layout(legend, "above")


_TOOLTIPS = """
<div style="font-size:12px"><b>@band</b> @what<br>@shown<br>@when<br>visit @visit, detector @detector</div>"""


def _draw_band(plot: Any, points: CurvePoints, shown: Bools, time: Floats, folded: bool) -> _Drawn:
    """Draw line, bars, points and upper limits of a band."""
    from bokeh.models import CDSView, ColumnDataSource, IndexFilter

    look = band_style(points.band)
    at = np.flatnonzero(shown)
    at = np.concatenate([at, at]) if folded else at
    x = np.concatenate([time[shown], time[shown] + 1]) if folded else time[shown]
    parts = np.char.partition(points.epoch[at], ":")
    source = ColumnDataSource(
        {
            "x": x,
            "y": points.value[at],
            "low": points.low[at],
            "high": points.high[at],
            "epoch": points.epoch[at].tolist(),
            "visit": parts[:, 0].tolist() if at.size else [],
            "detector": parts[:, 2].tolist() if at.size else [],
            "band": [points.band] * at.size,
            "what": [_WHAT[bool(points.forced[i]), str(points.kind[i])] for i in at],
            "shown": [_reading(points, int(i)) for i in at],
            "when": [f"MJD {points.mjd[i]:.5f} · {calendar(points.mjd[i])}" for i in at],
        }
    )
    forced, kind = points.forced[at], points.kind[at]

    def view(which: Bools) -> CDSView:
        return CDSView(filter=IndexFilter(indices=np.flatnonzero(which).tolist()))

    measured = kind != "limit"
    bars = plot.segment(
        "x", "low", "x", "high", source=source, view=view(measured), line_color=look.colour, line_alpha=0.55
    )
    glyphs = [bars]
    detected, afterwards = measured & ~forced, measured & forced
    alone = detected if detected.sum() > 1 else afterwards  # the two are at different places: never one line
    if alone.sum() > 1 and not folded:
        glyphs.append(
            plot.line(x[alone], points.value[at][alone], line_color=look.colour, line_dash=look.dash, line_alpha=0.5)
        )
    marks = []
    for which, alpha, size in ((measured & forced, 0.25, 7), (measured & ~forced, 1.0, 9)):
        if which.any():
            marks.append(
                plot.scatter(
                    "x", "y", source=source, view=view(which), marker=look.marker, size=size, line_color=look.colour,
                    fill_color=look.colour, fill_alpha=alpha, line_width=1.4, nonselection_alpha=1,
                )
            )  # fmt: skip
    if (negative := kind == "negative").any():
        marks.append(
            plot.scatter(
                "x", "y", source=source, view=view(negative), marker="dash", size=9, line_color="#ffffff",
                line_width=2, nonselection_alpha=1,
            )
        )  # fmt: skip
    if (~measured).any():
        marks.append(
            plot.scatter(
                "x", "y", source=source, view=view(~measured), marker="inverted_triangle", size=10, fill_color=None,
                line_color=look.colour, line_width=1.3, nonselection_alpha=1,
            )
        )  # fmt: skip
    n_detected, n_forced = int((~points.forced[shown]).sum()), int(points.forced[shown].sum())
    counts = [str(n_detected)] * (n_detected > 0) + [f"{n_forced} forced"] * (n_forced > 0)
    return _Drawn([*marks, *glyphs], marks, source, f"{points.band or 'no band'}  {' + '.join(counts)}")


_WHAT = {
    (False, "point"): "detected",
    (True, "point"): "forced",
    (False, "negative"): "detected, fainter than the template",
    (True, "negative"): "forced, fainter than the template",
    (False, "limit"): "too faint for a magnitude: upper limit",
    (True, "limit"): "forced: upper limit",
}


def _reading(points: CurvePoints, i: int) -> str:
    flux = f"{points.flux[i]:,.4g} ± {points.error[i]:,.2g} nJy".replace("-", "−")
    if abs(points.flux[i]) >= 1000:
        flux = f"{points.flux[i]:,.0f} ± {points.error[i]:,.0f} nJy".replace("-", "−")
    if points.value[i] == points.flux[i]:
        return flux
    sign = "> " if points.kind[i] == "limit" else ""
    return f"{sign}{points.value[i]:.3f} mag ({flux})"


def _ring(plot: Any, sources: list[Any], chosen: str) -> None:
    """Draw a ring around the points of an epoch; `move_ring` moves it."""
    from bokeh.models import ColumnDataSource

    ring = ColumnDataSource({"x": [], "y": []}, name="ring")
    plot.scatter(
        "x", "y", source=ring, marker="circle", size=20, fill_color=None, line_color="#e6a100", line_width=2.2
    )
    plot.tags = [sources, ring]
    move_ring(plot, chosen)


def move_ring(plot: Any, chosen: str) -> None:
    """Put the ring of a figure of `light_curve_figure` around another epoch."""
    sources, ring = plot.tags
    places = [
        (source.data["x"][i], source.data["y"][i])
        for source in sources
        for i, epoch in enumerate(source.data["epoch"])
        if epoch == chosen
    ]
    ring.data = {"x": [x for x, _ in places], "y": [y for _, y in places]}


def hide_bands(plot: Any, hidden: tuple[str, ...]) -> None:
    """Hide some bands of a figure of `light_curve_figure`, limits and all, and show the others."""
    for item in plot.legend[0].items:
        for renderer in item.renderers:
            renderer.visible = item.name not in hidden


def _picker(source: Any, on_pick: Callable[[str], None]) -> Callable[[str, Any, list[int]], None]:
    def picked(_attribute: str, _old: Any, new: list[int]) -> None:
        if new:
            on_pick(source.data["epoch"][new[0]])

    return picked


def _times(points: CurvePoints, light_curve: Curve, clock: str, period: float | None) -> Floats:
    if period is not None:
        return ((points.mjd - light_curve.first_mjd) / period) % 1.0
    if clock == "date":
        return (points.mjd - UNIX_EPOCH_MJD) * 86_400_000.0
    return points.mjd - (light_curve.first_mjd if clock == "days since first" else 0.0)


def _time_label(clock: str, light_curve: Curve, period: float | None) -> str:
    if period is not None:
        return f"phase, period {period:.6g} d from MJD {light_curve.first_mjd:.5f}"
    return {"MJD": "MJD (TAI)", "date": "date (TAI)", "days since first": "days since the first point"}[clock]


class LightCurve(pn.viewable.Viewer):
    """A light curve with its controls.

    Parameters
    ----------
    detected, forced
        DIASources and DIAForcedSources of one object, as `curve` takes them.
    **state
        Parameters.
    """

    quantity: Any = param.Selector(default="difference flux", objects=list(QUANTITIES), doc="What is drawn.")
    clock: Any = param.Selector(default="MJD", objects=list(CLOCKS), doc="How time is told.")
    show_forced = param.Boolean(default=True, label="forced", doc="Draw measurements at the known place.")
    show_limits = param.Boolean(default=True, label="limits", doc="Draw upper limits with their band.")
    hidden = param.List(default=[], item_type=str, doc="Bands that are hidden.")
    epoch = param.String(default="", doc="The chosen exposure, as visit:detector.")
    folded = param.Boolean(default=False, label="fold", doc="Draw the phase below the light curve.")
    period = param.Number(default=1.0, bounds=(0, None), inclusive_bounds=(False, True), doc="Period to fold by [d].")

    def __init__(self, detected: Table | None = None, forced: Table | None = None, **state: Any) -> None:
        setup()
        super().__init__(**state)
        self._panes: list[pn.pane.Bokeh] = []
        self.pane = Pane("the light curve", min_height=260)
        self.curve: Curve | None = None
        self.set_tables(detected, forced)
        self.param.watch(self._draw, ["quantity", "clock", "show_forced", "show_limits", "folded", "period"])
        self.param.watch(self._choose, "epoch")
        self.param.watch(self._follow, "hidden")

    def set_tables(self, detected: Table | None, forced: Table | None) -> None:
        """Show another object; the epoch goes to its first if the old one is not among them."""
        self.detected, self.forced = detected, forced
        self._draw()

    def step(self, by: int) -> None:
        """Go to a later or earlier epoch."""
        if self.curve is None:
            return
        epochs = self.curve.epochs
        at = epochs.index(self.epoch) if self.epoch in epochs else (-1 if by > 0 else len(epochs))
        self.epoch = epochs[max(0, min(at + by, len(epochs) - 1))]

    def _draw(self, *_: Any) -> None:
        self._panes, self.curve = [], None
        if self.detected is None and self.forced is None:
            self.pane.empty(_NO_OBJECT)
            return
        with self.pane.guarded("Drawing the light curve"):
            self.curve = curve(self.detected, self.forced, quantity=self.quantity)
            self.pane.ready(self._panels(self.curve))

    def _panels(self, light_curve: Curve) -> pn.Column:
        options: dict[str, Any] = {
            "clock": self.clock,
            "forced": self.show_forced,
            "limits": self.show_limits,
            "hidden": tuple(self.hidden),
            "chosen": self.epoch,
            "on_pick": self._pick,
            "on_hide": self._hide,
        }
        panels = [light_curve_figure(light_curve, **options)]
        if self.folded and len(light_curve.epochs) > 1:
            panels.append(light_curve_figure(light_curve, **{**options, "period": self.period}, height=210))
        self._panes = [pn.pane.Bokeh(panel, sizing_mode="stretch_width", margin=0) for panel in panels]
        return pn.Column(*self._panes, sizing_mode="stretch_width", margin=0)

    def _pick(self, epoch: str) -> None:
        self.epoch = epoch

    def _hide(self, bands: tuple[str, ...]) -> None:
        self.hidden = list(bands)

    def _follow(self, *_: Any) -> None:
        for pane in self._panes:
            live(pane, partial(hide_bands, pane.object, tuple(self.hidden)))

    def _choose(self, *_: Any) -> None:
        for pane in self._panes:
            live(pane, partial(move_ring, pane.object, self.epoch))

    def _show_bands(self, shown: bool) -> None:
        self.hidden = [] if shown or self.curve is None else list(self.curve.bands)

    def controls(self) -> pn.Row:
        """Give the controls: what is drawn, the clock, and the period."""
        low: dict[str, Any] = {"height": 30, "margin": (2, 1), "stylesheets": [SMALL_BUTTON], "visible": self._many()}
        every = pn.widgets.Button(label="all", width=44, **low)
        none = pn.widgets.Button(label="none", width=52, **low)

        def many(*_: Any) -> None:
            every.visible = none.visible = self._many()

        self.pane.param.watch(many, "shown")
        every.on_click(lambda _: self._show_bands(True))
        none.on_click(lambda _: self._show_bands(False))
        small: dict[str, Any] = {"margin": (2, 3), "stylesheets": [COMPACT, UNSEEN_LABEL]}
        return wrapping(
            pn.widgets.Select.from_param(self.param.quantity, label="quantity", width=148, **small),
            pn.widgets.Select.from_param(self.param.clock, label="time", width=120, **small),
            tick(self, "show_forced", "forced", margin=(6, 3)),
            tick(self, "show_limits", "limits", margin=(6, 3)),
            tick(self, "folded", "fold", margin=(6, 3)),
            every,
            none,
            align="center",
        )

    def _many(self) -> bool:
        return self.curve is not None and len(self.curve.bands) > 1

    def fold(self) -> pn.Row:
        """Give the slider of the period."""
        slider = pn.widgets.FloatSlider(
            label="log₁₀ (period / d)",
            start=-1.5,
            end=3.0,
            step=0.001,
            value=float(np.log10(self.period)),
            styles={"flex": "1 1 180px"},
        )
        exact = pn.widgets.FloatInput.from_param(
            self.param.period, label="period [d]", width=120, stylesheets=[COMPACT]
        )
        search = pn.widgets.Button(label="find period", width=100, align="end")
        slider.param.watch(lambda event: setattr(self, "period", float(10**event.new)), "value_throttled")
        search.on_click(self._find)
        return wrapping(slider, exact, search, visible=self.param.folded, align="end")

    def _find(self, *_: Any) -> None:
        if self.curve is None:
            return
        try:
            self.period = best_period(self.curve)
        except Nothing as nothing:
            if pn.state.notifications is not None:
                pn.state.notifications.info(nothing.message)

    def __panel__(self) -> pn.viewable.Viewable:
        return pn.Column(
            self.controls(),
            self.fold(),
            self.pane,
            sizing_mode="stretch_width",
            margin=0,
        )


def light_curve_plot(
    detected: Table, forced: Table | None = None, *, quantity: str = "difference flux", **state: Any
) -> LightCurve:
    """Plot the light curve of one object, with controls, in a notebook.

    Parameters
    ----------
    detected, forced
        DIASources and DIAForcedSources of one object, such as `nightlab.light_curve` gives them; fluxes in nJy, times
        in MJD TAI.
    quantity
        ``difference flux``, ``total flux``, ``difference magnitude`` or ``total magnitude``.
    **state
        Further parameters of `LightCurve`.
    """
    return LightCurve(detected, forced, quantity=quantity, **state)
