"""Assemble `lsst.images` types from arrays, and read back the facts that stages need from them."""

from __future__ import annotations

from collections.abc import Mapping

import astropy.time
import astropy.units as u
import numpy as np
from astro_metadata_translator import ObservationInfo
from astropy.coordinates import SkyCoord
from lsst.images import Box, Image, Mask, MaskSchema, SkyProjection, VisitImage
from lsst.images.cameras import Detector
from lsst.images.psfs import PointSpreadFunction
from lsst.images.serialization import ArchiveReadError
from numpy.typing import ArrayLike, NDArray

from nightlab.errors import BadInput, NoPsf, ShapeError
from nightlab.images.planes import VISIT_PLANES


def observation(
    instrument: str,
    *,
    visit: int,
    detector: int,
    physical_filter: str,
    mjd_tai: float,
    exposure_time: float,
    ra: float,
    dec: float,
    rotation: float = 0.0,
    airmass: float = float("nan"),
    observation_type: str = "science",
) -> ObservationInfo:
    """Describe an exposure.

    Parameters
    ----------
    instrument, physical_filter
        Names in the Butler.
    visit, detector
        Numbers in the Butler; a visit is one exposure here.
    mjd_tai
        Start of the exposure, TAI [d].
    exposure_time
        Seconds.
    ra, dec
        Pointing, ICRS [deg]; NaN when the telescope points nowhere, as for a bias.
    rotation
        Position angle of the detector's y axis [deg]; NaN when unknown.
    airmass
        At the start; NaN when unknown.
    observation_type
        ``science``, or ``bias``, ``dark``, ``flat`` and others that do not see the sky.
    """
    begin = astropy.time.Time(mjd_tai, format="mjd", scale="tai")
    facts = {
        "instrument": instrument,
        "telescope": instrument,
        "exposure_id": visit,
        "visit_id": visit,
        "detector_num": detector,
        "physical_filter": physical_filter,
        "datetime_begin": begin,
        "datetime_end": begin + exposure_time * u.s,
        "exposure_time": exposure_time * u.s,
        "observation_type": observation_type,
    }
    if np.isfinite([ra, dec]).all():
        facts["tracking_radec"] = SkyCoord(ra, dec, unit="deg", frame="icrs")
    if np.isfinite(rotation):
        facts["boresight_rotation_angle"] = astropy.coordinates.Angle(rotation, unit="deg")
        facts["boresight_rotation_coord"] = "sky"
    if np.isfinite(airmass):
        facts["boresight_airmass"] = float(airmass)
    return ObservationInfo.makeObservationInfo(**facts)


def visit_image(
    pixels: ArrayLike,
    *,
    variance: ArrayLike | None = None,
    planes: Mapping[str, NDArray[np.bool_]] | None = None,
    schema: MaskSchema = VISIT_PLANES,
    unit: str | u.UnitBase,
    projection: SkyProjection,
    psf: PointSpreadFunction | None,
    detector: Detector,
    band: str,
    info: ObservationInfo,
    bbox: Box | None = None,
    metadata: Mapping[str, str | int | float | bool] | None = None,
) -> VisitImage:
    """Assemble a visit image from arrays.

    Parameters
    ----------
    pixels
        (ny, nx) values in `unit`.
    variance
        (ny, nx) variance in `unit` squared; 1 when absent.
    planes
        Mask planes by name, each (ny, nx) bool.
    schema
        All planes the mask shall have.
    unit
        Unit of the pixels, for example ``adu``, ``electron``, ``nJy``.
    projection, detector, band, info
        Where, with what, in which passband and when it was taken.
    psf
        Its point-spread function; `None` when it is still to be measured, and then asking for it raises.
    bbox
        Place of the array; starts at (0, 0) when absent.
    metadata
        Plain facts to carry along.

    Raises
    ------
    ShapeError
        When `variance` or a plane does not share the grid of `pixels`.
    """
    array = np.ascontiguousarray(pixels, dtype=np.float32)
    box = bbox if bbox is not None else Box.from_shape(array.shape)
    unit = u.Unit(unit)
    mask = Mask(schema=schema, bbox=box)
    for name, where in (planes or {}).items():
        if where.shape != array.shape:
            raise ShapeError(f"mask plane {name} is {where.shape} but the image is {array.shape}")
        mask.set(name, where)
    noise = None
    if variance is not None:
        values = np.ascontiguousarray(variance, dtype=np.float32)
        if values.shape != array.shape:
            raise ShapeError(f"variance is {values.shape} but the image is {array.shape}")
        noise = Image(values, bbox=box, unit=unit**2)
    return VisitImage(
        Image(array, bbox=box, unit=unit, sky_projection=projection),
        mask=mask,
        variance=noise,
        psf=psf if psf is not None else ArchiveReadError("no point-spread function has been measured on this image"),
        detector=detector,
        obs_info=info,
        band=band,
        metadata=dict(metadata or {}),
    )


def psf_of(image: VisitImage) -> PointSpreadFunction:
    """Give the point-spread function of an image.

    Raises
    ------
    NoPsf
        When none has been measured or supplied yet.
    """
    if not has_psf(image):
        raise NoPsf(
            f"visit {visit_of(image)}, detector {image.detector.id} has no point-spread function",
            hint="run `nightlab.calibrate` on it first, or supply one",
        )
    return image.psf


def has_psf(image: VisitImage) -> bool:
    """Say whether an image carries a point-spread function."""
    try:
        _ = image.psf
    except ArchiveReadError:
        return False
    return True


def psf_flux_correction(image: VisitImage, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
    """Give the factor that turns PSF fluxes measured on an image into total ones, as its zero point means them.

    Parameters
    ----------
    image
        Its aperture correction is used; 1 where it carries none.
    x, y
        (n,) positions [pixel]; the factor is NaN where they are.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    field = image.aperture_corrections.get("psfFlux")
    known = np.isfinite(x) & np.isfinite(y)
    factor = np.where(known, 1.0, np.nan)
    if field is not None and known.any():
        box = image.bbox
        inside = {"x": np.clip(x[known], box.x.min, box.x.max), "y": np.clip(y[known], box.y.min, box.y.max)}
        factor[known] = field(**inside)
    return factor


def visit_of(image: VisitImage) -> int:
    """Give the visit number of an image."""
    visit = image.obs_info.visit_id
    if visit is None:
        raise BadInput(
            "the image does not know its visit", hint="make its `obs_info` with `nightlab.images.build.observation`"
        )
    return int(visit)


def exposure_time(image: VisitImage) -> float:
    """Give the exposure time of an image [s]."""
    return float(image.obs_info.exposure_time.to_value(u.s))


def midpoint_mjd_tai(image: VisitImage) -> float:
    """Give the middle of the exposure, TAI [d]; its begin when nobody knows how long it was."""
    info = image.obs_info
    begin, end = float(info.datetime_begin.tai.mjd), float(info.datetime_end.tai.mjd)
    return 0.5 * (begin + end) if np.isfinite(end) else begin
