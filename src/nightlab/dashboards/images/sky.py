"""Where layers lie on the sky, and how the pixels of one fall on another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from lsst.images import SkyProjection
from numpy.typing import NDArray

from nightlab.dashboards.images.layers import Layer
from nightlab.images.wcs import jacobian, pixel_to_radec, radec_to_pixel

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """A linear map of pixels: ``matrix @ (x, y) + shift``."""

    matrix: tuple[tuple[float, float], tuple[float, float]] = ((1.0, 0.0), (0.0, 1.0))
    shift: tuple[float, float] = (0.0, 0.0)

    def __call__(self, x: float, y: float) -> tuple[float, float]:
        """Map a pixel."""
        (a, b), (c, d) = self.matrix
        return a * x + b * y + self.shift[0], c * x + d * y + self.shift[1]

    @property
    def scale(self) -> float:
        """How many pixels of the second image one of the first spans."""
        (a, b), (c, d) = self.matrix
        return float(np.sqrt(abs(a * d - b * c)))


SAME = Affine()


def sky_link(first: SkyProjection, second: SkyProjection, x: float, y: float) -> Affine:
    """Say where pixels of one image fall on another, exactly at (x, y) and linearly around it."""
    forward, backward = jacobian(first, x, y), jacobian(second, *_carry(first, second, x, y))
    matrix = np.linalg.solve(backward, forward)
    there = _carry(first, second, x, y)
    shift = np.array(there) - matrix @ (x, y)
    rows = [(float(row[0]), float(row[1])) for row in matrix]
    return Affine((rows[0], rows[1]), (float(shift[0]), float(shift[1])))


@dataclass(frozen=True)
class LinkState:
    """How the views of several layers hang together.

    Attributes
    ----------
    pixels, sky
        Whether they can be linked that way.
    why
        What stands against the ways that are not possible.
    """

    pixels: bool
    sky: bool
    why: str = ""

    @property
    def best(self) -> str:
        """``pixels`` where that is possible, else ``sky``, else ``off``."""
        return "pixels" if self.pixels else "sky" if self.sky else "off"


def link_state(layers: dict[str, Layer]) -> LinkState:
    """Find out which links are possible between layers."""
    if len(layers) < 2:
        return LinkState(True, all(layer.projection is not None for layer in layers.values()), "")
    grids = {(layer.shape, layer.x0, layer.y0) for layer in layers.values()}
    blind = [name for name, layer in layers.items() if layer.projection is None]
    reasons = []
    if len(grids) > 1:
        reasons.append("pixels: the images differ in shape or place")
    if blind:
        reasons.append(f"sky: no WCS in {', '.join(blind)}")
    return LinkState(len(grids) == 1, not blind, "; ".join(reasons))


def sexagesimal(ra: float, dec: float) -> str:
    """Write a position as ``20:34:12.345 −00:12:33.40``, from ICRS degrees."""
    if not (np.isfinite(ra) and np.isfinite(dec)):
        return "–"
    thousandths = round(ra % 360.0 / 15 * 3_600_000) % 86_400_000
    hours, rest = divmod(thousandths, 3_600_000)
    minutes, rest = divmod(rest, 60_000)
    hundredths = round(abs(dec) * 360_000)
    degrees, left = divmod(hundredths, 360_000)
    arcmin, left = divmod(left, 6_000)
    sign = "−" if dec < 0 and hundredths else "+"
    return f"{hours:02d}:{minutes:02d}:{rest / 1000:06.3f} {sign}{degrees:02d}:{arcmin:02d}:{left / 100:05.2f}"


def compass(projection: SkyProjection, x: float, y: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Unit vectors in pixels towards north and towards east."""
    inverse = np.linalg.inv(jacobian(projection, x, y))
    east, north = inverse[:, 0], inverse[:, 1]
    north, east = north / np.linalg.norm(north), east / np.linalg.norm(east)
    return (float(north[0]), float(north[1])), (float(east[0]), float(east[1]))


def grid_lines(
    projection: SkyProjection, box: tuple[float, float, float, float]
) -> tuple[list[Floats], list[Floats], list[tuple[float, float, str]]]:
    """Lines of equal right ascension and declination within a box of pixels.

    Returns
    -------
    xs, ys
        Pixel coordinates of the lines.
    labels
        For each line, a place within the box, and what it says.
    """
    x1, x2, y1, y2 = box
    edge = np.linspace(0, 1, 9)
    x = np.concatenate([x1 + (x2 - x1) * edge] * 3)
    y = np.repeat([y1, (y1 + y2) / 2, y2], 9)
    ra, dec = pixel_to_radec(projection, x, y)
    centre = ra[13]
    ra = (ra - centre + 180) % 360 - 180
    xs: list[Floats] = []
    ys: list[Floats] = []
    labels: list[tuple[float, float, str]] = []
    if not (np.isfinite(ra).all() and np.isfinite(dec).all()) or np.abs(dec).max() > 89.9:
        return xs, ys, labels
    step_dec = _round_step(float(np.ptp(dec)) / 4, _DEGREES)
    step_ra = _round_step(float(np.ptp(ra)) / 4, _HOURS)
    along_ra = np.linspace(ra.min(), ra.max(), 50) + centre
    along_dec = np.linspace(dec.min(), dec.max(), 50)
    for value in np.arange(np.ceil(dec.min() / step_dec), np.floor(dec.max() / step_dec) + 1) * step_dec:
        lx, ly = radec_to_pixel(projection, along_ra, np.full(50, value))
        _line(xs, ys, labels, lx, ly, box, sexagesimal(0, value).split()[1][:-3])
    first = np.ceil((ra.min() + centre) / step_ra)
    for value in np.arange(first, np.floor((ra.max() + centre) / step_ra) + 1) * step_ra:
        lx, ly = radec_to_pixel(projection, np.full(50, value), along_dec)
        _line(xs, ys, labels, lx, ly, box, sexagesimal(value, 0).split()[0][:-2])
    return xs, ys, labels


_DEGREES = [k / 3600 for k in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 18000)]
_HOURS = [15 * k for k in (d / 15 for d in _DEGREES[:5])] + [
    k / 240 for k in (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)
]


def _round_step(wanted: float, steps: list[float]) -> float:
    return next((step for step in sorted(steps) if step >= wanted), max(steps))


def _line(xs: list, ys: list, labels: list, x: Floats, y: Floats, box: tuple, text: str) -> None:
    inside = (x >= box[0]) & (x <= box[1]) & (y >= box[2]) & (y <= box[3])
    if inside.any():
        xs.append(x)
        ys.append(y)
        first = int(np.flatnonzero(inside)[0])
        labels.append((float(x[first]), float(y[first]), text))


def _carry(first: SkyProjection, second: SkyProjection, x: float, y: float) -> tuple[float, float]:
    there = radec_to_pixel(second, *pixel_to_radec(first, [x], [y]))
    return float(there[0][0]), float(there[1][0])
