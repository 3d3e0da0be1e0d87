"""Hyper Suprime-Cam: exposures that the LSST or HSC pipelines calibrated, and the headers of raw frames.

Visit and CCD come from the header, else from the name of the file (``HSC-<visit>-<ccd>`` or ``calexp-<visit>-<ccd>``).
A file that lost its time or filter is read all the same and says so in its metadata.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.coordinates import Angle
from astropy.io import fits
from astropy.wcs import WCS
from lsst.images import Box, DetectorFrame, SkyProjection, VisitImage

from nightlab.data.instruments.base import DetectorRecord, Instrument, RawRecord, fits_file
from nightlab.data.instruments.calexp import Facts, is_calexp, read_calexp, read_facts
from nightlab.data.instruments.frames import corners_of, frame_image, number, tai, wcs_of
from nightlab.errors import BadInput
from nightlab.images.wcs import pixel_scale, pixel_to_radec, projection_from_wcs

J2000 = 51544.5  # MJD given to exposures that do not say when they were taken
CHIP = Box.from_shape((4176, 2048))
SCIENCE = range(104)  # CCDs 104 to 111 are for focusing
FILTERS = {f"HSC-{name}": name.lower() for name in "GRIZY"} | {"HSC-R2": "r", "HSC-I2": "i", "hsc_unknown": "unknown"}
FILTERS |= {
    f"NB{n:04d}": f"N{n}"
    for n in (387, 391, 395, 400, 430, 468, 497, 506, 515, 527, 656, 718, 816, 921, 926, 973, 1010)
}
KINDS = {"BIAS": "bias", "DARK": "dark", "FLAT": "flat", "DOMEFLAT": "flat", "SKYFLAT": "flat"}
FILE_NAME = re.compile(r"(?:HSC|calexp)-(?:HSC-)?(\d{6,7})[-_](\d{1,3})\b", re.IGNORECASE)
FRAME_ID = re.compile(r"HSC([A-Z])(\d{6})\d\d")


def read_record(path: str | Path) -> RawRecord:
    """Tell what the header of a calibrated exposure says; pixels are not read."""
    path = Path(path)
    with fits_file(path, needed="the header of an HSC exposure") as hdus:
        _check(hdus, path)
        return _record(read_facts(hdus), path)


def _check(hdus: fits.HDUList, path: Path) -> None:
    camera = str(hdus[0].header.get("INSTRUME", "")).strip()
    if not is_calexp(hdus):
        raise BadInput(
            f"{path} has no planes IMAGE, MASK and VARIANCE",
            hint="give an exposure that the LSST pipelines calibrated; raw frames of HSC are not read",
            path=str(path),
        )
    if camera and not camera.startswith(("Hyper Suprime", "HSC")):
        raise BadInput(f"{path} is of {camera}, not of HSC", hint="choose the reader of that camera", path=str(path))


def _record(facts: Facts, path: Path) -> RawRecord:
    visit, detector = _identity(facts.header, path)
    projection = _projection(facts.wcs, visit, detector, facts.bbox)
    (ra,), (dec,) = pixel_to_radec(projection, [facts.bbox.x.center], [facts.bbox.y.center])
    begin = facts.begin if np.isfinite(facts.begin) else J2000
    seconds = facts.seconds if np.isfinite(facts.seconds) else 1.0
    return RawRecord(
        exposure=visit,
        visit=visit,
        detector=detector,
        physical_filter=_filter(str(facts.header.get("FILTER", ""))),
        mjd_begin=begin,
        mjd_end=begin + seconds / 86400.0,
        exposure_time=seconds,
        ra=float(ra),
        dec=float(dec),
        airmass=number(facts.header, "BORE-AIRMASS", "AIRMASS"),
        corners=corners_of(projection, facts.bbox),
        target=str(facts.header.get("OBJECT", "")).strip(),
    )


def _identity(header: Mapping[str, Any], path: Path) -> tuple[int, int]:
    """Give visit and CCD."""
    frame, ccd = FRAME_ID.fullmatch(str(header.get("EXP-ID", "")).strip()), number(header, "DET-ID")
    named = FILE_NAME.search(path.name)
    if frame and np.isfinite(ccd):
        visit, detector = _visit(frame), int(ccd)
    elif named:
        visit, detector = int(named[1]), int(named[2])
    else:
        raise BadInput(
            f"neither the header nor the name of {path} says which visit and CCD it is of",
            hint="name it HSC-<visit>-<ccd>.fits",
            path=str(path),
        )
    if detector > 111:
        raise BadInput(f"{path} is of CCD {detector}; HSC has 0 to 111", hint="check its name", path=str(path))
    return visit, detector


def _visit(frame: re.Match[str]) -> int:
    """Give the number of a visit: the letter of the frame counts millions."""
    return int(frame[2]) + 1_000_000 * (ord(frame[1]) - ord("A"))


def _filter(name: str) -> str:
    name = name.strip().upper()
    return name if name in FILTERS else "hsc_unknown"


def _projection(wcs: WCS, visit: int, detector: int, bbox: Box) -> SkyProjection:
    return projection_from_wcs(wcs, DetectorFrame(instrument="HSC", visit=visit, detector=detector, bbox=bbox), bbox)


def raw_header_record(header: fits.Header) -> RawRecord:
    """Tell what the header of a raw frame says.

    Parameters
    ----------
    header
        Of a raw frame of one CCD. Its WCS is rough, and on the raw pixels.

    Raises
    ------
    BadInput
        When it has no frame identifier, such as HSCA90402400.
    KeyError
        When another keyword is missing.
    """
    frame = FRAME_ID.fullmatch(str(header.get("EXP-ID", "")).strip())
    if frame is None:
        raise BadInput(
            f"the header has EXP-ID {header.get('EXP-ID')!r}", hint="raw frames of HSC have one such as HSCA90402400"
        )
    visit, detector, seconds = _visit(frame), int(header["DET-ID"]), float(header["EXPTIME"])
    begin = tai(float(header["MJD-STR"]))
    kind = KINDS.get(str(header["DATA-TYP"]).strip().upper(), "science")
    record = RawRecord(
        exposure=visit,
        visit=visit,
        detector=detector,
        physical_filter=_filter(str(header["FILTER01"])),
        mjd_begin=begin,
        mjd_end=begin + seconds / 86400.0,
        exposure_time=seconds,
        target=str(header.get("OBJECT", "")).strip(),
        observation_type=kind,
    )
    if not record.sees_sky:
        return record
    bbox = Box.from_shape((int(header["NAXIS2"]), int(header["NAXIS1"])))
    return replace(
        record,
        ra=float(Angle(str(header["RA2000"]), unit="hourangle").deg),
        dec=float(Angle(str(header["DEC2000"]), unit="deg").deg),
        airmass=number(header, "AIRMASS"),
        corners=corners_of(_projection(wcs_of(header), visit, detector, bbox), bbox),
    )


def read_raw(path: str | Path) -> VisitImage:
    """Read a calibrated exposure of one CCD, or a piece of one.

    Returns
    -------
    VisitImage
        In adu, sky subtracted, with the mask planes the header names and the variance; with a PSF when the file holds
        one of principal components, else without. `metadata` has ``zeroPoint`` (magnitude of 1 adu in this exposure)
        where the file knows it, and ``timeKnown``.

    Raises
    ------
    BadInput
        When the file is of another camera, or is not a calibrated exposure.
    MissingData, CorruptFile
        When it is absent or damaged.
    """
    path = Path(path)
    with fits_file(path, needed="an HSC exposure") as hdus:
        _check(hdus, path)
        record = _record(read_facts(hdus), path)
        found = read_calexp(hdus)
    projection = _projection(found.wcs, record.visit, record.detector, found.bbox)
    known = {"zeroPoint": found.zero_point} if np.isfinite(found.zero_point) else {}
    return frame_image(
        found.pixels,
        instrument="HSC",
        band=FILTERS[record.physical_filter],
        record=record,
        name=str(record.detector),
        assembled=CHIP,
        projection=projection,
        pixel_scale=pixel_scale(projection, found.bbox.x.center, found.bbox.y.center),
        bbox=found.bbox,
        variance=found.variance,
        planes=found.planes,
        psf=None if found.psf is None else found.psf.to_piff(),
        metadata=known | {"timeKnown": bool(np.isfinite(found.begin))},
    )


INSTRUMENT = Instrument(
    name="HSC",
    class_name="nightlab.data.instruments.hsc.INSTRUMENT",
    detectors=tuple(
        DetectorRecord(id=k, full_name=str(k), purpose="SCIENCE" if k in SCIENCE else "WAVEFRONT") for k in range(112)
    ),
    filters=FILTERS,
    read_raw=read_raw,
    read_record=read_record,
)
