"""`calibrate`: one raw or corrected detector in, a calibrated image and its sources out."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from astropy.table import Table
from lsst.images import Box, Image, SkyProjection, VisitImage
from lsst.images.fields import SplineField

from nightlab.errors import AllMasked, BadInput
from nightlab.images.build import has_psf, midpoint_mjd_tai, visit_of
from nightlab.images.footprints import Footprints
from nightlab.images.psf import psf_sigma, psf_stamps
from nightlab.images.wcs import pixel_scale
from nightlab.numeric.photometry import grow
from nightlab.report import report
from nightlab.stages.single_frame import outputs
from nightlab.stages.single_frame.astrometry import Astrometry, calibrate_astrometry
from nightlab.stages.single_frame.background import extended_sources, render, sky_field
from nightlab.stages.single_frame.checks import check_sources, n_dead_amplifiers
from nightlab.stages.single_frame.config import CalibrateConfig
from nightlab.stages.single_frame.cosmic_rays import remove_cosmic_rays
from nightlab.stages.single_frame.detect import Peaks, SkySources, find_peaks, significance, sky_sources, trim_kernel
from nightlab.stages.single_frame.frame import Floats, Frame, corrected_frame
from nightlab.stages.single_frame.isr import Calibrations, needs_isr, remove_signature
from nightlab.stages.single_frame.measure import Psf, Sources, measure
from nightlab.stages.single_frame.metrics import METRICS
from nightlab.stages.single_frame.photometry import (
    ApertureCorrection,
    ZeroPoint,
    aperture_corrections,
    effective_time,
    zero_point,
)
from nightlab.stages.single_frame.psf import StarPsf, fit_psf, gaussian_psf
from nightlab.stages.single_frame.psf_validation import reserve_stars

DEFAULTS = CalibrateConfig()
CLIPPED_GAUSSIAN = 1.0137  # standard deviation of a Gaussian over that of its part within 3 sigma
NOT_SKY = ("SATURATED", "COSMIC_RAY", "INTERPOLATED", "DETECTION_EDGE")


@dataclass(frozen=True, kw_only=True)
class CalibratedFrame:
    """A calibrated detector.

    Attributes
    ----------
    visit_image
        Sky-subtracted image in nJy (in instrumental units when no zero point is known) with mask, variance, PSF,
        fitted projection, background and summary statistics.
    source
        Its sources.
    footprints
        Detected regions and the peaks in them; ``footprint`` of `source` is a number of these, -1 outside.
    metrics
        See `METRICS`.
    """

    visit_image: VisitImage
    source: Table
    footprints: Footprints
    metrics: xr.Dataset


@dataclass(frozen=True, kw_only=True)
class Sky:
    """A background and what was left of the noise.

    Attributes
    ----------
    field
        The model, in instrumental units.
    variance
        (ny, nx) variance of the sky alone.
    noise_ratio
        Noise seen in source-free pixels over that of the variance plane.
    level, noise
        Median of the model, and standard deviation of source-free pixels.
    """

    field: SplineField
    variance: Floats
    noise_ratio: float
    level: float
    noise: float


def calibrate(
    raw: VisitImage,
    bias: Image | None = None,
    flat: Image | None = None,
    reference: Table | None = None,
    config: CalibrateConfig = DEFAULTS,
    *,
    dark: Image | None = None,
    defects: Table | None = None,
    crosstalk: Table | None = None,
    linearity: Table | None = None,
    brighter_fatter: Image | None = None,
) -> CalibratedFrame:
    """Calibrate one detector of one visit.

    Instrument signature, background, cosmic rays, PSF, detection, measurement, astrometry and photometry, in that
    order. The inputs are left as they are.

    Parameters
    ----------
    raw
        Either raw amplifiers with overscan [adu], whose box is not that of the detector, or a corrected frame with
        sky, variance and mask.
    bias, flat
        Assembled calibration frames, for raw amplifiers only.
    reference
        Reference catalogue: ``ra``, ``dec`` [deg], optional proper motions, ``<band>_flux`` [nJy], ``isStar``. Without
        one the projection stays as it is, and the zero point is the instrument's.
    config
        Knobs.
    dark, defects, crosstalk, linearity, brighter_fatter
        What else is known about a raw detector: signal per second [electron], boxes that are BAD, and the corrections
        of `nightlab.stages.single_frame.isr.Calibrations`.

    Returns
    -------
    CalibratedFrame
        Image, sources and metrics.

    Raises
    ------
    AllMasked
        When no pixel is usable.
    BadInput
        When the variance plane is off by more than `max_noise_ratio`, cosmic rays are everywhere, no position settles,
        or a raw detector is not what its description says (see `nightlab.stages.single_frame.isr`).
    NoPsf
        When no PSF was supplied and too few stars are there to fit one; when none of its stars is found again.
    NoOverlap
        When the reference does not cover the detector.
    TooFewStars
        When too few sources match the reference.
    """
    box = raw.detector.bbox if needs_isr(raw) else raw.bbox
    known = Calibrations(bias=bias, dark=dark, flat=flat, defects=defects, crosstalk=crosstalk, linearity=linearity,
                         brighter_fatter=brighter_fatter)  # fmt: skip
    frame = remove_signature(raw, known, config.isr) if needs_isr(raw) else corrected_frame(raw)
    frame, psf, stars, n_cosmic_rays = _clean(frame, raw, box, config)
    kernel, sigma = _filter(psf, box, config)
    frame, sky = _subtract_sky(frame, kernel, sigma, box, config)
    frame, sky, peaks, footprints, blank = _detect(frame, sky, kernel, sigma, box, visit_of(raw), config)
    sources = measure(frame, peaks, psf, sigma, config.measure)
    n_matched = check_sources(sources, None if stars is None else (stars.x, stars.y))
    corrections = aperture_corrections(sources, box, config.photometry)
    correction = corrections["psf"]
    astrometry = _astrometry(sources, reference, raw, box, config)
    zero = _zero_point(sources, correction, astrometry, reference, raw, box, config)
    projection = astrometry.projection if astrometry is not None else raw.sky_projection
    image = outputs.calibrated_image(
        raw,
        frame=frame,
        box=box,
        footprints=footprints,
        psf=psf,
        projection=projection,
        zero=zero,
        sky=sky.field,
        corrections=corrections,
        config=config,
    )
    table = outputs.source_table(
        raw,
        sources=sources,
        footprint=footprints.chosen(footprints.sign > 0).at(sources.x, sources.y),
        flux_scales={name: found.at(sources.x, sources.y) for name, found in corrections.items()},
        projection=projection,
        zero=zero,
        instrumental=frame.unit,
        psf_stars=None if stars is None else (stars.x, stars.y),
        astrometry_used=np.empty(0, np.int64) if astrometry is None else astrometry.source[astrometry.used],
    )
    values = _values(frame, psf, stars, sky, sources, astrometry, zero, projection, box, raw)
    values |= {"n_cosmic_rays": n_cosmic_rays, "n_psf_stars_matched": n_matched, "n_footprints": len(footprints)}
    values |= blank.metrics() | _correction_values(correction, box)
    values |= {} if stars is None else reserve_stars(stars, config.psf).summary()
    image = outputs.with_summary(image, outputs.summary(raw, image, projection, box, psf, values))
    metrics = report(
        METRICS, values, room="single_frame", visit=visit_of(raw), detector=int(raw.detector.id), band=raw.band
    )
    return CalibratedFrame(visit_image=image, source=table, footprints=footprints, metrics=metrics)


def _clean(frame: Frame, raw: VisitImage, box: Box, config: CalibrateConfig) -> tuple[Frame, Psf, StarPsf | None, int]:
    """Remove cosmic rays and settle the PSF, on a first estimate of the sky that is put back afterwards."""
    supplied: Psf | None = raw.psf if has_psf(raw) and not config.psf.refit else None
    guess: Psf = supplied if supplied is not None else gaussian_psf(config.psf.initial_fwhm / 2.35482, box)
    kernel, sigma = _filter(guess, box, config)
    flat_sky, sky = _subtract_sky(frame, kernel, sigma, box, config)
    level = frame.pixels - flat_sky.pixels
    if supplied is not None:
        cleaned, n = remove_cosmic_rays(flat_sky, _middle(supplied, box), config.cosmic_rays)
        return _restored(frame, cleaned, level), supplied, None, n
    stars = fit_psf(flat_sky, sky.variance, box, config.psf)
    cleaned, n = remove_cosmic_rays(flat_sky, _middle(stars.psf, box), config.cosmic_rays)
    if n:
        stars = fit_psf(cleaned, sky.variance, box, config.psf)
    return _restored(frame, cleaned, level), stars.psf, stars, n


def _restored(frame: Frame, cleaned: Frame, level: Floats) -> Frame:
    return replace(frame, pixels=cleaned.pixels + level, planes=cleaned.planes)


def _middle(psf: Psf, box: Box) -> Floats:
    return psf_stamps(psf, [box.x.center], [box.y.center], centred=True)[0]


def _filter(psf: Psf, box: Box, config: CalibrateConfig) -> tuple[Floats, float]:
    sigma = psf_sigma(psf, box.x.center, box.y.center)
    return trim_kernel(_middle(psf, box), int(np.ceil(config.detect.kernel_width * sigma))), sigma


def _subtract_sky(frame: Frame, kernel: Floats, sigma: float, box: Box, config: CalibrateConfig) -> tuple[Frame, Sky]:
    """Model the sky twice, the second time without the sources seen on the first, and scale the variance plane."""
    settings = config.background
    open_sky = frame.usable & ~frame.flagged(*NOT_SKY)
    if not open_sky.any():
        raise AllMasked(
            "no pixel of the frame shows sky: all are masked or saturated", hint="look at the raw file and at its mask"
        )
    first = frame.pixels - render(sky_field(frame.pixels, open_sky, box, settings, None), frame)
    variance = np.full(frame.shape, np.median(frame.variance[open_sky]))
    seen = significance(first, frame.usable, variance, kernel)
    # the variance plane is not trusted yet: the threshold is in units of what is seen
    covered = grow(np.abs(seen) > settings.mask_threshold * _noise(seen[open_sky]), settings.mask_grow * sigma)
    dark = open_sky & ~covered
    enough = settings.min_fraction * open_sky.sum()
    if dark.sum() < enough:  # a field full of sources: clipping must do
        dark = open_sky
    wide = extended_sources(frame.pixels, dark, settings)
    if (dark & ~wide).sum() >= enough:
        dark &= ~wide
    field = sky_field(frame.pixels, dark, box, settings, frame.unit)
    model = render(field, frame)
    sky_variance = render(sky_field(frame.variance, dark, box, settings, None), frame)
    subtracted = frame.pixels - model
    ratio = _noise(subtracted[dark] / np.sqrt(frame.variance[dark]))
    if not (np.isfinite(ratio) and 0 < ratio <= config.max_noise_ratio):
        raise BadInput(
            f"the noise of source-free pixels is {ratio:.3g} times what the variance plane says",
            hint="check gain, read noise and units of the variance, or whether the frame is constant",
            found=ratio,
            needed=config.max_noise_ratio,
        )
    scale = ratio**2 if config.scale_variance else 1.0
    sky = Sky(
        field=field,
        variance=sky_variance * scale,
        noise_ratio=ratio,
        level=float(np.median(model)),
        noise=_noise(subtracted[dark]),
    )
    return replace(frame, pixels=subtracted, variance=frame.variance * scale), sky


def _noise(values: Floats) -> float:
    """Give the standard deviation clipped at 3 sigma, of every few values when there are very many.

    Not the MAD: on integer pixels with a noise of a few units it moves in steps.
    """
    sample = values[:: max(1, values.size // 400_000)]
    centre = np.median(sample)
    width = 1.4826 * np.median(np.abs(sample - centre))
    for _ in range(5):
        inside = sample[np.abs(sample - centre) <= 3.0 * width]
        centre, width = inside.mean(), inside.std() * CLIPPED_GAUSSIAN
    return float(width)


def _detect(
    frame: Frame, sky: Sky, kernel: Floats, sigma: float, box: Box, seed: int, config: CalibrateConfig
) -> tuple[Frame, Sky, Peaks, Footprints, SkySources]:
    """Find sources with the threshold, and on the level, that places of empty sky set."""
    settings = config.detect
    seen = significance(frame.pixels, frame.usable, sky.variance, kernel)
    reach = settings.grow * sigma + kernel.shape[0] // 2
    empty = frame.usable & ~frame.flagged(*NOT_SKY) & ~grow(seen > settings.threshold, reach)
    border = kernel.shape[0] // 2
    empty[:border], empty[-border:], empty[:, :border], empty[:, -border:] = False, False, False, False
    blank = sky_sources(seen, empty, settings.sky_sources, seed)
    # a level c gives each PSF flux c / sum P^2, with an error of sqrt(V / sum P^2)
    level = blank.offset * float(np.sqrt(np.median(sky.variance) * (kernel**2).sum()))
    field = SplineField(sky.field.bounds, sky.field.data + level, y=sky.field.y, x=sky.field.x, unit=sky.field.unit)
    frame, sky = replace(frame, pixels=frame.pixels - level), replace(sky, field=field, level=sky.level + level)
    seen = (seen - blank.offset) / blank.scale
    peaks = find_peaks(seen, settings.threshold, settings.grow * sigma)
    place = (peaks.x + box.x.start, peaks.y + box.y.start)
    footprints = Footprints.of_regions(peaks.detected, box, *place, peaks.significance)
    if settings.polarity == "both":
        holes = find_peaks(-seen, settings.threshold, settings.grow * sigma)
        place = (holes.x + box.x.start, holes.y + box.y.start)
        footprints = footprints.with_others(
            Footprints.of_regions(holes.detected, box, *place, -holes.significance, sign=-1)
        )
    return frame, sky, peaks, footprints, blank


def _astrometry(
    sources: Sources, reference: Table | None, raw: VisitImage, box: Box, config: CalibrateConfig
) -> Astrometry | None:
    if reference is None:
        return None
    return calibrate_astrometry(
        sources, reference, raw.sky_projection, box, midpoint_mjd_tai(raw), raw.band, config.astrometry
    )


def _zero_point(
    sources: Sources,
    correction: ApertureCorrection,
    astrometry: Astrometry | None,
    reference: Table | None,
    raw: VisitImage,
    box: Box,
    config: CalibrateConfig,
) -> ZeroPoint:
    if astrometry is not None and reference is not None:
        measured = zero_point(
            sources,
            sources.flux * correction.at(sources.x, sources.y),
            astrometry.source,
            reference,
            astrometry.reference,
            raw.band,
            box,
            config.photometry,
        )
        if measured is not None:
            return measured
    nan = float("nan")
    nominal = raw.metadata.get("zeroPoint")
    known = isinstance(nominal, int | float) and np.isfinite(nominal)
    return ZeroPoint(
        magnitude=float(nominal) if known else nan,  # type: ignore[arg-type]
        error=nan,
        scatter=nan,
        origin="instrument" if known else "none",
        source=np.empty(0, np.int64),
    )


def _correction_values(correction: ApertureCorrection, box: Box) -> dict[str, float | None]:
    values: dict[str, float | None] = {"n_aperture_correction_stars": correction.n_stars}
    if correction.n_stars:
        middle = correction.at(np.array([box.x.center]), np.array([box.y.center]))
        values |= {"aperture_correction": float(middle[0]), "aperture_correction_scatter": correction.scatter}
    return values


def _values(
    frame: Frame,
    psf: Psf,
    stars: StarPsf | None,
    sky: Sky,
    sources: Sources,
    astrometry: Astrometry | None,
    zero: ZeroPoint,
    projection: SkyProjection,
    box: Box,
    raw: VisitImage,
) -> dict[str, float | None]:
    sigma = psf_sigma(psf, box.x.center, box.y.center)
    area = float(1.0 / (_middle(psf, box) ** 2).sum())
    measured = zero.origin == "reference"
    nominal = raw.metadata.get("zeroPoint")
    m5 = zero.magnitude - 2.5 * np.log10(5.0 * sky.noise * np.sqrt(area))
    values: dict[str, float | None] = {
        "n_sources": sources.x.size,
        "psf_sigma": sigma,
        "psf_fwhm": 2.35482 * sigma * pixel_scale(projection, box.x.center, box.y.center),
        "n_psf_stars": 0 if stars is None else stars.x.size,
        "sky_level": sky.level,
        "sky_noise": sky.noise,
        "sky_noise_ratio": sky.noise_ratio,
        "zero_point": zero.magnitude,
        "zero_point_error": zero.error,
        "zero_point_scatter": zero.scatter,
        "zero_point_offset": zero.magnitude - nominal if measured and isinstance(nominal, int | float) else None,
        "n_photometric_stars": zero.source.size if measured else None,
        "m5": m5,
        "effective_time": effective_time(m5, raw.band),
        "saturated_fraction": float(frame.flagged("SATURATED").mean()),
        "n_dead_amplifiers": n_dead_amplifiers(frame, raw.detector.amplifiers),
        "flagged_centroids": float(sources.centroid_flag.mean()) if sources.x.size else None,
    }
    if astrometry is not None:
        bright = sources.snr[astrometry.source] > 20
        miss = astrometry.residual[bright if bright.sum() >= 3 else slice(None)]
        values |= {
            "astrometric_scatter": 1e3 * float(np.mean(1.4826 * np.median(np.abs(miss - np.median(miss, 0)), axis=0))),
            "pointing_error": astrometry.shift,
            "astrometric_corner_error": 1e3 * astrometry.corner_error,
            "n_astrometric_matches": astrometry.source.size,
        }
    return values
