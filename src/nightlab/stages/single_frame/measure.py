"""Measurement: positions and fluxes of all sources at once, neighbours taken out of each other's way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from lsst.images.psfs import PointSpreadFunction
from pydantic import Field, field_validator
from scipy.spatial import cKDTree

from nightlab.config import Config
from nightlab.images.psf import PolynomialPsf, psf_stamps, shift_stamps
from nightlab.numeric import photometry
from nightlab.numeric.galaxy_photometry import gaussian_flux, kron_flux, sinc_aperture_flux
from nightlab.numeric.moments import adaptive_moments, moment_errors
from nightlab.stages.single_frame.detect import Peaks
from nightlab.stages.single_frame.frame import Bools, Floats, Frame, Ints

type Psf = PointSpreadFunction | PolynomialPsf
SINC_REACH = 8  # pixels beyond the rim of a sinc aperture that still have a weight worth having
KRON_OF_GAUSSIAN = float(np.sqrt(np.pi / 2))  # Kron radius of a Gaussian in units of its sigma
FLAG_RADIUS = 4  # pixels looked at for the flags that are not of the centre
FLAG_PLANES = {
    "saturated": ("SATURATED",),
    "cr": ("COSMIC_RAY",),
    "bad": ("BAD",),
    "interpolated": ("INTERPOLATED",),
    "nodata": ("NO_DATA", "UNMASKED_NAN"),
}


class MeasureConfig(Config):
    """Knobs of source measurement."""

    rounds: int = Field(default=8, ge=1, description="sweeps of the simultaneous fit of all sources")
    fit_radius: float = Field(
        default=2.5, gt=0, description="pixels in the fit of a position, in units of the PSF's Gaussian sigma"
    )
    max_step: float = Field(default=0.3, gt=0, description="largest change of a position in one sweep [pixel]")
    max_shift: float = Field(default=1.5, gt=0, description="farthest a position may move from its peak [pixel]")
    min_separation: float = Field(default=1.2, ge=0, description="closer positions are one source [pixel]")
    min_snr: float = Field(
        default=3.5, ge=0, description="sources whose flux falls below this once deblended are dropped [sigma]"
    )
    apertures: tuple[int, ...] = Field(
        default=(3, 6, 9, 12, 17, 25), description="radii of circular apertures [pixel]"
    )
    sinc_limit: float = Field(
        default=10.0, ge=0, description="apertures below this radius are integrals of the sampled image [pixel]"
    )
    calibration_aperture: float = Field(
        default=12.0, gt=0, description="radius that defines the flux of a star [pixel]"
    )
    kron_reach: float = Field(
        default=6.0, gt=0, description="light that sets the Kron radius, in units of the axes of the moments"
    )
    kron_factor: float = Field(default=2.5, gt=0, description="radius of the Kron flux, in Kron radii")
    moments_half_width: int = Field(
        default=15, gt=0, description="half width of the stamps for adaptive moments [pixel]"
    )
    isolation: float = Field(
        default=12.0, ge=0, description="sources without a neighbour inside this radius are isolated [pixel]"
    )
    extended_excess: float = Field(
        default=0.15, gt=0, description="excess of the moments over the PSF's that makes a source extended (fraction)"
    )

    @field_validator("apertures")
    @classmethod
    def _positive(cls, radii: tuple[int, ...]) -> tuple[int, ...]:
        if any(radius < 1 for radius in radii):
            raise ValueError(f"radii of apertures are whole pixels from 1, not {radii}")
        return radii


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Measurements in instrumental units; one entry per source, ordered by y then x.

    Attributes
    ----------
    x, y, x_err, y_err
        Detector coordinates and their errors [pixel].
    flux, flux_err
        PSF flux, not yet aperture-corrected.
    others
        Flux and error, (n,) each, by name: ``gaussian``, ``kron``, and ``ap06`` for an aperture of 6 pixels.
    other_flags
        (n,) bool, by the same names: True where it is not to be relied on.
    calibration_flux, calibration_err
        (n,) flux in the aperture that defines the flux of a star, and its error.
    moments, moment_errs, psf_moments
        (n, 3) Ixx, Iyy, Ixy [pixel^2] of the source, their errors, and those of the PSF at its place.
    kron_radius
        (n,) as that of a circle of the same area [pixel].
    blendedness
        (n,) part of the light under the source's own Gaussian that is its neighbours'.
    extendedness
        0 for a point source, 1 for an extended one, NaN when unknown.
    isolated, centroid_flag, flux_flag
        (n,) bool.
    flags
        (n,) bool per pixel flag.
    residual
        (ny, nx) image minus all point-source models.
    """

    x: Floats
    y: Floats
    x_err: Floats
    y_err: Floats
    flux: Floats
    flux_err: Floats
    others: dict[str, tuple[Floats, Floats]]
    other_flags: dict[str, Bools]
    calibration_flux: Floats
    calibration_err: Floats
    moments: Floats
    moment_errs: Floats
    psf_moments: Floats
    kron_radius: Floats
    blendedness: Floats
    extendedness: Floats
    isolated: Bools
    centroid_flag: Bools
    flux_flag: Bools
    flags: dict[str, Bools]
    residual: Floats

    @property
    def snr(self) -> Floats:
        """PSF flux over its error."""
        return self.flux / self.flux_err

    def clean(self) -> Bools:
        """Give the sources that calibration may rest on."""
        bad = self.centroid_flag | self.flux_flag
        for name in ("edge", "saturated", "nodata", "bad", "cr", "interpolatedCenter"):
            bad = bad | self.flags[name]
        return ~bad


@dataclass(frozen=True, kw_only=True)
class _Fit:
    x: Floats
    y: Floats
    flux: Floats
    moving: Bools
    stuck: Bools


def measure(frame: Frame, peaks: Peaks, psf: Psf, sigma: float, config: MeasureConfig) -> Sources:
    """Measure every peak of a sky-subtracted frame.

    Positions and fluxes come from one least-squares fit of all point sources (Gauss-Seidel sweeps); the reported flux
    is then f = sum(P I) / sum(P^2) with unit weights, on the image without the models of all other sources.

    Parameters
    ----------
    frame
        Sky-subtracted frame.
    peaks
        What to measure.
    psf
        Point-spread function, in detector coordinates.
    sigma
        Its Gaussian sigma [pixel].
    config
        Knobs.
    """
    image = np.where(frame.usable, frame.pixels, np.nan)
    variance = np.where(frame.usable, frame.variance, np.nan)
    start_x, start_y = peaks.x, peaks.y
    fit = _fit_positions(image, psf, frame, start_x, start_y, peaks.significance, sigma, config)
    keep = _distinct(fit, config.min_separation)
    flux, error = _fluxes(image, variance, psf, frame, fit, keep)[:2]
    keep[keep] = ~(flux / error < config.min_snr)
    if not keep.all():
        fit = _fit_positions(image, psf, frame, fit.x[keep], fit.y[keep], fit.flux[keep], sigma, config)
    order = np.lexsort((fit.x, fit.y))
    fit = _Fit(**{name: getattr(fit, name)[order] for name in ("x", "y", "flux", "moving", "stuck")})
    everything = np.ones(fit.x.size, dtype=bool)
    flux, error, stamps, residual, xi, yi = _fluxes(image, variance, psf, frame, fit, everything)
    return _sources(frame, image, variance, residual, stamps, fit, flux, error, xi, yi, sigma, config)


def _fit_positions(
    image: Floats,
    psf: Psf,
    frame: Frame,
    x: Floats,
    y: Floats,
    brightness: Floats,
    sigma: float,
    config: MeasureConfig,
) -> _Fit:
    radius = max(2.5, config.fit_radius * sigma)
    half = int(np.ceil(max(5.0 * sigma, radius + 2.0)))
    grids = _grids(psf, x + frame.x0, y + frame.y0, 2 * half + 1)
    start_x, start_y = x, y
    order = np.argsort(-brightness, kind="stable")
    flux = np.zeros(x.size)
    step = np.zeros(x.size)
    for _ in range(config.rounds):
        xi, yi = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
        stamps = shift_stamps(grids, x - xi, y - yi)
        residual = image.copy()
        photometry.add_stamps(residual, stamps, -flux, xi, yi)
        dx, dy = photometry.sweep_point_sources(residual, stamps, x, y, flux, order, radius)
        dx, dy = (np.clip(np.nan_to_num(d), -config.max_step, config.max_step) for d in (dx, dy))
        new_x = start_x + np.clip(x + dx - start_x, -config.max_shift, config.max_shift)
        new_y = start_y + np.clip(y + dy - start_y, -config.max_shift, config.max_shift)
        step = np.hypot(new_x - x, new_y - y)
        x, y = new_x, new_y
    # a little less than the limit: adding it to a position and taking it off again need not give it back
    stuck = np.maximum(np.abs(x - start_x), np.abs(y - start_y)) > (1.0 - 1e-6) * config.max_shift
    return _Fit(x=x, y=y, flux=flux, moving=step > 0.1, stuck=stuck | ~np.isfinite(flux) | (flux <= 0))


def _grids(psf: Psf, x: Floats, y: Floats, size: int) -> Floats:
    return psf_stamps(psf, x, y, size=size, centred=True) if x.size else np.zeros((0, size, size))


def _distinct(fit: _Fit, separation: float) -> Bools:
    """Keep the brighter of any two positions that fell onto each other."""
    keep = np.ones(fit.x.size, dtype=bool)
    if fit.x.size < 2:
        return keep
    pairs = cKDTree(np.stack([fit.x, fit.y], axis=1)).query_pairs(separation, output_type="ndarray")
    if len(pairs):
        first_fainter = fit.flux[pairs[:, 0]] < fit.flux[pairs[:, 1]]
        keep[np.where(first_fainter, pairs[:, 0], pairs[:, 1])] = False
    return keep


def _fluxes(
    image: Floats, variance: Floats, psf: Psf, frame: Frame, fit: _Fit, keep: Bools
) -> tuple[Floats, Floats, Floats, Floats, Ints, Ints]:
    """Give fluxes on the image without neighbours, their errors, the PSF stamps and the image without any source."""
    x, y, flux = fit.x[keep], fit.y[keep], fit.flux[keep]
    xi, yi = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    if not x.size:
        return flux, flux, np.zeros((0, 3, 3)), image.copy(), xi, yi
    stamps = psf_stamps(psf, x + frame.x0, y + frame.y0)
    half = stamps.shape[-1] // 2
    residual = image.copy()
    photometry.add_stamps(residual, stamps, -flux, xi, yi)
    own = photometry.cut_stamps(residual, xi, yi, half) + flux[:, None, None] * stamps
    new, error, _ = photometry.psf_flux(own, photometry.cut_stamps(variance, xi, yi, half), stamps)
    photometry.add_stamps(residual, stamps, flux - new, xi, yi)
    return new, error, stamps, residual, xi, yi


def _sources(
    frame: Frame,
    image: Floats,
    variance: Floats,
    residual: Floats,
    stamps: Floats,
    fit: _Fit,
    flux: Floats,
    error: Floats,
    xi: Ints,
    yi: Ints,
    sigma: float,
    config: MeasureConfig,
) -> Sources:
    dx, dy = fit.x - xi, fit.y - yi
    known = np.nan_to_num(flux)
    noise = photometry.cut_stamps(variance, xi, yi, stamps.shape[-1] // 2)
    x_err, y_err = photometry.centroid_errors(noise, stamps, flux)

    def alone(half: int) -> Floats:
        """Cut stamps without the models of all other sources."""
        own: Floats = photometry.cut_stamps(residual, xi, yi, half)
        return own + known[:, None, None] * photometry.resized_stamps(stamps, half)

    def circle(radius: float) -> tuple[Floats, Floats, Bools]:
        rest, noise_sum, lost = photometry.aperture_flux(residual, variance, fit.x, fit.y, radius)
        if radius < config.sinc_limit:
            half = int(np.ceil(radius)) + SINC_REACH
            return (*sinc_aperture_flux(alone(half), photometry.cut_stamps(variance, xi, yi, half), dx, dy, radius),
                    lost > 0)  # fmt: skip
        return rest + known * photometry.aperture_fraction(stamps, dx, dy, radius), noise_sum, lost > 0

    others, other_flags = {}, {}
    for radius in config.apertures:
        *value, missing = circle(float(radius))
        others[f"ap{radius:02d}"], other_flags[f"ap{radius:02d}"] = (value[0], value[1]), missing
    calibration_flux, calibration_err, incomplete = circle(config.calibration_aperture)
    half = config.moments_half_width
    own = alone(half)
    moments, centres, shapeless = adaptive_moments(own, dx, dy, guess=sigma)
    psf_moments, _, _ = adaptive_moments(stamps, dx, dy, guess=sigma)
    own_noise = photometry.cut_stamps(variance, xi, yi, half)
    height, height_err, light = gaussian_flux(own, own_noise, centres, moments)
    all_light = gaussian_flux(photometry.cut_stamps(image, xi, yi, half), own_noise, centres, moments)[2]
    smallest = KRON_OF_GAUSSIAN * (_area(psf_moments) / _area(moments)) ** 0.25
    kron = kron_flux(
        residual, variance, stamps, known, fit.x, fit.y, moments, config.kron_reach, config.kron_factor, smallest
    )
    others |= {"gaussian": (height, height_err), "kron": (kron[0], kron[1])}
    other_flags |= {"gaussian": shapeless, "kron": kron[3]}
    flags = _pixel_flags(frame, xi, yi)
    reach = min(stamps.shape[-1] // 2, int(np.ceil(4.0 * sigma))) if fit.x.size else 0
    ny, nx = frame.shape
    flags["edge"] = (xi < reach) | (yi < reach) | (xi >= nx - reach) | (yi >= ny - reach)
    excess = moments[:, :2].sum(axis=1) / psf_moments[:, :2].sum(axis=1) - 1.0
    extended = excess > config.extended_excess + 4.0 / np.maximum(flux / error, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        blendedness = np.clip(1.0 - light / all_light, 0.0, 1.0)
    return Sources(
        x=fit.x + frame.x0,
        y=fit.y + frame.y0,
        x_err=x_err,
        y_err=y_err,
        flux=flux,
        flux_err=error,
        others=others,
        other_flags=other_flags,
        calibration_flux=calibration_flux,
        calibration_err=calibration_err,
        moments=moments,
        moment_errs=moment_errors(own_noise, centres, moments, height),
        psf_moments=psf_moments,
        kron_radius=kron[2],
        blendedness=blendedness,
        extendedness=np.where(shapeless | ~np.isfinite(excess), np.nan, extended.astype(float)),
        isolated=_isolated(fit.x, fit.y, config.isolation),
        centroid_flag=fit.stuck | fit.moving,
        flux_flag=~(np.isfinite(flux) & np.isfinite(error)) | incomplete,
        flags=flags,
        residual=residual,
    )


def _area(moments: Floats) -> Floats:
    """Give the determinant of (n, 3) moments."""
    return moments[:, 0] * moments[:, 1] - moments[:, 2] ** 2


def _isolated(x: Floats, y: Floats, radius: float) -> Bools:
    if x.size < 2:
        return np.ones(x.size, dtype=bool)
    distance, _ = cKDTree(np.stack([x, y], axis=1)).query(np.stack([x, y], axis=1), k=2)
    return np.asarray(distance[:, 1] > radius)


def _pixel_flags(frame: Frame, xi: Ints, yi: Ints) -> dict[str, Bools]:
    """Look up mask planes around each source; ``...Center`` means the central 3 x 3 pixels."""
    out = {}
    for name, planes in FLAG_PLANES.items():
        near, centre = _any_near(frame.flagged(*planes), xi, yi)
        out[name] = near
        if name in ("saturated", "interpolated"):
            out[f"{name}Center"] = centre
    return out


def _any_near(mask: Bools, xi: Ints, yi: Ints) -> tuple[Bools, Bools]:
    offset = np.arange(-FLAG_RADIUS, FLAG_RADIUS + 1)
    dy, dx = (grid.ravel() for grid in np.meshgrid(offset, offset, indexing="ij"))
    disc = dx**2 + dy**2 <= FLAG_RADIUS**2
    yy = np.clip(yi[:, None] + dy[disc][None, :], 0, mask.shape[0] - 1)
    xx = np.clip(xi[:, None] + dx[disc][None, :], 0, mask.shape[1] - 1)
    hit = mask[yy, xx]
    inner = np.maximum(np.abs(dx[disc]), np.abs(dy[disc])) <= 1
    return hit.any(axis=1), hit[:, inner].any(axis=1)
