"""Detection: the image correlated with its PSF, in units of its own noise, and the peaks that stand out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numba import njit
from pydantic import Field
from scipy import fft
from scipy.ndimage import maximum_filter

from nightlab.config import Config
from nightlab.numeric.photometry import grow, resized_stamps
from nightlab.numeric.statistics import robust_width
from nightlab.stages.single_frame.frame import Bools, Floats, Ints

FEWEST_SKY = 50  # places of sky that say anything about its noise


class DetectConfig(Config):
    """Knobs of source detection."""

    threshold: float = Field(default=5.0, gt=0, description="matched-filter significance of a detection [sigma]")
    kernel_width: float = Field(
        default=3.5, gt=0, description="half width of the filter, in units of the PSF's Gaussian sigma"
    )
    grow: float = Field(
        default=2.4, ge=0, description="growth of the DETECTED plane, in units of the PSF's Gaussian sigma"
    )
    polarity: Literal["positive", "both"] = Field(
        default="positive", description="whether holes are detected too; they get footprints, and are not measured"
    )
    sky_sources: int = Field(
        default=10_000,
        ge=0,
        description="places of empty sky whose PSF fluxes set the scale of the threshold and the level of the sky; "
        "0 for the variance plane alone",
    )


@dataclass(frozen=True, kw_only=True)
class SkySources:
    """PSF fluxes, in units of their errors, at places where nothing was detected.

    Attributes
    ----------
    x, y
        (n,) positions on the array [pixel].
    snr
        (n,) flux over error.
    scale
        Their robust width, within 0.1 and 10: what the noise is in units of what the variance plane says; 1 when there
        are too few.
    offset
        Their median: how far off the level of the sky is [sigma of a PSF flux].
    """

    x: Ints
    y: Ints
    snr: Floats
    scale: float
    offset: float

    def metrics(self) -> dict[str, float | None]:
        """Give scale and offset under the names of their metrics; None when there were too few places."""
        enough = self.snr.size >= FEWEST_SKY
        return {
            "sky_source_noise_ratio": self.scale if enough else None,
            "sky_source_offset": self.offset if enough else None,
        }


@dataclass(frozen=True, kw_only=True)
class Peaks:
    """Local maxima of the significance.

    Attributes
    ----------
    x, y
        (n,) positions on the array, refined by a parabola [pixel].
    significance
        (n,) height [sigma].
    detected
        (ny, nx), True in the grown regions.
    """

    x: Floats
    y: Floats
    significance: Floats
    detected: Bools


def significance(pixels: Floats, good: Bools, sky_variance: Floats, kernel: Floats) -> Floats:
    """Correlate with the PSF and divide by the noise of the sky.

    S = (I * P) / sqrt(V (sum P^2 over pixels at hand)), the optimal test for a faint point source in white noise.
    Pixels beyond the edge count as blank sky, so a source that the edge cuts must be brighter to be seen.
    The noise is that of the sky, not of the sources, so that a faint neighbour of a bright star is found as well.

    Parameters
    ----------
    pixels
        (ny, nx) sky-subtracted image.
    good
        (ny, nx), False where a pixel must not count.
    sky_variance
        (ny, nx) variance of the sky.
    kernel
        (k, k) PSF, k odd.
    """
    filled = np.where(good, pixels, 0.0).astype(np.float32)
    signal = _correlate(filled, kernel.astype(np.float32))
    power = np.full(pixels.shape, (kernel**2).sum())
    _take_missing(power, good, kernel[::-1, ::-1] ** 2)
    return np.asarray(signal / np.sqrt(sky_variance * np.maximum(power, 0.05 * (kernel**2).sum())))


def sky_sources(seen: Floats, empty: Bools, n: int, seed: int) -> SkySources:
    """Look at places of empty sky.

    Parameters
    ----------
    seen
        (ny, nx) from `significance`: each pixel is the PSF flux of a source there over its error.
    empty
        (ny, nx), True where neither source nor defect is near.
    n
        Places wanted, chosen at random.
    seed
        Of the choice.
    """
    place = np.flatnonzero(empty)
    rng = np.random.default_rng(seed)
    place = np.sort(rng.choice(place, min(n, place.size), replace=False)) if place.size else place
    y, x = np.unravel_index(place, empty.shape)
    snr = seen[y, x]
    if snr.size < FEWEST_SKY:
        return SkySources(x=x, y=y, snr=snr, scale=1.0, offset=0.0)
    return SkySources(
        x=x, y=y, snr=snr, scale=float(np.clip(robust_width(snr), 0.1, 10.0)), offset=float(np.median(snr))
    )


def find_peaks(significance_map: Floats, threshold: float, radius: float) -> Peaks:
    """Find the local maxima above a threshold.

    Parameters
    ----------
    significance_map
        (ny, nx) from `significance`.
    threshold
        Lowest peak [sigma].
    radius
        Growth of the detected regions [pixel].
    """
    above = significance_map > threshold
    top = above & (significance_map == maximum_filter(significance_map, size=3, mode="nearest"))
    top[[0, -1], :] = False
    top[:, [0, -1]] = False
    y, x = np.nonzero(top)
    centre = significance_map[y, x]

    def vertex(low: Floats, high: Floats) -> Floats:
        curve = low - 2.0 * centre + high
        return np.where(curve < 0, np.clip(0.5 * (low - high) / np.where(curve < 0, curve, -1.0), -0.5, 0.5), 0.0)

    dx = vertex(significance_map[y, x - 1], significance_map[y, x + 1])
    dy = vertex(significance_map[y - 1, x], significance_map[y + 1, x])
    return Peaks(
        x=x + dx,
        y=y + dy,
        significance=centre,
        detected=grow(above, radius),
    )


def trim_kernel(stamp: Floats, half: int) -> Floats:
    """Cut a (k, k) PSF down to a half width and normalise it to 1."""
    cut = resized_stamps(stamp, min(half, stamp.shape[0] // 2))
    return cut / cut.sum()


def _correlate(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    half = kernel.shape[0] // 2
    shape = [fft.next_fast_len(n + 2 * half, real=True) for n in image.shape]
    product = fft.rfft2(image, shape) * fft.rfft2(kernel[::-1, ::-1], shape)
    full = fft.irfft2(product, shape)
    return full[half : half + image.shape[0], half : half + image.shape[1]]


@njit(cache=True)
def _take_missing(power: Floats, good: Bools, squared: Floats) -> None:
    """Subtract from each pixel the squared kernel that falls on missing pixels, in place."""
    ny, nx = power.shape
    half = squared.shape[0] // 2
    for y in range(ny):
        for x in range(nx):
            if good[y, x]:
                continue
            for a in range(max(0, half - y), min(2 * half + 1, ny - y + half)):
                for b in range(max(0, half - x), min(2 * half + 1, nx - x + half)):
                    power[y - half + a, x - half + b] -= squared[a, b]
