"""Fluxes in apertures that fit the source: band-limited circles, matched Gaussians, Kron ellipses."""

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import fft
from scipy.special import j1

from nightlab.numeric.photometry import put_stamp

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
CHUNK = 512  # sources whose weights are in memory at a time
SUBPIXELS = 5  # per side, for pixels cut by the rim of an ellipse


def sinc_aperture_flux(
    stamps: Floats, variance: Floats, dx: Floats, dy: Floats, radius: float
) -> tuple[Floats, Floats]:
    """Integrate the images that the pixels sample over circles.

    A pixel's weight is the integral of its sinc function over the circle, so that the sum is exact for an image
    without power beyond the Nyquist frequency, wherever in a pixel the source lies; summing areas of pixels is not,
    for circles of a few pixels (Bickerton & Lupton 2013, MNRAS 431, 1275).

    Parameters
    ----------
    stamps, variance
        (n, k, k) pixels and their variance, k odd and more than twice the radius; NaN is no data and adds nothing.
    dx, dy
        (n,) centres off the central pixel [pixel].
    radius
        Of the circles [pixel].

    Returns
    -------
    tuple of numpy.ndarray
        Flux and its error.
    """
    n, side = len(stamps), stamps.shape[-1]
    flux, error = np.zeros(n), np.zeros(n)
    for begin in range(0, n, CHUNK):
        part = slice(begin, begin + CHUNK)
        weight = _sinc_weights(dx[part], dy[part], radius, side // 2)
        good = np.isfinite(stamps[part]) & np.isfinite(variance[part])
        flux[part] = np.einsum("nij,nij->n", weight, np.where(good, stamps[part], 0.0))
        error[part] = np.sqrt(np.einsum("nij,nij->n", weight**2, np.where(good, variance[part], 0.0)))
    return flux, error


def _sinc_weights(dx: Floats, dy: Floats, radius: float, half: int) -> Floats:
    """Give (n, k, k) weights: the transform of a disc, cut at the Nyquist frequency, moved and transformed back."""
    side = 2 * half + 1
    size = side + 2 * int(np.ceil(radius))  # what falls outside the stamp must not come in on the other side
    size = fft.next_fast_len(size + (size + 1) % 2)
    size += (size + 1) % 2  # odd, so that no frequency is its own opposite
    u, v = fft.rfftfreq(size), fft.fftfreq(size)
    rho = np.hypot(u[None, :], v[:, None])
    disc = np.full(rho.shape, np.pi * radius**2)
    away = rho > 0
    disc[away] = radius * j1(2.0 * np.pi * rho[away] * radius) / rho[away]
    phase = (
        np.exp(-2j * np.pi * np.outer(dy + half, v))[:, :, None]
        * np.exp(-2j * np.pi * np.outer(dx + half, u))[:, None]
    )
    return np.asarray(fft.irfft2(disc * phase, (size, size))[:, :side, :side])


def gaussian_flux(stamps: Floats, variance: Floats, centres: Floats, moments: Floats) -> tuple[Floats, Floats, Floats]:
    """Fit the height of an elliptical Gaussian of known place and shape to each stamp.

    With G normalised to unit sum, f = sum(G I) / sum(G^2) and var f = sum(G^2 V) / sum(G^2)^2.

    Parameters
    ----------
    stamps, variance
        (n, k, k); NaN is no data.
    centres
        (n, 2) x and y off the central pixel [pixel].
    moments
        (n, 3) Ixx, Iyy, Ixy [pixel^2].

    Returns
    -------
    tuple of numpy.ndarray
        Flux, its error, and sum(G I) over sum(G): what of the source the Gaussian sees, for ratios of blended to
        deblended light. NaN where the moments are.
    """
    return _gaussian_flux(np.ascontiguousarray(stamps), np.ascontiguousarray(variance), centres, moments)


@njit(cache=True)
def _gaussian_flux(
    stamps: Floats, variance: Floats, centres: Floats, moments: Floats
) -> tuple[Floats, Floats, Floats]:
    n, side, _ = stamps.shape
    half = side // 2
    flux, error, seen = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
    for k in range(n):
        xx, yy, xy = moments[k]
        det = xx * yy - xy * xy
        if not (det > 0.0 and np.isfinite(centres[k, 0] + centres[k, 1])):
            continue
        total, power, signal, noise = 0.0, 0.0, 0.0, 0.0
        for a in range(side):
            v = a - half - centres[k, 1]
            for b in range(side):
                u = b - half - centres[k, 0]
                q = (yy * u * u - 2.0 * xy * u * v + xx * v * v) / det
                if q > 50.0:
                    continue
                g = np.exp(-0.5 * q)
                total += g
                if np.isfinite(stamps[k, a, b]) and np.isfinite(variance[k, a, b]):
                    power += g * g
                    signal += g * stamps[k, a, b]
                    noise += g * g * variance[k, a, b]
        if power > 0.0:
            # a Gaussian that leaves the stamp has its whole sum all the same
            whole = max(total, 2.0 * np.pi * np.sqrt(det))
            flux[k] = whole * signal / power
            error[k] = whole * np.sqrt(noise) / power
            seen[k] = signal / total
    return flux, error, seen


@njit(cache=True)
def kron_flux(
    residual: Floats,
    variance: Floats,
    stamps: Floats,
    flux: Floats,
    x: Floats,
    y: Floats,
    moments: Floats,
    reach: float,
    factor: float,
    smallest: Floats,
) -> tuple[Floats, Floats, Floats, Bools]:
    """Sum each source inside the ellipse that its own light sets, with the models of all others taken out.

    With rho the elliptical radius in units of the axes of the moments, the Kron radius is the mean of rho weighted by
    the light out to `reach`; the flux is the sum inside `factor` Kron radii (Kron 1980, ApJS 43, 305).

    Parameters
    ----------
    residual
        (ny, nx) image minus the point-source models of all sources; left as it is. NaN is no data.
    variance
        (ny, nx).
    stamps, flux
        (n, k, k) point-source models, normalised, about the pixel nearest to (x, y), and their fluxes.
    x, y
        (n,) places [pixel].
    moments
        (n, 3) Ixx, Iyy, Ixy [pixel^2].
    reach
        Outermost rho that counts for the Kron radius.
    factor
        Radius of the flux, in Kron radii.
    smallest
        (n,) least Kron radius: that of a point source in the same units, where the mean is below it or not defined.

    Returns
    -------
    tuple of numpy.ndarray
        Flux, error, Kron radius as that of a circle of the same area [pixel], and (n,) True where the radius was the
        smallest, the ellipse left the image or met pixels without data.
    """
    ny, nx = residual.shape
    n = x.size
    total, error, radius = np.full(n, np.nan), np.full(n, np.nan), np.full(n, np.nan)
    flag = np.ones(n, np.bool_)
    for k in range(n):
        xx, yy, xy = moments[k]
        det = xx * yy - xy * xy
        if not (det > 0.0 and np.isfinite(flux[k])):
            continue
        xi, yi = int(np.rint(x[k])), int(np.rint(y[k]))
        put_stamp(residual, stamps[k], flux[k], xi, yi)
        rho, doubtful = _kron_radius(residual, x[k], y[k], xx, yy, xy, reach)
        if not rho >= smallest[k]:
            rho, doubtful = smallest[k], True
        edge = factor * rho
        wide, high = int(np.ceil(edge * np.sqrt(xx) + 1.0)), int(np.ceil(edge * np.sqrt(yy) + 1.0))
        sums, noise = 0.0, 0.0
        for py in range(yi - high, yi + high + 1):
            for px in range(xi - wide, xi + wide + 1):
                part = _inside(px - x[k], py - y[k], yy / det, xx / det, -xy / det, edge)
                if part == 0.0:
                    continue
                if not (0 <= px < nx and 0 <= py < ny) or not np.isfinite(residual[py, px]):
                    doubtful = True
                    continue
                sums += part * residual[py, px]
                noise += part * part * variance[py, px]
        put_stamp(residual, stamps[k], -flux[k], xi, yi)
        total[k], error[k], flag[k] = sums, np.sqrt(noise), doubtful
        radius[k] = rho * det**0.25
    return total, error, radius, flag


@njit(cache=True)
def _kron_radius(
    image: Floats, x: float, y: float, xx: float, yy: float, xy: float, reach: float
) -> tuple[float, bool]:
    ny, nx = image.shape
    det = xx * yy - xy * xy
    wide, high = int(np.ceil(reach * np.sqrt(xx))), int(np.ceil(reach * np.sqrt(yy)))
    xi, yi = int(np.rint(x)), int(np.rint(y))
    light, first, doubtful = 0.0, 0.0, False
    for py in range(yi - high, yi + high + 1):
        for px in range(xi - wide, xi + wide + 1):
            u, v = px - x, py - y
            q = (yy * u * u - 2.0 * xy * u * v + xx * v * v) / det
            if q > reach * reach:
                continue
            if not (0 <= px < nx and 0 <= py < ny) or not np.isfinite(image[py, px]):
                doubtful = True
                continue
            light += image[py, px]
            first += np.sqrt(q) * image[py, px]
    if light <= 0.0 or first <= 0.0:
        return np.nan, True
    return first / light, doubtful


@njit(cache=True)
def _inside(u: float, v: float, ixx: float, iyy: float, ixy: float, edge: float) -> float:
    """Part of a pixel at (u, v) inside the ellipse of radius `edge`."""
    rho = np.sqrt(ixx * u * u + 2.0 * ixy * u * v + iyy * v * v)
    step = 0.7072 * np.sqrt(max(ixx, iyy) + abs(ixy))  # more than rho changes from the middle of a pixel to its corner
    if rho < edge - step:
        return 1.0
    if rho > edge + step:
        return 0.0
    count = 0
    for a in range(SUBPIXELS):
        dv = v + (a + 0.5) / SUBPIXELS - 0.5
        for b in range(SUBPIXELS):
            du = u + (b + 0.5) / SUBPIXELS - 0.5
            if ixx * du * du + 2.0 * ixy * du * dv + iyy * dv * dv <= edge * edge:
                count += 1
    return count / (SUBPIXELS * SUBPIXELS)
