"""Adaptive moments of many stamps at once."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def adaptive_moments(
    stamps: Floats, dx: Floats, dy: Floats, *, guess: float, max_shift: float = 2.0, max_iterations: int = 100
) -> tuple[Floats, Floats, Bools]:
    """Match an elliptical Gaussian to each stamp and give its second moments.

    The weight is a Gaussian of covariance M about the current centre; with M_w the moments under that weight, M is
    replaced by (M_w^-1 - M^-1)^-1 until it no longer changes, when M_w = M / 2 (Bernstein & Jarvis 2002, AJ 123, 583;
    Hirata & Seljak 2003, MNRAS 343, 459).

    Parameters
    ----------
    stamps
        (n, k, k) background-subtracted pixels; NaN is no data.
    dx, dy
        (n,) first guess of the centre, off the centre pixel [pixel].
    guess
        First guess of the Gaussian sigma [pixel].
    max_shift
        Farthest the centre may walk [pixel].
    max_iterations
        Of the fixed-point iteration.

    Returns
    -------
    tuple of numpy.ndarray
        (n, 3) Ixx, Iyy, Ixy [pixel^2]; (n, 2) centre x, y off the centre pixel; (n,) True where it did not converge,
        and then both are NaN.
    """
    return _adaptive_moments(
        np.ascontiguousarray(stamps, dtype=np.float64), dx, dy, guess**2, max_shift, max_iterations
    )


@njit(cache=True)
def _adaptive_moments(
    stamps: Floats, dx: Floats, dy: Floats, start: float, max_shift: float, max_iterations: int
) -> tuple[Floats, Floats, Bools]:
    n_stamps, side, _ = stamps.shape
    moments = np.full((n_stamps, 3), np.nan)
    centres = np.full((n_stamps, 2), np.nan)
    failed = np.ones(n_stamps, np.bool_)
    for n in range(n_stamps):
        cx, cy = dx[n], dy[n]
        xx, yy, xy = start, start, 0.0
        for _ in range(max_iterations):
            det = xx * yy - xy * xy
            if not (det > 1e-4 and xx > 0.0 and xx + yy < 0.25 * side * side):
                break
            s0, sx, sy, wxx, wyy, wxy = _weighted_sums(stamps[n], cx, cy, yy / det, xx / det, -xy / det)
            if s0 <= 0.0:
                break
            mx, my = sx / s0, sy / s0
            wxx, wyy, wxy = wxx / s0 - mx * mx, wyy / s0 - my * my, wxy / s0 - mx * my
            wdet = wxx * wyy - wxy * wxy
            if not (wdet > 0.0 and wxx > 0.0):
                break
            # the inverse of the new matrix, then the matrix
            ixx = wyy / wdet - yy / det
            iyy = wxx / wdet - xx / det
            ixy = -wxy / wdet + xy / det
            idet = ixx * iyy - ixy * ixy
            if not (idet > 0.0 and ixx > 0.0):
                break
            new_xx, new_yy, new_xy = iyy / idet, ixx / idet, -ixy / idet
            cx, cy = cx + 2.0 * mx, cy + 2.0 * my
            if (cx - dx[n]) ** 2 + (cy - dy[n]) ** 2 > max_shift**2:
                break
            change = abs(new_xx - xx) + abs(new_yy - yy) + abs(new_xy - xy)
            done = change < 1e-6 * (xx + yy) and mx * mx + my * my < 1e-10
            xx, yy, xy = new_xx, new_yy, new_xy
            if done:
                moments[n, 0], moments[n, 1], moments[n, 2] = xx, yy, xy
                centres[n, 0], centres[n, 1] = cx, cy
                failed[n] = False
                break
    return moments, centres, failed


@njit(cache=True)
def _weighted_sums(
    stamp: Floats, cx: float, cy: float, ixx: float, iyy: float, ixy: float
) -> tuple[float, float, float, float, float, float]:
    side = stamp.shape[0]
    half = side // 2
    s0 = sx = sy = sxx = syy = sxy = 0.0
    for a in range(side):
        v = a - half - cy
        for b in range(side):
            u = b - half - cx
            q = ixx * u * u + 2.0 * ixy * u * v + iyy * v * v
            if q > 32.0 or not np.isfinite(stamp[a, b]):
                continue
            w = np.exp(-0.5 * q) * stamp[a, b]
            s0 += w
            sx += w * u
            sy += w * v
            sxx += w * u * u
            syy += w * v * v
            sxy += w * u * v
    return s0, sx, sy, sxx, syy, sxy


@njit(cache=True)
def moment_errors(variance: Floats, centres: Floats, moments: Floats, flux: Floats) -> Floats:
    """Propagate pixel noise into adaptive moments.

    Adaptive moments are those of the elliptical Gaussian that fits the pixels best, all pixels weighted alike
    (Bernstein & Jarvis 2002, AJ 123, 583). With D the derivatives of that Gaussian by its flux, place and moments, the
    covariance is N^-1 (sum D V D) N^-1 with N = sum(D D).

    Parameters
    ----------
    variance
        (n, k, k) variance; NaN is no data.
    centres
        (n, 2) x and y off the centre pixel [pixel].
    moments
        (n, 3) Ixx, Iyy, Ixy [pixel^2].
    flux
        (n,) flux of the Gaussian.

    Returns
    -------
    numpy.ndarray
        (n, 3) errors of Ixx, Iyy, Ixy [pixel^2]; NaN where the moments are, or there is no flux or no data.
    """
    n, side, _ = variance.shape
    half = side // 2
    errors = np.full((n, 3), np.nan)
    d = np.empty(6)
    for k in range(n):
        xx, yy, xy = moments[k]
        det = xx * yy - xy * xy
        if not (det > 0.0 and flux[k] > 0.0):
            continue
        normal, noise = np.zeros((6, 6)), np.zeros((6, 6))
        for a in range(side):
            v = a - half - centres[k, 1]
            for b in range(side):
                u = b - half - centres[k, 0]
                # M^-1 r, whose parts are all that the derivatives need
                p, q = (yy * u - xy * v) / det, (xx * v - xy * u) / det
                rho = u * p + v * q
                if rho > 40.0 or not np.isfinite(variance[k, a, b]):
                    continue
                g = np.exp(-0.5 * rho) / (2.0 * np.pi * np.sqrt(det))
                d[0] = flux[k] * g  # by the logarithm of the flux, so that all are of one scale
                d[1], d[2] = flux[k] * g * p, flux[k] * g * q
                d[3] = 0.5 * flux[k] * g * (p * p - yy / det)
                d[4] = 0.5 * flux[k] * g * (q * q - xx / det)
                d[5] = flux[k] * g * (p * q + xy / det)
                for i in range(6):
                    for j in range(6):
                        normal[i, j] += d[i] * d[j]
                        noise[i, j] += d[i] * d[j] * variance[k, a, b]
        if not np.linalg.cond(normal) < 1e12:
            continue
        inverse = np.linalg.inv(normal)
        covariance = inverse @ noise @ inverse
        for i in range(3):
            errors[k, i] = np.sqrt(covariance[3 + i, 3 + i])
    return errors
