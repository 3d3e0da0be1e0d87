"""The working copy of a detector while it is being calibrated: plain arrays and what is known about them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import astropy.units as u
import numpy as np
from lsst.images import VisitImage
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, find_objects, label

from nightlab.errors import AllMasked

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
UNUSABLE = ("BAD", "NO_DATA", "UNMASKED_NAN")
MAX_BELOW = 100.0  # errors below zero that light cannot be


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One detector in instrumental units.

    Attributes
    ----------
    pixels, variance
        (ny, nx) in `unit` and `unit` squared; finite wherever `usable`.
    planes
        Mask planes by name, each (ny, nx).
    x0, y0
        Detector coordinates of the first pixel.
    unit
        ``adu`` or ``electron``.
    gain
        Electrons per `unit`; NaN when unknown.
    """

    pixels: Floats
    variance: Floats
    planes: dict[str, Bools]
    x0: int
    y0: int
    unit: u.UnitBase
    gain: float

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def flagged(self, *names: str) -> Bools:
        """Give the pixels with any of the named planes set."""
        out = np.zeros(self.shape, dtype=bool)
        for name in names:
            if name in self.planes:
                out |= self.planes[name]
        return out

    @property
    def usable(self) -> Bools:
        """The (ny, nx) pixels that hold a measurement, saturated and interpolated ones included."""
        return ~self.flagged(*UNUSABLE) & np.isfinite(self.pixels)

    def with_planes(self, **planes: Bools) -> Frame:
        """Set more pixels of some planes."""
        merged = dict(self.planes)
        for name, where in planes.items():
            merged[name] = merged[name] | where if name in merged else where
        return replace(self, planes=merged)


def corrected_frame(image: VisitImage) -> Frame:
    """Take over a frame that arrives free of its instrument's signature.

    Pixels that are not finite, or whose variance is not positive, become NO_DATA. What an integer too small for the
    light has wrapped around is marked: pixels below zero by more than 100 errors are BAD, and holes of saturated
    regions are SATURATED.
    """
    pixels = np.array(image.image.array, dtype=np.float64)
    variance = np.array(image.variance.array, dtype=np.float64)
    planes = {name: image.mask.get(name) for name in sorted(image.mask.schema.names)}
    with np.errstate(invalid="ignore"):
        planes["BAD"] = planes.get("BAD", False) | (pixels < -MAX_BELOW * np.sqrt(np.maximum(variance, 0.0)))
    planes["SATURATED"] = without_gaps(planes.get("SATURATED", np.zeros(pixels.shape, dtype=bool)))
    frame = Frame(
        pixels=pixels,
        variance=variance,
        planes={name: where for name, where in planes.items() if where.any()},
        x0=image.bbox.x.start,
        y0=image.bbox.y.start,
        unit=image.unit,
        gain=_gain(image),
    )
    return without_holes(frame)


def without_gaps(saturated: Bools) -> Bools:
    """Fill the holes of saturated regions (ny, nx): the core of a star can have run over and read as little."""
    regions, n = label(saturated)
    out = saturated.copy()
    for here in find_objects(regions) if n else ():
        if min(part.stop - part.start for part in here) > 2:
            out[here] |= binary_fill_holes(regions[here] > 0)
    return out


def without_holes(frame: Frame) -> Frame:
    """Mark pixels without a finite value and a positive variance as NO_DATA, and make them harmless.

    Raises
    ------
    AllMasked
        When no pixel is left.
    """
    hole = ~(np.isfinite(frame.pixels) & np.isfinite(frame.variance) & (frame.variance > 0))
    frame = frame.with_planes(NO_DATA=hole) if hole.any() else frame
    good = frame.usable & ~hole
    if not good.any():
        raise AllMasked(
            "the frame has no usable pixel: every one is NaN, masked, or without positive variance",
            hint="look at the raw file and at its mask",
            pixels=int(good.size),
        )
    if hole.any():
        pixels = np.where(hole, np.median(frame.pixels[good]), frame.pixels)
        variance = np.where(hole, np.median(frame.variance[good]), frame.variance)
        frame = replace(frame, pixels=pixels, variance=variance)
    return frame


def _gain(image: VisitImage) -> float:
    if image.unit == u.electron:
        return 1.0
    if "gain" in image.metadata:
        return float(image.metadata["gain"])
    gains = [a.nominal_calibrations.gain for a in image.detector.amplifiers if a.nominal_calibrations is not None]
    return float(np.mean(gains)) if gains else float("nan")
