"""Instrument signature removal: from raw amplifiers in adu to a detector in electrons with its noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import astropy.units as u
import numpy as np
from astropy.table import Table
from lsst.images import Box, Image, Interval, VisitImage
from lsst.images.cameras import Amplifier, AmplifierCalibrations, AmplifierRawGeometry
from numpy.typing import NDArray
from pydantic import Field

from nightlab.config import Config
from nightlab.errors import BadInput, ShapeError
from nightlab.images.build import exposure_time
from nightlab.numeric.photometry import grow
from nightlab.numeric.statistics import robust_width
from nightlab.stages.single_frame.brighter_fatter import remove_brighter_fatter
from nightlab.stages.single_frame.crosstalk import crosstalk_matrices, remove_crosstalk
from nightlab.stages.single_frame.frame import Bools, Floats, Frame, without_gaps, without_holes
from nightlab.stages.single_frame.linearity import linearize
from nightlab.stages.single_frame.overscan import OverscanConfig, ParallelOverscanConfig, overscan_level

BOX_COLUMNS = ("x0", "y0", "width", "height")


class IsrConfig(Config):
    """Knobs of instrument signature removal."""

    overscan: OverscanConfig = Field(default=OverscanConfig(), description="level beside the rows (serial overscan)")
    parallel_overscan: ParallelOverscanConfig = Field(
        default=ParallelOverscanConfig(), description="level above the columns (parallel overscan)"
    )
    saturation_grow: float = Field(default=1.0, ge=0, description="growth of saturated regions [pixel]")
    max_read_noise: float = Field(
        default=25.0, gt=0, description="an amplifier with more noise in its overscan is BAD [electron]"
    )
    max_below: float = Field(
        default=100.0,
        gt=0,
        description="a pixel further below its overscan level has wrapped around in the file and is BAD [read noise]",
    )
    crosstalk_mask: float = Field(
        default=45_000.0, gt=0, description="pixels that see the ghost of a brighter one are marked CROSSTALK [adu]"
    )
    min_flat: float = Field(
        default=0.1, gt=0, description="flat values below this make a pixel BAD (fraction of the mean)"
    )


@dataclass(frozen=True, kw_only=True)
class Calibrations:
    """What is known about a detector besides its raw pixels; whatever is None is passed over.

    Attributes
    ----------
    bias, dark, flat
        Assembled frames: what is left after overscan [adu or electron], dark signal per second [electron], and
        relative sensitivity.
    defects
        Rows of ``x0``, ``y0``, ``width``, ``height``: boxes on the assembled detector [pixel].
    crosstalk
        See `nightlab.stages.single_frame.crosstalk.crosstalk_matrices`.
    linearity
        See `nightlab.stages.single_frame.linearity.linearize`.
    brighter_fatter
        Kernel, see `nightlab.stages.single_frame.brighter_fatter.remove_brighter_fatter`.
    """

    bias: Image | None = None
    dark: Image | None = None
    flat: Image | None = None
    defects: Table | None = None
    crosstalk: Table | None = None
    linearity: Table | None = None
    brighter_fatter: Image | None = None


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """A detector put together from its amplifiers.

    Attributes
    ----------
    pixels
        (ny, nx) signal over the overscan level [adu].
    noise, gain
        (ny, nx) read noise [electron] and gain [electron/adu] of the amplifier a pixel was read by.
    planes
        Mask planes by name, each (ny, nx).
    """

    pixels: Floats
    noise: Floats
    gain: Floats
    planes: dict[str, Bools]


@dataclass(frozen=True, kw_only=True)
class _Reading:
    """One amplifier in readout order: light without overscan level, as read, and what its overscan says."""

    amplifier: Amplifier
    geometry: AmplifierRawGeometry
    calibration: AmplifierCalibrations
    light: Floats
    full: Floats
    noise: float

    @property
    def constant(self) -> bool:
        """Whether all pixels are equal, or none is finite: that is no reading of noise."""
        seen = self.full[np.isfinite(self.full)]
        return not seen.size or bool((seen == seen[0]).all())

    @property
    def dead(self) -> bool:
        """Whether no light can have come through; one that is saturated all over is not dead."""
        return self.constant and not (self.full >= self.calibration.saturation).any()

    def mirrored(self, values: NDArray) -> NDArray:
        """Bring an array from readout order into place."""
        return values[:: -1 if self.geometry.flip_y else 1, :: -1 if self.geometry.flip_x else 1]


def needs_isr(raw: VisitImage) -> bool:
    """Say whether an image still consists of raw amplifiers with overscan."""
    return bool(raw.detector.amplifiers) and raw.bbox != raw.detector.bbox


def remove_signature(raw: VisitImage, calibrations: Calibrations, config: IsrConfig) -> Frame:
    """Bring a raw detector to electrons of light, with the variance they have.

    In this order. On the raw amplifiers: saturation and suspect levels; serial, then parallel overscan; crosstalk.
    Assembled: bias; linearity; gain. The variance is then max(I, 0) + RN^2 [electron^2]. Brighter-fatter effect; dark,
    with its own shot noise; flat, by whose square the variance is divided. Defects, amplifiers that are dead or too
    noisy, and pixels without response are BAD; saturated regions are filled, since the core of a very bright star can
    have run over and read as nothing.

    Parameters
    ----------
    raw
        Raw detector in adu; `raw.detector.amplifiers` carries the geometry on the raw grid.
    calibrations
        What is known about the detector.
    config
        Knobs.

    Raises
    ------
    BadInput
        When an amplifier lacks geometry, gain or read noise, two amplifiers have the same pixels (mirrored or not), a
        dark is given and the exposure time is unknown, or a table does not fit the detector.
    ShapeError
        When a calibration frame does not cover the assembled detector.
    """
    assembled = assemble(raw, config, calibrations.crosstalk)
    box, planes = raw.detector.bbox, assembled.planes
    pixels = assembled.pixels - _adu(calibrations.bias, box, assembled.gain)
    if calibrations.linearity is not None:
        for amplifier in raw.detector.amplifiers:
            here = _slices(amplifier.bbox, box)
            pixels[here] = linearize(pixels[here], calibrations.linearity, amplifier.name)
    pixels = pixels * assembled.gain
    variance = np.maximum(pixels, 0.0) + assembled.noise**2
    if calibrations.brighter_fatter is not None:
        known = np.isfinite(pixels) & ~planes["BAD"]
        kernel = np.asarray(calibrations.brighter_fatter.array, np.float64)
        pixels = remove_brighter_fatter(pixels, kernel, known)
    if calibrations.dark is not None:
        pixels = pixels - calibration_pixels(calibrations.dark, box, "dark") * exposed(raw)
    if calibrations.defects is not None:
        planes["BAD"] |= defect_mask(calibrations.defects, box)
    if calibrations.flat is not None:
        response = calibration_pixels(calibrations.flat, box, "flat")
        dull = ~(response >= config.min_flat)  # NaN is dull too
        planes["BAD"] |= dull
        response = np.where(dull, 1.0, response)
        pixels, variance = pixels / response, variance / response**2
    frame = Frame(
        pixels=pixels,
        variance=variance,
        planes={name: where for name, where in planes.items() if where.any() or name in ("SATURATED", "BAD")},
        x0=box.x.start,
        y0=box.y.start,
        unit=u.electron,
        gain=1.0,
    )
    return without_holes(frame)


def assemble(raw: VisitImage, config: IsrConfig, crosstalk: Table | None = None) -> Assembled:
    """Take overscans and ghosts off the amplifiers and put them together.

    Raises
    ------
    BadInput
        See `remove_signature`.
    """
    box = raw.detector.bbox
    shape = (box.y.size, box.x.size)
    readings = _readings(raw, config)
    _check_distinct(readings)
    light = [reading.light for reading in readings]
    ghosted = [np.zeros(each.shape, bool) for each in light]
    if crosstalk is not None:
        linear, quadratic = crosstalk_matrices(crosstalk, [reading.amplifier.name for reading in readings])
        ghosted = _ghosted(light, (linear != 0) | (quadratic != 0), config.crosstalk_mask)
        light = remove_crosstalk(light, linear, quadratic)
    pixels, noise, gain = (np.full(shape, np.nan) for _ in range(3))
    planes = {name: np.zeros(shape, bool) for name in ("SATURATED", "SUSPECT", "CROSSTALK", "BAD", "UNMASKED_NAN")}
    for reading, values, ghost in zip(readings, light, ghosted, strict=True):
        here = _slices(reading.amplifier.bbox, box)
        pixels[here] = reading.mirrored(values)
        full, levels = reading.mirrored(reading.full), reading.calibration
        noise[here], gain[here] = levels.read_noise, levels.gain
        planes["SATURATED"][here] = full >= levels.saturation
        planes["SUSPECT"][here] = full >= levels.suspect_level
        planes["CROSSTALK"][here] = reading.mirrored(ghost)
        planes["BAD"][here] = reading.dead or reading.noise > config.max_read_noise
        planes["BAD"][here] |= reading.mirrored(reading.light) * levels.gain < -config.max_below * levels.read_noise
        planes["UNMASKED_NAN"][here] = ~np.isfinite(full)
    planes["SATURATED"] = grow(without_gaps(planes["SATURATED"]), config.saturation_grow)
    return Assembled(pixels=pixels, noise=noise, gain=gain, planes=planes)


def overscan_noise(raw: VisitImage, config: IsrConfig) -> dict[str, float]:
    """Measure the read noise of every amplifier in its overscan: name -> noise [electron], NaN without overscan."""
    return {reading.amplifier.name: reading.noise for reading in _readings(raw, config)}


def amplifier_sections(raw: VisitImage, config: IsrConfig) -> list[Floats]:
    """Give the light of every amplifier in readout order, over its overscan level [adu]."""
    return [reading.light for reading in _readings(raw, config)]


def defect_mask(defects: Table, box: Box) -> Bools:
    """Mark the boxes of a table of defects.

    Parameters
    ----------
    defects
        ``x0``, ``y0``, ``width``, ``height`` [pixel]; what lies outside is left out.
    box
        The assembled detector.

    Returns
    -------
    ndarray of bool
        (ny, nx).

    Raises
    ------
    BadInput
        When a column is missing.
    """
    missing = [name for name in BOX_COLUMNS if name not in defects.colnames]
    if missing:
        raise BadInput(
            f"the table of defects lacks {', '.join(missing)}", hint=f"it has {', '.join(defects.colnames)}"
        )
    # corners of boxes, summed up twice: no loop over boxes
    x0, y0, width, height = (np.asarray(defects[name], int) for name in BOX_COLUMNS)
    left, right = (np.clip(x - box.x.start, 0, box.x.size) for x in (x0, x0 + width))
    low, high = (np.clip(y - box.y.start, 0, box.y.size) for y in (y0, y0 + height))
    corners = np.zeros((box.y.size + 1, box.x.size + 1), int)
    for y, x, sign in ((low, left, 1), (low, right, -1), (high, left, -1), (high, right, 1)):
        np.add.at(corners, (y, x), sign)
    return np.cumsum(np.cumsum(corners, axis=0), axis=1)[:-1, :-1] > 0


def _readings(raw: VisitImage, config: IsrConfig) -> list[_Reading]:
    """Read all amplifiers of a frame."""
    array = np.asarray(raw.image.array, np.float64)
    return [_read(array, raw.bbox, amplifier, config) for amplifier in raw.detector.amplifiers]


def _read(array: Floats, start: Box, amplifier: Amplifier, config: IsrConfig) -> _Reading:
    """Take the overscan levels off one amplifier."""
    geometry, calibration = _facts(amplifier)
    full = array[_slices(geometry.data_bbox, start)]
    light, noise = full, np.nan
    beside = _has(geometry.serial_overscan_bbox, geometry)
    if beside:
        serial = _serial(array, start, geometry, geometry.data_bbox.y)
        level = overscan_level(serial, config.overscan)
        light = full - level[:, None]
        noise = _noise(serial[:, config.overscan.skip :]) * calibration.gain
    parallel = geometry.parallel_overscan_bbox
    if config.parallel_overscan.method != "none" and _has(parallel, geometry):
        rows = array[_slices(parallel, start)]
        if beside:
            rows = rows - overscan_level(_serial(array, start, geometry, parallel.y), config.overscan)[:, None]
        # columns become rows, and the pixels next to the light come first
        columns = (rows if parallel.y.start >= geometry.data_bbox.y.stop else rows[::-1]).T
        level = overscan_level(columns, config.parallel_overscan)
        light = light - level[None, :]
        if not beside:
            noise = _noise(columns[:, config.parallel_overscan.skip :]) * calibration.gain
    return _Reading(
        amplifier=amplifier, geometry=geometry, calibration=calibration, light=light, full=full, noise=noise
    )


def _facts(amplifier: Amplifier) -> tuple[AmplifierRawGeometry, AmplifierCalibrations]:
    geometry, calibration = amplifier.assembled_raw_geometry, amplifier.nominal_calibrations
    if geometry is None or calibration is None:
        raise BadInput(
            f"amplifier {amplifier.name} has no raw geometry, gain and read noise",
            hint="describe it with `nightlab.images.camera.make_amplifier`",
            amplifier=amplifier.name,
        )
    if not (calibration.gain > 0 and calibration.read_noise >= 0):
        raise BadInput(
            f"amplifier {amplifier.name} has gain {calibration.gain} and read noise {calibration.read_noise}",
            hint="both must be known and positive; look at the header of the raw file",
            amplifier=amplifier.name,
        )
    return geometry, calibration


def _has(section: Box, geometry: AmplifierRawGeometry) -> bool:
    """Say whether a section exists; one outside the amplifier says that there is none."""
    return section.x.size > 0 and section.y.size > 0 and geometry.bbox.contains(section)


def _serial(array: Floats, start: Box, geometry: AmplifierRawGeometry, rows: Interval) -> Floats:
    """Give the serial overscan beside some rows, the pixels next to the light first."""
    columns = geometry.serial_overscan_bbox.x
    section = array[_slices(Box(rows, columns), start)]
    return section if columns.start >= geometry.data_bbox.x.stop else section[:, ::-1]


def _noise(overscan: Floats) -> float:
    """Give the read noise from pixels read one after the other, whatever level and structure they share."""
    steps = np.diff(overscan, axis=1) / np.sqrt(2.0)
    steps = steps[np.isfinite(steps)]
    if not steps.size:
        return float("nan")
    sigma = robust_width(steps) or float(steps.std())
    return float(steps[np.abs(steps) <= 4.0 * sigma].std())


def _check_distinct(readings: Sequence[_Reading]) -> None:
    """Two amplifiers never read the same noise, in whatever direction."""
    alive = [reading for reading in readings if not reading.constant]
    for first, second in combinations(alive, 2):
        flips = [flip for flip in _FLIPS if _same(first.full, second.full[flip])]
        if flips:
            names = first.amplifier.name, second.amplifier.name
            turned = "" if flips[0] == _FLIPS[0] else ", mirrored"
            raise BadInput(
                f"the amplifiers {names[0]} and {names[1]} have the same pixels{turned}",
                hint="the file, or the geometry that says where they are, has one of them twice",
                amplifiers=names,
            )


_FLIPS = [(slice(None, None, y), slice(None, None, x)) for y in (1, -1) for x in (1, -1)]


def _same(one: Floats, other: Floats) -> bool:
    """Compare two sections, their first rows before the rest."""
    return one.shape == other.shape and all(
        np.array_equal(one[rows], other[rows], equal_nan=True) for rows in (slice(0, 1), slice(None))
    )


def _ghosted(light: Sequence[Floats], pairs: Bools, threshold: float) -> list[Bools]:
    bright = np.stack([each > threshold for each in light])
    if not bright.any():
        return [np.zeros(each.shape, bool) for each in light]
    return [bright[row].any(axis=0) for row in pairs]


def exposed(raw: VisitImage) -> float:
    """Give the time of an exposure [s].

    Raises
    ------
    BadInput
        When the header does not say.
    """
    seconds = exposure_time(raw)
    if not (np.isfinite(seconds) and seconds >= 0):
        raise BadInput(
            "the exposure time is unknown and a dark frame is to be scaled by it",
            hint="complete the header of the raw file, or do without a dark",
            found=seconds,
        )
    return seconds


def _slices(inner: Box, outer: Box) -> tuple[slice, slice]:
    return (
        slice(inner.y.start - outer.y.start, inner.y.stop - outer.y.start),
        slice(inner.x.start - outer.x.start, inner.x.stop - outer.x.start),
    )


def _adu(bias: Image | None, box: Box, gain: Floats) -> Floats | float:
    if bias is None:
        return 0.0
    values = calibration_pixels(bias, box, "bias")
    return values / gain if bias.unit == u.electron else values


def calibration_pixels(image: Image, box: Box, what: str) -> Floats:
    """Give the pixels of a calibration frame on the assembled detector.

    Raises
    ------
    ShapeError
        When it does not cover the detector.
    """
    if not image.bbox.contains(box):
        raise ShapeError(
            f"the {what} covers {image.bbox} but the assembled detector is {box}",
            hint=f"use the {what} of this detector, assembled and without overscan",
            found=tuple(image.array.shape),
            needed=(box.y.size, box.x.size),
        )
    return np.asarray(image[box].array, dtype=np.float64)


def interpolate_pixels(pixels: Floats, missing: Bools, reach: int = 4) -> Floats:
    """Fill pixels from their neighbours.

    Every missing pixel becomes the mean of the pixels at hand within `reach`, weighted by a Gaussian of sigma 1 pixel;
    one with no neighbour at hand keeps its value.
    """
    y, x = np.nonzero(missing)
    if not y.size:
        return pixels
    offset = np.arange(-reach, reach + 1)
    dy, dx = (grid.ravel() for grid in np.meshgrid(offset, offset, indexing="ij"))
    yy, xx = y[:, None] + dy[None, :], x[:, None] + dx[None, :]
    inside = (yy >= 0) & (yy < pixels.shape[0]) & (xx >= 0) & (xx < pixels.shape[1])
    yy, xx = np.where(inside, yy, 0), np.where(inside, xx, 0)
    weight = np.exp(-0.5 * (dx**2 + dy**2))[None, :] * (inside & ~missing[yy, xx])
    total = weight.sum(axis=1)
    found = total > 0
    out = pixels.copy()
    mean = (weight * np.where(weight > 0, pixels[yy, xx], 0.0)).sum(axis=1)
    out[y[found], x[found]] = mean[found] / total[found]
    return out
