"""Linked image panes: one to four pictures of the same sky, drawn from exact arrays on the server.

Every explorer that shows pixels uses this component::

    panes = ImagePanes({"science": visit_image, "difference": as_layer(difference, kind="difference")})
    pn.Row(panes.controls(), panes)          # in a page, or in a notebook cell
    panes.load({"science": other_image})     # new pixels; view, stretch and masks stay
    panes.go_to(ra=310.2, dec=-0.3, width=80)
    panes.mark("DIASources", Marks(table, id_column="diaSourceId", shown=("snr",)))
    panes.param.watch(lambda event: ..., "picked")   # ("DIASources", "1152921504606846977")
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import panel as pn
import param
from bokeh.events import SelectionGeometry, Tap
from bokeh.models import ColumnDataSource
from numpy.typing import NDArray

from nightlab.dashboards.images.draw import Box, Picture, caption, coarse, picture
from nightlab.dashboards.images.figures import SLOTS, Board, Slot, put
from nightlab.dashboards.images.fits import cutout_fits
from nightlab.dashboards.images.layers import Layer, as_layer, trouble
from nightlab.dashboards.images.marks import Marks
from nightlab.dashboards.images.readout import BoxStatistics, Readout, box_statistics, read_all
from nightlab.dashboards.images.scaling import STRETCHES, Limits, Look, find_limits, look_for, palette
from nightlab.dashboards.images.sky import SAME, Affine, LinkState, compass, grid_lines, link_state, sky_link
from nightlab.dashboards.setup import setup
from nightlab.dashboards.states import EmptyState, Nothing
from nightlab.errors import BadInput
from nightlab.images.wcs import pixel_scale, radec_to_pixel

#: Colours of mask planes by name; others get one of the rest.
MASK_COLOURS = {
    "DETECTED": "#3b82f6",
    "DETECTED_NEGATIVE": "#22d3ee",
    "SATURATED": "#22c55e",
    "BAD": "#ef4444",
    "COSMIC_RAY": "#f97316",
    "INTERPOLATED": "#a3e635",
    "SUSPECT": "#eab308",
    "NO_DATA": "#a855f7",
    "DETECTION_EDGE": "#b45309",
    "SAT_TEMPLATE": "#10b981",
    "HIGH_VARIANCE": "#ec4899",
    "STREAK": "#f43f5e",
}
_OTHERS = ("#14b8a6", "#8b5cf6", "#d946ef", "#f59e0b", "#84cc16", "#0ea5e9")


def _all_at_once[**P](act: Callable[P, None]) -> Callable[P, None]:
    """Send what an action changes in one message, whoever calls it.

    Callbacks of widgets do not hold the lock without which Bokeh refuses a change to a figure.
    """

    @functools.wraps(act)
    def changed(*arguments: P.args, **named: P.kwargs) -> None:
        with pn.io.unlocked():
            act(*arguments, **named)

    return changed


class ImagePanes(pn.viewable.Viewer):
    """One to four linked pictures.

    Parameters
    ----------
    layers
        What can be shown, by name: anything `as_layer` takes, or an `EmptyState` (or `Nothing`) where there is
        nothing to show.
    **state
        Parameters of the component.
    """

    panes = param.List(default=[], item_type=str, doc="Names of the layers shown, at most four.")
    active = param.String(default="", doc="The layer that the controls belong to.")
    view = param.Parameter(default=None, doc="Centre and width (x, y, width) in pixels of the first layer; None: all.")
    link: Any = param.Selector(
        default="auto", objects=["auto", "pixels", "sky", "off"], doc="How the views hang together."
    )
    masks = param.Boolean(default=False, doc="Whether mask planes are drawn.")
    planes = param.List(default=[], item_type=str, doc="Names of the mask planes drawn; empty: all.")
    opacity = param.Number(default=0.55, bounds=(0.0, 1.0), doc="Of mask planes.")
    together = param.Boolean(
        default=False, doc="A stretch that is set goes to all layers, not only to the active one."
    )
    blink = param.Boolean(default=False, doc="Show the layers one after the other.")
    rate = param.Number(default=1.0, bounds=(0.2, 10.0), doc="Pictures per second while blinking.")
    grid = param.Boolean(default=False, doc="Draw lines of right ascension and declination.")
    looks = param.Dict(default={}, doc="Look of every layer, by name.")
    readout = param.ClassSelector(class_=Readout, allow_None=True, doc="What is under the pointer.")
    near = param.String(default="", doc="The catalogue row under the pointer, in words.")
    statistics = param.List(default=[], item_type=BoxStatistics, doc="Of the box that was drawn, for every pane.")
    picked = param.Parameter(default=None, doc="Catalogue and id, as text, of the row that was clicked.")
    changed = param.Integer(default=0, doc="Counts new pixels.")

    def __init__(self, layers: Mapping[str, Any] | None = None, **state: Any) -> None:
        setup()
        super().__init__(**state)
        self.layers: dict[str, Layer] = {}
        self.empties: dict[str, EmptyState] = {}
        self.marks: dict[str, Marks] = {}
        self.colours: dict[str, str] = dict(MASK_COLOURS)
        self.board = Board()
        self._boxes: dict[int, Box] = {}
        self._sent: dict[tuple[int, str, str], Any] = {}
        self._limits: dict[str, tuple[Layer, Look, Limits]] = {}
        self._affines: dict[str, tuple[Layer, Layer, Affine]] = {}
        self._frame = 0
        self._timer: Any = None
        self._told = False
        self._usual: list[str] = []
        if self.view:
            self.view = tuple(self.view)
            self._aim(self.view)
        self._listen()
        if layers:
            self.load(layers)

    # content

    def load(self, layers: Mapping[str, Any]) -> None:
        """Show other pixels; the view, and the look of layers of the same name, stay.

        Parameters
        ----------
        layers
            As for the constructor. Names that are no longer there lose their pane.
        """
        self.layers, self.empties = {}, {}
        for name, thing in layers.items():
            if isinstance(thing, EmptyState | Nothing):
                self.empties[name] = thing.state if isinstance(thing, Nothing) else thing
                continue
            layer = as_layer(thing)
            if (found := trouble(layer)) is not None:
                self.empties[name] = found.state
            else:
                self.layers[name] = layer
        for name, layer in self.layers.items():
            self.looks.setdefault(name, look_for(layer.kind))
        names = self.names
        chosen = [] if self.panes == self._usual else [name for name in self.panes if name in names]
        kept = chosen or names[:SLOTS]
        self._usual = self._usual if chosen else kept
        self.param.update(panes=kept, active=self.active if self.active in kept else next(iter(kept), ""))
        self._sent.clear()
        self._arrange()
        self.changed += 1

    @property
    def names(self) -> list[str]:
        """Names of all layers, those that are empty last."""
        return [*self.layers, *self.empties]

    @property
    def shown(self) -> list[str]:
        """Name of the layer in every pane."""
        if self.blink and self.blinking:
            return [self.blinking[self._frame % len(self.blinking)]]
        return [name for name in self.panes if name in self.layers or name in self.empties][:SLOTS]

    @property
    def blinking(self) -> list[str]:
        """Names of the layers that blink: those shown, or all when only one is."""
        several = [name for name in self.panes if name in self.layers]
        return several if len(several) > 1 else list(self.layers)

    def mark(self, name: str, marks: Marks | None) -> None:
        """Draw a catalogue, or take it away with None."""
        if marks is not None:
            self.marks[name] = marks
        elif (gone := self.marks.pop(name, None)) is not None:
            for slot in self.board.slots:
                slot.draw_marks(name, gone, {})
        self._draw_marks()

    def mask_planes(self) -> list[str]:
        """Mask planes that are set somewhere in any layer."""
        found = {name: 0 for layer in self.layers.values() for name, n in layer.plane_counts.items() if n}
        return list(found)

    def drawn_planes(self) -> list[str]:
        """Mask planes that are drawn when masks are on."""
        there = self.mask_planes()
        return [name for name in there if name in self.planes] if self.planes else there

    def colour_of(self, plane: str) -> str:
        """Colour of a mask plane."""
        if plane not in self.colours:
            taken = sum(colour in _OTHERS for colour in self.colours.values())
            self.colours[plane] = _OTHERS[taken % len(_OTHERS)]
        return self.colours[plane]

    # the look of layers

    def look(self, name: str = "") -> Look:
        """Look of a layer; of the active one when no name is given."""
        return self.looks.get(name or self.active, Look())

    def set_look(self, **change: Any) -> None:
        """Change the look of the active layer, or of all of them when `together`; colours stay with their layer."""
        names = list(self.layers) if self.together else [self.active]
        own = {key: value for key, value in change.items() if key not in ("colours", "symmetric")}
        self.looks = {
            name: replace(look, **(change if name == self.active else own)) if name in names else look
            for name, look in self.looks.items()
        }

    def limits(self, name: str) -> Limits:
        """Limits between which a layer is drawn."""
        layer, look = self.layers[name], self.look(name)
        kept = self._limits.get(name)
        if kept is None or kept[0] is not layer or kept[1] != look:
            kept = self._limits[name] = (layer, look, find_limits(layer.sample, look))
        return kept[2]

    def next_stretch(self) -> None:
        """Go to the next stretch."""
        now = STRETCHES.index(self.look().stretch)
        self.set_look(stretch=STRETCHES[(now + 1) % len(STRETCHES)])

    # the view

    def go_to(
        self,
        x: float | None = None,
        y: float | None = None,
        *,
        ra: float | None = None,
        dec: float | None = None,
        width: float | None = None,
    ) -> None:
        """Centre all panes on a pixel of the first layer, or on a place on the sky.

        Parameters
        ----------
        x, y
            Pixel coordinates.
        ra, dec
            ICRS [deg], instead of them.
        width
            Pixels across the pane; unchanged when absent.
        """
        first = self._reference()
        if first is None:
            return
        if ra is not None and dec is not None and first.projection is not None:
            px, py = radec_to_pixel(first.projection, [ra], [dec])
            x, y = float(px[0]), float(py[0])
        if x is None or y is None or not np.isfinite([x, y]).all():
            return
        now = self.view[2] if self.view else min(first.shape[1], 200.0)
        self.view = (float(x), float(y), float(width or now))

    def reset(self) -> None:
        """Show all of the image again."""
        self.view = None
        self._aim(None)

    def step(self, by: int = 1) -> None:
        """Show the next layer: of those blinking, or in a single pane."""
        names = self.blinking
        if not names:
            return
        if not self.blink and len(self.panes) > 1:
            now = self.panes.index(self.active) if self.active in self.panes else 0
            self.active = self.panes[(now + by) % len(self.panes)]
            return
        if self.blink:
            self._frame = (self._frame + by) % len(names)
            self.active = names[self._frame]
            self._arrange()
        else:
            now = names.index(self.panes[0]) if self.panes and self.panes[0] in names else 0
            self.panes = [names[(now + by) % len(names)]]

    @property
    def linking(self) -> str:
        """The link in force: ``pixels``, ``sky`` or ``off``."""
        state = self.link_state()
        wanted = state.best if self.link == "auto" else self.link
        possible = {"pixels": state.pixels, "sky": state.sky, "off": True}
        return wanted if possible[wanted] else "off"

    def link_state(self) -> LinkState:
        """Which links are possible, and what stands against the others."""
        return link_state(self.layers)

    def next_link(self) -> None:
        """Go to the next link that is possible."""
        state = self.link_state()
        ways = [way for way, ok in (("pixels", state.pixels), ("sky", state.sky), ("off", True)) if ok]
        self.link = ways[(ways.index(self.linking) + 1) % len(ways)]

    def affine(self, name: str) -> Affine:
        """Where pixels of the first layer fall on another, as the link in force has it."""
        first, layer = self._reference(), self.layers.get(name)
        if self.linking != "sky" or first is None or layer is None or layer is first:
            return SAME
        assert first.projection is not None  # the sky link would not be in force
        assert layer.projection is not None
        kept = self._affines.get(name)
        if kept is None or kept[:2] != (first, layer):
            kept = self._affines[name] = (first, layer, sky_link(first.projection, layer.projection, *first.middle))
        return kept[2]

    # what the browser tells

    def moved(self, data: Mapping[str, Sequence[Any]]) -> None:
        """Draw what has come into view."""
        flat = data["boxes"][0]
        for k in range(0, len(flat), 7):
            self._boxes[int(flat[k])] = Box(*(float(value) for value in flat[k + 1 : k + 7]))
        x, y, width = (round(float(value), 3) for value in data["view"][0])
        self._told = True
        self.view = None if data["fit"][0] else (x, y, width)
        self._told = False
        self._draw()

    def point(self, slot: int, x: float, y: float) -> None:
        """Read all layers at a place of a pane."""
        shown = self.shown
        if slot >= len(shown) or shown[slot] not in self.layers:
            return
        name = shown[slot]
        if not self.blink:
            self.active = name
        places = {other: (layer, *self.carry(name, other, x, y)) for other, layer in self.layers.items()}
        self.readout = read_all(places, name)
        found = self._nearest(slot, name, x, y)
        self.near = "" if found is None else self.marks[found[0]].describe(found[1])

    def carry(self, name: str, other: str, x: float, y: float) -> tuple[float, float]:
        """Take a pixel of one layer to another: by the sky exactly, where they are linked so."""
        first, second = self.layers[name], self.layers[other]
        if name == other or self.linking != "sky" or first.projection is None or second.projection is None:
            return x, y
        there = sky_link(first.projection, second.projection, x, y)
        return there(x, y)

    def measure(self, slot: int, box: tuple[float, float, float, float]) -> None:
        """Measure a box, drawn in one pane, in all of them."""
        shown = self.shown
        if slot >= len(shown) or shown[slot] not in self.layers:
            return
        corners = [(x, y) for x in box[:2] for y in box[2:]]
        found = []
        for name in [name for name in shown if name in self.layers]:
            there = np.array([self.carry(shown[slot], name, x, y) for x, y in corners])
            (x1, y1), (x2, y2) = there.min(axis=0), there.max(axis=0)
            found.append(box_statistics(name, self.layers[name], (float(x1), float(x2), float(y1), float(y2))))
        self.statistics = found

    def cutout(self, name: str = "") -> bytes:
        """Write what is in view of a layer, the active one when no name is given, as a FITS file.

        Raises
        ------
        BadInput
            When there is no such layer, or nothing of it is in view.
        """
        name = name or self.active
        if name not in self.layers:
            raise BadInput(f"there is no layer {name!r}", hint=f"there are {', '.join(self.layers) or 'none'}")
        layer, shown = self.layers[name], self.shown
        box = self._boxes.get(shown.index(name)) if name in shown else None
        whole = (layer.x0, layer.x0 + layer.shape[1] - 1, layer.y0, layer.y0 + layer.shape[0] - 1)
        return cutout_fits(layer, box.edges if box else whole)

    def picture(self) -> bytes | None:
        """Draw the panes as they are now into a PNG file; None when there is nothing to draw."""
        from nightlab.dashboards.images.draw import png

        drawn = []
        for k, name in enumerate(self.shown):
            if name in self.layers:
                layer, look, limits = self.layers[name], self.look(name), self.limits(name)
                bits, colours = self._masked(layer)
                box = self._boxes.get(k) or Box.of(layer)
                made = picture(layer, look, limits, bits, box, len(self.shown)).make()
                drawn.append((made, box, palette(look.colours, colours, self.opacity)))
        return png(drawn) if drawn else None

    # drawing

    def _masked(self, layer: Layer) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Bits of the mask planes drawn, -1 where the layer lacks one, and their colours."""
        planes = self.drawn_planes() if self.masks else []
        own = {plane.name: plane.bit for plane in layer.planes}
        return tuple(own.get(plane, -1) for plane in planes), tuple(self.colour_of(plane) for plane in planes)

    def _listen(self) -> None:
        self.board.moved.on_change("data", _at_once(self.moved))
        self.board.pointed.on_change(
            "data", _at_once(lambda new: self.point(int(new["slot"][0]), float(new["x"][0]), float(new["y"][0])))
        )
        for slot in self.board.slots:
            slot.figure.on_event(SelectionGeometry, self._boxer(slot.number))
            slot.figure.on_event(Tap, self._tapper(slot.number))
        self.param.watch(lambda *_: self._draw(), ["looks", "masks", "planes", "opacity"])
        self.param.watch(self._chosen, "panes")
        self.param.watch(lambda *_: self._arrange(), ["link", "grid"])
        self.param.watch(self._retime, ["blink", "rate"])
        self.param.watch(lambda event: None if self._told else self._aim(event.new), "view")

    def _chosen(self, *_: Any) -> None:
        if self.active not in self.panes and self.panes:
            self.active = self.panes[0]
        self._arrange()

    def _boxer(self, slot: int) -> Any:
        def boxed(event: SelectionGeometry) -> None:
            shape: Any = event.geometry
            if event.final and shape and shape.get("type") == "rect":
                self.measure(slot, (shape["x0"], shape["x1"], shape["y0"], shape["y1"]))

        return boxed

    def _tapper(self, slot: int) -> Any:
        def tapped(event: Tap) -> None:
            if slot >= len(self.shown):
                return
            name = self.shown[slot]
            self.active = name
            found = self._nearest(slot, name, event.x, event.y)
            if found is not None:
                self.picked = (found[0], self.marks[found[0]].row_id(found[1]))

        return tapped

    def _nearest(self, slot: int, name: str, x: float, y: float) -> tuple[str, int] | None:
        box, layer = self._boxes.get(slot), self.layers.get(name)
        if box is None or layer is None:
            return None
        for key, marks in self.marks.items():
            row = marks.nearest(layer, x, y, radius=10 * box.scale)
            if row is not None:
                return key, row
        return None

    def _reference(self) -> Layer | None:
        return next(iter(self.layers.values()), None)

    @_all_at_once
    def _aim(self, view: Any) -> None:
        goal = [float(value) for value in view] if view else [0.0, 0.0, 1.0]
        self.board.goal.data = {"view": [goal], "fit": [view is None]}

    @_all_at_once
    def _arrange(self) -> None:
        """Tell the browser which slots are in use and how they are linked."""
        shown = self.shown
        maps, boxes = [], []
        for name in [*shown, *[""] * (SLOTS - len(shown))]:
            affine = self.affine(name)
            maps += [*affine.matrix[0], *affine.matrix[1], *affine.shift]
            layer = self.layers.get(name)
            boxes += [0.0, 1.0, 0.0, 1.0] if layer is None else [
                float(layer.x0), float(layer.shape[1]), float(layer.y0), float(layer.shape[0])
            ]  # fmt: skip
        alive = [k for k, name in enumerate(shown) if name in self.layers]
        data = {"maps": [maps], "shown": [alive], "linked": [self.linking != "off"], "boxes": [boxes]}
        if data != dict(self.board.link.data):
            self.board.link.data = data
        self.board.lay_out([self.empties.get(name) for name in shown])
        for k in alive:
            self._compass(self.board.slots[k], self.layers[shown[k]])
        self._draw()

    def _compass(self, slot: Slot, layer: Layer) -> None:
        if self._sent.get((slot.number, "", "sky")) is layer:
            return
        self._sent[slot.number, "", "sky"] = layer
        if layer.projection is None:
            slot.compass(None, None)
            return
        slot.compass(*compass(layer.projection, *layer.middle))

    @_all_at_once
    def _draw(self) -> None:
        """Send what is in view and has not been sent."""
        shown = self.shown
        for k, name in enumerate(shown):
            if name in self.layers:
                self._draw_slot(self.board.slots[k], name, share=len(shown))
        self._draw_marks()

    def _draw_slot(self, slot: Slot, name: str, share: int) -> None:
        layer, look, limits = self.layers[name], self.look(name), self.limits(name)
        bits, tints = self._masked(layer)
        style = (id(layer), look, limits, bits)
        frame = slot.frame(name)
        colours = palette(look.colours, tints, self.opacity)
        if frame.mapper.palette != colours:
            frame.mapper.palette = colours
        self._send(slot, name, "coarse", style, frame.coarse, lambda: coarse(layer, look, limits, bits))
        box = self._boxes.get(slot.number)
        if box is None:
            level = 0
        else:
            drawn = picture(layer, look, limits, bits, box, share)
            level = drawn.level
            self._send(slot, name, "fine", (*style, drawn.rows, drawn.columns, level), frame.fine, drawn.make)
        slot.caption(caption(name, layer, limits, level), look, limits, layer.unit)
        if box is not None and self._sent.get((slot.number, "", "grid")) != (self.grid, id(layer), box):
            self._sent[slot.number, "", "grid"] = (self.grid, id(layer), box)
            self._draw_grid(slot, layer, box)
            slot.ruler(box, None if layer.projection is None else pixel_scale(layer.projection, *layer.middle))

    def _send(self, slot: Slot, name: str, part: str, state: Any, source: ColumnDataSource, make: Any) -> None:
        key = (slot.number, name, part)
        if self._sent.get(key) == state:
            return
        self._sent[key] = state
        drawn: Picture = make()
        put(source, drawn.indices, drawn.x, drawn.y, drawn.level)

    def _draw_grid(self, slot: Slot, layer: Layer, box: Box) -> None:
        xs: list[NDArray] = []
        ys: list[NDArray] = []
        labels: list[tuple[float, float, str]] = []
        if self.grid and layer.projection is not None:
            xs, ys, labels = grid_lines(layer.projection, box.edges)
        slot.net(xs, ys, labels)

    @_all_at_once
    def _draw_marks(self) -> None:
        for k, name in enumerate(self.shown):
            slot, layer = self.board.slots[k], self.layers.get(name)
            # an executed notebook, which no browser asks for a view, has its marks all the same
            box = self._boxes.get(k) or (None if layer is None else Box.of(layer))
            for key, marks in self.marks.items():
                slot.draw_marks(key, marks, {} if box is None or layer is None else marks.drawn(layer, box))

    def _retime(self, *_: Any) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer = None
        if not self.blink:
            self._frame = 0
        elif self.blinking:
            self._frame = self.blinking.index(self.active) if self.active in self.blinking else 0
            if _has_loop():
                self._timer = pn.state.add_periodic_callback(self.step, period=int(1000 / self.rate))
        self._arrange()

    def controls(self) -> pn.viewable.Viewable:
        """Give the rail: readout, panes, stretch, masks, catalogues."""
        from nightlab.dashboards.images.controls import controls

        return controls(self)

    def __panel__(self) -> pn.viewable.Viewable:
        return pn.pane.Bokeh(self.board.grid, sizing_mode="stretch_both", min_height=420, margin=0)


def _at_once(act: Callable[[Any], None]) -> Callable[[str, Any, Any], None]:
    """Answer a change in the browser with one message, once the page is loaded: each costs time, whatever is in it."""

    def changed(_attr: str, _old: Any, new: Any) -> None:
        with pn.io.unlocked():
            act(new)

    return changed


def _has_loop() -> bool:
    """Whether there is an event loop a timer could live in."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
