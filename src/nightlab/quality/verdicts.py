"""Hold measurements against their targets: pass, fail or unknown."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import xarray as xr
from astropy.table import Table

from nightlab.quality.gather import RAN

Verdict = Literal["pass", "fail", "unknown", "none"]


def judge(value: float, attrs: Mapping[str, Any]) -> Verdict:
    """Compare one value with the target that rides on its variable.

    Parameters
    ----------
    value
        The measurement; NaN when it could not be made.
    attrs
        Attributes ``sense``, ``target`` and ``tolerance`` of the variable, as `nightlab.report.report` writes them.

    Returns
    -------
    str
        ``none`` when no target is set; ``unknown``, never ``pass``, when the measurement is missing.
    """
    sense, target = attrs.get("sense", "none"), float(attrs.get("target", math.nan))
    if sense == "none" or math.isnan(target):
        return "none"
    if not math.isfinite(value):
        return "unknown"
    match sense:
        case "lower":
            good = value <= target
        case "higher":
            good = value >= target
        case _:
            good = abs(value - target) <= float(attrs.get("tolerance", 0.0))
    return "pass" if good else "fail"


def _cells(metrics: xr.Dataset) -> Iterator[tuple[str, xr.DataArray, np.ndarray]]:
    """Yield (name, variable, values where its stage ran), in the order of the dataset."""
    for name, variable in metrics.data_vars.items():
        room, _, metric = str(name).rpartition(".")
        if metric == RAN:
            continue
        ran = metrics.get(f"{room}.{RAN}")
        values = variable.values
        if ran is not None:
            values = np.where(np.broadcast_to(ran.values, variable.shape), values, np.inf)
        yield str(name), variable, np.atleast_1d(values)[~np.isposinf(np.atleast_1d(values))]


def verdicts(metrics: xr.Dataset) -> Table:
    """List every measurement that has a target.

    Parameters
    ----------
    metrics
        A gathered run, or a single stage's report.

    Returns
    -------
    astropy.table.Table
        Columns metric, value, unit, target, sense, verdict; one row per place where the stage ran.
    """
    rows = [
        (name, float(value), variable.attrs.get("unit", ""), variable.attrs.get("target", math.nan),
         variable.attrs.get("sense", "none"), verdict)
        for name, variable, values in _cells(metrics)
        for value in values
        if (verdict := judge(float(value), variable.attrs)) != "none"
    ]  # fmt: skip
    names = ("metric", "value", "unit", "target", "sense", "verdict")
    return Table(rows=rows, names=names) if rows else Table(names=names, dtype=(str, float, str, float, str, str))


def summarise(metrics: xr.Dataset) -> Table:
    """Give one line per metric.

    Parameters
    ----------
    metrics
        A gathered run, or a single stage's report.

    Returns
    -------
    astropy.table.Table
        Columns metric, unit, n (places where the stage ran), unknown (of these without a value), median, worst,
        target, failed, verdict. The verdict is ``fail`` if any place fails, else ``unknown`` if any is unknown.
    """
    rows = []
    for name, variable, values in _cells(metrics):
        attrs = variable.attrs
        finite = values[np.isfinite(values)]
        each = [judge(float(v), attrs) for v in values] or [
            "unknown" if attrs.get("sense", "none") != "none" else "none"
        ]
        verdict = next((v for v in ("fail", "unknown", "pass") if v in each), "none")
        rows.append(
            (
                name,
                attrs.get("unit", ""),
                len(values),
                len(values) - len(finite),
                float(np.median(finite)) if finite.size else math.nan,
                _worst(finite, attrs),
                _target(attrs),
                each.count("fail"),
                verdict,
            )
        )
    names = ("metric", "unit", "n", "unknown", "median", "worst", "target", "failed", "verdict")
    if not rows:
        return Table(names=names, dtype=(str, str, int, int, float, float, str, int, str))
    return Table(rows=rows, names=names)


def _worst(values: np.ndarray, attrs: Mapping[str, Any]) -> float:
    if not values.size:
        return math.nan
    match attrs.get("sense", "none"):
        case "lower":
            return float(values.max())
        case "higher":
            return float(values.min())
        case "near":
            return float(values[np.argmax(np.abs(values - attrs["target"]))])
    return math.nan


def _target(attrs: Mapping[str, Any]) -> str:
    target = attrs.get("target", math.nan)
    match attrs.get("sense", "none"):
        case "lower":
            return f"<= {target:g}"
        case "higher":
            return f">= {target:g}"
        case "near":
            return f"{target:g} +- {attrs['tolerance']:g}"
    return ""
