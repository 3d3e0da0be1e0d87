"""Fluxes of many sources at once: stamps, PSF sums, apertures and the simultaneous fit of overlapping stars.

Sources are rows, pixels are [y, x]; a stamp of odd side k is centred on the pixel nearest to its source. Pixels that
are NaN or lie outside the image are no data: every sum leaves them out.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
SUBPIXELS = 10  # per side, for pixels cut by the rim of an aperture


@njit(cache=True)
def cut_stamps(image: Floats, xi: Ints, yi: Ints, half: int) -> Floats:
    """Cut square stamps out of an image.

    Parameters
    ----------
    image
        (ny, nx) pixels.
    xi, yi
        (n,) centre pixels.
    half
        Half width; the side is 2 half + 1.

    Returns
    -------
    numpy.ndarray
        (n, k, k), NaN outside the image.
    """
    ny, nx = image.shape
    side = 2 * half + 1
    stamps = np.full((xi.size, side, side), np.nan)
    for n in range(xi.size):
        for a in range(max(0, half - yi[n]), min(side, ny - yi[n] + half)):
            for b in range(max(0, half - xi[n]), min(side, nx - xi[n] + half)):
                stamps[n, a, b] = image[yi[n] - half + a, xi[n] - half + b]
    return stamps


def resized_stamps[T: np.generic](stamps: NDArray[T], half: int) -> NDArray[T]:
    """Cut (..., k, k) stamps down to a half width, or pad them with zeros up to it, about their middle."""
    own = stamps.shape[-1] // 2
    if own >= half:
        return stamps[..., own - half : own + half + 1, own - half : own + half + 1]
    around = [(0, 0)] * (stamps.ndim - 2) + [(half - own, half - own)] * 2
    return np.pad(stamps, around)


@njit(cache=True)
def add_stamps(image: Floats, stamps: Floats, weight: Floats, xi: Ints, yi: Ints) -> None:
    """Add `weight` times each (k, k) stamp into `image`, in place; what falls outside is lost."""
    ny, nx = image.shape
    half = stamps.shape[1] // 2
    side = 2 * half + 1
    for n in range(xi.size):
        if not np.isfinite(weight[n]):
            continue
        for a in range(max(0, half - yi[n]), min(side, ny - yi[n] + half)):
            for b in range(max(0, half - xi[n]), min(side, nx - xi[n] + half)):
                image[yi[n] - half + a, xi[n] - half + b] += weight[n] * stamps[n, a, b]


def psf_flux(stamps: Floats, variance: Floats, psf: Floats) -> tuple[Floats, Floats, Ints]:
    """Give the flux of a point source in each stamp, every pixel weighted alike.

    f = sum(P I) / sum(P^2) and var f = sum(P^2 V) / sum(P^2)^2 over the pixels with data. Unlike inverse-variance
    weights, these do not depend on the brightness of the source, so that an imperfect P biases all fluxes alike.

    Parameters
    ----------
    stamps, variance, psf
        (n, k, k) each; NaN in `stamps` or `variance` is no data; `psf` sums to 1.

    Returns
    -------
    tuple of numpy.ndarray
        Flux, its error, and the number of pixels used; NaN where there is none.
    """
    good = np.isfinite(stamps) & np.isfinite(variance)
    p = np.where(good, psf, 0.0)
    norm = np.einsum("nij,nij->n", p, p)
    norm = np.where(norm > 0, norm, np.nan)
    flux = np.einsum("nij,nij->n", p, np.where(good, stamps, 0.0)) / norm
    error = np.sqrt(np.einsum("nij,nij->n", p * p, np.where(good, variance, 0.0))) / norm
    return flux, error, good.sum(axis=(1, 2))


@njit(cache=True)
def aperture_flux(image: Floats, variance: Floats, x: Floats, y: Floats, radius: float) -> tuple[Floats, Floats, Ints]:
    """Sum circular apertures; pixels cut by the rim count by the area inside, to 1/100 of a pixel.

    Parameters
    ----------
    image, variance
        (ny, nx) pixels.
    x, y
        (n,) centres [pixel].
    radius
        Aperture radius [pixel].

    Returns
    -------
    tuple of numpy.ndarray
        Flux, its error, and the number of pixels touched that have no data (NaN or outside the image).
    """
    ny, nx = image.shape
    flux = np.full(x.size, np.nan)
    error = np.full(x.size, np.nan)
    missing = np.zeros(x.size, np.int64)
    reach = int(np.ceil(radius + 0.5))
    for n in range(x.size):
        if not (np.isfinite(x[n]) and np.isfinite(y[n])):
            continue
        cx, cy = int(np.rint(x[n])), int(np.rint(y[n]))
        total, noise, touched = 0.0, 0.0, 0
        for py in range(cy - reach, cy + reach + 1):
            for px in range(cx - reach, cx + reach + 1):
                part = _overlap(px - x[n], py - y[n], radius)
                if part == 0.0:
                    continue
                inside = 0 <= px < nx and 0 <= py < ny
                if not inside or not np.isfinite(image[py, px]):
                    missing[n] += 1
                    continue
                touched += 1
                total += part * image[py, px]
                noise += part * part * variance[py, px]
        if touched > 0:
            flux[n], error[n] = total, np.sqrt(noise)
    return flux, error, missing


@njit(cache=True)
def _overlap(dx: float, dy: float, radius: float) -> float:
    distance = np.sqrt(dx * dx + dy * dy)
    if distance < radius - 0.7072:
        return 1.0
    if distance > radius + 0.7072:
        return 0.0
    count = 0
    for a in range(SUBPIXELS):
        v = dy + (a + 0.5) / SUBPIXELS - 0.5
        for b in range(SUBPIXELS):
            u = dx + (b + 0.5) / SUBPIXELS - 0.5
            if u * u + v * v <= radius * radius:
                count += 1
    return count / (SUBPIXELS * SUBPIXELS)


def aperture_fraction(stamps: Floats, dx: Floats, dy: Floats, radius: float) -> Floats:
    """Give the part of each (n, k, k) stamp's sum inside a circle `dx`, `dy` off its centre pixel."""
    return _stamp_apertures(stamps, dx, dy, radius)


@njit(cache=True)
def _stamp_apertures(stamps: Floats, dx: Floats, dy: Floats, radius: float) -> Floats:
    n_stamps, side, _ = stamps.shape
    half = side // 2
    total = np.zeros(n_stamps)
    for n in range(n_stamps):
        for a in range(side):
            for b in range(side):
                part = _overlap(b - half - dx[n], a - half - dy[n], radius)
                if part > 0.0:
                    total[n] += part * stamps[n, a, b]
    return total


@njit(cache=True)
def sweep_point_sources(
    residual: Floats, psf: Floats, x: Floats, y: Floats, flux: Floats, order: Ints, radius: float
) -> tuple[Floats, Floats]:
    """Refine fluxes and positions of overlapping point sources by one Gauss-Seidel sweep.

    Each source in turn is put back into the residual image and fitted by least squares with its PSF and the two
    derivatives of it inside `radius` (with a rim of one pixel where weights fall to zero, lest the fit jump when a
    source crosses the edge of a pixel); its new model is taken out again before the next one is looked at, so that
    repeated sweeps converge to the simultaneous fit (Stetson 1987, PASP 99, 191 solves the same equations in groups).

    Parameters
    ----------
    residual
        (ny, nx) image minus all models; updated in place. NaN is no data.
    psf
        (n, k, k) PSF of each source at its place, on stamps about the nearest pixel; k must exceed 2 radius + 2.
    x, y
        (n,) positions [pixel].
    flux
        (n,) fluxes; updated in place.
    order
        Order in which the sources are visited.
    radius
        Of the pixels fitted [pixel].

    Returns
    -------
    tuple of numpy.ndarray
        Steps in x and y that the fit asks for [pixel]; NaN when it is singular. Positions are the caller's.
    """
    ny, nx = residual.shape
    half = psf.shape[1] // 2
    reach = min(int(np.ceil(radius + 1.0)), half - 1)
    step_x = np.full(x.size, np.nan)
    step_y = np.full(x.size, np.nan)
    normal = np.empty((3, 3))
    right = np.empty(3)
    t = np.empty(3)
    for n in order:
        p = psf[n]
        xi, yi = int(np.rint(x[n])), int(np.rint(y[n]))
        normal[:] = 0.0
        right[:] = 0.0
        for a in range(-reach, reach + 1):
            py = yi + a
            if py < 0 or py >= ny:
                continue
            for b in range(-reach, reach + 1):
                px = xi + b
                weight = min(1.0, radius + 0.5 - np.sqrt((px - x[n]) ** 2 + (py - y[n]) ** 2))
                if px < 0 or px >= nx or weight <= 0.0 or not np.isfinite(residual[py, px]):
                    continue
                t[0] = p[half + a, half + b]
                t[1] = 0.5 * (p[half + a, half + b - 1] - p[half + a, half + b + 1])
                t[2] = 0.5 * (p[half + a - 1, half + b] - p[half + a + 1, half + b])
                datum = residual[py, px] + flux[n] * t[0]
                for i in range(3):
                    right[i] += weight * t[i] * datum
                    for j in range(3):
                        normal[i, j] += weight * t[i] * t[j]
        if normal[0, 0] <= 0.0 or abs(np.linalg.det(normal)) < 1e-12 * normal[0, 0] ** 3:
            continue
        solution = np.linalg.solve(normal, right)
        new = solution[0]
        if new > 0.0:
            step_x[n], step_y[n] = solution[1] / new, solution[2] / new
        put_stamp(residual, p, flux[n] - new, xi, yi)
        flux[n] = new
    return step_x, step_y


@njit(cache=True)
def put_stamp(image: Floats, stamp: Floats, weight: float, x: int, y: int) -> None:
    """Add `weight` times one (k, k) stamp into `image` about pixel (x, y), in place."""
    ny, nx = image.shape
    half = stamp.shape[0] // 2
    side = 2 * half + 1
    for a in range(max(0, half - y), min(side, ny - y + half)):
        for b in range(max(0, half - x), min(side, nx - x + half)):
            image[y - half + a, x - half + b] += weight * stamp[a, b]


def centroid_errors(variance: Floats, psf: Floats, flux: Floats) -> tuple[Floats, Floats]:
    """Propagate pixel noise into the position of an unweighted PSF fit.

    With D_x = f dP/dx, var x = sum(D_x^2 V) / sum(D_x^2)^2 over the pixels with data.

    Parameters
    ----------
    variance, psf
        (n, k, k) variance (NaN is no data) and PSF of each source.
    flux
        (n,) fluxes.

    Returns
    -------
    tuple of numpy.ndarray
        Errors of x and y [pixel]; NaN when there is no flux or no data.
    """
    noise = np.where(np.isfinite(variance), variance, 0.0)
    errors = []
    for axis in (2, 1):
        slope = np.where(np.isfinite(variance), np.gradient(psf, axis=axis), 0.0)
        norm = np.einsum("nij,nij->n", slope, slope)
        spread = np.sqrt(np.einsum("nij,nij->n", slope**2, noise))
        usable = (norm > 0) & (flux > 0)
        errors.append(np.where(usable, spread / np.where(usable, norm * flux, 1.0), np.nan))
    return errors[0], errors[1]


@njit(cache=True)
def grow(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Give all pixels within `radius` of a True pixel of a (ny, nx) mask [pixel]."""
    ny, nx = mask.shape
    out = mask.copy()
    reach = int(np.floor(radius))
    for y in range(ny):
        for x in range(nx):
            if not mask[y, x]:
                continue
            buried = (
                0 < y < ny - 1
                and 0 < x < nx - 1
                and mask[y - 1, x]
                and mask[y + 1, x]
                and mask[y, x - 1]
                and mask[y, x + 1]
            )
            if buried:  # its neighbours reach farther than it does
                continue
            for a in range(max(0, y - reach), min(ny, y + reach + 1)):
                for b in range(max(0, x - reach), min(nx, x + reach + 1)):
                    if (a - y) ** 2 + (b - x) ** 2 <= radius * radius:
                        out[a, b] = True
    return out
