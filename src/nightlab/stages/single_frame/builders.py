"""From frames of a camera that looks at nothing, or at a lamp, to what `calibrate` wants to know about it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import astropy.units as u
import numpy as np
from astropy.stats import sigma_clip
from astropy.table import Table
from lsst.images import Image, VisitImage
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import median_filter

from nightlab.config import Config
from nightlab.errors import AllMasked, BadInput, ShapeError
from nightlab.stages.single_frame.frame import Bools, Floats
from nightlab.stages.single_frame.isr import (
    Calibrations,
    IsrConfig,
    amplifier_sections,
    assemble,
    exposed,
    remove_signature,
)

ROWS = 64  # rows that are combined at once


class BuildConfig(Config):
    """Knobs of the builders of calibration frames."""

    isr: IsrConfig = Field(default=IsrConfig(), description="instrument signature removal of the single frames")
    clip: float = Field(default=4.0, gt=0, description="values further off the median of a pixel are left out [sigma]")
    min_frames: int = Field(default=3, ge=1, description="fewer frames cannot tell cosmic rays from signal")
    min_flat_signal: float = Field(
        default=1000.0, gt=0, description="a flat with a lower median has hardly seen the lamp [electron]"
    )


class DefectConfig(Config):
    """Knobs of the defect finder."""

    bright: float = Field(default=4.8, gt=0, description="a pixel of the dark this far above its peers is hot [sigma]")
    dark: float = Field(default=5.0, gt=0, description="a pixel of the flat this far below its peers is dull [sigma]")
    min_dark_current: float = Field(
        default=0.0, ge=0, description="a hot pixel has at least this signal above its peers [electron/s]"
    )
    smooth: int = Field(default=15, ge=3, description="side of the median that says what the peers read [pixel]")
    block: int = Field(default=64, ge=8, description="side of the blocks in which the scatter is measured [pixel]")
    column: int = Field(default=50, ge=1, description="a column with more bad pixels than this has its gaps filled")
    gap: int = Field(default=30, ge=0, description="gaps in such a column shorter than this are filled [pixel]")


DEFAULTS = BuildConfig()
DEFECTS = DefectConfig()
ISR = IsrConfig()


def build_bias(raws: Sequence[VisitImage], config: BuildConfig = DEFAULTS) -> Image:
    """Combine bias frames: what an amplifier reads without light and time, beyond its overscan level.

    Parameters
    ----------
    raws
        Raw frames of one detector.
    config
        Knobs.

    Returns
    -------
    lsst.images.Image
        Assembled [adu]: the mean of every pixel without outliers; NaN where no frame has a value.

    Raises
    ------
    BadInput
        When there are fewer than `min_frames`, or they are of several detectors.
    AllMasked
        When no pixel has a value.
    """
    return _combined(raws, lambda raw: assemble(raw, config.isr).pixels, u.adu, config)


def build_dark(raws: Sequence[VisitImage], known: Calibrations, config: BuildConfig = DEFAULTS) -> Image:
    """Combine dark frames: electrons per second that come without light.

    Parameters
    ----------
    raws
        Raw frames of one detector, long compared with the read noise.
    known
        Bias, and what else is known; its dark and flat are not used.
    config
        Knobs.

    Returns
    -------
    lsst.images.Image
        Assembled [electron/s].

    Raises
    ------
    BadInput
        As `build_bias`, and when an exposure time is unknown or zero.
    """

    def rate(raw: VisitImage) -> Floats:
        seconds = exposed(raw)
        if seconds == 0:
            raise BadInput("a dark frame was exposed for no time", hint="it is a bias; leave it out", found=0.0)
        return _electrons(raw, replace(known, dark=None, flat=None), config) / seconds

    return _combined(raws, rate, u.electron / u.s, config)


def build_flat(raws: Sequence[VisitImage], known: Calibrations, config: BuildConfig = DEFAULTS) -> Image:
    """Combine flats: the response of every pixel to even light, with a mean of one.

    Parameters
    ----------
    raws
        Raw frames of one detector under a lamp or twilight, all in one filter.
    known
        Bias, dark, and what else is known; its flat is not used.
    config
        Knobs.

    Returns
    -------
    lsst.images.Image
        Assembled, relative; the weight of a frame is its light.

    Raises
    ------
    BadInput
        As `build_bias`, and when a frame has hardly any light.
    """

    def response(raw: VisitImage) -> Floats:
        values = _electrons(raw, replace(known, flat=None), config)
        level = float(np.nanmedian(values))
        if not level >= config.min_flat_signal:
            raise BadInput(
                f"a flat has a median of {level:.4g} electrons",
                hint="leave it out, or lower `min_flat_signal`",
                found=level,
                needed=config.min_flat_signal,
            )
        return values / level

    flat = _combined(raws, response, u.dimensionless_unscaled, config)
    return Image(flat.array / np.nanmean(flat.array, dtype=np.float64), bbox=flat.bbox, unit=u.dimensionless_unscaled)


def find_defects(dark: Image | None, flat: Image | None, config: DefectConfig = DEFECTS) -> Table:
    """Find pixels that are hot in the dark or dull in the flat, and columns that are mostly bad.

    Parameters
    ----------
    dark, flat
        Combined frames of one detector; either may be absent.
    config
        Knobs.

    Returns
    -------
    Table
        Boxes on the assembled detector, one below the other and without overlap: ``x0``, ``y0``, ``width``, ``height``
        [pixel]. Values that are not finite are bad too.

    Raises
    ------
    BadInput
        When neither frame is given.
    ShapeError
        When they differ in shape.
    """
    frames = [frame for frame in (dark, flat) if frame is not None]
    if not frames:
        raise BadInput("defects are looked for in no frame", hint="give a dark, a flat or both")
    box = frames[0].bbox
    if any(frame.bbox != box for frame in frames):
        raise ShapeError("dark and flat cover different pixels", hint="use those of one detector",
                         found=str(frames[1].bbox), needed=str(box))  # fmt: skip
    bad = np.zeros((box.y.size, box.x.size), bool)
    if dark is not None:
        off, sigma = _against_peers(dark, config)
        bad |= ~(off <= np.maximum(config.bright * sigma, config.min_dark_current))
    if flat is not None:
        off, sigma = _against_peers(flat, config)
        bad |= ~(off >= -config.dark * sigma)
    return _boxes(_with_columns(bad, config), box.x.start, box.y.start)


def measure_crosstalk(
    raws: Sequence[VisitImage],
    *,
    threshold: float,
    config: IsrConfig = ISR,
    clip: float = 2.0,
    significance: float = 3.0,
) -> Table:
    """Measure how much of each amplifier's signal appears in each other one.

    The coefficient of a pair is the mean, over the pixels where the source is bright, of victim over source; outliers
    are taken out three times.

    Parameters
    ----------
    raws
        Raw frames of one detector with bright stars or spots.
    threshold
        Signal from which on a pixel is a source [adu].
    config
        Knobs of the overscan.
    clip
        Pixels further off are left out [sigma].
    significance
        A coefficient below this many errors is set to zero.

    Returns
    -------
    Table
        ``victim``, ``source``, ``linear``, ``error``, ``n_pixels`` of every pair of amplifiers.

    Raises
    ------
    BadInput
        When no pixel is above the threshold.
    """
    names = [amplifier.name for amplifier in raws[0].detector.amplifiers]
    ratios: dict[tuple[int, int], list[Floats]] = {}
    for raw in raws:
        light = amplifier_sections(raw, config)
        # the sky of a victim: where no amplifier sees a source at the same moment
        quiet_everywhere = np.all([each < threshold for each in light], axis=0)
        sky = [float(np.median(each[quiet_everywhere])) if quiet_everywhere.any() else 0.0 for each in light]
        for b, source in enumerate(light):
            bright = source > threshold
            for a, victim in enumerate(light):
                if a != b and bright.any():
                    quiet = bright & (victim < threshold)
                    ratios.setdefault((a, b), []).append(((victim - sky[a])[quiet]) / source[quiet])
    if not ratios:
        raise BadInput(
            f"no pixel of any frame is above {threshold:g} adu", hint="lower the threshold, or use brighter sources"
        )
    rows = []
    for a, victim in enumerate(names):
        for b, source in enumerate(names):
            values = np.concatenate(ratios.get((a, b), [np.empty(0)]))
            kept = sigma_clip(values, sigma=clip, maxiters=3, masked=False) if values.size else values
            n = kept.size
            mean = float(kept.mean()) if n else 0.0
            error = float(kept.std() / np.sqrt(n)) if n > 1 else float("nan")
            linear = mean if abs(mean) > significance * error else 0.0
            if a != b:
                rows.append((victim, source, linear, error, n))
    return Table(rows=rows, names=("victim", "source", "linear", "error", "n_pixels"))


def _electrons(raw: VisitImage, known: Calibrations, config: BuildConfig) -> Floats:
    """Remove what is known; NaN where nothing was measured."""
    frame = remove_signature(raw, known, config.isr)
    return np.where(frame.usable & ~frame.flagged("SATURATED"), frame.pixels, np.nan)


def _combined(
    raws: Sequence[VisitImage], pixels: Callable[[VisitImage], Floats], unit: u.UnitBase, config: BuildConfig
) -> Image:
    """Give the clipped mean of what `pixels` makes of each frame."""
    if len(raws) < config.min_frames:
        raise BadInput(
            f"{len(raws)} frames are to be combined",
            hint=f"take {config.min_frames} or more, or lower `min_frames`",
            found=len(raws),
            needed=config.min_frames,
        )
    detectors = {(raw.detector.id, str(raw.detector.bbox)) for raw in raws}
    if len(detectors) > 1:
        raise BadInput(
            "frames of several detectors are to be combined", hint="combine one detector at a time",
            found=sorted(detectors),
        )  # fmt: skip
    stack: NDArray[np.float32] = np.stack([pixels(raw).astype(np.float32) for raw in raws])
    mean = np.concatenate(
        [_clipped_mean(stack[:, row : row + ROWS], config.clip) for row in range(0, stack.shape[1], ROWS)]
    )
    if not np.isfinite(mean).any():
        raise AllMasked("no pixel of the combined frame has a value", hint="look at the single frames")
    return Image(mean, bbox=raws[0].detector.bbox, unit=unit)


def _clipped_mean(stack: NDArray[np.float32], clip: float) -> NDArray[np.float32]:
    """Give the mean over (n, rows, nx) frames without outliers.

    The spread of a few values is no measure of itself: a pixel's sigma is at least that of its neighbourhood.
    """
    values = stack.astype(np.float64)
    there = np.isfinite(values)
    empty = ~there.any(axis=0)
    values[:, empty] = 0.0
    off = np.abs(values - np.nanmedian(values, axis=0))
    own = 1.4826 * np.nanmedian(off, axis=0)
    sigma = np.maximum(own, np.median(own[~empty])) if not empty.all() else own
    kept = there & (np.nan_to_num(off, nan=np.inf) <= clip * np.sqrt(len(stack) / max(len(stack) - 1, 1)) * sigma)
    total = np.where(kept, np.nan_to_num(values), 0.0).sum(axis=0)
    n = kept.sum(axis=0)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan).astype(np.float32)


def _against_peers(frame: Image, config: DefectConfig) -> tuple[Floats, Floats]:
    """Give every pixel minus the median around it, and the scatter of that in its neighbourhood."""
    values = np.asarray(frame.array, np.float64)
    there = np.isfinite(values)
    if not there.any():
        raise AllMasked("the frame in which defects are looked for has no finite pixel", hint="look at the frame")
    filled = np.where(there, values, np.median(values[there]))
    off = filled - median_filter(filled, config.smooth, mode="nearest")
    return np.where(there, off, np.nan), _local_width(np.where(there, off, np.nan), config.block)


def _local_width(values: Floats, side: int) -> Floats:
    """Give 1.4826 times the median absolute value in blocks; that of all where a block has no value."""
    ny, nx = values.shape
    padded = np.pad(
        np.abs(values), ((0, -ny % side), (0, -nx % side)), mode="reflect" if min(ny, nx) > side else "edge"
    )
    whole = float(np.nanmedian(padded))
    rows, columns = padded.shape[0] // side, padded.shape[1] // side
    blocks = padded.reshape(rows, side, columns, side).transpose(0, 2, 1, 3).reshape(rows, columns, side * side)
    empty = ~np.isfinite(blocks).any(axis=-1)
    medians = np.nanmedian(np.where(empty[..., None], whole, blocks), axis=-1)
    return 1.4826 * np.repeat(np.repeat(medians, side, axis=0), side, axis=1)[:ny, :nx]


def _with_columns(bad: Bools, config: DefectConfig) -> Bools:
    """Fill the short gaps of columns that are mostly bad."""
    out = bad.copy()
    for x in np.flatnonzero(bad.sum(axis=0) > config.column):
        rows = np.flatnonzero(bad[:, x])
        for low, high in itertools.pairwise(rows):
            if high - low - 1 < config.gap:
                out[low:high, x] = True
    return out


def _boxes(bad: Bools, x0: int, y0: int) -> Table:
    """Write a mask as boxes one pixel wide, a run of a column each."""
    edges = np.diff(np.pad(bad, ((1, 1), (0, 0))).astype(np.int8), axis=0)
    x_low, y_low = np.nonzero(edges.T == 1)
    x_high, y_high = np.nonzero(edges.T == -1)
    assert (x_low == x_high).all()
    return Table(
        {"x0": x_low + x0, "y0": y_low + y0, "width": np.ones_like(x_low), "height": y_high - y_low},
        dtype=(np.int32,) * 4,
    )
