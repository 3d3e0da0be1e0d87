"""The numbers behind a light curve: points, upper limits, periods. No browser in here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from nightlab.dashboards.states import Nothing, Reason

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

QUANTITIES = ("difference flux", "total flux", "difference magnitude", "total magnitude")
ZERO_POINT = 31.4  # AB magnitude of 1 nJy
NEEDED = ("midpointMjdTai", "band")


@dataclass(frozen=True)
class CurvePoints:
    """Points of one band, (n,) each, in time order.

    Attributes
    ----------
    band
        The band.
    mjd
        Middle of the exposure, TAI.
    value, low, high
        What is drawn, and the ends of its one-sigma bar, in the unit of the axis.
    kind
        ``point``; ``limit`` (`value` is a three-sigma upper limit in magnitudes); ``negative`` (the magnitude of a
        flux below the template's).
    forced
        Whether it was measured at a known place rather than detected.
    epoch
        Its exposure as ``visit:detector``.
    flux, error
        The flux behind it, nJy.
    """

    band: str
    mjd: Floats
    value: Floats
    low: Floats
    high: Floats
    kind: NDArray[np.str_]
    forced: Bools
    epoch: NDArray[np.str_]
    flux: Floats
    error: Floats


@dataclass(frozen=True)
class Curve:
    """A light curve ready to be drawn.

    Attributes
    ----------
    bands
        Points by band, in the order of wavelength.
    label
        Of the y axis, with unit.
    magnitudes
        Whether the axis points down.
    first_mjd
        Time of the first point.
    left_out
        Points without a finite flux or time.
    notes
        What a reader should know about points that are not plain ones.
    """

    bands: dict[str, CurvePoints]
    label: str
    magnitudes: bool
    first_mjd: float
    left_out: int = 0
    notes: tuple[str, ...] = ()

    @property
    def epochs(self) -> list[str]:
        """Exposures in time order, as ``visit:detector``."""
        mjd = np.concatenate([points.mjd for points in self.bands.values()])
        names = np.concatenate([points.epoch for points in self.bands.values()])
        return list(dict.fromkeys(names[np.argsort(mjd, kind="stable")].tolist()))


def curve(
    detected: Table | None,
    forced: Table | None = None,
    *,
    quantity: str = "difference flux",
    limit_sigma: float = 3.0,
) -> Curve:
    """Turn tables of one object into points.

    A flux below `limit_sigma` errors has no magnitude worth drawing: it becomes an upper limit, the flux (if positive)
    plus `limit_sigma` errors. A significantly negative difference is drawn at the magnitude of its size and marked.

    Parameters
    ----------
    detected, forced
        DIASources and DIAForcedSources of one object: ``midpointMjdTai``, ``band``, ``psfFlux`` and ``psfFluxErr`` or
        ``scienceFlux`` and ``scienceFluxErr`` [nJy], perhaps ``visit`` and ``detector``.
    quantity
        One of `QUANTITIES`.
    limit_sigma
        Significance of a detection.

    Raises
    ------
    Nothing
        When columns are missing, there is no row, or no flux is finite.
    """
    column = "psfFlux" if quantity.startswith("difference") else "scienceFlux"
    parts = [(table, known) for table, known in ((detected, False), (forced, True)) if table is not None]
    rows = sum(len(table) for table, _ in parts)
    if not rows:
        raise Nothing(Reason.NO_DATA_SELECTED, "This object has no measurement.", "Choose another object.")
    for table, known in parts:
        missing = [name for name in (*NEEDED, column, f"{column}Err") if name not in table.colnames]
        if missing and len(table):
            raise Nothing(
                Reason.SCHEMA_MISMATCH,
                f"The {'forced' if known else 'detected'} sources have no column {', '.join(missing)}.",
                "Choose another quantity." if set(missing) <= {column, f"{column}Err"} else "",
            )
    parts = [(table, known) for table, known in parts if len(table)]
    mjd = np.concatenate([_floats(table, "midpointMjdTai") for table, _ in parts])
    flux = np.concatenate([_floats(table, column) for table, _ in parts])
    error = np.concatenate([_floats(table, f"{column}Err") for table, _ in parts])
    band = np.concatenate([np.asarray(table["band"]).astype(str) for table, _ in parts])
    is_forced = np.concatenate([np.full(len(table), which) for table, which in parts])
    epoch = np.concatenate([epochs_of(table) for table, _ in parts])
    good = np.isfinite(mjd) & np.isfinite(flux)
    if not good.any():
        raise Nothing(Reason.ALL_NAN, f"None of the {rows} measurements has a finite {quantity.split()[0]} flux.")
    magnitudes = quantity.endswith("magnitude")
    value, low, high, kind = (_as_magnitudes if magnitudes else _as_fluxes)(flux, error, limit_sigma)
    bands = {}
    for name in sorted(set(band[good].tolist()), key=_wavelength):
        at = np.flatnonzero(good & (band == name))
        at = at[np.lexsort((is_forced[at], mjd[at]))]
        bands[name] = CurvePoints(
            name, mjd[at], value[at], low[at], high[at], kind[at], is_forced[at], epoch[at], flux[at], error[at]
        )
    return Curve(
        bands,
        _label(quantity),
        magnitudes,
        float(mjd[good].min()),
        int((~good).sum()),
        _notes(kind[good], limit_sigma),
    )


def _notes(kind: NDArray[np.str_], limit_sigma: float) -> tuple[str, ...]:
    notes = []
    if n := int((kind == "limit").sum()):
        notes.append(f"▽ {n} upper limit{'s' * (n > 1)} ({limit_sigma:g}σ)")
    if n := int((kind == "negative").sum()):
        notes.append(f"⊖ {n} fainter than the template, at the magnitude of the difference")
    return tuple(notes)


def _as_fluxes(flux: Floats, error: Floats, _: float) -> tuple[Floats, Floats, Floats, NDArray[np.str_]]:
    bar = np.where(np.isfinite(error), error, 0.0)
    return flux, flux - bar, flux + bar, np.full(flux.size, "point", dtype="<U8")


def _as_magnitudes(flux: Floats, error: Floats, sigma: float) -> tuple[Floats, Floats, Floats, NDArray[np.str_]]:
    size = np.abs(flux)
    known = np.where(np.isfinite(error) & (error > 0), error, 0.0)
    faint = ~(size >= sigma * known) | (size == 0)
    ceiling = np.maximum(flux, 0.0) + sigma * known
    with np.errstate(divide="ignore", invalid="ignore"):
        value = magnitude(np.where(faint, ceiling, size))
        bar = np.where(faint, 0.0, 2.5 / np.log(10) * known / size)
    kind = np.where(faint, "limit", np.where(flux < 0, "negative", "point")).astype("<U8")
    return value, value - bar, value + bar, kind


def magnitude(flux: Floats) -> Floats:
    """AB magnitude of positive fluxes [nJy]."""
    return ZERO_POINT - 2.5 * np.log10(flux)


def best_period(light_curve: Curve, shortest: float = 0.05) -> float:
    """Find the period [d] at the highest peak of a Lomb-Scargle periodogram; every band about its own mean."""
    from astropy.timeseries import LombScargle

    time = np.concatenate([points.mjd for points in light_curve.bands.values()])
    flux = np.concatenate([points.flux - points.flux.mean() for points in light_curve.bands.values()])
    span = np.ptp(time)
    if time.size < 5 or span <= 2 * shortest:
        raise Nothing(Reason.NO_DATA_SELECTED, "A period needs five epochs or more, over a longer time.")
    count = int(min(200_000, 10 * span / shortest))
    frequency = np.linspace(1 / span, 1 / shortest, count)
    return float(1 / frequency[np.argmax(LombScargle(time, flux).power(frequency))])


def calendar(mjd: float) -> str:
    """Date and time of day of an MJD, as people write it."""
    when = np.datetime64("1858-11-17T00:00:00", "s") + np.timedelta64(round(float(mjd) * 86400), "s")
    return str(when).replace("T", " ")


def _label(quantity: str) -> str:
    return {
        "difference flux": "difference flux [nJy]",
        "total flux": "total flux [nJy]",
        "difference magnitude": "AB magnitude of the difference",
        "total magnitude": "AB magnitude, total",
    }[quantity]


def epochs_of(table: Table) -> NDArray[np.str_]:
    """Exposure of every row, as ``visit:detector``."""
    parts = [
        np.asarray(table[name]).astype(str) if name in table.colnames else np.full(len(table), "?")
        for name in ("visit", "detector")
    ]
    return np.char.add(np.char.add(parts[0], ":"), parts[1])


def _floats(table: Table, name: str) -> Floats:
    values = np.ma.filled(np.ma.asarray(table[name]).astype(float), np.nan)
    return np.asarray(values, dtype=float)


def _wavelength(band: str) -> tuple[int, str]:
    return ("ugrizy".index(band) if band in tuple("ugrizy") else 6, band)
