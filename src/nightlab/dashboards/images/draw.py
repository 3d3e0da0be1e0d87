"""From a layer and a view box to the bytes that travel: which copy is sent, and what its pixels look like."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nightlab.dashboards.images.fits import region
from nightlab.dashboards.images.layers import Layer
from nightlab.dashboards.images.pyramid import LEVELS
from nightlab.dashboards.images.scaling import Limits, Look, cover, levels_beside, to_indices

#: Bytes that one pan or zoom may send, all panes together.
BUDGET = 640_000
#: Pixels along a side of the copy of the whole image that lies below, for the moments while one pans.
COARSE = 128
#: Pixels between pictures in a file.
GAP = 8


@dataclass(frozen=True)
class Box:
    """What a pane shows: edges in pixels of its layer, and its size on the screen."""

    x1: float
    x2: float
    y1: float
    y2: float
    width: float
    height: float

    @classmethod
    def of(cls, layer: Layer) -> Box:
        """All of a layer, 600 screen pixels wide."""
        (x, y), (ny, nx) = layer.middle, layer.shape
        return cls(x - nx / 2, x + nx / 2, y - ny / 2, y + ny / 2, 600.0, 600.0 * ny / nx)

    @property
    def edges(self) -> tuple[float, float, float, float]:
        """First and last x, first and last y."""
        return self.x1, self.x2, self.y1, self.y2

    @property
    def scale(self) -> float:
        """Pixels of the layer per pixel of the screen."""
        return (self.x2 - self.x1) / self.width


@dataclass(frozen=True, eq=False)
class Picture:
    """Indices of a palette, where their first pixel begins, and how many pixels each stands for."""

    indices: NDArray[np.uint8]
    x: float
    y: float
    level: int


@dataclass(frozen=True, eq=False)
class Drawing:
    """What would be sent: rows and columns of the copy at `level`, and how to make the picture."""

    level: int
    rows: tuple[int, int]
    columns: tuple[int, int]
    make: Callable[[], Picture]


def level_for(scale: float, pixels: int, share: int = 1) -> int:
    """Choose the copy for a view.

    Parameters
    ----------
    scale
        Image pixels per screen pixel: at 1 and below the image itself is sent.
    pixels
        Image pixels in view.
    share
        Panes that share the budget.
    """
    for level in (1, *LEVELS):
        if level >= scale * 0.999 and pixels / level**2 <= BUDGET / share:
            return level
    return LEVELS[-1]


def picture(layer: Layer, look: Look, limits: Limits, bits: tuple[int, ...], box: Box, share: int) -> Drawing:
    """Say how what is in view would be drawn.

    Parameters
    ----------
    layer, look, limits
        What, and how.
    bits
        Mask planes that are drawn, in the order of their colours; -1 for one that the layer lacks.
    box
        What is in view.
    share
        Panes that share the budget.
    """
    rows, columns = region(layer, box.edges, margin=1)
    height, width = rows.stop - rows.start, columns.stop - columns.start
    level = level_for(box.scale, height * width, share)
    first = rows.start // level, columns.start // level
    last = -(-rows.stop // level), -(-columns.stop // level)

    def make() -> Picture:
        return _cut(layer, look, limits, bits, level, slice(first[0], last[0]), slice(first[1], last[1]))

    return Drawing(level, (first[0], last[0]), (first[1], last[1]), make)


def coarse(layer: Layer, look: Look, limits: Limits, bits: tuple[int, ...]) -> Picture:
    """Draw all of a layer, small."""
    level = next((level for level in (1, *LEVELS) if max(layer.shape) <= COARSE * level), LEVELS[-1])
    return _cut(layer, look, limits, bits, level, slice(None), slice(None))


def png(pictures: Sequence[tuple[Picture, Box, list[str]]]) -> bytes:
    """Draw pictures side by side into a PNG file, each as large as it is on the screen.

    Parameters
    ----------
    pictures
        Indices, what the pane shows, and the colours of the indices.
    """
    width, height = (int(max(getattr(box, side) for _, box, _ in pictures)) for side in ("width", "height"))
    columns = 1 if len(pictures) == 1 else 2
    rows = -(-len(pictures) // columns)
    sheet = np.full((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 128, np.uint8)
    for k, (drawn, box, colours) in enumerate(pictures):
        # every screen pixel asks for the image pixel below it
        x = box.x1 + (np.arange(width) + 0.5) / width * (box.x2 - box.x1)
        y = box.y2 - (np.arange(height) + 0.5) / height * (box.y2 - box.y1)
        column = np.floor((x - drawn.x) / drawn.level).astype(int)
        row = np.floor((y - drawn.y) / drawn.level).astype(int)
        ny, nx = drawn.indices.shape
        inside = ((row >= 0) & (row < ny))[:, None] & ((column >= 0) & (column < nx))[None, :]
        table = np.array([[int(colour[j : j + 2], 16) for j in (1, 3, 5)] for colour in colours], np.uint8)
        pixels = table[drawn.indices[row.clip(0, ny - 1)][:, column.clip(0, nx - 1)]]
        pixels[~inside] = 128
        top, left = k // columns * (height + GAP), k % columns * (width + GAP)
        sheet[top : top + height, left : left + width] = pixels
    return encode_png(sheet)


def encode_png(rgb: NDArray[np.uint8]) -> bytes:
    """Write (ny, nx, 3) colours, the top row first, as a PNG file."""
    ny, nx, _ = rgb.shape
    lines = np.concatenate([np.zeros((ny, 1), np.uint8), rgb.reshape(ny, nx * 3)], axis=1)  # 0: lines are not filtered

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", nx, ny, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines.tobytes(), 6)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def caption(name: str, layer: Layer, limits: Limits, level: int) -> str:
    """Say in a line what a pane shows, and what is odd about it."""
    parts = [layer.title or name]
    if level > 1:
        parts.append(f"{'strongest' if layer.kind == 'snr' else 'mean'} of {level}×{level}")
    parts += [*layer.notes, *([limits.note] if limits.note else [])]
    if limits.ignored > 0:
        share = limits.ignored * 100
        parts.append(f"{share:.2g} % without value" if share >= 0.01 else "a few pixels without value")
    return "  ·  ".join(parts)


def _cut(
    layer: Layer, look: Look, limits: Limits, bits: tuple[int, ...], level: int, rows: slice, columns: slice
) -> Picture:
    whole = layer.values if level == 1 else layer.pyramid.values[level]
    origin = rows.start or 0, columns.start or 0
    levels = levels_beside(len(bits)) if bits else levels_beside(0)
    indices = to_indices(whole[rows, columns], look, limits, levels=levels, origin=origin)
    if bits and layer.mask is not None:
        mask = layer.mask if level == 1 else layer.pyramid.masks[level]
        cover(indices, mask[rows, columns], bits, levels)
    return Picture(indices, layer.x0 - 0.5 + origin[1] * level, layer.y0 - 0.5 + origin[0] * level, level)
