"""Catalogues drawn over images; dense ones become a picture themselves, and rows are found on the server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from nightlab.dashboards.images.draw import Box
from nightlab.dashboards.images.layers import Layer
from nightlab.images.footprints import Footprints
from nightlab.images.wcs import radec_to_pixel

Floats = NDArray[np.float64]

#: More rows than this in view are drawn as a picture of where there are any.
MOST = 5000
#: Borders of footprints with more corners than this in view are drawn as marks on their peaks.
CORNERS = 60_000
COLOURS = ("#12b5a5", "#e0559a", "#7aa6ff", "#c6d33b")


@dataclass(frozen=True, eq=False)
class Marks:
    """Rows of a catalogue as marks on images.

    Attributes
    ----------
    table
        With ``ra`` and ``dec`` [deg], or ``x`` and ``y``, or both.
    id_column
        Column that names a row; empty when none does.
    shown
        Columns told when the pointer is near a row.
    colour, marker
        Of the marks; a Bokeh marker.
    size
        Of the marks, in screen pixels.
    footprints
        Regions that the rows are, in their order; their borders are drawn in place of marks on images of their grid.
    """

    table: Table
    id_column: str = ""
    shown: tuple[str, ...] = ()
    colour: str = COLOURS[0]
    marker: str = "circle"
    size: int = 10
    footprints: Footprints | None = None
    _places: dict[int, tuple[Layer, Floats, Floats]] = field(default_factory=dict, repr=False)

    @classmethod
    def of_footprints(cls, footprints: Footprints, **look: Any) -> Self:
        """Take each footprint as a row, at the highest of its peaks."""
        order = np.lexsort((-np.abs(footprints.peak_significance), footprints.peak_of))
        # a footprint without a peak is not known by any place
        held, first = np.unique(footprints.peak_of[order], return_index=True)
        best = order[first]
        table = Table({"footprint": held, "x": footprints.peak_x[best], "y": footprints.peak_y[best],
                       "snr": footprints.peak_significance[best], "pixels": footprints.area[held],
                       "peaks": footprints.n_peaks[held]})  # fmt: skip
        return cls(table, "footprint", ("snr", "pixels", "peaks"), footprints=footprints, **look)

    def drawn(self, layer: Layer, box: Box) -> dict[str, dict[str, Any]]:
        """Give the data of ``marks``, ``crowd`` or ``borders``, whichever suits what a pane shows of a layer."""
        borders = self.borders(layer, box.edges)
        if borders is not None:
            return {"borders": {"x": borders[0], "y": borders[1]}}
        rows = self.within(layer, box.edges)
        x, y = (values[rows] for values in self.on(layer))
        if rows.size <= MOST:
            return {"marks": {"x": x.tolist(), "y": y.tolist()}}
        where = {"x": [box.x1], "y": [box.y1], "dw": [box.x2 - box.x1], "dh": [box.y2 - box.y1]}
        return {"crowd": {"image": [occupied(x, y, box.edges, box.width, box.height)], **where}}

    def borders(self, layer: Layer, box: tuple[float, float, float, float]) -> Floats | None:
        """Closed lines around the footprints that reach into a box of pixels, as (2, k) x and y, NaN between lines.

        None where there are no footprints on this image's grid, or too many to be drawn one by one.
        """
        box_of = self.footprints.box if self.footprints is not None else None
        if box_of is None or (box_of.y.start, box_of.x.start, *box_of.shape) != (layer.y0, layer.x0, *layer.shape):
            return None
        lines, limits = self._lines
        x0, x1, y0, y1 = box
        seen = (limits[:, 0] <= x1) & (limits[:, 1] >= x0) & (limits[:, 2] <= y1) & (limits[:, 3] >= y0)
        rows = np.flatnonzero(seen).tolist()
        if sum(lines[row].shape[1] for row in rows) > CORNERS:
            return None
        return np.concatenate([np.full((2, 0), np.nan, np.float32), *(lines[row] for row in rows)], axis=1)

    @cached_property
    def _lines(self) -> tuple[Sequence[NDArray[np.float32]], Floats]:
        """Borders of all footprints, (2, k) each with NaN at its end, and their first and last x and y, as (n, 4)."""
        from contourpy import LineType, contour_generator

        assert self.footprints is not None, "there are no footprints"
        box = self.footprints.box
        # halfway between the pixels inside and those outside, around the image too
        inside = np.pad(self.footprints.mask(), 1).astype(np.float32)
        found: Any = contour_generator(z=inside, line_type=LineType.Separate).lines(0.5)
        start = np.array([[box.x.start - 1], [box.y.start - 1]])
        lines = [line.T + start for line in found]
        limits = np.array([[x.min(), x.max(), y.min(), y.max()] for x, y in lines]).reshape(-1, 4)
        return [np.pad(line, ((0, 0), (0, 1)), constant_values=np.nan).astype(np.float32) for line in lines], limits

    def on(self, layer: Layer) -> tuple[Floats, Floats]:
        """Pixel coordinates of all rows on a layer; NaN where they cannot be known."""
        kept = self._places.get(id(layer))
        if kept is None or kept[0] is not layer:
            kept = self._places[id(layer)] = (layer, *self._find(layer))
        return kept[1], kept[2]

    def within(self, layer: Layer, box: tuple[float, float, float, float]) -> NDArray[np.intp]:
        """Rows within a box of pixels."""
        x, y = self.on(layer)
        return np.flatnonzero((x >= box[0]) & (x <= box[1]) & (y >= box[2]) & (y <= box[3]))

    def nearest(self, layer: Layer, x: float, y: float, radius: float) -> int | None:
        """The row nearest to a pixel, within `radius` pixels of it."""
        px, py = self.on(layer)
        good = np.flatnonzero(np.isfinite(px) & np.isfinite(py))
        if not good.size:
            return None
        near = good[(np.abs(px[good] - x) <= radius) & (np.abs(py[good] - y) <= radius)]
        if not near.size:
            return None
        distance, which = cKDTree(np.stack([px[near], py[near]], 1)).query([x, y])
        return int(near[which]) if distance <= radius else None

    def row_id(self, row: int) -> str:
        """What a row is called; text, since browsers lose digits of long integers."""
        return str(self.table[self.id_column][row]) if self.id_column else str(row)

    def describe(self, row: int) -> str:
        """Tell a row in a line."""
        parts = [f"{name} {_short(self.table[name][row])}" for name in self.shown if name in self.table.colnames]
        return " · ".join([f"{self.id_column or 'row'} {self.row_id(row)}", *parts])

    def _find(self, layer: Layer) -> tuple[Floats, Floats]:
        names = self.table.colnames
        if layer.projection is not None and {"ra", "dec"} <= set(names):
            return radec_to_pixel(layer.projection, _floats(self.table["ra"]), _floats(self.table["dec"]))
        if {"x", "y"} <= set(names):
            return _floats(self.table["x"]), _floats(self.table["y"])
        nowhere = np.full(len(self.table), np.nan)
        return nowhere, nowhere


def occupied(
    x: Floats, y: Floats, box: tuple[float, float, float, float], width: float, height: float
) -> NDArray[np.uint8]:
    """Draw points as a picture: (rows, columns) of cells of 3 screen pixels, 1 where there is a point, else 0."""
    shape = max(1, int(height // 3)), max(1, int(width // 3))
    column = ((x - box[0]) / (box[1] - box[0]) * shape[1]).astype(int).clip(0, shape[1] - 1)
    row = ((y - box[2]) / (box[3] - box[2]) * shape[0]).astype(int).clip(0, shape[0] - 1)
    picture = np.zeros(shape, np.uint8)
    picture[row, column] = 1
    return picture


def _floats(column: Any) -> Floats:
    return np.ma.filled(np.ma.asarray(column, dtype=float), np.nan)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
