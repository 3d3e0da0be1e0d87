"""DIASources: what changed between template and science image, detected, measured and flagged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import sep
from astropy import units as u
from astropy.table import Table
from lsst.images import DifferenceImage, VisitImage
from numpy.typing import NDArray
from pydantic import Field

from nightlab.config import Config
from nightlab.errors import AllMasked, BadInput, ShapeError
from nightlab.images.build import midpoint_mjd_tai, psf_flux_correction, psf_of, visit_of
from nightlab.images.planes import flagged
from nightlab.images.psf import psf_sigma, psf_stamps
from nightlab.images.wcs import jacobian, pixel_scale, pixel_to_radec
from nightlab.numeric.statistics import robust_width
from nightlab.report import Metric, report
from nightlab.stages.differencing.dipoles import DipoleFit, fit_dipoles
from nightlab.stages.differencing.measure import (
    Plane,
    centroids,
    cut,
    moments,
    psf_flux,
    sharper_than_psf,
)
from nightlab.stages.differencing.peaks import Peaks, find_peaks, group_peaks, significance, streaks
from nightlab.stages.differencing.subtract import UNUSABLE, blank_sky, grown

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]

IDS_PER_IMAGE = 100_000

METRICS = {
    "n_dia_sources": Metric("DIASources"),
    "n_positive": Metric("DIASources brighter than in the template"),
    "n_negative": Metric("DIASources fainter than in the template"),
    "n_dipoles": Metric("DIASources classified as dipoles"),
    "n_clean": Metric("DIASources without a flag, dipoles left out"),
    "dia_source_density": Metric("DIASources per area", unit="deg-2"),
    "n_blank": Metric(
        "Unflagged DIASources on unmasked pixels, over 6 pixels from any 5 sigma source of either image"
    ),
    "n_blank_expected": Metric("Blank-sky DIASources that white Gaussian noise would make"),
    "blank_ratio": Metric("Blank-sky DIASources over the expected number, or over 1 where fewer are expected"),
    "score_noise": Metric("Robust standard deviation of the significance image"),
    "streak_fraction": Metric("Fraction of pixels in trails"),
}

FLAG_PLANES = {
    "pixelFlags_edge": ("DETECTION_EDGE",),
    "pixelFlags_saturated": ("SATURATED",),
    "pixelFlags_bad": ("BAD",),
    "pixelFlags_interpolated": ("INTERPOLATED",),
    "pixelFlags_suspect": ("SUSPECT",),
    "pixelFlags_nodata": ("NO_DATA",),
    "pixelFlags_saturatedTemplate": ("SAT_TEMPLATE",),
    "pixelFlags_highVariance": ("HIGH_VARIANCE",),
}
CENTRE_FLAGS = {"pixelFlags_saturatedCenter": ("SATURATED",), "pixelFlags_interpolatedCenter": ("INTERPOLATED",)}


class DetectConfig(Config):
    """Knobs of the detection and measurement of DIASources."""

    threshold: float = Field(default=5.0, gt=0, description="Detection threshold, both signs [sigma].")
    background: int = Field(
        default=64, ge=0, description="Mesh of the local background taken off first; 0: none [pixel]."
    )
    grow: int = Field(default=2, ge=1, description="How far footprints grow before they merge [pixel].")
    separation: float = Field(
        default=2.0, gt=0, description="Peaks of one footprint closer than this are one source [FWHM]."
    )
    dipole_separation: float = Field(
        default=2.5, gt=0, description="Largest distance of the lobes of a dipole [FWHM]."
    )
    dipole_ratio: float = Field(default=0.35 / 0.65, gt=0, le=1, description="Weaker lobe over stronger, at least.")
    dipole_snr: float = Field(
        default=5.0 * 2**0.5, gt=0, description="Least combined significance of a dipole [sigma]."
    )
    dipole_weight: float = Field(
        default=0.5, ge=0, description="Weight of the images before subtraction in dipole fits."
    )
    stamp_half_width: int = Field(default=12, ge=7, description="Half width of the measured pixels [pixel].")
    aperture: float = Field(default=6.0, gt=0, description="Radius of the aperture flux [pixel].")
    streak_length: float = Field(default=40.0, gt=0, description="Shortest trail [pixel].")


@dataclass(frozen=True, kw_only=True)
class DiaSources:
    """What `detect_dia_sources` gives.

    Attributes
    ----------
    dia_source_unassociated
        One row per source, strongest first within the image.
    metrics
        See `METRICS`.
    """

    dia_source_unassociated: Table
    metrics: xr.Dataset


def detect_dia_sources(
    difference_image: DifferenceImage,
    visit_image: VisitImage,
    template_detector: DifferenceImage | VisitImage,
    config: DetectConfig = DetectConfig(),
) -> DiaSources:
    """Detect and measure sources of either sign in a difference image.

    Parameters
    ----------
    difference_image
        From `subtract`, with white noise.
    visit_image, template_detector
        The images it was made of, on the same pixels.
    config
        Knobs.

    Raises
    ------
    ShapeError
        The three images do not share their pixels.
    AllMasked
        The difference has no data.
    BadInput
        There are more sources than ids.
    """
    if not difference_image.bbox == visit_image.bbox == template_detector.bbox:
        raise ShapeError(
            f"difference {difference_image.bbox}, science {visit_image.bbox} and template {template_detector.bbox} "
            "must share their pixels",
            hint="give the two images that the difference was made of",
        )
    variance = difference_image.variance.array.astype(float)
    good = np.isfinite(difference_image.image.array) & (variance > 0) & ~flagged(difference_image.mask, "NO_DATA")
    if not good.any():
        raise AllMasked("the difference image has no data", hint="check the coverage of the template")
    image = _flattened(difference_image, variance, good, config)
    box, psf = difference_image.bbox, psf_of(difference_image)
    middle = psf_stamps(psf, [box.x.center], [box.y.center], centred=True)[0]
    score = significance(image, variance, good, middle)
    peaks = find_peaks(score, config.threshold, grow=config.grow)
    fwhm = 2.3548 * psf_sigma(psf, box.x.center, box.y.center)
    partner, keep = group_peaks(
        peaks.x,
        peaks.y,
        peaks.score,
        peaks.label,
        config.separation * fwhm,
        config.dipole_separation * fwhm,
        config.dipole_ratio,
        config.dipole_snr,
    )
    trail = streaks(
        score, flagged(difference_image.mask, "SATURATED", "SAT_TEMPLATE"), min_length=config.streak_length
    )
    table = _measured(
        image, variance, middle, fwhm, peaks, np.flatnonzero(keep), partner, trail, difference_image,
        visit_image, template_detector, config,
    )  # fmt: skip
    values = _measures(table, score, good, trail, fwhm, difference_image, visit_image, template_detector, config)
    metrics = report(
        METRICS,
        values,
        room="dia_source",
        visit=visit_of(difference_image),
        detector=difference_image.detector.id,
        band=difference_image.band,
    )
    return DiaSources(dia_source_unassociated=table, metrics=metrics)


def _flattened(difference: DifferenceImage, variance: Floats, good: Bools, config: DetectConfig) -> Floats:
    image = np.where(good, difference.image.array, np.nan).astype(float)
    if config.background == 0:
        return image
    # strong residuals must not lift their own background
    noise = np.sqrt(np.where(good, variance, np.median(variance[good])))
    strong = np.abs(np.where(good, image, 0.0)) > 4 * noise
    hidden = ~good | grown(strong | flagged(difference.mask, *UNUSABLE), 3)
    if hidden.mean() > 0.9:
        return image
    data = np.ascontiguousarray(np.where(good, image, 0.0), dtype=np.float32)
    flattened: Floats = image - sep.Background(data, mask=hidden, bw=config.background, bh=config.background).back()
    return flattened


def _measured(
    image: Floats,
    variance: Floats,
    psf: Floats,
    fwhm: float,
    peaks: Peaks,
    chosen: Ints,
    partner: Ints,
    trail: Bools,
    difference: DifferenceImage,
    visit_image: VisitImage,
    template: VisitImage,
    config: DetectConfig,
) -> Table:
    box, half = difference.bbox, config.stamp_half_width
    offset = (box.x.start, box.y.start)
    pair = partner[chosen]
    is_dipole = pair >= 0
    x0, y0 = peaks.x[chosen], peaks.y[chosen]
    sign = np.sign(peaks.score[chosen])
    plane = Plane.of(image, variance, psf_of(difference), x0, y0, half, offset)
    x, y, x_error, y_error, centroid_failed = centroids(plane, x0.astype(float), y0.astype(float))
    index = np.flatnonzero(is_dipole)
    fit = _dipoles(index, chosen, pair, peaks, sign, (image, variance), difference, visit_image, template, config)
    if fit is not None:
        x[index] = 0.5 * (fit.x_positive + fit.x_negative)
        y[index] = 0.5 * (fit.y_positive + fit.y_negative)
        centroid_failed[index] = False
    forced = psf_flux(plane, x, y)
    planes = [
        Plane.of(other.image.array, other.variance.array, psf_of(other), x0, y0, half, offset)
        for other in (visit_image, template)
    ]
    science, before = (psf_flux(p, x, y) for p in planes)
    ixx, iyy, ixy, shape_failed = moments(plane, x, y, fwhm / 2.3548)
    aperture, aperture_error = _aperture_fluxes(image, variance, x, y, config.aperture)
    flux = difference.unit
    total = psf_flux_correction(visit_image, x + box.x.start, y + box.y.start)
    table = Table(
        _identity(difference, len(chosen))
        | _places(difference, x, y, x_error, y_error)
        | {
            "psfFlux": total * forced.flux * flux,
            "psfFluxErr": total * forced.error * flux,
            "apFlux": aperture * flux,
            "apFluxErr": aperture_error * flux,
            "scienceFlux": total * science.flux * flux,
            "scienceFluxErr": total * science.error * flux,
            "templateFlux": before.flux * flux,
            "templateFluxErr": before.error * flux,
            "snr": np.abs(peaks.score[chosen]),
            "psfChi2": forced.chi2,
            "psfNdata": forced.n_data.astype(np.int32),
            "ixx": ixx * u.pix**2,
            "iyy": iyy * u.pix**2,
            "ixy": ixy * u.pix**2,
            "isNegative": sign < 0,
            "isDipole": is_dipole,
            "bboxSize": _footprint_sizes(peaks, chosen),
        }
    )
    _add_dipoles(table, index, fit, pixel_scale(difference.sky_projection, box.x.center, box.y.center), flux)
    _add_flags(table, difference, x0, y0, trail)
    hits = flagged(difference.mask, "COSMIC_RAY")
    near = cut(hits, x0, y0, 1, False).any(axis=(1, 2))
    table["pixelFlags_cr"] = near | (sharper_than_psf(image, variance, x0, y0, sign, psf) & ~is_dipole)
    table["centroid_flag"] = centroid_failed
    table["psfFlux_flag"] = forced.failed | ~np.isfinite(forced.flux)
    table["shape_flag"] = shape_failed
    table["diaObjectId"] = np.zeros(len(table), np.int64)
    return table


def _identity(difference: DifferenceImage, n: int) -> dict[str, Any]:
    """Columns that say which sources these are and when they were seen."""
    visit, detector = visit_of(difference), difference.detector.id
    if n >= IDS_PER_IMAGE:
        raise BadInput(
            f"{n} DIASources on visit {visit}, detector {detector} do not fit the numbering",
            hint="raise `threshold`, and look whether the subtraction failed",
            found=n,
            needed=IDS_PER_IMAGE,
        )
    return {
        "diaSourceId": (visit * 1000 + detector) * IDS_PER_IMAGE + np.arange(1, n + 1, dtype=np.int64),
        "visit": np.full(n, visit, np.int64),
        "detector": np.full(n, detector, np.int32),
        "band": np.full(n, difference.band, dtype="U8"),
        "midpointMjdTai": np.full(n, midpoint_mjd_tai(difference)) * u.d,
    }


def _places(image: DifferenceImage, x: Floats, y: Floats, x_error: Floats, y_error: Floats) -> dict[str, Any]:
    """Columns of positions on the array and on the sky; `raErr` is an angle on the sky: cos(dec) is in it."""
    box = image.bbox
    ra, dec = pixel_to_radec(image.sky_projection, x + box.x.start, y + box.y.start)
    slopes = jacobian(image.sky_projection, box.x.center, box.y.center)
    on_sky = [np.hypot(row[0] * x_error, row[1] * y_error) for row in slopes]
    return {
        "x": (x + box.x.start) * u.pix,
        "y": (y + box.y.start) * u.pix,
        "xErr": x_error * u.pix,
        "yErr": y_error * u.pix,
        "ra": ra * u.deg,
        "dec": dec * u.deg,
        "raErr": on_sky[0] * u.deg,
        "decErr": on_sky[1] * u.deg,
    }


def _dipoles(
    index: Ints,
    chosen: Ints,
    pair: Ints,
    peaks: Peaks,
    sign: Floats,
    difference_pixels: tuple[Floats, Floats],
    difference: DifferenceImage,
    visit_image: VisitImage,
    template: VisitImage,
    config: DetectConfig,
) -> DipoleFit | None:
    if len(index) == 0:
        return None
    one, other, half = chosen[index], pair[index], config.stamp_half_width
    up = sign[index] > 0
    plus, minus = np.where(up, one, other), np.where(up, other, one)
    x0 = np.rint(0.5 * (peaks.x[one] + peaks.x[other])).astype(int)
    y0 = np.rint(0.5 * (peaks.y[one] + peaks.y[other])).astype(int)
    offset = (difference.bbox.x.start, difference.bbox.y.start)
    stamps = [
        Plane.of(pixels, noise, psf_of(owner), x0, y0, half, offset)
        for pixels, noise, owner in (
            (*difference_pixels, difference),
            (visit_image.image.array, visit_image.variance.array, visit_image),
            (template.image.array, template.variance.array, template),
        )
    ]
    x, y = peaks.x.astype(float), peaks.y.astype(float)
    start = (x[plus], y[plus], x[minus], y[minus])
    return fit_dipoles(stamps[0], stamps[1], stamps[2], start, weight=config.dipole_weight)


def _add_dipoles(table: Table, index: Ints, fit: DipoleFit | None, scale: float, flux: u.UnitBase) -> None:
    """Columns of the dipole fit; NaN where there is none."""
    n = len(table)
    columns = {
        name: np.full(n, np.nan)
        for name in ("dipoleMeanFlux", "dipoleMeanFluxErr", "dipoleFluxDiff", "dipoleFluxDiffErr", "dipoleLength",
                     "dipoleAngle", "dipoleChi2", "dipolePositiveFlux", "dipoleNegativeFlux")
    }  # fmt: skip
    n_data = np.zeros(n, np.int32)
    if fit is not None:
        dx, dy = fit.x_positive - fit.x_negative, fit.y_positive - fit.y_negative
        error = 0.5 * np.hypot(fit.positive_error, fit.negative_error)
        columns["dipoleMeanFlux"][index] = 0.5 * (fit.positive + fit.negative)
        columns["dipoleMeanFluxErr"][index] = error
        columns["dipoleFluxDiff"][index] = fit.positive - fit.negative
        columns["dipoleFluxDiffErr"][index] = 2 * error
        columns["dipoleLength"][index] = np.hypot(dx, dy) * scale
        columns["dipoleAngle"][index] = np.rad2deg(np.arctan2(dy, dx))
        columns["dipoleChi2"][index] = fit.chi2
        columns["dipolePositiveFlux"][index], columns["dipoleNegativeFlux"][index] = fit.positive, fit.negative
        n_data[index] = fit.n_data.astype(np.int32)
    units = {"dipoleLength": u.arcsec, "dipoleAngle": u.deg, "dipoleChi2": None}
    for name, values in columns.items():
        unit = units.get(name, flux)
        table[name] = values if unit is None else values * unit
    table["dipoleNdata"] = n_data


def _aperture_fluxes(image: Floats, variance: Floats, x: Floats, y: Floats, radius: float) -> tuple[Floats, Floats]:
    """Sums within circles and their errors; pixels without data count as zero."""
    hidden = ~np.isfinite(image) | ~(variance > 0)
    flux, error, _ = sep.sum_circle(
        np.ascontiguousarray(np.where(hidden, 0.0, image)),
        x,
        y,
        radius,
        var=np.ascontiguousarray(np.where(hidden, 0.0, variance)),
        subpix=0,
    )
    return flux, error


def _footprint_sizes(peaks: Peaks, chosen: Ints) -> NDArray[np.int32]:
    """Larger side of the box around each source's footprint [pixel]."""
    y, x = np.nonzero(peaks.labels)
    index = peaks.labels[y, x]
    n = int(peaks.labels.max(initial=0)) + 1
    sides = np.zeros((2, n), int)
    for axis, values in enumerate((x, y)):
        low, high = np.full(n, np.iinfo(int).max), np.full(n, -1)
        np.minimum.at(low, index, values)
        np.maximum.at(high, index, values)
        sides[axis] = np.where(high >= 0, high - low + 1, 0)
    sizes: NDArray[np.int32] = sides.max(axis=0)[peaks.label[chosen]].astype(np.int32)
    return sizes


def _add_flags(table: Table, difference: DifferenceImage, x0: Ints, y0: Ints, trail: Bools) -> None:
    for name, names in FLAG_PLANES.items():
        outside = name in ("pixelFlags_edge", "pixelFlags_nodata")
        table[name] = cut(flagged(difference.mask, *names), x0, y0, 3, outside).any(axis=(1, 2))
    for name, names in CENTRE_FLAGS.items():
        table[name] = cut(flagged(difference.mask, *names), x0, y0, 1, False).any(axis=(1, 2))
    table["pixelFlags_streak"] = cut(trail, x0, y0, 1, False).any(axis=(1, 2))


def _measures(
    table: Table,
    score: Floats,
    good: Bools,
    trail: Bools,
    fwhm: float,
    difference: DifferenceImage,
    visit_image: VisitImage,
    template: VisitImage,
    config: DetectConfig,
) -> dict[str, float]:
    # Only real sources may be cut out: a lower threshold would also hide the noise peaks that are to be counted.
    blank = good & ~flagged(difference.mask, *UNUSABLE, "SAT_TEMPLATE", "INTERPOLATED", "SUSPECT")
    for image in (visit_image, template):
        has_data = np.isfinite(image.image.array) & np.isfinite(image.variance.array)
        blank &= blank_sky(
            np.where(has_data, image.image.array, 0.0),
            np.where(has_data, image.variance.array, 1.0),
            has_data,
            threshold=5.0,
        )
    box = difference.bbox
    x = np.clip(np.rint(np.asarray(table["x"]) - box.x.start).astype(int), 0, box.x.size - 1)
    y = np.clip(np.rint(np.asarray(table["y"]) - box.y.start).astype(int), 0, box.y.size - 1)
    scale = pixel_scale(difference.sky_projection, box.x.center, box.y.center) / 3600.0
    noise = float("nan")
    if blank.any():
        noise = robust_width(score[blank])
    nu, sigma = config.threshold, fwhm / 2.3548
    density = nu * np.exp(-0.5 * nu**2) / (2**2.5 * np.pi**1.5) / sigma**2
    expected = 2 * density * float(blank.sum())
    flags = [name for name in table.colnames if name.startswith("pixelFlags") or name.endswith("_flag")]
    dirty = np.any([np.asarray(table[name], bool) for name in flags], axis=0) if len(table) else np.zeros(0, bool)
    negative, dipole = np.asarray(table["isNegative"], bool), np.asarray(table["isDipole"], bool)
    n_blank = float((blank[y, x] & ~dirty).sum())
    return {
        "n_dia_sources": float(len(table)),
        "n_positive": float((~negative & ~dipole).sum()),
        "n_negative": float((negative & ~dipole).sum()),
        "n_dipoles": float(dipole.sum()),
        "n_clean": float((~dirty & ~dipole).sum()),
        "dia_source_density": len(table) / max(float(good.sum()) * scale**2, 1e-30),
        "n_blank": n_blank,
        "n_blank_expected": expected,
        "blank_ratio": n_blank / max(expected, 1.0) if blank.any() else float("nan"),
        "score_noise": noise,
        "streak_fraction": float(trail.mean()),
    }
