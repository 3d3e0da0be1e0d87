"""Lanczos resampling of pixels, variances and mask planes, and the noise correlation it leaves behind.

An output pixel is a normalised weighted sum of the input pixels around the place it maps to, times the ratio of pixel
areas; so a flux per pixel stays a flux per pixel and a star keeps its sum. Conventions of Bertin (2010, SWarp) for the
kernel; the correlation is exact for the weights in use, not an approximation by a mean pixel phase.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
import numpy.typing as npt

from nightlab.errors import BadInput, ShapeError

type Floats = npt.NDArray[np.floating]
type Bits = npt.NDArray[np.uint8]

_PHASES = 2048  # rows of the weight table: a pixel is rounded to 1/4096 px at most
_NEGLIGIBLE = 3e-3  # a pixel of smaller weight neither spreads its mask nor spoils a sum


@dataclass(frozen=True, kw_only=True)
class PixelMap:
    """Where the pixels of an output grid lie in an input image, given on a coarse lattice.

    Attributes
    ----------
    x, y
        (gy, gx) input pixel coordinates of the output pixels (j * step, i * step).
    step
        Lattice spacing in output pixels.
    shape
        (ny, nx) of the output; the lattice must cover it.
    """

    x: Floats
    y: Floats
    step: int
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        ny, nx = self.shape
        needed = (-(-(ny - 1) // self.step) + 1, -(-(nx - 1) // self.step) + 1) if ny and nx else (1, 1)
        if self.x.shape != self.y.shape or self.x.shape[0] < needed[0] or self.x.shape[1] < needed[1]:
            raise ShapeError(
                f"lattices of {self.x.shape} and {self.y.shape} do not cover {self.shape} at step {self.step}",
                hint=f"give both at least {needed} nodes",
            )

    def at(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Input coordinates of output positions, bilinear between the nodes."""
        gx = np.clip(np.asarray(x, float) / self.step, 0, self.x.shape[1] - 1)
        gy = np.clip(np.asarray(y, float) / self.step, 0, self.x.shape[0] - 1)
        j = np.minimum(gx.astype(int), max(self.x.shape[1] - 2, 0))
        i = np.minimum(gy.astype(int), max(self.x.shape[0] - 2, 0))
        j1, i1 = np.minimum(j + 1, self.x.shape[1] - 1), np.minimum(i + 1, self.x.shape[0] - 1)
        u, v = gx - j, gy - i

        def blend(nodes: Floats) -> Floats:
            low = nodes[i, j] * (1 - u) + nodes[i, j1] * u
            high = nodes[i1, j] * (1 - u) + nodes[i1, j1] * u
            blended: Floats = low * (1 - v) + high * v
            return blended

        return blend(self.x), blend(self.y)

    def jacobian(self) -> Floats:
        """(gy, gx) input pixel area per output pixel area at the nodes."""
        if min(self.x.shape) < 2:
            return np.ones(self.x.shape)
        xy, xx = np.gradient(self.x, self.step)
        yy, yx = np.gradient(self.y, self.step)
        return np.abs(xx * yy - xy * yx)


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """What comes out of `resample`.

    Attributes
    ----------
    image, variance
        (ny, nx); NaN where no data.
    mask
        (ny, nx, n_bytes) planes that any contributing pixel carries.
    no_data
        (ny, nx) True where the footprint leaves the input or meets a NaN.
    """

    image: Floats
    variance: Floats
    mask: Bits
    no_data: npt.NDArray[np.bool_]


def lanczos_table(order: int) -> Floats:
    """Lanczos weights of the 2 * order pixels around a sub-pixel position.

    Parameters
    ----------
    order
        Lobes of the kernel: 3, 4 or 5.

    Returns
    -------
    ndarray
        (2049, 2 * order); row p is for the fraction p / 2048 beyond the pixel at index order - 1. Rows sum to 1.
    """
    fraction = np.arange(_PHASES + 1)[:, None] / _PHASES
    distance = np.arange(1 - order, order + 1)[None, :] - fraction
    weights = np.sinc(distance) * np.sinc(distance / order)
    weights[np.abs(distance) >= order] = 0.0
    weights[0] = np.arange(1 - order, order + 1) == 0
    weights[-1] = np.arange(1 - order, order + 1) == 1
    table: Floats = weights / weights.sum(axis=1, keepdims=True)
    return table


def resample(image: Floats, variance: Floats, mask: Bits, pixel_map: PixelMap, *, order: int = 3) -> Resampled:
    """Bring an image of flux per pixel onto another pixel grid.

    Parameters
    ----------
    image, variance
        (my, mx) values and variances; NaN pixels hold no data.
    mask
        (my, mx, n_bytes) bit planes.
    pixel_map
        Input coordinates of the output pixels.
    order
        Lanczos order: 3, 4 or 5.

    Raises
    ------
    ShapeError
        The three inputs do not share a grid.
    BadInput
        An order other than 3, 4, 5.
    """
    if variance.shape != image.shape or mask.shape[:2] != image.shape:
        raise ShapeError(f"image {image.shape}, variance {variance.shape} and mask {mask.shape} must share a grid")
    if order not in (3, 4, 5):
        raise BadInput(f"Lanczos order {order} was asked for", hint="use 3, 4 or 5")
    out = Resampled(
        image=np.empty(pixel_map.shape, np.float32),
        variance=np.empty(pixel_map.shape, np.float32),
        mask=np.zeros((*pixel_map.shape, mask.shape[2]), np.uint8),
        no_data=np.zeros(pixel_map.shape, bool),
    )
    _resample(
        np.ascontiguousarray(image, np.float32),
        np.ascontiguousarray(variance, np.float32),
        np.ascontiguousarray(mask, np.uint8),
        np.ascontiguousarray(pixel_map.x, float),
        np.ascontiguousarray(pixel_map.y, float),
        pixel_map.jacobian(),
        pixel_map.step,
        lanczos_table(order),
        out.image,
        out.variance,
        out.mask,
        out.no_data,
    )
    return out


@nb.njit(cache=True, fastmath=False)
def _resample(image, variance, mask, nodes_x, nodes_y, area, step, table, out_image, out_variance, out_mask, no_data):  # type: ignore[no-untyped-def]
    my, mx = image.shape
    ny, nx = out_image.shape
    gy, gx = nodes_x.shape
    phases, width = table.shape[0] - 1, table.shape[1]
    order, n_bytes = width // 2, mask.shape[2]
    for i in range(ny):
        gi = min(i // step, max(gy - 2, 0))
        gi1 = min(gi + 1, gy - 1)
        v = (i - gi * step) / step
        for j in range(nx):
            gj = min(j // step, max(gx - 2, 0))
            gj1 = min(gj + 1, gx - 1)
            u = (j - gj * step) / step
            a, b, c, d = (1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v
            x = a * nodes_x[gi, gj] + b * nodes_x[gi, gj1] + c * nodes_x[gi1, gj] + d * nodes_x[gi1, gj1]
            y = a * nodes_y[gi, gj] + b * nodes_y[gi, gj1] + c * nodes_y[gi1, gj] + d * nodes_y[gi1, gj1]
            scale = a * area[gi, gj] + b * area[gi, gj1] + c * area[gi1, gj] + d * area[gi1, gj1]
            if not (x > -1.0 and y > -1.0 and x < mx and y < my):
                no_data[i, j] = True
                out_image[i, j] = np.nan
                out_variance[i, j] = np.nan
                continue
            px, py = int(np.floor(x)), int(np.floor(y))
            wx = table[int(np.rint((x - px) * phases))]
            wy = table[int(np.rint((y - py) * phases))]
            total, flux, noise, lost = 0.0, 0.0, 0.0, 0.0
            for k in range(width):
                row = py - order + 1 + k
                for m in range(width):
                    weight = wy[k] * wx[m]
                    if weight == 0.0:
                        continue
                    column = px - order + 1 + m
                    if row < 0 or row >= my or column < 0 or column >= mx:
                        lost = max(lost, abs(weight))
                        continue
                    value = image[row, column]
                    if not np.isfinite(value):
                        lost = max(lost, abs(weight))
                        continue
                    total += weight
                    flux += weight * value
                    noise += weight * weight * variance[row, column]
                    if abs(weight) > _NEGLIGIBLE:
                        for n in range(n_bytes):
                            out_mask[i, j, n] |= mask[row, column, n]
            if lost > _NEGLIGIBLE or total < 0.5:
                no_data[i, j] = True
                out_image[i, j] = np.nan
                out_variance[i, j] = np.nan
            else:
                out_image[i, j] = scale * flux / total
                out_variance[i, j] = scale * scale * noise / (total * total)


def noise_autocorrelation(
    pixel_map: PixelMap,
    *,
    order: int = 3,
    half_width: int = 7,
    input_autocorrelation: Floats | None = None,
    n_samples: int = 1024,
) -> Floats:
    """Pixel noise autocorrelation after resampling, averaged over the output grid.

    The covariance of two output pixels is the sum over input pixels of the products of their weights (for input
    noise that is itself correlated: with the autocorrelation in between). It depends on the sub-pixel phase, so it is
    averaged over a fixed low-discrepancy sample of output pixels (the R2 sequence of Roberts 2018), each weighed by
    its variance.

    Parameters
    ----------
    pixel_map
        The mapping in question.
    order
        Lanczos order.
    half_width
        Largest lag returned [output pixel].
    input_autocorrelation
        (2M+1, 2M+1) autocorrelation of the input noise, 1 at lag 0; None for white noise.
    n_samples
        Output pixels in the average.

    Returns
    -------
    ndarray
        (2L+1, 2L+1) with L = `half_width`, 1 at lag 0, point-symmetric.
    """
    ny, nx = pixel_map.shape
    g = 1.32471795724474602596
    sequence = (0.5 + np.arange(1, n_samples + 1)[:, None] * np.array([1 / g, 1 / g**2])) % 1.0
    rows = np.floor(sequence[:, 0] * ny)
    columns = np.floor(sequence[:, 1] * nx)
    lag = np.arange(-half_width, half_width + 1)
    all_rows = rows[:, None, None] + lag[None, :, None]
    all_columns = columns[:, None, None] + lag[None, None, :]
    all_rows, all_columns = np.broadcast_arrays(all_rows, all_columns)
    x, y = _extrapolated(pixel_map, all_columns, all_rows)
    inner = np.ones((1, 1)) if input_autocorrelation is None else np.asarray(input_autocorrelation, float)
    covariance = _covariance(x, y, lanczos_table(order), np.ascontiguousarray(inner))
    mean = covariance.mean(axis=0)
    mean = 0.5 * (mean + mean[::-1, ::-1])
    correlation: Floats = mean / mean[half_width, half_width]
    return correlation


def _extrapolated(pixel_map: PixelMap, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Input coordinates, continued linearly beyond the edges of the output grid."""
    ny, nx = pixel_map.shape
    cx, cy = np.clip(x, 0, nx - 1), np.clip(y, 0, ny - 1)
    sx, sy = pixel_map.at(cx, cy)
    if nx > 1 and ny > 1:
        dx = np.subtract(
            pixel_map.at(np.array([1.0]), np.array([0.0])), pixel_map.at(np.array([0.0]), np.array([0.0]))
        )
        dy = np.subtract(
            pixel_map.at(np.array([0.0]), np.array([1.0])), pixel_map.at(np.array([0.0]), np.array([0.0]))
        )
        sx = sx + (x - cx) * dx[0] + (y - cy) * dy[0]
        sy = sy + (x - cx) * dx[1] + (y - cy) * dy[1]
    return sx, sy


@nb.njit(cache=True)
def _covariance(x, y, table, inner):  # type: ignore[no-untyped-def]
    n, size, _ = x.shape
    phases, width = table.shape[0] - 1, table.shape[1]
    reach = inner.shape[0] // 2
    big = width + 2 * reach
    centre = size // 2
    out = np.zeros((n, size, size))
    spread = np.zeros((big, big))
    for s in range(n):
        px0, py0 = int(np.floor(x[s, centre, centre])), int(np.floor(y[s, centre, centre]))
        wx0 = table[int(np.rint((x[s, centre, centre] - px0) * phases))]
        wy0 = table[int(np.rint((y[s, centre, centre] - py0) * phases))]
        spread[:] = 0.0
        for k in range(width):
            for m in range(width):
                weight = wy0[k] * wx0[m]
                for p in range(inner.shape[0]):
                    for q in range(inner.shape[1]):
                        spread[k + p, m + q] += weight * inner[p, q]
        for a in range(size):
            for b in range(size):
                px, py = int(np.floor(x[s, a, b])), int(np.floor(y[s, a, b]))
                wx = table[int(np.rint((x[s, a, b] - px) * phases))]
                wy = table[int(np.rint((y[s, a, b] - py) * phases))]
                total = 0.0
                for k in range(width):
                    row = py - py0 + k + reach
                    if row < 0 or row >= big:
                        continue
                    for m in range(width):
                        column = px - px0 + m + reach
                        if 0 <= column < big:
                            total += wy[k] * wx[m] * spread[row, column]
                out[s, a, b] = total
    return out


def warp_stamps(stamps: Floats, jacobians: Floats, *, order: int = 5) -> Floats:
    """Bring centred stamps onto another grid by a linear map each.

    Parameters
    ----------
    stamps
        (n, k, k), k odd, each centred on its middle pixel.
    jacobians
        (n, 2, 2): d(x, y) of the input per d(x, y) of the output.
    order
        Lanczos order.

    Returns
    -------
    ndarray
        (n, k, k), zero where the input does not reach, each normalised to sum 1.
    """
    out = _warp_stamps(
        np.ascontiguousarray(stamps, float), np.ascontiguousarray(jacobians, float), lanczos_table(order)
    )
    normalised: Floats = out / out.sum(axis=(1, 2), keepdims=True)
    return normalised


@nb.njit(cache=True)
def _warp_stamps(stamps, jacobians, table):  # type: ignore[no-untyped-def]
    n, size, _ = stamps.shape
    half = size // 2
    phases, width = table.shape[0] - 1, table.shape[1]
    order = width // 2
    out = np.zeros_like(stamps)
    for s in range(n):
        for i in range(size):
            for j in range(size):
                u, v = j - half, i - half
                x = half + jacobians[s, 0, 0] * u + jacobians[s, 0, 1] * v
                y = half + jacobians[s, 1, 0] * u + jacobians[s, 1, 1] * v
                px, py = int(np.floor(x)), int(np.floor(y))
                wx = table[int(np.rint((x - px) * phases))]
                wy = table[int(np.rint((y - py) * phases))]
                total = 0.0
                for k in range(width):
                    row = py - order + 1 + k
                    if row < 0 or row >= size:
                        continue
                    for m in range(width):
                        column = px - order + 1 + m
                        if 0 <= column < size:
                            total += wy[k] * wx[m] * stamps[s, row, column]
                out[s, i, j] = total
    return out
