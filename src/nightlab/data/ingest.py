"""Bring raws, calibrations, reference catalogues and sky maps into a repository; doing it twice changes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import astropy.time
import astropy.units as u
import numpy as np
from astropy.table import Table
from lsst.daf.butler import (
    Butler,
    CollectionType,
    DataCoordinate,
    DatasetIdGenEnum,
    DatasetRef,
    FileDataset,
    Timespan,
)
from lsst.images import Box, Image
from lsst.sphgeom import ConvexPolygon, HtmPixelization, LonLat, UnitVector3d
from numpy.typing import NDArray

from nightlab.data.formatters import RawFormatter
from nightlab.data.instruments import instrument as instrument_named
from nightlab.data.instruments.base import Instrument, RawRecord
from nightlab.data.repository import (
    ONE_TO_ONE,
    REFERENCES,
    SKY_MAPS,
    calib_collection,
    changing,
    raw_collection,
)
from nightlab.errors import BadInput
from nightlab.images.skymap import SkyMap, TractGrid
from nightlab.images.wcs import pixel_to_radec

HTM_LEVEL = 7
SHORTEST = 1e-3 / 86400.0  # day
REFERENCE_COLUMNS = ("refId", "ra", "dec")


def ingest(butler: Butler, instrument: str, paths: Iterable[str | Path]) -> list[DatasetRef]:
    """Register raw files where they are, with everything the Butler must know about their exposures.

    Parameters
    ----------
    butler
        A repository in which the instrument is registered, open for writing.
    instrument
        Name of the instrument.
    paths
        Raw files; those already registered are passed over.

    Returns
    -------
    list of DatasetRef
        The raws that are new, by exposure and detector.

    Raises
    ------
    BadInput
        When two files claim to be the same raw, or one has a filter or detector the instrument lacks, or saw the sky
        and does not say where.
    MissingData, CorruptFile
        When a file, or what its instrument reads beside it, is absent or damaged. Nothing is registered then.
    """
    known = instrument_named(instrument)
    records: dict[tuple[int, int], tuple[RawRecord, Path]] = {}
    for path in sorted(Path(path).absolute() for path in paths):
        record = known.read_record(path)
        _check(known, record, path)
        key = (record.exposure, record.detector)
        if key in records:
            raise BadInput(
                f"{path} and {records[key][1]} are both exposure {key[0]}, detector {key[1]}",
                hint="ingest only one of them",
            )
        records[key] = (record, path)
    run = raw_collection(instrument)
    raw = butler.get_dataset_type("raw")
    registered = {
        (ref.dataId["exposure"], ref.dataId["detector"])
        for ref in butler.query_datasets("raw", collections=run, limit=None, explain=False)
    }
    new = [records[key] for key in sorted(records) if key not in registered]
    if not new:
        return []
    with changing(butler), butler.transaction():
        for exposure in sorted({record.exposure for record, _ in new}):
            _insert_exposure(butler, instrument, [record for record, _ in new if record.exposure == exposure])
        datasets = []
        for record, path in new:
            data_id = DataCoordinate.standardize(
                instrument=instrument,
                exposure=record.exposure,
                detector=record.detector,
                universe=butler.dimensions,
            )
            ref = DatasetRef(
                raw,
                butler.registry.expandDataId(data_id),
                run=run,
                id_generation_mode=DatasetIdGenEnum.DATAID_TYPE_RUN,
            )
            datasets.append(FileDataset(path=str(path), refs=[ref], formatter=RawFormatter))
        # a file that turns out to be damaged can be mended in place: its size now is not held against it
        butler.ingest(*datasets, transfer="direct", skip_existing=True, record_validation_info=False)
    return [dataset.refs[0] for dataset in datasets]


def _check(instrument: Instrument, record: RawRecord, path: Path) -> None:
    if record.physical_filter not in instrument.filters:
        raise BadInput(
            f"{path} was taken through {record.physical_filter!r}, which {instrument.name} does not have",
            hint=f"it has {', '.join(instrument.filters)}",
            path=str(path),
        )
    if all(record.detector != detector.id for detector in instrument.detectors):
        raise BadInput(
            f"{path} is from detector {record.detector}, which {instrument.name} does not have",
            hint="check the header",
            path=str(path),
        )
    if record.sees_sky and not (len(record.corners) >= 3 and np.isfinite(record.corners).all()):
        raise BadInput(
            f"{path} saw the sky and its header does not say where",
            hint="complete the header, or have the reader call it another type of observation",
            path=str(path),
        )


def _insert_exposure(butler: Butler, instrument: str, records: Sequence[RawRecord]) -> None:
    """Insert the dimension records of one exposure, of which `records` are the detectors that are new.

    What does not see the sky, such as a bias, is an exposure and no visit.
    """
    first = records[0]
    registry = butler.registry
    # a span without length overlaps nothing, and no calibration would be valid for it
    span = Timespan(_time(first.mjd_begin), _time(max(first.mjd_end, first.mjd_begin + SHORTEST)))
    noon = float(np.floor(first.mjd_begin - 0.5) + 0.5)
    obs_id = f"{instrument}_{first.exposure}"
    common = {
        "instrument": instrument,
        "physical_filter": first.physical_filter,
        "day_obs": first.day_obs,
        "exposure_time": first.exposure_time,
        "observation_reason": first.observation_reason,
        "target_name": first.target or None,
        "science_program": None,
        "timespan": span,
        "seq_num": first.sequence,
        "zenith_angle": _zenith_angle(first.airmass),
        "azimuth": None,
    }
    days = {"instrument": instrument, "id": first.day_obs, "timespan": Timespan(_time(noon), _time(noon + 1.0))}
    registry.insertDimensionData("day_obs", days, skip_existing=True)
    registry.insertDimensionData("group", {"instrument": instrument, "name": obs_id}, skip_existing=True)
    exposure = common | {
        "id": first.exposure,
        "obs_id": obs_id,
        "group": obs_id,
        "dark_time": first.exposure_time,
        "observation_type": first.observation_type,
        "seq_start": first.sequence,
        "seq_end": first.sequence,
        "tracking_ra": _known(first.ra),
        "tracking_dec": _known(first.dec),
        "sky_angle": _known(first.rotation),
        "has_simulated": first.simulated,
        "can_see_sky": first.sees_sky,
    }
    registry.insertDimensionData("exposure", exposure, skip_existing=True)
    if first.sees_sky:
        _insert_visit(butler, instrument, records, common | {"id": first.visit, "name": obs_id})


def _insert_visit(butler: Butler, instrument: str, records: Sequence[RawRecord], visit: dict[str, Any]) -> None:
    """Insert the visit of an exposure, or let the one that is there grow by its new detectors."""
    first = records[0]
    registry = butler.registry
    corners = [corner for record in records for corner in _vectors(*record.corners.T)]
    there = list(registry.queryDimensionRecords("visit", instrument=instrument, visit=first.visit))
    if there and there[0].region is not None:
        corners.extend(there[0].region.getVertices())
    registry.syncDimensionData("visit", visit | {"region": ConvexPolygon.convexHull(corners)}, update=True)
    both = {"instrument": instrument, "visit": first.visit}
    registry.insertDimensionData("visit_definition", both | {"exposure": first.exposure}, skip_existing=True)
    registry.insertDimensionData("visit_system_membership", both | {"visit_system": ONE_TO_ONE}, skip_existing=True)
    regions = [
        both | {"detector": record.detector, "region": ConvexPolygon.convexHull(_vectors(*record.corners.T))}
        for record in records
    ]
    registry.insertDimensionData("visit_detector_region", *regions, skip_existing=True)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def _zenith_angle(airmass: float) -> float | None:
    """Angle in degrees, plane-parallel atmosphere; None when the airmass is unknown."""
    return float(np.rad2deg(np.arccos(1.0 / airmass))) if airmass >= 1.0 else None


def _time(mjd_tai: float) -> astropy.time.Time:
    return astropy.time.Time(mjd_tai, format="mjd", scale="tai")


def _vectors(ra: NDArray, dec: NDArray) -> list[UnitVector3d]:
    return [UnitVector3d(LonLat.fromDegrees(float(a), float(d))) for a, d in zip(ra, dec, strict=True)]


def certify(
    butler: Butler,
    instrument: str,
    kind: str,
    products: Iterable[tuple[dict[str, Any], Image | Table]],
    validity: tuple[float, float] | None = None,
) -> int:
    """Store calibration frames and tables and say from when to when they hold.

    Parameters
    ----------
    butler
        A repository in which the instrument is registered, open for writing.
    instrument
        Name of the instrument.
    kind
        ``bias``, ``dark``, ``flat``, ``defects``, ``crosstalk``, ``linearity`` or ``brighter_fatter``.
    products
        Data id (``detector``, for flats ``physical_filter`` too) and frame or table.
    validity
        First moment and first moment after [MJD TAI]; always when absent.

    Returns
    -------
    int
        How many are new; those stored already for this span are passed over.
    """
    span = Timespan(None, None) if validity is None else Timespan(_time(validity[0]), _time(validity[1]))
    label = "always" if validity is None else f"{validity[0]:.5f}-{validity[1]:.5f}"
    run = f"{calib_collection(instrument)}/{kind}/{label}"
    count = 0
    with changing(butler):
        butler.collections.register(run, CollectionType.RUN)
        for data_id, product in products:
            full = {"instrument": instrument} | data_id
            with butler.transaction():
                if butler.find_dataset(kind, full, collections=run) is not None:
                    continue
                ref = butler.put(product, kind, full, run=run)
                butler.registry.certify(calib_collection(instrument), [ref], span)
            count += 1
    return count


def ingest_reference(butler: Butler, table: Table, name: str) -> int:
    """Store a reference catalogue, cut into HTM triangles of level 7.

    Parameters
    ----------
    butler
        A repository, open for writing.
    table
        ``refId``, ``ra``, ``dec`` [degree] and any fluxes; see the conventions of reference tables.
    name
        Name of the catalogue, for messages.

    Returns
    -------
    int
        How many shards are new.

    Raises
    ------
    BadInput
        When a column is lacking or a position is not finite.
    """
    missing = [column for column in REFERENCE_COLUMNS if column not in table.colnames]
    if missing:
        raise BadInput(f"the reference catalogue {name} lacks {', '.join(missing)}", hint="rename its columns")
    ra, dec = np.asarray(table["ra"], float), np.asarray(table["dec"], float)
    if not len(table) or not (np.isfinite(ra).all() and np.isfinite(dec).all()):
        raise BadInput(f"the reference catalogue {name} is empty or has positions that are not finite")
    whole = table.copy()
    if "epoch" in whole.meta and "epoch" not in whole.colnames:
        # parquet files of the Butler keep columns and units, not meta
        whole["epoch"] = np.full(len(whole), float(whole.meta["epoch"])) * u.d
    shards = htm_index(ra, dec)
    count = 0
    with changing(butler):
        stored = {
            ref.dataId["htm7"]
            for ref in butler.query_datasets("reference", collections=REFERENCES, limit=None, explain=False)
        }
        for shard in sorted({int(index) for index in shards} - stored):
            butler.put(whole[shards == shard], "reference", htm7=shard, run=REFERENCES)
            count += 1
    return count


def htm_index(ra: NDArray, dec: NDArray, level: int = HTM_LEVEL) -> NDArray[np.int64]:
    """Index of the HTM triangle of each position (Kunszt et al. 2001).

    Parameters
    ----------
    ra, dec
        ``(n,)`` positions [degree].
    level
        Depth of the subdivision.

    Returns
    -------
    ndarray of int64, shape (n,)
    """
    pixels = HtmPixelization(level)
    index = np.zeros(len(ra), dtype=np.int64)
    lon, lat = np.deg2rad(np.asarray(ra, float)), np.deg2rad(np.asarray(dec, float))
    xyz = np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)
    left = np.arange(len(index))
    # one triangle at a time: name the one of the first position left, take all positions it holds
    while left.size:
        first = left[0]
        shard = pixels.index(UnitVector3d(*(float(axis[first]) for axis in xyz)))
        inside = np.asarray(pixels.triangle(shard).contains(*(axis[left] for axis in xyz)), dtype=bool)
        inside[0] = True
        index[left[inside]] = shard
        left = left[~inside]
    return index


def sky_map_is_there(butler: Butler, name: str) -> bool:
    """Say whether a sky map of this name is stored."""
    if not butler.registry.queryDimensionRecords("skymap", skymap=name).any():
        return False
    return butler.find_dataset("sky_map", skymap=name, collections=SKY_MAPS) is not None


def write_sky_map(butler: Butler, sky_map: SkyMap) -> bool:
    """Register the tracts and patches of a sky map and store the map itself.

    Returns
    -------
    bool
        False when it was there already.

    Raises
    ------
    BadInput
        When a different map of that name is in the repository.
    """
    if sky_map_is_there(butler, sky_map.name):
        if butler.get("sky_map", skymap=sky_map.name, collections=SKY_MAPS) != sky_map:
            raise BadInput(f"another sky map is called {sky_map.name!r}", hint="choose another name")
        return False
    counts = [tract.n_patches for tract in sky_map.tracts]
    with changing(butler), butler.transaction():
        butler.registry.syncDimensionData(
            "skymap",
            {
                "name": sky_map.name,
                "hash": hashlib.sha1(sky_map.model_dump_json().encode(), usedforsecurity=False).digest(),
                "tract_max": max(tract.tract for tract in sky_map.tracts) + 1,
                "patch_nx_max": max(count.x for count in counts),
                "patch_ny_max": max(count.y for count in counts),
            },
        )
        for tract in sky_map.tracts:
            identity = {"skymap": sky_map.name, "tract": tract.tract}
            patches = list(_patch_records(sky_map.name, tract))
            hull = ConvexPolygon.convexHull([v for patch in patches for v in patch["region"].getVertices()])
            butler.registry.insertDimensionData(
                "tract", {"skymap": sky_map.name, "id": tract.tract, "region": hull}, skip_existing=True
            )
            butler.registry.insertDimensionData("patch", *(identity | patch for patch in patches), skip_existing=True)
        butler.put(sky_map, "sky_map", skymap=sky_map.name, run=SKY_MAPS)
    return True


def _patch_records(name: str, tract: TractGrid) -> Iterator[dict[str, Any]]:
    projection = tract.projection(name)
    for patch, cell_x, cell_y in tract.patches():
        bbox: Box = tract.patch_bbox(patch)
        left, right = bbox.x.start - 0.5, bbox.x.stop - 0.5
        bottom, top = bbox.y.start - 0.5, bbox.y.stop - 0.5
        ra, dec = pixel_to_radec(projection, [left, right, right, left], [bottom, bottom, top, top])
        yield {
            "id": patch,
            "cell_x": cell_x,
            "cell_y": cell_y,
            "region": ConvexPolygon.convexHull(_vectors(ra, dec)),
        }
