"""Bring associated sources into the prompt database, visit by visit in time order, once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import pandas
import sqlalchemy
from astropy.table import Table, vstack
from astropy.time import Time
from lsst.dax.apdb import ApdbTables
from lsst.dax.apdb.sql import ApdbSql
from numpy.typing import NDArray
from pydantic import Field

from nightlab.config import Config
from nightlab.data.apdb.conform import PROCESSED, conform, digest
from nightlab.data.apdb.connect import create_apdb, engine_of, exists, guarded, open_apdb, sql_table
from nightlab.data.apdb.log import LoggedVisit, logged_visits, write_log
from nightlab.errors import BadInput, LateVisit
from nightlab.stages.association.light_curves import floats, object_versions

NEEDED = (
    "diaSourceId", "diaObjectId", "visit", "detector", "midpointMjdTai", "ra", "dec", "x", "y", "band", "psfFlux",
    "psfFluxErr",
)  # fmt: skip
NEEDED_OF_FORCED = (
    "diaForcedSourceId",
    "diaObjectId",
    "visit",
    "detector",
    "band",
    "midpointMjdTai",
    "psfFlux",
    "psfFluxErr",
)
SAME_TIME = 1e-9  # days by which visits of equal time are told apart in validity intervals: 86 microseconds
NAMES = [field.name for field in fields(LoggedVisit)]
SOURCE_KEYS, FORCED_KEYS = ["diaSourceId"], ["diaObjectId", "detector"]


class ApdbConfig(Config):
    """Where the prompt database is, and what is left out of it."""

    uri: str = Field(default="", description="folder of a SQLite database, or an SQLAlchemy URL; made when absent")
    extra_columns: tuple[str, ...] = Field(
        default=(
            "dipoleNegativeFlux",
            "dipolePositiveFlux",
            "pixelFlags_highVariance",
            "pixelFlags_saturatedTemplate",
            "psfFlux_flag",
            "psfFlux_flag_edge",
            "scienceFlux_flag",
        ),
        description="columns of ours that the schema may lack; others that it lacks are refused",
    )
    time_processed: float | None = Field(
        default=None, description="time of processing to write, TAI MJD [d]; the clock when absent"
    )


@dataclass(frozen=True, kw_only=True)
class ApdbFill:
    """What filling leaves behind.

    Attributes
    ----------
    apdb_log
        One row per visit offered, in time order: the fields of `LoggedVisit` and ``status``, which is ``stored``,
        ``present`` (was there with the same content), ``amended`` (was there; forced sources were added) or
        ``recovered`` (was stored by a process that died before it could say so).
    """

    apdb_log: Table


@dataclass(frozen=True, kw_only=True)
class _Visit:
    visit: int
    midpoint: float
    detectors: str
    sources: pandas.DataFrame
    forced: pandas.DataFrame
    n_left_out: int
    has_rows: bool  # whether any source was offered, with or without position


def fill_apdb(
    dia_source: Table,
    dia_object: Table,
    dia_forced_source: Sequence[Table] = (),
    config: ApdbConfig = ApdbConfig(),
) -> ApdbFill:
    """Store visits that the database does not have yet.

    Each visit is one transaction: the sources, the forced sources, and a new version of every object that the visit
    touched, with statistics over the sources up to then, so that validity intervals say what was known when. Offering
    a visit again changes nothing, except that forced sources of objects found since are added.

    Parameters
    ----------
    dia_source
        Associated sources of all visits from the first on: later versions of an object need its earlier sources. Rows
        without object and without position are left out and counted.
    dia_object
        The objects; every ``diaObjectId`` of the sources must be among them.
    dia_forced_source
        Forced sources, one table per detector image. ``meta`` may name ``visit``, ``detector`` and
        ``midpointMjdTai``, so that an image without rows leaves a trace too.
    config
        Where to.

    Raises
    ------
    LateVisit
        When a new visit is older than the newest one stored: versions already closed would have to change. Nothing
        was stored.
    BadInput
        When columns, positions, ids or times are not what the schema needs, or a visit was stored with other sources.
        Nothing was stored.
    DatabaseFailed
        When the database refuses; visits before the one named are stored, it and later ones are not.
    """
    old = exists(config.uri)
    _check_ids(dia_source, dia_object, dia_forced_source)
    apdb = open_apdb(config.uri) if old else create_apdb(config.uri)
    offered = _offered(apdb, dia_source, dia_forced_source, config)
    log = logged_visits(apdb)
    _refuse_late(offered, log, config.uri)
    statuses = {visit.visit: _compare(apdb, visit, log.get(visit.visit), config.uri) for visit in offered}
    new = {visit.visit for visit in offered if statuses[visit.visit] == "stored"}
    versions = object_versions(dia_source, new)
    means = _ForcedMeans.start(dia_object, dia_forced_source)
    for visit in offered:
        status = statuses[visit.visit]
        means.add(visit.forced)
        if status == "stored":
            # versions come in the order (time, visit), as visits do
            touched = means.join(next(versions).dia_object) if visit.has_rows else None
            log[visit.visit] = _store(apdb, visit, touched, log)
        elif status != "present":
            log[visit.visit] = _amend(apdb, visit)
    rows = [asdict(log[visit.visit]) | {"status": statuses[visit.visit]} for visit in offered]
    return ApdbFill(apdb_log=Table(rows, names=[*NAMES, "status"]) if rows else Table(names=[*NAMES, "status"]))


@dataclass(frozen=True, kw_only=True)
class _ForcedMeans:
    """Sums of weights and of weighted forced fluxes by (band, object), over the visits so far."""

    objects: NDArray[np.int64]
    bands: list[str]
    weight: NDArray[np.float64]
    flux: NDArray[np.float64]

    @classmethod
    def start(cls, dia_object: Table, tables: Sequence[Table]) -> _ForcedMeans:
        bands = sorted(
            {band for table in tables if len(table) for band in np.asarray(table["band"]).astype(str).tolist()}
        )
        ids = np.unique(np.asarray(dia_object["diaObjectId"], np.int64)) if len(dia_object) else np.empty(0, np.int64)
        return cls(
            objects=ids,
            bands=bands,
            weight=np.zeros((len(bands), ids.size)),
            flux=np.zeros((len(bands), ids.size)),
        )

    def add(self, forced: pandas.DataFrame) -> None:
        flux, error = (forced[name].to_numpy(np.float64) for name in ("psfFlux", "psfFluxErr"))
        good = np.isfinite(flux) & np.isfinite(error) & (error > 0)
        band = np.searchsorted(self.bands, forced["band"].to_numpy(str)[good])
        place = band, np.searchsorted(self.objects, forced["diaObjectId"].to_numpy(np.int64)[good])
        np.add.at(self.weight, place, error[good] ** -2)
        np.add.at(self.flux, place, flux[good] * error[good] ** -2)

    def join(self, versions: Table) -> Table:
        where = np.searchsorted(self.objects, np.asarray(versions["diaObjectId"]))
        for k, band in enumerate(self.bands):
            weight = np.where(self.weight[k, where] > 0, self.weight[k, where], np.nan)
            versions[f"{band}_fpFluxMean"] = self.flux[k, where] / weight
            versions[f"{band}_fpFluxMeanErr"] = weight**-0.5
        return versions


def _store(apdb: ApdbSql, visit: _Visit, touched: Table | None, log: dict[int, LoggedVisit]) -> LoggedVisit:
    simultaneous = sum(row.midpointMjdTai == visit.midpoint for row in log.values())
    time = Time(visit.midpoint + SAME_TIME * simultaneous, format="mjd", scale="tai")
    with guarded(f"storing visit {visit.visit} (MJD {visit.midpoint:.6f})"):
        if touched is not None and (len(touched) or len(visit.sources) or len(visit.forced)):
            objects = conform(touched, apdb.tableDef(ApdbTables.DiaObject))
            apdb.store(time, objects, visit.sources, visit.forced)
        elif len(visit.forced):
            apdb.store(time, _no_objects(), None, visit.forced)
    row = _log_row(visit, len(visit.forced))
    write_log(apdb, row)
    return row


def _amend(apdb: ApdbSql, visit: _Visit) -> LoggedVisit:
    """Add the forced sources that a stored visit does not have yet."""
    names = [*FORCED_KEYS, "diaForcedSourceId"]
    table = sql_table(apdb, ApdbTables.DiaForcedSource, "visit", *names)
    query = sqlalchemy.select(*(table.c[name] for name in names)).where(table.c.visit == visit.visit)
    with guarded(f"adding forced sources to visit {visit.visit}"):
        with engine_of(apdb).begin() as connection:
            found = pandas.DataFrame(connection.execute(query).all(), columns=names).astype(np.int64)
        known = set(zip(*(found[name].tolist() for name in FORCED_KEYS), strict=True))
        keys = zip(*(visit.forced[name].tolist() for name in FORCED_KEYS), strict=True)
        missing = visit.forced[[key not in known for key in keys]].reset_index(drop=True)
        # numbers were given out before there were these objects: go on behind the last one of each image
        for detector, last in found.groupby("detector")["diaForcedSourceId"].max().items():
            here = np.flatnonzero(missing["detector"] == detector)
            missing.loc[here, "diaForcedSourceId"] = last + 1 + np.arange(here.size)
        if len(missing):
            time = Time(visit.midpoint, format="mjd", scale="tai")
            apdb.store(time, _no_objects(), None, missing)
    row = _log_row(visit, len(known) + len(missing))
    write_log(apdb, row)
    return row


def _log_row(visit: _Visit, n_forced: int) -> LoggedVisit:
    ids = visit.sources["diaObjectId"].to_numpy()
    return LoggedVisit(
        visit=visit.visit,
        detectors=visit.detectors,
        midpointMjdTai=visit.midpoint,
        nDiaObjects=int(np.unique(ids[ids > 0]).size),
        nDiaSources=len(visit.sources),
        nDiaForcedSources=n_forced,
        nLeftOut=visit.n_left_out,
        digest=digest(visit.sources, SOURCE_KEYS),
        forcedDigest=digest(visit.forced, FORCED_KEYS),
    )


def _no_objects() -> pandas.DataFrame:
    return pandas.DataFrame({"diaObjectId": np.empty(0, np.int64), "ra": np.empty(0), "dec": np.empty(0)})


def _refuse_late(offered: list[_Visit], log: dict[int, LoggedVisit], uri: str) -> None:
    if not log:
        return
    newest = max(log.values(), key=lambda row: (row.midpointMjdTai, row.visit))
    late = [visit for visit in offered if visit.visit not in log and visit.midpoint < newest.midpointMjdTai]
    if late:
        raise LateVisit(
            f"visit {late[0].visit} (MJD {late[0].midpoint:.6f}) is older than visit {newest.visit} "
            f"(MJD {newest.midpointMjdTai:.6f}), the newest in the prompt database; {len(late)} such visits came",
            hint=_remedy(uri),
            visits=[visit.visit for visit in late],
            newest_visit=newest.visit,
            newest_mjd_tai=newest.midpointMjdTai,
        )


def _remedy(uri: str) -> str:
    return (
        f"what is stored is never changed: if nothing else fills the database {uri}, remove it and run the same "
        "command again, which fills a new one with all visits in time order; else give fill_apdb.uri another place"
    )


def _compare(apdb: ApdbSql, visit: _Visit, row: LoggedVisit | None, uri: str) -> str:
    if row is None:
        return "stored"
    recovered = not row.digest
    same = _is_stored(apdb, visit) if recovered else row.digest == digest(visit.sources, SOURCE_KEYS)
    if not same:
        raise BadInput(
            f"visit {visit.visit} is in the prompt database with other sources than the {len(visit.sources)} offered",
            hint=_remedy(uri),
            visit=visit.visit,
        )
    if recovered:
        return "recovered"
    return "present" if row.forcedDigest == digest(visit.forced, FORCED_KEYS) else "amended"


def _is_stored(apdb: ApdbSql, visit: _Visit) -> bool:
    """Compare a visit with its rows in the database, of whose storing there is no record."""
    names = ("diaSourceId", "diaObjectId", "psfFlux")
    table = sql_table(apdb, ApdbTables.DiaSource, "visit", *names)
    query = sqlalchemy.select(*(table.c[name] for name in names)).where(table.c.visit == visit.visit)
    with guarded(f"reading visit {visit.visit}"), engine_of(apdb).begin() as connection:
        found = pandas.DataFrame(connection.execute(query).all(), columns=list(names))
    found, mine = (frame.sort_values("diaSourceId", ignore_index=True) for frame in (found, visit.sources))
    if len(found) != len(mine):
        return False
    old, new = (frame["psfFlux"].to_numpy(dtype=np.float32, na_value=np.nan) for frame in (found, mine))
    ids = ("diaSourceId", "diaObjectId")
    equal = all(np.array_equal(found[name].to_numpy(np.int64), mine[name].to_numpy(np.int64)) for name in ids)
    return equal and np.array_equal(old, new, equal_nan=True)


def _offered(apdb: ApdbSql, dia_source: Table, dia_forced_source: Sequence[Table], config: ApdbConfig) -> list[_Visit]:
    """Fit all rows to the schema, sort them into visits, and put these into time order."""
    clock = Time.now().tai.mjd if config.time_processed is None else config.time_processed
    constants = {PROCESSED: float(clock)}
    left_out = _without_position(dia_source)
    sources = conform(
        dia_source[~left_out],
        apdb.tableDef(ApdbTables.DiaSource),
        constants=constants,
        extra=config.extra_columns,
    )
    tables = [table for table in dia_forced_source if len(table)]
    rows = vstack(tables, metadata_conflicts="silent") if len(tables) > 1 else (tables or [_no_forced()])[0]
    forced = conform(rows, apdb.tableDef(ApdbTables.DiaForcedSource), constants=constants, extra=config.extra_columns)
    times = _times(dia_source, dia_forced_source)
    of_source = np.asarray(dia_source["visit"], dtype=np.int64)
    with_rows = set(of_source.tolist())
    by_visit, forced_by_visit = (dict(iter(frame.groupby("visit"))) for frame in (sources, forced))
    visits = []
    for visit, (midpoint, detectors) in times.items():
        visits.append(
            _Visit(
                visit=visit,
                midpoint=midpoint,
                detectors=",".join(map(str, sorted(detectors))),
                sources=by_visit.get(visit, sources[:0]).reset_index(drop=True),
                forced=forced_by_visit.get(visit, forced[:0]).reset_index(drop=True),
                n_left_out=int((left_out & (of_source == visit)).sum()),
                has_rows=visit in with_rows,
            )
        )
    return sorted(visits, key=lambda visit: (visit.midpoint, visit.visit))


def _times(dia_source: Table, dia_forced_source: Sequence[Table]) -> dict[int, tuple[float, set[int]]]:
    """Find the earliest time and the detectors of every visit; sources, where there are any, decide about the time."""
    seen: list[tuple[int, int, float, bool]] = []
    for table in (dia_source, *dia_forced_source):
        if len(table):
            images = np.stack([np.asarray(table[name], dtype=np.int64) for name in ("visit", "detector")])
            unique, of_row = np.unique(images, axis=1, return_inverse=True)
            first = np.full(unique.shape[1], np.inf)
            np.minimum.at(first, np.reshape(of_row, -1), floats(table, "midpointMjdTai"))
            detected = table is dia_source
            seen += [(int(v), int(d), float(t), detected) for v, d, t in zip(*unique, first, strict=True)]
        elif {"visit", "detector", "midpointMjdTai"} <= set(table.meta):
            meta = table.meta
            seen.append((int(meta["visit"]), int(meta["detector"]), float(meta["midpointMjdTai"]), False))
    detectors: dict[int, set[int]] = {}
    best: dict[int, tuple[bool, float]] = {}
    for visit, detector, time, detected in seen:
        detectors.setdefault(visit, set()).add(detector)
        best[visit] = min(best.get(visit, (True, np.inf)), (not detected, time))
    return {visit: (time, detectors[visit]) for visit, (_, time) in best.items()}


def _without_position(dia_source: Table) -> NDArray[np.bool_]:
    """Find sources that the database cannot hold; legitimate only where no object claims them."""
    lost = np.zeros(len(dia_source), dtype=bool)
    for name in ("ra", "dec", "x", "y"):
        lost |= ~np.isfinite(floats(dia_source, name))
    claimed = lost & (np.asarray(dia_source["diaObjectId"]) > 0)
    if claimed.any():
        raise BadInput(
            f"{int(claimed.sum())} sources belong to an object and have no finite position",
            hint="associate them again: sources without a position belong to no object",
            diaSourceId=int(np.asarray(dia_source["diaSourceId"])[claimed][0]),
        )
    return lost


def _check_ids(dia_source: Table, dia_object: Table, dia_forced_source: Sequence[Table]) -> None:
    forced = [table for table in dia_forced_source if len(table)]
    for what, table, needed in (
        ("sources", dia_source, NEEDED),
        *(("forced sources", table, NEEDED_OF_FORCED) for table in forced),
    ):
        missing = sorted(set(needed) - set(table.colnames))
        if missing:
            raise BadInput(
                f"the {what} lack {', '.join(missing)}",
                hint="give the tables that association and forced photometry returned",
                missing=missing,
            )
    homeless = sum(int((np.asarray(table["diaObjectId"]) <= 0).sum()) for table in forced)
    if homeless:
        raise BadInput(f"{homeless} forced sources belong to no object", rows=homeless)
    if np.unique(dia_source["diaSourceId"]).size != len(dia_source):
        raise BadInput("some diaSourceIds occur more than once", hint="was one table given twice?")
    if not np.isfinite(floats(dia_source, "midpointMjdTai")).all():
        raise BadInput("some sources have no finite midpointMjdTai, which the database needs")
    _without_position(dia_source)
    known = np.asarray(dia_object["diaObjectId"], dtype=np.int64) if len(dia_object) else np.empty(0, np.int64)
    used = np.unique(np.concatenate([np.asarray(t["diaObjectId"], np.int64) for t in (dia_source, *forced)]))
    strange = np.setdiff1d(used[used > 0], known)
    if strange.size:
        raise BadInput(
            f"{strange.size} objects that sources belong to are not among the objects, {strange[0]} is the first",
            hint="give sources and objects of one association",
            diaObjectId=int(strange[0]),
        )


def _no_forced() -> Table:
    whole = ("diaForcedSourceId", "diaObjectId", "visit", "detector")
    real = ("ra", "dec", "midpointMjdTai", "psfFlux", "psfFluxErr")
    kinds = [*(int for _ in whole), *(float for _ in real), "U1"]
    return Table(names=(*whole, *real, "band"), dtype=kinds)
