"""Convolution of whole images with kernels that vary over them.

A kernel whose pixels are low-order Chebyshev polynomials of position needs one Fourier convolution per polynomial
term, whatever the number of basis functions it was fitted with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft
from numpy.polynomial import chebyshev

from nightlab.errors import ShapeError

type Floats = npt.NDArray[np.floating]


def chebyshev_powers(order: int) -> list[tuple[int, int]]:
    """(p, q) of the terms T_p(y) T_q(x) with p + q <= `order`, the constant first."""
    return [(total - q, q) for total in range(order + 1) for q in range(total + 1)]


def chebyshev_terms(x: Floats, y: Floats, order: int, shape: tuple[int, int]) -> Floats:
    """Chebyshev polynomials at (n,) pixel positions of an image of `shape`: (n, n_terms).

    The image, pixel edges included, is mapped onto [-1, 1] in both directions.
    """
    ny, nx = shape
    ty = chebyshev.chebvander(_unit(np.asarray(y, float), ny), order)
    tx = chebyshev.chebvander(_unit(np.asarray(x, float), nx), order)
    return np.stack([ty[..., p] * tx[..., q] for p, q in chebyshev_powers(order)], axis=-1)


def chebyshev_surface(coefficients: Floats, order: int, shape: tuple[int, int]) -> Floats:
    """(ny, nx) values of a Chebyshev polynomial with (n_terms,) coefficients."""
    ny, nx = shape
    matrix = np.zeros((order + 1, order + 1))
    for value, (p, q) in zip(coefficients, chebyshev_powers(order), strict=True):
        matrix[p, q] = value
    surface: Floats = chebyshev.chebgrid2d(_unit(np.arange(ny), ny), _unit(np.arange(nx), nx), matrix)
    return surface


def _unit(pixel: npt.NDArray, size: int) -> Floats:
    return (pixel - 0.5 * (size - 1)) * 2.0 / size


@dataclass(frozen=True, kw_only=True)
class SpatialKernel:
    """A convolution kernel whose pixels are Chebyshev polynomials of position.

    Attributes
    ----------
    images
        (n_terms, k, k) with k odd, in the order of `chebyshev_powers`.
    order
        Total degree of the polynomials.
    shape
        (ny, nx) of the image it belongs to.
    """

    images: Floats
    order: int
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        n, height, width = self.images.shape
        if n != len(chebyshev_powers(self.order)) or height != width or width % 2 == 0:
            raise ShapeError(f"kernel images are {self.images.shape}; order {self.order} needs (n_terms, odd, odd)")

    @property
    def half_width(self) -> int:
        """Half width of the kernel [pixel]."""
        return self.images.shape[1] // 2

    def at(self, x: Floats, y: Floats) -> Floats:
        """Kernels at (n,) positions: (n, k, k)."""
        terms = chebyshev_terms(np.atleast_1d(x), np.atleast_1d(y), self.order, self.shape)
        return np.tensordot(terms, self.images, axes=1)

    def centre(self) -> Floats:
        """The (k, k) kernel in the middle of the image."""
        ny, nx = self.shape
        middle: Floats = self.at(np.array([0.5 * (nx - 1)]), np.array([0.5 * (ny - 1)]))[0]
        return middle

    @classmethod
    def fit(cls, x: Floats, y: Floats, kernels: Floats, *, order: int, shape: tuple[int, int]) -> SpatialKernel:
        """Fit (n, k, k) kernels at (n,) positions, unweighted."""
        design = chebyshev_terms(x, y, order, shape)
        solution = np.linalg.lstsq(design, kernels.reshape(len(kernels), -1), rcond=None)[0]
        return cls(images=solution.reshape(-1, *kernels.shape[1:]), order=order, shape=shape)


def convolve(image: Floats, kernel: SpatialKernel | Floats) -> Floats:
    """Convolve an image with a kernel, the outside counting as zero.

    Parameters
    ----------
    image
        (ny, nx), finite everywhere.
    kernel
        A spatially varying kernel of the same image, or one (k, k) kernel with k odd.

    Returns
    -------
    ndarray
        (ny, nx) float64: sum over u of kernel(u; x) image(x - u).
    """
    if isinstance(kernel, np.ndarray):
        kernel = SpatialKernel(images=kernel[None], order=0, shape=(image.shape[0], image.shape[1]))
    if kernel.shape != image.shape:
        raise ShapeError(f"the kernel belongs to an image of {kernel.shape}, not {image.shape}")
    half = kernel.half_width
    ny, nx = image.shape
    padded = (scipy.fft.next_fast_len(ny + half, real=True), scipy.fft.next_fast_len(nx + half, real=True))
    spectrum = scipy.fft.rfft2(np.asarray(image, np.float64), padded)
    rows, columns = _unit(np.arange(ny), ny), _unit(np.arange(nx), nx)
    ty, tx = chebyshev.chebvander(rows, kernel.order), chebyshev.chebvander(columns, kernel.order)
    out = np.zeros((ny, nx))
    for (p, q), plane in zip(chebyshev_powers(kernel.order), kernel.images, strict=True):
        term = scipy.fft.irfft2(spectrum * _transfer(plane, padded), padded)[:ny, :nx]
        out += term if p == q == 0 else term * ty[:, p][:, None] * tx[:, q][None, :]
    return out


def _transfer(kernel: Floats, shape: tuple[int, int]) -> npt.NDArray[np.complexfloating]:
    """Half-plane Fourier transform of a kernel whose centre pixel is the origin."""
    half = kernel.shape[0] // 2
    frame = np.zeros(shape)
    frame[: kernel.shape[0], : kernel.shape[1]] = kernel
    return scipy.fft.rfft2(np.roll(frame, (-half, -half), axis=(0, 1)))


def convolve_stamps(stamps: Floats, kernels: Floats) -> Floats:
    """Convolve (n, k, k) stamps with (m, m) or (n, m, m) kernels, keeping the size of the stamps."""
    size, width = stamps.shape[-1], kernels.shape[-1]
    padded = (scipy.fft.next_fast_len(size + width, real=True),) * 2
    product = scipy.fft.rfft2(stamps, padded) * scipy.fft.rfft2(kernels, padded)
    half = width // 2
    cut: Floats = scipy.fft.irfft2(product, padded)[..., half : half + size, half : half + size]
    return cut
