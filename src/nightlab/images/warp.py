"""Images, masks and PSFs brought from one pixel grid of the sky onto another."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from lsst.images import Box, Mask, MaskedImage, MaskSchema, SkyProjection
from lsst.images.psfs import PointSpreadFunction
from numpy.typing import NDArray

from nightlab.errors import BadInput
from nightlab.images.planes import new_mask
from nightlab.images.psf import psf_stamps
from nightlab.images.wcs import pixel_to_radec, radec_to_pixel
from nightlab.numeric.resample import PixelMap, noise_autocorrelation, resample, warp_stamps

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]

CORRELATION_KEY = "noise_correlation"
CORRELATION_REACH = 7  # pixels; Lanczos-3 noise ends at 5
_STEPS = (64, 32, 16, 8, 4)


def pixel_map(
    target: SkyProjection, source: SkyProjection, bbox: Box, source_bbox: Box, *, tolerance: float = 1e-3
) -> PixelMap:
    """Where the pixels of `bbox` under `target` lie in the array of an image under `source`.

    The projections are evaluated on a lattice whose spacing is halved until bilinear interpolation between its nodes
    is right to `tolerance` in the middle of every mesh.

    Parameters
    ----------
    target, source
        Projections of the output and of the input.
    bbox, source_bbox
        Output pixels and input pixels, each in its own frame.
    tolerance
        Largest error allowed [pixel].

    Raises
    ------
    BadInput
        When the projections are too wild for the finest lattice.
    """
    ny, nx = bbox.shape
    for step in _STEPS:
        rows = np.arange(-(-max(ny - 1, 1) // step) + 1) * step
        columns = np.arange(-(-max(nx - 1, 1) // step) + 1) * step
        x, y = _mapped(target, source, bbox, source_bbox, columns, rows)
        half = step // 2
        mx, my = _mapped(target, source, bbox, source_bbox, columns[:-1] + half, rows[:-1] + half)
        error = max(float(np.nanmax(np.abs(_centres(x) - mx))), float(np.nanmax(np.abs(_centres(y) - my))))
        if error <= tolerance:
            return PixelMap(x=x, y=y, step=step, shape=(ny, nx))
    raise BadInput(
        f"the mapping between the two projections bends by {error:.3g} pixel within {_STEPS[-1]} pixels",
        hint="check that both projections cover the same sky",
    )


def _mapped(
    target: SkyProjection, source: SkyProjection, bbox: Box, source_bbox: Box, columns: Floats, rows: Floats
) -> tuple[Floats, Floats]:
    grid_x, grid_y = np.meshgrid(columns + bbox.x.start, rows + bbox.y.start)
    ra, dec = pixel_to_radec(target, grid_x.ravel(), grid_y.ravel())
    x, y = radec_to_pixel(source, ra, dec)
    return (x - source_bbox.x.start).reshape(grid_x.shape), (y - source_bbox.y.start).reshape(grid_y.shape)


def _centres(nodes: Floats) -> Floats:
    middle: Floats = 0.25 * (nodes[:-1, :-1] + nodes[1:, :-1] + nodes[:-1, 1:] + nodes[1:, 1:])
    return middle


def integer_shift(mapping: PixelMap, tolerance: float) -> tuple[int, int] | None:
    """The shift (dy, dx) by whole pixels that a mapping amounts to within `tolerance` everywhere, if there is one."""
    ny, nx = mapping.shape
    rows = np.arange(mapping.x.shape[0])[:, None] * mapping.step
    columns = np.arange(mapping.x.shape[1])[None, :] * mapping.step
    inside = (rows < ny + mapping.step) & (columns < nx + mapping.step)
    dx, dy = (mapping.x - columns)[inside], (mapping.y - rows)[inside]
    shift = int(np.rint(np.median(dy))), int(np.rint(np.median(dx)))
    if np.max(np.abs(dy - shift[0])) <= tolerance and np.max(np.abs(dx - shift[1])) <= tolerance:
        return shift
    return None


@dataclass(frozen=True, kw_only=True)
class Warped:
    """Pixels on a new grid.

    Attributes
    ----------
    image, variance
        (ny, nx), NaN where no data.
    mask
        In the schema asked for, NO_DATA set where no data.
    no_data
        (ny, nx).
    mapping
        From the new array's indices to the old one's.
    correlation
        (2L+1, 2L+1) autocorrelation of the noise on the new grid.
    copied
        True when pixels were moved, not resampled.
    """

    image: Floats
    variance: Floats
    mask: Mask
    no_data: Bools
    mapping: PixelMap
    correlation: Floats
    copied: bool


def warp(
    image: MaskedImage,
    projection: SkyProjection,
    bbox: Box,
    *,
    schema: MaskSchema,
    order: int = 3,
    max_misalignment: float = 0.0,
) -> Warped:
    """Bring image, variance and mask onto other pixels; fluxes per pixel keep their sum.

    Parameters
    ----------
    image
        Any masked image with a projection; NaN or NO_DATA pixels hold no data. A noise correlation in its metadata is
        taken into account.
    projection, bbox
        The new pixels.
    schema
        Planes of the new mask; planes of `image` it lacks are dropped.
    order
        Lanczos order: 3, 4 or 5.
    max_misalignment
        Grids that agree this well up to a shift by whole pixels are copied, not resampled [pixel].
    """
    if image.sky_projection is None:
        raise BadInput("an image without a projection cannot be warped", hint="calibrate it first")
    mapping = pixel_map(projection, image.sky_projection, bbox, image.bbox)
    names = [name for name in schema.names if name in image.mask.schema.names and name != "NO_DATA"]
    pixels = image.image.array
    if "NO_DATA" in image.mask.schema.names:
        pixels = np.where(image.mask.get("NO_DATA"), np.nan, pixels)
    shift = integer_shift(mapping, max_misalignment) if max_misalignment > 0 else None
    own = read_correlation(image)
    if shift is not None:
        array, noise, bits, lost = _moved(pixels, image.variance.array, image.mask.array, shift, mapping.shape)
        correlation = own if own is not None else _white()
    else:
        out = resample(pixels, image.variance.array, image.mask.array, mapping, order=order)
        array, noise, bits, lost = out.image, out.variance, out.mask, out.no_data
        correlation = noise_autocorrelation(
            mapping, order=order, half_width=CORRELATION_REACH, input_autocorrelation=own
        )
    mask = new_mask(schema, bbox)
    old = Mask(bits, schema=image.mask.schema, bbox=bbox)
    for name in _present(old, names):
        mask.set(name, old.get(name))
    mask.set("NO_DATA", lost)
    return Warped(
        image=array,
        variance=noise,
        mask=mask,
        no_data=lost,
        mapping=mapping,
        correlation=correlation,
        copied=shift is not None,
    )


def _present(mask: Mask, names: list[str]) -> list[str]:
    """The planes among `names` that any pixel has; most are empty, and looking at each pixel again is slow."""
    anywhere = np.bitwise_or.reduce(mask.array, axis=(0, 1))
    return [name for name in names if mask.schema.bit(name).check(anywhere)]


def _white() -> Floats:
    correlation = np.zeros((2 * CORRELATION_REACH + 1,) * 2)
    correlation[CORRELATION_REACH, CORRELATION_REACH] = 1.0
    return correlation


def _moved(
    pixels: Floats, variance: Floats, bits: NDArray[np.uint8], shift: tuple[int, int], shape: tuple[int, int]
) -> tuple[Floats, Floats, NDArray[np.uint8], Bools]:
    dy, dx = shift
    ny, nx = shape
    my, mx = pixels.shape
    rows = slice(max(0, -dy), max(0, min(ny, my - dy)))
    columns = slice(max(0, -dx), max(0, min(nx, mx - dx)))
    image = np.full(shape, np.nan, np.float32)
    noise = np.full(shape, np.nan, np.float32)
    mask = np.zeros((*shape, bits.shape[2]), np.uint8)
    if rows.stop > rows.start and columns.stop > columns.start:
        source = np.s_[rows.start + dy : rows.stop + dy, columns.start + dx : columns.stop + dx]
        image[rows, columns], noise[rows, columns], mask[rows, columns] = (
            pixels[source],
            variance[source],
            bits[source],
        )
    lost = ~np.isfinite(image)
    noise[lost] = np.nan
    return image, noise, mask, lost


def warp_psf(
    psf: PointSpreadFunction,
    mapping: PixelMap,
    source_bbox: Box,
    x: Floats,
    y: Floats,
    *,
    size: int | None = None,
    slack: float = 0.0,
) -> tuple[Floats, Bools]:
    """Draw the PSF of an image on another grid.

    Parameters
    ----------
    psf
        PSF of the input image.
    mapping
        From the output array's indices to the input array's.
    source_bbox
        Pixels of the input image.
    x, y
        (n,) places in the output array [pixel].
    size
        Odd side of the stamps.
    slack
        A place this far outside the PSF's domain takes the PSF of the nearest place inside [input pixel].

    Returns
    -------
    stamps
        (n, k, k), centred, each summing to 1; zero where the PSF is not defined.
    valid
        (n,) True where it is.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    ny, nx = mapping.shape
    cx, cy = np.clip(x, 1, max(nx - 2, 1)), np.clip(y, 1, max(ny - 2, 1))
    right, left = mapping.at(cx + 1, cy), mapping.at(cx - 1, cy)
    up, down = mapping.at(cx, cy + 1), mapping.at(cx, cy - 1)
    jacobians = np.empty((len(x), 2, 2))
    for axis in range(2):
        jacobians[:, axis, 0] = 0.5 * (right[axis] - left[axis])
        jacobians[:, axis, 1] = 0.5 * (up[axis] - down[axis])
    source_x, source_y = mapping.at(x, y)
    source_x, source_y = source_x + source_bbox.x.start, source_y + source_bbox.y.start
    box = psf.bounds.bbox
    inner_x = np.clip(source_x, box.x.min, box.x.max)
    inner_y = np.clip(source_y, box.y.min, box.y.max)
    valid = np.hypot(inner_x - source_x, inner_y - source_y) <= slack
    valid &= np.asarray(psf.bounds.contains(x=np.rint(inner_x), y=np.rint(inner_y)), bool)
    source_x, source_y = inner_x, inner_y
    side = size if size is not None else psf.kernel_bbox.shape[0]
    stamps = np.zeros((len(x), side, side))
    if valid.any():
        drawn = psf_stamps(psf, source_x[valid], source_y[valid], size=size, centred=True)
        stamps[valid] = warp_stamps(drawn, jacobians[valid])
    return stamps, valid


def read_correlation(image: MaskedImage) -> Floats | None:
    """Noise autocorrelation that an image carries in its metadata, None for white noise."""
    text = image.metadata.get(CORRELATION_KEY)
    if not isinstance(text, str):
        return None
    return np.array(json.loads(text), dtype=float)


def correlation_text(correlation: Floats) -> str:
    """Write a noise autocorrelation for the metadata, to six digits."""
    return json.dumps(np.round(correlation, 6).tolist())
