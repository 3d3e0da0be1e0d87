"""Data one can ask for by name: from files on disk to a repository ready for the pipelines."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from astropy.table import Table, vstack
from lsst.daf.butler import Butler
from lsst.images import Box, SkyProjection, TractFrame

from nightlab.data.ingest import certify, ingest, ingest_reference, sky_map_is_there, write_sky_map
from nightlab.data.instruments import instrument as instrument_named
from nightlab.data.instruments.base import RawRecord, fits_file
from nightlab.data.instruments.sdss import BANDS, detector_id, find_frame, read_raw
from nightlab.data.instruments.simcam import read_calibration
from nightlab.data.locate import data_set
from nightlab.data.repository import input_collections, make_repository, open_repository, writing
from nightlab.errors import BadInput, MissingData
from nightlab.images.skymap import SkyMap, TractGrid
from nightlab.images.wcs import fits_header, radec_to_pixel, tan_projection
from nightlab.simulate import simulate_survey
from nightlab.stages.single_frame import calibrate

CELL = 128  # pixels; a cell of constant PSF
PATCH_MAX = 1024  # pixels
BORDER = 64  # pixels
STRIPE82_CAMCOL = "4"
STRIPE82_TEMPLATE = (4192, 300)
STRIPE82_SCIENCE = (6377, 399)
STRIPE82_BORDER = 20  # pixels
STRIPE82_CELL = (153, 174)  # pixels; divides a frame with its border


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A repository ready for the pipelines, and what to ask of it.

    Attributes
    ----------
    entry
        Name of the entry it was made from.
    repository
        Its folder.
    instrument
        Name of the instrument.
    sky_map
        Name of the sky map templates are built on.
    template_query, science_query
        Butler expressions that select the visits of the two pipelines; the first names the sky map too.
    bands
        Bands there are, in order of wavelength.
    collections
        Input collections, in search order.
    files
        Folder the raws lie in; for a simulated survey the truth lies there too.
    """

    entry: str
    repository: str
    instrument: str
    sky_map: str
    template_query: str
    science_query: str
    bands: tuple[str, ...]
    collections: tuple[str, ...]
    files: str


def prepare(entry: str, root: str | Path, *, survey: str | Path | None = None) -> Prepared:
    """Make the repository of an entry; one that is complete is left alone, an interrupted one is completed.

    Parameters
    ----------
    entry
        A key of `ENTRIES`.
    root
        Folder of the repository; made when absent.
    survey
        Folder of the files, where the entry does not know it by itself; for ``simulated`` a folder that
        `nightlab.simulate.simulate_survey` filled. When absent, the small survey is simulated into ``<root>/survey``.

    Returns
    -------
    Prepared

    Raises
    ------
    BadInput
        When there is no such entry (the message lists those there are), or the folder holds another.
    MissingData
        When its files are not on this machine.
    WriteFailed
        When the repository cannot be written.
    """
    if entry not in ENTRIES:
        raise BadInput(f"no data are called {entry!r}", hint=f"known are {', '.join(sorted(ENTRIES))}", entry=entry)
    root = Path(root).absolute()
    marker = root / "nightlab.json"
    done = _read_marker(marker)
    if done is not None and done.entry == entry and done.repository == str(root) and Path(done.files).is_dir():
        open_repository(root)
        return done
    if done is not None and done.entry != entry:
        raise BadInput(
            f"{root} is the repository of {done.entry!r}, not of {entry!r}",
            hint="choose another folder, or leave the entry out",
            path=str(root),
        )
    prepared = ENTRIES[entry](root, None if survey is None else Path(survey).absolute())
    with writing(root):
        draft = marker.with_suffix(".tmp")
        draft.write_text(json.dumps(asdict(prepared), indent=1) + "\n")
        os.replace(draft, marker)
    return prepared


def prepared_in(root: str | Path) -> Prepared:
    """Describe the repository in a folder that `prepare` completed.

    Raises
    ------
    MissingData
        When none was completed there.
    """
    done = _read_marker(Path(root).absolute() / "nightlab.json")
    if done is None:
        raise MissingData(f"{root} holds no prepared data", hint="run nightlab.data.catalogs.prepare", path=str(root))
    # it may have been moved or copied since
    return replace(done, repository=str(Path(root).absolute()))


def _read_marker(path: Path) -> Prepared | None:
    try:
        values: Any = json.loads(path.read_text())
        lists: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
        return Prepared(**lists)
    except (FileNotFoundError, json.JSONDecodeError, TypeError, AttributeError):
        # absent, cut short or of another version: prepare again, which changes nothing that is right
        return None


def _visits(visits: Sequence[int]) -> str:
    return f"visit IN ({', '.join(str(visit) for visit in sorted(visits))})"


def _prepare_stripe82(root: Path, survey: Path | None) -> Prepared:
    files = data_set("stripe82") if survey is None else survey
    paths = {
        (run, band): files
        / f"input/{run}/40/corr/{STRIPE82_CAMCOL}"
        / f"fpC-{run:06d}-{band}{STRIPE82_CAMCOL}-{field:04d}.fit.gz"
        for run, field in (STRIPE82_TEMPLATE, STRIPE82_SCIENCE)
        for band in BANDS
    }
    frames = {key: find_frame(path) for key, path in paths.items()}
    butler = make_repository(root, "SDSS")
    ingest(butler, "SDSS", paths.values())
    reference = read_lsst_reference(files / "ref_cats" / "sdss_demo_ref_cat")
    ingest_reference(butler, reference, "sdss_demo")
    if not sky_map_is_there(butler, "stripe82"):
        write_sky_map(butler, stripe82_sky_map([paths[STRIPE82_SCIENCE[0], band] for band in BANDS], reference))
    template, science = (
        _visits([frame.visit for (of, _), frame in frames.items() if of == run])
        for run, _ in (STRIPE82_TEMPLATE, STRIPE82_SCIENCE)
    )
    return Prepared(
        entry="stripe82",
        repository=str(root),
        instrument="SDSS",
        sky_map="stripe82",
        # tracts are numbered as the detectors whose grid they have
        template_query=f"instrument = 'SDSS' AND skymap = 'stripe82' AND tract = detector AND {template}",
        science_query=f"instrument = 'SDSS' AND {science}",
        bands=tuple(BANDS),
        collections=input_collections("SDSS"),
        files=str(files),
    )


def stripe82_sky_map(paths: Sequence[Path], reference: Table) -> SkyMap:
    """Make a sky map whose tracts are the calibrated grids of SDSS frames: a template on them is resampled only once.

    Parameters
    ----------
    paths
        One corrected frame per detector; its tract carries the detector's number, and a border around the frame.
    reference
        Reference catalogue the frames are calibrated against, as the pipelines will.
    """
    tracts = []
    for path in paths:
        frame = find_frame(path)
        calibrated = calibrate(read_raw(path), reference=reference).visit_image
        shape = (calibrated.bbox.shape.y, calibrated.bbox.shape.x)
        header = fits_header(calibrated.sky_projection, calibrated.bbox)
        header["CRPIX1"] = float(header["CRPIX1"]) + STRIPE82_BORDER
        header["CRPIX2"] = float(header["CRPIX2"]) + STRIPE82_BORDER
        (height, width), (cell_y, cell_x) = (side + 2 * STRIPE82_BORDER for side in shape), STRIPE82_CELL
        grown = (-(-height // cell_y) * cell_y, -(-width // cell_x) * cell_x)
        tracts.append(
            TractGrid(
                tract=detector_id(frame.band, frame.camcol),
                header=header,
                shape=grown,
                patch=grown,
                border=0,
                cell=STRIPE82_CELL,
            )
        )
    return SkyMap(name="stripe82", tracts=tuple(sorted(tracts, key=lambda tract: tract.tract)))


def read_lsst_reference(folder: Path) -> Table:
    """Read a reference catalogue in the sharded form of the LSST stack.

    Parameters
    ----------
    folder
        Shards ``<htm7>.fits`` with ``coord_ra``, ``coord_dec`` [rad] and ``<band>_flux``, ``<band>_fluxErr`` [nJy].

    Returns
    -------
    Table
        A reference table in our convention, by `refId`.
    """
    shards = sorted(path for path in folder.glob("*.fits") if path.stem.isdigit())
    if not shards:
        raise MissingData(f"{folder} holds no reference catalogue shards", hint="check the data set", path=str(folder))
    tables = []
    for path in shards:
        with fits_file(path, needed="a reference catalogue") as hdus:
            tables.append(_lsst_shard(hdus[1].data))
    table = vstack(tables, join_type="exact")
    table.sort("refId")
    return table


def _lsst_shard(data: fits.FITS_rec) -> Table:
    def native(name: str) -> np.ndarray:
        column = np.asarray(data[name])
        return column.astype(column.dtype.newbyteorder("="))

    table = Table({"refId": native("id")})
    for ours, theirs in (("ra", "coord_ra"), ("dec", "coord_dec")):
        table[ours] = np.rad2deg(native(theirs))
        table[ours].unit = "deg"
    for name in data.names:
        if name.endswith(("_flux", "_fluxErr")):
            table[name] = native(name)
            table[name].unit = "nJy"
    if "starnotgal" in data.names:
        table["isStar"] = native("starnotgal") == 1
    return table


def _prepare_simulated(root: Path, survey: Path | None) -> Prepared:
    files = root / "survey" if survey is None else survey
    # the last file that `simulate` writes: without it the survey is not complete
    if not (files / "truth_sources.parquet").is_file():
        if survey is not None:
            raise MissingData(
                f"{files} holds no complete simulated survey (no truth_sources.parquet)",
                hint="make one with nightlab.simulate.simulate_survey",
                path=str(files),
            )
        simulate_survey(files)
    raws = sorted((files / "raw").glob("*.fits"))
    simcam = instrument_named("SimCam")
    records = [simcam.read_record(path) for path in raws]
    butler = make_repository(root, "SimCam")
    ingest(butler, "SimCam", raws)
    _certify_simulated(butler, files / "calib")
    ingest_reference(butler, Table.read(files / "reference.parquet", format="parquet"), "simulated")
    with fits_file(raws[0], needed="the pixel scale") as hdus:
        scale = float(hdus[0].header["PIXSCALE"])
    write_sky_map(butler, tan_sky_map("simulated", records, scale))
    by_role = {
        role: _visits(sorted({record.visit for record in records if record.observation_reason == role}))
        for role in ("template", "science")
    }
    used = {simcam.filters[record.physical_filter] for record in records}
    return Prepared(
        entry="simulated",
        repository=str(root),
        instrument="SimCam",
        sky_map="simulated",
        template_query=f"instrument = 'SimCam' AND skymap = 'simulated' AND {by_role['template']}",
        science_query=f"instrument = 'SimCam' AND {by_role['science']}",
        bands=tuple(band for band in simcam.filters.values() if band in used),
        collections=input_collections("SimCam"),
        files=str(files),
    )


def _certify_simulated(butler: Butler, folder: Path) -> None:
    for kind in ("bias", "flat"):
        paths = sorted(folder.glob(f"{kind}_*.fits"))
        if not paths:
            raise MissingData(f"{folder} holds no {kind} frames", hint="simulate the survey again", path=str(folder))
        frames = (read_calibration(path) for path in paths)
        certify(
            butler,
            "SimCam",
            kind,
            (
                (
                    {"detector": frame.detector}
                    | ({"physical_filter": frame.physical_filter} if frame.physical_filter else {}),
                    frame.image,
                )
                for frame in frames
            ),
        )


def tan_sky_map(name: str, records: Sequence[RawRecord], scale: float) -> SkyMap:
    """Make a sky map of one gnomonic tract around everything some raws cover.

    Parameters
    ----------
    name
        Name of the map.
    records
        The raws.
    scale
        Size of a pixel [arcsec].
    """
    corners = np.concatenate([record.corners for record in records])
    lon, lat = np.deg2rad(corners).T
    mean = np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)]).mean(axis=1)
    ra, dec = np.rad2deg(np.arctan2(mean[1], mean[0])) % 360.0, np.rad2deg(np.arctan2(mean[2], np.hypot(*mean[:2])))
    centred = _grid(name, float(ra), float(dec), scale, (0.0, 0.0))
    x, y = radec_to_pixel(centred, *corners.T)
    shape, patch = zip(*(_sides(float(np.abs(side).max())) for side in (y, x)), strict=True)
    middle = ((shape[0] - 1) / 2.0, (shape[1] - 1) / 2.0)
    header = fits_header(_grid(name, float(ra), float(dec), scale, middle), Box.from_shape(shape))
    tract = TractGrid(tract=0, header=header, shape=shape, patch=patch, border=BORDER, cell=(CELL, CELL))
    return SkyMap(name=name, tracts=(tract,))


def _grid(name: str, ra: float, dec: float, scale: float, middle: tuple[float, float]) -> SkyProjection:
    return tan_projection(
        ra,
        dec,
        x=middle[1],
        y=middle[0],
        scale=scale,
        frame=TractFrame(skymap=name, tract=0, bbox=Box.from_shape((1, 1))),
    )


def _sides(reach: float) -> tuple[int, int]:
    """Side of a tract that reaches so far from its middle, and of its patches [pixel]."""
    size = int(np.ceil(2.0 * reach)) + 1
    count = -(-size // PATCH_MAX)
    patch = -(-size // (count * CELL)) * CELL
    return count * patch, patch


#: Makes the repository of an entry in a folder, from files that may be given; add yours here.
ENTRIES: dict[str, Callable[[Path, Path | None], Prepared]] = {
    "simulated": _prepare_simulated,
    "stripe82": _prepare_stripe82,
}
