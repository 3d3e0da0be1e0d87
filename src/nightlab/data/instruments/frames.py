"""What the readers of cameras share: sections, times and projections of headers, and the image made of it all."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from astro_metadata_translator import ObservationInfo
from astropy.io.fits import Header
from astropy.time import Time
from astropy.wcs import WCS, FITSFixedWarning
from lsst.images import Box, DetectorFrame, SkyProjection, VisitImage
from lsst.images.cameras import Amplifier
from lsst.images.psfs import PointSpreadFunction
from numpy.typing import ArrayLike, NDArray

from nightlab.data.instruments.base import RawRecord
from nightlab.errors import BadInput
from nightlab.images.build import observation, visit_image
from nightlab.images.camera import make_detector
from nightlab.images.wcs import pixel_to_radec, projection_from_wcs

SECTION = re.compile(r"\[\s*(\d+)\s*:\s*(\d+)\s*,\s*(\d+)\s*:\s*(\d+)\s*\]")


def number(header: Mapping[str, Any], *names: str) -> float:
    """Give the first of some keywords that holds a number, also one written as text; NaN where none does."""
    for name in names:
        value = header.get(name)
        if isinstance(value, bool):
            continue
        try:
            found = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
        if np.isfinite(found):
            return found
    return float("nan")


def section(text: str) -> tuple[Box, bool, bool]:
    """Read an image section of FITS headers, such as ``[509:1,1:2000]``.

    Returns
    -------
    box, flip_x, flip_y
        The pixels, counted from 0, and whether the section runs downwards along x and y.

    Raises
    ------
    BadInput
        When the text is no section.
    """
    found = SECTION.fullmatch(str(text).strip())
    if found is None:
        raise BadInput(f"{text!r} is no image section", hint="needed is [x0:x1,y0:y1]", found=str(text))
    x0, x1, y0, y1 = (int(word) for word in found.groups())
    box = Box.factory[min(y0, y1) - 1 : max(y0, y1), min(x0, x1) - 1 : max(x0, x1)]
    return box, x0 > x1, y0 > y1


def tai(moment: str | float, scale: str = "utc") -> float:
    """Give the MJD TAI of a date in ISO form or of an MJD."""
    form = "mjd" if isinstance(moment, float) else None
    return float(Time(moment, format=form, scale=scale.lower()).tai.mjd)


def check_camera(header: Mapping[str, Any], names: Iterable[str], instrument: str, path: object) -> None:
    """Refuse a file whose ``INSTRUME`` begins with none of some names.

    Raises
    ------
    BadInput
        Naming what was found.
    """
    found = str(header.get("INSTRUME", "")).strip()
    if not found.lower().startswith(tuple(name.lower() for name in names)):
        raise BadInput(
            f"{path} is of {found or 'no instrument that it names'}, not of {instrument}",
            hint="choose the reader of that camera",
            path=str(path),
            found=found,
        )


def corners_of(projection: SkyProjection, bbox: Box) -> NDArray[np.float64]:
    """Give ``(4, 2)`` ra and dec of the outer corners of a box of pixels, in order around it [degree, ICRS]."""
    left, right, bottom, top = bbox.x.start - 0.5, bbox.x.stop - 0.5, bbox.y.start - 0.5, bbox.y.stop - 0.5
    return np.stack(pixel_to_radec(projection, [left, right, right, left], [bottom, bottom, top, top]), axis=1)


def nominal_projection(
    frame: DetectorFrame,
    bbox: Box,
    *,
    ra: float,
    dec: float,
    scale: tuple[float, float],
    rotation: float = 0.0,
) -> SkyProjection:
    """Make a gnomonic projection of a pointing, for frames without a WCS.

    Parameters
    ----------
    frame, bbox
        Whose pixels these are; the pointing is at the middle of the box.
    ra, dec
        ICRS [degree]; NaN gives (0, 0), a place as good as any.
    scale
        Size of a pixel along x and y [arcsec].
    rotation
        Position angle of y, from north through east [degree]; x grows to the west at 0.
    """
    turn = np.deg2rad(rotation if np.isfinite(rotation) else 0.0)
    known = np.isfinite([ra, dec]).all()
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.cunit = "deg", "deg"
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.crval = (ra, dec) if known else (0.0, 0.0)
    wcs.wcs.crpix = bbox.x.center + 1.0, bbox.y.center + 1.0
    axes = np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    wcs.wcs.cd = axes * (np.array(scale) / 3600.0)
    return projection_from_wcs(wcs, frame, bbox)


def wcs_of(header: Header, x0: int = 0, y0: int = 0) -> WCS:
    """Give the celestial WCS of an image header whose first pixel is to be (x0, y0).

    Approximate inverses of a SIP distortion are left out: the exact one is found by iteration.

    Raises
    ------
    BadInput
        When there is none.
    """
    cards = header.copy()
    for key in [key for key in cards if re.match(r"(AP|BP)_", key)]:
        del cards[key]
    if not str(cards.get("CTYPE1", "")).startswith(("RA", "DEC")):
        raise BadInput("the header has no celestial WCS", hint="solve its astrometry first", found=cards.get("CTYPE1"))
    cards["CRPIX1"], cards["CRPIX2"] = float(cards["CRPIX1"]) + x0, float(cards["CRPIX2"]) + y0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        return WCS(cards)


def frame_image(
    pixels: ArrayLike,
    *,
    instrument: str,
    band: str,
    record: RawRecord,
    name: str,
    assembled: Box,
    projection: SkyProjection,
    pixel_scale: float,
    amplifiers: Iterable[Amplifier] = (),
    bbox: Box | None = None,
    unit: str = "adu",
    variance: ArrayLike | None = None,
    planes: Mapping[str, NDArray[np.bool_]] | None = None,
    psf: PointSpreadFunction | None = None,
    metadata: Mapping[str, str | int | float | bool] | None = None,
) -> VisitImage:
    """Make the image of one frame.

    Parameters
    ----------
    pixels, variance, planes
        ``(ny, nx)``; see `nightlab.images.build.visit_image`.
    instrument, band, name
        Of the camera, the passband and the detector.
    record
        What the header says.
    assembled
        The detector without prescan and overscan.
    projection, psf
        On the assembled detector.
    pixel_scale
        [arcsec].
    amplifiers
        Of a raw frame; empty when it arrives corrected.
    bbox
        Place of the array; starts at (0, 0) when absent.
    unit
        Of the pixels.
    metadata
        Plain facts to carry along.
    """
    return visit_image(
        pixels,
        variance=variance,
        planes=planes,
        unit=unit,
        projection=projection,
        psf=psf,
        detector=make_detector(
            instrument,
            record.detector,
            name,
            assembled,
            amplifiers=amplifiers,
            pixel_scale=pixel_scale,
            visit=record.visit,
        ),
        band=band,
        info=observed(instrument, record),
        bbox=bbox,
        metadata=metadata,
    )


def observed(instrument: str, record: RawRecord) -> ObservationInfo:
    """Describe the exposure of a record as `lsst.images` wants it."""
    return observation(
        instrument,
        visit=record.visit,
        detector=record.detector,
        physical_filter=record.physical_filter,
        mjd_tai=record.mjd_begin,
        exposure_time=record.exposure_time,
        ra=record.ra,
        dec=record.dec,
        rotation=record.rotation,
        airmass=record.airmass,
        observation_type=record.observation_type,
    )
