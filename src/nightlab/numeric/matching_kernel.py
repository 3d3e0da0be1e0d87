"""The kernel that matches one image to another: basis functions and the linear fit.

Alard & Lupton (1998, ApJ 503, 325) with the spatial variation of Alard (2000, A&AS 144, 363): the target is modelled
as the reference convolved with a sum of Gaussians times polynomials whose amplitudes are Chebyshev polynomials of
position, plus a differential background. The first basis function sums to 1 and does not vary, all others sum to 0:
the kernel sum is one number for the whole image.

Every star may besides move and change a little on its own: its shift and its flux are nuisance parameters with a
Gaussian prior, integrated out of its normal equations. Proper motions and variables then cost weight, not accuracy.
The reference has noise too, which in ordinary least squares pulls the kernel sum down (errors in variables); its
expected share in everything that concerns the sum is subtracted from the normal matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.fft
import scipy.linalg

from nightlab.errors import TooFewStars
from nightlab.numeric.convolution import (
    SpatialKernel,
    chebyshev_powers,
    chebyshev_surface,
    chebyshev_terms,
    convolve_stamps,
)
from nightlab.numeric.statistics import robust_width

type Floats = npt.NDArray[np.floating]
type Bools = npt.NDArray[np.bool_]

# Share of the reference's noise that is subtracted for the shape of the kernel. The rest stays as a penalty on shapes
# that no star constrains; with all of it subtracted their amplitudes would run away.
_SUBTRACTED = 0.95
# The same penalty, many times over, holds the spatial variation of the shape to what stars do constrain.
_STIFFNESS = 3.0


@dataclass(frozen=True, kw_only=True)
class BasisShape:
    """Widths and degrees of a Gaussian-polynomial basis.

    Attributes
    ----------
    sigmas
        Gaussian widths [pixel].
    degrees
        Highest total degree of the polynomial on each.
    half_width
        Half width of the kernel [pixel].
    """

    sigmas: tuple[float, ...]
    degrees: tuple[int, ...]
    half_width: int


def scaled_basis(
    sigma_reference: float,
    sigma_target: float,
    *,
    degrees: Sequence[int] = (4, 2, 2),
    ratio: float = 2.0,
    floor: float = 0.7,
    deconvolution_floor: float = 0.4,
    widths: tuple[int, int] = (21, 35),
) -> BasisShape:
    """Widths of the basis from the widths of the two PSFs.

    Parameters
    ----------
    sigma_reference, sigma_target
        Gaussian widths of the PSF of the image to be convolved and of the one to be matched [pixel].
    degrees
        Polynomial degrees, narrowest Gaussian first. A kernel that must sharpen has degree 3 throughout.
    ratio
        Each Gaussian is wider than the one before by this.
    floor, deconvolution_floor
        Narrowest Gaussian, normally and where the kernel must sharpen [pixel].
    widths
        Smallest and largest full width of the kernel [pixel].
    """
    excess = sigma_target**2 - sigma_reference**2
    if excess >= 0:
        first = max(floor, 0.5 * max(float(np.sqrt(excess)), floor))
    else:
        first, degrees = max(deconvolution_floor, 0.5 * sigma_target / ratio), (3,) * len(degrees)
    sigmas = tuple(first * ratio**n for n in range(len(degrees)))
    half = int(np.clip(6 * sigmas[-1], *widths)) // 2
    return BasisShape(sigmas=sigmas, degrees=tuple(degrees), half_width=half)


def gaussian_basis(shape: BasisShape) -> Floats:
    """Gaussians times polynomials, as (n, k, k) images.

    Coordinates in the polynomials run from -1 to 1 over the kernel. The first image sums to 1; the others have the
    first taken out until they sum to 0, and unit sum of squares.
    """
    u = np.arange(-shape.half_width, shape.half_width + 1, dtype=float)
    scaled = u / shape.half_width
    images = []
    for sigma, degree in zip(shape.sigmas, shape.degrees, strict=True):
        profile = np.exp(-0.5 * (u / sigma) ** 2)
        powers = [profile * scaled**n for n in range(degree + 1)]
        images += [np.outer(powers[j], powers[i]) for i in range(degree + 1) for j in range(degree + 1 - i)]
    basis = np.array(images)
    basis[0] /= basis[0].sum()
    sums = basis[1:].sum(axis=(1, 2))
    basis[1:] -= sums[:, None, None] * basis[0]
    basis[1:] /= np.sqrt((basis[1:] ** 2).sum(axis=(1, 2)))[:, None, None]
    return basis


@dataclass(frozen=True, kw_only=True)
class KernelFit:
    """A fitted matching kernel and how its stars fared.

    Attributes
    ----------
    kernel
        The kernel.
    background
        Chebyshev coefficients of target minus convolved reference, in image units.
    background_order
        Their total degree.
    used
        (n,) True for stars in the last solution.
    chi
        (n,) rms residual of each star over its expected noise.
    amplitude
        (n,) own flux of each star in the target, minus 1, over what the kernel predicts.
    shift
        (n, 2) own displacement (dx, dy) of each star [pixel].
    condition
        Ratio of the largest to the smallest eigenvalue of the scaled normal matrix that was kept.
    """

    kernel: SpatialKernel
    background: Floats
    background_order: int
    used: Bools
    chi: Floats
    amplitude: Floats
    shift: Floats
    condition: float

    @property
    def kernel_sum(self) -> float:
        """Flux of the target per flux of the reference."""
        return float(self.kernel.images[0].sum())

    def background_surface(self) -> Floats:
        """(ny, nx) differential background."""
        return chebyshev_surface(self.background, self.background_order, self.kernel.shape)


@dataclass(frozen=True, kw_only=True)
class FitRules:
    """How a matching kernel is fitted.

    Attributes
    ----------
    order, background_order
        Chebyshev degrees of the kernel's and the background's variation.
    stamp_half_width
        Half width of the pixels used around each star.
    error_floor
        Model error as a fraction of the star's light, added to the noise.
    shift_prior, flux_prior
        Scatter of the stars' own shifts [pixel] and relative fluxes.
    rounds
        Rounds of rejection.
    max_chi, clip
        A star goes when its rms over its noise passes `max_chi` and `clip` robust standard deviations of all stars,
        or its own flux passes `clip` standard deviations.
    min_stars
        Fewest stars a solution may rest on.
    """

    order: int = 1
    background_order: int = 1
    stamp_half_width: int = 15
    error_floor: float = 0.01
    shift_prior: float = 0.05
    flux_prior: float = 0.02
    rounds: int = 3
    max_chi: float = 1.5
    clip: float = 3.0
    min_stars: int = 3


def fit_matching_kernel(
    reference: Floats,
    target: Floats,
    variance: Floats,
    good: Bools,
    x: Floats,
    y: Floats,
    basis: Floats,
    *,
    reference_variance: Floats | None = None,
    reference_autocorrelation: Floats | None = None,
    rules: FitRules = FitRules(),
) -> KernelFit:
    """Fit the kernel that turns `reference` into `target`.

    Parameters
    ----------
    reference, target
        (ny, nx) images, finite everywhere.
    variance
        (ny, nx) variance of target minus convolved reference, approximately.
    good
        (ny, nx) False where a pixel must not be used.
    x, y
        (n,) star positions [pixel].
    basis
        (q, k, k) basis images, the first summing to 1 and the others to 0.
    reference_variance
        (ny, nx) variance of `reference`, to be rid of the bias from its noise; None counts it noiseless.
    reference_autocorrelation
        (2L+1, 2L+1) autocorrelation of that noise, 1 at lag 0; None for white.
    rules
        Degrees, priors and limits.

    Raises
    ------
    TooFewStars
        Fewer than `min_stars` usable stars, before or after rejection.
    """
    shape = (reference.shape[0], reference.shape[1])
    own = np.zeros_like(variance) if reference_variance is None else reference_variance
    noise_products = _noise_products(basis, reference_autocorrelation, (rules.shift_prior, rules.flux_prior))
    full, noise, n_pixels, usable = _grams(
        (reference, target, variance, own), good, x, y, basis, noise_products, rules
    )
    n_model = len(basis) + 1
    priors = np.eye(3) + full[:, n_model : n_model + 3, n_model : n_model + 3]
    keep = np.r_[np.arange(n_model), n_model + 3]
    cross = full[:, n_model : n_model + 3][:, :, keep]
    reduced = full[:, keep][:, :, keep] - np.einsum("nai,nab,nbj->nij", cross, np.linalg.inv(priors), cross)
    design = _expansion(x, y, len(basis), rules.order, rules.background_order, shape)
    stiffness = _stiffness(noise, noise_products, design, len(basis), rules.order)
    used = usable.copy()
    for turn in range(rules.rounds + 1):
        if used.sum() < rules.min_stars:
            raise TooFewStars(
                f"{int(used.sum())} of {len(x)} stars can be used for the matching kernel; it needs {rules.min_stars}",
                hint="lower the S/N limit of the kernel stars, or give an image with more stars",
                found=int(used.sum()),
                needed=rules.min_stars,
            )
        solution, condition = _solve(reduced[used], design[used], stiffness[used].sum(axis=0))
        chi, nuisance = _residuals(full, reduced, priors, design @ solution, n_pixels, n_model)
        kept = usable & _accept(chi, nuisance[:, 2], used, rules.max_chi, rules.clip)
        if turn == rules.rounds or kept.sum() < rules.min_stars or np.array_equal(kept, used):
            break
        used = kept
    return KernelFit(
        kernel=SpatialKernel(images=_combined(solution, basis, rules.order), order=rules.order, shape=shape),
        background=solution[-len(chebyshev_powers(rules.background_order)) :],
        background_order=rules.background_order,
        used=used,
        chi=chi,
        amplitude=nuisance[:, 2] * rules.flux_prior,
        shift=nuisance[:, :2] * rules.shift_prior,
        condition=condition,
    )


def _grams(
    images: tuple[Floats, Floats, Floats, Floats],
    good: Bools,
    x: Floats,
    y: Floats,
    basis: Floats,
    noise_products: Floats,
    rules: FitRules,
) -> tuple[Floats, Floats, Floats, Bools]:
    """Weighted inner products of every star's model images, nuisance images and data.

    `images` are reference, target, variance and the reference's own variance. Returns (n, q + 5, q + 5) over
    [basis..., constant, d/dx, d/dy, flux, data], (n,) noise of the reference in units of `noise_products`, (n,) pixels
    and (n,) usable.
    """
    reference, target, variance, own_variance = images
    half, width = rules.stamp_half_width, basis.shape[1] // 2
    priors = (rules.shift_prior, rules.flux_prior)
    ny, nx = reference.shape
    cx, cy = np.rint(x).astype(int), np.rint(y).astype(int)
    reach = half + width
    inside = (cx >= reach) & (cx < nx - reach) & (cy >= reach) & (cy < ny - reach)
    cx, cy = np.where(inside, cx, nx // 2), np.where(inside, cy, ny // 2)
    wide, tight = _window(cx, cy, reach, (ny, nx)), _window(cx, cy, half, (ny, nx))
    n, size = len(x), 2 * half + 1
    padded = (scipy.fft.next_fast_len(2 * reach + 1, real=True),) * 2
    transfer = scipy.fft.rfft2(basis, padded)
    gram, n_pixels, own_noise = np.zeros((n, len(basis) + 5, len(basis) + 5)), np.zeros(n), np.zeros(n)
    subtracted = noise_products.copy()
    subtracted[1 : len(basis), 1 : len(basis)] *= _SUBTRACTED
    chunk = 32  # bounds the memory to some tens of MB
    for start in range(0, n, chunk):
        part = slice(start, min(start + chunk, n))
        here = (tight[0][part], tight[1][part])
        stamps = scipy.fft.rfft2(reference[wide[0][part], wide[1][part]], padded)
        models = scipy.fft.irfft2(stamps[:, None] * transfer[None], padded)
        models = models[:, :, 2 * width : 2 * width + size, 2 * width : 2 * width + size]
        first = models[:, 0]
        dy, dx = np.gradient(first, axis=(1, 2))
        extra = [np.ones_like(first), -priors[0] * dx, -priors[0] * dy, priors[1] * first, target[here]]
        rows = np.concatenate([models, np.stack(extra, axis=1)], axis=1).reshape(len(models), len(basis) + 5, -1)
        noise = variance[here] + (rules.error_floor * first) ** 2
        valid = good[here] & (noise > 0)
        weight = np.where(valid, 1.0 / np.where(valid, noise, 1.0), 0.0).reshape(len(models), -1)
        gram[part] = np.matmul(rows * weight[:, None, :], rows.transpose(0, 2, 1))
        own = own_variance[here].reshape(len(models), -1)
        own_noise[part] = (weight * own).sum(axis=1)
        gram[part] -= own_noise[part][:, None, None] * subtracted
        n_pixels[part] = valid.sum(axis=(1, 2))
    core = good[_window(cx, cy, 2, (ny, nx))].all(axis=(1, 2))
    usable = inside & core & (n_pixels > 0.7 * size * size)
    return gram, own_noise, n_pixels, usable


def _window(
    cx: npt.NDArray[np.intp], cy: npt.NDArray[np.intp], half: int, shape: tuple[int, int]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Indices of the (n, 2h+1, 2h+1) pixels around places; those of an image too small for them repeat its edge."""
    reach = np.arange(-half, half + 1)
    rows = np.clip(cy[:, None, None] + reach[None, :, None], 0, shape[0] - 1)
    columns = np.clip(cx[:, None, None] + reach[None, None, :], 0, shape[1] - 1)
    return rows, columns


def _noise_products(basis: Floats, autocorrelation: Floats | None, priors: tuple[float, float]) -> Floats:
    """(q + 5, q + 5) covariances, for a unit variance of the reference, of the rows of `_grams` at one pixel."""
    wide = np.pad(basis, ((0, 0), (1, 1), (1, 1)))
    dy, dx = np.gradient(wide[0])
    none = np.zeros_like(wide[0])
    rows = np.concatenate([wide, np.array([none, -priors[0] * dx, -priors[0] * dy, priors[1] * wide[0], none])])
    smeared = rows if autocorrelation is None else convolve_stamps(rows, np.asarray(autocorrelation, float))
    return rows.reshape(len(rows), -1) @ smeared.reshape(len(rows), -1).T


def _expansion(x: Floats, y: Floats, q: int, order: int, background_order: int, shape: tuple[int, int]) -> Floats:
    """(n, q + 1, n_unknowns): how the unknowns make every star's amplitudes of basis images and constant."""
    terms = chebyshev_terms(x, y, order, shape)
    sky = chebyshev_terms(x, y, background_order, shape)
    n, k = terms.shape
    out = np.zeros((n, q + 1, 1 + (q - 1) * k + sky.shape[1]))
    out[:, 0, 0] = 1.0
    index = np.arange(q - 1)
    for term in range(k):
        out[:, index + 1, 1 + index * k + term] = terms[:, term][:, None]
    out[:, q, 1 + (q - 1) * k :] = sky
    return out


def _stiffness(noise: Floats, noise_products: Floats, design: Floats, q: int, order: int) -> Floats:
    """(n, n_unknowns, n_unknowns): every star's share in the penalty on spatial variation."""
    k = len(chebyshev_powers(order))
    varying = design[:, 1:q].copy()
    constant = np.r_[0, 1 + np.arange(q - 1) * k, np.arange(1 + (q - 1) * k, design.shape[2])]
    varying[:, :, constant] = 0.0
    products = noise_products[1:q, 1:q]
    shares: Floats = np.einsum("n,nqi,qr,nrj->nij", _STIFFNESS * noise, varying, products, varying, optimize=True)
    return shares


def _solve(reduced: Floats, design: Floats, stiffness: Floats) -> tuple[Floats, float]:
    """Sum the stars' normal equations and solve them, dropping directions that no star constrains."""
    matrix = np.einsum("nqi,nqr,nrj->ij", design, reduced[:, :-1, :-1], design, optimize=True)
    matrix = matrix + stiffness
    vector = np.einsum("nqi,nq->i", design, reduced[:, :-1, -1])
    scale = np.sqrt(np.maximum(np.diag(matrix), np.finfo(float).tiny))
    values, vectors = scipy.linalg.eigh(matrix / np.outer(scale, scale))
    kept = values > 1e-10 * values[-1]
    solution = (vectors[:, kept] / values[kept]) @ (vectors[:, kept].T @ (vector / scale)) / scale
    return solution, float(values[-1] / values[kept][0])


def _residuals(
    full: Floats, reduced: Floats, priors: Floats, amplitudes: Floats, n_pixels: Floats, n_model: int
) -> tuple[Floats, Floats]:
    """Rms residual over noise of every star, and its nuisance parameters in units of their priors."""
    vector = np.concatenate([-amplitudes, np.ones((len(amplitudes), 1))], axis=1)
    chi2 = np.einsum("ni,nij,nj->n", vector, reduced, vector)
    keep = np.r_[np.arange(n_model), n_model + 3]
    projected = np.einsum("nai,ni->na", full[:, n_model : n_model + 3][:, :, keep], vector)
    nuisance = np.einsum("nab,nb->na", np.linalg.inv(priors), projected)
    return np.sqrt(np.maximum(chi2, 0) / np.maximum(n_pixels, 1)), nuisance


def _accept(chi: Floats, flux: Floats, used: Bools, max_chi: float, clip: float) -> Bools:
    def centre_and_scatter(values: Floats) -> tuple[float, float]:
        middle = float(np.median(values))
        return middle, max(robust_width(values), 1e-12)

    chi_middle, chi_scatter = centre_and_scatter(chi[used])
    flux_middle, flux_scatter = centre_and_scatter(flux[used])
    accepted: Bools = (chi < max(max_chi, chi_middle + clip * chi_scatter)) & (
        np.abs(flux - flux_middle) < max(clip * flux_scatter, 0.5)
    )
    return accepted


def _combined(solution: Floats, basis: Floats, order: int) -> Floats:
    """(n_terms, k, k) kernel images, one per Chebyshev term."""
    k = len(chebyshev_powers(order))
    varying = solution[1 : 1 + (len(basis) - 1) * k].reshape(len(basis) - 1, k)
    images: Floats = np.tensordot(varying.T, basis[1:], axes=1)
    images[0] += solution[0] * basis[0]
    return images
