"""From sky to pixels and back as they truly are, and the shape of the point-spread function over the field.

The true projection is gnomonic about the true boresight, followed by a cubic radial distortion; the header only has
the gnomonic part about the nominal boresight.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nightlab.simulate.camera import Chip
from nightlab.simulate.config import SurveyConfig
from nightlab.simulate.visit import Visit

Floats = NDArray[np.float64]

MOFFAT_BETA = 3.5  # half-integer: the transform of the profile then has a closed form


def cd_matrix(scale: float, rotation: float) -> Floats:
    """Give the (2, 2) matrix from pixel offsets (x, y) to offsets (east, north) in the unit of `scale`."""
    turn = np.deg2rad(rotation)
    return scale * np.array([[-np.cos(turn), np.sin(turn)], [np.sin(turn), np.cos(turn)]])


def tangent_plane(ra: ArrayLike, dec: ArrayLike, ra0: float, dec0: float) -> tuple[Floats, Floats]:
    """Project the sky gnomonically: degrees to offsets (east, north) [arcsec]; NaN on the far hemisphere."""
    a, d, d0 = np.deg2rad(np.asarray(ra, float) - ra0), np.deg2rad(np.asarray(dec, float)), np.deg2rad(dec0)
    depth = np.sin(d) * np.sin(d0) + np.cos(d) * np.cos(d0) * np.cos(a)
    depth = np.where(depth > 0.1, depth, np.nan)
    east = np.cos(d) * np.sin(a) / depth
    north = (np.sin(d) * np.cos(d0) - np.cos(d) * np.sin(d0) * np.cos(a)) / depth
    return np.rad2deg(east) * 3600.0, np.rad2deg(north) * 3600.0


def from_tangent_plane(east: ArrayLike, north: ArrayLike, ra0: float, dec0: float) -> tuple[Floats, Floats]:
    """Invert `tangent_plane`: arcsec to degrees, right ascension in [0, 360)."""
    e, n = (np.deg2rad(np.asarray(v, float) / 3600.0) for v in (east, north))
    d0 = np.deg2rad(dec0)
    forward = np.cos(d0) - n * np.sin(d0)
    ra = ra0 + np.rad2deg(np.arctan2(e, forward))
    dec = np.rad2deg(np.arctan2(np.sin(d0) + n * np.cos(d0), np.hypot(e, forward)))
    return ra % 360.0, dec


def radec_to_pixel(
    visit: Visit, chip: Chip, config: SurveyConfig, ra: ArrayLike, dec: ArrayLike
) -> tuple[Floats, Floats]:
    """Give the true pixel (x, y) of ICRS positions [deg] on an assembled detector."""
    u, v = focal_plane(visit, config, ra, dec)
    return u - chip.x0, v - chip.y0


def focal_plane(visit: Visit, config: SurveyConfig, ra: ArrayLike, dec: ArrayLike) -> tuple[Floats, Floats]:
    """Give the true focal-plane position (x, y) of ICRS positions [deg], from the boresight [pixel]."""
    east, north = tangent_plane(ra, dec, visit.true_ra, visit.true_dec)
    inverse = np.linalg.inv(cd_matrix(config.pixel_scale, visit.true_rotation))
    u = inverse[0, 0] * east + inverse[0, 1] * north
    v = inverse[1, 0] * east + inverse[1, 1] * north
    stretch = 1.0 + config.distortion / config.radius**3 * (u * u + v * v)
    return u * stretch, v * stretch


def pixel_to_radec(
    visit: Visit, chip: Chip, config: SurveyConfig, x: ArrayLike, y: ArrayLike
) -> tuple[Floats, Floats]:
    """Give the true ICRS position [deg] of pixels (x, y) of an assembled detector."""
    u, v = np.asarray(x, float) + chip.x0, np.asarray(y, float) + chip.y0
    strength = config.distortion / config.radius**3
    observed = np.hypot(u, v)
    ideal = observed.copy()
    for _ in range(6):  # the distortion is weak: a handful of Newton steps reach machine precision
        ideal = ideal - (ideal * (1.0 + strength * ideal**2) - observed) / (1.0 + 3.0 * strength * ideal**2)
    shrink = 1.0 / (1.0 + strength * ideal**2)
    cd = cd_matrix(config.pixel_scale, visit.true_rotation)
    east = (cd[0, 0] * u + cd[0, 1] * v) * shrink
    north = (cd[1, 0] * u + cd[1, 1] * v) * shrink
    return from_tangent_plane(east, north, visit.true_ra, visit.true_dec)


def psf_shape(
    visit: Visit, chip: Chip, config: SurveyConfig, x: ArrayLike, y: ArrayLike
) -> tuple[Floats, Floats, Floats]:
    """Give the PSF over a detector: FWHM [pixel] and ellipticity (e1, e2), e = (1 - q) / (1 + q), at pixels (x, y)."""
    u = (np.asarray(x, float) + chip.x0) / config.radius
    v = (np.asarray(y, float) + chip.y0) / config.radius
    bowl, tilt_u, tilt_v = visit.psf_fwhm
    fwhm = visit.seeing / config.pixel_scale * (1.0 + bowl * (u * u + v * v) + tilt_u * u + tilt_v * v)
    e1 = visit.psf_e1[0] + visit.psf_e1[1] * u + visit.psf_e1[2] * v
    e2 = visit.psf_e2[0] + visit.psf_e2[1] * u + visit.psf_e2[2] * v
    return fwhm, e1, e2


def moffat_radius(fwhm: ArrayLike) -> Floats:
    """Turn the FWHM of the Moffat profile into its scale radius, in the same unit."""
    return np.asarray(fwhm, float) / (2.0 * np.sqrt(2.0 ** (1.0 / MOFFAT_BETA) - 1.0))


def shear_matrix(e1: ArrayLike, e2: ArrayLike) -> Floats:
    """Give the (n, 2, 2) matrices of determinant 1 that turn a circle into an ellipse with (1 - q) / (1 + q) = |e|."""
    a, b = np.atleast_1d(np.asarray(e1, float)), np.atleast_1d(np.asarray(e2, float))
    norm = 1.0 / np.sqrt(1.0 - a * a - b * b)
    return np.stack([np.stack([1.0 + a, b], -1), np.stack([b, 1.0 - a], -1)], -2) * norm[:, None, None]
