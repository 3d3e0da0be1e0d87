"""Point-source measurements on stamps, all sources at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from lsst.images.psfs import PointSpreadFunction
from numpy.typing import NDArray

from nightlab.images.psf import psf_stamps, shift_stamps

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]

_STEP = 0.05  # pixel, of numerical derivatives of the PSF


def cut(image: NDArray, x: Ints, y: Ints, half: int, fill: float) -> NDArray:
    """(n, 2h+1, 2h+1) stamps around pixels; `fill` beyond the edges."""
    reach = np.arange(-half, half + 1)
    rows, columns = y[:, None, None] + reach[None, :, None], x[:, None, None] + reach[None, None, :]
    ny, nx = image.shape
    inside = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
    stamps: NDArray = np.where(inside, image[np.clip(rows, 0, ny - 1), np.clip(columns, 0, nx - 1)], fill)
    return stamps


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Stamps of one image around all sources.

    Attributes
    ----------
    values, variance
        (n, k, k); variance is infinite where a pixel must not count.
    psf
        The image's PSF.
    x0, y0
        (n,) pixel in the middle of each stamp, array coordinates.
    offset
        (x, y) of the array's first pixel in the PSF's coordinates.
    """

    values: Floats
    variance: Floats
    psf: PointSpreadFunction
    x0: Ints
    y0: Ints
    offset: tuple[int, int]

    @classmethod
    def of(
        cls,
        image: Floats,
        variance: Floats,
        psf: PointSpreadFunction,
        x0: Ints,
        y0: Ints,
        half: int,
        offset: tuple[int, int],
    ) -> Plane:
        """Cut the stamps."""
        values, noise = cut(image, x0, y0, half, np.nan), cut(variance, x0, y0, half, np.nan)
        bad = ~(np.isfinite(values) & np.isfinite(noise) & (noise > 0))
        return cls(
            values=np.where(bad, 0.0, values).astype(float),
            variance=np.where(bad, np.inf, noise).astype(float),
            psf=psf,
            x0=x0,
            y0=y0,
            offset=offset,
        )

    def stars(self, x: Floats, y: Floats) -> Floats:
        """PSFs of unit flux at (n,) places, on the stamps."""
        size = self.values.shape[-1]
        wide = psf_stamps(self.psf, x + self.offset[0], y + self.offset[1], size=size, centred=True)
        return shift_stamps(wide, x - self.x0, y - self.y0)

    def slopes(self, x: Floats, y: Floats) -> tuple[Floats, Floats, Floats]:
        """PSFs of unit flux and their derivatives by x and y."""
        size = self.values.shape[-1]
        wide = psf_stamps(self.psf, x + self.offset[0], y + self.offset[1], size=size, centred=True)
        u, v = x - self.x0, y - self.y0
        by_x = (shift_stamps(wide, u + _STEP, v) - shift_stamps(wide, u - _STEP, v)) / (2 * _STEP)
        by_y = (shift_stamps(wide, u, v + _STEP) - shift_stamps(wide, u, v - _STEP)) / (2 * _STEP)
        return shift_stamps(wide, u, v), by_x, by_y


def centroids(plane: Plane, x: Floats, y: Floats, *, iterations: int = 8, limit: float = 2.5) -> tuple[Floats, ...]:
    """Fit flux and place of a point source to every stamp, unit weights within the PSF's core.

    Returns
    -------
    x, y, x_error, y_error
        (n,) places [pixel] and errors from the variance.
    failed
        (n,) True where the fit left the neighbourhood (the start is returned) or there is no signal.
    """
    start_x, start_y = x, y
    usable = np.isfinite(plane.variance)
    size = plane.values.shape[-1]
    reach = np.arange(size) - size // 2
    core = np.hypot(reach[:, None], reach[None, :]) <= 4.5
    weight = (usable & core[None]).astype(float)
    for _ in range(iterations):
        star, by_x, by_y = plane.slopes(x, y)
        rows = np.stack([star, by_x, by_y], axis=1) * weight[:, None]
        flat = rows.reshape(len(x), 3, size * size)
        normal = flat @ flat.transpose(0, 2, 1)
        normal = normal + np.eye(3) * 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] + np.eye(3) * 1e-30
        values = np.linalg.solve(
            normal, np.einsum("nap,np->na", flat, plane.values.reshape(len(x), size * size))[..., None]
        )
        flux = np.where(values[:, 0, 0] == 0, 1.0, values[:, 0, 0])
        x = np.clip(x + np.clip(values[:, 1, 0] / flux, -0.5, 0.5), start_x - limit, start_x + limit)
        y = np.clip(y + np.clip(values[:, 2, 0] / flux, -0.5, 0.5), start_y - limit, start_y + limit)
    star, by_x, by_y = plane.slopes(x, y)
    noise = np.where(usable, plane.variance, 0.0)
    errors = [
        np.sqrt((slope**2 * weight * noise).sum(axis=(1, 2)))
        / np.maximum((slope**2 * weight).sum(axis=(1, 2)) * np.abs(flux), 1e-30)
        for slope in (by_x, by_y)
    ]
    failed = (np.hypot(x - start_x, y - start_y) >= limit) | (weight.sum(axis=(1, 2)) < 9) | ~np.isfinite(flux)
    return np.where(failed, start_x, x), np.where(failed, start_y, y), errors[0], errors[1], failed


@dataclass(frozen=True, kw_only=True)
class PsfFlux:
    """PSF photometry at fixed places: (n,) flux and error, chi^2 with its number of pixels, and failures."""

    flux: Floats
    error: Floats
    chi2: Floats
    n_data: Ints
    failed: Bools


def psf_flux(plane: Plane, x: Floats, y: Floats) -> PsfFlux:
    """Unit-weight PSF photometry: sum(P I) / sum(P^2), error from sum(P^2 V); masked pixels are left out."""
    star = plane.stars(x, y)
    usable = np.isfinite(plane.variance)
    power = (star**2 * usable).sum(axis=(1, 2))
    failed = power < 0.5 * (star**2).sum(axis=(1, 2))
    power = np.where(failed, np.nan, power)
    noise = np.where(usable, plane.variance, 0.0)
    flux = (star * plane.values * usable).sum(axis=(1, 2)) / power
    error = np.sqrt((star**2 * noise).sum(axis=(1, 2))) / power
    residual = (plane.values - np.nan_to_num(flux)[:, None, None] * star) ** 2
    chi2 = np.where(usable, residual / np.where(usable, plane.variance, 1.0), 0.0).sum(axis=(1, 2))
    return PsfFlux(flux=flux, error=error, chi2=chi2, n_data=usable.sum(axis=(1, 2)), failed=failed)


def moments(plane: Plane, x: Floats, y: Floats, sigma: float) -> tuple[Floats, Floats, Floats, Bools]:
    """Second moments under a round Gaussian weight, with the weight divided out.

    For a Gaussian source of covariance M and a weight W the weighted moments are (M^-1 + W^-1)^-1; that is inverted.

    Returns
    -------
    ixx, iyy, ixy
        (n,) [pixel^2], NaN where undefined.
    failed
        (n,) True there.
    """
    size = plane.values.shape[-1]
    reach = np.arange(size) - size // 2
    u = reach[None, None, :] - (x - plane.x0)[:, None, None]
    v = reach[None, :, None] - (y - plane.y0)[:, None, None]
    scale = (1.5 * sigma) ** 2
    weighted = np.where(np.isfinite(plane.variance), plane.values, 0.0) * np.exp(-0.5 * (u**2 + v**2) / scale)
    total = weighted.sum(axis=(1, 2))
    safe = np.where(total == 0, np.nan, total)
    xx, yy, xy = ((weighted * w).sum(axis=(1, 2)) / safe for w in (u * u, v * v, u * v))
    det = xx * yy - xy**2
    with np.errstate(invalid="ignore", divide="ignore"):
        a, b, c = yy / det - 1 / scale, xx / det - 1 / scale, -xy / det
        inner = a * b - c**2
        ixx, iyy, ixy = b / inner, a / inner, -c / inner
        failed = ~((det > 0) & (inner > 0) & (ixx > 0) & (iyy > 0) & (xx > 0))
    return (*(np.where(failed, np.nan, m) for m in (ixx, iyy, ixy)), failed)


def sharper_than_psf(image: Floats, variance: Floats, x: Ints, y: Ints, sign: Floats, psf: Floats) -> Bools:
    """Peaks that fall off faster than any star could, as cosmic-ray hits do.

    The test of the brightest pixel against the means of its four pairs of opposite neighbours: along at least one
    direction the neighbours must lie below 0.35 of what the PSF allows, two standard deviations of both considered.

    Parameters
    ----------
    image, variance
        (ny, nx).
    x, y
        (n,) pixels near the peaks.
    sign
        (n,) +1 or -1.
    psf
        (k, k) PSF, centred on its middle pixel.
    """
    stamps = np.nan_to_num(cut(image, x, y, 2, 0.0)) * sign[:, None, None]
    noise = np.nan_to_num(cut(variance, x, y, 2, 0.0))
    inner = stamps[:, 1:4, 1:4].reshape(len(x), 9)
    best = inner.argmax(axis=1)
    row, column = best // 3 + 1, best % 3 + 1
    every = np.arange(len(x))
    peak, peak_error = stamps[every, row, column], np.sqrt(noise[every, row, column])
    middle = psf.shape[0] // 2
    sharp = np.zeros(len(x), bool)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        mean = 0.5 * (stamps[every, row + dy, column + dx] + stamps[every, row - dy, column - dx])
        error = 0.5 * np.sqrt(noise[every, row + dy, column + dx] + noise[every, row - dy, column - dx])
        pair = 0.5 * (psf[middle + dy, middle + dx] + psf[middle - dy, middle - dx]) / psf[middle, middle]
        sharp |= 0.35 * max(float(pair), 0.02) * (peak - 2 * peak_error) > mean + 2 * error
    return sharp
