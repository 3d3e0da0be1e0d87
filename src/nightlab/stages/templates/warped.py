"""The template of one detector: coadd patches stitched per tract and brought onto its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import scipy.ndimage as ndi
from lsst.images import Box, DifferenceImage, Image, Mask, MaskedImage, VisitImage
from lsst.images.cells import CellCoadd
from numpy.typing import NDArray

from nightlab.errors import BadInput, BandMismatch, NoOverlap
from nightlab.images.build import visit_of
from nightlab.images.planes import TEMPLATE_PLANES, new_mask
from nightlab.images.psf import PolynomialPsf, polynomial_powers, psf_sigma
from nightlab.images.warp import CORRELATION_KEY, Warped, correlation_text, read_correlation, warp, warp_psf
from nightlab.images.wcs import pixel_to_radec, radec_to_pixel
from nightlab.numeric.photometry import resized_stamps
from nightlab.report import Metric, report
from nightlab.stages.templates.build import TemplateConfig

if TYPE_CHECKING:
    import xarray as xr

Floats = NDArray[np.floating]
Bools = NDArray[np.bool_]

WARP_METRICS = {
    "n_patches": Metric("Patches that touch the detector"),
    "n_tracts": Metric("Tracts they belong to"),
    "coverage": Metric("Fraction of the detector with template"),
    "copied": Metric("1 when the pixels were copied, 0 when they were resampled"),
    "high_variance_fraction": Metric("Fraction of the detector marked HIGH_VARIANCE"),
    "psf_sigma": Metric("Width of the PSF of the template", unit="pix"),
}


@dataclass(frozen=True, kw_only=True)
class WarpedTemplate:
    """What `warp_template` gives.

    Attributes
    ----------
    template_detector
        The template on the pixels of the detector.
    metrics
        See `WARP_METRICS`.
    """

    template_detector: DifferenceImage
    metrics: xr.Dataset


def warp_template(
    visit_image: VisitImage, template_coadd: Sequence[CellCoadd], config: TemplateConfig = TemplateConfig()
) -> WarpedTemplate:
    """Bring template patches onto the pixels of a science image.

    The patches of a tract share one pixel grid and are stitched there, each first where it is the owner; so there are
    no seams. Where several tracts overlap, the lowest tract number with data wins.

    Parameters
    ----------
    visit_image
        The science image; only its pixels, projection and description are used.
    template_coadd
        Patches of its band, in any order.
    config
        Knobs.

    Raises
    ------
    BandMismatch
        A patch of another band.
    BadInput
        Patches of another unit than the science image's.
    NoOverlap
        No patch has data on the detector.
    """
    _check(visit_image, template_coadd)
    box = visit_image.bbox
    shape = (box.y.size, box.x.size)
    image, variance = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    mask = new_mask(TEMPLATE_PLANES, box)
    nodes = _nodes(box)
    stamps, valid = None, np.zeros(len(nodes[0]), bool)
    correlations, shares, n_patches, copied = [], [], 0, []
    for key in sorted({(coadd.skymap, coadd.tract) for coadd in template_coadd}):
        patches = sorted((c for c in template_coadd if (c.skymap, c.tract) == key), key=lambda c: c.patch.id)
        mosaic, used = _stitched(visit_image, patches)
        if mosaic is None:
            continue
        warped = warp(
            mosaic,
            visit_image.sky_projection,
            box,
            schema=TEMPLATE_PLANES,
            order=config.order,
            max_misalignment=config.max_misalignment,
        )
        fresh = ~warped.no_data & ~np.isfinite(image)
        if not fresh.any():
            continue
        image[fresh], variance[fresh] = warped.image[fresh], warped.variance[fresh]
        mask.array[fresh] = warped.mask.array[fresh]
        correlations.append(warped.correlation)
        shares.append(float(fresh.sum()))
        copied.append(warped.copied)
        n_patches += len(used)
        drawn, here = _psf_nodes(used, warped, mosaic.bbox, nodes, config)
        stamps = drawn if stamps is None else np.where((here & ~valid)[:, None, None], drawn, stamps)
        valid |= here
    if stamps is None or not valid.any():
        raise NoOverlap(
            f"none of {len(template_coadd)} template patches covers visit {visit_of(visit_image)}, "
            f"detector {visit_image.detector.id}",
            hint="build templates for the patches this detector sees",
        )
    _finish_mask(mask, image, variance, config)
    psf = _fitted_psf(nodes, stamps, valid, box, config)
    template = _assembled(visit_image, image, variance, mask, psf, _mean_correlation(correlations, shares))
    values = {
        "n_patches": float(n_patches),
        "n_tracts": float(len(shares)),
        "coverage": float(np.isfinite(image).mean()),
        "copied": float(all(copied)),
        "high_variance_fraction": float(mask.get("HIGH_VARIANCE").mean()),
        "psf_sigma": psf_sigma(psf, box.x.center, box.y.center),
    }
    metrics = report(
        WARP_METRICS,
        values,
        room="template_detector",
        visit=visit_of(visit_image),
        detector=visit_image.detector.id,
        band=visit_image.band,
    )
    return WarpedTemplate(template_detector=template, metrics=metrics)


def _check(visit_image: VisitImage, coadds: Sequence[CellCoadd]) -> None:
    if not coadds:
        raise NoOverlap("no template patch was given", hint="build templates for the patches this detector sees")
    for coadd in coadds:
        if coadd.band != visit_image.band:
            raise BandMismatch(
                f"the science image is in band {visit_image.band} and patch {coadd.patch.id} in {coadd.band}",
                hint="choose a template of the same band",
                science=visit_image.band,
                template=coadd.band,
            )
        if coadd.unit != visit_image.unit:
            raise BadInput(
                f"the science image is in {visit_image.unit} and patch {coadd.patch.id} in {coadd.unit}",
                hint="calibrate both against reference stars: an image that is not in nJy met none",
            )


def _mean_correlation(correlations: list[Floats], shares: list[float]) -> Floats:
    """Noise autocorrelation of the whole: that of each tract counts by the pixels it gave."""
    half = max(c.shape[0] for c in correlations) // 2
    stacked = np.array([resized_stamps(c, half) for c in correlations])
    mean: Floats = np.tensordot(np.array(shares) / sum(shares), stacked, axes=1)
    return mean


def _assembled(
    visit_image: VisitImage, image: Floats, variance: Floats, mask: Mask, psf: PolynomialPsf, correlation: Floats
) -> DifferenceImage:
    """The template as an image of the science image's kind."""
    box = visit_image.bbox
    return DifferenceImage(
        Image(image, bbox=box, unit=visit_image.unit, sky_projection=visit_image.sky_projection),
        mask=mask,
        variance=Image(variance, bbox=box, unit=visit_image.unit**2),
        obs_info=visit_image.obs_info,
        psf=psf.to_piff(),
        detector=visit_image.detector,
        band=visit_image.band,
        metadata={CORRELATION_KEY: correlation_text(correlation)},
    )


def _needed(visit_image: VisitImage, coadd: CellCoadd, margin: int = 16) -> Box | None:
    """The part of a tract's pixels that the detector sees, with room for the interpolation."""
    box = visit_image.bbox
    edge = np.linspace(0, 1, 17)
    u, v = (a.ravel() for a in np.meshgrid(edge, edge))
    ra, dec = pixel_to_radec(
        visit_image.sky_projection, box.x.start + u * (box.x.size - 1), box.y.start + v * (box.y.size - 1)
    )
    x, y = radec_to_pixel(coadd.sky_projection, ra, dec)
    finite = np.isfinite(x) & np.isfinite(y)
    if not finite.any():
        return None
    return Box.from_float_bounds(
        x_min=float(x[finite].min()) - margin,
        x_max=float(x[finite].max()) + margin,
        y_min=float(y[finite].min()) - margin,
        y_max=float(y[finite].max()) + margin,
    )


def _stitched(visit_image: VisitImage, patches: list[CellCoadd]) -> tuple[MaskedImage | None, list[CellCoadd]]:
    """One image of all patches of a tract, cut to what the detector sees."""
    needed = _needed(visit_image, patches[0])
    if needed is None:
        return None, []
    used = [p for p in patches if _overlap(p.bbox, needed) is not None]
    if not used:
        return None, []
    shape = (needed.y.size, needed.x.size)
    image, variance = np.full(shape, np.nan, np.float32), np.full(shape, np.nan, np.float32)
    mask = new_mask(TEMPLATE_PLANES, needed)
    for owned in (True, False):
        for patch in used:
            part = _overlap(patch.patch.inner_bbox if owned else patch.bbox, needed)
            part = None if part is None else _overlap(part, patch.bbox)
            if part is None:
                continue
            there, here = part.slice_within(patch.bbox), part.slice_within(needed)
            source = patch.image.array[there]
            fresh = np.isfinite(source) & ~np.isfinite(image[here])
            image[here][fresh] = source[fresh]
            variance[here][fresh] = patch.variance.array[there][fresh]
            if patch.mask.schema == mask.schema:
                mask.array[here][fresh] = patch.mask.array[there][fresh]
                continue
            for name in patch.mask.schema.names & mask.schema.names:
                plane = mask.get(name)
                plane[here] |= patch.mask.get(name)[there] & fresh
                mask.set(name, plane)
    if not np.isfinite(image).any():
        return None, []
    mask.clear("NO_DATA")
    mask.set("NO_DATA", ~np.isfinite(image))
    mosaic = MaskedImage(
        Image(image, bbox=needed, unit=patches[0].unit, sky_projection=patches[0].sky_projection),
        mask=mask,
        variance=Image(variance, bbox=needed, unit=patches[0].unit ** 2),
    )
    known = [(read_correlation(p), np.isfinite(p.image.array).sum()) for p in used]
    weighted = [(c, n) for c, n in known if c is not None and n > 0]
    if weighted:
        total = sum(n for _, n in weighted)
        mosaic.metadata[CORRELATION_KEY] = correlation_text(np.sum([c * (n / total) for c, n in weighted], axis=0))
    return mosaic, used


def _overlap(a: Box, b: Box) -> Box | None:
    y0, y1 = max(a.y.start, b.y.start), min(a.y.stop, b.y.stop)
    x0, x1 = max(a.x.start, b.x.start), min(a.x.stop, b.x.stop)
    return Box.factory[y0:y1, x0:x1] if y1 > y0 and x1 > x0 else None


def _nodes(box: Box, n: int = 9) -> tuple[Floats, Floats]:
    """Places of the detector's array where the PSF is drawn."""
    gx, gy = np.meshgrid(np.linspace(0, box.x.size - 1, n), np.linspace(0, box.y.size - 1, n))
    return gx.ravel(), gy.ravel()


def _psf_nodes(
    patches: list[CellCoadd], warped: Warped, bbox: Box, nodes: tuple[Floats, Floats], config: TemplateConfig
) -> tuple[Floats, Bools]:
    side = 2 * config.psf_half_width + 1
    stamps, valid = np.zeros((len(nodes[0]), side, side)), np.zeros(len(nodes[0]), bool)
    for patch in patches:
        drawn, here = warp_psf(patch.psf, warped.mapping, bbox, *nodes, size=side)
        new = here & ~valid
        stamps[new] = drawn[new]
        valid |= here
    return stamps, valid


def _fitted_psf(
    nodes: tuple[Floats, Floats], stamps: Floats, valid: Bools, box: Box, config: TemplateConfig
) -> PolynomialPsf:
    """Polynomial PSF through the nodes, of a lower degree where they are few."""
    order = config.psf_order
    while order > 0 and valid.sum() < 3 * len(polynomial_powers(order)):
        order -= 1
    x, y = nodes[0][valid] + box.x.start, nodes[1][valid] + box.y.start
    return PolynomialPsf.fit(x, y, stamps[valid], order=order, bbox=box)


def _finish_mask(mask: Mask, image: Floats, variance: Floats, config: TemplateConfig) -> None:
    lost = ~np.isfinite(image)
    mask.clear("NO_DATA")
    mask.set("NO_DATA", lost)
    middle = float(np.median(variance[~lost]))
    smooth = ndi.uniform_filter(np.where(lost, middle, variance), 33)
    mask.set("HIGH_VARIANCE", (smooth > config.high_variance * middle) & ~lost)
