"""SimCam, the camera of the simulated survey: raw frames with amplifiers and overscans, bias and flat."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from lsst.images import Box, DetectorFrame, Image, VisitImage
from lsst.images.cameras import Amplifier

from nightlab.data.instruments.base import DetectorRecord, Instrument, RawRecord, fits_file
from nightlab.data.instruments.frames import observed
from nightlab.errors import BadInput
from nightlab.images.build import visit_image
from nightlab.images.camera import make_amplifier, make_detector
from nightlab.images.wcs import pixel_to_radec, projection_from_wcs

MAX_DETECTORS = 64
FILTERS = {f"sim_{band}": band for band in "ugrizy"}
MARGIN = 25.0  # pixels; the nominal pointing is that uncertain, and regions must not be too small
CALIB_NAME = re.compile(r"(bias)_(\d+)\.fits|(flat)_([a-z]+)_(\d+)\.fits")
BOXES = {
    "bbox": "BBOX",
    "raw_bbox": "RAW",
    "data_bbox": "DATA",
    "serial_overscan": "SOVER",
    "parallel_overscan": "POVER",
}


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """One calibration frame and what it is for."""

    kind: str
    detector: int
    physical_filter: str | None
    image: Image


def read_record(path: str | Path) -> RawRecord:
    """Facts about a raw frame from its header; pixels are not read."""
    with fits_file(Path(path), needed="the header of a SimCam raw") as hdus:
        return _record(hdus[0].header)


def _record(header: Mapping[str, Any]) -> RawRecord:
    bbox = _assembled(header)
    projection = _nominal(header, bbox)
    left, right = bbox.x.start - 0.5 - MARGIN, bbox.x.stop - 0.5 + MARGIN
    bottom, top = bbox.y.start - 0.5 - MARGIN, bbox.y.stop - 0.5 + MARGIN
    corners = pixel_to_radec(projection, [left, right, right, left], [bottom, bottom, top, top])
    return RawRecord(
        exposure=int(header["VISIT"]),
        visit=int(header["VISIT"]),
        detector=int(header["DETECTOR"]),
        physical_filter=str(header["FILTER"]),
        mjd_begin=float(header["MJD-BEG"]),
        mjd_end=float(header["MJD-END"]),
        exposure_time=float(header["EXPTIME"]),
        ra=float(header["RA"]),
        dec=float(header["DEC"]),
        rotation=float(header["ROTANG"]),
        airmass=float(header["AIRMASS"]),
        corners=np.stack(corners, axis=1),
        target="simulated",
        observation_reason=str(header.get("ROLE", "science")),
        sequence=int(header["SEQNUM"]),
        simulated=True,
    )


def _assembled(header: Mapping[str, Any]) -> Box:
    return Box.from_shape((int(header["DETNY"]), int(header["DETNX"])))


def _nominal(header: Mapping[str, Any], bbox: Box) -> Any:
    frame = DetectorFrame(instrument="SimCam", visit=int(header["VISIT"]), detector=int(header["DETECTOR"]), bbox=bbox)
    return projection_from_wcs(WCS(header), frame, bbox)


def read_raw(path: str | Path) -> VisitImage:
    """Read a raw frame.

    Parameters
    ----------
    path
        A FITS file with the HDUs ``RAW`` and ``AMPLIFIERS``.

    Returns
    -------
    VisitImage
        In adu on the raw grid, overscans included, without variance or PSF. Its detector has the amplifiers and the
        assembled box; its projection is the nominal pointing on the assembled grid.

    Raises
    ------
    MissingData, CorruptFile
        When the file is absent or damaged.
    """
    path = Path(path)
    with fits_file(path, needed="a SimCam raw") as hdus:
        header = hdus[0].header
        record = _record(header)
        pixels = np.asarray(hdus["RAW"].data, dtype=np.float32)
        amplifiers = [_amplifier(row) for row in hdus["AMPLIFIERS"].data]
        assembled = _assembled(header)
        projection = _nominal(header, assembled)
        name, scale = str(header["DETNAME"]), float(header["PIXSCALE"])
        centre = (
            float(header["DETX0"]) + assembled.x.center,
            float(header["DETY0"]) + assembled.y.center,
        )
        if pixels.ndim != 2 or record.physical_filter not in FILTERS:
            raise ValueError(f"the image has {pixels.ndim} axes and filter {record.physical_filter}")
    return visit_image(
        pixels,
        unit="adu",
        projection=projection,
        psf=None,
        detector=make_detector(
            "SimCam",
            record.detector,
            name,
            assembled,
            amplifiers=amplifiers,
            pixel_scale=scale,
            centre=centre,
            visit=record.visit,
        ),
        band=FILTERS[record.physical_filter],
        info=observed("SimCam", record),
        metadata={"role": record.observation_reason},
    )


def _amplifier(row: fits.FITS_record) -> Amplifier:
    boxes = {
        argument: Box.factory[
            int(row[f"{name}_Y0"]) : int(row[f"{name}_Y1"]), int(row[f"{name}_X0"]) : int(row[f"{name}_X1"])
        ]
        for argument, name in BOXES.items()
    }
    return make_amplifier(
        str(row["NAME"]).strip(),
        boxes.pop("bbox"),
        **boxes,
        flip_x=bool(row["FLIP_X"]),
        flip_y=bool(row["FLIP_Y"]),
        gain=float(row["GAIN"]),
        read_noise=float(row["READNOISE"]),
        saturation=float(row["SATURATION"]),
    )


def read_calibration(path: str | Path) -> Calibration:
    """Read a bias (``bias_<detector>.fits``, adu) or a flat (``flat_<band>_<detector>.fits``, mean 1).

    Raises
    ------
    BadInput
        When the name is neither.
    """
    path = Path(path)
    named = CALIB_NAME.fullmatch(path.name)
    if named is None:
        raise BadInput(
            f"{path.name} is not the name of a SimCam calibration",
            hint="give bias_<detector>.fits or flat_<band>_<detector>.fits",
            path=str(path),
        )
    kind = named[1] or named[3]
    with fits_file(path, needed=f"a SimCam {kind}") as hdus:
        pixels = np.ascontiguousarray(hdus[kind.upper()].data, dtype=np.float32)
        if pixels.ndim != 2:
            raise ValueError(f"the image has {pixels.ndim} axes")
    return Calibration(
        kind=kind,
        detector=int(named[2] or named[5]),
        physical_filter=f"sim_{named[4]}" if named[4] else None,
        image=Image(pixels, unit=u.adu if kind == "bias" else u.dimensionless_unscaled),
    )


INSTRUMENT = Instrument(
    name="SimCam",
    class_name="nightlab.data.instruments.simcam.INSTRUMENT",
    detectors=tuple(DetectorRecord(id=i, full_name=f"D{i}") for i in range(MAX_DETECTORS)),
    filters=FILTERS,
    read_raw=read_raw,
    read_record=read_record,
)
