"""Measurements on their way out of a stage: labelled arrays that carry unit, target and sense.

A stage says what it measures; what the number has to reach is data, in `specs.yaml`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nightlab.specs import house_specs

if TYPE_CHECKING:
    import xarray as xr

UNJUDGED = {"target": math.nan, "sense": "none", "tolerance": math.nan}


@dataclass(frozen=True)
class Metric:
    """What a measurement means.

    Attributes
    ----------
    description
        One sentence.
    unit
        Astropy unit string; empty for a pure number or a count.
    """

    description: str
    unit: str = ""


def report(
    metrics: Mapping[str, Metric], values: Mapping[str, float | None], *, room: str = "", **labels: int | str
) -> xr.Dataset:
    """Label measurements with what they mean and where they were made.

    Parameters
    ----------
    metrics
        Every metric of the stage. One that `values` lacks, or has as `None`, becomes NaN: unknown, never passed.
    values
        Measured numbers by metric name, in the metric's unit.
    room
        First part of the metrics' full names; the specs of the house are looked up under ``room.metric``.
    **labels
        Coordinates such as ``visit=12, detector=0``; each becomes a dimension of length 1.

    Returns
    -------
    xarray.Dataset
        One float variable per metric over the dimensions of `labels`, with the attributes description, unit, and
        target, sense and tolerance of the minimum spec (sense ``none`` where there is no spec).
    """
    import xarray as xr

    unknown = sorted(set(values) - set(metrics))
    if unknown:
        raise KeyError(f"no such metric: {', '.join(unknown)}; known are {', '.join(sorted(metrics))}")
    coords = {name: [value] for name, value in labels.items()}
    variables = {}
    specs = house_specs()
    for name, metric in metrics.items():
        value = values.get(name)
        number = math.nan if value is None else float(value)
        data = xr.DataArray(number).expand_dims(coords) if coords else xr.DataArray(number)
        variables[name] = data.assign_attrs(
            description=metric.description,
            unit=metric.unit,
            **(specs[f"{room}.{name}"].attrs() if f"{room}.{name}" in specs else UNJUDGED),
        )
    return xr.Dataset(variables, attrs={"room": room} if room else {})
