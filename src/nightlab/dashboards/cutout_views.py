"""Cutouts on the page: the triplet of an epoch, and the film strip of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import panel as pn
import param

from nightlab.dashboards.cutouts import TRIPLET, Cutout, Lobe, drawn, thumbnail
from nightlab.dashboards.images.scaling import palette
from nightlab.dashboards.rows import significant
from nightlab.dashboards.states import EmptyState, Pane, Reason
from nightlab.dashboards.style import figure

_HERE = Path(__file__).parent
SIDE = 260  # screen pixels of a cutout, at most


def cutout_figure(cutout: Cutout, lobes: Sequence[Lobe] = (), ranges: tuple[Any, Any] | None = None) -> Any:
    """Draw a cutout with Bokeh: 8-bit pixels, exact values under the pointer.

    Parameters
    ----------
    cutout
        One that has pixels.
    lobes
        Of a dipole, to be marked.
    ranges
        Ranges of another figure to move with.
    """
    from bokeh.models import HoverTool, Range1d

    if cutout.values is None:
        raise ValueError(f"this cutout has no pixels: {cutout.reason}")
    size = cutout.values.shape[0]
    indices, colours, low, high = drawn(cutout)
    x, y = ranges or (
        Range1d(start=cutout.x0 - 0.5, end=cutout.x0 + size - 0.5),
        Range1d(start=cutout.y0 - 0.5, end=cutout.y0 + size - 0.5),
    )
    plot = figure(
        f"cutout of the {cutout.title} image",
        sizing_mode="scale_width", width=SIDE, height=SIDE, aspect_ratio=1, x_range=x, y_range=y,
        tools="pan,wheel_zoom,reset",
        toolbar_location=None, name=f"cutout {cutout.title}",
    )  # fmt: skip
    plot.axis.visible = False
    plot.grid.visible = False
    plot.min_border = 1
    place: dict[str, Any] = {"x": cutout.x0 - 0.5, "y": cutout.y0 - 0.5, "dw": size, "dh": size}
    source = {
        "image": [indices],
        "exact": [cutout.values],
        **{name: [value] for name, value in place.items()},
    }
    image = plot.image(
        "image", "x", "y", "dw", "dh", source=source,
        color_mapper=_mapper(colours),
    )  # fmt: skip
    plot.add_tools(
        HoverTool(
            renderers=[image],
            tooltips=f"<div style='font-size:12px'>($x{{0.0}}, $y{{0.0}})<br>@exact{{0,0.0}} {cutout.unit}</div>",
        )
    )
    _mark(plot, cutout, lobes)
    plot.tags = [f"{significant(low, 3)} … {significant(high, 3)} {cutout.unit}"]
    return plot


def _mapper(colours: str) -> Any:
    from bokeh.models import LinearColorMapper

    return LinearColorMapper(palette=palette(colours), low=-0.5, high=255.5)


def _mark(plot: Any, cutout: Cutout, lobes: Sequence[Lobe]) -> None:
    """Leave the centre free: ticks beside it, lobes as rings with their sign, a compass in the corner."""
    gap, end = 4, 9
    ink = "#e6a100"
    if not lobes:
        plot.segment(
            [cutout.x + gap, cutout.x], [cutout.y, cutout.y + gap],
            [cutout.x + end, cutout.x], [cutout.y, cutout.y + end],
            line_color=ink, line_width=2,
        )  # fmt: skip
    for lobe in lobes:
        plot.scatter([lobe.x], [lobe.y], size=20, fill_color=None, line_color=ink, line_width=1.8,
                     line_dash="solid" if lobe.positive else "dashed")  # fmt: skip
        plot.text([lobe.x], [lobe.y], ["+" if lobe.positive else "−"], x_offset=11, y_offset=-4, text_color=ink,
                  text_font_size="15px", text_font_style="bold")  # fmt: skip
    if cutout.title != "science" or cutout.values is None:
        return
    size = cutout.values.shape[0]
    arm, edge = size * 0.13, size * 0.07
    # in the lower left corner, far enough from it for arms that point there
    x, y = (
        start + edge + 1.5 * arm * max(0.0, *(-direction[k] for direction in cutout.north))
        for k, start in enumerate((cutout.x0, cutout.y0))
    )
    for name, (dx, dy) in zip("NE", cutout.north, strict=True):
        plot.segment([x], [y], [x + arm * dx], [y + arm * dy], line_color=ink, line_width=2)
        plot.text([x + 1.35 * arm * dx], [y + 1.35 * arm * dy], [name], text_color="#fbbf24", text_font_size="12px",
                  background_fill_color="#111827", background_fill_alpha=0.6,
                  text_align="center", text_baseline="middle")  # fmt: skip


def triplet_view(cutouts: Sequence[Cutout], lobes: Sequence[Lobe] = ()) -> pn.Row:
    """Lay out science, template and difference of one epoch; each says by itself why it is missing."""
    ranges: tuple[Any, Any] | None = None
    parts: list[Any] = []
    for cutout in cutouts:
        if cutout.values is None or not np.isfinite(cutout.values).any():
            parts.append(_missing(cutout))
            continue
        plot = cutout_figure(cutout, lobes, ranges)
        ranges = ranges or (plot.x_range, plot.y_range)
        picture = pn.pane.Bokeh(plot, sizing_mode="scale_width", aspect_ratio=1, margin=0)
        parts.append(
            pn.Column(
                _words(f"<b>{cutout.title}</b>"), picture, _words(plot.tags[0]),
                sizing_mode="stretch_width", max_width=SIDE, margin=(0, 3),
            )
        )  # fmt: skip
    return pn.Row(*parts, sizing_mode="stretch_width", margin=0)


def _words(text: str) -> pn.pane.HTML:
    style = "text-align:center;font-size:12px"
    return pn.pane.HTML(f"<div style='{style}'>{text}</div>", margin=0, sizing_mode="stretch_width")


def _missing(cutout: Cutout) -> Pane:
    kind, _, more = cutout.reason.partition(": ")
    pane = Pane(cutout.title, max_width=SIDE)
    if cutout.reason:
        pane.empty(EmptyState(Reason.FILE_MISSING, f"{cutout.title}: {kind}", more))
    else:
        pane.empty(EmptyState(Reason.ALL_NAN, f"{cutout.title}: no pixel has a value here"))
    return pane


class FilmStrip(pn.reactive.ReactiveHTML):
    """Small pictures of all epochs side by side, read when they come into view.

    Set `frames`, and `reader` to what reads the cutouts of one of them.
    """

    frames = param.List(default=[], doc="Dictionaries with key, band, label and detail, in order of time.")
    chosen = param.String(default="", doc="Key of the chosen frame.")
    wanted = param.Dict(default={}, doc="Keys of frames that came into view.")
    delivered = param.Dict(default={}, doc="Pictures by key, the last ones asked for.")
    reader = param.Callable(default=None, allow_None=True, doc="Takes a key, gives its cutouts.", precedence=-1)

    _template: ClassVar[str] = (
        '<div id="strip" class="strip" role="group" aria-label="film strip of all epochs"></div>'
    )
    _scripts: ClassVar[dict[str, Any]] = {
        "render": (_HERE / "film_strip.js").read_text(encoding="utf-8"),
        "frames": "state.draw()",
        "chosen": "state.mark()",
        "delivered": "state.arrive()",
    }
    _stylesheets: ClassVar[list[Any]] = [
        """
.strip { display: flex; gap: 4px; overflow-x: auto; padding: 4px 2px; width: 100%; box-sizing: border-box; }
.frame { all: unset; flex: none; width: 74px; cursor: pointer; border-radius: 4px; padding: 2px; font-size: 12px;
  border: 2px solid transparent; text-align: center; color: var(--panel-on-background-color, inherit); }
.frame:focus-visible { border-color: var(--panel-primary-color, #2a6f97); }
.frame[aria-pressed="true"] { border-color: #e6a100; }
.holder { display: flex; flex-direction: column; gap: 1px; min-height: 212px; }
.holder img { width: 70px; height: 70px; image-rendering: pixelated; display: block; margin: auto; }
.reason { width: 70px; height: 70px; display: flex; align-items: center; justify-content: center; margin: auto;
  border: 1px dashed color-mix(in srgb, currentColor 35%, transparent); box-sizing: border-box; line-height: 1.2; }
.label { display: block; white-space: nowrap; }
"""
    ]

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.param.watch(self._deliver, "wanted")

    def _deliver(self, event: Any) -> None:
        known = {frame["key"] for frame in self.frames}
        reader: Callable[[str], Sequence[Cutout]] | None = self.reader
        keys = [str(key) for key in event.new.get("keys", []) if key in known]
        if reader is None or not keys:
            return
        pictures = {
            key: [[title, thumbnail(cutout)] for (title, _, _), cutout in zip(TRIPLET, reader(key), strict=True)]
            for key in keys
        }
        self.delivered = {"pictures": pictures, "nonce": event.new.get("nonce", 0)}
