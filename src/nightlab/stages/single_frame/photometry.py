"""Photometric calibration: aperture correction and zero point."""

from __future__ import annotations

import re
from dataclasses import dataclass

import astropy.units as u
import numpy as np
from astropy.table import Table
from lsst.images import Box
from lsst.images.fields import ChebyshevField
from numpy.typing import NDArray
from pydantic import Field, field_validator

from nightlab.config import Config
from nightlab.errors import BadInput, TooFewStars
from nightlab.numeric.statistics import affordable_degree, robust_width
from nightlab.stages.single_frame.frame import Bools, Floats
from nightlab.stages.single_frame.measure import Sources

AB_NANOJANSKY = 31.4  # magnitude of 1 nJy
#: Depth (five sigma, point source) of one visit of 30 s by design: LSST Science Requirements Document (LPM-17).
DESIGN_VISIT = {"u": 23.9, "g": 25.0, "r": 24.7, "i": 24.0, "z": 23.3, "y": 22.1}
DESIGN_EXPOSURE = 30.0  # s


def effective_time(m5: float, band: str) -> float:
    """Give how long the design visit of a survey like LSST would take to the same depth [s]; NaN in other bands.

    30 s x 10^(0.8 (m5 - m5 of the design)), since depth grows with the root of time.
    """
    return DESIGN_EXPOSURE * 10.0 ** (0.8 * (m5 - DESIGN_VISIT.get(band, float("nan"))))


class PhotometryConfig(Config):
    """Knobs of the photometric calibration."""

    correction_snr: float = Field(default=100.0, gt=0, description="faintest star in the aperture correction [sigma]")
    correction_min_stars: int = Field(default=3, ge=1, description="fewer stars leave PSF fluxes uncorrected")
    correction_order: int = Field(
        default=2, ge=0, le=4, description="degree of the aperture correction, when there are stars enough"
    )
    correction_floor: float = Field(
        default=0.005, gt=0, description="scatter of the aperture correction beyond noise (fraction)"
    )
    stars_per_term: float = Field(
        default=3.5, ge=1, description="stars per polynomial term, else the order is lowered"
    )
    min_snr: float = Field(default=20.0, gt=0, description="faintest star in the zero point [sigma]")
    min_stars: int = Field(default=3, ge=1, description="fewer stars are an error")
    colour_terms: tuple[str, ...] = Field(
        default=(),
        description="what brings the reference's magnitudes to the camera's: band:primary-secondary:c0:c1[:c2] with "
        "m = primary + c0 + c1 colour + c2 colour^2, such as r:r-i:0.01:-0.03",
    )
    zero_point_order: int = Field(
        default=0, ge=0, le=4, description="degree of the zero point over the detector, when there are stars enough"
    )
    clip: float = Field(default=3.0, gt=0, description="clipping of the zero point [sigma]")
    max_deviation: float = Field(
        default=0.25, gt=0, description="stars farther from the median than this are clipped [mag]"
    )

    @field_validator("colour_terms")
    @classmethod
    def _readable(cls, terms: tuple[str, ...]) -> tuple[str, ...]:
        for term in terms:
            ColourTerm.read(term)
        return terms

    def colour_term(self, band: str) -> ColourTerm:
        """Give the colour term of a band: that of `colour_terms`, or one that changes nothing."""
        terms = [ColourTerm.read(term) for term in self.colour_terms]
        return next((term for term in terms if term.band == band), ColourTerm(band=band, primary=band))


@dataclass(frozen=True, kw_only=True)
class ColourTerm:
    """Magnitude of a star in the camera's band from magnitudes in the reference's.

    m = primary + c0 + c1 (primary - secondary) + c2 (primary - secondary)^2

    Attributes
    ----------
    band
        Of the camera.
    primary, secondary
        Bands of the reference; without `secondary` there is no colour.
    coefficients
        c0, c1, c2 [mag, 1, 1/mag].
    """

    band: str
    primary: str
    secondary: str = ""
    coefficients: tuple[float, ...] = ()

    @classmethod
    def read(cls, text: str) -> ColourTerm:
        """Read ``band:primary-secondary:c0:c1[:c2]``.

        Raises
        ------
        ValueError
            When it is not of that form.
        """
        found = _TERM.fullmatch(text.replace(" ", ""))
        if found is None:
            raise ValueError(
                f"{text!r} is no colour term: write band:primary-secondary:c0:c1, such as r:r-i:0.01:-0.03"
            )
        band, primary, secondary, numbers = found.groups()
        return cls(band=band, primary=primary, secondary=secondary,
                   coefficients=tuple(float(number) for number in numbers.split(":")))  # fmt: skip

    def magnitudes(self, reference: Table) -> Floats | None:
        """Give (n,) AB magnitudes in the camera's band, NaN where a flux is missing; None without the primary band.

        Raises
        ------
        BadInput
            When the reference has the primary band and not the secondary one.
        """
        primary = _magnitudes(reference, self.primary)
        if primary is None or not self.secondary:
            return primary
        secondary = _magnitudes(reference, self.secondary)
        if secondary is None:
            raise BadInput(
                f"the colour term of {self.band} needs {self.secondary}_flux, and the reference has "
                f"{', '.join(name for name in reference.colnames if name.endswith('_flux'))}",
                hint="name a band of the reference in `photometry.colour_terms`",
            )
        return primary + np.polynomial.polynomial.polyval(primary - secondary, self.coefficients)


_TERM = re.compile(r"(\w+):(\w+)-(\w+):((?:[-+.\deE]+:?){1,3})(?<!:)")


def _magnitudes(reference: Table, band: str) -> Floats | None:
    if f"{band}_flux" not in reference.colnames:
        return None
    flux = np.asarray(np.ma.filled(reference[f"{band}_flux"], np.nan), dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(AB_NANOJANSKY - 2.5 * np.log10(flux))


@dataclass(frozen=True, kw_only=True)
class ZeroPoint:
    """A photometric zero point.

    Attributes
    ----------
    magnitude
        AB magnitude of one instrumental unit of flux; NaN when unknown.
    error
        Of `magnitude`; NaN when it was not measured.
    scatter
        1.4826 MAD of the bright stars used [mag]; NaN when it was not measured.
    origin
        ``reference``, ``instrument`` or ``none``.
    source
        (n,) indices of the sources used.
    variation
        Factor on calibrated fluxes over the detector, with a median of 1 over the stars used; None when constant.
    """

    magnitude: float
    error: float
    scatter: float
    origin: str
    source: NDArray[np.int64]
    variation: ChebyshevField | None = None

    @property
    def nanojansky(self) -> float:
        """Flux of one instrumental unit [nJy]."""
        return float(10.0 ** (0.4 * (AB_NANOJANSKY - self.magnitude)))

    def at(self, x: Floats, y: Floats) -> Floats:
        """Give the flux of one instrumental unit at (n,) detector positions [nJy]."""
        flat = np.full(np.shape(x), self.nanojansky)
        return flat if self.variation is None else flat * _inside(self.variation, x, y)


@dataclass(frozen=True, kw_only=True)
class ApertureCorrection:
    """The factor that brings PSF fluxes onto the calibration aperture, over the detector.

    Attributes
    ----------
    field
        Chebyshev polynomial of position; constant 1 when there were too few stars.
    n_stars
        Stars behind it.
    scatter
        1.4826 MAD of the stars about it; NaN without stars.
    """

    field: ChebyshevField
    n_stars: int
    scatter: float

    def at(self, x: Floats, y: Floats) -> Floats:
        """Evaluate at (n,) positions; positions outside the detector take the value at its rim."""
        return _inside(self.field, x, y)


def _inside(field: ChebyshevField, x: Floats, y: Floats) -> Floats:
    """Evaluate a field; positions outside its box take the value at the rim."""
    box = field.bounds.bbox
    return np.asarray(field(x=np.clip(x, box.x.min, box.x.max), y=np.clip(y, box.y.min, box.y.max)), dtype=float)


def aperture_corrections(sources: Sources, box: Box, config: PhotometryConfig) -> dict[str, ApertureCorrection]:
    """Fit the ratios of aperture to ``psf``, ``gaussian`` and ``kron`` flux of bright, clean, isolated point sources.

    Chebyshev polynomials of position whose order follows the number of stars, clipped four times; each star counts
    by the noise of its aperture and `correction_floor`.
    """
    measured = {"psf": (sources.flux, sources.flux_flag)}
    measured |= {name: (sources.others[name][0], sources.other_flags[name]) for name in ("gaussian", "kron")}
    return {name: _correction(sources, flux, flag, box, config) for name, (flux, flag) in measured.items()}


def _correction(sources: Sources, flux: Floats, flag: Bools, box: Box, config: PhotometryConfig) -> ApertureCorrection:
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = sources.calibration_flux / flux
        error = np.hypot(sources.calibration_err / flux, config.correction_floor)
    star = sources.clean() & ~(sources.extendedness > 0) & np.isfinite(ratio) & (ratio > 0)
    if (star & ~flag).sum() >= config.correction_min_stars:
        star &= ~flag
    for snr in (config.correction_snr, 0.5 * config.correction_snr):
        chosen = star & (sources.snr > snr)
        if (chosen & sources.isolated).sum() >= config.correction_min_stars:
            chosen &= sources.isolated
        if chosen.sum() >= config.correction_min_stars:
            return _fit_correction(sources.x[chosen], sources.y[chosen], ratio[chosen], error[chosen], box, config)
    return ApertureCorrection(field=_constant(box), n_stars=0, scatter=np.nan)


def _fit_correction(
    x: Floats, y: Floats, ratio: Floats, error: Floats, box: Box, config: PhotometryConfig
) -> ApertureCorrection:
    kept = np.abs(ratio / np.median(ratio) - 1.0) < 0.2
    for _ in range(4):
        order = affordable_degree(config.correction_order, int(kept.sum()), config.stars_per_term)
        field = _chebyshev(box, x[kept], y[kept], ratio[kept], error[kept], order)
        miss = (ratio - field(x=x, y=y)) / error
        width = max(robust_width(miss[kept]), 1e-3)
        new = np.abs(miss) < config.clip * width
        if new.sum() < config.correction_min_stars or (new == kept).all():
            break
        kept = new
    return ApertureCorrection(
        field=field, n_stars=int(kept.sum()), scatter=robust_width((ratio - field(x=x, y=y))[kept])
    )


def _constant(box: Box) -> ChebyshevField:
    one = np.ones(1)
    return _chebyshev(box, one, one, one, one, 0)


def _chebyshev(box: Box, x: Floats, y: Floats, values: Floats, errors: Floats, order: int) -> ChebyshevField:
    return ChebyshevField.fit(box, values, order, x=x, y=y, weight=1.0 / errors, unit=u.dimensionless_unscaled)


def zero_point(
    sources: Sources,
    flux: Floats,
    source: NDArray[np.int64],
    reference: Table,
    rows: NDArray[np.int64],
    band: str,
    box: Box,
    config: PhotometryConfig,
) -> ZeroPoint | None:
    """Measure the zero point with matched reference stars.

    z = median(m_ref + 2.5 log10 f), clipped at `clip` sigma and `max_deviation`, with m_ref in the camera's band by
    the colour term there is for it.

    Parameters
    ----------
    sources
        Measurements.
    flux
        (n,) fluxes to calibrate, aperture-corrected.
    source, rows
        (m,) matched sources and reference rows.
    reference
        Reference catalogue.
    band
        Its fluxes are in column ``<band>_flux`` [nJy], or in those its colour term names.
    box
        The detector.
    config
        Knobs.

    Returns
    -------
    ZeroPoint or None
        `None` when the reference has no fluxes in this band.

    Raises
    ------
    TooFewStars
        When fewer than `min_stars` matched stars are usable.
    """
    truth = config.colour_term(band).magnitudes(reference[rows])
    if truth is None:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        z = truth + 2.5 * np.log10(flux[source])
    chosen = _photometric_stars(sources, source, z, reference[rows], band, config)
    values, members = z[chosen], source[chosen]
    kept = _clipped(values, config.clip, config.max_deviation)
    variation, order = None, affordable_degree(config.zero_point_order, int(kept.sum()), config.stars_per_term)
    if order:
        errors = np.hypot(1.0857 / sources.snr[members], config.correction_floor)
        variation, kept = _variation(sources.x[members], sources.y[members], values, errors, order, box, config)
        values = values + 2.5 * np.log10(_inside(variation, sources.x[members], sources.y[members]))
    bright = kept & (sources.snr[members] > 2.5 * config.min_snr)
    spread = values[bright] if bright.sum() >= 5 else values[kept]
    return ZeroPoint(
        magnitude=float(np.median(values[kept])),
        error=float(1.2533 * robust_width(values[kept]) / np.sqrt(kept.sum())),
        scatter=robust_width(spread),
        origin="reference",
        source=members[kept],
        variation=variation,
    )


def _photometric_stars(
    sources: Sources, source: NDArray[np.int64], z: Floats, reference: Table, band: str, config: PhotometryConfig
) -> Bools:
    """Choose among (m,) matches the bright, clean stars, fainter ones where there are too few."""
    good = (
        np.isfinite(z)
        & ~sources.flags["saturated"][source]
        & ~sources.flux_flag[source]
        & ~sources.flags["edge"][source]
    )
    good &= ~(sources.extendedness[source] > 0)
    if "isStar" in reference.colnames:
        good &= np.asarray(reference["isStar"], dtype=bool)
    for snr in (config.min_snr, 0.5 * config.min_snr, 0.25 * config.min_snr):
        chosen = good & (sources.snr[source] > snr)
        if chosen.sum() >= max(config.min_stars, 10 if snr > 0.3 * config.min_snr else 0):
            break
    if chosen.sum() < config.min_stars:
        raise TooFewStars(
            f"the zero point needs {config.min_stars} matched stars with a flux in {band}, found {int(chosen.sum())}",
            hint="lower `photometry.min_snr` or `photometry.min_stars`, or pass no reference",
            found=int(chosen.sum()),
            needed=config.min_stars,
        )
    return np.asarray(chosen)


def _variation(
    x: Floats, y: Floats, z: Floats, errors: Floats, order: int, box: Box, config: PhotometryConfig
) -> tuple[ChebyshevField, Bools]:
    """Fit (n,) zero points [mag] over the detector; the factor on fluxes, and which stars were not clipped."""
    kept = _clipped(z, config.clip, config.max_deviation)
    for _ in range(4):
        factor = 10.0 ** (-0.4 * (z - np.median(z[kept])))
        field = _chebyshev(box, x[kept], y[kept], factor[kept], errors[kept], order)
        new = _clipped(z + 2.5 * np.log10(np.maximum(field(x=x, y=y), 1e-3)), config.clip, config.max_deviation)
        if (new == kept).all() or new.sum() < config.min_stars:
            break
        kept = new
    return field, kept


def _clipped(values: Floats, clip: float, limit: float) -> Bools:
    """Give the members that survive clipping about the median at min(clip sigma, limit)."""
    kept = np.ones(values.size, dtype=bool)
    for _ in range(20):
        centre = np.median(values[kept])
        width = max(robust_width(values[kept]), 1e-6)
        new = np.abs(values - centre) <= min(clip * width, limit)
        if not new.any() or (new == kept).all():
            break
        kept = new
    return kept
