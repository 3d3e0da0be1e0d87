"""Any FITS image with a celestial WCS; mask, noise and PSF are used where found, else estimated or left out."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.time import Time
from astropy.wcs import WCS, FITSFixedWarning
from lsst.images import Box, DetectorFrame, SkyProjection, VisitImage
from lsst.images.psfs import PointSpreadFunction
from numpy.typing import ArrayLike, NDArray

from nightlab.data.instruments.base import DetectorRecord, Instrument, RawRecord, fits_file
from nightlab.data.instruments.frames import observed
from nightlab.errors import AllMasked, BadInput, ShapeError
from nightlab.images.build import visit_image
from nightlab.images.camera import make_detector
from nightlab.images.psf import PolynomialPsf
from nightlab.images.wcs import pixel_scale, pixel_to_radec, projection_from_wcs

Pixels = NDArray[np.float32]

MASK_HDUS = ("MASK", "DQ", "FLAGS")
VARIANCE_HDUS = ("VARIANCE", "VAR")
WEIGHT_HDUS = ("WEIGHT", "IVAR", "INVVAR", "WHT")
ERROR_HDUS = ("ERR", "ERROR", "SIGMA", "UNCERT", "RMS")
COMPANIONS = (*MASK_HDUS, *VARIANCE_HDUS, *WEIGHT_HDUS, *ERROR_HDUS, "PSF")
BANDS = "ugrizy"
_ENOUGH = 2_000_000  # pixels that tell the noise of an image
J2000 = 51544.5  # MJD given to images that do not say when they were taken
UNITS = {"adu": u.adu, "dn": u.adu, "count": u.adu, "counts": u.adu, "adus": u.adu, "dns": u.adu, "e-": u.electron}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Opened:
    """What was read from a file: pixels, header of primary and image HDU together, and named companions.

    No pixel can be higher than `ceiling`, infinite unless they are integers.
    """

    pixels: Pixels
    ceiling: float
    header: Mapping[str, Any]
    wcs: WCS
    companions: Mapping[str, NDArray]


def read_generic(
    path: str | Path,
    *,
    mask: ArrayLike | None = None,
    variance: ArrayLike | None = None,
    psf: PointSpreadFunction | ArrayLike | None = None,
) -> VisitImage:
    """Read an image from any FITS file.

    The first two-dimensional image HDU is the image. Extensions called ``MASK`` (or ``DQ``), ``VARIANCE``,
    ``WEIGHT`` (or ``IVAR``) and ``ERR`` on the same grid are used unless given as arguments. Where the noise is not
    given it is estimated: the scatter between neighbouring pixels, plus the Poisson noise of what lies above the
    median when the header has a ``GAIN``.

    Parameters
    ----------
    path
        The file, plain or gzipped.
    mask
        ``(ny, nx)``; whatever is not 0 becomes ``BAD``.
    variance
        ``(ny, nx)`` in the unit of the image squared.
    psf
        A point-spread function, or a ``(k, k)`` stamp of one, k odd; to be measured later when absent.

    Returns
    -------
    VisitImage
        In the unit the header names, else adu. Pixels that are not finite are ``NO_DATA``; those that reach the
        header's saturation level, or the largest number the file can hold, are ``SATURATED``.

    Raises
    ------
    BadInput
        When there is no two-dimensional image or no celestial WCS.
    AllMasked
        When no pixel is finite.
    ShapeError
        When mask or variance are not of the image's size.
    MissingData, CorruptFile
        When the file is absent or damaged.
    """
    path = Path(path)
    opened = _open(path)
    pixels, header = opened.pixels, opened.header
    if not np.isfinite(pixels).any():
        raise AllMasked(f"no pixel of {path} is finite", hint="choose another image", path=str(path))
    bbox = Box.from_shape(pixels.shape)
    record = _record(path, opened, bbox)
    projection = _projection(opened.wcs, record.visit, bbox)
    gain = _number(header, "GAIN", "EGAIN", "CCDGAIN")
    noise, no_weight = _variance(opened, variance, gain)
    saturation = _number(header, "SATURATE", "SATURATION", "SATLEVEL")
    facts: dict[str, str | int | float | bool] = {"file": path.name, "timeKnown": _begin(header) is not None}
    facts |= {name: value for name, value in (("gain", gain), ("saturation", saturation)) if np.isfinite(value)}
    planes = {
        "BAD": _bad(opened, mask),
        "NO_DATA": ~np.isfinite(pixels) | no_weight,
        "SATURATED": pixels >= (min(saturation, opened.ceiling) if np.isfinite(saturation) else opened.ceiling),
    }
    scale = pixel_scale(projection, bbox.x.center, bbox.y.center)
    return visit_image(
        pixels,
        variance=noise,
        planes=planes,
        unit=_unit(header),
        projection=projection,
        psf=_psf(psf, bbox),
        detector=make_detector("GenericFITS", 0, "0", bbox, pixel_scale=scale, visit=record.visit),
        band=INSTRUMENT.filters[record.physical_filter],
        info=observed("GenericFITS", record),
        metadata=facts,
    )


def read_record(path: str | Path) -> RawRecord:
    """Facts about an image from its header."""
    path = Path(path)
    opened = _open(path)
    return _record(path, opened, Box.from_shape(opened.pixels.shape))


def _open(path: Path) -> _Opened:
    with fits_file(path, needed="an image") as hdus:
        images = [hdu for hdu in hdus if hdu.is_image and hdu.name not in COMPANIONS and _is_plane(hdu.shape)]
        if not images:
            raise BadInput(f"{path} holds no two-dimensional image", hint="name the right file", path=str(path))
        hdu = images[0]
        ceiling = float(np.iinfo(hdu.data.dtype).max) if hdu.data.dtype.kind in "iu" else np.inf
        pixels = np.asarray(hdu.data, dtype=np.float32)
        pixels = pixels.reshape(pixels.shape[-2:])
        companions = {
            other.name: np.asarray(other.data).reshape(other.shape[-2:])
            for other in hdus
            if other.is_image and other.name in COMPANIONS and _is_plane(other.shape)
        }
        header = {**hdus[0].header, **hdu.header}
        # distortions in look-up tables live in other HDUs, hence the whole list
        wcs = WCS(hdu.header, hdus)
    if not wcs.has_celestial:
        raise BadInput(
            f"{path} has no celestial WCS",
            hint="solve its astrometry first, for instance with astrometry.net",
            path=str(path),
        )
    return _Opened(pixels=pixels, ceiling=ceiling, header=header, wcs=wcs.celestial, companions=companions)


def _is_plane(shape: tuple[int, ...]) -> bool:
    return len(shape) >= 2 and min(shape[-2:]) > 1 and all(side == 1 for side in shape[:-2])


def _projection(wcs: WCS, visit: int, bbox: Box) -> SkyProjection:
    frame = DetectorFrame(instrument="GenericFITS", visit=visit, detector=0, bbox=bbox)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        return projection_from_wcs(wcs, frame, bbox)


def _record(path: Path, opened: _Opened, bbox: Box) -> RawRecord:
    header = opened.header
    begin = _begin(header)
    seconds = _number(header, "EXPTIME", "EXPOSURE")
    seconds = seconds if seconds > 0 else 1.0
    visit = _visit(path, header, begin)
    mjd = J2000 if begin is None else begin
    left, right, bottom, top = -0.5, bbox.x.stop - 0.5, -0.5, bbox.y.stop - 0.5
    x, y = [left, right, right, left, bbox.x.center], [bottom, bottom, top, top, bbox.y.center]
    ra, dec = pixel_to_radec(_projection(opened.wcs, visit, bbox), x, y)
    return RawRecord(
        exposure=visit,
        visit=visit,
        detector=0,
        physical_filter=_filter(header),
        mjd_begin=mjd,
        mjd_end=mjd + seconds / 86400.0,
        exposure_time=seconds,
        ra=float(ra[4]),
        dec=float(dec[4]),
        rotation=0.0,
        airmass=_number(header, "AIRMASS"),
        corners=np.stack([ra[:4], dec[:4]], axis=1),
        target=str(header.get("OBJECT", "")),
    )


def _number(header: Mapping[str, Any], *names: str) -> float:
    for name in names:
        value = header.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return float("nan")


def _begin(header: Mapping[str, Any]) -> float | None:
    """Start of the exposure [MJD TAI]; None when the header does not say."""
    scale = str(header.get("TIMESYS", "UTC")).strip().lower()
    scale = scale if scale in Time.SCALES else "utc"
    mjd = _number(header, "MJD-OBS", "MJD-BEG")
    if np.isfinite(mjd):
        return float(Time(mjd, format="mjd", scale=scale).tai.mjd)
    date = str(header.get("DATE-OBS", "")).strip()
    if re.fullmatch(r"\d{4}-\d\d-\d\d", date) and header.get("TIME-OBS"):
        date += f"T{header['TIME-OBS']}"
    if not re.match(r"\d{4}-\d\d-\d\d", date):
        return None
    return float(Time(date, scale=scale).tai.mjd)


def _visit(path: Path, header: Mapping[str, Any], begin: float | None) -> int:
    number = _number(header, "VISIT", "EXPID", "EXPNUM")
    if 0 <= number < INSTRUMENT.visit_max:
        return int(number)
    if begin is not None:
        return round(begin * 1e6)
    return int(hashlib.sha256(path.name.encode()).hexdigest()[:7], 16)


def _filter(header: Mapping[str, Any]) -> str:
    name = str(header.get("FILTER") or header.get("BAND") or "").strip().lower()
    letter = re.search(r"(?:^|[^a-z])([ugrizy])(?:$|[^a-z])", name)
    return f"generic_{letter[1]}" if letter else "generic_unknown"


def _unit(header: Mapping[str, Any]) -> u.UnitBase:
    name = str(header.get("BUNIT", "adu")).strip()
    if name.lower() in UNITS:
        return UNITS[name.lower()]
    unit = u.Unit(name, parse_strict="silent")
    return u.adu if isinstance(unit, u.UnrecognizedUnit) or unit == u.dimensionless_unscaled else unit


def _companion(opened: _Opened, names: tuple[str, ...]) -> NDArray | None:
    for name in names:
        if name in opened.companions:
            return _same_grid(opened.companions[name], opened, name)
    return None


def _same_grid(values: ArrayLike, opened: _Opened, name: str) -> NDArray:
    array = np.asarray(values)
    if array.shape != opened.pixels.shape:
        raise ShapeError(f"{name} is {array.shape} but the image is {opened.pixels.shape}; they must share a grid")
    return array


def _bad(opened: _Opened, mask: ArrayLike | None) -> NDArray[np.bool_]:
    found = _companion(opened, MASK_HDUS) if mask is None else _same_grid(mask, opened, "mask")
    return np.zeros(opened.pixels.shape, bool) if found is None else np.asarray(found != 0)


def _variance(opened: _Opened, given: ArrayLike | None, gain: float) -> tuple[Pixels, NDArray[np.bool_]]:
    """Variance, and the pixels for which none can be given."""
    if given is not None:
        values = np.asarray(_same_grid(given, opened, "variance"), np.float64)
    elif (found := _companion(opened, VARIANCE_HDUS)) is not None:
        values = np.asarray(found, np.float64)
    elif (found := _companion(opened, WEIGHT_HDUS)) is not None:
        weight = np.asarray(found, np.float64)
        values = np.divide(1.0, weight, out=np.full(weight.shape, np.nan), where=weight > 0)
    elif (found := _companion(opened, ERROR_HDUS)) is not None:
        values = np.asarray(found, np.float64) ** 2
    else:
        values = estimate_variance(opened.pixels, gain)
    absent = ~np.isfinite(values) | (values <= 0)
    return np.where(absent, np.inf, values).astype(np.float32), absent


def estimate_variance(pixels: Pixels, gain: float) -> NDArray[np.float64]:
    """Variance of every pixel from the scatter between neighbours, and from its light when the gain is known.

    Parameters
    ----------
    pixels
        (ny, nx) image; may have NaN.
    gain
        Electrons per unit of the image; NaN when unknown.
    """
    finite = np.where(np.isfinite(pixels), pixels, np.nan).astype(np.float64)
    some = finite[:: max(1, finite.size // _ENOUGH)]
    some = some if np.isfinite(some).any() else finite
    step = np.diff(some, axis=1)
    step = step[np.isfinite(step)]
    # sources and gradients hardly move the median of differences between neighbours
    sigma = 1.4826 * np.median(np.abs(step - np.median(step))) / np.sqrt(2.0) if step.size else 0.0
    above = np.nan_to_num(np.maximum(finite - np.nanmedian(some), 0.0)) if gain > 0 else 0.0
    values = np.full(pixels.shape, sigma**2) + (above / gain if gain > 0 else 0.0)
    return np.where(values > 0, values, 1.0)


def _psf(psf: PointSpreadFunction | ArrayLike | None, bbox: Box) -> PointSpreadFunction | None:
    if psf is None or isinstance(psf, PointSpreadFunction):
        return psf
    stamp = np.asarray(psf, float)
    if stamp.ndim != 2:
        raise ShapeError(f"the PSF stamp is {stamp.shape}; (k, k) with k odd is needed")
    return PolynomialPsf(coefficients=stamp[None], order=0, bbox=bbox).to_piff()


INSTRUMENT = Instrument(
    name="GenericFITS",
    class_name="nightlab.data.instruments.generic.INSTRUMENT",
    detectors=(DetectorRecord(id=0, full_name="0"),),
    filters={f"generic_{band}": band for band in BANDS} | {"generic_unknown": "unknown"},
    read_raw=read_generic,
    read_record=read_record,
)
