"""Instrument signature removal: from raw amplifiers in adu to a detector in electrons with its noise."""

from __future__ import annotations

import astropy.units as u
import numpy as np
from lsst.images import Box, Image, VisitImage
from lsst.images.cameras import Amplifier, AmplifierCalibrations, AmplifierRawGeometry
from numpy.typing import NDArray
from pydantic import Field

from nightlab.config import Config
from nightlab.errors import BadInput, ShapeError
from nightlab.numeric.photometry import grow
from nightlab.stages.single_frame.frame import Bools, Floats, Frame, without_holes


class IsrConfig(Config):
    """Knobs of instrument signature removal."""

    saturation_grow: float = Field(default=1.0, ge=0, description="growth of saturated regions [pixel]")
    min_flat: float = Field(
        default=0.1, gt=0, description="flat values below this make a pixel BAD (fraction of the mean)"
    )


def needs_isr(raw: VisitImage) -> bool:
    """Say whether an image still consists of raw amplifiers with overscan."""
    return bool(raw.detector.amplifiers) and raw.bbox != raw.detector.bbox


def remove_signature(raw: VisitImage, bias: Image | None, flat: Image | None, config: IsrConfig) -> Frame:
    """Assemble, debias, calibrate to electrons and flatten a raw detector.

    Per amplifier: the median of each row's serial overscan is taken away, the data section is mirrored into place and
    multiplied by the gain. Bias is subtracted before the gain when it is in adu, after it when in electrons. The
    variance is max(I, 0) + RN^2 [electron^2] before the flat, and divided by the flat squared with it.

    Parameters
    ----------
    raw
        Raw detector in adu; `raw.detector.amplifiers` carries the geometry on the raw grid.
    bias, flat
        Assembled calibration frames: what is left after overscan [adu or electron], and relative sensitivity.
    config
        Knobs.

    Raises
    ------
    BadInput
        When an amplifier lacks geometry, gain or read noise.
    ShapeError
        When a calibration frame does not cover the assembled detector.
    """
    box = raw.detector.bbox
    shape = (box.y.size, box.x.size)
    pixels, noise = np.full(shape, np.nan), np.full(shape, np.nan)
    gains = np.full(shape, np.nan)
    saturated = np.zeros(shape, dtype=bool)
    array, start = np.asarray(raw.image.array, dtype=np.float64), raw.bbox
    for amplifier in raw.detector.amplifiers:
        geometry, calibration = _facts(amplifier)
        here = _slices(amplifier.bbox, box)
        data, full = _read_amplifier(array, start, geometry)
        pixels[here] = data
        saturated[here] = full >= calibration.saturation
        noise[here] = calibration.read_noise
        gains[here] = calibration.gain
    pixels = (pixels - _adu(bias, box, shape, gains)) * gains
    variance = np.maximum(pixels, 0.0) + noise**2
    bad = np.zeros(shape, dtype=bool)
    if flat is not None:
        response = _calibration(flat, box, shape, "flat")
        bad = ~(response >= config.min_flat)  # NaN is bad too
        response = np.where(bad, 1.0, response)
        pixels, variance = pixels / response, variance / response**2
    frame = Frame(
        pixels=pixels,
        variance=variance,
        planes={"SATURATED": grow(saturated, config.saturation_grow), "BAD": bad},
        x0=box.x.start,
        y0=box.y.start,
        unit=u.electron,
        gain=1.0,
    )
    return without_holes(frame)


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


def _read_amplifier(array: Floats, start: Box, geometry: AmplifierRawGeometry) -> tuple[Floats, Floats]:
    """Give the data section without overscan level and as read, both mirrored into place."""
    data = array[_slices(geometry.data_bbox, start)]
    level = np.zeros((data.shape[0], 1))
    if geometry.serial_overscan_bbox.x.size > 0:
        overscan = array[_slices(geometry.serial_overscan_bbox, start)]
        read = np.isfinite(overscan).any(axis=1)
        level[~read] = np.nan
        level[read] = np.nanmedian(overscan[read], axis=1, keepdims=True)
    rows, columns = (slice(None, None, -1) if flip else slice(None) for flip in (geometry.flip_y, geometry.flip_x))
    return (data - level)[rows, columns], data[rows, columns]


def _slices(inner: Box, outer: Box) -> tuple[slice, slice]:
    return (
        slice(inner.y.start - outer.y.start, inner.y.stop - outer.y.start),
        slice(inner.x.start - outer.x.start, inner.x.stop - outer.x.start),
    )


def _adu(bias: Image | None, box: Box, shape: tuple[int, int], gains: Floats) -> Floats | float:
    if bias is None:
        return 0.0
    values = _calibration(bias, box, shape, "bias")
    return values / gains if bias.unit == u.electron else values


def _calibration(image: Image, box: Box, shape: tuple[int, int], what: str) -> NDArray[np.float64]:
    if not image.bbox.contains(box):
        raise ShapeError(
            f"the {what} covers {image.bbox} but the assembled detector is {box}",
            hint=f"use the {what} of this detector, assembled and without overscan",
            found=tuple(image.array.shape),
            needed=shape,
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
