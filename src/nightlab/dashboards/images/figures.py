"""The Bokeh side of image panes: one figure per slot, one image per layer it has shown."""

from __future__ import annotations

import html
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from bokeh.events import MouseLeave, MouseMove, Tap
from bokeh.models import (
    Arrow,
    BoxSelectTool,
    ColorBar,
    ColumnDataSource,
    CustomJS,
    Div,
    FixedTicker,
    GridBox,
    Image,
    Label,
    Line,
    LinearColorMapper,
    MultiLine,
    NormalHead,
    Range1d,
    Scatter,
    Span,
    Text,
)
from numpy.typing import NDArray

from nightlab.dashboards.images.draw import Box
from nightlab.dashboards.images.marks import Marks
from nightlab.dashboards.images.scaling import Limits, Look, palette, ramp, unstretch
from nightlab.dashboards.states import EmptyState
from nightlab.dashboards.style import described, figure

#: Panes that fit on a page at once.
SLOTS = 4
CROSS, HALO = "#f59e0b", "#111827"
_SCRIPT = Path(__file__).with_name("panes.js")


_TEXT: dict[str, Any] = {
    "text_color": "#fbbf24",
    "background_fill_color": HALO,
    "background_fill_alpha": 0.72,
    "text_font_size": "12px",
    "text_align": "center",
}


@dataclass
class Frame:
    """An image in a figure: a coarse copy of all of it below, and what is in view above."""

    coarse: ColumnDataSource
    fine: ColumnDataSource
    mapper: LinearColorMapper
    renderers: tuple[Any, ...]


class Slot:
    """A figure that shows one layer at a time and remembers those it has shown.

    Parameters
    ----------
    number
        Its place, from 0.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.figure = figure(
            "image",
            x_range=Range1d(0, 1),
            y_range=Range1d(0, 1),
            tools="pan,wheel_zoom",
            sizing_mode="stretch_both",
            min_height=180,
            min_width=200,
            height=None,
            toolbar_location="above",
            name=f"pane-{number}",
        )
        self.figure.center = []  # no grid
        self.figure.add_tools(BoxSelectTool(renderers=[], description="Statistics of a box"))
        for axis in self.figure.axis:
            axis.ticker.desired_num_ticks = 5
            axis.formatter.use_scientific = False
            axis.minor_tick_line_color = None
        self.figure.title.text_font_style = "normal"
        # the pointer moves these alone: what lies in a level of its own is painted alone
        self.cross = [
            Span(dimension=dimension, line_color=CROSS, line_alpha=0.8, line_width=1, level="overlay")
            for dimension in ("height", "width")
        ]
        for span in self.cross:
            self.figure.add_layout(span)
        self.frames: dict[str, Frame] = {}
        self.bar_mapper = LinearColorMapper(palette=ramp("gray", 256), low=0, high=1)
        self.bar = ColorBar(
            color_mapper=self.bar_mapper,
            ticker=FixedTicker(ticks=[]),
            width=10,
            padding=4,
            margin=0,
            title_text_font_style="normal",
            title_text_font_size="12px",
            major_label_text_font_size="12px",
            background_fill_alpha=0,
        )
        self.figure.add_layout(self.bar, "right")
        self.overlays: dict[str, Any] = {}
        self._compass = [(_arrow(NormalHead(size=6, line_color=CROSS, fill_color=CROSS)), _label()) for _ in "NE"]
        self._ruler, self._length = _arrow(None), _label()
        for item in (*(item for pair in self._compass for item in pair), self._ruler, self._length):
            self.figure.add_layout(item)
        self.empty = Div(visible=True, sizing_mode="stretch_both", text="")
        self._said: dict[str, Any] = {}

    def _news(self, what: str, *value: Any) -> bool:
        """Whether something is other than when it was said last; Bokeh sends whatever is set, changed or not."""
        if self._said.get(what) == value:
            return False
        self._said[what] = value
        return True

    def frame(self, name: str) -> Frame:
        """Give the image of a layer, making it on first use, and hide the others."""
        if name not in self.frames:
            mapper = LinearColorMapper(palette=palette("gray"), low=0, high=255)
            nothing: dict[str, list] = {"image": [], "x": [], "y": [], "dw": [], "dh": []}
            sources = ColumnDataSource(dict(nothing)), ColumnDataSource(dict(nothing))
            drawn = tuple(
                self.figure.add_glyph(
                    source, Image(color_mapper=mapper), level="image", name=f"{kind}-{self.number}-{name}"
                )
                for source, kind in zip(sources, ("coarse", "fine"), strict=True)
            )
            self.frames[name] = Frame(*sources, mapper, drawn)
        for other, frame in self.frames.items():
            for renderer in frame.renderers:
                renderer.visible = other == name
        return self.frames[name]

    def caption(self, text: str, look: Look, limits: Limits, unit: str) -> None:
        """Write the title and the colour bar."""
        if self._news("title", text):
            self.figure.title.text = text
        if self.figure.html_attributes["aria-label"] != text:
            self.figure.html_attributes = described(text)
        if not self._news("bar", look, limits, unit):
            return
        self.bar_mapper.palette = ramp(look.colours, 256)
        ticks = np.linspace(0, 1, 5)
        values = unstretch(ticks, look, limits)
        self.bar.ticker.ticks = [float(tick) for tick in ticks]
        self.bar.major_label_overrides = {
            float(tick): number(value, limits) for tick, value in zip(ticks, values, strict=True)
        }
        self.bar.title = f"{unit}, {look.stretch}"

    def compass(self, north: tuple[float, float] | None, east: tuple[float, float] | None) -> None:
        """Draw arrows to north and east, or take them away."""
        if not self._news("compass", north, east):
            return
        for (arrow, label), direction, name in zip(self._compass, (north, east), "NE", strict=True):
            dx, dy = direction or (0.0, 0.0)
            there = direction is not None
            arrow.update(x_start=46, y_start=46, x_end=46 + 28 * dx, y_end=46 + 28 * dy, visible=there)
            label.update(x=46 + 38 * dx, y=40 + 38 * dy, text=name, visible=there)

    def ruler(self, box: Box, arcsec: float | None) -> None:
        """Draw a bar of a round length on the sky, or in pixels where a pixel has no known size."""
        size = box.scale * (arcsec or 1.0)
        length, text = round_length(90 * size, sky=arcsec is not None)
        right, bar = box.width - 16, length / size
        if not self._news("ruler", right, bar, text):
            return
        self._ruler.update(x_start=right - bar, x_end=right, y_start=18, y_end=18, visible=True)
        self._length.update(x=right - bar / 2, y=22, text=text, visible=True)

    def net(self, xs: list[Any], ys: list[Any], labels: list[tuple[float, float, str]]) -> None:
        """Draw lines of constant right ascension and declination, and what they are called."""
        lines = {"xs": xs, "ys": ys} if xs else None
        names = {name: [label[k] for label in labels] for k, name in enumerate(("x", "y", "text"))} if labels else None
        self.overlay("net", lambda: MultiLine(line_color=CROSS, line_alpha=0.55, line_width=1), lines)
        look = {**_TEXT, "text_align": "left"}
        self.overlay("net names", lambda: Text(x_offset=3, y_offset=-2, padding=2, **look), names)

    def draw_marks(self, key: str, marks: Marks, drawn: dict[str, dict[str, Any]]) -> None:
        """Draw a catalogue in those of the `WAYS` that have data, and hide it in the others."""
        for way, glyph in WAYS.items():
            self.overlay(f"{way} {key}", partial(glyph, marks), drawn.get(way))

    def overlay(self, name: str, glyph: Callable[[], Any], data: dict[str, Any] | None) -> None:
        """Draw something over the image, or hide it without `data`.

        It is made when there is something to draw, since a page takes some milliseconds for whatever it may draw.
        """
        if data is None:
            if name in self.overlays:
                self.overlays[name].visible = False
            return
        news = self._news(name, pickle.dumps(data))
        if name not in self.overlays:
            self.overlays[name] = self.figure.add_glyph(ColumnDataSource(data), glyph(), name=f"{name} {self.number}")
        elif news:
            self.overlays[name].data_source.data = data
        self.overlays[name].visible = True


def _symbols(marks: Marks) -> Scatter:
    look: dict[str, Any] = {"fill_color": None, "line_color": marks.colour, "line_width": 1.3}
    return Scatter(marker=marks.marker, size=marks.size, **look)


def _crowd(marks: Marks) -> Image:
    return Image(color_mapper=LinearColorMapper(palette=["rgba(0, 0, 0, 0)", marks.colour], low=0, high=1))


def _borders(marks: Marks) -> Line:
    return Line(line_color=marks.colour, line_width=1.3)


#: How a catalogue may be drawn: marks at its rows, a picture of where there are any, lines around its footprints.
WAYS: dict[str, Callable[[Marks], Any]] = {"marks": _symbols, "crowd": _crowd, "borders": _borders}


def _arrow(head: Any) -> Arrow:
    return Arrow(
        x_start=0, y_start=0, x_end=0, y_end=0, start_units="screen", end_units="screen", end=head,
        line_color=CROSS, line_width=2, visible=False,
    )  # fmt: skip


def _label() -> Label:
    return Label(
        x=0, y=0, x_units="screen", y_units="screen", text="", visible=False, padding=3, border_radius=3, **_TEXT
    )


class Board:
    """All slots, how they are laid out, and the script that links them.

    Attributes
    ----------
    moved
        Written by the browser when the view has come to rest: boxes (slot, x, x, y, y, width, height of the screen).
    pointed
        Written by the browser while the pointer moves: slot, x, y.
    """

    def __init__(self) -> None:
        self.slots = [Slot(k) for k in range(SLOTS)]
        maps, boxes = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0] * SLOTS, [0.0, 1.0, 0.0, 1.0] * SLOTS
        self.link = ColumnDataSource({"maps": [maps], "shown": [[]], "linked": [True], "boxes": [boxes]}, name="link")
        self.goal = ColumnDataSource({"view": [[0.0, 0.0, 1.0]], "fit": [True]}, name="goal")
        self.moved = ColumnDataSource({"boxes": [[]], "view": [[]], "fit": [True]}, name="moved")
        self.pointed = ColumnDataSource({"slot": [], "x": [], "y": []}, name="pointed")
        self.grid = GridBox(children=[], sizing_mode="stretch_both", spacing=4, name="panes")
        self._wire()

    def lay_out(self, shown: list[EmptyState | None]) -> None:
        """Put the slots on the page: one, two side by side, or two rows.

        Parameters
        ----------
        shown
            For every slot in use None, or what it says instead of an image.
        """
        columns = 1 if len(shown) == 1 else 2
        children: list[Any] = []
        for k, state in enumerate(shown):
            slot = self.slots[k]
            if state is not None:
                slot.empty.text = empty_html(state)
            children.append((slot.figure if state is None else slot.empty, k // columns, k % columns))
        if children != list(self.grid.children):
            self.grid.children = children

    def _wire(self) -> None:
        core = CustomJS(
            args={
                "link": self.link,
                "goal": self.goal,
                "moved": self.moved,
                "pointed": self.pointed,
                "figures": [slot.figure for slot in self.slots],
                "crosses": [span for slot in self.slots for span in slot.cross],
            },
            code=_SCRIPT.read_text(),
        )

        def call(what: str, number: int = 0) -> CustomJS:
            code = f"core.execute({{what: '{what}', slot: {number}, event: cb_obj}})"
            return CustomJS(args={"core": core}, code=code)

        for slot in self.slots:
            made = slot.figure
            moving = call("range", slot.number)
            for span in (made.x_range, made.y_range):
                for end in ("start", "end"):
                    span.js_on_change(end, moving)
            for side in ("inner_width", "inner_height"):
                made.js_on_change(side, call("size", slot.number))
            made.js_on_event(MouseMove, call("move", slot.number))
            made.js_on_event(MouseLeave, call("leave", slot.number))
            made.js_on_event(Tap, call("tap", slot.number))
        self.link.js_on_change("data", call("link"))
        self.goal.js_on_change("data", call("goal"))


def put(source: ColumnDataSource, indices: NDArray[np.uint8], x: float, y: float, level: int) -> None:
    """Send an image whose first pixel, of `level` pixels in size, begins at (x, y)."""
    ny, nx = indices.shape
    source.data = {
        "image": [np.ascontiguousarray(indices)],
        "x": [float(x)],
        "y": [float(y)],
        "dw": [float(nx * level)],
        "dh": [float(ny * level)],
    }


def round_length(most: float, *, sky: bool = True) -> tuple[float, str]:
    """Give the largest round length that is not above `most`, and its name.

    Parameters
    ----------
    most
        Arcseconds, or pixels.
    sky
        Whether these are arcseconds.
    """
    units = ((3600.0, "°"), (60.0, "′"), (1.0, "″")) if sky else ((1.0, " pixel"),)
    size, name = next((unit for unit in units if unit[0] <= most), units[-1])
    power = 10.0 ** np.floor(np.log10(most / size))
    steps = (5, 3, 2, 1) if sky and size > 1 else (5, 2, 1)
    length = next(step * power for step in steps if step * power <= most / size * (1 + 1e-9))
    return float(length * size), f"{length:g}{name}"


def number(value: float, limits: Limits) -> str:
    """Write a value with the digits its range deserves."""
    span = abs(limits.high - limits.low)
    if not np.isfinite(value):
        return "NaN"
    if span == 0 or max(abs(value), span) >= 1e6 or span < 1e-3:
        return f"{value:.3g}".replace("-", "−")
    digits = max(0, 2 - int(np.floor(np.log10(span))))
    text = f"{value:.{digits}f}"
    return ("0" if float(text) == 0 else text).replace("-", "−")


def empty_html(state: EmptyState) -> str:
    """Say in a pane why it is empty."""
    todo = f"<p>→ {html.escape(state.what_to_do)}</p>" if state.what_to_do else ""
    return (
        f"<div class='nl-empty' data-reason='{state.reason.name}' role='status' style='border:1px dashed #8888;"
        "border-radius:6px;padding:16px 20px;margin:8px;font-size:13px;line-height:1.45'>"
        f"<b style='font-size:12px;letter-spacing:.06em;text-transform:uppercase'>{html.escape(state.reason)}</b>"
        f"<p>{html.escape(state.what)}</p>{todo}</div>"
    )
