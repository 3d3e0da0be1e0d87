"""The rail beside image panes: readout, panes, stretch, masks, catalogues."""

from __future__ import annotations

import html
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import panel as pn
from bokeh.models import ColumnDataSource, Span

from nightlab.dashboards.forms import UNSEEN_LABEL, tick
from nightlab.dashboards.images.readout import readout_html, statistics_html
from nightlab.dashboards.images.scaling import COLOUR_MAPS, RULES, STRETCHES
from nightlab.dashboards.style import ACCENT, figure
from nightlab.errors import BadInput

if TYPE_CHECKING:
    from nightlab.dashboards.images.panes import ImagePanes

_FOLD = """
:host(.card) { box-shadow: none; border: none; border-top: 1px solid color-mix(in srgb, currentColor 25%, transparent);
  border-radius: 0; outline: none; background: transparent; }
.card-header { background: transparent; border: none; padding: 4px 2px; min-height: 0; align-items: center; }
.card-header, .card-button { color: var(--panel-on-background-color, inherit); }
.card-title, .card-title h3, .card-header-row h3 { font-size: 13px !important; font-weight: 600;
  margin: 0 !important; }
"""
_CHOSEN = ".bk-btn.bk-btn-primary.bk-active { color: #fff !important; }"
_WRAPPED = ".bk-btn-group { flex-wrap: wrap; } .bk-btn { flex: 1 0 22%; padding: 5px 4px; font-size: 13px; }"
_WIDTH: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": (3, 4)}
_OUTLINE: dict[str, Any] = {**_WIDTH, "color": "primary", "variant": "outline", "stylesheets": [_CHOSEN]}


def controls(panes: ImagePanes) -> pn.Column:
    """Give all controls of some panes, in a column."""
    return pn.Column(
        readout_view(panes),
        pane_controls(panes),
        _card("Stretch and limits", stretch_controls(panes)),
        _card("Masks", mask_controls(panes), collapsed=not panes.masks),
        _card("Save pixels", export_controls(panes), collapsed=True),
        sizing_mode="stretch_width",
        margin=0,
    )


def readout_view(panes: ImagePanes) -> pn.Column:
    """Show what is under the pointer, and the statistics of a box."""
    here = pn.pane.HTML(_waiting(panes), min_height=150, **_WIDTH)
    box = pn.pane.HTML("", visible=False, **_WIDTH)

    def told(*_: Any) -> None:
        near = f"<div class='at'>{html.escape(panes.near)}</div>" if panes.near else ""
        here.object = readout_html(panes.readout, near) if panes.readout is not None else _waiting(panes, near)

    def measured(event: Any) -> None:
        box.param.update(object=statistics_html(event.new), visible=bool(event.new))

    panes.param.watch(told, ["readout", "near", "changed"])
    panes.param.watch(measured, "statistics")
    return pn.Column(here, box, sizing_mode="stretch_width", margin=0)


def _waiting(panes: ImagePanes, near: str = "") -> str:
    """Keep the place of the readout while the pointer is elsewhere."""
    rows = "".join(f"<tr><th>{html.escape(name)}</th><td>–</td></tr>" for name in panes.names)
    return f"{readout_html(None)}<table style='margin-top:24px'>{rows}</table>{near}"


def pane_controls(panes: ImagePanes) -> pn.Column:
    """Choose the layers shown, how they are linked, and blinking."""
    names = pn.widgets.CheckButtonGroup(
        options=panes.names, value=list(panes.panes), **{**_OUTLINE, "stylesheets": [_CHOSEN, _WRAPPED]}
    )
    linked = pn.widgets.Button(label="", **_WIDTH)
    why = pn.pane.HTML("", **_WIDTH)
    blink = pn.widgets.Toggle(label="Blink", value=panes.blink, **_WIDTH)
    rate = pn.widgets.Select(
        label="pictures per second", options={"½ per s": 0.5, "1 per s": 1.0, "2 per s": 2.0, "4 per s": 4.0},
        value=panes.rate, stylesheets=[UNSEEN_LABEL], **_WIDTH,
    )  # fmt: skip
    every = pn.widgets.Button(label="All of it", **_WIDTH)
    grid = pn.widgets.Toggle(label="Sky grid", value=panes.grid, **_WIDTH)
    words = {"pixels": "Linked by pixels", "sky": "Linked by sky", "off": "Not linked"}

    def state(*_: Any) -> None:
        names.param.update(options=panes.names, value=[name for name in panes.names if name in panes.panes])
        linked.param.update(
            label=words[panes.linking],
            color="default" if panes.linking == "off" else "primary",
            variant="outline",
        )
        note = panes.link_state().why
        why.param.update(object=f"<small>{html.escape(note)}</small>" if note else "", visible=bool(note))
        blink.value = panes.blink

    def chosen(event: Any) -> None:
        wanted = [name for name in panes.panes if name in event.new]
        wanted += [name for name in event.new if name not in wanted]
        if wanted and wanted != panes.panes:
            panes.panes = sorted(wanted, key=panes.names.index)[:4]

    state()
    panes.param.watch(state, ["panes", "link", "changed", "blink"])
    names.param.watch(chosen, "value")
    linked.on_click(lambda _: panes.next_link())
    every.on_click(lambda _: panes.reset())
    blink.link(panes, value="blink")
    rate.link(panes, value="rate")
    grid.link(panes, value="grid", bidirectional=True)
    return pn.Column(
        names, pn.Row(linked, every, margin=0), why, pn.Row(blink, rate, grid, margin=0), sizing_mode="stretch_width"
    )


def stretch_controls(panes: ImagePanes) -> pn.Column:
    """Choose stretch, limits and colours of the active layer."""
    title = pn.pane.HTML("", **_WIDTH)
    together = tick(panes, "together", "apply to all layers", margin=(3, 4))
    stretch = pn.widgets.RadioButtonGroup(options=list(STRETCHES), **_OUTLINE)
    softening = pn.widgets.FloatSlider(label="softening", start=0.01, end=1.0, step=0.01, **_WIDTH)
    rule = pn.widgets.RadioButtonGroup(options=list(RULES), **_OUTLINE)
    percent = pn.widgets.FloatSlider(label="percent within", start=80, end=100, step=0.1, **_WIDTH)
    sigmas = pn.widgets.FloatSlider(label="± MAD sigma", start=1, end=30, step=0.5, **_WIDTH)
    low = pn.widgets.FloatInput(label="low", **_WIDTH)
    high = pn.widgets.FloatInput(label="high", **_WIDTH)
    colours = pn.widgets.Select(label="colours", options=list(COLOUR_MAPS), **_WIDTH)
    busy = [False]

    def follow(*_: Any) -> None:
        if panes.active not in panes.layers:
            return
        look, limits = panes.look(), panes.limits(panes.active)
        title.object = f"of <b>{html.escape(panes.active)}</b>"
        busy[0] = True
        stretch.value, softening.value = look.stretch, look.softening
        rule.value, percent.value, sigmas.value = look.rule, look.percent, look.sigmas
        low.value, high.value, colours.value = float(f"{limits.low:.6g}"), float(f"{limits.high:.6g}"), look.colours
        softening.visible = look.stretch == "asinh"
        percent.visible, sigmas.visible = look.rule == "percentile", look.rule == "sigma"
        busy[0] = False

    def setter(widget: Any, name: str) -> None:
        what = "value_throttled" if hasattr(widget, "value_throttled") else "value"
        widget.param.watch(lambda event: None if busy[0] else panes.set_look(**{name: event.new}), what)

    def by_hand(_: Any) -> None:
        if not busy[0] and low.value is not None and high.value is not None:
            panes.set_look(rule="manual", low=low.value, high=high.value)

    pairs = ((stretch, "stretch"), (softening, "softening"), (rule, "rule"), (percent, "percent"), (sigmas, "sigmas"))
    for widget, name in (*pairs, (colours, "colours")):
        setter(widget, name)
    for edge in (low, high):
        edge.param.watch(by_hand, "value")
    follow()
    panes.param.watch(follow, ["active", "looks", "changed"])
    edges = pn.Row(low, high, margin=0)
    return pn.Column(
        pn.Row(title, together, margin=0), stretch, softening, rule, percent, sigmas, histogram(panes), edges, colours,
        sizing_mode="stretch_width", margin=0,
    )  # fmt: skip


def histogram(panes: ImagePanes) -> pn.pane.Bokeh:
    """Draw the histogram of the active layer, with limits that can be dragged."""
    drawn = figure(
        "histogram of the layer", height=110, tools="", toolbar_location=None, y_axis_type=None, active_drag=None,
        active_scroll=None,
    )  # fmt: skip
    drawn.outline_line_color = None
    drawn.grid.visible = False
    drawn.xaxis.ticker.desired_num_ticks = 4
    drawn.xaxis.formatter.use_scientific = True
    source = ColumnDataSource({"left": [], "right": [], "top": []})
    drawn.quad("left", "right", "top", bottom=0, source=source, fill_color="#8a97a3", line_color=None)
    edges = [
        Span(dimension="height", line_color=ACCENT, line_width=3, hover_line_color="#e8b004", editable=True)
        for _ in range(2)
    ]
    for edge in edges:
        drawn.add_layout(edge)
    busy = [False]

    def follow(*_: Any) -> None:
        if panes.active not in panes.layers:
            return
        limits = panes.limits(panes.active)
        sample = panes.layers[panes.active].sample
        sample = sample[np.isfinite(sample)]
        span = limits.high - limits.low
        first, last = limits.low - 0.4 * span, limits.high + 0.4 * span
        counts, bounds = np.histogram(sample, bins=80, range=(first, last))
        busy[0] = True
        source.data = {"left": bounds[:-1], "right": bounds[1:], "top": np.log10(1 + counts)}
        drawn.x_range.start, drawn.x_range.end = first, last
        edges[0].location, edges[1].location = limits.low, limits.high
        busy[0] = False

    def dragged(_attr: str, _old: Any, _new: Any) -> None:
        low, high = (edge.location for edge in edges)
        if not busy[0] and low is not None and high is not None and low != high:
            panes.set_look(rule="manual", low=float(min(low, high)), high=float(max(low, high)))

    for edge in edges:
        edge.on_change("location", dragged)
    from bokeh.models import Range1d

    drawn.x_range = Range1d(0, 1)
    follow()
    panes.param.watch(follow, ["active", "looks", "changed"])
    return pn.pane.Bokeh(drawn, sizing_mode="stretch_width", height=110, margin=(2, 4))


def mask_controls(panes: ImagePanes) -> pn.Column:
    """List the mask planes that are set, with colour, count and fraction."""
    on = tick(panes, "masks", "draw masks", margin=(6, 4))
    opacity = pn.widgets.FloatSlider(label="opacity", start=0, end=1, step=0.05, value=panes.opacity, **_WIDTH)
    rows = pn.Column(sizing_mode="stretch_width", margin=0)

    words_of: dict[str, pn.pane.HTML] = {}

    def tell(*_: Any) -> None:
        layer = panes.layers.get(panes.active)
        counts = layer.plane_counts if layer is not None else {}
        for name, place in words_of.items():
            count = counts.get(name)
            share = (
                "not here" if count is None or layer is None else f"{count:,} · {_percent(count / layer.values.size)}"
            )
            place.object = f"<small style='opacity:.8'>{share}</small>"

    def fill(*_: Any) -> None:
        there = panes.mask_planes()
        if list(words_of) != there or not rows.objects:
            words_of.clear()
            words_of.update({name: pn.pane.HTML("", margin=(5, 2)) for name in there})
            made: list[Any] = [_plane_row(panes, name, words_of[name]) for name in there]
            rows.objects = made or [pn.pane.HTML("<small>No mask plane is set in these images.</small>", **_WIDTH)]
        tell()

    opacity.param.watch(lambda event: setattr(panes, "opacity", event.new), "value_throttled")
    fill()
    panes.param.watch(tell, "active")
    panes.param.watch(fill, "changed")
    return pn.Column(on, rows, opacity, sizing_mode="stretch_width", margin=0)


def _plane_row(panes: ImagePanes, name: str, words: pn.pane.HTML) -> pn.Row:
    colour = pn.widgets.ColorPicker(
        label=f"colour of {name}",
        stylesheets=[UNSEEN_LABEL],
        value=panes.colour_of(name),
        width=30,
        height=24,
        margin=(2, 4),
    )
    there = [name] if name in panes.drawn_planes() else []
    drawn = pn.widgets.CheckBoxGroup(options=[name], value=there, margin=(4, 2), min_width=60)

    def switch(event: Any) -> None:
        kept = [plane for plane in panes.drawn_planes() if plane != name]
        panes.planes = [*kept, name] if event.new else kept or ["none"]

    def paint(event: Any) -> None:
        panes.colours[name] = event.new
        panes.param.trigger("opacity")

    drawn.param.watch(switch, "value")
    colour.param.watch(paint, "value")
    return pn.Row(colour, drawn, pn.Spacer(sizing_mode="stretch_width"), words, margin=0, sizing_mode="stretch_width")


def export_controls(panes: ImagePanes) -> pn.Column:
    """Save what is in view of the active layer as FITS."""
    said = pn.pane.HTML("", **_WIDTH)

    def made() -> io.BytesIO | None:
        try:
            return io.BytesIO(panes.cutout())
        except BadInput as error:
            said.object = html.escape(str(error))
            return None

    button = pn.widgets.FileDownload(
        callback=made, filename="cutout.fits", label="Cutout in view, as FITS", embed=False, **_WIDTH
    )
    return pn.Column(button, said, sizing_mode="stretch_width", margin=0)


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 else f"{share * 1e6:.0f} ppm"


def _card(title: str, *inside: Any, collapsed: bool = False) -> pn.Card:
    return pn.Card(
        *inside, title=title, collapsed=collapsed, sizing_mode="stretch_width", margin=(4, 0), stylesheets=[_FOLD]
    )
