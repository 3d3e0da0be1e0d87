"""Cosmic rays: pixels that rise more sharply than any star can."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numba import njit
from pydantic import Field
from scipy.ndimage import label

from nightlab.config import Config
from nightlab.errors import BadInput
from nightlab.stages.single_frame.frame import Bools, Floats, Frame
from nightlab.stages.single_frame.isr import interpolate_pixels


class CosmicRayConfig(Config):
    """Knobs of the cosmic-ray finder."""

    enabled: bool = Field(default=True, description="False leaves the frame alone")
    redo: bool = Field(
        default=False, description="search again where the instrument already delivered a cosmic-ray mask"
    )
    threshold: float = Field(default=6.0, gt=0, description="height of a seed pixel above the sky [sigma]")
    min_electrons: float = Field(default=150.0, ge=0, description="height of a seed pixel above the sky [electron]")
    noise_margin: float = Field(
        default=2.0, ge=0, description="errors by which a pixel must beat the PSF's sharpness [sigma]"
    )
    sharpness: float = Field(
        default=0.35, gt=0, le=1, description="part of the PSF's own neighbour-to-centre ratio that is still a star"
    )
    neighbour_margin: float = Field(
        default=1.0, ge=0, description="`noise_margin` for the neighbours of what was found [sigma]"
    )
    neighbour_sharpness: float = Field(
        default=0.5, gt=0, le=1, description="`sharpness` for the neighbours of what was found"
    )
    passes: int = Field(
        default=6, ge=0, description="rounds of looking for contaminated neighbours at half the threshold"
    )
    max_pixels: int = Field(default=1_000_000, gt=0, description="more contaminated pixels than this are an error")
    max_fraction: float = Field(
        default=0.1, gt=0, le=1, description="a larger part of the pixels contaminated is an error as well"
    )


def remove_cosmic_rays(frame: Frame, psf: Floats, config: CosmicRayConfig) -> tuple[Frame, int]:
    """Find, mask and interpolate cosmic rays on a sky-subtracted frame.

    A seed is higher than the sky by `threshold` sigma and `min_electrons`, and sharper than the PSF along at least one
    of the four directions through it: r (P - c dP) > m + c dm, where m is the mean of the opposite pair of neighbours,
    dP and dm are errors, c is `noise_margin` and r is `sharpness` times the ratio of the PSF's own neighbours to its
    centre. (This is the third condition of the SDSS photometric pipeline, as the Rubin pipelines use it.) P and m may
    also be taken over the light around the pixel, so that rays on galaxies and in the wings of stars are seen: over
    the lower quartile of the 16 pixels two rows or columns away, which P must then exceed by `threshold` sigma.

    Neighbours of what was found are judged with half the threshold, `neighbour_margin` and `neighbour_sharpness`.

    Parameters
    ----------
    frame
        Sky-subtracted frame.
    psf
        (k, k) PSF in the middle of the frame.
    config
        Knobs.

    Returns
    -------
    tuple
        The frame with COSMIC_RAY and INTERPOLATED set and the pixels filled, and the number of cosmic rays.

    Raises
    ------
    BadInput
        When more than `max_pixels` pixels, or more than `max_fraction` of them, are hit.
    """
    if not config.enabled or ("COSMIC_RAY" in frame.planes and not config.redo):
        known = frame.planes.get("COSMIC_RAY")
        return frame, int(label(known, np.ones((3, 3)))[1]) if known is not None else 0
    open_to_search = frame.usable & ~frame.flagged("SATURATED", "INTERPOLATED")
    ratios = _neighbour_ratios(psf)
    floor = config.min_electrons / frame.gain if np.isfinite(frame.gain) else 0.0
    sigma = np.sqrt(frame.variance)
    sky_sigma = np.sqrt(np.median(frame.variance[open_to_search])) if open_to_search.any() else np.inf
    hit = _sharp_pixels(
        frame.pixels,
        sigma,
        open_to_search,
        open_to_search,
        max(config.threshold * sky_sigma, floor),
        config.threshold,
        config.sharpness * ratios,
        config.noise_margin,
    )
    pixels = interpolate_pixels(frame.pixels, hit)
    for _ in range(config.passes):
        near = _neighbours(hit) & open_to_search & ~hit
        more = _sharp_pixels(
            pixels,
            sigma,
            near,
            open_to_search,
            0.5 * config.threshold * sky_sigma,
            0.5 * config.threshold,
            config.neighbour_sharpness * ratios,
            config.neighbour_margin,
        )
        if not more.any():
            break
        hit |= more
        pixels = interpolate_pixels(frame.pixels, hit)
    most = min(config.max_pixels, int(config.max_fraction * hit.size))
    if hit.sum() > most:
        raise BadInput(
            f"{int(hit.sum())} pixels look like cosmic rays, more than {most}",
            hint="check gain, variance and PSF, or switch `cosmic_rays.enabled` off",
            found=int(hit.sum()),
            needed=most,
        )
    frame = replace(frame, pixels=pixels).with_planes(COSMIC_RAY=hit, INTERPOLATED=hit)
    return frame, int(label(hit, np.ones((3, 3)))[1])


def _neighbour_ratios(psf: Floats) -> Floats:
    """Give the PSF's mean opposite neighbours over its centre, along x, y and the two diagonals."""
    c = psf.shape[0] // 2
    pairs = [(0, 1), (1, 0), (1, 1), (1, -1)]
    return np.array([0.5 * (psf[c + a, c + b] + psf[c - a, c - b]) for a, b in pairs]) / psf[c, c]


def _neighbours(mask: Bools) -> Bools:
    out = mask.copy()
    out[1:] |= mask[:-1]
    out[:-1] |= mask[1:]
    rows = out.copy()
    out[:, 1:] |= rows[:, :-1]
    out[:, :-1] |= rows[:, 1:]
    return out


@njit(cache=True)
def _sharp_pixels(
    pixels: Floats,
    sigma: Floats,
    where: Bools,
    good: Bools,
    floor: float,
    n_sigma: float,
    ratios: Floats,
    margin: float,
) -> Bools:
    """Mark pixels that beat the PSF along a direction, over the sky or over the light around them."""
    ny, nx = pixels.shape
    out = np.zeros((ny, nx), np.bool_)
    for y in range(1, ny - 1):
        for x in range(1, nx - 1):
            value = pixels[y, x]
            if not where[y, x] or value <= floor:
                continue
            level = max(_level_around(pixels, good, y, x), 0.0)
            for k in range(4):
                dy, dx = (0, 1, 1, 1)[k], (1, 0, 1, -1)[k]
                if not (good[y + dy, x + dx] and good[y - dy, x - dx]):
                    continue
                mean = 0.5 * (pixels[y + dy, x + dx] + pixels[y - dy, x - dx])
                error = 0.5 * np.sqrt(sigma[y + dy, x + dx] ** 2 + sigma[y - dy, x - dx] ** 2)
                height = value - margin * sigma[y, x]
                over_sky = height * ratios[k] > mean + margin * error
                stands_out = value - level > max(floor, n_sigma * np.sqrt(2.0) * error)
                if over_sky or (stands_out and (height - level) * ratios[k] > mean - level + margin * error):
                    out[y, x] = True
                    break
    return out


@njit(cache=True)
def _level_around(pixels: Floats, good: Bools, y: int, x: int) -> float:
    """Give the lower quartile of the rim of the 5 x 5 pixels around one; 0 where less than half of it is at hand.

    Not the median: on the shoulder of a bright star that is hardly below the pixel itself.
    """
    ny, nx = pixels.shape
    rim = np.empty(16)
    n = 0
    for a in range(max(0, y - 2), min(ny, y + 3)):
        for b in range(max(0, x - 2), min(nx, x + 3)):
            if (abs(a - y) == 2 or abs(b - x) == 2) and good[a, b]:
                rim[n] = pixels[a, b]
                n += 1
    return float(np.sort(rim[:n])[n // 4]) if n >= 8 else 0.0
