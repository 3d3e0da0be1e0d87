"""Measurements on their way out of a stage: labelled arrays that carry unit, target and sense."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import xarray as xr

Sense = Literal["lower", "higher", "near", "none"]


@dataclass(frozen=True)
class Metric:
    """What a measurement means.

    Attributes
    ----------
    description
        One sentence.
    unit
        Astropy unit string; empty for a pure number or a count.
    target
        The value to reach; NaN when the number is informative only.
    sense
        ``lower``: at most `target` passes; ``higher``: at least; ``near``: within `tolerance` of it;
        ``none``: no verdict.
    tolerance
        Half width of the passing interval for ``near``.
    """

    description: str
    unit: str = ""
    target: float = math.nan
    sense: Sense = "none"
    tolerance: float = math.nan


def report(metrics: Mapping[str, Metric], values: Mapping[str, float | None], **labels: int | str) -> xr.Dataset:
    """Label measurements with what they mean and where they were made.

    Parameters
    ----------
    metrics
        Every metric of the stage. One that `values` lacks, or has as `None`, becomes NaN: unknown, never passed.
    values
        Measured numbers by metric name, in the metric's unit.
    **labels
        Coordinates such as ``visit=12, detector=0``; each becomes a dimension of length 1.

    Returns
    -------
    xarray.Dataset
        One float variable per metric over the dimensions of `labels`.
    """
    import xarray as xr

    unknown = sorted(set(values) - set(metrics))
    if unknown:
        raise KeyError(f"no such metric: {', '.join(unknown)}; known are {', '.join(sorted(metrics))}")
    coords = {name: [value] for name, value in labels.items()}
    variables = {}
    for name, metric in metrics.items():
        value = values.get(name)
        number = math.nan if value is None else float(value)
        data = xr.DataArray(number).expand_dims(coords) if coords else xr.DataArray(number)
        variables[name] = data.assign_attrs(
            description=metric.description,
            unit=metric.unit,
            target=metric.target,
            sense=metric.sense,
            tolerance=metric.tolerance,
        )
    return xr.Dataset(variables)
