"""ALFOSC at the Nordic Optical Telescope: raw frames of its CCD14, whole or in a window, binned or not.

One amplifier reads the chip. Its columns 3 to 52 are serial overscan and its rows 2069 to 2094 parallel overscan,
counted from 1 without binning; rows above 2052 are not light. A window has whatever of it lies inside, and keeps its
place on the chip: pixel (0, 0) is the first pixel of the whole, binned chip. Spectroscopic windows have no serial
overscan, so `calibrate` and the builders want ``isr.parallel_overscan.method="median"`` for them.

The readout is written as unsigned numbers of 32 bit, and the few that fall below zero wrap around; they come out
negative here.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from astropy.io import fits
from lsst.images import Box, DetectorFrame, Interval, SkyProjection, VisitImage

from nightlab.data.instruments.base import DetectorRecord, Instrument, RawRecord, day_obs, fits_file
from nightlab.data.instruments.frames import (
    check_camera,
    corners_of,
    frame_image,
    nominal_projection,
    number,
    section,
    tai,
    wcs_of,
)
from nightlab.errors import BadInput
from nightlab.images.camera import make_amplifier
from nightlab.images.wcs import projection_from_wcs

PIXEL_SCALE = 0.2138  # arcsec, without binning
LIGHT_X, LIGHT_Y = (53, 2100), (1, 2052)  # first and last column and row, from 1, without binning
SERIAL, PARALLEL = (3, 52), (2069, 2094)
SATURATION = 7e5  # adu; the full well, since the converter has 32 bit
GRISMS = range(1, 31)
BANDS = "ugrizUBVR"
FILTERS = (
    {"alfosc_open": "white", "alfosc_other": "unknown"}
    | {f"alfosc_{band}": band for band in BANDS}
    | {f"alfosc_grism{n}": "spectrum" for n in GRISMS}
)
KINDS = {"BIAS": "bias", "DARK": "dark", "FLAT": "flat", "WAVE": "arc"}
FILE_NAME = re.compile(r"AL[A-Za-z]{2}\d{2}(\d{4})(?:\.fits?)?", re.IGNORECASE)


def read_record(path: str | Path) -> RawRecord:
    """Tell what the header of a raw frame says; pixels are not read."""
    path = Path(path)
    with fits_file(path, needed="the header of an ALFOSC raw") as hdus:
        header = _header(hdus, path)
        return _record(header, path)


def _header(hdus: fits.HDUList, path: Path) -> fits.Header:
    check_camera(hdus[0].header, ["ALFOSC"], "ALFOSC", path)
    header = hdus[0].header.copy()
    header.update(hdus[1].header)
    return header


def _record(header: fits.Header, path: Path) -> RawRecord:
    begin = tai(str(header["DATE-OBS"]))
    seconds = float(header["EXPTIME"])
    named = FILE_NAME.fullmatch(str(header.get("FILENAME") or path.name).strip())
    if named is None:
        raise BadInput(
            f"{path} has no FILENAME such as ALDc210004.fits and is not called so either",
            hint="give the file its name back; the number of the exposure is read from it",
            path=str(path),
        )
    sequence = int(named[1])
    # the century is left out so that identifiers of sources fit
    exposure = (day_obs(begin) - 20_000_000) * 10_000 + sequence
    kind = KINDS.get(re.split(r"[,\s]", str(header.get("IMAGETYP", "")).strip().upper())[0], "science")
    record = RawRecord(
        exposure=exposure,
        visit=exposure,
        detector=0,
        physical_filter=_filter(header),
        mjd_begin=begin,
        mjd_end=begin + seconds / 86400.0,
        exposure_time=seconds,
        target=str(header.get("OBJECT", "")).strip(),
        sequence=sequence,
        observation_type=kind,
    )
    if not record.sees_sky:
        return record
    light = _light(header)
    return replace(
        record,
        ra=float(header["RA"]),
        dec=float(header["DEC"]),
        airmass=number(header, "AIRMASS"),
        corners=corners_of(_projection(header, exposure, light), light),
    )


def _filter(header: fits.Header) -> str:
    """Name what was in the beam: a grism, else a filter, else nothing."""
    grism = re.search(r"grism\D*(\d+)", str(header.get("ALGRNM", "")), re.IGNORECASE)
    if grism and int(grism[1]) in GRISMS:
        return f"alfosc_grism{int(grism[1])}"
    filters = [str(header.get(key, "Open")).strip() for key in ("FAFLTNM", "FBFLTNM", "ALFLTNM")]
    filters = [name for name in filters if name and not name.lower().startswith("open")]
    if not filters:
        return "alfosc_open"
    band = re.match(r"([ugriz])'?_(?:SDSS|int)|([UBVR])_Bes", filters[0])
    return f"alfosc_{band[1] or band[2]}" if band and len(filters) == 1 else "alfosc_other"


def _binning(header: fits.Header) -> tuple[int, int]:
    return int(header["DETXBIN"]), int(header["DETYBIN"])


def _window(header: fits.Header) -> Box:
    """Give all pixels that were read, on the binned chip.

    Raises
    ------
    BadInput
        When the window and the size of the array disagree.
    """
    (bin_x, bin_y), window = _binning(header), section(str(header["DETWIN1"]))[0]
    shape = int(header["NAXIS2"]), int(header["NAXIS1"])
    if shape != (window.y.size // bin_y, window.x.size // bin_x):
        raise BadInput(
            f"the window {header['DETWIN1']}, binned by {bin_x} and {bin_y}, does not have the {shape} pixels it has",
            hint="the header was changed, or the frame cut",
            found=shape,
        )
    return Box.from_shape(shape, start=(window.y.start // bin_y, window.x.start // bin_x))


def _part(window: Box, header: fits.Header, x: tuple[int, int] | None, y: tuple[int, int] | None) -> Box | None:
    """Give the pixels of a window whose every column and row lies within some of the chip's; None where none does."""
    bin_x, bin_y = _binning(header)
    intervals = []
    for whole, limits, by in ((window.y, y, bin_y), (window.x, x, bin_x)):
        first, last = (0, 10**9) if limits is None else limits
        start, stop = max(whole.start, -(-(first - 1) // by) if limits else 0), min(whole.stop, last // by)
        if stop <= start:
            return None
        intervals.append(Interval.factory[start:stop])
    return Box(*intervals)


def _light(header: fits.Header) -> Box:
    found = _part(_window(header), header, LIGHT_X, LIGHT_Y)
    if found is None:
        raise BadInput(
            "the window holds no light-sensitive pixel", hint="choose another frame", found=header["DETWIN1"]
        )
    return found


def _projection(header: fits.Header, visit: int, light: Box) -> SkyProjection:
    """Give the header's WCS where it has one, else the pointing."""
    frame = DetectorFrame(instrument="ALFOSC", visit=visit, detector=0, bbox=light)
    if _has_wcs(header):
        window = _window(header)
        return projection_from_wcs(wcs_of(header, window.x.start, window.y.start), frame, light)
    bin_x, bin_y = _binning(header)
    return nominal_projection(
        frame,
        light,
        ra=number(header, "RA"),
        dec=number(header, "DEC"),
        scale=(PIXEL_SCALE * bin_x, PIXEL_SCALE * bin_y),
    )


def _has_wcs(header: fits.Header) -> bool:
    return str(header.get("CTYPE1", "")).startswith(("RA", "DEC"))


def read_raw(path: str | Path) -> VisitImage:
    """Read a raw frame.

    Parameters
    ----------
    path
        A FITS file with one window in extension 1.

    Returns
    -------
    VisitImage
        In adu with its overscans, on the binned chip, without variance or PSF. Its detector has the light-sensitive
        part of the window as its box, and one amplifier with the gain and read noise of the header. `metadata` says
        ``nominalWcs`` where the projection is the pointing alone, ``gain`` and the binning.

    Raises
    ------
    BadInput
        When the file is of another camera, or its header contradicts itself.
    MissingData, CorruptFile
        When it is absent or damaged.
    """
    path = Path(path)
    with fits_file(path, needed="an ALFOSC raw") as hdus:
        header = _header(hdus, path)
        record = _record(header, path)
        data = np.asarray(hdus[1].data)
        if data.ndim != 2:
            raise ValueError(f"the image has {data.ndim} axes")
        pixels = data.astype(np.uint32).view(np.int32).astype(np.float32)
        gain, read_noise = float(header["GAIN"]), float(header["RDNOISE"])
        window, light = _window(header), _light(header)
    bin_x, bin_y = _binning(header)
    amplifier = make_amplifier(
        str(header.get("AMPLMODE", "A")).strip(),
        light,
        raw_bbox=window,
        data_bbox=light,
        serial_overscan=_part(window, header, SERIAL, None),
        parallel_overscan=_part(window, header, LIGHT_X, PARALLEL),
        gain=gain,
        read_noise=read_noise,
        saturation=SATURATION,
    )
    return frame_image(
        pixels,
        instrument="ALFOSC",
        band=FILTERS[record.physical_filter],
        record=record,
        name=str(header.get("CCDNAME", "CCD14")).strip(),
        assembled=light,
        projection=_projection(header, record.visit, light),
        pixel_scale=PIXEL_SCALE * float(np.sqrt(bin_x * bin_y)),
        amplifiers=[amplifier],
        bbox=window,
        metadata={"gain": gain, "nominalWcs": not _has_wcs(header), "binningX": bin_x, "binningY": bin_y},
    )


INSTRUMENT = Instrument(
    name="ALFOSC",
    class_name="nightlab.data.instruments.alfosc.INSTRUMENT",
    detectors=(DetectorRecord(id=0, full_name="CCD14"),),
    filters=FILTERS,
    read_raw=read_raw,
    read_record=read_record,
)
