"""Image and difference viewer: science, template, difference and signal to noise of a visit, side by side."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import panel as pn
import param
from astropy.table import Table

from nightlab.dashboards.explorer import Explorer
from nightlab.dashboards.forms import COMPACT
from nightlab.dashboards.images import ImagePanes, Layer, Marks, as_layer
from nightlab.dashboards.images.marks import COLOURS
from nightlab.dashboards.images.places import find_place, stepped
from nightlab.dashboards.images.scaling import Look, changed, changes, look_for
from nightlab.dashboards.images.shared import layer_of_run
from nightlab.dashboards.states import EmptyState, Nothing, Reason
from nightlab.errors import BadInput, CorruptFile, MissingData

#: Layers of a visit by name: dataset type and kind. Signal to noise is made of the difference.
LAYERS = {
    "science": ("visit_image", "flux"),
    "template": ("template_detector", "flux"),
    "difference": ("difference_image", "difference"),
}
SNR = "S/N"
#: Catalogues by name: dataset type, column of ids, columns told under the pointer.
CATALOGUES = {
    "DIASources": ("dia_source", "diaSourceId", ("snr", "psfFlux", "isDipole")),
    "sources": ("source", "sourceId", ("snr", "psfFlux")),
}
#: Regions of the science image, drawn like a catalogue.
FOOTPRINTS = "footprints"
SIGN = "The difference is science minus template: what has brightened is positive, red."
#: State that lives in the panes.
_OF_PANES = ("panes", "view", "link", "masks", "planes", "blink", "rate", "grid")


class ImageViewer(Explorer):
    """Science image, template, difference and signal to noise of one visit and detector, linked.

    ``ImageViewer.from_run(run, visit=..., detector=...)`` looks at a run, ``ImageViewer.from_images({...})`` at
    whatever there is in memory or on disk.
    """

    slug = "images"
    title = "Images"
    summary = "Science, template and difference of every visit: linked, blinked, measured, with masks and catalogues."
    remembered = (
        "visit", "detector", "panes", "view", "looks", "masks", "planes", "link", "blink", "rate", "grid",
        "catalogues",
    )  # fmt: skip
    in_url = ("visit", "detector", "panes", "view", "looks", "masks", "link", "catalogues")
    keys: ClassVar[dict[str, tuple[str, str]]] = {
        "b": ("toggle_blink", "start or stop blinking"),
        "[": ("previous", "previous layer, or previous pane for the controls"),
        "]": ("next", "next layer, or next pane for the controls"),
        "l": ("next_link", "link the panes by pixels, by sky, or not"),
        "m": ("toggle_masks", "draw the mask planes or not"),
        "s": ("next_stretch", "next stretch: linear, sqrt, log, asinh"),
        "r": ("reset", "show all of the image"),
        "+": ("closer", "zoom in"),
        "-": ("farther", "zoom out"),
        "ArrowLeft": ("go_left", "move the view"),
        "ArrowRight": ("go_right", "move the view"),
        "ArrowUp": ("go_up", "move the view"),
        "ArrowDown": ("go_down", "move the view"),
        "n": ("next_row", "go to the next row of the catalogue"),
        "p": ("previous_row", "go to the previous row of the catalogue"),
    }

    visit = param.Integer(default=None, allow_None=True, doc="Visit that is shown.")
    detector = param.Integer(default=None, allow_None=True, doc="Detector that is shown.")
    panes = param.List(default=[], item_type=str, doc="Names of the layers shown, at most four.")
    view = param.Parameter(default=None, doc="Centre and width (x, y, width) of the view in pixels; None: all.")
    looks = param.Dict(default={}, doc="Stretch, limits, colours of layers, where they are not the usual ones.")
    masks = param.Boolean(default=False, doc="Whether mask planes are drawn.")
    planes = param.List(default=[], item_type=str, doc="Mask planes drawn; empty: all that are set.")
    link: Any = param.Selector(
        default="auto", objects=["auto", "pixels", "sky", "off"], doc="How the panes are linked."
    )
    blink = param.Boolean(default=False, doc="Show the layers one after the other.")
    rate = param.Number(default=1.0, bounds=(0.2, 10.0), doc="Pictures per second while blinking.")
    grid = param.Boolean(default=False, doc="Draw lines of right ascension and declination.")
    catalogues = param.List(default=["DIASources"], item_type=str, doc="Catalogues drawn over the images.")

    def __init__(self, library: Any = None, images: Mapping[str, Any] | None = None, **state: Any) -> None:
        self.images = dict(images or {})
        super().__init__(library, **state)
        self.board = ImagePanes(**{name: getattr(self, name) for name in _OF_PANES})
        self._visits: Table | None = None
        self._busy, self._asked, self._row = False, False, -1
        self._absent = pn.pane.HTML(visible=False, margin=(0, 6))
        for name in _OF_PANES:
            self.board.param.watch(self._from_board, name)
            self.param.watch(self._to_board, name)
        self.board.param.watch(self._looked, "looks")
        self.param.watch(lambda *_: self._look(), "looks")
        self.param.watch(lambda *_: self._new_run(), ["run", "other"])
        self.param.watch(lambda *_: self.load(), ["visit", "detector"])
        self.param.watch(lambda *_: self._mark(), "catalogues")
        self._new_run()

    @classmethod
    def from_images(cls, images: Mapping[str, Any], **state: Any) -> Self:
        """Look at images that are in no run.

        Parameters
        ----------
        images
            By name: images of `lsst.images`, arrays, paths of FITS files, or layers. Signal to noise is added when one
            is called ``difference``.
        **state
            Parameters of the explorer.
        """
        return cls(images=images, **state)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over a state; an image that the run does not have is told of, and not replaced by another."""
        refused: list[str] = []
        looks = state.get("looks")
        try:
            for look in looks.values() if isinstance(looks, Mapping) else ():
                changed(Look(), look)
        except BadInput as error:
            refused, state = [str(error)], {name: value for name, value in state.items() if name != "looks"}
        self._asked = True
        with param.parameterized.batch_call_watchers(self):
            super().restore(state)
        self._asked = False
        self.refused += refused

    # content

    def visits(self) -> Table:
        """Visits and detectors of the run."""
        if self._visits is None:
            self._visits = self.run.visits() if self.run is not None else Table(names=("visit", "detector", "band"))
        return self._visits

    def load(self) -> None:
        """Show the images of the chosen visit and detector."""
        self.board.load(self._from_images() if self.images else self._from_run())
        self._look()
        self._mark()

    def _from_run(self) -> dict[str, Layer | EmptyState]:
        if self.run is None:
            state = EmptyState(Reason.NO_DATA_SELECTED, "No run is selected.", "Choose one above.")
            return {"science": state}
        if self.visit is None or self.detector is None:
            what = f"{self.run.label} has no images yet."
            return {"science": EmptyState(Reason.NOT_RUN, what, "Make them: nightlab run ApPipe")}
        layers: dict[str, Layer | EmptyState] = {}
        for run, suffix in ((self.run, ""), (self.other, " B")):
            if run is not None:
                layers |= self._of_run(run, suffix)
        return layers

    def _of_run(self, run: Any, suffix: str) -> dict[str, Layer | EmptyState]:
        found: dict[str, Layer | EmptyState] = {}
        for name, (dataset, kind) in LAYERS.items():
            read = partial(layer_of_run, run, dataset, **self._where())
            found[name + suffix] = _attempt(read, name + suffix, kind)
        difference = found["difference" + suffix]
        if isinstance(difference, EmptyState):
            found[SNR + suffix] = difference
        else:
            found[SNR + suffix] = _attempt(lambda: difference.signal_to_noise, SNR + suffix, "snr")
        return found

    def _from_images(self) -> dict[str, Layer | EmptyState]:
        kinds = {name: kind for name, (_, kind) in LAYERS.items()}
        found: dict[str, Layer | EmptyState] = {}
        for name, image in self.images.items():
            if isinstance(image, EmptyState):
                found[name] = image
            else:
                found[name] = _attempt(partial(as_layer, image), name, kinds.get(name))
        difference = found.get("difference")
        if isinstance(difference, Layer) and SNR not in found:
            found[SNR] = _attempt(lambda: difference.signal_to_noise, SNR, "snr")
        return found

    def marks(self, name: str) -> Marks:
        """Read a catalogue, or the footprints, of the visit and detector shown.

        Raises
        ------
        MissingData, LookupError
            When the run has none.
        """
        run = self.run
        assert run is not None
        colour = COLOURS[[*CATALOGUES, FOOTPRINTS].index(name)]
        if name == FOOTPRINTS:
            return Marks.of_footprints(run.get("source_footprint", **self._where()), colour=colour)
        _, ids, told = CATALOGUES[name]
        return Marks(self.catalogue(name), id_column=ids, shown=told, colour=colour)

    def catalogue(self, name: str) -> Table:
        """Read a catalogue of the visit and detector shown."""
        dataset, run = CATALOGUES[name][0], self.run
        assert run is not None
        refs = run.refs(dataset)
        if refs and "visit" in refs[0].dataId.dimensions.names:
            return run.get(dataset, **self._where())
        table = run.get(dataset)
        return table[(table["visit"] == self.visit) & (table["detector"] == self.detector)]

    def _where(self) -> dict[str, Any]:
        return {"visit": self.visit, "detector": self.detector}

    def _mark(self) -> None:
        self._row = -1
        absent = []
        for name in (*CATALOGUES, FOOTPRINTS):
            marks = None
            if name in self.catalogues and self.run is not None and self.visit is not None and not self.images:
                try:
                    marks = self.marks(name)
                except (MissingData, LookupError):
                    absent.append(name)  # a run that stopped before its catalogues still shows its images
            self.board.mark(name, marks)
        text = f"<div role='status'>This run has no {' and no '.join(absent)} here.</div>"
        self._absent.param.update(object=text, visible=bool(absent))

    def _new_run(self) -> None:
        self._visits = None
        visits = self.visits()
        pairs = {(int(row["visit"]), int(row["detector"])) for row in visits}
        asked = self._asked and self.visit is not None
        if self.run is not None and pairs and not asked and (self.visit, self.detector) not in pairs:
            ready = {(ref.dataId["visit"], ref.dataId["detector"]) for ref in self.run.refs("difference_image")}
            visit, detector = min(ready & pairs or pairs)
            self.param.update(visit=visit, detector=detector)  # loads
        else:
            self.load()

    # state that lives in the panes

    def _from_board(self, event: Any) -> None:
        if not self._busy and getattr(self, event.name) != event.new:
            setattr(self, event.name, event.new)

    def _to_board(self, event: Any) -> None:
        value = tuple(event.new) if event.name == "view" and event.new else event.new
        if getattr(self.board, event.name) != value:
            setattr(self.board, event.name, value)

    def _look(self) -> None:
        if self._busy:
            return
        usual = {name: look_for(layer.kind) for name, layer in self.board.layers.items()}
        self._busy = True
        try:
            wanted = {name: changed(look, self.looks.get(name, {})) for name, look in usual.items()}
            self.board.looks = {**self.board.looks, **wanted}
        finally:
            self._busy = False

    def _looked(self, *_: Any) -> None:
        if self._busy:
            return
        self._busy = True
        odd = {name: changes(look_for(layer.kind), self.board.look(name)) for name, layer in self.board.layers.items()}
        hidden = {name: look for name, look in self.looks.items() if name not in odd}
        self.looks = {**hidden, **{name: look for name, look in odd.items() if look}}
        self._busy = False

    # keys

    def toggle_blink(self) -> None:
        """Start or stop blinking."""
        self.board.blink = not self.board.blink

    def toggle_masks(self) -> None:
        """Draw the mask planes or not."""
        self.board.masks = not self.board.masks

    def previous(self) -> None:
        """Show the previous layer."""
        self.board.step(-1)

    def next(self) -> None:
        """Show the next layer."""
        self.board.step(1)

    def next_link(self) -> None:
        """Link the panes in the next way that is possible."""
        self.board.next_link()

    def next_stretch(self) -> None:
        """Take the next stretch."""
        self.board.next_stretch()

    def reset(self) -> None:
        """Show all of the image."""
        self.board.reset()

    def closer(self) -> None:
        """Zoom in."""
        self._go(zoom=1.5)

    def farther(self) -> None:
        """Zoom out."""
        self._go(zoom=1 / 1.5)

    def go_left(self) -> None:
        """Move the view to the left."""
        self._go(across=-0.2)

    def go_right(self) -> None:
        """Move the view to the right."""
        self._go(across=0.2)

    def go_up(self) -> None:
        """Move the view up."""
        self._go(up=0.2)

    def go_down(self) -> None:
        """Move the view down."""
        self._go(up=-0.2)

    def next_row(self) -> None:
        """Go to the next row of the catalogue that is drawn first."""
        self._choose_row(1)

    def previous_row(self) -> None:
        """Go to the row before."""
        self._choose_row(-1)

    def _first(self) -> Layer | None:
        return next(iter(self.board.layers.values()), None)

    def _go(self, across: float = 0.0, up: float = 0.0, zoom: float = 1.0) -> None:
        layer = self._first()
        if layer is not None:
            self.board.view = stepped(self.board.view, layer, across, up, zoom)

    def _show_place(self, x: float, y: float) -> None:
        layer = self._first()
        assert layer is not None, "there is no image to go to a place on"
        self.board.view = (x, y, min(stepped(self.board.view, layer)[2], 200.0))

    def _choose_row(self, by: int) -> None:
        layer, (name, marks) = self._first(), next(iter(self.board.marks.items()), ("", None))
        if layer is None or marks is None or not len(marks.table):
            return
        self._row = (self._row + by if self._row >= 0 else 0 if by > 0 else -1) % len(marks.table)
        x, y = (float(values[self._row]) for values in marks.on(layer))
        self.board.param.update(picked=(name, marks.row_id(self._row)), near=marks.describe(self._row))
        if np.isfinite(x) and np.isfinite(y):
            self._show_place(x, y)

    # views

    def main(self) -> pn.viewable.Viewable:
        """Give the panes, with the sign convention below."""
        sign = pn.pane.HTML(f"<small style='opacity:.8'>{SIGN}</small>", margin=(0, 6))
        # as high as the screen: what opens above moves the panes down and does not press them together
        styles = {"min-height": "max(460px, calc(100vh - 112px))"}
        return pn.Column(self.board, sign, sizing_mode="stretch_both", min_height=460, styles=styles, margin=0)

    def rail(self) -> pn.viewable.Viewable:
        """Give the choice of visit, and the controls of the panes."""
        parts: list[Any] = [] if self.images else [self._chooser()]
        parts.append(self._place_field())
        if not self.images:
            parts.append(self._layers_of_catalogues())
        return pn.Column(*parts, self.board.controls(), sizing_mode="stretch_width", margin=0)

    def table(self) -> Table | None:
        """Give the catalogue drawn first, or None."""
        return next((marks.table for marks in self.board.marks.values()), None)

    def picture(self) -> bytes | None:
        """Draw the panes as a PNG file."""
        return self.board.picture()

    def _chooser(self) -> pn.viewable.Viewable:
        small: dict[str, Any] = {"margin": (3, 4), "stylesheets": [COMPACT]}
        visit = pn.widgets.Select(label="visit", sizing_mode="stretch_width", **small)
        detector = pn.widgets.Select(label="detector", width=96, **small)
        busy = [False]

        def fill(*_: Any) -> None:
            table, busy[0] = self.visits(), True
            bands = {int(row["visit"]): str(row["band"]) for row in table}
            visits = {f"{v}  {band}": v for v, band in sorted(bands.items())}
            here = [row for row in table if int(row["visit"]) == self.visit]
            names = {str(row["detector_name"]): int(row["detector"]) for row in here}
            # a link may ask for what is not there; the choice then says what was asked for
            for options, value in ((visits, self.visit), (names, self.detector)):
                if value is not None and value not in options.values():
                    options[f"{value}"] = value
            visit.param.update(options=visits, value=self.visit)
            detector.param.update(options=names, value=self.detector)
            busy[0] = False

        def choose(*_: Any) -> None:
            if busy[0] or visit.value is None:
                return
            there = sorted(int(row["detector"]) for row in self.visits() if int(row["visit"]) == visit.value)
            wanted = detector.value if detector.value in there else there[0]
            self.param.update(visit=visit.value, detector=wanted)

        fill()
        self.param.watch(fill, ["run", "visit", "detector"])
        visit.param.watch(choose, "value")
        detector.param.watch(choose, "value")
        return pn.Row(visit, detector, sizing_mode="stretch_width", margin=0)

    def _place_field(self) -> pn.viewable.Viewable:
        field = pn.widgets.TextInput(
            label="go to", placeholder="RA Dec, or x y in pixels", sizing_mode="stretch_width", margin=(3, 4),
            stylesheets=[COMPACT],
        )  # fmt: skip
        said = pn.pane.HTML("", visible=False, margin=(0, 4))

        def go(event: Any) -> None:
            layer, said.visible = self._first(), False
            if not event.new.strip() or layer is None:
                return
            try:
                self._show_place(*find_place(event.new, layer))
            except BadInput as error:
                text = f"<div role='status' style='font-size:12px'>{html.escape(str(error))}</div>"
                said.param.update(object=text, visible=True)

        field.param.watch(go, "value")
        return pn.Column(field, said, sizing_mode="stretch_width", margin=0)

    def _layers_of_catalogues(self) -> pn.viewable.Viewable:
        chosen = pn.widgets.CheckBoxGroup(
            label="catalogues",
            options=[*CATALOGUES, FOOTPRINTS],
            value=list(self.catalogues),
            inline=True,
            margin=(3, 4),
        )
        chosen.link(self, value="catalogues", bidirectional=True)
        return pn.Column(chosen, self._absent, sizing_mode="stretch_width", margin=0)


def _attempt(make: Callable[[], Layer], name: str, kind: Any) -> Layer | EmptyState:
    """Make a layer; what stands against it is what its pane will say."""
    try:
        layer = make()
    except Nothing as nothing:
        return nothing.state
    except MissingData as error:
        return EmptyState(Reason.FILE_MISSING, error.message, error.hint)
    except (CorruptFile, ValueError) as error:
        return EmptyState(Reason.SCHEMA_MISMATCH, f"{name}: {error}", "Look at the file with other means.")
    return layer if kind is None or kind == layer.kind else replace(layer, kind=kind)
