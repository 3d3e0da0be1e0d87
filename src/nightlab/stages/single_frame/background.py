"""The sky under the sources: clipped means in a mesh of cells, joined by a spline."""

from __future__ import annotations

import astropy.units as u
import numpy as np
from lsst.images import Box
from lsst.images.fields import SplineField
from numba import njit
from pydantic import Field
from scipy.ndimage import distance_transform_edt

from nightlab.config import Config
from nightlab.errors import AllMasked
from nightlab.stages.single_frame.frame import Bools, Floats, Frame


class BackgroundConfig(Config):
    """Knobs of the background model."""

    cell: int = Field(default=128, gt=0, description="side of a mesh cell [pixel]")
    clip: float = Field(default=3.0, gt=0, description="clipping of the cell means [sigma]")
    min_fraction: float = Field(
        default=0.1, ge=0, le=1, description="cells with a smaller part unmasked take their neighbours' level"
    )
    mask_threshold: float = Field(
        default=2.5, gt=0, description="matched-filter significance above which pixels are masked [sigma]"
    )
    mask_grow: float = Field(
        default=5.0, ge=0, description="growth of that mask, in units of the PSF's Gaussian sigma"
    )


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
        nearest = distance_transform_edt(empty, return_distances=False, return_indices=True)
        levels = levels[tuple(nearest)]
    centres = [0.5 * (e[:-1] + e[1:] - 1) for e in edges]
    return SplineField(box, levels, y=centres[0] + box.y.start, x=centres[1] + box.x.start, unit=unit)


def render(field: SplineField, frame: Frame) -> Floats:
    """Evaluate a field on the pixels of a frame: (ny, nx)."""
    ny, nx = frame.shape
    box = Box.from_shape((ny, nx), start=(frame.y0, frame.x0))
    return np.ascontiguousarray(field.render(box, dtype=np.float64).array)


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
