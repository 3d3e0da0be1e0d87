"""Templates: visit images warped onto the patch of a tract and averaged without what only one of them saw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numba as nb
import numpy as np
import scipy.ndimage as ndi
from lsst.images import Box, Image, Mask, SkyProjection, VisitImage
from lsst.images.cells import CellCoadd, CellGrid, CellGridBounds, CellIJ, CellPointSpreadFunction, PatchDefinition
from numpy.typing import NDArray
from pydantic import Field

from nightlab.config import Config
from nightlab.errors import BadInput, BandMismatch, NoOverlap
from nightlab.images.build import psf_of, visit_of
from nightlab.images.planes import TEMPLATE_PLANES, flagged, new_mask
from nightlab.images.skymap import SkyMap
from nightlab.images.warp import CORRELATION_KEY, CORRELATION_REACH, Warped, correlation_text, warp, warp_psf
from nightlab.images.wcs import pixel_to_radec, radec_to_pixel
from nightlab.numeric.photometry import resized_stamps
from nightlab.numeric.spectra import autocorrelation_sum
from nightlab.report import Metric, report

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]

REJECTED = ("BAD", "COSMIC_RAY", "UNMASKED_NAN")  # left out of the average where another visit has better

BUILD_METRICS = {
    "n_visits": Metric("Visits in the template"),
    "coverage": Metric("Fraction of the patch with data"),
    "clipped_fraction": Metric("Fraction of all input pixels clipped as artefacts"),
    "median_variance": Metric("Median variance of a pixel", unit="nJy2"),
    "noise_correlation": Metric("Correlation of the noise of neighbouring pixels"),
}


class TemplateConfig(Config):
    """Knobs of building templates and of bringing them onto detectors."""

    order: int = Field(default=3, ge=3, le=5, description="Order of the Lanczos kernel.")
    max_misalignment: float = Field(
        default=0.3,
        ge=0,
        le=0.5,
        description="Grids that agree this well after a whole-pixel shift are copied [pixel].",
    )
    clip: float = Field(
        default=5.0, gt=0, description="Pixels this far from the median of the visits are artefacts [sigma]."
    )
    grow: int = Field(default=2, ge=0, description="How far an artefact grows into pixels beyond `grow_clip` [pixel].")
    grow_clip: float = Field(default=2.0, gt=0, description="Threshold for growing [sigma].")
    sharpness: float = Field(
        default=0.5,
        ge=0,
        description="Part of the local contrast that seeing may change between visits, taken as noise.",
    )
    psf_half_width: int = Field(default=20, ge=5, description="Half width of PSF images [pixel].")
    psf_order: int = Field(default=2, ge=0, le=4, description="Spatial degree of the PSF of a warped template.")
    high_variance: float = Field(default=4.0, gt=1, description="Variance over its median that earns HIGH_VARIANCE.")


@dataclass(frozen=True, kw_only=True)
class Template:
    """What `build_template` gives.

    Attributes
    ----------
    template_coadd
        The average on the pixels of the patch.
    metrics
        See `BUILD_METRICS`.
    """

    template_coadd: CellCoadd
    metrics: xr.Dataset


@dataclass(frozen=True, kw_only=True)
class _Layer:
    """One visit on the pixels of the patch."""

    visit_image: VisitImage
    warped: Warped
    weight: float  # inverse of its median white-noise-equivalent variance


def build_template(
    visit_images: Sequence[VisitImage],
    sky_map: SkyMap,
    tract: int,
    patch: int,
    config: TemplateConfig = TemplateConfig(),
) -> Template:
    """Average visit images on one patch.

    Every visit has one weight, so the PSF of the average is the same average of PSFs (per cell). From three visits on,
    pixels that differ from the median by more than their noise, and more than a change of seeing could explain, are
    left out; they and the pixels of masked cosmic rays are marked CLIPPED and INEXACT_PSF.

    Parameters
    ----------
    visit_images
        Calibrated images of one band, in any order; those that miss the patch are passed over.
    sky_map, tract, patch
        The pixels.
    config
        Knobs.

    Raises
    ------
    BadInput
        No image at all, or images of different units.
    BandMismatch
        Images of different bands.
    NoOverlap
        No image touches the patch.
    """
    _check(visit_images)
    grid = sky_map.tract(tract)
    projection, bbox, cells = grid.projection(sky_map.name), grid.patch_bbox(patch), grid.cell_grid(patch)
    ordered = sorted(visit_images, key=lambda image: (visit_of(image), image.detector.id))
    layers = _layers(ordered, projection, bbox, config)
    if not layers:
        raise NoOverlap(
            f"none of {len(ordered)} visit images touches patch {patch} of tract {tract}",
            hint="choose visits that cover the patch",
            tract=tract,
            patch=patch,
        )
    kept, clipped = _selection([layer.warped for layer in layers], config)
    image, variance, mask = _combine(layers, kept, clipped)
    psf = _cell_psf(layers, cells, config)
    nx = grid.n_patches.x
    correlation = _correlation(layers)
    coadd = CellCoadd(
        Image(image, bbox=bbox, unit=ordered[0].unit, sky_projection=projection),
        mask=mask,
        variance=Image(variance, bbox=bbox, unit=ordered[0].unit ** 2),
        sky_projection=projection,
        band=ordered[0].band,
        psf=psf,
        patch=PatchDefinition(
            id=patch, index={"y": patch // nx, "x": patch % nx}, inner_bbox=grid.inner_bbox(patch), cells=cells
        ),
    )
    coadd.metadata[CORRELATION_KEY] = correlation_text(correlation)
    coadd.metadata["visits"] = json.dumps(sorted({visit_of(layer.visit_image) for layer in layers}))
    values = _values(layers, clipped, variance, ~mask.get("NO_DATA"), correlation)
    metrics = report(BUILD_METRICS, values, room="template", tract=tract, patch=patch, band=ordered[0].band)
    return Template(template_coadd=coadd, metrics=metrics)


def _layers(
    images: Sequence[VisitImage], projection: SkyProjection, bbox: Box, config: TemplateConfig
) -> list[_Layer]:
    """The visit images that have data on the patch, on its pixels."""
    layers = []
    for image in images:
        if not _touches(image, projection, bbox):
            continue
        warped = warp(
            image,
            projection,
            bbox,
            schema=TEMPLATE_PLANES,
            order=config.order,
            max_misalignment=config.max_misalignment,
        )
        if not warped.no_data.all():
            noise = float(np.median(warped.variance[~warped.no_data])) * autocorrelation_sum(warped.correlation)
            layers.append(_Layer(visit_image=image, warped=warped, weight=1.0 / max(noise, 1e-30)))
    return layers


def _values(
    layers: list[_Layer], clipped: Bools, variance: Floats, has_data: Bools, correlation: Floats
) -> dict[str, float]:
    half = correlation.shape[0] // 2
    return {
        "n_visits": float(len({visit_of(layer.visit_image) for layer in layers})),
        "coverage": float(has_data.mean()),
        "clipped_fraction": float(clipped.sum() / max(sum((~la.warped.no_data).sum() for la in layers), 1)),
        "median_variance": float(np.median(variance[has_data])),
        "noise_correlation": float(max(correlation[half, half + 1], correlation[half + 1, half])),
    }


def _check(images: Sequence[VisitImage]) -> None:
    if not images:
        raise BadInput("no visit image was given", hint="choose at least one visit for the template")
    bands = sorted({image.band for image in images})
    if len(bands) > 1:
        raise BandMismatch(f"visits of bands {', '.join(bands)} cannot share a template", hint="choose one band")
    units = sorted({str(image.unit) for image in images})
    if len(units) > 1:
        raise BadInput(f"visits in {' and '.join(units)} cannot be averaged", hint="calibrate them all")


def _touches(image: VisitImage, projection: SkyProjection, bbox: Box) -> bool:
    """Whether the image's outline comes near the patch."""
    edge = np.linspace(0, 1, 9)
    u, v = (a.ravel() for a in np.meshgrid(edge, edge))
    box = image.bbox
    ra, dec = pixel_to_radec(
        image.sky_projection, box.x.start + u * (box.x.size - 1), box.y.start + v * (box.y.size - 1)
    )
    x, y = radec_to_pixel(projection, ra, dec)
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite.any():
        return False
    x, y = x[finite], y[finite]
    return bool(x.max() > bbox.x.min and x.min() < bbox.x.max and y.max() > bbox.y.min and y.min() < bbox.y.max)


def _selection(warps: list[Warped], config: TemplateConfig) -> tuple[Bools, Bools]:
    """Which pixels of which visit enter the average, and which were clipped: (n, ny, nx) each."""
    has_data = np.array([~w.no_data for w in warps])
    masked = np.array([flagged(w.mask, *REJECTED) for w in warps]) & has_data
    kept = has_data & ~masked
    clipped = np.zeros_like(kept)
    if len(warps) >= 3:
        images = np.array([w.image for w in warps])
        middle = _median(images, kept)
        flat = np.where(np.isfinite(middle), middle, 0.0)
        contrast = ndi.maximum_filter(flat, 3) - ndi.minimum_filter(flat, 3)
        enough = kept.sum(axis=0) >= 3
        for n, w in enumerate(warps):
            usable = kept[n] & enough
            noise = np.sqrt(np.where(usable, w.variance, 1.0) + (config.sharpness * contrast) ** 2)
            pull = np.where(usable, (images[n] - flat) / noise, 0.0)
            seed = (np.abs(pull) > config.clip) | (np.abs(ndi.uniform_filter(pull, 3)) * 3 > config.clip)
            grown = ndi.binary_dilation(seed, iterations=config.grow) if config.grow else seed
            clipped[n] = usable & (seed | (grown & (np.abs(pull) > config.grow_clip)))
        kept &= ~clipped
    nothing = ~kept.any(axis=0)
    # where every visit was rejected, a doubtful pixel with its flags is better than a hole
    kept |= nothing[None] & has_data
    return kept, clipped | (masked & ~kept)


@nb.njit(cache=True)
def _median(images, kept):  # type: ignore[no-untyped-def]
    """Median along the first axis of the kept pixels, NaN where there is none."""
    n, ny, nx = images.shape
    out = np.full((ny, nx), np.nan)
    values = np.empty(n)
    for i in range(ny):
        for j in range(nx):
            m = 0
            for k in range(n):
                if kept[k, i, j]:
                    values[m] = images[k, i, j]
                    m += 1
            if m:
                out[i, j] = np.median(values[:m])
    return out


def _combine(layers: list[_Layer], kept: Bools, clipped: Bools) -> tuple[Floats, Floats, Mask]:
    """Weighted mean of the kept pixels, its variance, and the planes they carry."""
    first = layers[0].warped
    shape = first.image.shape
    total, flux, noise = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    mask = new_mask(TEMPLATE_PLANES, first.mask.bbox)
    for layer, use in zip(layers, kept, strict=True):
        total += np.where(use, layer.weight, 0.0)
        flux += np.where(use, layer.weight * layer.warped.image, 0.0)
        noise += np.where(use, layer.weight**2 * layer.warped.variance, 0.0)
        mask.array[:] |= np.where(use[..., None], layer.warped.mask.array, 0)
    nothing = total == 0
    safe = np.where(nothing, 1.0, total)
    image = np.where(nothing, np.nan, flux / safe).astype(np.float32)
    variance = np.where(nothing, np.nan, noise / safe**2).astype(np.float32)
    mask.set("NO_DATA", nothing)
    any_clipped = clipped.any(axis=0) & ~nothing
    mask.set("CLIPPED", any_clipped)
    mask.set("INEXACT_PSF", any_clipped)
    return image, variance, mask


def _correlation(layers: list[_Layer]) -> Floats:
    """Noise autocorrelation of the average: each visit's counts by the variance it contributes."""
    shares = np.array([la.weight**2 * float(np.median(la.warped.variance[~la.warped.no_data])) for la in layers])
    stacked = np.array([resized_stamps(la.warped.correlation, CORRELATION_REACH) for la in layers])
    mean: Floats = np.tensordot(shares / shares.sum(), stacked, axes=1)
    return mean


def _cell_psf(layers: list[_Layer], cells: CellGrid, config: TemplateConfig) -> CellPointSpreadFunction:
    """Weighted mean PSF in the middle of every cell, over the visits that have data in the cell."""
    size, (cy, cx) = cells.grid_size, cells.cell_shape
    gx, gy = np.meshgrid((np.arange(size.j) + 0.5) * cx - 0.5, (np.arange(size.i) + 0.5) * cy - 0.5)
    side = 2 * config.psf_half_width + 1
    total, stamps = np.zeros(gx.size), np.zeros((gx.size, side, side))
    for layer in layers:
        covered = (~layer.warped.no_data).reshape(size.i, cy, size.j, cx).mean(axis=(1, 3)).ravel()
        drawn, valid = warp_psf(
            psf_of(layer.visit_image),
            layer.warped.mapping,
            layer.visit_image.bbox,
            gx.ravel(),
            gy.ravel(),
            size=side,
            slack=2.0 * max(cy, cx),
        )
        weight = layer.weight * covered * valid
        total += weight
        stamps += weight[:, None, None] * drawn
    empty = total == 0
    stamps[~empty] /= total[~empty, None, None]
    stamps[empty] = np.nan
    missing = frozenset(CellIJ(i=int(k) // size.j, j=int(k) % size.j) for k in np.flatnonzero(empty))
    bounds = CellGridBounds(grid=cells, bbox=cells.bbox, missing=missing)
    return CellPointSpreadFunction(stamps.reshape(size.i, size.j, side, side), bounds)
