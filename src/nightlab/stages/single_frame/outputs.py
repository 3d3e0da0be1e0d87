"""Products of single-frame processing: the calibrated image with its summary, and the table of its sources."""

from __future__ import annotations

from collections.abc import Mapping

import astropy.units as u
import numpy as np
from astropy.table import Table
from lsst.images import BackgroundMap, Box, Image, Mask, ObservationSummaryStats, SkyProjection, VisitImage
from lsst.images.fields import ChebyshevField, SplineField
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from nightlab.errors import BadInput
from nightlab.images.build import exposure_time, visit_of
from nightlab.images.footprints import Footprints
from nightlab.images.planes import VISIT_PLANES
from nightlab.images.psf import PolynomialPsf, effective_area, psf_stamps
from nightlab.images.wcs import jacobian, pixel_scale, pixel_to_radec
from nightlab.numeric.moments import adaptive_moments
from nightlab.stages.single_frame.config import CalibrateConfig
from nightlab.stages.single_frame.frame import Bools, Floats, Frame
from nightlab.stages.single_frame.measure import Psf, Sources
from nightlab.stages.single_frame.photometry import ApertureCorrection, ZeroPoint

SOURCES_PER_DETECTOR = 100_000
DETECTORS_PER_VISIT = 1_000


def calibrated_image(
    raw: VisitImage,
    *,
    frame: Frame,
    box: Box,
    footprints: Footprints,
    psf: Psf,
    projection: SkyProjection,
    zero: ZeroPoint,
    sky: SplineField,
    corrections: Mapping[str, ApertureCorrection],
    config: CalibrateConfig,
) -> VisitImage:
    """Assemble the calibrated image.

    Pixels without data are 0 with the median variance, and masked, so that convolutions downstream stay finite.
    """
    known = zero.origin != "none"
    unit = u.nJy if known else frame.unit
    scaling = _scaling(zero, box, unit / frame.unit) if known else None
    factor: Floats | float = 1.0 if scaling is None else scaling.render(box, dtype=np.float64).array
    usable = frame.usable
    pixels = np.where(usable, frame.pixels, 0.0) * factor
    variance = np.where(usable, frame.variance, np.median(frame.variance[usable])) * factor**2
    mask = Mask(schema=VISIT_PLANES, bbox=box)
    for name, where in frame.planes.items():
        if name in mask.schema.names:
            mask.set(name, where)
    mask.set("DETECTED", footprints.mask(1))
    mask.set("DETECTION_EDGE", _border(frame.shape, psf))
    backgrounds = BackgroundMap()
    backgrounds.add("sky", _scaled(sky, zero, unit) if known else sky, "subtracted sky", is_subtracted=True)
    metadata = dict(raw.metadata) | {
        "zeroPointOrigin": zero.origin,
        "instrumentalUnit": str(frame.unit),
        "configDigest": config.digest,
    }
    if known:
        metadata["zeroPointFitted"] = zero.magnitude
    else:
        metadata["photometry"] = "instrumental: neither a reference nor a zero point of the instrument was there"
    return VisitImage(
        Image(pixels.astype(np.float32), bbox=box, unit=unit, sky_projection=projection),
        mask=mask,
        variance=Image(variance.astype(np.float32), bbox=box, unit=unit**2),
        psf=psf.to_piff() if isinstance(psf, PolynomialPsf) else psf,
        detector=raw.detector,
        obs_info=raw.obs_info,
        band=raw.band,
        photometric_scaling=scaling,
        aperture_corrections={f"{name}Flux": correction.field for name, correction in corrections.items()},
        backgrounds=backgrounds,
        metadata=metadata,
    )


def _scaling(zero: ZeroPoint, box: Box, unit: u.UnitBase) -> ChebyshevField:
    """Give the flux of one instrumental unit over the detector."""
    if zero.variation is None:
        return ChebyshevField(box, np.array([[zero.nanojansky]]), unit=unit)
    return zero.variation * (zero.nanojansky * unit)


def _scaled(sky: SplineField, zero: ZeroPoint, unit: u.UnitBase) -> SplineField:
    """Calibrate a sky model at its nodes."""
    x, y = np.meshgrid(sky.x, sky.y)
    return SplineField(sky.bounds, sky.data * zero.at(x, y), y=sky.y, x=sky.x, unit=unit)


def _border(shape: tuple[int, int], psf: Psf) -> Bools:
    """Give the rim in which a PSF's core does not fit on the detector."""
    stamp = psf_stamps(psf, [shape[1] / 2], [shape[0] / 2], centred=True)
    reach = int(np.ceil(np.sqrt(effective_area(stamp)[0] / np.pi) * 1.75))
    rim = np.ones(shape, dtype=bool)
    rim[reach : shape[0] - reach, reach : shape[1] - reach] = False
    return rim


def source_table(
    raw: VisitImage,
    *,
    sources: Sources,
    footprint: NDArray[np.int64],
    flux_scales: Mapping[str, Floats],
    projection: SkyProjection,
    zero: ZeroPoint,
    instrumental: u.UnitBase,
    psf_stars: tuple[Floats, Floats] | None,
    astrometry_used: NDArray[np.int64],
) -> Table:
    """Make the table of sources; fluxes in nJy, or in the `instrumental` unit when there is no zero point.

    `raErr` is an angle on the sky: cos(dec) is in it.
    """
    visit, detector = visit_of(raw), int(raw.detector.id)
    n = sources.x.size
    if n > SOURCES_PER_DETECTOR or visit >= 90_000_000_000:
        raise BadInput(
            f"{n} sources on visit {visit} do not fit the numbering",
            hint="raise `detect.threshold`; ids hold 100000 sources per detector and visits below 9e10",
            found=n,
            needed=SOURCES_PER_DETECTOR,
        )
    known = zero.origin != "none"
    factor, unit = (zero.at(sources.x, sources.y), u.nJy) if known else (np.ones(n), instrumental)
    ra, dec = pixel_to_radec(projection, sources.x, sources.y)
    slopes = jacobian(projection, raw.detector.bbox.x.center, raw.detector.bbox.y.center)
    position = {
        name: np.hypot(slopes[k, 0] * sources.x_err, slopes[k, 1] * sources.y_err)
        for k, name in enumerate(("ra", "dec"))
    }
    table = Table()
    table["sourceId"] = (visit * DETECTORS_PER_VISIT + detector) * SOURCES_PER_DETECTOR + np.arange(1, n + 1)
    table["visit"] = np.full(n, visit, dtype=np.int64)
    table["detector"] = np.full(n, detector, dtype=np.int64)
    table["band"] = np.full(n, raw.band, dtype="U8")
    for name in ("x", "y"):
        table[name] = getattr(sources, name) * u.pixel
        table[f"{name}Err"] = getattr(sources, f"{name}_err") * u.pixel
    for name, values in (("ra", ra), ("dec", dec)):
        table[name] = values * u.deg
        table[f"{name}Err"] = position[name] * u.deg
    table["psfFlux"] = sources.flux * flux_scales["psf"] * factor * unit
    table["psfFluxErr"] = sources.flux_err * flux_scales["psf"] * factor * unit
    for name, (flux, error) in sources.others.items():
        scale = factor * flux_scales.get(name, 1.0)
        table[f"{name}Flux"] = flux * scale * unit
        table[f"{name}FluxErr"] = error * scale * unit
        table[f"{name}Flux_flag"] = sources.other_flags[name]
    table["kronRadius"] = sources.kron_radius * u.pixel
    for k, name in enumerate(("ixx", "iyy", "ixy")):
        table[name] = sources.moments[:, k] * u.pixel**2
        table[f"{name}Err"] = sources.moment_errs[:, k] * u.pixel**2
        table[f"{name}PSF"] = sources.psf_moments[:, k] * u.pixel**2
    table["shape_flag"] = sources.other_flags["gaussian"]
    table["blendedness"] = sources.blendedness
    table["footprint"] = footprint
    table["nPeaks"] = np.where(footprint >= 0, np.bincount(footprint[footprint >= 0], minlength=n)[footprint], 0)
    table["snr"] = sources.snr
    table["extendedness"] = sources.extendedness
    for name in sorted(sources.flags):
        table[f"pixelFlags_{name}"] = sources.flags[name]
    table["centroid_flag"] = sources.centroid_flag
    table["psfFlux_flag"] = sources.flux_flag
    table["calib_psf_used"] = _near(sources, psf_stars)
    table["calib_astrometry_used"] = np.isin(np.arange(n), astrometry_used)
    table["calib_photometry_used"] = np.isin(np.arange(n), zero.source)
    table["detect_isIsolated"] = sources.isolated
    table.meta["zeroPointOrigin"] = zero.origin
    return table


def _near(sources: Sources, stars: tuple[Floats, Floats] | None) -> Bools:
    if stars is None or not sources.x.size:
        return np.zeros(sources.x.size, dtype=bool)
    distance, _ = cKDTree(np.stack(stars, axis=1)).query(np.stack([sources.x, sources.y], axis=1))
    return np.asarray(distance < 1.0)


def summary(
    raw: VisitImage,
    image: VisitImage,
    projection: SkyProjection,
    box: Box,
    psf: Psf,
    values: Mapping[str, float | None],
) -> ObservationSummaryStats:
    """Fill the observatory's own summary of a detector; sky and noise are in instrumental units."""
    x, y = float(box.x.center), float(box.y.center)
    ra, dec = pixel_to_radec(projection, [x], [y])
    corner_ra, corner_dec = pixel_to_radec(
        projection, [box.x.min, box.x.max, box.x.max, box.x.min], [box.y.min, box.y.min, box.y.max, box.y.max]
    )
    stamp = psf_stamps(psf, [x], [y], centred=True)
    shape = adaptive_moments(stamp, np.zeros(1), np.zeros(1), guess=float(values["psf_sigma"] or 1.0))[0][0]
    usable = ~image.mask.get("NO_DATA")
    scale = 1.0 if image.photometric_scaling is None else float(image.photometric_scaling(x=x, y=y))
    scatter = values.get("astrometric_scatter")
    return ObservationSummaryStats(
        psfSigma=_number(values["psf_sigma"]),
        psfArea=float(effective_area(stamp)[0]),
        psfIxx=float(shape[0]),
        psfIyy=float(shape[1]),
        psfIxy=float(shape[2]),
        ra=float(ra[0]),
        dec=float(dec[0]),
        raCorners=tuple(float(v) for v in corner_ra),
        decCorners=tuple(float(v) for v in corner_dec),
        pixelScale=pixel_scale(projection, x, y),
        expTime=exposure_time(raw),
        zeroPoint=_number(values["zero_point"]),
        skyBg=_number(values["sky_level"]),
        skyNoise=_number(values["sky_noise"]),
        meanVar=float(np.mean(image.variance.array[usable], dtype=np.float64) / scale**2),
        astromOffsetStd=_number(scatter) / 1e3,
        nPsfStar=int(values["n_psf_stars"] or 0),
        magLim=_number(values["m5"]),
        effTime=_number(values["effective_time"]),
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def with_summary(image: VisitImage, stats: ObservationSummaryStats) -> VisitImage:
    """Give the image with its summary statistics."""
    return VisitImage(
        image.image,
        mask=image.mask,
        variance=image.variance,
        psf=image.psf,
        detector=image.detector,
        obs_info=image.obs_info,
        summary_stats=stats,
        photometric_scaling=image.photometric_scaling,
        aperture_corrections=image.aperture_corrections,
        backgrounds=image.backgrounds,
        band=image.band,
        metadata=dict(image.metadata),
    )
