"""Which sources the matching kernel is fitted to."""

from __future__ import annotations

import numpy as np
import sep
from astropy.table import Table
from numpy.typing import NDArray
from pydantic import Field
from scipy.spatial import cKDTree

from nightlab.config import Config

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]

_BAD_FLAGS = (
    "pixelFlags_edge",
    "pixelFlags_saturated",
    "pixelFlags_saturatedCenter",
    "pixelFlags_cr",
    "pixelFlags_bad",
    "pixelFlags_interpolatedCenter",
    "pixelFlags_nodata",
    "centroid_flag",
    "psfFlux_flag",
)


class StarConfig(Config):
    """Knobs of the selection of the stars that the matching kernel is fitted to."""

    min_snr: float = Field(default=20.0, gt=0, description="Faintest star [sigma of its PSF flux].")
    good_snr: float = Field(
        default=50.0,
        gt=0,
        description="Stars fainter than this are left out where enough brighter ones exist [sigma].",
    )
    max_extendedness: float = Field(default=0.5, description="Largest extendedness of what counts as a point [1].")
    isolation: float = Field(
        default=12.0, ge=0, description="Distance within which an isolated star has no neighbour [pixel]."
    )
    per_cell: int = Field(default=6, ge=1, description="Most stars taken from one cell of the image, brightest first.")
    cell: int = Field(default=256, ge=32, description="Side of those cells [pixel].")
    wanted: int = Field(default=60, ge=1, description="More are taken per cell where the image has few cells.")
    preferred: int = Field(
        default=15, ge=1, description="With fewer isolated points than this, any clean source is taken."
    )
    maximum: int = Field(default=250, ge=3, description="Most stars in all.")
    minimum: int = Field(default=3, ge=1, description="Fewest stars the fit may rest on.")


def select_stars(source: Table, shape: tuple[int, int], config: StarConfig) -> tuple[Floats, Floats]:
    """Choose kernel stars from a table of measured sources.

    Parameters
    ----------
    source
        Table with x, y in array coordinates [pixel], snr, and whichever flags it has.
    shape
        (ny, nx) of the image.
    config
        Limits.

    Returns
    -------
    x, y
        (n,) positions, brightest first within cells.
    """
    x, y = np.asarray(source["x"], float), np.asarray(source["y"], float)
    snr = np.asarray(source["snr"], float)
    clean = np.isfinite(x) & np.isfinite(y) & (snr >= config.min_snr)
    for name in _BAD_FLAGS:
        if name in source.colnames:
            clean &= ~np.asarray(source[name], bool)
    best = clean.copy()
    if "extendedness" in source.colnames:
        best &= np.asarray(source["extendedness"], float) <= config.max_extendedness
    if "detect_isIsolated" in source.colnames:
        best &= np.asarray(source["detect_isIsolated"], bool)
    else:
        best &= isolated(x, y, snr, config.isolation)
    chosen = np.flatnonzero(best if best.sum() >= config.preferred else clean)
    bright = chosen[snr[chosen] >= config.good_snr]
    chosen = bright if len(bright) >= 4 * config.preferred else chosen
    keep = spread(x[chosen], y[chosen], snr[chosen], shape, config)
    return x[chosen][keep], y[chosen][keep]


def isolated(x: Floats, y: Floats, snr: Floats, radius: float) -> Bools:
    """Sources without a neighbour of at least a tenth of their S/N within `radius` pixels."""
    alone = np.isfinite(x) & np.isfinite(y)
    index = np.flatnonzero(alone)
    if len(index) < 2:
        return alone
    pairs = cKDTree(np.column_stack([x[index], y[index]])).query_pairs(radius, output_type="ndarray")
    a, b = index[pairs[:, 0]], index[pairs[:, 1]]
    alone[a[snr[b] > 0.1 * snr[a]]] = False
    alone[b[snr[a] > 0.1 * snr[b]]] = False
    return alone


def spread(x: Floats, y: Floats, snr: Floats, shape: tuple[int, int], config: StarConfig) -> NDArray[np.intp]:
    """Indices of the brightest few sources of every cell, at most `maximum`; equal S/N are ordered by position."""
    columns = -(-shape[1] // config.cell)
    cell = (y // config.cell).astype(int) * columns + (x // config.cell).astype(int)
    order = np.lexsort((x, y, -snr, cell))
    first = np.r_[True, np.diff(cell[order]) != 0] if len(order) else np.zeros(0, bool)
    rank = np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    cells = columns * -(-shape[0] // config.cell)
    taken = order[rank < max(config.per_cell, -(-config.wanted // cells))]
    brightest: NDArray[np.intp] = taken[np.lexsort((x[taken], y[taken], -snr[taken]))][: config.maximum]
    return brightest


def detect_stars(image: Floats, variance: Floats, good: Bools) -> Table:
    """Find sources without any measurement stage: positions, S/N and a width, for lack of a better table.

    Parameters
    ----------
    image, variance
        (ny, nx) sky-subtracted values and variances, finite where `good`.
    good
        (ny, nx) usable pixels.

    Returns
    -------
    Table
        x, y [pixel], snr, extendedness (1 for sources wider than the bulk of the bright ones).
    """
    noise = np.sqrt(np.where(good, np.maximum(variance, 0), 1.0)).astype(np.float32)
    data = np.ascontiguousarray(np.where(good, image, 0.0), dtype=np.float32)
    found = sep.extract(data, 3.0, err=noise, mask=~good, minarea=5)
    area = np.maximum(found["npix"], 1)
    iy = np.clip(np.rint(found["y"]).astype(int), 0, image.shape[0] - 1)
    ix = np.clip(np.rint(found["x"]).astype(int), 0, image.shape[1] - 1)
    snr = found["flux"] / (np.sqrt(area) * noise[iy, ix])
    width = np.sqrt(np.maximum(found["a"] * found["b"], 0))
    bright = (snr > 20) & (found["flag"] == 0)
    middle = np.median(width[bright]) if bright.any() else np.inf
    sharp = (width < 1.3 * middle) & (width > 0.6 * middle) & (found["b"] > 0.6 * found["a"])
    return Table(
        {
            "x": found["x"],
            "y": found["y"],
            "snr": snr,
            "extendedness": np.where(sharp, 0.0, 1.0),
            "centroid_flag": (found["flag"] & (sep.OBJ_TRUNC | sep.OBJ_SINGU)) != 0,
        }
    )
