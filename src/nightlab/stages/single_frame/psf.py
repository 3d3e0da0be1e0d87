"""The point-spread function of a frame: stars chosen by size, and a pixel grid that varies over the chip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from lsst.images import Box
from pydantic import Field
from scipy.spatial import cKDTree

from nightlab.config import Config
from nightlab.errors import NoPsf
from nightlab.images.psf import UNIT, PolynomialPsf, effective_area, polynomial_powers, shift_stamps
from nightlab.numeric import photometry
from nightlab.numeric.moments import adaptive_moments
from nightlab.numeric.statistics import affordable_degree
from nightlab.stages.single_frame.detect import find_peaks, significance, trim_kernel
from nightlab.stages.single_frame.frame import Bools, Floats, Frame, Ints


class PsfConfig(Config):
    """Knobs of the PSF fit."""

    refit: bool = Field(default=False, description="fit stars even where the instrument supplied a PSF")
    initial_fwhm: float = Field(
        default=4.0, gt=0, description="width of the Gaussian that finds the first stars [pixel]"
    )
    min_snr: float = Field(default=50.0, gt=0, description="faintest star used [sigma]")
    min_stars: int = Field(default=3, ge=1, description="fewer stars than this are an error")
    max_stars: int = Field(default=300, ge=1, description="only the brightest ones are used")
    order: int = Field(
        default=2, ge=0, le=4, description="total degree of the polynomials, when there are stars enough"
    )
    stars_per_term: float = Field(
        default=4.0, ge=1, description="stars needed per polynomial term, else the order is lowered"
    )
    half_width: float = Field(
        default=7.0, gt=2, description="half width of the stamps, in units of the Gaussian sigma"
    )
    size_tolerance: float = Field(
        default=0.1, gt=0, description="stars lie within this of the typical size (fraction)"
    )
    model_error: float = Field(
        default=0.02, gt=0, description="error of the model allowed for, lest the brightest stars rule it (fraction)"
    )
    reject: float = Field(default=4.0, gt=0, description="clipping of single pixels in the fit [sigma]")
    rounds: int = Field(default=4, ge=1, description="rounds of re-centring and fitting")
    max_neighbour: float = Field(
        default=0.02, ge=0, description="flux of a neighbour inside the stamp that spoils a star (fraction)"
    )
    folds: int = Field(
        default=5,
        ge=0,
        description="parts of the stars that are reserved in turn to test the model; 0 or 1 for no test",
    )


@dataclass(frozen=True, kw_only=True)
class StarStamps:
    """Stars cut out of a frame, as they are and as the fit sees them.

    Attributes
    ----------
    cutouts
        (n, k, k) sky-subtracted pixels around the pixel nearest to each star; NaN is no data.
    dx, dy
        (n,) place of the star off the centre pixel [pixel].
    centred
        (n, k, k) the cut-outs moved to the middle of the centre pixel and divided by the flux.
    variance
        (n, k, k) variance of `centred`, that of the sky and of the star; infinite where there are no data.
    """

    cutouts: Floats
    dx: Floats
    dy: Floats
    centred: Floats
    variance: Floats


@dataclass(frozen=True, kw_only=True)
class StarPsf:
    """A PSF and the stars it came from.

    Attributes
    ----------
    psf
        The model.
    x, y
        (n,) detector positions of its stars [pixel].
    stamps
        Their (n, ...) pixels.
    """

    psf: PolynomialPsf
    x: Floats
    y: Floats
    stamps: StarStamps


@dataclass(frozen=True, kw_only=True)
class _Stars:
    x: Floats
    y: Floats
    sigma: float


def gaussian_kernel(sigma: float) -> Floats:
    """Draw a Gaussian out to 4 sigma, normalised to 1."""
    half = int(np.ceil(4.0 * sigma))
    r = np.arange(-half, half + 1)
    profile = np.exp(-0.5 * (r / sigma) ** 2)
    kernel = np.outer(profile, profile)
    return kernel / kernel.sum()


def gaussian_psf(sigma: float, box: Box) -> PolynomialPsf:
    """Make the constant Gaussian model that a fit starts from."""
    return PolynomialPsf(coefficients=gaussian_kernel(sigma)[None], order=0, bbox=box)


def fit_psf(frame: Frame, sky_variance: Floats, box: Box, config: PsfConfig) -> StarPsf:
    """Find stars on a sky-subtracted frame and model their PSF.

    Every stamp is divided by its flux, and what it differs from the model of the round before is moved to the pixel
    grid by Lanczos interpolation; each pixel of the model is then a polynomial of position, fitted with weights that
    follow the S/N of the stars (capped) and clipped. Positions and fluxes are improved with the model of the round
    before.

    Parameters
    ----------
    frame
        Sky-subtracted frame.
    sky_variance
        (ny, nx) variance of the sky.
    box
        The detector.
    config
        Knobs.

    Raises
    ------
    NoPsf
        When fewer than `min_stars` stars are bright, clean and alike.
    """
    stars = select_stars(frame, sky_variance, config)
    half = int(np.clip(np.ceil(config.half_width * stars.sigma), 6, 25))
    xi, yi = np.rint(stars.x).astype(np.int64), np.rint(stars.y).astype(np.int64)
    image = np.where(frame.usable, frame.pixels, np.nan)
    cutouts = photometry.cut_stamps(image, xi, yi, half)
    noise = photometry.cut_stamps(frame.variance, xi, yi, half)
    kernel = photometry.resized_stamps(gaussian_kernel(stars.sigma), half)
    model = PolynomialPsf(coefficients=kernel[None], order=0, bbox=box)
    x, y = stars.x, stars.y
    good = np.ones(len(x), dtype=bool)
    for _ in range(config.rounds):
        x, y, flux = _recentre(cutouts, model, frame, x, y, xi, yi)
        data = _centred(cutouts / flux[:, None, None], model.grids(x + frame.x0, y + frame.y0), x - xi, y - yi)
        variance = np.where(np.isfinite(cutouts), noise, np.inf) / flux[:, None, None] ** 2
        good = _alike(data, model, x + frame.x0, y + frame.y0, variance) & (flux > 0)
        if good.sum() < config.min_stars:
            raise _too_few(int(good.sum()), config)
        order = affordable_degree(config.order, int(good.sum()), config.stars_per_term)
        model = fit_grid(data[good], variance[good], x[good] + frame.x0, y[good] + frame.y0, order, box, config)
    stamps = StarStamps(
        cutouts=cutouts[good],
        dx=(x - xi)[good],
        dy=(y - yi)[good],
        centred=data[good],
        variance=variance[good],
    )
    return StarPsf(psf=model, x=x[good] + frame.x0, y=y[good] + frame.y0, stamps=stamps)


def select_stars(frame: Frame, sky_variance: Floats, config: PsfConfig) -> _Stars:
    """Pick bright, unsaturated, isolated objects of the commonest size."""
    sigma = config.initial_fwhm / 2.35482
    kernel = trim_kernel(gaussian_kernel(sigma), int(np.ceil(3.5 * sigma)))
    peaks = find_peaks(significance(frame.pixels, frame.usable, sky_variance, kernel), 10.0, 0.0)
    bright = peaks.significance > config.min_snr
    if not bright.any():
        raise _too_few(0, config)
    x, y = peaks.x[bright], peaks.y[bright]
    xi, yi = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    half = 12
    stamps = photometry.cut_stamps(np.where(frame.usable, frame.pixels, np.nan), xi, yi, half)
    moments, centres, failed = adaptive_moments(stamps, x - xi, y - yi, guess=sigma)
    area = moments[:, 0] * moments[:, 1] - moments[:, 2] ** 2
    size = np.where(failed | ~(area > 0.04), np.nan, np.maximum(area, 1e-9) ** 0.25)
    unspoilt = frame.usable & ~frame.flagged("SATURATED", "COSMIC_RAY", "INTERPOLATED", "SUSPECT")
    core = photometry.cut_stamps(unspoilt.astype(float), xi, yi, 3)
    spoilt = ~np.isfinite(stamps).all(axis=(1, 2)) | (np.nan_to_num(core) < 1).any(axis=(1, 2))
    width = _typical(size[~spoilt & np.isfinite(size)])
    if width is None:
        raise _too_few(0, config)
    same = np.abs(size / width - 1.0) < config.size_tolerance
    crowded = _crowded(peaks.x, peaks.y, peaks.significance, config.half_width * width, config.max_neighbour)[bright]
    chosen = np.flatnonzero(same & ~spoilt & ~crowded)
    if chosen.size < config.min_stars:  # in a crowded field neighbours are the lesser evil
        chosen = np.flatnonzero(same & ~spoilt)
    if chosen.size < config.min_stars:
        raise _too_few(int(chosen.size), config)
    brightest = np.argsort(-peaks.significance[bright][chosen], kind="stable")[: config.max_stars]
    chosen = np.sort(chosen[brightest])
    return _Stars(
        x=xi[chosen] + centres[chosen, 0],
        y=yi[chosen] + centres[chosen, 1],
        sigma=float(np.median(size[chosen])),
    )


def _too_few(found: int, config: PsfConfig) -> NoPsf:
    return NoPsf(
        f"a PSF needs {config.min_stars} stars of S/N > {config.min_snr:g} that are clean and alike, found {found}",
        hint="lower `psf.min_snr`, or supply a PSF with the image",
        found=found,
        needed=config.min_stars,
    )


def _typical(size: Floats) -> float | None:
    """Give the half-sample mode: where sizes lie closest together (Bickel & Fruehwirth 2006, CSDA 50, 3500)."""
    sample = np.sort(np.log(size))
    if not sample.size:
        return None
    while sample.size > 3:
        n = (sample.size + 1) // 2
        widths = sample[n - 1 :] - sample[: sample.size - n + 1]
        start = int(np.argmin(widths))
        sample = sample[start : start + n]
    return float(np.exp(np.median(sample)))


def _crowded(x: Floats, y: Floats, brightness: Floats, radius: float, fraction: float) -> Bools:
    out = np.zeros(x.size, dtype=bool)
    pairs = cKDTree(np.stack([x, y], axis=1)).query_pairs(radius, output_type="ndarray")
    for one, other in ((0, 1), (1, 0)):
        if len(pairs):
            mine, theirs = pairs[:, one], pairs[:, other]
            np.logical_or.at(out, mine, brightness[theirs] > fraction * brightness[mine])
    return out


def _recentre(
    cutouts: Floats, model: PolynomialPsf, frame: Frame, x: Floats, y: Floats, xi: Ints, yi: Ints
) -> tuple[Floats, Floats, Floats]:
    """Fit position and flux of each stamp on its own: the stamps are piled up into one tall image."""
    n, side, _ = cutouts.shape
    grids = model.grids(x + frame.x0, y + frame.y0)
    column = np.full(n, side // 2)
    row = np.arange(n) * side + side // 2
    sigma = np.sqrt(effective_area(grids).mean() / (4.0 * np.pi))
    flux = np.zeros(n)
    for _ in range(4):
        flux = np.zeros(n)
        pile = cutouts.reshape(n * side, side).copy()
        stamps = shift_stamps(grids, x - xi, y - yi)
        # a star may drift over the edge of its pixel, but its stamp stays where it was cut
        px, py = column + np.clip(x - xi, -0.49, 0.49), row + np.clip(y - yi, -0.49, 0.49)
        dx, dy = photometry.sweep_point_sources(pile, stamps, px, py, flux, np.arange(n), 3.0 * sigma)
        x = x + np.clip(np.nan_to_num(dx), -0.3, 0.3)
        y = y + np.clip(np.nan_to_num(dy), -0.3, 0.3)
    return x, y, flux


def _centred(stars: Floats, grids: Floats, dx: Floats, dy: Floats) -> Floats:
    """Move stars of flux 1 to the pixel grid: the model of before, and what the stars differ from it, moved there.

    Interpolation is not exact. Moving only the difference makes the model, once moved to a star, equal to the star;
    pixels without data become those of the model.
    """
    difference = np.nan_to_num(stars - shift_stamps(grids, dx, dy))
    return grids + shift_stamps(difference, -dx, -dy)


def _alike(data: Floats, model: PolynomialPsf, x: Floats, y: Floats, variance: Floats) -> Bools:
    """Keep stars whose misfit is like that of the others."""
    if model.order == 0 and len(model.coefficients) == 1 and len(x) < 5:
        return np.ones(len(x), dtype=bool)
    grids = model.grids(x, y)
    misfit = np.sqrt(np.nanmean((data - grids) ** 2, axis=(1, 2)))
    typical = np.median(misfit)
    spread = 1.4826 * np.median(np.abs(misfit - typical))
    noise = np.sqrt(np.mean(np.where(np.isfinite(variance), variance, 0.0), axis=(1, 2)))
    return np.asarray(misfit < typical + 5.0 * np.maximum(spread, 0.1 * typical) + 3.0 * noise)


def fit_grid(
    data: Floats, variance: Floats, x: Floats, y: Floats, order: int, box: Box, config: PsfConfig
) -> PolynomialPsf:
    """Fit each pixel of centred stars with a polynomial of position.

    Parameters
    ----------
    data, variance
        (n, k, k) stars of flux 1 in the middle of their centre pixels, and their variance, infinite for no data.
    x, y
        (n,) detector positions [pixel].
    order
        Total degree of the polynomials.
    box
        Where the model holds.
    config
        Knobs.
    """
    n, side, _ = data.shape
    design = np.stack([(x / UNIT) ** i * (y / UNIT) ** j for i, j in polynomial_powers(order)], axis=1)
    values, noise = data.reshape(n, -1), variance.reshape(n, -1)
    held = np.isfinite(noise)
    # the noise of the sky and the model's own error: weighting by the noise of the star itself would favour low pixels
    sky = np.median(np.where(held, noise, np.nanmax(np.where(held, noise, np.nan))), axis=1, keepdims=True)
    weight = 1.0 / (sky + (config.model_error * np.median(values, axis=0)) ** 2)
    keep = held
    flat = np.zeros((design.shape[1], side * side))
    for _ in range(4):
        w = np.where(keep, weight, 0.0)
        normal = np.einsum("np,nt,nu->ptu", w, design, design, optimize=True)
        right = np.einsum("np,nt->pt", w * values, design, optimize=True)
        # a pixel that no star covers gets 0 rather than a singular matrix
        ridge = 1e-12 * np.trace(normal, axis1=1, axis2=2) + 1e-30
        flat = np.linalg.solve(normal + ridge[:, None, None] * np.eye(design.shape[1]), right[:, :, None])[:, :, 0].T
        pull = (values - design @ flat) * np.sqrt(weight)
        scale = np.maximum(1.4826 * np.median(np.abs(pull), axis=0), 0.5)
        keep = held & (np.abs(pull) < config.reject * scale)
        starved = keep.sum(axis=0) <= design.shape[1]
        keep[:, starved] = held[:, starved]
    coefficients = flat.reshape(-1, side, side)
    return PolynomialPsf(coefficients=coefficients / coefficients[0].sum(), order=order, bbox=box)
