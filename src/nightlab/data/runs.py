"""What a run has left in a repository: products by name and data id, metrics, light curves. Reading only."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from astropy.table import Table
from lsst.daf.butler import Butler, DatasetRef

from nightlab.data.instruments import INSTRUMENTS
from nightlab.data.repository import input_collections, open_repository
from nightlab.errors import BadInput, MissingData

if TYPE_CHECKING:
    import xarray as xr

#: Where every pipeline leaves its results unless told otherwise, and where templates are looked for.
RUNS, TEMPLATES_RUN, NIGHT_RUN = "runs", "runs/Templates", "runs/ApPipe"
_MIDDLEWARE = ("_log", "_metadata", "_config", "packages")


class Run:
    """One output run of a repository.

    Parameters
    ----------
    repository
        Folder of the Butler repository.
    name
        The run's collection.

    Attributes
    ----------
    repository
        Absolute path of the folder.
    name
        The run's collection.

    Raises
    ------
    MissingData
        When there is no such repository or run.
    """

    def __init__(self, repository: str | Path, name: str = NIGHT_RUN) -> None:
        self.repository = Path(repository).absolute()
        self.name = name
        there = _names(self.butler)
        if name not in there:
            raise MissingData(
                f"{self.repository} has no run {name}; it has {', '.join(there) or 'none'}",
                hint=f"make it: nightlab run {name.rpartition('/')[2]} --repository {self.repository}",
                run=name,
            )

    def __repr__(self) -> str:
        return f"Run({str(self.repository)!r}, {self.name!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Run) and (self.repository, self.name) == (other.repository, other.name)

    def __hash__(self) -> int:
        return hash((self.repository, self.name))

    @cached_property
    def butler(self) -> Butler:
        """The repository, opened for reading."""
        return _opened(self.repository)

    def fresh(self) -> Butler:
        """Give the repository as it is now; an open one remembers which dataset types there were."""
        self.__dict__.pop("butler", None)
        return self.butler

    @cached_property
    def folder(self) -> str:
        """What people call the repository: the data it was made from, or the name of its folder."""
        from nightlab.data.catalogs import prepared_in

        try:
            return prepared_in(self.repository).entry
        except MissingData:
            return self.repository.name

    @property
    def key(self) -> str:
        """What links carry: ``stripe82:runs/ApPipe``."""
        return f"{self.folder}:{self.name}"

    @property
    def label(self) -> str:
        """What people read: ``stripe82 · ApPipe``."""
        return f"{self.folder} · {self.name.removeprefix(f'{RUNS}/')}"

    @cached_property
    def collections(self) -> tuple[str, ...]:
        """The run itself, then what it was made from."""
        butler = self.butler
        there = set(butler.collections.query("*"))
        names = [record.name for record in butler.query_dimension_records("instrument", explain=False)]
        inputs = [collection for name in names if name in INSTRUMENTS for collection in input_collections(name)]
        return tuple(name for name in dict.fromkeys((self.name, TEMPLATES_RUN, *inputs)) if name in there)

    def types(self) -> dict[str, int]:
        """Count the products of the stages by dataset type."""
        found = Counter(ref.datasetType.name for ref in self.butler.query_all_datasets(self.name, limit=None))
        return {name: found[name] for name in sorted(found) if not name.endswith(_MIDDLEWARE)}

    def refs(self, name: str, **data_id: int | str) -> list[DatasetRef]:
        """List products of the run.

        Parameters
        ----------
        name
            Dataset type.
        **data_id
            Values that narrow them down, such as ``visit=12``.

        Returns
        -------
        list of lsst.daf.butler.DatasetRef
            In the order of their data ids; empty where there are none.
        """
        return self._query(name, self.name, data_id)

    def ref(self, name: str, **data_id: int | str) -> DatasetRef:
        """Find the one product of a name and data id, here or in what the run was made from.

        Raises
        ------
        MissingData
            When there is none; the message says which there are.
        BadInput
            When there are several.
        """
        for collection in self.collections:
            refs = self._query(name, collection, data_id)
            if len(refs) > 1:
                raise BadInput(
                    f"{len(refs)} datasets {name} fit {_text(data_id) or 'an empty data id'}",
                    hint=f"for example {_text(dict(refs[0].dataId.required))}",
                )
            if refs:
                return refs[0]
        there = self.refs(name)
        raise MissingData(
            f"{self.label} has no {name}" + (f" of {_text(data_id)}" if data_id else ""),
            hint=f"it has {_shown(there)}" if there else f"it has {', '.join(self.types()) or 'nothing yet'}",
            dataset=name,
        )

    def get(
        self,
        name: str,
        *,
        component: str = "",
        parameters: Mapping[str, Any] | None = None,
        **data_id: int | str,
    ) -> Any:
        """Read a product.

        Parameters
        ----------
        name
            Dataset type.
        component
            Part of it, such as ``image``; all of it when empty.
        parameters
            What its formatter understands, such as ``{"bbox": box}``.
        **data_id
            Which one; nothing for what a run has once.

        Raises
        ------
        MissingData, BadInput
            As `ref`.
        """
        ref = self.ref(name, **data_id)
        if component:
            ref = ref.makeComponentRef(component)
        return self.butler.get(ref, parameters=dict(parameters) if parameters else None)

    def visits(self) -> Table:
        """List what the run worked on.

        Returns
        -------
        astropy.table.Table
            One row per visit and detector, in that order: visit, detector, band, day_obs, mjd (middle of the exposure,
            TAI), name of the detector.
        """
        pairs = {
            (ref.dataId["visit"], ref.dataId["detector"]): ref.dataId
            for name in ("visit_image", "difference_image")
            for ref in self.refs(name)
        }
        records = self.butler.query_dimension_records
        instruments = {data_id["instrument"] for data_id in pairs.values()}
        times: dict[int, float] = {}
        names: dict[int, str] = {}
        for instrument in instruments:
            for visit in records("visit", instrument=instrument, explain=False, limit=None):
                times[visit.id] = float((visit.timespan.begin.tai.mjd + visit.timespan.end.tai.mjd) / 2)
            for detector in records("detector", instrument=instrument, explain=False, limit=None):
                names[detector.id] = detector.full_name
        rows = [
            (visit, detector, pairs[visit, detector]["band"], pairs[visit, detector]["day_obs"],
             times.get(visit, np.nan), names.get(detector, str(detector)))
            for visit, detector in sorted(pairs)
        ]  # fmt: skip
        columns = ("visit", "detector", "band", "day_obs", "mjd", "detector_name")
        return (
            Table(rows=rows, names=columns) if rows else Table(names=columns, dtype=(int, int, str, int, float, str))
        )

    def metrics(self) -> xr.Dataset:
        """Read what was measured in the run.

        Returns
        -------
        xarray.Dataset
            Variables ``room.metric`` with unit, target and sense, over visit and detector or what the stage works on.

        Raises
        ------
        MissingData
            When the run has gathered none.
        """
        if not self.refs("metrics"):
            raise MissingData(
                f"run {self.name} has no metrics",
                hint=f"finish it with `nightlab run`; the repository has the runs {', '.join(_names(self.butler))}",
                run=self.name,
            )
        metrics = self.get("metrics")
        # zarr gives variables back in no order
        return metrics[sorted(metrics.data_vars)]

    @property
    def apdb(self) -> Path | None:
        """Folder of the run's prompt database; None when it has filled none."""
        from nightlab.data.apdb.connect import exists

        folder = apdb_folder(self.repository, self.name)
        return folder if exists(folder) else None

    def objects(self, ra: float | None = None, dec: float | None = None, radius: float | None = None) -> Table:
        """Read DIAObjects from the prompt database.

        Parameters
        ----------
        ra, dec, radius
            A circle on the sky, ICRS [deg]; all objects when absent.

        Raises
        ------
        MissingData
            When the run has no prompt database.
        """
        from nightlab.data.apdb import read_objects

        return read_objects(self._database, ra=ra, dec=dec, radius=radius)

    def light_curve(self, object_id: int, *, forced: bool = False) -> Table:
        """Read the sources of one DIAObject from the prompt database, in time order.

        Parameters
        ----------
        object_id
            Its ``diaObjectId``.
        forced
            Whether to read forced photometry instead of detections.

        Raises
        ------
        MissingData
            When the run has no prompt database.
        """
        from nightlab.data.apdb import forced_light_curve, light_curve

        return (forced_light_curve if forced else light_curve)(self._database, int(object_id))

    @cached_property
    def _database(self) -> Any:
        from nightlab.data.apdb import open_apdb

        if self.apdb is None:
            raise MissingData(
                f"{self.label} has no prompt database",
                hint="ApPipe fills one: nightlab run ApPipe",
                run=self.name,
            )
        return open_apdb(self.apdb)

    def _query(self, name: str, collection: str, data_id: Mapping[str, int | str]) -> list[DatasetRef]:
        butler = self.butler
        if not butler.registry.queryDatasetTypes([name]):
            return []
        known = butler.get_dataset_type(name).dimensions.names
        strange = sorted(set(data_id) - set(butler.dimensions.dimensions.names))
        if strange:
            raise BadInput(f"{', '.join(strange)} is no dimension", hint=f"{name} has {', '.join(known)}")
        if not set(data_id) <= known:
            return []
        refs = butler.query_datasets(
            name,
            collections=collection,
            find_first=False,
            data_id={**{key: value for key, value in self._alone.items() if key in known}, **data_id},
            explain=False,
            limit=None,
        )
        return sorted(refs, key=lambda ref: ref.dataId.required_values)

    @cached_property
    def _alone(self) -> dict[str, str]:
        """Instrument and sky map, where the repository has but one: the middleware wants them said."""
        records = {kind: self.butler.query_dimension_records(kind, explain=False) for kind in ("instrument", "skymap")}
        return {kind: found[0].name for kind, found in records.items() if len(found) == 1}


def open_run(repository: str | Path, name: str = NIGHT_RUN) -> Run:
    """Open an output run of a repository, to read what it has made.

    Parameters
    ----------
    repository
        Folder of the Butler repository, such as ``nightlab-data/stripe82``.
    name
        The run's collection.

    Raises
    ------
    MissingData
        When there is no such repository or run.
    """
    return Run(repository, name)


def metrics(run: Run | str | Path, *more: Run | str | Path) -> xr.Dataset:
    """Open what was measured in one run, or in several side by side.

    Parameters
    ----------
    run, *more
        Runs, or folders of repositories whose ``runs/ApPipe`` is meant.

    Returns
    -------
    xarray.Dataset
        Variables ``room.metric`` with unit, target and sense; with more than one run a dimension ``run`` comes first,
        and what one of them lacks is NaN.

    Raises
    ------
    MissingData
        When a run is not there or has gathered no metrics.
    BadInput
        When two runs give one metric in different units.
    """
    first = _as_run(run)
    if not more:
        return first.metrics()
    from nightlab.quality import merge_runs

    runs = [first, *map(_as_run, more)]
    labels = [
        each.key if len({r.key for r in runs}) == len(runs) else f"{each.repository}:{each.name}" for each in runs
    ]
    return merge_runs({label: each.metrics() for label, each in zip(labels, runs, strict=True)})


def light_curve(object_id: int, run: Run | str | Path, *, forced: bool = False) -> Table:
    """Read the light curve of a DIAObject from a run's prompt database.

    Parameters
    ----------
    object_id
        Its ``diaObjectId``.
    run
        A run, or the folder of a repository whose ``runs/ApPipe`` is meant.
    forced
        Whether to read forced photometry on all visits instead of the detections.

    Returns
    -------
    astropy.table.Table
        DIASources (or DIAForcedSources) in time order; fluxes in nJy, times MJD TAI.
    """
    return _as_run(run).light_curve(object_id, forced=forced)


def cone_search(ra: float, dec: float, radius: float, run: Run | str | Path) -> Table:
    """Find the DIAObjects within a circle on the sky.

    Parameters
    ----------
    ra, dec, radius
        Centre and radius, ICRS [deg].
    run
        A run, or the folder of a repository whose ``runs/ApPipe`` is meant.

    Returns
    -------
    astropy.table.Table
        One row per object, ascending in ``diaObjectId``.
    """
    return _as_run(run).objects(ra, dec, radius)


def runs_in(repository: str | Path) -> list[Run]:
    """List the runs of a repository by name."""
    return [Run(repository, name) for name in _names(_opened(Path(repository).absolute()))]


def _opened(repository: Path) -> Butler:
    """Give a repository for reading, up to date; what is slow about opening it is done once for all who read it.

    It is opened anew when it was removed and made again, and when a journal tells of somebody killed while writing.
    """
    butler = _opened_once(
        repository, *(_changed(repository / name) for name in ("butler.yaml", "gen3.sqlite3-journal"))
    )
    butler = butler.clone()
    butler.registry.refresh()
    return butler


@lru_cache(maxsize=16)
def _opened_once(repository: Path, made: int, journal: int) -> Butler:
    return open_repository(repository)


def _changed(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


def repositories(root: str | Path, depth: int = 3) -> list[Path]:
    """Find the repositories in a folder and, `depth` levels deep, below it; links are not followed."""
    root = Path(root).absolute()
    found = []
    for folder, below, files in os.walk(root):
        level = len(Path(folder).relative_to(root).parts)
        if "butler.yaml" in files:
            found.append(Path(folder))
        below[:] = (
            [] if "butler.yaml" in files or level >= depth else sorted(n for n in below if not n.startswith("."))
        )
    return found


def apdb_folder(repository: str | Path, run: str) -> Path:
    """Where a run keeps its prompt database; a database holds one version of each visit, so every run has its own."""
    return Path(repository) / ("apdb" if run == NIGHT_RUN else f"apdb-{run.rpartition('/')[2]}")


def _as_run(run: Run | str | Path) -> Run:
    return run if isinstance(run, Run) else Run(run)


def _names(butler: Butler) -> list[str]:
    return sorted(str(name) for name in butler.collections.query(f"{RUNS}/*"))


def _text(data_id: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in data_id.items())


def _shown(refs: list[DatasetRef], most: int = 4) -> str:
    shown = "; ".join(
        _text({k: v for k, v in ref.dataId.required.items() if k != "instrument"}) for ref in refs[:most]
    )
    return f"{shown} and {len(refs) - most} more" if len(refs) > most else shown
