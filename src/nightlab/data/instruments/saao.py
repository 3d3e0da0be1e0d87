"""The STE3 CCD on the 1.0 m telescope of the South African Astronomical Observatory: raw frames with overscan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from lsst.images import Box, DetectorFrame, SkyProjection, VisitImage

from nightlab.data.instruments.base import DetectorRecord, Instrument, RawRecord, fits_file
from nightlab.data.instruments.frames import (
    check_camera,
    corners_of,
    frame_image,
    nominal_projection,
    number,
    section,
    tai,
)
from nightlab.images.camera import make_amplifier

NAME = "SAAO-STE3"
PIXEL_SCALE = 0.31  # arcsec
SATURATION = 65_535.0  # adu; 16 bit
# two wheels, of which the header gives the positions as 10 A + B
FILTERS = {f"ste3_{code:02d}": "unknown" for code in range(100)}
KINDS = {"bias": "bias", "zero": "bias", "dark": "dark", "flat": "flat"}


def read_record(path: str | Path) -> RawRecord:
    """Tell what the header of a raw frame says; pixels are not read."""
    path = Path(path)
    with fits_file(path, needed="the header of a STE3 raw") as hdus:
        header = hdus[0].header
        check_camera(header, ["STE3"], NAME, path)
        return _record(header)


def _record(header: Mapping[str, Any]) -> RawRecord:
    begin = tai(f"{header['DATE-OBS']}T{header['UT']}")
    seconds = float(header["EXPTIME"])
    # frames have no number of their own: the moment they began, to a second
    exposure = round(begin * 86400.0)
    kind = KINDS.get(str(header.get("IMAGETYP", "")).strip().lower(), "science")
    record = RawRecord(
        exposure=exposure,
        visit=exposure,
        detector=0,
        physical_filter=f"ste3_{int(header['FILTERS']):02d}",
        mjd_begin=begin,
        mjd_end=begin + seconds / 86400.0,
        exposure_time=seconds,
        target=str(header.get("OBJECT", "")).strip(),
        observation_type=kind,
    )
    if not record.sees_sky:
        return record
    light = section(str(header["TRIMSEC"]))[0]
    return replace(
        record,
        ra=float(header["RA_OBS"]),
        dec=float(header["DEC_OBS"]),
        airmass=number(header, "SECZ"),
        corners=corners_of(_projection(header, exposure, light), light),
    )


def _projection(header: Mapping[str, Any], visit: int, light: Box) -> SkyProjection:
    frame = DetectorFrame(instrument=NAME, visit=visit, detector=0, bbox=light)
    ra, dec = number(header, "RA_OBS"), number(header, "DEC_OBS")
    return nominal_projection(frame, light, ra=ra, dec=dec, scale=(PIXEL_SCALE, PIXEL_SCALE))


def read_raw(path: str | Path) -> VisitImage:
    """Read a raw frame.

    Returns
    -------
    VisitImage
        In adu with its overscan, without variance or PSF; the amplifier has the gain and read noise of the header.
        The projection is the pointing alone (``nominalWcs`` in `metadata`): orientation and parity are not known.

    Raises
    ------
    BadInput
        When the file is of another camera.
    MissingData, CorruptFile
        When it is absent or damaged.
    """
    path = Path(path)
    with fits_file(path, needed="a STE3 raw") as hdus:
        header = hdus[0].header
        check_camera(header, ["STE3"], NAME, path)
        record = _record(header)
        pixels = np.asarray(hdus[0].data, dtype=np.float32)
        if pixels.ndim != 2:
            raise ValueError(f"the image has {pixels.ndim} axes")
        light, overscan = (section(str(header[key]))[0] for key in ("TRIMSEC", "BIASSEC"))
        gain, read_noise = float(header["GAIN"]), float(header["RDNOISE"])
        projection = _projection(header, record.visit, light)
    amplifier = make_amplifier(
        "A",
        light,
        raw_bbox=Box.from_shape(pixels.shape),
        data_bbox=light,
        serial_overscan=overscan,
        gain=gain,
        read_noise=read_noise,
        saturation=SATURATION,
    )
    return frame_image(
        pixels,
        instrument=NAME,
        band=FILTERS[record.physical_filter],
        record=record,
        name="STE3",
        assembled=light,
        projection=projection,
        pixel_scale=PIXEL_SCALE,
        amplifiers=[amplifier],
        metadata={"gain": gain, "nominalWcs": True},
    )


INSTRUMENT = Instrument(
    name=NAME,
    class_name="nightlab.data.instruments.saao.INSTRUMENT",
    detectors=(DetectorRecord(id=0, full_name="STE3"),),
    filters=FILTERS,
    read_raw=read_raw,
    read_record=read_record,
)
