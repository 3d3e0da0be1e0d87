"""The explorer of DIASources and DIAObjects: map, light curve, cutouts, table; a click in one moves all."""

from __future__ import annotations

from typing import Any, ClassVar
from urllib.parse import urlencode

import numpy as np
import panel as pn
import param
from astropy.table import Table
from numpy.typing import NDArray

from nightlab.columns import words
from nightlab.dashboards.curves import QUANTITIES, calendar, epochs_of
from nightlab.dashboards.cutout_views import FilmStrip, triplet_view
from nightlab.dashboards.cutouts import CutoutReader, Lobe, dipole_lobes
from nightlab.dashboards.dia_data import BOTH, Cuts, DiaCatalogue, read_search
from nightlab.dashboards.dia_filters import filter_panel
from nightlab.dashboards.explorer import Explorer
from nightlab.dashboards.library import Library
from nightlab.dashboards.light_curves import CLOCKS, LightCurve
from nightlab.dashboards.live import at_once
from nightlab.dashboards.object_card import object_card
from nightlab.dashboards.rows import significant
from nightlab.dashboards.sky_map import Points, SkyMap, sky_points
from nightlab.dashboards.states import EmptyState, Nothing, Pane, Reason
from nightlab.dashboards.style import wrapping
from nightlab.dashboards.tables import BigTable
from nightlab.errors import BadInput

Bools = NDArray[np.bool_]

EVERYTHING, IN_BOTH, ONLY_A, ONLY_B = "everything in A", "in both", "only in A", "only in B"
CURVE_STATE = ("quantity", "clock", "show_forced", "show_limits", "hidden", "folded", "period", "epoch")
SHOWN = {
    "objects": (
        "diaObjectId", "ra", "dec", "nDiaSources", "snr", "firstDiaSourceMjdTai", "lastDiaSourceMjdTai", "*Mean",
    ),
    "sources": (
        "diaSourceId", "diaObjectId", "visit", "detector", "band", "midpointMjdTai", "ra", "dec", "snr", "psfFlux",
        "psfFluxErr", "scienceFlux", "reliability", "isNegative", "isDipole",
    ),
}  # fmt: skip


class DiaExplorer(Explorer):
    """DIASources and DIAObjects of a run.

    ``object`` and ``source`` are ids as text, ``epoch`` is ``visit:detector``; all parameters can be set from Python.
    """

    slug = "dia"
    title = "DIASources and DIAObjects"
    summary = "What changed: a map of sources and objects, their light curves, and cutouts of every epoch."
    remembered = (
        "kind", "plane", "bands", "snr_min", "detections_min", "without", "having", "reliability_min", "search",
        "only", "box", "object", "source", "film", *CURVE_STATE,
    )  # fmt: skip
    in_url = ("kind", "object", "source", "epoch", "bands", "search", "box", "quantity")
    keys: ClassVar[dict[str, tuple[str, str]]] = {
        "[": ("previous_epoch", "previous epoch"),
        "]": ("next_epoch", "next epoch"),
        "j": ("next_row", "next row of the table"),
        "k": ("previous_row", "previous row of the table"),
        "q": ("next_quantity", "next of difference flux, total flux, magnitudes"),
        "r": ("reset", "let everything through again"),
    }

    kind: Any = param.Selector(default="objects", objects=["objects", "sources"], doc="What map and table show.")
    plane: Any = param.Selector(default="sky", objects=["sky", "focal plane"], doc="What the map is of.")
    bands = param.List(default=[], item_type=str, doc="Bands let through; all when empty.")
    snr_min = param.Number(default=0.0, bounds=(0, None), label="S/N ≥", doc="Least significance of a source.")
    detections_min = param.Integer(
        default=1, bounds=(1, None), label="detections ≥", doc="Least number, of an object."
    )
    without = param.List(default=[], item_type=str, doc="Flags of which none may be set.")
    having = param.List(default=[], item_type=str, doc="Flags that must all be set.")
    reliability_min = param.Number(default=0.0, bounds=(0, 1), label="reliability ≥", doc="Where measured.")
    search = param.String(default="", doc="An id, or RA Dec [radius].")
    only: Any = param.Selector(
        default=EVERYTHING, objects=[EVERYTHING, IN_BOTH, ONLY_A, ONLY_B], doc="By position, when compared."
    )
    box = param.Tuple(default=None, length=4, allow_None=True, doc="Rectangle on the map: x0, x1, y0, y1.")
    object = param.String(default="", doc="Chosen DIAObject, as text.")
    source = param.String(default="", doc="Chosen DIASource, as text.")
    epoch = param.String(default="", doc="Chosen exposure, visit:detector.")
    quantity: Any = param.Selector(default="difference flux", objects=list(QUANTITIES), doc="Of the light curve.")
    clock: Any = param.Selector(default="MJD", objects=list(CLOCKS), doc="How the light curve tells time.")
    show_forced = param.Boolean(default=True, doc="Draw forced photometry.")
    show_limits = param.Boolean(default=True, doc="Draw upper limits.")
    hidden = param.List(default=[], item_type=str, doc="Bands hidden in the light curve.")
    folded = param.Boolean(default=False, doc="Draw the folded light curve.")
    period = param.Number(default=1.0, bounds=(0, None), inclusive_bounds=(False, True), doc="Period [d].")

    film = param.Boolean(default=False, label="film strip", doc="Show small cutouts of all epochs.")

    def __init__(self, library: Library | None = None, **state: Any) -> None:
        self.catalogue: DiaCatalogue | None = None
        self.catalogues: dict[str, DiaCatalogue] = {}
        super().__init__(library, **state)
        self.pane = Pane("sources and objects", min_height=300)
        self.curve = LightCurve(**{name: getattr(self, name) for name in CURVE_STATE})
        self.map = SkyMap(self._describe)
        self.strip = FilmStrip(reader=self._cutouts, sizing_mode="stretch_width")
        self.grid = BigTable({"diaObjectId": np.zeros(0, np.int64)}, "diaObjectId", height="300px")
        self.triplet_pane = Pane("cutouts", min_height=200)
        self.card_pane = Pane("the object", min_height=150)
        self.status = pn.pane.HTML("", sizing_mode="stretch_width", margin=(0, 10))
        self.filters = pn.Column(sizing_mode="stretch_width", margin=0)
        self._detections: Table | None = None
        self._place = (np.nan, np.nan)
        self._status: dict[tuple[str, str], Bools] = {}
        self._told = ""
        self.reader: CutoutReader | None = None
        self._join()
        self._load()

    def _join(self) -> None:
        """Tie the parts together: every part speaks only with the explorer's parameters."""
        _tie(self, self.curve, CURVE_STATE)
        _tie(self, self.map, ("box",))
        watch = self.param.watch
        watch(lambda *_: self._load(), ["run", "other"])
        watch(lambda *_: self._fill(), ["kind", "plane", "only"])
        watch(
            lambda *_: self._refilter(),
            ["bands", "snr_min", "detections_min", "without", "having", "reliability_min", "search", "box"],
        )
        watch(lambda *_: self._show_chosen(), ["object", "source"])
        watch(lambda *_: self._show_epoch(), "epoch")
        self.map.param.watch(lambda event: self._choose_row(event.new), "picked", onlychanged=False)
        self.grid.param.watch(lambda event: self._choose_ids(event.new), "selected")
        self.strip.param.watch(lambda event: setattr(self, "epoch", event.new), "chosen")

    # data

    def _load(self) -> None:
        """Read the runs; what is wrong with them takes the place of the page's body."""
        self.catalogue, self.catalogues, self._status = None, {}, {}
        if self.run is None:
            self.pane.empty(EmptyState(Reason.NO_DATA_SELECTED, "No run is chosen.", "Choose one above."))
            return
        with self.pane.guarded("Reading sources and objects"):
            self.catalogues["A"] = DiaCatalogue.of_run(self.run)
            self.catalogue = self.catalogues["A"]
            if self.other is not None:
                self.catalogues["B"] = DiaCatalogue.of_run(self.other)
            self._open()

    def _open(self) -> None:
        """Show the catalogue for the first time; the best-observed object is chosen unless one already is."""
        assert self.catalogue is not None, "there is nothing to show"
        self.filters.objects = [filter_panel(self)]
        self._fill()
        if self.object or self.source or self.search:
            self._show_object()
        elif len(self.catalogue.objects) and self.kind == "objects":
            rows = self.catalogue.objects
            self.object = rows.ids([int(np.lexsort((np.nan_to_num(rows["snr"]), rows["nDiaSources"]))[-1])])[0]
        else:
            self._choose_ids(self.catalogue.sources.ids([int(np.argmax(np.nan_to_num(self.catalogue.snr)))]))
        self.pane.ready(self._body())

    @classmethod
    def from_tables(cls, sources: Table, objects: Table | None = None, **state: Any) -> DiaExplorer:
        """Make an explorer of tables in memory; without a run there are no cutouts and no forced photometry."""
        explorer = cls(**state)
        with explorer.pane.guarded("Reading tables"):
            explorer.catalogues["A"] = explorer.catalogue = DiaCatalogue(sources, objects)
            explorer._open()
        return explorer

    @property
    def side(self) -> str:
        """Which of the two runs is shown."""
        return "B" if self.only == ONLY_B and "B" in self.catalogues else "A"

    def _fill(self) -> None:
        """Hand the rows to map and table."""
        if not self.catalogues:
            return
        self.catalogue = catalogue = self.catalogues[self.side]
        rows = getattr(catalogue, self.kind)
        names = [name for name in rows.names if any(_like(name, shown) for shown in SHOWN[self.kind])]
        order = {name: k for k, name in enumerate(SHOWN[self.kind])}
        names.sort(key=lambda name: order.get(name, len(order)))
        self.grid.describe(
            titles={name: words(name).title for name in rows.names},
            helps={name: words(name).sentence for name in rows.names},
            links={"visit": self._image_link} if self.kind == "sources" and catalogue.run is not None else {},
            filename=f"dia_{self.kind}",
        )
        self.grid.fill(rows, names)
        self.reader = CutoutReader(catalogue.run) if catalogue.run is not None else None
        self.map.fill(self._points(catalogue), self._mask(with_box=False))
        self._refilter()
        self._mark()

    def _points(self, catalogue: DiaCatalogue) -> Points:
        rows = getattr(catalogue, self.kind)
        band = rows["band"] if "band" in rows.names else np.full(len(rows), "")
        if self.plane == "sky":
            return sky_points(rows["ra"], rows["dec"], band)
        x, y, unit = catalogue.focal_plane()
        if self.kind == "objects":  # an object stands where its first source does
            first = np.zeros(len(rows), dtype=int)
            known = np.flatnonzero(catalogue.row_of_object >= 0)[::-1]
            first[catalogue.row_of_object[known]] = known
            x, y = x[first], y[first]
        return Points(x, y, band, f"focal plane x [{unit}]", f"focal plane y [{unit}]")

    def cuts(self) -> Cuts:
        """Give the filters as the catalogue takes them; the search counts when it is a position."""
        cone = None
        try:
            found = read_search(self.search)
            cone = found if isinstance(found, tuple) else None
        except BadInput as error:
            self._tell(str(error))
        return Cuts(
            tuple(self.bands), self.snr_min, self.detections_min, tuple(self.without), tuple(self.having),
            self.reliability_min, cone,
        )  # fmt: skip

    def _mask(self, *, with_box: bool = True) -> Bools:
        catalogue = self.catalogue
        assert catalogue is not None, "there is no catalogue to filter"
        cuts = self.cuts()
        keep = catalogue.object_mask(cuts) if self.kind == "objects" else catalogue.source_mask(cuts)
        if self.kind == "sources" and cuts.detections_min > 1:
            counts = np.append(catalogue.objects["nDiaSources"], 0)
            keep = keep & (counts[catalogue.row_of_object] >= cuts.detections_min)
        if len(self.catalogues) == 2 and self.only != EVERYTHING:
            key = (self.side, self.kind)
            if key not in self._status:
                theirs = self.catalogues["A" if self.side == "B" else "B"]
                self._status[key] = catalogue.against(theirs, self.kind) == BOTH
            keep = keep & (self._status[key] if self.only == IN_BOTH else ~self._status[key])
        if with_box and (inside := self.map.inside()) is not None:
            keep = keep & inside
        return keep

    def _refilter(self) -> None:
        if self.catalogue is None:
            return
        self._tell("")
        self._jump()
        keep = self._mask(with_box=False)
        self.map.choose(keep)
        inside = self.map.inside()
        kept = keep if inside is None else keep & inside
        self.grid.message = (
            "No rows: the filters let none through. Press r, or “let everything through”, to see all again."
        )
        self.grid.keep = kept
        self._count(int(kept.sum()), kept.size)

    def _jump(self) -> None:
        """Go to the object or source whose id was searched for."""
        try:
            found = read_search(self.search)
        except BadInput:
            return
        if isinstance(found, int) and self.catalogue is not None:
            text = str(found)
            if self.catalogue.objects.find(text) >= 0:
                self.object = text
            elif self.catalogue.sources.find(text) >= 0:
                self.source = text
            else:
                self._tell(f"There is no object and no source {text} here.")

    def _count(self, kept: int, every: int) -> None:
        assert self.catalogue is not None, "there is nothing to count"
        text = f"<b>{kept:,}</b> of {every:,} {self.kind}".replace(",", "\u2009")
        state = "" if kept else f" — {Reason.FILTERED_TO_ZERO}"
        notes = "".join(f"<br>{note}" for note in self.catalogue.notes)
        self.status.object = f"<div role='status' style='font-size:13px'>{text}{state}{notes}{self._told}</div>"

    def _tell(self, words: str) -> None:
        self._told = f"<br><b>{words}</b>" if words else ""

    # choosing

    def _choose_row(self, row: int) -> None:
        if self.catalogue is not None and row >= 0:
            self._choose_ids(getattr(self.catalogue, self.kind).ids([row]))

    def _choose_ids(self, ids: list[str]) -> None:
        if ids and self.kind == "objects":
            self.param.update(object=ids[0], source="")
        elif ids and self.catalogue is not None:
            row = self.catalogue.sources.find(ids[0])
            number = int(self.catalogue.sources["diaObjectId"][row])
            self.param.update(object=str(number) if number > 0 else "", source=ids[0])

    def _mark(self) -> None:
        """Show the choice on the map and in the table."""
        chosen = self.object if self.kind == "objects" else self.source or self._source_of_epoch()
        rows = getattr(self.catalogue, self.kind)
        self.map.mark(rows.find(chosen) if chosen else -1)
        if chosen and self.grid.selected != [chosen]:
            self.grid.selected = [chosen]

    def _source_of_epoch(self) -> str:
        """Id of the chosen object's source in the chosen epoch; empty where it was not detected."""
        if self._detections is None or not len(self._detections):
            return ""
        there = self._detections["diaSourceId"][epochs_of(self._detections) == self.epoch]
        return str(there[0]) if len(there) else ""

    def _show_chosen(self) -> None:
        with at_once():
            self._show_object()

    def _show_object(self) -> None:
        catalogue = self.catalogue
        if catalogue is None:
            return
        detections, forced = self._measurements(catalogue)
        self._detections = detections
        if detections is None or not len(detections):
            self.curve.set_tables(None, None)
            gone = f" {self.object or self.source} is not in this run." if self.object or self.source else ""
            nothing = EmptyState(Reason.NO_DATA_SELECTED, f"No object is chosen.{gone}", "Click a point or a row.")
            self.card_pane.empty(nothing)
            self.triplet_pane.empty(nothing)
            self.strip.frames = []
            return
        with self.card_pane.guarded("Reading the object"):
            row = catalogue.objects.find(self.object) if self.object else -1
            rows = catalogue.objects if row >= 0 else catalogue.sources
            at = row if row >= 0 else rows.find(self.source)
            self._place = float(rows["ra"][at]), float(rows["dec"][at])
            name = f"DIAObject {self.object}" if row >= 0 else f"DIASource {self.source}, of no object"
            self.card_pane.ready(object_card(name, *self._place, detections, catalogue.flags))
        self.curve.set_tables(detections, forced)
        self._frames()
        epoch = self._first_epoch(detections)
        if epoch == self.epoch:
            self._show_epoch()
        self.epoch = epoch
        self._mark()

    def _measurements(self, catalogue: DiaCatalogue) -> tuple[Table | None, Table | None]:
        if self.object.isdigit() and catalogue.objects.find(self.object) >= 0:
            return catalogue.detections(int(self.object)), catalogue.forced(int(self.object))
        row = catalogue.sources.find(self.source) if self.source else -1
        return (catalogue.source_table[[row]], None) if row >= 0 else (None, None)

    def _first_epoch(self, detections: Table) -> str:
        """Keep the epoch if the object has it; else that of the chosen source; else the most significant one."""
        epochs = epochs_of(detections).tolist()
        ids = [str(number) for number in detections["diaSourceId"].tolist()]
        if self.source in ids:
            return epochs[ids.index(self.source)]
        if self.curve.curve is not None and self.epoch in self.curve.curve.epochs:
            return self.epoch
        flux = np.abs(np.ma.filled(np.ma.asarray(detections["psfFlux"]).astype(float), np.nan))
        error = np.asarray(detections["psfFluxErr"], float)
        with np.errstate(divide="ignore", invalid="ignore"):
            return epochs[int(np.argmax(np.nan_to_num(flux / error, nan=-1.0, posinf=-1.0)))]

    # cutouts

    def _frames(self) -> None:
        made = self.curve.curve
        frames = []
        if made is not None:
            times = {epoch: (band, mjd) for band, points in made.bands.items()
                     for epoch, mjd in zip(points.epoch.tolist(), points.mjd.tolist(), strict=True)}  # fmt: skip
            for epoch in made.epochs:
                band, mjd = times[epoch]
                visit, _, detector = epoch.partition(":")
                detail = f"visit {visit}, detector {detector}, {calendar(mjd)}"
                frames.append({"key": epoch, "band": band, "label": f"{mjd:.3f}", "detail": detail})
        self.strip.frames = frames

    def _cutouts(self, epoch: str) -> list[Any]:
        visit, _, detector = epoch.partition(":")
        assert self.reader is not None, "there are no images without a run"
        return self.reader.triplet(*self._place, int(visit), int(detector))

    def _show_epoch(self) -> None:
        if self.strip.chosen != self.epoch:
            self.strip.chosen = self.epoch
        if self.catalogue is None or self._detections is None or not self.epoch:
            return
        self.triplet_pane.loading(f"Reading cutouts of {self.epoch}")
        pn.state.onload(self._show_cutouts)  # a page that opens shows map and light curve first

    def _show_cutouts(self) -> None:
        with self.triplet_pane.guarded(f"Reading cutouts of {self.epoch}"):
            if self.reader is None:
                raise Nothing(Reason.NOT_RUN, "Tables alone have no images.", "Open a run to see cutouts.")
            cutouts = self._cutouts(self.epoch)
            self.triplet_pane.ready(triplet_view(cutouts, self._lobes()))

    def _lobes(self) -> tuple[Lobe, ...]:
        """Lobes of the dipole detected in the epoch, if it was one."""
        table = self._detections
        if table is None or not {"isDipole", "dipoleLength", "dipoleAngle", "x", "y"} <= set(table.colnames):
            return ()
        rows = np.flatnonzero((epochs_of(table) == self.epoch) & np.asarray(table["isDipole"], bool))
        if not rows.size or self.reader is None:
            return ()
        visit, _, detector = self.epoch.partition(":")
        scale = self.reader.scale(int(visit), int(detector))
        x, y, length, angle = (float(table[name][rows[0]]) for name in ("x", "y", "dipoleLength", "dipoleAngle"))
        return dipole_lobes(x, y, length, angle, scale)

    # keys

    def next_epoch(self) -> None:
        """Go to the next exposure of the object."""
        self.curve.step(1)

    def previous_epoch(self) -> None:
        """Go to the previous exposure of the object."""
        self.curve.step(-1)

    def next_row(self) -> None:
        """Choose the next row of the table."""
        self.grid.step(1)

    def previous_row(self) -> None:
        """Choose the previous row of the table."""
        self.grid.step(-1)

    def next_quantity(self) -> None:
        """Draw the next quantity in the light curve."""
        self.quantity = QUANTITIES[(QUANTITIES.index(self.quantity) + 1) % len(QUANTITIES)]

    def reset(self) -> None:
        """Let all rows through."""
        self.param.update(
            bands=[], snr_min=0.0, detections_min=1, without=[], having=[], reliability_min=0.0, search="", box=None,
            only=EVERYTHING,
        )  # fmt: skip
        self.grid.filters = {}

    # page

    def rail(self) -> pn.Column:
        """Give the filters."""
        return pn.Column(self.status, self.filters, sizing_mode="stretch_width")

    def main(self) -> pn.viewable.Viewable:
        """Give map, light curve, cutouts and table."""
        return pn.Column(self.pane, sizing_mode="stretch_width", margin=0)

    def _body(self) -> pn.Column:
        earlier = pn.widgets.Button(label="‹ previous", width=100, margin=(2, 4))
        later = pn.widgets.Button(label="next ›", width=80, margin=(2, 4))
        earlier.on_click(lambda _: self.previous_epoch())
        later.on_click(lambda _: self.next_epoch())
        title = pn.pane.HTML(pn.bind(self._epoch_words, self.param.epoch), margin=(8, 8), sizing_mode="stretch_width")
        film = pn.widgets.Toggle.from_param(self.param.film, width=100, margin=(2, 4))
        strip = pn.Column(self.strip, visible=self.param.film, sizing_mode="stretch_width", margin=0)
        cutouts = pn.Column(
            pn.Row(earlier, later, film, title), self.triplet_pane, strip, sizing_mode="stretch_width", margin=0
        )
        wide: dict[str, Any] = {"sizing_mode": "stretch_width"}
        left = pn.Column(
            self.map, self.card_pane, styles={"flex": "1 1 330px", "max-width": "max(38%, 420px)"}, **wide
        )
        right = pn.Column(self.curve, cutouts, styles={"flex": "2 1 520px", "min-width": "0"}, **wide)
        return pn.Column(wrapping(left, right, gap="0 12px"), self.grid, margin=0, **wide)

    def _epoch_words(self, epoch: str) -> str:
        visit, _, detector = epoch.partition(":")
        return f"visit {visit}, detector {detector}" if visit else ""

    def _describe(self, row: int) -> str:
        """Say what is under the pointer."""
        rows = getattr(self.catalogue, self.kind)
        ra, dec = float(rows["ra"][row]), float(rows["dec"][row])
        snr = f", S/N {significant(float(rows['snr'][row]), 3)}" if "snr" in rows.names else ""
        count = f", {int(rows['nDiaSources'][row])} detections" if self.kind == "objects" else f", {rows['band'][row]}"
        return f"<span style='font-size:12px'>{rows.ids([row])[0]} · {ra:.5f} {dec:+.5f}{count}{snr}</span>"

    def _image_link(self, row: int) -> str:
        catalogue = self.catalogue
        if catalogue is None or catalogue.run is None:
            return ""
        rows = catalogue.sources
        query = {name: rows[name][row] for name in ("visit", "detector")}
        return f"./images?{urlencode({'run': self.library.key_of(catalogue.run), **query})}"

    def table(self) -> Table | None:
        """Give the rows of the table as filtered and ordered."""
        if self.catalogue is None:
            return None
        made = self.catalogue.object_table if self.kind == "objects" else self.catalogue.source_table
        return made[self.grid.filtered]


def _like(name: str, pattern: str) -> bool:
    return name.endswith(pattern[1:]) if pattern.startswith("*") else name == pattern


def _tie(one: param.Parameterized, two: param.Parameterized, names: tuple[str, ...]) -> None:
    """Keep parameters of the same names in two objects equal."""
    one.param.watch(lambda *events: _set(two, events), list(names))
    two.param.watch(lambda *events: _set(one, events), list(names))


def _set(target: param.Parameterized, events: tuple[Any, ...]) -> None:
    target.param.update({event.name: event.new for event in events if getattr(target, event.name) != event.new})
