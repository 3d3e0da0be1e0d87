"""Small pieces of science, template and difference image around a place on the sky, and why one is missing."""

from __future__ import annotations

import base64
import struct
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from lsst.images import Box
from numpy.typing import NDArray

from nightlab.dashboards.images.scaling import find_limits, look_for, palette, to_indices
from nightlab.dashboards.images.sky import compass
from nightlab.data.runs import Run
from nightlab.errors import MissingData
from nightlab.images.wcs import pixel_scale, radec_to_pixel

#: What a triplet shows: its name for people, the dataset, and how it is drawn.
TRIPLET = (
    ("science", "visit_image", "flux"),
    ("template", "template_detector", "flux"),
    ("difference", "difference_image", "difference"),
)
OUTSIDE, NOT_WRITTEN, READ_FAILED = "outside footprint", "not written", "read failed"


@dataclass(frozen=True)
class Cutout:
    """A piece of an image, exactly as it was written.

    Attributes
    ----------
    title
        ``science``, ``template`` or ``difference``.
    kind
        ``flux`` or ``difference``.
    values
        (n, n) float32, NaN beyond the edges; None when there is a `reason`.
    x0, y0
        Pixel coordinates of ``values[0, 0]``.
    x, y
        Pixel coordinates of the place asked for.
    unit
        Of the values.
    north
        Unit vectors (x, y) that point north and east, in pixels.
    reason
        Why there is nothing: begins with `OUTSIDE`, `NOT_WRITTEN` or `READ_FAILED`.
    """

    title: str
    kind: str = "flux"
    values: NDArray[np.float32] | None = None
    x0: int = 0
    y0: int = 0
    x: float = np.nan
    y: float = np.nan
    unit: str = ""
    north: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 1.0), (-1.0, 0.0))
    reason: str = ""


@dataclass(frozen=True)
class Lobe:
    """One lobe of a dipole: where it is [pixel], and whether it is the positive one."""

    x: float
    y: float
    positive: bool


class CutoutReader:
    """Reads cutouts of a run, and remembers the last few hundred.

    Parameters
    ----------
    run
        Whose images.
    capacity
        How many cutouts are kept; one of 51 x 51 pixels takes 10 kB.
    """

    def __init__(self, run: Run, capacity: int = 600) -> None:
        self.run = run
        self.capacity = capacity
        self.reads = 0
        self._kept: OrderedDict[tuple[Any, ...], Cutout] = OrderedDict()
        self._geometry: OrderedDict[Any, tuple[Any, Box]] = OrderedDict()

    def triplet(self, ra: float, dec: float, visit: int, detector: int, half: int = 25) -> list[Cutout]:
        """Read science, template and difference of one exposure.

        Parameters
        ----------
        ra, dec
            Centre, ICRS [deg].
        visit, detector
            The exposure.
        half
            Pixels on either side of the central one.
        """
        return [self.cutout(title, ra, dec, visit, detector, half) for title, _, _ in TRIPLET]

    def cutout(self, title: str, ra: float, dec: float, visit: int, detector: int, half: int = 25) -> Cutout:
        """Read one of the three; what cannot be had comes back with a reason, not as an error."""
        key = (title, round(ra, 8), round(dec, 8), visit, detector, half)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        dataset, kind = next((dataset, kind) for name, dataset, kind in TRIPLET if name == title)
        try:
            made = replace(self._read(dataset, ra, dec, visit, detector, half), title=title, kind=kind)
        except MissingData:
            made = Cutout(title, kind, reason=f"{NOT_WRITTEN}: the run has no {dataset} of visit {visit}")
        except Exception as error:  # whatever a broken file makes its reader raise
            made = Cutout(title, kind, reason=f"{READ_FAILED}: {type(error).__name__}: {error}"[:200])
        self._kept[key] = made
        while len(self._kept) > self.capacity:
            self._kept.popitem(last=False)
        return made

    def scale(self, visit: int, detector: int) -> float:
        """Size of a pixel of an exposure's difference image [arcsec]; NaN where there is none."""
        try:
            projection, box = self._place(self.run.ref("difference_image", visit=visit, detector=detector))
        except MissingData:
            return np.nan
        return pixel_scale(projection, box.x.center, box.y.center)

    def _place(self, ref: Any) -> tuple[Any, Box]:
        """Projection and box of an image, without its pixels."""
        if ref.id not in self._geometry:
            projection, box = (self.run.butler.get(ref.makeComponentRef(name)) for name in ("sky_projection", "bbox"))
            self._geometry[ref.id] = projection, box
            while len(self._geometry) > self.capacity:
                self._geometry.popitem(last=False)
        return self._geometry[ref.id]

    def _read(self, dataset: str, ra: float, dec: float, visit: int, detector: int, half: int) -> Cutout:
        ref = self.run.ref(dataset, visit=visit, detector=detector)
        projection, box = self._place(ref)
        (x,), (y,) = radec_to_pixel(projection, [ra], [dec])
        if not (np.isfinite(x) and np.isfinite(y)):
            return Cutout("", reason=f"{OUTSIDE}: the position is not on this image")
        x0, y0, size = round(float(x)) - half, round(float(y)) - half, 2 * half + 1
        left, right = max(x0, box.x.start), min(x0 + size, box.x.stop)
        bottom, top = max(y0, box.y.start), min(y0 + size, box.y.stop)
        if left >= right or bottom >= top:
            return Cutout("", x=float(x), y=float(y), reason=f"{OUTSIDE}: ({x:.0f}, {y:.0f}) is not on this image")
        wanted = Box.from_shape((top - bottom, right - left), start=(bottom, left))
        self.reads += 1
        image = self.run.butler.get(ref.makeComponentRef("image"), parameters={"bbox": wanted})
        values = np.full((size, size), np.nan, dtype=np.float32)
        values[bottom - y0 : top - y0, left - x0 : right - x0] = image.array
        return Cutout(
            "", values=values, x0=x0, y0=y0, x=float(x), y=float(y), unit=str(image.unit or ""),
            north=compass(projection, float(x), float(y)),
        )  # fmt: skip


def dipole_lobes(x: float, y: float, length: float, angle: float, scale: float) -> tuple[Lobe, ...]:
    """Find the lobes of a dipole.

    Parameters
    ----------
    x, y
        Middle between them [pixel].
    length
        Their distance [arcsec].
    angle
        From the negative to the positive lobe, counted from the x axis to the y axis [deg].
    scale
        Size of a pixel [arcsec].
    """
    if not np.isfinite([x, y, length, angle, scale]).all():
        return ()
    dx = 0.5 * length / scale * np.cos(np.deg2rad(angle))
    dy = 0.5 * length / scale * np.sin(np.deg2rad(angle))
    return Lobe(x + dx, y + dy, True), Lobe(x - dx, y - dy, False)


def drawn(cutout: Cutout) -> tuple[NDArray[np.uint8], str, float, float]:
    """Turn the pixels of a cutout into indices of a palette: (n, n) 8 bit, name of the palette, lower, upper limit."""
    assert cutout.values is not None, "a cutout with a reason has no pixels"
    look = look_for(cutout.kind)
    limits = find_limits(cutout.values, look)
    return to_indices(cutout.values, look, limits), look.colours, limits.low, limits.high


def png(indices: NDArray[np.uint8], colours: Sequence[str]) -> str:
    """Write an image with a palette as a PNG inside a ``data:`` address; row 0 is at the bottom."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = indices.shape
    rows = np.zeros((height, width + 1), dtype=np.uint8)
    rows[:, 1:] = indices[::-1]
    file = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
    file += chunk(b"PLTE", b"".join(bytes.fromhex(colour.removeprefix("#")) for colour in colours))
    file += chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(file).decode()


def thumbnail(cutout: Cutout) -> str:
    """Draw a cutout as a PNG in a ``data:`` address; a cutout without pixels gives its reason instead."""
    if cutout.values is None:
        return cutout.reason
    indices, colours, _, _ = drawn(cutout)
    return png(indices, palette(colours))
