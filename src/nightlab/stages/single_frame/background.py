"""The sky under the sources: clipped means in a mesh of cells, joined by a spline."""

from __future__ import annotations

import astropy.units as u
import numpy as np
from lsst.images import Box
from lsst.images.fields import SplineField
from numba import njit
from pydantic import Field
from scipy.interpolate import RBFInterpolator
from scipy.ndimage import gaussian_filter

from nightlab.config import Config
from nightlab.errors import AllMasked
from nightlab.numeric.photometry import grow
from nightlab.stages.single_frame.frame import Bools, Floats, Frame

_QUADRATIC = 6  # terms of a quadratic surface


class BackgroundConfig(Config):
    """Knobs of the background model."""

    cell: int = Field(default=128, gt=0, description="side of a mesh cell [pixel]")
    clip: float = Field(default=3.0, gt=0, description="clipping of the cell means [sigma]")
    min_fraction: float = Field(
        default=0.1, ge=0, le=1, description="cells with a smaller part unmasked take their neighbours' level"
    )
    mask_threshold: float = Field(
        default=3.0,
        gt=0,
        description="matched-filter significance, of either sign, beyond which pixels are masked [sigma]",
    )
    mask_grow: float = Field(
        default=5.0, ge=0, description="growth of that mask, in units of the PSF's Gaussian sigma"
    )
    extended_block: int = Field(
        default=16, gt=0, description="side of the blocks whose means show extended sources [pixel]"
    )
    extended_threshold: float = Field(
        default=4.0, gt=0, description="height of smoothed block means above a smooth sky that is masked [sigma]"
    )
    extended_grow: float = Field(default=2.0, ge=0, description="growth of that mask [block]")


def sky_field(values: Floats, good: Bools, box: Box, config: BackgroundConfig, unit: u.UnitBase | None) -> SplineField:
    """Model the smooth level of an image.

    Parameters
    ----------
    values
        (ny, nx) pixels.
    good
        (ny, nx), True where a pixel is sky.
    box
        Place of the pixels.
    config
        Knobs.
    unit
        Of `values`.

    Returns
    -------
    lsst.images.fields.SplineField
        Akima spline through the clipped means of the cells.

    Raises
    ------
    AllMasked
        When no cell has enough sky.
    """
    edges = [_edges(size, config.cell) for size in values.shape]
    levels = _cell_means(values, good, edges[0], edges[1], config.clip, config.min_fraction)
    empty = ~np.isfinite(levels)
    if empty.all():
        raise AllMasked(
            f"no cell of {config.cell} pixels has {config.min_fraction:.0%} of its pixels free of sources and defects",
            hint="raise `background.mask_threshold`, or look whether the frame is saturated",
        )
    if empty.any():
        levels = _bridged(levels, empty)
    centres = [0.5 * (e[:-1] + e[1:] - 1) for e in edges]
    return SplineField(box, levels, y=centres[0] + box.y.start, x=centres[1] + box.x.start, unit=unit)


def extended_sources(values: Floats, good: Bools, config: BackgroundConfig) -> Bools:
    """Mark where light that is wider than any star lies on the sky, such as the outskirts of a galaxy.

    Means of blocks are compared with a quadratic surface, which is clipped from above only since sources are never
    darker than the sky; its scatter is taken from the blocks that lie below it. Structure of the sky that is neither
    quadratic nor lower than the noise of the blocks raises that scatter, and is masked only where it peaks.

    Parameters
    ----------
    values
        (ny, nx) pixels, sky included.
    good
        (ny, nx), True where a pixel is sky as far as is known.
    config
        Knobs.

    Returns
    -------
    ndarray of bool
        (ny, nx).
    """
    edges = [_edges(size, config.extended_block) for size in values.shape]
    means, weight = _block_means(values, good, edges[0], edges[1])
    known = weight > 0.1 * weight.max()
    if known.sum() < 4 * _QUADRATIC:
        return np.zeros(values.shape, dtype=bool)
    excess = np.where(known, means - _surface(means, known), 0.0)
    share = gaussian_filter(known.astype(float), 1.0, mode="constant")
    smooth = gaussian_filter(excess, 1.0, mode="constant") / np.maximum(share, 1e-6)
    below = smooth[known & (smooth < 0)]
    bright = known & (smooth > config.extended_threshold * 1.4826 * np.median(-below)) if below.size else ~known
    wide = grow(bright, config.extended_grow)
    rows, columns = (np.diff(e) for e in edges)
    return np.repeat(np.repeat(wide, rows, axis=0), columns, axis=1)


def render(field: SplineField, frame: Frame) -> Floats:
    """Evaluate a field on the pixels of a frame: (ny, nx)."""
    ny, nx = frame.shape
    box = Box.from_shape((ny, nx), start=(frame.y0, frame.x0))
    return np.ascontiguousarray(field.render(box, dtype=np.float64).array)


def _bridged(levels: Floats, empty: Bools) -> Floats:
    """Fill empty cells from the cells around them."""
    known = np.argwhere(~empty).astype(float)
    fill = RBFInterpolator(known, levels[~empty], neighbors=min(24, len(known)), kernel="linear")
    out = levels.copy()
    out[empty] = fill(np.argwhere(empty).astype(float))
    return out


def _surface(means: Floats, known: Bools) -> Floats:
    """Fit a quadratic surface to blocks (my, mx), clipped from above."""
    v, u = (np.linspace(-1.0, 1.0, n) for n in means.shape)
    u, v = (grid.ravel() for grid in np.meshgrid(u, v))
    design = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1)
    level, inside = means.ravel(), known.ravel()
    kept = inside & (level <= np.median(level[inside]) + 5.0 * _lower_width(level[inside]))
    fit = level
    for _ in range(10):
        fit = design @ np.linalg.lstsq(design[kept], level[kept], rcond=None)[0]
        miss = level - fit
        new = inside & (miss < 2.5 * _lower_width(miss[kept]))
        if (new == kept).all() or new.sum() < 4 * _QUADRATIC:
            break
        kept = new
    return fit.reshape(means.shape)


def _lower_width(sample: Floats) -> float:
    """Give the Gaussian sigma of what lies below the median, in which there are no sources."""
    centre = np.median(sample)
    return float(1.4826 * np.median(centre - sample[sample <= centre]))


@njit(cache=True)
def _block_means(values: Floats, good: Bools, y_edges: np.ndarray, x_edges: np.ndarray) -> tuple[Floats, Floats]:
    """Give means of the good pixels of each block, and how many there are."""
    shape = (y_edges.size - 1, x_edges.size - 1)
    total, count = np.zeros(shape), np.zeros(shape)
    for j in range(shape[0]):
        for y in range(y_edges[j], y_edges[j + 1]):
            for i in range(shape[1]):
                for x in range(x_edges[i], x_edges[i + 1]):
                    if good[y, x]:
                        total[j, i] += values[y, x]
                        count[j, i] += 1.0
    return total / np.maximum(count, 1.0), count


def _edges(size: int, cell: int) -> np.ndarray:
    return np.linspace(0, size, max(1, round(size / cell)) + 1).round().astype(np.int64)


@njit(cache=True)
def _cell_means(
    values: Floats, good: Bools, y_edges: np.ndarray, x_edges: np.ndarray, clip: float, min_fraction: float
) -> Floats:
    out = np.full((y_edges.size - 1, x_edges.size - 1), np.nan)
    for j in range(y_edges.size - 1):
        for i in range(x_edges.size - 1):
            area = (y_edges[j + 1] - y_edges[j]) * (x_edges[i + 1] - x_edges[i])
            cell = np.empty(area)
            n = 0
            for y in range(y_edges[j], y_edges[j + 1]):
                for x in range(x_edges[i], x_edges[i + 1]):
                    if good[y, x]:
                        cell[n] = values[y, x]
                        n += 1
            if n > 0 and n >= min_fraction * area:
                out[j, i] = _clipped_mean(cell[:n], clip)
    return out


@njit(cache=True)
def _clipped_mean(sample: Floats, clip: float) -> float:
    centre = float(np.median(sample))
    width = 1.4826 * float(np.median(np.abs(sample - centre)))
    for _ in range(10):
        total, square, count = 0.0, 0.0, 0
        for value in sample:
            if abs(value - centre) <= clip * width:
                total += value
                square += (value - centre) ** 2
                count += 1
        mean = total / count
        # the factor undoes what clipping a Gaussian at 3 sigma takes off its width
        new = np.sqrt(max(square / count - (mean - centre) ** 2, 0.0)) * 1.0137
        if abs(mean - centre) <= 1e-4 * width:
            return mean
        centre, width = mean, new
    return centre
