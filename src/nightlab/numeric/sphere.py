"""Positions on the sphere: unit vectors and matching that survive the poles, the wrap at 360 degrees and NaN."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def unit_vectors(ra: ArrayLike, dec: ArrayLike) -> Floats:
    """Turn (n,) degrees into (n, 3) unit vectors."""
    a, d = np.deg2rad(np.asarray(ra, float)), np.deg2rad(np.asarray(dec, float))
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)


def radec_of(vectors: ArrayLike) -> tuple[Floats, Floats]:
    """Turn (n, 3) vectors of any length into degrees, right ascension in [0, 360)."""
    x, y, z = np.moveaxis(np.asarray(vectors, float), -1, 0)
    return np.rad2deg(np.arctan2(y, x)) % 360.0, np.rad2deg(np.arctan2(z, np.hypot(x, y)))


def separation(ra1: ArrayLike, dec1: ArrayLike, ra2: ArrayLike, dec2: ArrayLike) -> Floats:
    """Give the angle between positions pair by pair [arcsec]."""
    chord = np.linalg.norm(unit_vectors(ra1, dec1) - unit_vectors(ra2, dec2), axis=-1)
    return np.rad2deg(2.0 * np.arcsin(np.clip(chord / 2.0, 0.0, 1.0))) * 3600.0


def match(
    ra1: ArrayLike, dec1: ArrayLike, ra2: ArrayLike, dec2: ArrayLike, radius: float
) -> tuple[Ints, Ints, Floats]:
    """Pair positions one to one: each is the other's nearest neighbour, within a radius.

    Parameters
    ----------
    ra1, dec1, ra2, dec2
        (n,) and (m,) positions [deg]; NaN never matches.
    radius
        Largest separation [arcsec].

    Returns
    -------
    tuple of numpy.ndarray
        Indices into the first and second list, ascending in the first, and separations [arcsec].
    """
    a, b = unit_vectors(ra1, dec1).reshape(-1, 3), unit_vectors(ra2, dec2).reshape(-1, 3)
    good_a, good_b = (np.flatnonzero(np.isfinite(v).all(axis=1)) for v in (a, b))
    if not good_a.size or not good_b.size:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    limit = 2.0 * np.sin(np.deg2rad(radius / 3600.0) / 2.0)
    chord, nearest = cKDTree(b[good_b]).query(a[good_a], distance_upper_bound=limit)
    _, back = cKDTree(a[good_a]).query(b[good_b])
    close = np.isfinite(chord)
    mutual = close.copy()
    mutual[close] = back[nearest[close]] == np.flatnonzero(close)
    angle = np.rad2deg(2.0 * np.arcsin(np.clip(chord[mutual] / 2.0, 0.0, 1.0))) * 3600.0
    return good_a[mutual], good_b[nearest[mutual]], angle
