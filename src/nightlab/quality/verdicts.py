"""Hold measurements against their targets: pass, fail or unknown."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import numpy as np
import xarray as xr
from astropy.table import Table

from nightlab.errors import BadInput
from nightlab.quality.gather import RAN
from nightlab.specs import Level, Spec, house_specs

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


def bounds(
    metrics: xr.Dataset, name: str, *, level: Level = "minimum", specs: Mapping[str, Spec] | None = None
) -> Mapping[str, Any]:
    """Say what a metric is held against: sense, target and tolerance.

    Parameters
    ----------
    metrics
        A gathered run, or a single stage's report.
    name
        One of its variables.
    level
        Which of the three thresholds.
    specs
        By full metric name; those of the house when absent. A metric without a spec is held against what rides on it.

    Raises
    ------
    BadInput
        When there is no such metric, or the spec is in another unit than it.
    """
    if name not in metrics:
        near = difflib.get_close_matches(name, [str(known) for known in metrics.data_vars], 3, 0.4)
        raise BadInput(f"there is no metric {name}", hint=f"close to it are {', '.join(near) or 'none'}", metric=name)
    variable = metrics[name]
    room = metrics.attrs.get("room", "")
    full = name if "." in name or not room else f"{room}.{name}"
    spec = (house_specs() if specs is None else specs).get(full)
    if spec is None:
        return variable.attrs
    unit = str(variable.attrs.get("unit", ""))
    if spec.unit != unit:
        raise BadInput(
            f"{full} is measured in {unit or 'no unit'} and its spec is in {spec.unit or 'no unit'}",
            hint="give the spec in the unit of the metric",
            metric=full,
        )
    return spec.attrs(level)


def unmatched(metrics: xr.Dataset, specs: Mapping[str, Spec] | None = None) -> tuple[list[str], list[str]]:
    """List the specs that no metric of a run answers, and the metrics without a spec.

    Parameters
    ----------
    metrics
        A gathered run.
    specs
        By full metric name; those of the house when absent.
    """
    wanted = set(house_specs() if specs is None else specs)
    there = {str(name) for name in metrics.data_vars if not str(name).endswith(f".{RAN}")}
    return sorted(wanted - there), sorted(there - wanted)


def verdicts(metrics: xr.Dataset, *, level: Level = "minimum", specs: Mapping[str, Spec] | None = None) -> Table:
    """List every measurement that has a target.

    Parameters
    ----------
    metrics
        A gathered run, or a single stage's report.
    level, specs
        As in `bounds`.

    Returns
    -------
    astropy.table.Table
        Columns metric, value, unit, target, sense, verdict; one row per place where the stage ran.
    """
    rows = [
        (name, float(value), variable.attrs.get("unit", ""), attrs.get("target", math.nan),
         attrs.get("sense", "none"), verdict)
        for name, variable, values in _cells(metrics)
        for attrs in (bounds(metrics, name, level=level, specs=specs),)
        for value in values
        if (verdict := judge(float(value), attrs)) != "none"
    ]  # fmt: skip
    names = ("metric", "value", "unit", "target", "sense", "verdict")
    return Table(rows=rows, names=names) if rows else Table(names=names, dtype=(str, float, str, float, str, str))


def summarise(metrics: xr.Dataset, *, level: Level = "minimum", specs: Mapping[str, Spec] | None = None) -> Table:
    """Give one line per metric.

    Parameters
    ----------
    metrics
        A gathered run, or a single stage's report.
    level, specs
        As in `bounds`.

    Returns
    -------
    astropy.table.Table
        Columns metric, unit, n (places where the stage ran), unknown (of these without a value), median, worst,
        target, failed, verdict. The verdict is ``fail`` if any place fails, else ``unknown`` if any is unknown.
    """
    rows = []
    for name, variable, values in _cells(metrics):
        attrs = bounds(metrics, name, level=level, specs=specs)
        finite = values[np.isfinite(values)]
        each = [judge(float(v), attrs) for v in values] or [
            "unknown" if attrs.get("sense", "none") != "none" else "none"
        ]
        verdict = next((v for v in ("fail", "unknown", "pass") if v in each), "none")
        rows.append(
            (
                name,
                variable.attrs.get("unit", ""),
                len(values),
                len(values) - len(finite),
                float(np.median(finite)) if finite.size else math.nan,
                _worst(finite, attrs),
                target_text(attrs),
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
            return float(values[np.argmax(np.abs(values - float(attrs["target"])))])
    return math.nan


def target_text(attrs: Mapping[str, Any]) -> str:
    """Write what passes, as ``<= 45``; empty where nothing is asked."""
    target = attrs.get("target", math.nan)
    match attrs.get("sense", "none"):
        case "lower":
            return f"<= {target:g}"
        case "higher":
            return f">= {target:g}"
        case "near":
            return f"{target:g} +- {attrs['tolerance']:g}"
    return ""
