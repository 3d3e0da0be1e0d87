"""Overscan: the level an amplifier reads without light, row by row or smooth along the rows."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.polynomial import Chebyshev, Legendre
from pydantic import Field
from scipy.interpolate import LSQUnivariateSpline

from nightlab.config import Config
from nightlab.errors import BadInput
from nightlab.stages.single_frame.frame import Floats

Method = Literal["median_per_row", "mean_per_row", "median", "mean", "chebyshev", "legendre", "spline", "none"]
_POLYNOMIALS = {"chebyshev": Chebyshev, "legendre": Legendre}


class OverscanConfig(Config):
    """Knobs of the overscan level."""

    method: Method = Field(
        default="median_per_row",
        description="how the level is found: per row, one for all rows, or a smooth curve through the rows",
    )
    order: int = Field(default=5, ge=0, description="degree of the polynomial, or number of inner knots of the spline")
    skip: int = Field(
        default=0,
        ge=0,
        description="pixels next to the light that are left out: they hold its trailing charge [pixel]",
    )
    clip: float = Field(default=3.0, gt=0, description="pixels and rows further off than this are left out [sigma]")


class ParallelOverscanConfig(OverscanConfig):
    """Knobs of the overscan level above the columns."""

    method: Method = Field(
        default="none",
        description="how the level is found: per column, one for all columns, or a smooth curve through the columns",
    )


def overscan_level(overscan: Floats, config: OverscanConfig) -> Floats:
    """Find the level of every row of an overscan section.

    Parameters
    ----------
    overscan
        (n, m) pixels [adu]; the row is along the first axis, the pixels next to the light come first.
    config
        Knobs.

    Returns
    -------
    ndarray
        (n,) level [adu]; NaN in rows without a finite pixel where the level is found per row, everywhere when no pixel
        is finite.

    Raises
    ------
    BadInput
        When no pixel is left after `skip`, or fewer rows than a smooth curve needs.
    """
    rows = overscan.shape[0]
    if config.method == "none":
        return np.zeros(rows)
    pixels = overscan[:, config.skip :]
    if pixels.shape[1] == 0:
        raise BadInput(
            f"the overscan is {overscan.shape[1]} pixels wide and `skip` leaves none of them",
            hint="lower `isr.overscan.skip`",
            found=overscan.shape[1],
            needed=config.skip + 1,
        )
    pixels = np.where(np.isfinite(pixels), pixels, np.nan)
    level = np.full(rows, np.nan)
    read = np.isfinite(pixels).any(axis=1)
    if not read.any():
        return level
    if config.method in ("mean_per_row", "mean"):
        pixels = _clipped(pixels, config.clip)
    if config.method in ("median", "mean"):
        level[:] = np.nanmedian(pixels) if config.method == "median" else np.nanmean(pixels)
        return level
    per_row = np.nanmean if config.method == "mean_per_row" else np.nanmedian
    level[read] = per_row(pixels[read], axis=1)
    if config.method in ("median_per_row", "mean_per_row"):
        return level
    return _smooth(level, read, config)


def _clipped(pixels: Floats, clip: float) -> Floats:
    """Blank what lies further than `clip` sigma from the median of its row, sigma being that of the whole section."""
    off = pixels - np.nanmedian(np.where(np.isfinite(pixels).any(axis=1, keepdims=True), pixels, 0.0), axis=1)[:, None]
    sigma = 1.4826 * np.nanmedian(np.abs(off))
    # whole counts may agree so well that their median deviation is zero
    return np.where(np.abs(off) <= clip * max(sigma, np.nanstd(off) if sigma == 0 else 0.0), pixels, np.nan)


def _smooth(level: Floats, read: np.ndarray, config: OverscanConfig) -> Floats:
    """Draw a curve through the rows, three times without the rows that lie far off it."""
    row = np.linspace(-1.0, 1.0, level.size)
    good = read.copy()
    needed = config.order + (5 if config.method == "spline" else 1)
    curve = level
    for _ in range(3):
        if good.sum() < needed:
            raise BadInput(
                f"the overscan has {int(good.sum())} usable rows, too few for {config.method} of order {config.order}",
                hint="lower `isr.overscan.order`",
                found=int(good.sum()),
                needed=needed,
            )
        curve = _curve(row[good], level[good], config)(row)
        off = level - curve
        sigma = 1.4826 * np.median(np.abs(off[good]))
        kept = read & (np.abs(np.where(read, off, 0.0)) <= config.clip * sigma) if sigma > 0 else good
        if (kept == good).all():
            break
        good = kept
    return np.asarray(curve, np.float64)


def _curve(row: Floats, level: Floats, config: OverscanConfig):  # type: ignore[no-untyped-def]
    if config.method == "spline":
        knots = np.quantile(row, np.linspace(0.0, 1.0, config.order + 2)[1:-1])
        return LSQUnivariateSpline(row, level, knots, k=3)
    return _POLYNOMIALS[config.method].fit(row, level, config.order, domain=[-1.0, 1.0])
