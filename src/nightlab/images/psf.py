"""Point-spread functions on a pixel grid whose pixels are polynomials of position.

This is the family that single-frame processing fits, that SDSS supplies (its Karhunen-Loeve PSF is exactly such a
function) and that survives convolution and averaging. Files carry it as a Piff model, so that whoever reads
`lsst.images` files reads it too; in memory it evaluates thousands of stamps at once.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from lsst.images import Box
from lsst.images.psfs import GaussianPointSpreadFunction, PiffWrapper, PointSpreadFunction
from numpy.typing import ArrayLike, NDArray

from nightlab.errors import BadInput, NoPsf
from nightlab.numeric.photometry import resized_stamps

Floats = NDArray[np.float64]
UNIT = 1000.0  # pixels; positions are divided by it so that polynomial terms stay near 1
LANCZOS = 5


def polynomial_powers(order: int) -> list[tuple[int, int]]:
    """List the exponents (i, j) of x^i y^j up to a total degree, constant first."""
    return [(i, n - i) for n in range(order + 1) for i in range(n + 1)]


@dataclass(frozen=True, kw_only=True)
class PolynomialPsf:
    """A pixel-grid PSF that varies over the image.

    Attributes
    ----------
    coefficients
        (n_terms, k, k), k odd: pixel values as coefficients of (x / 1000)^i (y / 1000)^j, in the order of
        `polynomial_powers`. The image of a star in the middle of the centre pixel, in any normalisation.
    order
        Total degree of the polynomials.
    bbox
        Where the model holds.
    """

    coefficients: Floats
    order: int
    bbox: Box

    def __post_init__(self) -> None:
        n_terms, height, width = self.coefficients.shape
        if n_terms != len(polynomial_powers(self.order)) or height != width or width % 2 == 0:
            raise BadInput(
                f"PSF coefficients are {self.coefficients.shape}; order {self.order} needs "
                f"({len(polynomial_powers(self.order))}, k, k) with k odd"
            )

    def grids(self, x: ArrayLike, y: ArrayLike) -> Floats:
        """Evaluate the pixel grid at (n,) positions: (n, k, k), each summing to 1, centred on the centre pixel."""
        x, y = np.atleast_1d(np.asarray(x, float)) / UNIT, np.atleast_1d(np.asarray(y, float)) / UNIT
        terms = np.stack([x**i * y**j for i, j in polynomial_powers(self.order)], axis=1)
        grids = np.tensordot(terms, self.coefficients, axes=1)
        return grids / grids.sum(axis=(1, 2), keepdims=True)

    def to_piff(self) -> PiffWrapper:
        """Wrap the model so that `lsst.images` can write it."""
        import galsim
        import piff

        size = self.coefficients.shape[1]
        model = piff.PixelGrid(scale=1.0 / UNIT, size=size, interp=f"Lanczos({LANCZOS})")
        interp = piff.Polynomial(order=self.order)
        interp._setup_indices(size * size)
        flat = self.coefficients.reshape(len(self.coefficients), -1)
        coeffs = np.zeros((size * size, self.order + 1, self.order + 1))
        for k, (i, j) in enumerate(polynomial_powers(self.order)):
            coeffs[:, i, j] = flat[k]
        interp.coeffs = list(coeffs)
        psf = piff.SimplePSF(model, interp)
        psf.set_num(None)
        psf.wcs, psf.pointing = {0: galsim.PixelScale(1.0 / UNIT)}, None
        psf.stars = []
        for name in ("chisq", "last_delta_chisq", "dof", "nremoved", "niter"):
            setattr(psf, name, 0)
        return PiffWrapper(psf, bounds=self.bbox, stamp_size=size)

    @classmethod
    def from_piff(cls, wrapper: PiffWrapper) -> PolynomialPsf:
        """Recover the model from its wrapped form."""
        interp = wrapper.piff_psf.interp
        coeffs = np.asarray(interp.coeffs)
        size = int(np.sqrt(len(coeffs)))
        stacked = [coeffs[:, i, j].reshape(size, size) for i, j in polynomial_powers(interp.order)]
        return cls(coefficients=np.array(stacked), order=interp.order, bbox=wrapper.bounds.bbox)

    @classmethod
    def fit(cls, x: ArrayLike, y: ArrayLike, stamps: ArrayLike, *, order: int, bbox: Box) -> PolynomialPsf:
        """Fit centred stamps, unweighted: (n, k, k) images at (n,) positions."""
        x, y = np.asarray(x, float) / UNIT, np.asarray(y, float) / UNIT
        stamps = np.asarray(stamps, float)
        design = np.stack([x**i * y**j for i, j in polynomial_powers(order)], axis=1)
        flat = np.linalg.lstsq(design, stamps.reshape(len(stamps), -1), rcond=None)[0]
        return cls(coefficients=flat.reshape(-1, *stamps.shape[1:]), order=order, bbox=bbox)


def _is_polynomial(psf: PointSpreadFunction) -> bool:
    if not isinstance(psf, PiffWrapper):
        return False
    impl = psf.piff_psf
    return (
        type(getattr(impl, "model", None)).__name__ == "PixelGrid"
        and type(getattr(impl, "interp", None)).__name__ == "Polynomial"
        and abs(impl.model.scale * UNIT - 1.0) < 1e-12
    )


@lru_cache(maxsize=32)
def _cached_model(wrapper: PiffWrapper) -> PolynomialPsf:
    return PolynomialPsf.from_piff(wrapper)


def psf_stamps(
    psf: PointSpreadFunction | PolynomialPsf,
    x: ArrayLike,
    y: ArrayLike,
    *,
    size: int | None = None,
    centred: bool = False,
) -> Floats:
    """Draw a PSF at many positions.

    Parameters
    ----------
    psf
        Any point-spread function; ours and Gaussian ones are drawn all at once, others one by one.
    x, y
        (n,) positions [pixel].
    size
        Odd side of the stamps; the model's own when absent. Larger stamps are padded with zeros.
    centred
        True draws each star in the middle of its centre pixel; False where it is, `x` - rint(`x`) off it.

    Returns
    -------
    numpy.ndarray
        (n, size, size), each stamp summing to 1 over the model's own size. Pixel (size // 2, size // 2) lies at
        (rint(y), rint(x)).
    """
    x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    dx, dy = (np.zeros_like(x), np.zeros_like(y)) if centred else (x - np.rint(x), y - np.rint(y))
    if isinstance(psf, GaussianPointSpreadFunction):
        half = psf.kernel_bbox.x.max
        r = np.arange(-half, half + 1)
        gx, gy = (np.exp(-0.5 * ((r[None, :] - d[:, None]) / psf.sigma) ** 2) for d in (dx, dy))
        stamps = gy[:, :, None] * gx[:, None, :]
    else:
        if isinstance(psf, PolynomialPsf):
            grids = psf.grids(x, y)
        elif _is_polynomial(psf):
            grids = _cached_model(psf).grids(x, y)
        else:
            grids = np.array([psf.compute_kernel_image(x=a, y=b).array for a, b in zip(x, y, strict=True)])
        stamps = grids if centred else shift_stamps(grids, dx, dy)
    stamps = stamps / stamps.sum(axis=(1, 2), keepdims=True)
    return stamps if size is None else resized_stamps(stamps, size // 2)


def shift_stamps(stamps: Floats, dx: Floats, dy: Floats, order: int = LANCZOS) -> Floats:
    """Shift (n, k, k) stamps by fractions of a pixel with a separable Lanczos kernel; zero comes in from outside."""
    size = stamps.shape[-1]
    return np.matmul(np.matmul(_shifters(dy, size, order), stamps), _shifters(dx, size, order).transpose(0, 2, 1))


def _shifters(shift: Floats, size: int, order: int) -> Floats:
    """Make (n, size, size) matrices that shift rows of pixels; each row of taps sums to 1, so constants stay."""
    reach = np.arange(-order, order + 1)
    t = reach[None, :] - shift[:, None]
    taps = np.where(np.abs(t) < order, np.sinc(t) * np.sinc(t / order), 0.0)
    taps /= taps.sum(axis=1, keepdims=True)
    lag = np.arange(size)[:, None] - np.arange(size)[None, :]
    padded = np.pad(taps, ((0, 0), (0, 1)))  # the last column serves every lag beyond the kernel
    return padded[:, np.where(np.abs(lag) <= order, lag + order, 2 * order + 1)]


def effective_area(stamps: Floats) -> Floats:
    """Give (sum p)^2 / sum p^2 of (..., k, k) stamps [pixel^2]: the area whose noise a PSF flux carries."""
    return stamps.sum(axis=(-2, -1)) ** 2 / (stamps**2).sum(axis=(-2, -1))


def psf_sigma(psf: PointSpreadFunction | PolynomialPsf, x: float, y: float) -> float:
    """Give the determinant radius of the PSF at one place, from adaptive (Gaussian-matched) moments [pixel].

    Raises
    ------
    NoPsf
        When the model has no such moments there: it is narrower than a pixel, empty, or no number.
    """
    import galsim

    stamp = psf_stamps(psf, [x], [y], centred=True)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return float(galsim.hsm.FindAdaptiveMom(galsim.Image(np.ascontiguousarray(stamp))).moments_sigma)
        except galsim.errors.GalSimError as error:
            raise NoPsf(
                f"the PSF at x {x:.0f}, y {y:.0f} has no width: {str(error).strip()}",
                hint="supply the PSF of this image, or have it fitted with `psf.refit`",
                x=float(x),
                y=float(y),
            ) from error
