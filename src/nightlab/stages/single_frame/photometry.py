"""Photometric calibration: aperture correction and zero point."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray
from pydantic import Field

from nightlab.config import Config
from nightlab.errors import TooFewStars
from nightlab.stages.single_frame.frame import Bools, Floats
from nightlab.stages.single_frame.measure import Sources

AB_NANOJANSKY = 31.4  # magnitude of 1 nJy


class PhotometryConfig(Config):
    """Knobs of the photometric calibration."""

    correction_snr: float = Field(default=100.0, gt=0, description="faintest star in the aperture correction [sigma]")
    correction_min_stars: int = Field(default=3, ge=1, description="fewer stars leave PSF fluxes uncorrected")
    min_snr: float = Field(default=20.0, gt=0, description="faintest star in the zero point [sigma]")
    min_stars: int = Field(default=3, ge=1, description="fewer stars are an error")
    clip: float = Field(default=3.0, gt=0, description="clipping of the zero point [sigma]")
    max_deviation: float = Field(
        default=0.25, gt=0, description="stars farther from the median than this are clipped [mag]"
    )


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
    """

    magnitude: float
    error: float
    scatter: float
    origin: str
    source: NDArray[np.int64]

    @property
    def nanojansky(self) -> float:
        """Flux of one instrumental unit [nJy]."""
        return float(10.0 ** (0.4 * (AB_NANOJANSKY - self.magnitude)))


def aperture_correction(sources: Sources, config: PhotometryConfig) -> tuple[float, int]:
    """Give the factor that brings PSF fluxes onto the larger aperture, and the number of stars behind it.

    It is the median ratio over bright, clean, isolated point sources; 1 when there are too few of them.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = sources.apertures[:, 1] / sources.flux
    star = sources.clean() & ~(sources.extendedness > 0) & np.isfinite(ratio) & (ratio > 0)
    for snr in (config.correction_snr, 0.5 * config.correction_snr):
        chosen = star & (sources.snr > snr)
        if (chosen & sources.isolated).sum() >= config.correction_min_stars:
            chosen &= sources.isolated
        if chosen.sum() >= config.correction_min_stars:
            kept = _clipped(ratio[chosen], 3.0, 0.2)
            return float(np.median(ratio[chosen][kept])), int(kept.sum())
    return 1.0, 0


def zero_point(
    sources: Sources,
    flux: Floats,
    source: NDArray[np.int64],
    reference: Table,
    rows: NDArray[np.int64],
    band: str,
    config: PhotometryConfig,
) -> ZeroPoint | None:
    """Measure the zero point with matched reference stars.

    z = median(m_ref + 2.5 log10 f), clipped at `clip` sigma and `max_deviation`.

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
        Its fluxes are in column ``<band>_flux`` [nJy].
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
    name = f"{band}_flux"
    if name not in reference.colnames:
        return None
    truth = np.asarray(np.ma.filled(reference[name][rows], np.nan), dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = AB_NANOJANSKY - 2.5 * np.log10(truth) + 2.5 * np.log10(flux[source])
    good = (
        np.isfinite(z)
        & ~sources.flags["saturated"][source]
        & ~sources.flux_flag[source]
        & ~sources.flags["edge"][source]
    )
    good &= ~(sources.extendedness[source] > 0)
    if "isStar" in reference.colnames:
        good &= np.asarray(reference["isStar"][rows], dtype=bool)
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
    values, members = z[chosen], source[chosen]
    kept = _clipped(values, config.clip, config.max_deviation)
    bright = kept & (sources.snr[members] > 2.5 * config.min_snr)
    spread = values[bright] if bright.sum() >= 5 else values[kept]
    return ZeroPoint(
        magnitude=float(np.median(values[kept])),
        error=float(1.2533 * _mad(values[kept]) / np.sqrt(kept.sum())),
        scatter=_mad(spread),
        origin="reference",
        source=members[kept],
    )


def _mad(values: Floats) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def _clipped(values: Floats, clip: float, limit: float) -> Bools:
    """Give the members that survive clipping about the median at min(clip sigma, limit)."""
    kept = np.ones(values.size, dtype=bool)
    for _ in range(20):
        centre = np.median(values[kept])
        width = max(_mad(values[kept]), 1e-6)
        new = np.abs(values - centre) <= min(clip * width, limit)
        if not new.any() or (new == kept).all():
            break
        kept = new
    return kept
