"""Significance images, peaks of both signs, and long thin trails."""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
import scipy.ndimage as ndi
from numpy.typing import NDArray

from nightlab.numeric.convolution import convolve

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Local extrema of a significance image.

    Attributes
    ----------
    x, y
        (n,) pixels, of the strongest first.
    score
        (n,) signed significance [sigma].
    label
        (n,) footprint each belongs to, from 1.
    labels
        (ny, nx) footprints: significant pixels of either sign, grown and joined; 0 outside.
    """

    x: Ints
    y: Ints
    score: Floats
    label: Ints
    labels: NDArray[np.int32]


def significance(image: Floats, variance: Floats, good: Bools, psf: Floats) -> Floats:
    """Significance of a point source centred on each pixel.

    Parameters
    ----------
    image, variance
        (ny, nx) pixels of white noise and their variances.
    good
        (ny, nx) False where there is no data; such pixels count for nothing.
    psf
        (k, k) PSF image.

    Returns
    -------
    ndarray
        (ny, nx): (I * P) / sqrt(V * P^2), zero where not `good`.
    """
    flipped = psf[::-1, ::-1]
    signal = convolve(np.where(good, image, 0.0), flipped)
    middle = float(np.median(variance[good])) if good.any() else 1.0
    noise = convolve(np.where(good, variance, middle), flipped**2)
    noise = np.maximum(noise, 0.2 * middle * float((flipped**2).sum()))
    score: Floats = np.where(good, signal / np.sqrt(noise), 0.0)
    return score


def find_peaks(score: Floats, threshold: float, *, grow: int = 2, window: int = 5) -> Peaks:
    """Find extrema of both signs beyond `threshold`; footprints of either sign that touch after growing are one."""
    size = np.abs(score)
    labels, _ = ndi.label(ndi.binary_dilation(size > threshold, iterations=max(grow, 1)), structure=np.ones((3, 3)))
    top = (score > threshold) & (score == ndi.maximum_filter(score, window))
    bottom = (score < -threshold) & (score == ndi.minimum_filter(score, window))
    y, x = np.nonzero(top | bottom)
    order = np.lexsort((x, y, -size[y, x]))
    y, x = y[order], x[order]
    return Peaks(x=x, y=y, score=score[y, x], label=labels[y, x].astype(np.intp), labels=labels.astype(np.int32))


@nb.njit(cache=True)
def group_peaks(x, y, score, label, radius, dipole_radius, min_ratio, min_score):  # type: ignore[no-untyped-def]
    """Reduce the peaks of every footprint to sources: dipoles first, then what stands apart.

    Peaks come strongest first. A peak and the nearest strong one of the other sign in the same footprint make a dipole
    when they are within `dipole_radius`, of comparable strength, and together significant. Any other peak within
    `radius` of a stronger one of its footprint belongs to that one.

    Returns
    -------
    partner : (n,) index of the other lobe for the stronger lobe of a dipole, else -1
    keep : (n,) True for peaks that become sources
    """
    n = len(x)
    partner = np.full(n, -1)
    taken = np.zeros(n, np.bool_)
    keep = np.zeros(n, np.bool_)
    for i in range(n):
        if taken[i]:
            continue
        taken[i] = True
        keep[i] = True
        best, nearest = -1, dipole_radius
        for j in range(i + 1, n):
            if taken[j] or label[j] != label[i] or score[i] * score[j] > 0:
                continue
            distance = np.hypot(float(x[i] - x[j]), float(y[i] - y[j]))
            strong = abs(score[j]) >= min_ratio * abs(score[i])
            together = np.hypot(score[i], score[j]) > min_score
            if distance <= nearest and strong and together:
                best, nearest = j, distance
        if best >= 0:
            partner[i] = best
            taken[best] = True
        for j in range(i + 1, n):
            if taken[j] or label[j] != label[i]:
                continue
            near = np.hypot(float(x[i] - x[j]), float(y[i] - y[j])) <= radius
            if best >= 0:
                near = near or np.hypot(float(x[best] - x[j]), float(y[best] - y[j])) <= radius
            if near:
                taken[j] = True
    return partner, keep


def streaks(
    score: Floats, veto: Bools, *, threshold: float = 3.0, min_length: float = 40.0, max_width: float = 8.0
) -> Bools:
    """Pixels of long thin features.

    Connected pixels beyond `threshold` (one sign at a time) whose second moments are those of a line at least
    `min_length` long and at most `max_width` wide are marked, with all pixels of that line between its ends.

    Parameters
    ----------
    score
        (ny, nx) significance.
    veto
        (ny, nx) pixels of saturated stars; a feature that touches them is a diffraction spike or bleed, not a trail.
    threshold
        Significance of a pixel [sigma].
    min_length, max_width
        Limits [pixel].
    """
    found = np.zeros(score.shape, bool)
    for sign in (1, -1):
        labels, n = ndi.label(sign * score > threshold, structure=np.ones((3, 3)))
        if n == 0:
            continue
        counts = np.bincount(labels.ravel(), minlength=n + 1)
        large = counts >= min_length
        large[0] = False
        large[np.unique(labels[veto])] = False
        y, x = np.nonzero(large[labels])
        if len(x) == 0:
            continue
        index = labels[y, x]
        mean_x, mean_y = (np.bincount(index, v, n + 1) / np.maximum(counts, 1) for v in (x, y))
        u, v = x - mean_x[index], y - mean_y[index]
        xx, yy, xy = (np.bincount(index, w, n + 1) / np.maximum(counts, 1) for w in (u * u, v * v, u * v))
        trace, root = 0.5 * (xx + yy), np.hypot(0.5 * (xx - yy), xy)
        length, width = np.sqrt(12 * (trace + root)), np.sqrt(12 * np.maximum(trace - root, 0))
        lines = np.flatnonzero(large & (length >= min_length) & (width <= max_width))
        angle = 0.5 * np.arctan2(2 * xy, xx - yy)
        found |= _painted(score.shape, mean_x[lines], mean_y[lines], angle[lines], length[lines], width[lines])
    return found


@nb.njit(cache=True)
def _painted(shape, x, y, angle, length, width):  # type: ignore[no-untyped-def]
    out = np.zeros(shape, np.bool_)
    for n in range(len(x)):
        c, s = np.cos(angle[n]), np.sin(angle[n])
        reach = 0.5 * length[n] + 2
        half = 0.5 * width[n] + 1
        side = reach + half
        for i in range(max(0, int(y[n] - side)), min(shape[0], int(y[n] + side) + 2)):
            for j in range(max(0, int(x[n] - side)), min(shape[1], int(x[n] + side) + 2)):
                u, v = j - x[n], i - y[n]
                if abs(u * c + v * s) <= reach and abs(v * c - u * s) <= half:
                    out[i, j] = True
    return out
