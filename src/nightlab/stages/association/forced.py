"""Forced photometry: the PSF flux at every known object, whether or not anything was detected there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from astropy import units as u
from astropy.table import Column, Table
from lsst.images import DifferenceImage, VisitImage
from numpy.typing import NDArray
from pydantic import Field

from nightlab.config import Config
from nightlab.errors import BadInput, ShapeError
from nightlab.images.build import midpoint_mjd_tai, psf_flux_correction, psf_of, visit_of
from nightlab.images.planes import flagged
from nightlab.images.psf import psf_stamps
from nightlab.images.wcs import pixel_to_radec, radec_to_pixel
from nightlab.numeric.photometry import cut_stamps, psf_flux
from nightlab.numeric.sphere import unit_vectors
from nightlab.numeric.statistics import robust_width
from nightlab.report import Metric, report
from nightlab.stages.association.light_curves import floats

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

ROWS_AT_ONCE = 2000  # stamps held in memory: five (n, k, k) arrays, 130 MB at k = 41
IDS_PER_IMAGE = 100_000

METRICS = {
    "n_forced": Metric("objects measured on this image"),
    "n_flagged": Metric("objects on this image whose difference flux could not be measured"),
    "n_below_history": Metric("objects on this image with fewer detections than `history_threshold`"),
    "pull_width": Metric("1.4826 MAD of difference flux over its error; 1 where nothing varies"),
}


class ForcedConfig(Config):
    """Which objects are measured, and how much of a PSF may be missing."""

    history_threshold: int = Field(
        default=2, ge=1, description="fewest detections of an object that is measured [count]"
    )
    no_data_planes: tuple[str, ...] = Field(default=("NO_DATA",), description="mask planes whose pixels are left out")
    max_missing: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="largest part of sum(P^2) on pixels without data; beyond it the flux is NaN",
    )


@dataclass(frozen=True, kw_only=True)
class ForcedPhotometry:
    """What forced photometry makes.

    Attributes
    ----------
    dia_forced_source
        One row per object on the image, ascending in ``diaObjectId``. ``psfFlux`` is on the difference image,
        ``scienceFlux`` on the science image [nJy]. ``psfFlux_flag`` and ``scienceFlux_flag`` mark fluxes that are NaN
        because too much of the PSF has no data, ``psfFlux_flag_edge`` a PSF that reaches over the edge. ``meta`` has
        visit, detector, band and midpointMjdTai even when there is no row.
    metrics
        See `METRICS`.
    """

    dia_forced_source: Table
    metrics: xr.Dataset


def force_photometry(
    difference_image: DifferenceImage,
    visit_image: VisitImage,
    dia_object: Table,
    config: ForcedConfig = ForcedConfig(),
) -> ForcedPhotometry:
    """Measure PSF fluxes at the positions of known objects.

    f = sum(P I) / sum(P^2) and var f = sum(P^2 V) / sum(P^2)^2, on both images, each with its own PSF, at the position
    to which the science image's projection maps the object. Objects whose nearest pixel is outside the image are left
    out.

    Parameters
    ----------
    difference_image, visit_image
        The difference and the science image on one grid [nJy].
    dia_object
        Objects: ``diaObjectId``, ``ra``, ``dec`` [deg], ``nDiaSources``.
    config
        History threshold and tolerance of missing pixels.

    Raises
    ------
    ShapeError
        When the images do not share a grid.
    BadInput
        When their units differ or there are more objects than ids.
    NoPsf
        When an image has no point-spread function.
    """
    _check(difference_image, visit_image)
    dia_object = dia_object[np.argsort(np.asarray(dia_object["diaObjectId"]), kind="stable")]
    x, y, inside = _positions(visit_image, floats(dia_object, "ra"), floats(dia_object, "dec"))
    known = np.asarray(dia_object["nDiaSources"]) >= config.history_threshold
    measured = inside & known
    x, y, objects = x[measured], y[measured], dia_object[measured]
    psf, psf_err, psf_edge = _fluxes(difference_image, x, y, config)
    science, science_err, _ = _fluxes(visit_image, x, y, config)
    total = psf_flux_correction(visit_image, x, y)
    table = _rows(visit_image, objects)
    unit = difference_image.unit
    for name, values in (
        ("psfFlux", psf),
        ("psfFluxErr", psf_err),
        ("scienceFlux", science),
        ("scienceFluxErr", science_err),
    ):
        table[name] = Column(total * values, unit=unit)
    table["psfFlux_flag"] = ~np.isfinite(psf)
    table["psfFlux_flag_edge"] = psf_edge
    table["scienceFlux_flag"] = ~np.isfinite(science)
    pull = (psf / psf_err)[np.isfinite(psf) & (psf_err > 0)]
    measures: dict[str, float | None] = {
        "n_forced": len(table),
        "n_flagged": int((~np.isfinite(psf)).sum()),
        "n_below_history": int((inside & ~known).sum()),
        "pull_width": robust_width(pull) if pull.size > 1 else None,
    }
    labels: dict[str, int | str] = {key: table.meta[key] for key in ("visit", "detector", "band")}
    return ForcedPhotometry(dia_forced_source=table, metrics=report(METRICS, measures, room="forced", **labels))


def _check(difference_image: DifferenceImage, visit_image: VisitImage) -> None:
    if difference_image.bbox != visit_image.bbox:
        raise ShapeError(
            f"the difference image covers {difference_image.bbox} but the science image {visit_image.bbox}",
            hint="give the science image that the difference was made from",
        )
    if difference_image.unit != visit_image.unit:
        raise BadInput(
            f"the difference image is in {difference_image.unit} but the science image in {visit_image.unit}",
            hint="calibrate the science image before subtracting",
        )


def _positions(image: VisitImage, ra: Floats, dec: Floats) -> tuple[Floats, Floats, Bools]:
    """Map positions to pixels; only those near the image, since a projection may fold the far side of the sky in."""
    box = image.bbox
    xs = np.array([box.x.start, box.x.stop, box.x.start, box.x.stop, box.x.center]) - 0.5
    ys = np.array([box.y.start, box.y.start, box.y.stop, box.y.stop, box.y.center]) - 0.5
    corners = unit_vectors(*pixel_to_radec(image.sky_projection, xs, ys))
    centre = corners[-1]
    reach = 1.5 * np.arccos(np.clip((corners @ centre).min(), -1.0, 1.0))
    near = np.flatnonzero(unit_vectors(ra, dec) @ centre >= np.cos(min(reach, np.pi)))  # False for NaN
    x, y = np.full(ra.size, np.nan), np.full(ra.size, np.nan)
    if near.size:
        x[near], y[near] = radec_to_pixel(image.sky_projection, ra[near], dec[near])
    inside = (np.rint(x) >= box.x.start) & (np.rint(x) < box.x.stop)
    return x, y, inside & (np.rint(y) >= box.y.start) & (np.rint(y) < box.y.stop)


def _fluxes(image: VisitImage, x: Floats, y: Floats, config: ForcedConfig) -> tuple[Floats, Floats, Bools]:
    psf, box = psf_of(image), image.bbox
    pixels, variance = (np.asarray(plane.array, dtype=np.float64) for plane in (image.image, image.variance))
    hidden = flagged(image.mask, *config.no_data_planes) | ~np.isfinite(variance)
    pixels = np.where(hidden, np.nan, pixels)
    column, row = np.rint(x).astype(np.int64) - box.x.start, np.rint(y).astype(np.int64) - box.y.start
    flux, error, edge = np.full(x.size, np.nan), np.full(x.size, np.nan), np.zeros(x.size, dtype=bool)
    for begin in range(0, x.size, ROWS_AT_ONCE):
        part = slice(begin, begin + ROWS_AT_ONCE)
        stamps = psf_stamps(psf, x[part], y[part])
        half = stamps.shape[-1] // 2
        data = cut_stamps(pixels, column[part], row[part], half)
        noise = cut_stamps(variance, column[part], row[part], half)
        flux[part], error[part], _ = psf_flux(data, noise, stamps)
        square = stamps**2
        lost = np.where(np.isfinite(data), 0.0, square).sum(axis=(1, 2)) / square.sum(axis=(1, 2))
        beyond = np.flatnonzero(lost > config.max_missing) + begin
        flux[beyond] = error[beyond] = np.nan
        ny, nx = pixels.shape
        away = np.minimum.reduce([column[part], row[part], nx - 1 - column[part], ny - 1 - row[part]])
        edge[part] = away < half
    return flux, error, edge


def _rows(image: VisitImage, objects: Table) -> Table:
    visit, detector, n = visit_of(image), int(image.detector.id), len(objects)
    if n > IDS_PER_IMAGE:
        raise BadInput(
            f"{n} objects lie on one image; at most {IDS_PER_IMAGE} can be numbered",
            hint="raise `history_threshold`",
            found=n,
            needed=IDS_PER_IMAGE,
        )
    time, band = midpoint_mjd_tai(image), str(image.band)
    table = Table(meta={"visit": visit, "detector": detector, "band": band, "midpointMjdTai": time})
    table["diaForcedSourceId"] = (visit * 1000 + detector) * IDS_PER_IMAGE + np.arange(n, dtype=np.int64)
    table["diaObjectId"] = np.asarray(objects["diaObjectId"], dtype=np.int64)
    table["visit"] = np.full(n, visit, dtype=np.int64)
    table["detector"] = np.full(n, detector, dtype=np.int64)
    table["band"] = np.full(n, band)
    table["midpointMjdTai"] = Column(np.full(n, time), unit=u.d)
    for name in ("ra", "dec"):
        table[name] = Column(floats(objects, name), unit=u.deg)
    return table
