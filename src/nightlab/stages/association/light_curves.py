"""What the sources of an object say together: mean position and, per band, the statistics of its light curve."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy import units as u
from astropy.table import Column, Table
from numpy.typing import NDArray

from nightlab.numeric.sphere import radec_of, unit_vectors

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PERCENTILES = (5, 25, 50, 75, 95)
STETSON_ROUNDS, STETSON_TOLERANCE = 20, 1e-6
COLUMNS = (
    "diaSourceId", "diaObjectId", "visit", "band", "midpointMjdTai", "ra", "dec", "raErr", "decErr",
    "psfFlux", "psfFluxErr", "scienceFlux", "scienceFluxErr",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ObjectVersions:
    """The objects that one visit touched, as they were known when it ended.

    Attributes
    ----------
    visit
        The visit.
    midpoint_mjd_tai
        Earliest mid-exposure time of its detectors, TAI [d].
    dia_object
        One row per touched object; statistics over the sources of this and all earlier visits.
    """

    visit: int
    midpoint_mjd_tai: float
    dia_object: Table


def object_statistics(dia_source: Table) -> Table:
    """Summarise the sources of every object.

    Parameters
    ----------
    dia_source
        Sources with ``diaObjectId``; rows where it is 0 are left out. Row order does not matter.

    Returns
    -------
    astropy.table.Table
        One row per object, ascending in ``diaObjectId``: the mean of the unit vectors [deg] and its error (of an
        unweighted mean), number and time range of the sources, and the columns of `flux_statistics` for every band
        present, prefixed by the band. ``<band>_scienceFlux*`` have mean, its error and scatter only.
    """
    ids = np.asarray(dia_source["diaObjectId"], dtype=np.int64)
    time, source = floats(dia_source, "midpointMjdTai"), np.asarray(dia_source["diaSourceId"], dtype=np.int64)
    order = np.lexsort((source, time, ids))
    order = order[ids[order] > 0]
    ids, time = ids[order], time[order]
    objects, starts, counts = np.unique(ids, return_index=True, return_counts=True)
    total = _sums(unit_vectors(floats(dia_source, "ra")[order], floats(dia_source, "dec")[order]), starts)
    ra, dec = radec_of(total)
    table = Table()
    table["diaObjectId"] = objects
    for name, values in (("ra", ra), ("dec", dec)):
        table[name] = Column(values, unit=u.deg)
    for name in ("raErr", "decErr"):
        squares = _sums(floats(dia_source, name)[order] ** 2, starts)
        table[name] = Column(np.sqrt(squares) / counts, unit=u.deg)
    table["nDiaSources"] = counts.astype(np.int32)
    table["firstDiaSourceMjdTai"] = Column(time[starts], unit=u.d)
    table["lastDiaSourceMjdTai"] = Column(time[starts + counts - 1] if counts.size else time, unit=u.d)
    band = np.asarray(dia_source["band"]).astype(str)[order]
    for name in sorted(set(np.asarray(dia_source["band"]).astype(str).tolist())):
        rows = order[band == name]
        which = np.searchsorted(objects, ids[band == name])
        _add_band(table, name, dia_source, rows, which, time[band == name])
    return table


def flux_statistics(
    which: Ints, time: Floats, flux: Floats, error: Floats, n_objects: int
) -> dict[str, Floats | NDArray[np.int32]]:
    """Summarise many light curves at once.

    Parameters
    ----------
    which
        (n,) object number of each measurement, ascending; within an object, times ascend.
    time
        (n,) mid-exposure times [d].
    flux, error
        (n,) fluxes and errors in one unit; pairs that are not finite, or whose error is not positive, are left out.
    n_objects
        Length of the results.

    Returns
    -------
    dict
        (n_objects,) arrays by statistic: ``Mean`` (weighted by inverse variance), ``MeanErr``, ``Ndata``, ``Sigma``
        (scatter about the plain mean, one degree of freedom less), ``Chi2`` (about the weighted mean), ``Min``,
        ``Max``, ``ErrMean``, ``Percentile05`` ... ``Percentile95``, ``MAD`` (unscaled), ``Skew`` (m3 / m2^1.5),
        ``MaxSlope`` [per day], ``LinearSlope`` [per day], ``LinearIntercept`` (weighted straight line, at MJD 0) and
        ``StetsonJ`` (Stetson 1996, PASP 108, 851, eq. 1-3, single-band form). NaN where the data do not say.
    """
    good = np.isfinite(flux) & np.isfinite(error) & (error > 0)
    which, time, flux, error = which[good], time[good], flux[good], error[good]
    present, starts, n = np.unique(which, return_index=True, return_counts=True)
    count = np.zeros(n_objects, dtype=np.int32)
    count[present] = n
    found = _moments(starts, n, flux, error) | _ranks(starts, n, flux) | _trends(starts, n, time, flux, error)
    found["StetsonJ"] = _stetson_j(starts, n, flux, error)
    result: dict[str, Floats | NDArray[np.int32]] = {"Ndata": count}
    for name, values in found.items():
        full = np.full(n_objects, np.nan)
        full[present] = values
        result[name] = full
    return result


def object_versions(dia_source: Table, only: Collection[int] | None = None) -> Iterator[ObjectVersions]:
    """Follow the objects through time.

    Parameters
    ----------
    dia_source
        Associated sources, any order.
    only
        Visits wanted; all when absent.

    Yields
    ------
    ObjectVersions
        One per visit that has sources, in time order: the objects among them, with statistics up to that visit.
    """
    slim = dia_source[[name for name in COLUMNS if name in dia_source.colnames]]
    ids, visit = (np.asarray(slim[name], dtype=np.int64) for name in ("diaObjectId", "visit"))
    visits, of_row = np.unique(visit, return_inverse=True)
    begin = np.full(visits.size, np.inf)
    np.minimum.at(begin, of_row, floats(slim, "midpointMjdTai"))
    sequence = np.lexsort((visits, begin))
    rank = np.argsort(sequence)[of_row]  # place of each source's visit in time
    order = np.lexsort((np.asarray(slim["diaSourceId"]), rank, ids))
    slim, ids, rank = slim[order], ids[order], rank[order]
    by_visit = np.argsort(rank, kind="stable")
    edges = np.searchsorted(rank[by_visit], np.arange(visits.size + 1))
    for k, place in enumerate(sequence):
        if only is not None and int(visits[place]) not in only:
            continue
        touched = by_visit[edges[k] : edges[k + 1]]
        touched = touched[ids[touched] > 0]
        last = touched[np.append(np.diff(ids[touched]) != 0, True)] if touched.size else touched
        first = np.searchsorted(ids, ids[last])
        length = last - first + 1
        rows = np.repeat(first - np.cumsum(length) + length, length) + np.arange(length.sum())
        yield ObjectVersions(
            visit=int(visits[place]),
            midpoint_mjd_tai=float(begin[place]),
            dia_object=object_statistics(slim[rows]),
        )


def floats(table: Table, name: str) -> Floats:
    """Give a column as plain float64, NaN where it is masked."""
    column = table[name]
    if isinstance(column, np.ma.MaskedArray):
        return np.asarray(np.ma.filled(column.astype(np.float64), np.nan))
    return np.asarray(column, dtype=np.float64)


def _add_band(table: Table, band: str, sources: Table, rows: Ints, which: Ints, time: Floats) -> None:
    flux, error = floats(sources, "psfFlux")[rows], floats(sources, "psfFluxErr")[rows]
    unit = sources["psfFlux"].unit
    for name, values in flux_statistics(which, time, flux, error, len(table)).items():
        table[f"{band}_psfFlux{name}"] = Column(values, unit=_unit_of(name, unit))
    if "scienceFlux" in sources.colnames:
        flux, error = floats(sources, "scienceFlux")[rows], floats(sources, "scienceFluxErr")[rows]
        found = flux_statistics(which, time, flux, error, len(table))
        for name in ("Mean", "MeanErr", "Sigma"):
            table[f"{band}_scienceFlux{name}"] = Column(found[name], unit=sources["scienceFlux"].unit)


def _unit_of(statistic: str, flux: u.UnitBase | None) -> u.UnitBase | None:
    if statistic in ("Ndata", "Chi2", "Skew", "StetsonJ") or flux is None:
        return None
    return flux / u.d if statistic.endswith("Slope") else flux


def _sums(values: Floats, starts: Ints) -> Floats:
    """Sum runs of rows that begin at `starts`; no run is empty."""
    return np.add.reduceat(values, starts, axis=0) if starts.size else values[:0]


def _over(numerator: NDArray[Any], denominator: NDArray[Any]) -> Floats:
    """Divide; NaN where there is nothing to divide by."""
    safe = denominator > 0
    return np.where(safe, numerator, np.nan) / np.where(safe, denominator, 1.0)


def _moments(starts: Ints, n: Ints, flux: Floats, error: Floats) -> dict[str, Floats]:
    weight = 1.0 / error**2
    total = _sums(weight, starts)
    mean = _sums(weight * flux, starts) / total
    deviation = flux - np.repeat(_sums(flux, starts) / n, n)
    square = _sums(deviation**2, starts)
    return {
        "Mean": mean,
        "MeanErr": np.sqrt(1.0 / total),
        "Sigma": np.sqrt(_over(square, n - 1.0)),
        "Chi2": _sums(weight * (flux - np.repeat(mean, n)) ** 2, starts),
        "ErrMean": _sums(error, starts) / n,
        "Skew": _over(_sums(deviation**3, starts) / n, (square / n) ** 1.5),
    }


def _ranks(starts: Ints, n: Ints, flux: Floats) -> dict[str, Floats]:
    run = np.repeat(np.arange(n.size), n)
    ranked = flux[np.lexsort((flux, run))]
    result = {f"Percentile{p:02d}": _quantile(starts, n, ranked, p / 100.0) for p in PERCENTILES}
    distance = np.abs(flux - np.repeat(_quantile(starts, n, ranked, 0.5), n))
    result["MAD"] = _quantile(starts, n, distance[np.lexsort((distance, run))], 0.5)
    return result | {"Min": ranked[starts], "Max": ranked[starts + n - 1]}


def _quantile(starts: Ints, n: Ints, ranked: Floats, quantile: float) -> Floats:
    place = quantile * (n - 1.0)
    low = np.floor(place).astype(np.int64)
    high = np.minimum(low + 1, n - 1)
    a, b = ranked[starts + low], ranked[starts + high]
    return a + (b - a) * (place - low)


def _trends(starts: Ints, n: Ints, time: Floats, flux: Floats, error: Floats) -> dict[str, Floats]:
    weight = 1.0 / error**2
    total = _sums(weight, starts)
    mid, mean = _sums(weight * time, starts) / total, _sums(weight * flux, starts) / total
    lag = time - np.repeat(mid, n)
    # a single time, up to rounding, gives no slope
    spread = time[starts + n - 1] - time[starts]
    moment = np.where(spread > 0, _sums(weight * lag**2, starts), 0.0)
    slope = _over(_sums(weight * lag * (flux - np.repeat(mean, n)), starts), moment)
    steps = np.full(flux.size, -np.inf)
    gap = np.diff(time)
    inside = np.append(np.repeat(np.arange(n.size), n)[1:] == np.repeat(np.arange(n.size), n)[:-1], False)
    inside[:-1] &= gap > 0  # one visit can see an object on two detectors at the same time
    here = np.flatnonzero(inside)
    steps[here] = (flux[here + 1] - flux[here]) / gap[here]
    steepest = np.maximum.reduceat(steps, starts) if starts.size else steps
    return {
        "LinearSlope": slope,
        "LinearIntercept": mean - slope * mid,
        "MaxSlope": np.where(np.isfinite(steepest), steepest, np.nan),
    }


def _stetson_j(starts: Ints, n: Ints, flux: Floats, error: Floats) -> Floats:
    weight = 1.0 / error**2
    mean = _sums(weight * flux, starts) / _sums(weight, starts)
    scale = np.repeat(np.sqrt(_over(n.astype(float), n - 1.0)), n)
    moving = np.ones(n.size, dtype=bool)
    for _ in range(STETSON_ROUNDS):
        delta = scale * (flux - np.repeat(mean, n)) / error
        robust = weight / (1.0 + (np.abs(delta) / 2.0) ** 2)
        step = np.where(moving, _sums(robust * flux, starts) / _sums(robust, starts) - mean, 0.0)
        mean = mean + np.where(n > 1, step, 0.0)
        moving &= np.abs(step) > STETSON_TOLERANCE * (np.abs(mean) + np.finfo(float).tiny)
    excess = (scale * (flux - np.repeat(mean, n)) / error) ** 2 - 1.0
    return np.where(n > 1, _sums(np.sign(excess) * np.sqrt(np.abs(excess)), starts) / n, np.nan)
