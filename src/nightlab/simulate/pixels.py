"""Drawing: stars as pixel-integrated Moffat profiles, galaxies in Fourier space, cosmic rays and satellites.

Galaxies are an exponential disk and a bulge of the family of Spergel (2010, ApJS 191, 58) with index -0.6, close to de
Vaucouleurs' law; both have transforms in closed form, and so has the Moffat profile with exponent 3.5.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.fft import irfft2

from nightlab.simulate.optics import MOFFAT_BETA, moffat_radius, shear_matrix

Floats = NDArray[np.float64]

# scale radius over half-light radius
_DISK_SCALE = 0.5958243473776977
_BULGE_SCALE = 1.8257706179844684

# Gauss-Legendre nodes and weights on a pixel, (-0.5, 0.5)
_NODES, _WEIGHTS = (v / 2.0 for v in np.polynomial.legendre.leggauss(4))
_STAMP_SIZES = np.array([32, 48, 64, 96, 128, 192, 256])
_BATCH_PIXELS = 1 << 19  # bounds the memory of a batch of galaxy stamps


def draw_stars(image: Floats, x: Floats, y: Floats, flux: Floats, fwhm: Floats, e1: Floats, e2: Floats) -> None:
    """Add point sources to an image in place.

    Parameters
    ----------
    image
        (ny, nx); sources may lie beyond its edges.
    x, y, flux, fwhm, e1, e2
        (n,) positions [pixel], fluxes [unit of the image], FWHM [pixel] and ellipticities of the Moffat profile.
    """
    if len(x) == 0:
        return
    radius = moffat_radius(fwhm)
    inverse = np.linalg.inv(shear_matrix(e1, e2) * radius[:, None, None])
    peak = (MOFFAT_BETA - 1.0) / (np.pi * radius**2)
    # out to where a pixel gets 0.03 units, at least 6 FWHM: 2e-4 of the flux lies outside
    reach = radius * (np.maximum(np.abs(flux) * peak, 1e-9) / 0.03) ** (1.0 / (2.0 * MOFFAT_BETA))
    half = np.ceil(np.maximum(6.0 * np.asarray(fwhm), reach) * (1.0 + np.hypot(e1, e2))).astype(np.int64)
    _add_moffats(image, np.asarray(x, float), np.asarray(y, float), flux * peak, inverse, half, _NODES, _WEIGHTS)


@njit(cache=True)
def _add_moffats(image, x, y, peak, inverse, half, nodes, weights):  # type: ignore[no-untyped-def]
    ny, nx = image.shape
    for s in range(x.size):
        a, b, c, d = inverse[s, 0, 0], inverse[s, 0, 1], inverse[s, 1, 0], inverse[s, 1, 1]
        x_mid, y_mid = int(np.rint(x[s])), int(np.rint(y[s]))
        for i in range(max(0, y_mid - half[s]), min(ny, y_mid + half[s] + 1)):
            for j in range(max(0, x_mid - half[s]), min(nx, x_mid + half[s] + 1)):
                u, v = j - x[s], i - y[s]
                far = (a * u + b * v) ** 2 + (c * u + d * v) ** 2
                if far > 9.0:  # out there the middle of a pixel stands for its mean, to 5e-5 of the total flux
                    t = 1.0 + far
                    image[i, j] += peak[s] / (t * t * t * np.sqrt(t))
                    continue
                total = 0.0
                for p in range(nodes.size):
                    for q in range(nodes.size):
                        du, dv = u + nodes[q], v + nodes[p]
                        t = 1.0 + (a * du + b * dv) ** 2 + (c * du + d * dv) ** 2
                        total += weights[p] * weights[q] / (t * t * t * np.sqrt(t))
                image[i, j] += peak[s] * total


def draw_galaxies(
    image: Floats,
    x: Floats,
    y: Floats,
    flux: Floats,
    bulge_fraction: Floats,
    bulge: Floats,
    disk: Floats,
    fwhm: Floats,
    e1: Floats,
    e2: Floats,
) -> None:
    """Add galaxies, seen through the PSF, to an image in place.

    Parameters
    ----------
    image
        (ny, nx).
    x, y, flux
        (n,) positions [pixel] and fluxes [unit of the image].
    bulge_fraction
        (n,) share of the bulge in the flux.
    bulge, disk
        (n, 2, 2) matrices that turn the unit circle into the half-light ellipse [pixel].
    fwhm, e1, e2
        (n,) the PSF at every galaxy.
    """
    if len(x) == 0:
        return
    psf = shear_matrix(e1, e2) * moffat_radius(fwhm)[:, None, None]
    extent = np.maximum(np.abs(disk).max(axis=(1, 2)), np.abs(bulge).max(axis=(1, 2)))
    wanted = 8.0 * np.asarray(fwhm) + 10.0 * extent
    size = _STAMP_SIZES[np.minimum(np.searchsorted(_STAMP_SIZES, wanted), len(_STAMP_SIZES) - 1)]
    x_mid, y_mid = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    shape = (bulge_fraction, bulge * _BULGE_SCALE, disk * _DISK_SCALE, psf)
    for n in _STAMP_SIZES:
        members = np.flatnonzero(size == n)
        step = max(1, _BATCH_PIXELS // int(n * n))
        for start in range(0, len(members), step):
            some = members[start : start + step]
            transform = np.empty((len(some), n, n // 2 + 1), np.complex128)
            _galaxy_transforms(transform, x[some] - x_mid[some], y[some] - y_mid[some], *(v[some] for v in shape))
            stamps = irfft2(transform, s=(n, n), workers=1) * flux[some, None, None]
            _add_stamps(image, stamps, x_mid[some], y_mid[some])


@njit(cache=True)
def _galaxy_transforms(out, dx, dy, bulge_fraction, bulge, disk, psf):  # type: ignore[no-untyped-def]
    count, n, half = out.shape
    for s in range(count):
        m, d, b = psf[s], disk[s], bulge[s]
        for i in range(n):
            ky = 2.0 * np.pi * (i if i <= n // 2 else i - n) / n
            for j in range(half):
                kx = 2.0 * np.pi * j / n
                k_psf = np.sqrt((m[0, 0] * kx + m[1, 0] * ky) ** 2 + (m[0, 1] * kx + m[1, 1] * ky) ** 2)
                k_disk = (d[0, 0] * kx + d[1, 0] * ky) ** 2 + (d[0, 1] * kx + d[1, 1] * ky) ** 2
                k_bulge = (b[0, 0] * kx + b[1, 0] * ky) ** 2 + (b[0, 1] * kx + b[1, 1] * ky) ** 2
                value = np.exp(-k_psf) * (3.0 + 3.0 * k_psf + k_psf * k_psf) / 3.0
                f = bulge_fraction[s]
                value *= (1.0 - f) / ((1.0 + k_disk) * np.sqrt(1.0 + k_disk)) + f * (1.0 + k_bulge) ** -0.4
                if j > 0:
                    value *= np.sin(kx / 2.0) / (kx / 2.0)
                if i > 0:
                    value *= np.sin(ky / 2.0) / (ky / 2.0)
                # the object's centre goes to pixel n // 2
                phase = -(kx * (dx[s] + n // 2) + ky * (dy[s] + n // 2))
                out[s, i, j] = value * (np.cos(phase) + 1j * np.sin(phase))


@njit(cache=True)
def _add_stamps(image, stamps, x_mid, y_mid):  # type: ignore[no-untyped-def]
    ny, nx = image.shape
    n = stamps.shape[1]
    for s in range(stamps.shape[0]):
        x0, y0 = x_mid[s] - n // 2, y_mid[s] - n // 2
        for i in range(max(0, -y0), min(n, ny - y0)):
            for j in range(max(0, -x0), min(n, nx - x0)):
                image[y0 + i, x0 + j] += stamps[s, i, j]


def cosmic_rays(shape: tuple[int, int], n: int, rng: np.random.Generator) -> Floats:
    """Draw the charge that cosmic rays leave: (ny, nx) electrons.

    Tracks start anywhere in any direction; length (mean 8 pixels), deposit per pixel (about 1000 electrons) and
    curvature are random, so that some are dots, most are short lines and a few are worms.
    """
    charge = np.zeros(shape)
    length = 1.0 + rng.exponential(8.0, n)
    deposit = 400.0 * (1.0 + rng.pareto(1.5, n)).clip(max=40.0)
    angle, bend = rng.uniform(0.0, 2.0 * np.pi, n), rng.normal(0.0, 0.02, n)
    start_y, start_x = rng.uniform(0, shape[0], n), rng.uniform(0, shape[1], n)
    _add_tracks(charge, start_x, start_y, length, deposit, angle, bend)
    return charge


@njit(cache=True)
def _add_tracks(charge, x, y, length, deposit, angle, bend):  # type: ignore[no-untyped-def]
    ny, nx = charge.shape
    step = 0.1
    for t in range(x.size):
        u, v = x[t], y[t]
        for n in range(int(length[t] / step)):
            turn = angle[t] + bend[t] * n * step
            u += step * np.cos(turn)
            v += step * np.sin(turn)
            i, j = int(np.floor(v)), int(np.floor(u))
            if 0 <= i < ny and 0 <= j < nx:
                charge[i, j] += deposit[t] * step


def satellite_trail(
    shape: tuple[int, int], x: float, y: float, angle: float, brightness: float, fwhm: float
) -> Floats:
    """Draw the trail of a satellite: (ny, nx), a Moffat profile integrated along a line.

    Parameters
    ----------
    shape
        Of the image.
    x, y, angle
        A point on the line [pixel] and its direction from the x axis [rad].
    brightness
        Flux per pixel of length [electron].
    fwhm
        Of the PSF [pixel].
    """
    radius = float(moffat_radius(fwhm))
    rows, columns = np.arange(shape[0])[:, None] - y, np.arange(shape[1])[None, :] - x
    distance = (rows * np.cos(angle) - columns * np.sin(angle)) / radius
    # the marginal of a Moffat of exponent 7/2 is one of exponent 3, whose integral is 3 pi / 8
    return np.asarray(brightness * 8.0 / (3.0 * np.pi * radius) * (1.0 + distance**2) ** -3.0, np.float64)


def draw_gaussians(image: Floats, x: Floats, y: Floats, flux: Floats, sigma: Floats) -> None:
    """Add circular Gaussians, integrated over the pixels, to an image (ny, nx) in place.

    Parameters
    ----------
    image
        (ny, nx).
    x, y, flux, sigma
        (n,) positions [pixel], fluxes [unit of the image] and widths [pixel].
    """
    _add_gaussians(image, *(np.ascontiguousarray(v, dtype=np.float64) for v in (x, y, flux, sigma)))


@njit(cache=True)
def _add_gaussians(image, x, y, flux, sigma):  # type: ignore[no-untyped-def]
    ny, nx = image.shape
    for s in range(x.size):
        half = int(np.ceil(7.0 * sigma[s])) + 1
        scale = 1.0 / (math.sqrt(2.0) * sigma[s])
        x_mid, y_mid = int(np.rint(x[s])), int(np.rint(y[s]))
        for i in range(max(0, y_mid - half), min(ny, y_mid + half + 1)):
            rows = 0.5 * (math.erf((i + 0.5 - y[s]) * scale) - math.erf((i - 0.5 - y[s]) * scale))
            for j in range(max(0, x_mid - half), min(nx, x_mid + half + 1)):
                columns = 0.5 * (math.erf((j + 0.5 - x[s]) * scale) - math.erf((j - 0.5 - x[s]) * scale))
                image[i, j] += flux[s] * rows * columns
