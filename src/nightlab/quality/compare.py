"""Two runs, or two stretches of one, held against each other."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import xarray as xr
from astropy.table import Table
from numpy.typing import NDArray

from nightlab.errors import BadInput
from nightlab.numeric.statistics import robust_width
from nightlab.quality.merge import RUN, tidy
from nightlab.quality.verdicts import bounds, summarise
from nightlab.specs import Level, Spec

#: Error of a median over the error of a mean, for a Gaussian.
MEDIAN_ERROR = math.sqrt(math.pi / 2.0)


def compare_runs(
    metrics: xr.Dataset, a: str, b: str, *, level: Level = "minimum", specs: Mapping[str, Spec] | None = None
) -> Table:
    """Hold run B against run A, metric by metric, at the places both worked on.

    Parameters
    ----------
    metrics
        Several runs, merged.
    a, b
        Two values of its dimension ``run``.
    level, specs
        Which targets say what is better.

    Returns
    -------
    astropy.table.Table
        Columns metric, unit, median_a, median_b (over all places of the run), n_both, only_a, only_b (places with a
        value), difference (median of B minus A over the places of both), error (of that median, from its scatter;
        NaN below three places), significance (their ratio; 0 when all agree exactly), change: ``better``, ``worse``
        (beyond 3 sigma, towards or away from the target), ``differs`` (no target), ``within errors``, ``same`` (all
        agree exactly) or ``unknown``; verdict_a, verdict_b: of the whole run.

    Raises
    ------
    BadInput
        When `metrics` does not hold both runs.
    """
    known = [str(label) for label in metrics[RUN].values] if RUN in metrics.dims else []
    for label in (a, b):
        if label not in known:
            raise BadInput(f"there is no run {label}", hint=f"there are {', '.join(known) or 'none merged'}")
    names = [str(name) for name in metrics.data_vars if not str(name).endswith(".ran")]
    held = [summarise(metrics.sel({RUN: label}), level=level, specs=specs) for label in (a, b)]
    verdicts = [dict(zip(table["metric"], table["verdict"], strict=True)) for table in held]
    rows = [
        (*_row(metrics, name, a, b, bounds(metrics, name, level=level, specs=specs)), *(v[name] for v in verdicts))
        for name in names
    ]
    columns = ("metric", "unit", "median_a", "median_b", "n_both", "only_a", "only_b", "difference", "error",
               "significance", "change", "verdict_a", "verdict_b")  # fmt: skip
    kinds = (str, str, float, float, int, int, int, float, float, float, str, str, str)
    return Table(rows=rows, names=columns) if rows else Table(names=columns, dtype=kinds)


def _row(metrics: xr.Dataset, name: str, a: str, b: str, attrs: Mapping[str, object]) -> tuple[object, ...]:
    first, second = (np.atleast_1d(metrics[name].sel({RUN: label}).values).astype(float).ravel() for label in (a, b))
    in_a, in_b = np.isfinite(first), np.isfinite(second)
    both = in_a & in_b
    difference, error = _paired(second[both] - first[both])
    significance = 0.0 if difference == 0.0 else difference / error if error > 0 else math.nan
    return (
        name,
        str(metrics[name].attrs.get("unit", "")),
        _median(first[in_a]),
        _median(second[in_b]),
        int(both.sum()),
        int((in_a & ~in_b).sum()),
        int((in_b & ~in_a).sum()),
        difference,
        error,
        significance,
        _change(_median(first[both]), _median(second[both]), significance, attrs),
    )


def _paired(difference: NDArray[np.float64]) -> tuple[float, float]:
    if not difference.size:
        return math.nan, math.nan
    middle = float(np.median(difference))
    if difference.size < 3:
        return middle, math.nan
    # a scatter that more than half of the places do not share is still a scatter
    width = float(robust_width(difference)) or float(np.std(difference, ddof=1))
    return middle, MEDIAN_ERROR * width / math.sqrt(difference.size)


def _change(first: float, second: float, significance: float, attrs: Mapping[str, object]) -> str:
    if math.isnan(significance):
        return "unknown"
    if abs(significance) < 3.0:
        return "within errors" if significance else "same"
    target = float(str(attrs.get("target", "nan")))
    match attrs.get("sense", "none"):
        case "lower":
            return "better" if second < first else "worse"
        case "higher":
            return "better" if second > first else "worse"
        case "near":
            return "better" if abs(second - target) < abs(first - target) else "worse"
    return "differs"


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if values.size else math.nan


def only_in(metrics: xr.Dataset, a: str, b: str) -> tuple[list[int], list[int]]:
    """List the visits that only run A, and only run B, worked on.

    Parameters
    ----------
    metrics
        Several runs, merged.
    a, b
        Two values of its dimension ``run``.
    """
    long = tidy(metrics)
    long = long[~np.ma.getmaskarray(long["visit"])]
    label = np.asarray(long[RUN])
    of_a, of_b = ({int(v) for v in np.asarray(long["visit"])[label == name]} for name in (a, b))
    return sorted(of_a - of_b), sorted(of_b - of_a)


def jumps(values: NDArray[np.float64], *, window: int = 5, n_sigma: float = 5.0) -> list[tuple[int, float]]:
    """Find where a series steps to another level.

    The noise is taken from differences of neighbours, so a step does not inflate it. At each place the median of up to
    `window` values before is held against that of as many after; of the places beyond `n_sigma`, the strongest within
    `window` counts.

    Parameters
    ----------
    values
        (n,) in order of time; NaN are left out.
    window
        How many values make a level; at least three are needed on either side.
    n_sigma
        How many errors of the difference of two medians a step must have.

    Returns
    -------
    list of (int, float)
        Index of the first value after each step, and the step (after minus before), in the unit of `values`.
    """
    there = np.flatnonzero(np.isfinite(values))
    series = np.asarray(values, float)[there]
    if series.size < 6:
        return []
    steps = np.diff(series)
    noise = float(robust_width(steps)) / math.sqrt(2.0) or float(np.mean(np.abs(steps))) / 2.0
    if noise == 0.0:
        return []
    height = np.zeros(series.size)
    strength = np.zeros(series.size)
    for i in range(3, series.size - 2):
        before, after = series[max(0, i - window) : i], series[i : i + window]
        height[i] = np.median(after) - np.median(before)
        strength[i] = abs(height[i]) / (MEDIAN_ERROR * noise * math.sqrt(1 / before.size + 1 / after.size))
    found: list[tuple[int, float]] = []
    while strength.max() > n_sigma:
        # where neighbours are equally strong the step lies where the values themselves move most
        tied = np.flatnonzero(strength >= 0.8 * strength.max())
        best = int(tied[np.argmax(np.abs(steps[tied - 1]))])
        found.append((int(there[best]), float(height[best])))
        strength[max(0, best - window) : best + window + 1] = 0.0
    return sorted(found)
