"""The files of SimCam, as an observatory would deliver them.

A raw frame `raw/<visit>_<detector>.fits` has three HDUs.

- The primary header, without data: TELESCOP, INSTRUME 'SimCam', OBSTYPE 'science', ROLE ('template' or 'science'),
  VISIT, DETECTOR, DETNAME, DAYOBS (yyyymmdd), SEQNUM, FILTER ('sim_r'), BAND, TIMESYS 'TAI', DATE-BEG, DATE-END,
  MJD-BEG, MJD-MID, MJD-END and MJD-TAI (the middle) [d], EXPTIME [s], RA, DEC (nominal boresight) and ROTANG
  (position angle of the y axis of the focal plane, north through east) [deg], AIRMASS, PIXSCALE [arcsec], NAMPS,
  DETNX and DETNY (the assembled grid), DETX0 and DETY0 (centre of assembled pixel (0, 0) from the boresight [pixel]),
  and the nominal gnomonic WCS of the assembled grid. That WCS knows neither the pointing error nor the optical
  distortion.
- `RAW`: unsigned 16-bit image [adu], all amplifiers in readout order with their overscans, without a WCS.
- `AMPLIFIERS`: a row per amplifier, with half-open boxes <box>_X0, <box>_X1, <box>_Y0, <box>_Y1 from 0. BBOX is its
  place on the assembled grid; RAW, DATA, SOVER and POVER are all its pixels, its light-sensitive pixels and its serial
  and parallel overscans in the raw array. FLIP_X and FLIP_Y say whether the data are mirrored on their way to the
  assembled grid; X_OFFSET and Y_OFFSET are BBOX minus DATA; RAW_CORNER and CORNER are the readout corners in the raw
  and the assembled image; then NAME, GAIN [electron/adu], READNOISE [electron] and SATURATION, a raw level with the
  bias in it [adu].

`calib/bias_<detector>.fits` (HDU `BIAS` [adu]) and `calib/flat_<band>_<detector>.fits` (HDU `FLAT`, mean 1, without
the gains) lie on the assembled grid, and electrons = (raw - overscan - bias) * gain / flat.
"""

import os
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time
from lsst.images import Box
from numpy.typing import NDArray

from nightlab.errors import WriteFailed
from nightlab.simulate.camera import Chip
from nightlab.simulate.config import SurveyConfig
from nightlab.simulate.optics import cd_matrix
from nightlab.simulate.visit import Visit


def write_raw(path: Path, pixels: NDArray[np.uint16], visit: Visit, chip: Chip, config: SurveyConfig) -> None:
    """Write one raw frame (ny, nx) [adu] in the format of this module, whole or not at all."""
    image = fits.ImageHDU(pixels, name="RAW")
    image.header["BUNIT"] = "adu"
    hdus = fits.HDUList([fits.PrimaryHDU(header=raw_header(visit, chip, config)), image, _amplifier_hdu(chip)])
    write_whole(path, lambda temporary: hdus.writeto(temporary))


def write_calibration(path: Path, pixels: NDArray[np.float32], kind: str, chip: Chip, band: str = "") -> None:
    """Write a bias [adu] or flat (ny, nx) of one detector, whole or not at all."""
    header = fits.Header()
    header["INSTRUME"] = "SimCam"
    header["OBSTYPE"] = kind
    header["DETECTOR"] = chip.detector
    header["DETNAME"] = chip.name
    if band:
        header["FILTER"] = f"sim_{band}"
        header["BAND"] = band
    image = fits.ImageHDU(pixels, name=kind.upper())
    image.header["BUNIT"] = "adu" if kind == "bias" else ""
    hdus = fits.HDUList([fits.PrimaryHDU(header=header), image])
    write_whole(path, lambda temporary: hdus.writeto(temporary))


def write_table(path: Path, table: Table) -> None:
    """Write a table as parquet with units, whole or not at all."""
    write_whole(path, lambda temporary: table.write(temporary, format="parquet"))


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary neighbour of `path`, then put it in its place.

    Raises
    ------
    WriteFailed
        When the file cannot be written; nothing is left behind and an older file stays as it was.
    """
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise WriteFailed(
            f"cannot write {path}: {error}", hint="check space and permissions", path=str(path)
        ) from error
    finally:
        if temporary.exists():
            temporary.unlink()


def raw_header(visit: Visit, chip: Chip, config: SurveyConfig) -> fits.Header:
    """Make the primary header of a raw frame."""
    half = visit.exposure_time / 2.0 / 86400.0
    cd = cd_matrix(config.pixel_scale / 3600.0, visit.rotation)
    ny, nx = chip.bbox.shape
    begin, end = (Time(visit.mjd + s * half, format="mjd", scale="tai", precision=9).isot for s in (-1, 1))
    cards: list[tuple[str, str | int | float, str]] = [
        ("TELESCOP", "SimTel", "simulated telescope"),
        ("INSTRUME", "SimCam", "simulated camera"),
        ("OBSTYPE", "science", "what the exposure is of"),
        ("ROLE", visit.role, "what the survey plans to use the visit for"),
        ("VISIT", visit.visit, "visit and exposure number"),
        ("DETECTOR", chip.detector, "detector number"),
        ("DETNAME", chip.name, "detector name"),
        ("DAYOBS", visit.day_obs, "night, yyyymmdd"),
        ("SEQNUM", visit.seq_num, "running number within the night"),
        ("FILTER", f"sim_{visit.band}", "physical filter"),
        ("BAND", visit.band, "passband"),
        ("TIMESYS", "TAI", "time scale of all dates"),
        ("DATE-BEG", begin, "start of the exposure"),
        ("DATE-END", end, "end of the exposure"),
        ("MJD-BEG", visit.mjd - half, "[d] start of the exposure"),
        ("MJD-MID", visit.mjd, "[d] middle of the exposure"),
        ("MJD-END", visit.mjd + half, "[d] end of the exposure"),
        ("MJD-TAI", visit.mjd, "[d] middle of the exposure"),
        ("EXPTIME", visit.exposure_time, "[s] open-shutter time"),
        ("RA", visit.ra, "[deg] nominal boresight, ICRS"),
        ("DEC", visit.dec, "[deg] nominal boresight, ICRS"),
        ("ROTANG", visit.rotation, "[deg] position angle of the y axis, N through E"),
        ("AIRMASS", visit.airmass, "of the boresight"),
        ("PIXSCALE", config.pixel_scale, "[arcsec] nominal size of a pixel"),
        ("NAMPS", len(chip.amplifiers), "number of amplifiers"),
        ("DETNX", nx, "[pixel] columns of the assembled detector"),
        ("DETNY", ny, "[pixel] rows of the assembled detector"),
        ("DETX0", chip.x0, "[pixel] assembled pixel (0, 0) from boresight"),
        ("DETY0", chip.y0, "[pixel] assembled pixel (0, 0) from boresight"),
        ("WCSAXES", 2, "nominal WCS of the assembled detector"),
        ("CTYPE1", "RA---TAN", "gnomonic"),
        ("CTYPE2", "DEC--TAN", "gnomonic"),
        ("CUNIT1", "deg", ""),
        ("CUNIT2", "deg", ""),
        ("CRVAL1", visit.ra, "[deg]"),
        ("CRVAL2", visit.dec, "[deg]"),
        ("CRPIX1", 1.0 - chip.x0, "[pixel] from 1"),
        ("CRPIX2", 1.0 - chip.y0, "[pixel] from 1"),
        ("CD1_1", float(cd[0, 0]), "[deg/pixel]"),
        ("CD1_2", float(cd[0, 1]), "[deg/pixel]"),
        ("CD2_1", float(cd[1, 0]), "[deg/pixel]"),
        ("CD2_2", float(cd[1, 1]), "[deg/pixel]"),
        ("RADESYS", "ICRS", ""),
    ]
    return fits.Header([fits.Card(*card) for card in cards])


def _amplifier_hdu(chip: Chip) -> fits.BinTableHDU:
    rows = []
    for amplifier in chip.amplifiers:
        geometry, calibrations = amplifier.assembled_raw_geometry, amplifier.nominal_calibrations
        rows.append(
            {
                "NAME": amplifier.name,
                **_box("BBOX", amplifier.bbox),
                **_box("RAW", geometry.bbox),
                **_box("DATA", geometry.data_bbox),
                **_box("SOVER", geometry.serial_overscan_bbox),
                **_box("POVER", geometry.parallel_overscan_bbox),
                "FLIP_X": geometry.flip_x,
                "FLIP_Y": geometry.flip_y,
                "X_OFFSET": geometry.x_offset,
                "Y_OFFSET": geometry.y_offset,
                "RAW_CORNER": geometry.readout_corner.value,
                "CORNER": amplifier.readout_corner.value,
                "GAIN": calibrations.gain,
                "READNOISE": calibrations.read_noise,
                "SATURATION": calibrations.saturation,
            }
        )
    return fits.table_to_hdu(Table(rows), name="AMPLIFIERS")


def _box(name: str, box: Box) -> dict[str, int]:
    return {
        f"{name}_X0": box.x.start,
        f"{name}_X1": box.x.stop,
        f"{name}_Y0": box.y.start,
        f"{name}_Y1": box.y.stop,
    }
