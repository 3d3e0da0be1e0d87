"""Noise spectra of resampled, convolved and subtracted images, and the filter that makes a difference white again.

Reiss & Lupton (2016, DMTN-021): the noise of S - K T has the spectrum s2 + |k|^2 t2; dividing its Fourier transform
by the square root makes it white. Here every contribution also carries the spectrum its own noise had before, so a
template that was resampled (and is not white) still leaves a white difference. Zero frequency is left alone: fluxes
are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft

from nightlab.errors import BadInput

type Floats = npt.NDArray[np.floating]

_DEEPEST = 1e-4  # the noise power of a frequency is not taken to lie below this fraction of the power at zero


@dataclass(frozen=True, kw_only=True)
class Noise:
    """One contribution to the noise of an image.

    Attributes
    ----------
    variance
        Variance of a pixel before the convolution.
    kernel
        (k, k), k odd: what the image was convolved with; None for nothing.
    autocorrelation
        (2L+1, 2L+1) pixel autocorrelation before the convolution, 1 at lag 0; None for white noise.
    """

    variance: float
    kernel: Floats | None = None
    autocorrelation: Floats | None = None


def autocorrelation_sum(autocorrelation: Floats | None) -> float:
    """Power at zero frequency over the mean power: what turns a pixel variance into its white-noise equivalent."""
    return 1.0 if autocorrelation is None else max(float(np.sum(autocorrelation)), _DEEPEST)


def noise_spectrum(contributions: Sequence[Noise], n: int) -> Floats:
    """Noise power per frequency of a sum of contributions, on an (n, n) grid in FFT order.

    Its mean is the pixel variance of the sum.
    """
    power = np.zeros((n, n))
    for part in contributions:
        response = (
            np.full((n, n), 1.0) if part.kernel is None else np.abs(scipy.fft.fft2(_framed(part.kernel, n))) ** 2
        )
        if part.autocorrelation is not None:
            response *= _spectrum(part.autocorrelation, n)
        power += part.variance * response
    return power


def _spectrum(autocorrelation: Floats, n: int) -> Floats:
    spectrum = scipy.fft.fft2(_framed(autocorrelation, n)).real
    floored: Floats = np.maximum(spectrum, _DEEPEST * max(float(spectrum[0, 0]), _DEEPEST))
    return floored


def _framed(kernel: Floats, n: int) -> Floats:
    """A kernel on an (n, n) periodic grid, its centre at the origin."""
    half = kernel.shape[0] // 2
    if kernel.shape[0] > n:
        raise BadInput(f"a kernel of {kernel.shape} does not fit a grid of {n}", hint="use a larger grid")
    frame = np.zeros((n, n))
    frame[: kernel.shape[0], : kernel.shape[1]] = kernel
    return np.roll(frame, (-half, -half), axis=(0, 1))


def whitening_kernel(contributions: Sequence[Noise], half_width: int = 24, n: int = 128) -> Floats:
    """The filter that makes noise white and keeps fluxes, as a compact kernel.

    Parameters
    ----------
    contributions
        What the noise is made of.
    half_width
        Half width of the kernel [pixel].
    n
        Side of the frequency grid; at least 4 * `half_width` leaves no trace of its periodicity.

    Returns
    -------
    ndarray
        (2h+1, 2h+1), summing to 1: the transform of sqrt(N(0) / N(f)). The noise that passed it has variance N(0).
    """
    power = noise_spectrum(contributions, n)
    power = np.maximum(power, _DEEPEST * power[0, 0])
    psi = scipy.fft.fftshift(scipy.fft.ifft2(np.sqrt(power[0, 0] / power)).real)
    middle = n // 2
    kernel: Floats = psi[middle - half_width : middle + half_width + 1, middle - half_width : middle + half_width + 1]
    # what truncation cut off is given back where it does least harm: spread evenly it would be a pedestal
    kernel = kernel.copy()
    kernel[half_width, half_width] += 1.0 - kernel.sum()
    return kernel


def noise_root(autocorrelation: Floats | None, half_width: int = 10, n: int = 64) -> Floats:
    """A symmetric kernel that turns white noise into noise of a given autocorrelation, summing to 1.

    Its sum of squares is 1 / `autocorrelation_sum`.
    """
    if autocorrelation is None:
        return np.ones((1, 1))
    spectrum = _spectrum(autocorrelation, n)
    root = scipy.fft.fftshift(scipy.fft.ifft2(np.sqrt(spectrum / spectrum[0, 0])).real)
    middle = n // 2
    kernel: Floats = root[middle - half_width : middle + half_width + 1, middle - half_width : middle + half_width + 1]
    return kernel / kernel.sum()


def chain(*kernels: Floats) -> Floats:
    """Convolve (odd) kernels with one another, at full size."""
    side = sum(k.shape[0] - 1 for k in kernels) + 1
    padded = (scipy.fft.next_fast_len(side, real=True),) * 2
    product = np.ones(1, complex)
    for kernel in kernels:
        product = product * scipy.fft.rfft2(kernel, padded)
    whole: Floats = scipy.fft.irfft2(product, padded)[:side, :side]
    return whole


def measured_autocorrelation(image: Floats, good: npt.NDArray[np.bool_], max_lag: int) -> Floats:
    """Pixel autocorrelation of the good part of an image.

    Parameters
    ----------
    image
        (ny, nx) values.
    good
        (ny, nx) True for pixels of pure noise.
    max_lag
        Largest lag [pixel].

    Returns
    -------
    ndarray
        (2L+1, 2L+1), 1 at lag 0; each lag from the pairs of good pixels there are, with the mean taken off.
    """
    ny, nx = image.shape
    padded = (scipy.fft.next_fast_len(ny + max_lag, real=True), scipy.fft.next_fast_len(nx + max_lag, real=True))
    clean = np.where(good, image - np.mean(image[good]), 0.0)
    signal, window = scipy.fft.rfft2(clean, padded), scipy.fft.rfft2(good.astype(float), padded)
    products = scipy.fft.irfft2(np.abs(signal) ** 2, padded)
    pairs = scipy.fft.irfft2(np.abs(window) ** 2, padded)
    lag = np.arange(-max_lag, max_lag + 1)
    cut = np.ix_(lag % padded[0], lag % padded[1])
    covariance = products[cut] / np.maximum(np.rint(pairs[cut]), 1.0)
    correlation: Floats = covariance / covariance[max_lag, max_lag]
    return correlation
