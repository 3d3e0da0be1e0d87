"""The numbers behind a plot of a metric: one value per visit, and how detectors compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import xarray as xr
from astropy.table import Table
from numpy.typing import NDArray

from nightlab.errors import BadInput
from nightlab.quality.merge import tidy

Statistic = Literal["median", "mean", "worst", "each"]
Values = NDArray[np.float64]


def series(
    metrics: xr.Dataset, name: str, *, statistic: Statistic = "median", attrs: Mapping[str, Any] | None = None
) -> Table:
    """Give a metric along the visits, or along whatever its stage works on.

    Parameters
    ----------
    metrics
        A gathered run, or several merged.
    name
        The metric.
    statistic
        How the detectors of a visit become one value; ``each`` keeps them apart. The worst is the one farthest on the
        bad side of `attrs`; without a side, the one farthest from the median.
    attrs
        Sense and target; those that ride on the metric when absent.

    Returns
    -------
    astropy.table.Table
        Columns run, visit (-1 where there is none), place (text: the visit, ``tract 0 patch 3``, or ``run``), detector
        (the one whose value it is; -1 for a mix), band, value, least and most (of
        its places), n (places with a value), unknown (places without).
        A visit that other stages worked on and this one did not is a gap: NaN, with n and unknown both 0.

    Raises
    ------
    BadInput
        When there is no such metric.
    """
    if name not in metrics:
        raise BadInput(f"there is no metric {name}", hint="see list(metrics.data_vars) for those there are")
    choose = _STATISTICS[statistic]
    held = metrics[name].attrs if attrs is None else attrs
    long = tidy(metrics, [name])
    values = np.asarray(long["value"], float)
    keys = _keys(long, each=statistic == "each")
    groups: dict[tuple[Any, ...], list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    rows = []
    for key, members in groups.items():
        mine = np.array(members)
        good = mine[np.isfinite(values[mine])]
        value, at = choose(values[good], held) if good.size else (math.nan, -1)
        alone = mine[0] if len(mine) == 1 else (good[at] if at >= 0 else -1)
        run, visit, place, band = key[:4]
        least, most = (values[good].min(), values[good].max()) if good.size else (math.nan, math.nan)
        known = (value, float(least), float(most), len(good), len(mine) - len(good))
        rows.append((run, visit, place, _detector(long, alone), band, *known))
    rows = _with_gaps(rows, metrics, name)
    names = ("run", "visit", "place", "detector", "band", "value", "least", "most", "n", "unknown")
    kinds = (str, np.int64, str, np.int64, str, float, float, float, int, int)
    return Table(rows=rows, names=names, dtype=kinds) if rows else Table(names=names, dtype=kinds)


def per_detector(metrics: xr.Dataset, name: str) -> Table:
    """Give the distribution of a metric in each detector.

    Parameters
    ----------
    metrics, name
        As in `series`.

    Returns
    -------
    astropy.table.Table
        Columns run, detector, n, unknown, low, median, high (16th, 50th and 84th percentile), least, most; empty for
        a metric that knows no detectors.
    """
    long = tidy(metrics, [name])
    names = ("run", "detector", "n", "unknown", "low", "median", "high", "least", "most")
    rows = []
    if not np.ma.getmaskarray(long["detector"]).all():
        values, runs, detectors = (np.asarray(long[column]) for column in ("value", "run", "detector"))
        for run in dict.fromkeys(runs.tolist()):
            for detector in np.unique(detectors[runs == run]):
                mine = values[(runs == run) & (detectors == detector)]
                good = mine[np.isfinite(mine)]
                low, middle, high = np.percentile(good, (16, 50, 84)) if good.size else (math.nan,) * 3
                ends = (good.min(), good.max()) if good.size else (math.nan, math.nan)
                rows.append((run, int(detector), good.size, mine.size - good.size, low, middle, high, *ends))
    kinds = (str, np.int64, int, int, float, float, float, float, float)
    return Table(rows=rows, names=names, dtype=kinds) if rows else Table(names=names, dtype=kinds)


def _with_gaps(rows: list[tuple[Any, ...]], metrics: xr.Dataset, name: str) -> list[tuple[Any, ...]]:
    """Add a row for each visit of a run that this stage did not work on; in the order of runs and visits."""
    if "visit" not in metrics[name].dims or not rows:
        return rows
    bands = metrics["visit_band"].values if "visit_band" in metrics.coords else [""] * metrics.sizes["visit"]
    there = {(row[0], row[1]) for row in rows}
    runs = list(dict.fromkeys(row[0] for row in rows))
    for run in runs:
        rows += [
            (run, int(visit), str(int(visit)), -1, str(band), math.nan, math.nan, math.nan, 0, 0)
            for visit, band in zip(metrics["visit"].values, bands, strict=True)
            if (run, int(visit)) not in there
        ]
    return sorted(rows, key=lambda row: (runs.index(row[0]), row[1], row[3]))


def _keys(long: Table, *, each: bool) -> list[tuple[Any, ...]]:
    hidden = {name: np.ma.getmaskarray(long[name]) for name in ("visit", "tract", "patch", "detector")}
    plain = {name: np.ma.getdata(long[name]).tolist() for name in long.colnames}
    keys = []
    for i in range(len(long)):
        visit = -1 if hidden["visit"][i] else plain["visit"][i]
        if visit >= 0:
            place = str(visit)
        elif not hidden["patch"][i]:
            place = f"tract {plain['tract'][i]} patch {plain['patch'][i]}"
        else:
            place = "run"
        more = (plain["detector"][i],) if each and not hidden["detector"][i] else ()
        keys.append((plain["run"][i], visit, place, plain["band"][i], *more))
    return keys


def _detector(long: Table, row: Any) -> int:
    return -1 if row < 0 or np.ma.getmaskarray(long["detector"])[row] else int(long["detector"][row])


def _worst(values: Values, attrs: Mapping[str, Any]) -> tuple[float, int]:
    match attrs.get("sense", "none"):
        case "lower":
            at = int(np.argmax(values))
        case "higher":
            at = int(np.argmin(values))
        case "near":
            at = int(np.argmax(np.abs(values - float(attrs["target"]))))
        case _:
            at = int(np.argmax(np.abs(values - np.median(values))))
    return float(values[at]), at


_STATISTICS: dict[str, Callable[[Values, Mapping[str, Any]], tuple[float, int]]] = {
    "median": lambda values, _: (float(np.median(values)), -1),
    "mean": lambda values, _: (float(np.mean(values)), -1),
    "worst": _worst,
    "each": lambda values, _: (float(values[0]), 0),
}
