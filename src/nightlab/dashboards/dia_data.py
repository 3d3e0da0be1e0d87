"""DIASources and DIAObjects of a run as the explorer needs them: read, checked, filtered, compared."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from astropy.table import Column, Table, vstack
from numpy.typing import NDArray

from nightlab.columns import flags_among, words
from nightlab.dashboards.rows import Rows
from nightlab.dashboards.states import Nothing, Reason
from nightlab.data.runs import Run
from nightlab.errors import BadInput, MissingData, NightLabError
from nightlab.numeric.sphere import match, separation

Bools = NDArray[np.bool_]
Ints = NDArray[np.integer[Any]]

NEEDED = ("diaSourceId", "visit", "detector", "band", "midpointMjdTai", "ra", "dec", "psfFlux", "psfFluxErr")
SAME = 1.0  # arcsec within which two runs mean the same place
BOTH, ONLY_HERE = "both", "only here"


@dataclass(frozen=True)
class Cuts:
    """What a reader lets through.

    Attributes
    ----------
    bands
        Bands; all when empty.
    snr_min
        Least significance of a source.
    detections_min
        Least number of sources, with the other cuts applied, of an object.
    without, having
        Flags of which none may, and all must, be set.
    reliability_min
        Least reliability, where it was measured.
    cone
        Centre and radius: RA, Dec [deg], radius [arcsec].
    """

    bands: tuple[str, ...] = ()
    snr_min: float = 0.0
    detections_min: int = 1
    without: tuple[str, ...] = ()
    having: tuple[str, ...] = ()
    reliability_min: float = 0.0
    cone: tuple[float, float, float] | None = None


class DiaCatalogue:
    """Sources and objects of a run.

    Parameters
    ----------
    sources
        DIASources; see `NEEDED` for the columns there must be.
    objects
        DIAObjects with ``diaObjectId``, ``ra`` and ``dec``; made from the sources where absent.
    run
        Where they come from, and where forced photometry is looked for.
    notes
        What a reader should know about where they come from.

    Raises
    ------
    Nothing
        When columns are missing, there are no rows, or none has a position.
    """

    def __init__(
        self, sources: Table, objects: Table | None = None, run: Run | None = None, notes: Sequence[str] = ()
    ) -> None:
        missing = [name for name in NEEDED if name not in sources.colnames]
        if missing:
            raise Nothing(
                Reason.SCHEMA_MISMATCH,
                f"The table of sources has no column {', '.join(missing)}.",
                "Make it with ApPipe, or rename its columns as in Rubin's schema of DIASources.",
            )
        if not len(sources):
            raise Nothing(Reason.NO_DATA_SELECTED, "The run found no source in any difference image.")
        position = np.isfinite(np.asarray(sources["ra"], float)) & np.isfinite(np.asarray(sources["dec"], float))
        if not position.any():
            raise Nothing(Reason.ALL_NAN, f"None of the {len(sources)} sources has a finite position.")
        self.run = run
        self.notes = list(notes)
        if lost := int((~position).sum()):
            self.notes.append(f"{lost} sources without a position are in the table, not on the map")
        if "diaObjectId" not in sources.colnames:
            sources = sources.copy(copy_data=False)
            sources["diaObjectId"] = np.zeros(len(sources), dtype=np.int64)
        self.source_table = sources
        self.sources = Rows(sources, "diaSourceId")
        self.flags = [name for name in flags_among(sources.colnames) if self.sources[name].dtype.kind == "b"]
        self.flags += [name for name in ("isDipole", "isNegative") if name in sources.colnames]
        self.flags = list(dict.fromkeys(self.flags))
        self.bands = sorted(set(self.sources["band"].tolist()), key=lambda b: ("ugrizy".find(b) % 7, b))
        self._take_objects(objects)

    @classmethod
    def of_run(cls, run: Run) -> DiaCatalogue:
        """Read what a run has: associated sources where there are, else those of single images.

        Raises
        ------
        Nothing
            When the run has neither, and as the class.
        """
        notes = []
        if run.refs("dia_source"):
            sources = run.get("dia_source")
        elif parts := run.refs("dia_source_unassociated"):
            sources = vstack([run.butler.get(ref) for ref in parts], metadata_conflicts="silent")
            notes.append("association has not run: there are sources, and no objects")
        else:
            raise Nothing(
                Reason.NOT_RUN, f"{run.label} has no difference-image sources.", "Make them: nightlab run ApPipe"
            )
        objects = run.get("dia_object") if run.refs("dia_object") else None
        if run.apdb is None:
            notes.append("no prompt database: forced photometry is read from the run's tables")
        return cls(sources, objects, run, notes)

    def _take_objects(self, objects: Table | None) -> None:
        of = self.sources["diaObjectId"].astype(np.int64)
        if objects is None or not {"diaObjectId", "ra", "dec"} <= set(objects.colnames):
            ids, first = np.unique(of, return_index=True)
            first, ids = first[ids > 0], ids[ids > 0]
            objects = Table({"diaObjectId": ids, "ra": self.sources["ra"][first], "dec": self.sources["dec"][first]})
        objects = objects[np.argsort(np.asarray(objects["diaObjectId"]), kind="stable")]
        ids = np.asarray(objects["diaObjectId"], dtype=np.int64)
        place = np.searchsorted(ids, of)
        known = (of > 0) & (place < ids.size)
        known[known] = ids[place[known]] == of[known]
        self.row_of_object = np.where(known, place, -1)
        self.object_table = self._summary(objects, ids)
        self.objects = Rows(self.object_table, "diaObjectId")

    def _summary(self, objects: Table, ids: NDArray[np.int64]) -> Table:
        """Objects with what a table shows of them: counts, times, best S/N, and by band the mean flux."""
        n, member = ids.size, self.row_of_object >= 0
        row = self.row_of_object[member]
        table = Table({"diaObjectId": ids})
        for name in ("ra", "dec"):
            table[name] = Column(np.asarray(objects[name], float), unit="deg")
        table["nDiaSources"] = np.bincount(row, minlength=n).astype(np.int32)
        best = np.full(n, -np.inf)
        np.fmax.at(best, row, self.snr[member])
        table["snr"] = np.where(np.isfinite(best), best, np.nan)
        time = self.sources["midpointMjdTai"][member]
        for name, reduce, start in (
            ("firstDiaSourceMjdTai", np.fmin, np.inf),
            ("lastDiaSourceMjdTai", np.fmax, -np.inf),
        ):
            values = np.full(n, start)
            reduce.at(values, row, time)
            table[name] = Column(np.where(np.isfinite(values), values, np.nan), unit="d")
        for band in self.bands:
            for name in ("psfFluxMean",):
                if f"{band}_{name}" in objects.colnames:
                    table[f"{band}_{name}"] = objects[f"{band}_{name}"]
        table["band"] = self._strongest_band(n, row, member)
        return table

    def _strongest_band(self, n: int, row: Ints, member: Bools) -> NDArray[np.str_]:
        """Band with the most sources of each object; it colours the object on the map."""
        counts = np.zeros((max(len(self.bands), 1), n), dtype=np.int32)
        for k, band in enumerate(self.bands):
            counts[k] = np.bincount(row[self.sources["band"][member] == band], minlength=n)
        return np.asarray(self.bands or [""])[counts.argmax(axis=0)] if n else np.zeros(0, dtype="<U1")

    @cached_property
    def snr(self) -> NDArray[np.float64]:
        """Significance of the sources; from flux and error where the detection's was not kept."""
        if "snr" in self.sources.names:
            return np.asarray(self.sources["snr"], float)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.abs(np.asarray(self.sources["psfFlux"], float) / np.asarray(self.sources["psfFluxErr"], float))
        return np.where(np.isfinite(ratio), ratio, np.nan)

    def source_mask(self, cuts: Cuts) -> Bools:
        """Sources that pass, as (n,) booleans."""
        keep = np.ones(len(self.sources), dtype=bool)
        if cuts.bands:
            keep &= np.isin(self.sources["band"], cuts.bands)
        if cuts.snr_min > 0:
            keep &= self.snr >= cuts.snr_min
        for flag in cuts.without:
            if flag in self.sources.names:
                keep &= ~self.sources[flag].astype(bool)
        for flag in cuts.having:
            if flag in self.sources.names:
                keep &= self.sources[flag].astype(bool)
        if cuts.reliability_min > 0 and "reliability" in self.sources.names:
            keep &= np.asarray(self.sources["reliability"], float) >= cuts.reliability_min
        if cuts.cone is not None:
            keep &= _within(self.sources["ra"], self.sources["dec"], cuts.cone)
        return keep

    def object_mask(self, cuts: Cuts) -> Bools:
        """Objects that keep enough sources, as (n,) booleans; the cone is about the object's own position."""
        passing = self.source_mask(Cuts(**{**cuts.__dict__, "cone": None}))
        rows = self.row_of_object[passing & (self.row_of_object >= 0)]
        keep = np.bincount(rows, minlength=len(self.objects)) >= max(cuts.detections_min, 1)
        if cuts.cone is not None:
            keep &= _within(self.objects["ra"], self.objects["dec"], cuts.cone)
        return keep

    def detections(self, object_id: int) -> Table:
        """Sources of an object, in time order."""
        rows = np.flatnonzero(self.sources["diaObjectId"] == object_id) if object_id > 0 else np.zeros(0, int)
        return self.source_table[rows[np.argsort(self.sources["midpointMjdTai"][rows], kind="stable")]]

    def forced(self, object_id: int) -> Table | None:
        """Forced photometry of an object, from the prompt database or the run's tables; None where there is none."""
        if self.run is None or object_id <= 0:
            return None
        try:
            return self.run.light_curve(object_id, forced=True)
        except MissingData:
            return self._forced_in_tables(object_id)

    def _forced_in_tables(self, object_id: int) -> Table | None:
        assert self.run is not None, "forced photometry belongs to a run"
        parts = []
        for ref in self.run.refs("dia_forced_source"):
            table = self.run.butler.get(ref)
            parts.append(table[np.asarray(table["diaObjectId"]) == object_id])
        return vstack(parts, metadata_conflicts="silent") if parts else None

    def focal_plane(self) -> tuple[NDArray[np.float64], NDArray[np.float64], str]:
        """Places of the sources on the focal plane: x, y and their unit; detector pixels where no camera is known."""
        x, y = (np.asarray(self.sources[name], dtype=float).copy() for name in ("x", "y"))
        unit = "pix"
        detectors = self.sources["detector"]
        for number in np.unique(detectors).tolist():
            here = np.flatnonzero(detectors == number)
            camera = self._camera(number)
            if camera is None:
                return np.asarray(self.sources["x"], float), np.asarray(self.sources["y"], float), "pix"
            there = camera.to_focal_plane.apply_forward(x=x[here], y=y[here])
            x[here], y[here] = there.x, there.y
            unit = str(camera.to_focal_plane.out_frame.unit)
        return x, y, unit

    def _camera(self, detector: int) -> Any:
        refs = self.run.refs("visit_image", detector=detector)[:1] if self.run is not None else []
        try:
            return self.run.butler.get(refs[0].makeComponentRef("detector")) if self.run and refs else None
        except (NightLabError, OSError):
            return None

    def against(self, other: DiaCatalogue, kind: str) -> NDArray[np.str_]:
        """Say of every row, ``objects`` or ``sources``, whether another catalogue has it at the same place.

        Sources are compared exposure by exposure.

        Returns
        -------
        numpy.ndarray
            (n,) `BOTH` or `ONLY_HERE`.
        """
        mine, theirs = getattr(self, kind), getattr(other, kind)
        found = np.full(len(mine), ONLY_HERE, dtype="<U9")
        groups: list[tuple[Ints, Ints]] = [(np.arange(len(mine)), np.arange(len(theirs)))]
        if kind == "sources":
            groups = list(_by_exposure(mine, theirs))
        for here, there in groups:
            first, _, _ = match(mine["ra"][here], mine["dec"][here], theirs["ra"][there], theirs["dec"][there], SAME)
            found[here[first]] = BOTH
        return found


def _by_exposure(mine: Rows, theirs: Rows) -> list[tuple[Ints, Ints]]:
    keys = [rows["visit"].astype(np.int64) * 100_000 + rows["detector"].astype(np.int64) for rows in (mine, theirs)]
    orders = [np.argsort(key, kind="stable") for key in keys]
    groups: list[tuple[Ints, Ints]] = []
    for key in np.intersect1d(keys[0], keys[1]).tolist():
        ends = [np.searchsorted(keys[k][orders[k]], [key, key + 1]) for k in (0, 1)]
        groups.append((orders[0][ends[0][0] : ends[0][1]], orders[1][ends[1][0] : ends[1][1]]))
    return groups


def _within(ra: Any, dec: Any, cone: tuple[float, float, float]) -> Bools:
    ra, dec = np.asarray(ra, float), np.asarray(dec, float)
    near = np.abs(dec - cone[1]) * 3600 <= cone[2]  # cheap, and leaves few for the exact test
    near[near] = separation(ra[near], dec[near], cone[0], cone[1]) <= cone[2]
    return near


_SUFFIX = {
    "": 1.0,
    '"': 1.0,
    "arcsec": 1.0,
    "as": 1.0,
    "'": 60.0,
    "arcmin": 60.0,
    "am": 60.0,
    "deg": 3600.0,
    "d": 3600.0,
}


def read_search(text: str) -> int | tuple[float, float, float] | None:
    """Read what was typed into the search box: an id, or ``RA Dec [radius]``.

    Positions are degrees or sexagesimal (hours first); the radius is in arcsec unless ``arcmin`` or ``deg`` follow,
    and 10 arcsec when absent.

    Raises
    ------
    BadInput
        When it is neither.
    """
    text = text.strip().replace("−", "-").replace(",", " ")
    if not text:
        return None
    if re.fullmatch(r"\d{4,20}", text):
        return int(text)
    hint = "for example 150.0750 2.1780 30, or 10:00:18.0 +02:10:41 2 arcmin, or an id"
    parts = re.match(
        r"^(?P<ra>[\d.:]+)\s+(?P<dec>[-+]?[\d.:]+)(?:\s+(?P<radius>\d+\.?\d*)\s*(?P<unit>[a-z\"']*))?$", text
    )
    if parts is None or (parts["unit"] or "") not in _SUFFIX:
        raise BadInput(f"cannot read {text!r} as an id or a position", hint=hint)
    try:
        ra, dec = _angle(parts["ra"]) * (15 if ":" in parts["ra"] else 1), _angle(parts["dec"])
    except ValueError:
        raise BadInput(f"cannot read {text!r} as a position", hint=hint) from None
    if not (0 <= ra <= 360 and -90 <= dec <= 90):
        raise BadInput(f"there is no RA {ra:g}, Dec {dec:g} on the sky", hint=hint)
    return ra % 360.0, dec, float(parts["radius"] or 10) * _SUFFIX[parts["unit"] or ""]


def _angle(text: str) -> float:
    sign = -1.0 if text.startswith("-") else 1.0
    fields = [float(field) for field in text.lstrip("+-").split(":")]
    if len(fields) > 3:
        raise ValueError(text)
    return sign * sum(field / 60**k for k, field in enumerate(fields))


def flags_in_words(table: Table, flags: Sequence[str]) -> list[tuple[str, str, int]]:
    """Count the flags that are set in some rows: title, sentence, number of rows."""
    counts = {flag: int(np.asarray(table[flag], dtype=bool).sum()) for flag in flags if flag in table.colnames}
    return [(*words(flag), count) for flag, count in counts.items() if count]
