"""Image differencing: match the template to the science image, subtract, and make the noise white again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import scipy.ndimage as ndi
from astropy.table import Table
from lsst.images import Box, DifferenceImage, Image, Mask, VisitImage
from lsst.images.convolution_kernels import ImageBasisConvolutionKernel
from lsst.images.fields import ChebyshevField
from numpy.typing import NDArray
from pydantic import Field

from nightlab.config import Config
from nightlab.errors import BadInput, BandMismatch, NoOverlap, ShapeError
from nightlab.images.build import psf_of, visit_of
from nightlab.images.planes import DIFFERENCE_PLANES, flagged, new_mask
from nightlab.images.psf import PolynomialPsf, psf_sigma, psf_stamps
from nightlab.images.warp import CORRELATION_KEY, read_correlation
from nightlab.numeric.convolution import SpatialKernel, chebyshev_powers, convolve, convolve_stamps
from nightlab.numeric.matching_kernel import FitRules, KernelFit, fit_matching_kernel, gaussian_basis, scaled_basis
from nightlab.numeric.photometry import resized_stamps
from nightlab.numeric.spectra import (
    Noise,
    autocorrelation_sum,
    chain,
    measured_autocorrelation,
    noise_root,
    whitening_kernel,
)
from nightlab.numeric.statistics import robust_width
from nightlab.report import Metric, report
from nightlab.stages.differencing.kernel_stars import StarConfig, detect_stars, select_stars

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]

UNUSABLE = ("BAD", "SATURATED", "NO_DATA", "COSMIC_RAY", "DETECTION_EDGE", "UNMASKED_NAN")
NOT_FIT = (*UNUSABLE, "SUSPECT", "INTERPOLATED", "CLIPPED", "HIGH_VARIANCE")

METRICS = {
    "n_kernel_candidates": Metric("Stars offered to the kernel fit"),
    "n_kernel_stars": Metric("Stars in the last solution"),
    "kernel_sum": Metric("Science flux per template flux"),
    "kernel_star_scatter": Metric("Robust scatter of the kernel stars' own fluxes"),
    "kernel_star_shift": Metric("Robust scatter of the kernel stars' own shifts per coordinate", unit="pix"),
    "kernel_condition": Metric("Condition number of the kernel fit"),
    "template_convolved": Metric("1 when the template was convolved, 0 when the science image was"),
    "template_coverage": Metric("Fraction of the image the template covers"),
    "science_sigma": Metric("Width of the science PSF", unit="pix"),
    "template_sigma": Metric("Width of the template PSF", unit="pix"),
    "difference_sigma": Metric("Width of the PSF of the difference", unit="pix"),
    "noise_ratio": Metric("Robust standard deviation over the expected one, away from sources"),
    "noise_std_ratio": Metric("Plain rms over the expected one, away from sources, 5 sigma clipped"),
    "noise_correlation": Metric("Largest correlation at lags of 1 to 5 pixels"),
    "star_residual_ratio": Metric("Mean |difference| over mean |science| on kernel stars"),
    "star_residual_scatter": Metric("Scatter among kernel stars of |difference| over |science|"),
}


class SubtractConfig(Config):
    """Knobs of image differencing: kernel stars, kernel, background, whitening, PSF of the result."""

    convolve: Literal["auto", "template", "science"] = Field(
        default="auto", description="Which image is convolved; auto: the one of the narrower PSF."
    )
    stars: StarConfig = Field(default=StarConfig(), description="Selection of kernel stars.")
    kernel_order: int = Field(default=1, ge=0, le=4, description="Spatial degree of the kernel.")
    background_order: int = Field(default=2, ge=0, le=6, description="Spatial degree of the differential background.")
    degrees: tuple[int, ...] = Field(
        default=(4, 2, 2), description="Polynomial degrees of the Gaussians, narrowest first."
    )
    stamp_half_width: int = Field(
        default=15, ge=5, description="Half width of the pixels fitted around a star [pixel]."
    )
    error_floor: float = Field(default=0.01, ge=0, description="Model error as a fraction of a star's light.")
    shift_prior: float = Field(default=0.05, gt=0, description="Scatter of the stars' own shifts [pixel].")
    flux_prior: float = Field(default=0.02, gt=0, description="Relative scatter of the stars' own fluxes.")
    rounds: int = Field(default=3, ge=0, description="Rounds of rejection of kernel stars.")
    decorrelate: bool = Field(default=True, description="Make the noise of the difference white.")
    whitening_half_width: int = Field(
        default=30, ge=5, le=60, description="Half width of the whitening filter [pixel]."
    )
    min_coverage: float = Field(
        default=0.1, ge=0, le=1, description="Least fraction of the image the template must cover."
    )
    psf_order: int = Field(default=3, ge=0, le=4, description="Spatial degree of the PSF of the difference.")
    psf_half_width: int = Field(default=20, ge=5, description="Half width of the PSF of the difference [pixel].")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What `subtract` gives.

    Attributes
    ----------
    difference_image
        Science minus template on the photometric scale of the science image.
    metrics
        See `METRICS`.
    """

    difference_image: DifferenceImage
    metrics: xr.Dataset


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """Both images, NaN-free, with what may be used of them."""

    science: Floats
    template: Floats
    science_variance: Floats
    template_variance: Floats
    covered: Bools  # both images have data
    fit: Bools  # pixels fit to constrain a kernel


def subtract(
    science: VisitImage,
    template: DifferenceImage | VisitImage,
    source: Table | None = None,
    config: SubtractConfig = SubtractConfig(),
) -> Difference:
    """Subtract a template from a science image.

    Alard & Lupton matching with a spatially varying kernel, then the whitening filter of DMTN-021 extended to inputs
    whose noise was correlated before (metadata ``noise_correlation``). Neither input is modified.

    Parameters
    ----------
    science
        Calibrated, background-subtracted image with a PSF.
    template
        The template on the same (ny, nx) pixels, in the same unit and passband.
    source
        Sources measured on `science`; kernel stars are chosen among them. None: they are found here.
    config
        Knobs.

    Raises
    ------
    ShapeError
        The two do not share their pixels.
    BandMismatch
        They were taken in different passbands.
    BadInput
        Their units differ.
    NoOverlap
        The template covers less than `min_coverage`.
    TooFewStars
        Too few stars constrain the kernel.
    """
    _check(science, template)
    pair = _pair(science, template)
    coverage = float(pair.covered.mean())
    if coverage < config.min_coverage:
        raise NoOverlap(
            f"the template covers {coverage:.1%} of the image; at least {config.min_coverage:.1%} is needed",
            hint="build templates for the patches this detector sees",
            coverage=coverage,
        )
    x, y = _stars(science, source, pair, config)
    widths = _width(science), _width(template)
    template_convolved = config.convolve == "template" or (config.convolve == "auto" and widths[1] <= widths[0])
    correlations = read_correlation(science), read_correlation(template)
    fit = _fit(pair, x, y, widths, template_convolved, correlations, config)
    raw = _raw_difference(pair, fit, template_convolved)
    filters = _Filters.make(pair, fit, template_convolved, correlations, config)
    array, variance = _whitened(raw, pair, science, template, filters, correlations)
    mask = _mask(science, template, filters, template_convolved)
    lost = mask.get("NO_DATA")
    array[lost], variance[lost] = np.nan, np.nan
    psf = _difference_psf(science, filters, config)
    image = DifferenceImage(
        Image(array.astype(np.float32), bbox=science.bbox, unit=science.unit, sky_projection=science.sky_projection),
        mask=mask,
        variance=Image(variance.astype(np.float32), bbox=science.bbox, unit=science.unit**2),
        obs_info=science.obs_info,
        photometric_scaling=science.photometric_scaling,
        psf=psf.to_piff(),
        detector=science.detector,
        band=science.band,
        kernel=_lsst_kernel(fit.kernel, science.bbox),
        metadata=dict(science.metadata)
        | {"convolved": "template" if template_convolved else "science", "kernel_sum": fit.kernel_sum},
    )
    image.metadata.pop(CORRELATION_KEY, None)
    values = _measures(image, pair, fit, x, y, psf) | {
        "template_convolved": float(template_convolved),
        "template_coverage": coverage,
        "science_sigma": widths[0],
        "template_sigma": widths[1],
    }
    metrics = report(
        METRICS, values, room="difference", visit=visit_of(science), detector=science.detector.id, band=science.band
    )
    return Difference(difference_image=image, metrics=metrics)


def _check(science: VisitImage, template: VisitImage) -> None:
    if science.bbox != template.bbox:
        raise ShapeError(
            f"the science image has pixels {science.bbox} and the template {template.bbox}",
            hint="warp the template onto the science image with `warp_template`",
        )
    if science.band != template.band:
        raise BandMismatch(
            f"the science image is in band {science.band} and the template in {template.band}",
            hint="choose a template of the same band",
            science=science.band,
            template=template.band,
        )
    if science.unit != template.unit:
        raise BadInput(
            f"the science image is in {science.unit} and the template in {template.unit}",
            hint="calibrate both with `nightlab.calibrate`",
        )


def _pair(science: VisitImage, template: VisitImage) -> _Pair:
    s, t = science.image.array, template.image.array
    vs, vt = science.variance.array, template.variance.array
    has_s = np.isfinite(s) & np.isfinite(vs) & ~flagged(science.mask, "NO_DATA")
    has_t = np.isfinite(t) & np.isfinite(vt) & ~flagged(template.mask, "NO_DATA")
    bad = flagged(science.mask, *NOT_FIT) | ~has_s
    bad_t = grown(flagged(template.mask, *NOT_FIT) | ~has_t, 2)
    return _Pair(
        science=np.where(has_s, s, 0.0).astype(float),
        template=np.where(has_t, t, 0.0).astype(float),
        science_variance=np.where(has_s, vs, 0.0).astype(float),
        template_variance=np.where(has_t, vt, 0.0).astype(float),
        covered=has_s & has_t,
        fit=~bad & ~bad_t,
    )


def _stars(science: VisitImage, source: Table | None, pair: _Pair, config: SubtractConfig) -> tuple[Floats, Floats]:
    """Array positions of kernel stars, from a table or from the image itself."""
    if source is None:
        table = detect_stars(pair.science, pair.science_variance, pair.covered & ~flagged(science.mask, *UNUSABLE))
    else:
        offset = science.bbox.start
        table = source.copy(copy_data=True)
        table["x"], table["y"] = np.asarray(source["x"]) - offset.x, np.asarray(source["y"]) - offset.y
    return select_stars(table, pair.science.shape, config.stars)


def _width(image: VisitImage) -> float:
    """Mean Gaussian width of the PSF on a 3 x 3 grid [pixel]."""
    psf, box = psf_of(image), image.bbox
    places = [(u, v) for v in (0.1, 0.5, 0.9) for u in (0.1, 0.5, 0.9)]
    widths = [
        psf_sigma(psf, box.x.start + u * (box.x.size - 1), box.y.start + v * (box.y.size - 1)) for u, v in places
    ]
    return float(np.mean(widths))


def _fit(
    pair: _Pair,
    x: Floats,
    y: Floats,
    widths: tuple[float, float],
    template_convolved: bool,
    correlations: tuple[Floats | None, Floats | None],
    config: SubtractConfig,
) -> KernelFit:
    science, template = widths
    reference, target = (pair.template, pair.science) if template_convolved else (pair.science, pair.template)
    shape = scaled_basis(*((template, science) if template_convolved else (science, template)), degrees=config.degrees)
    order, background = config.kernel_order, config.background_order
    while order > 0 and len(x) < 5 * len(chebyshev_powers(order)):
        order -= 1
    while background > 0 and len(x) < 3 * len(chebyshev_powers(background)):
        background -= 1
    return fit_matching_kernel(
        reference,
        target,
        pair.science_variance + pair.template_variance,
        pair.fit,
        x,
        y,
        gaussian_basis(shape),
        reference_variance=pair.template_variance if template_convolved else pair.science_variance,
        reference_autocorrelation=correlations[1 if template_convolved else 0],
        rules=FitRules(
            order=order,
            background_order=background,
            stamp_half_width=config.stamp_half_width,
            error_floor=config.error_floor,
            shift_prior=config.shift_prior,
            flux_prior=config.flux_prior,
            rounds=config.rounds,
            min_stars=config.stars.minimum,
        ),
    )


def _raw_difference(pair: _Pair, fit: KernelFit, template_convolved: bool) -> Floats:
    if template_convolved:
        difference: Floats = pair.science - convolve(pair.template, fit.kernel) - fit.background_surface()
        return difference
    matched = convolve(pair.science, fit.kernel) + fit.background_surface()
    scaled: Floats = (matched - pair.template) / fit.kernel.images[0].sum()
    return scaled


@dataclass(frozen=True, kw_only=True)
class _Filters:
    """What each image went through on its way into the difference."""

    science: SpatialKernel  # before whitening
    template: SpatialKernel
    whitening: SpatialKernel

    @classmethod
    def make(
        cls,
        pair: _Pair,
        fit: KernelFit,
        template_convolved: bool,
        correlations: tuple[Floats | None, Floats | None],
        config: SubtractConfig,
    ) -> _Filters:
        """Collect the kernels, and design the whitening filter from the local noise levels."""
        kernel, shape = fit.kernel, fit.kernel.shape
        scale = 1.0 if template_convolved else 1.0 / float(kernel.images[0].sum())
        still = SpatialKernel(images=np.full((1, 1, 1), scale), order=0, shape=shape)
        moved = SpatialKernel(images=kernel.images * scale, order=kernel.order, shape=shape)
        science, template = (still, moved) if template_convolved else (moved, still)
        if not config.decorrelate:
            return cls(
                science=science,
                template=template,
                whitening=SpatialKernel(images=np.ones((1, 1, 1)), order=0, shape=shape),
            )
        n = kernel.order + 2
        x, y, noise_s, noise_t = _local_noise(pair, n)
        whitening = [
            whitening_kernel(
                [
                    Noise(variance=vs, kernel=ks, autocorrelation=correlations[0]),
                    Noise(variance=vt, kernel=kt, autocorrelation=correlations[1]),
                ],
                half_width=config.whitening_half_width,
            )
            for vs, vt, ks, kt in zip(noise_s, noise_t, science.at(x, y), template.at(x, y), strict=True)
        ]
        return cls(
            science=science,
            template=template,
            whitening=SpatialKernel.fit(x, y, np.array(whitening), order=kernel.order, shape=shape),
        )


def _local_noise(pair: _Pair, n: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Median variances of both images in an n x n grid of blocks, and the blocks' centres."""
    ny, nx = pair.science.shape
    edges_y, edges_x = np.linspace(0, ny, n + 1).astype(int), np.linspace(0, nx, n + 1).astype(int)
    everywhere = [float(np.median(v[pair.covered])) for v in (pair.science_variance, pair.template_variance)]
    rows = []
    for i in range(n):
        for j in range(n):
            part = np.s_[edges_y[i] : edges_y[i + 1], edges_x[j] : edges_x[j + 1]]
            good = pair.covered[part]
            values = everywhere
            if good.mean() > 0.1:
                values = [float(np.median(v[part][good])) for v in (pair.science_variance, pair.template_variance)]
            rows.append([0.5 * (edges_x[j] + edges_x[j + 1] - 1), 0.5 * (edges_y[i] + edges_y[i + 1] - 1), *values])
    x, y, noise_s, noise_t = np.array(rows).T
    return x, y, noise_s, noise_t


def _whitened(
    raw: Floats,
    pair: _Pair,
    science: VisitImage,
    template: VisitImage,
    filters: _Filters,
    correlations: tuple[Floats | None, Floats | None],
) -> tuple[Floats, Floats]:
    """Filtered difference and its variance.

    Saturated pixels and holes are kept out of the filter, which would ring around them, and put back as they were.
    The variance of each input goes through the square of all it was convolved with, starting from white noise.
    """
    wild = ~pair.covered | flagged(science.mask, "SATURATED") | flagged(template.mask, "SATURATED")
    array = np.where(wild, raw, convolve(np.where(wild, 0.0, raw), filters.whitening))
    psi = filters.whitening.centre()
    variance = np.zeros(raw.shape)
    for own, kernel, correlation in (
        (pair.science_variance, filters.science, correlations[0]),
        (pair.template_variance, filters.template, correlations[1]),
    ):
        known = np.where(pair.covered, own, np.median(own[pair.covered])) * autocorrelation_sum(correlation)
        response = chain(psi, kernel.centre(), noise_root(correlation)) ** 2
        limit = min(response.shape[0] // 2, 20)
        compact = resized_stamps(response, limit)
        variance += np.maximum(convolve(known, compact * (response.sum() / compact.sum())), 0.0)
    edge = _unreached(np.ones(raw.shape, bool), psi**2)
    variance[edge] = np.maximum(variance[edge], np.median(variance[pair.covered]))
    return array, variance


def _unreached(has_data: Bools, kernel: Floats, limit: float = 0.01) -> Bools:
    """Pixels of which more than `limit` of the kernel's absolute weight falls where there is no data."""
    weight = np.abs(kernel) / np.abs(kernel).sum()
    missing: Bools = 1.0 - convolve(has_data.astype(float), weight) > limit
    return missing


def _mask(science: VisitImage, template: VisitImage, filters: _Filters, template_convolved: bool) -> Mask:
    mask = new_mask(DIFFERENCE_PLANES, science.bbox)
    for name in science.mask.schema.names & mask.schema.names - {"DETECTED", "DETECTED_NEGATIVE"}:
        mask.set(name, science.mask.get(name))
    has_t = np.isfinite(template.image.array) & ~flagged(template.mask, "NO_DATA")
    has_s = np.isfinite(science.image.array) & ~flagged(science.mask, "NO_DATA")
    kernel = (filters.template if template_convolved else filters.science).centre()
    reference, other = (has_t, has_s) if template_convolved else (has_s, has_t)
    mask.set("NO_DATA", _unreached(reference, kernel) | ~other)
    # a twentieth of the kernel's weight on saturated pixels, up to six pixels away, spoils the difference
    saturated = flagged(template.mask, "SATURATED")
    mask.set("SAT_TEMPLATE", _unreached(~saturated, kernel, 0.05) & grown(saturated, 6))
    mask.set("HIGH_VARIANCE", flagged(template.mask, "HIGH_VARIANCE"))
    doubtful = flagged(template.mask, "BAD", "COSMIC_RAY", "SUSPECT", "UNMASKED_NAN")
    mask.set("SUSPECT", grown(doubtful, 2) | flagged(science.mask, "SUSPECT"))
    return mask


def _difference_psf(science: VisitImage, filters: _Filters, config: SubtractConfig) -> PolynomialPsf:
    """PSF of the difference: the science PSF through everything the science image went through."""
    n = config.psf_order + 3
    ny, nx = science.image.array.shape
    gx, gy = np.meshgrid(np.linspace(0, nx - 1, n), np.linspace(0, ny - 1, n))
    x, y = gx.ravel(), gy.ravel()
    size = 2 * config.psf_half_width + 1
    stamps = psf_stamps(psf_of(science), x + science.bbox.x.start, y + science.bbox.y.start, size=size, centred=True)
    through = convolve_stamps(convolve_stamps(stamps, filters.science.at(x, y)), filters.whitening.at(x, y))
    through = through / through.sum(axis=(1, 2), keepdims=True)
    return PolynomialPsf.fit(
        x + science.bbox.x.start, y + science.bbox.y.start, through, order=config.psf_order, bbox=science.bbox
    )


def _lsst_kernel(kernel: SpatialKernel, bbox: Box) -> ImageBasisConvolutionKernel:
    """The kernel as `lsst.images` carries it: one image per Chebyshev term."""
    fields = []
    for p, q in chebyshev_powers(kernel.order):
        coefficients = np.zeros((kernel.order + 1, kernel.order + 1))
        coefficients[p, q] = 1.0
        fields.append(ChebyshevField(bbox, coefficients))
    return ImageBasisConvolutionKernel(np.ascontiguousarray(kernel.images), fields)


def _measures(
    image: DifferenceImage, pair: _Pair, fit: KernelFit, x: Floats, y: Floats, psf: PolynomialPsf
) -> dict[str, float]:
    array, variance = image.image.array, image.variance.array
    blank = blank_sky(pair.science, pair.science_variance, pair.covered)
    blank &= blank_sky(pair.template, pair.template_variance, pair.covered)
    blank &= ~flagged(image.mask, *UNUSABLE, "SAT_TEMPLATE") & np.isfinite(array) & (variance > 0)
    values: dict[str, float] = {
        "n_kernel_candidates": float(len(x)),
        "n_kernel_stars": float(fit.used.sum()),
        "kernel_sum": fit.kernel_sum,
        "kernel_star_scatter": robust_width(fit.amplitude[fit.used]),
        "kernel_star_shift": robust_width(fit.shift[fit.used].ravel()),
        "kernel_condition": fit.condition,
        "difference_sigma": psf_sigma(psf, image.bbox.x.center, image.bbox.y.center),
    }
    if blank.sum() > 1000:
        pull = np.where(blank, array / np.sqrt(np.where(blank, variance, 1.0)), 0.0)
        inner = pull[blank]
        values["noise_ratio"] = robust_width(inner)
        values["noise_std_ratio"] = float(np.std(inner[np.abs(inner) < 5]))
        correlation = measured_autocorrelation(np.clip(pull, -5, 5), blank, 5)
        correlation[5, 5] = 0.0
        values["noise_correlation"] = float(np.abs(correlation).max())
    ix, iy = np.rint(x[fit.used]).astype(int), np.rint(y[fit.used]).astype(int)
    reach = np.arange(-5, 6)
    part = (iy[:, None, None] + reach[None, :, None], ix[:, None, None] + reach[None, None, :])
    floor = np.sqrt(2 / np.pi) * np.sqrt(np.nanmedian(variance))
    ratio = (np.nanmean(np.abs(array[part]), axis=(1, 2)) - floor) / np.mean(np.abs(pair.science[part]), axis=(1, 2))
    return values | {"star_residual_ratio": float(np.mean(ratio)), "star_residual_scatter": float(np.std(ratio))}


def blank_sky(image: Floats, variance: Floats, good: Bools, *, threshold: float = 2.5, grow: int = 6) -> Bools:
    """Pixels well away from any source: nothing above `threshold` in a smoothed image within `grow` pixels."""
    smooth = ndi.gaussian_filter(np.where(good, image, 0.0).astype(np.float32), 1.5, truncate=3)
    noise = np.sqrt(max(float(np.median(variance[good])), 1e-30) / (4 * np.pi * 1.5**2))
    middle = np.median(smooth[good])
    noise = max(noise, robust_width(smooth[good]))
    source = np.abs(smooth - middle) > threshold * noise
    source = ndi.binary_opening(source, iterations=1)
    away: Bools = good & ~grown(source, grow)
    return away


def grown(mask: Bools, radius: int) -> Bools:
    """Spread a mask by `radius` pixels along rows and columns (a square)."""
    spread: Bools = ndi.maximum_filter(mask.view(np.uint8), size=2 * radius + 1, mode="constant").astype(bool)
    return spread
