"""Metrics as a job of the verification framework of the LSST Science Pipelines (`lsst.verify`).

A job holds one measurement per metric: the median over the places of a run. The values behind it ride in a blob of the
metric's name. Names read ``package.metric``, and ``package.metric.spec`` for thresholds.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from astropy.table import Table

from nightlab.errors import BadInput
from nightlab.quality.gather import RAN
from nightlab.quality.merge import PLACES, RUN, tidy
from nightlab.specs import LEVELS, Spec, house_specs

#: Every identifier is derived from what it names, so that equal metrics give equal jobs.
SPACE = uuid.UUID("5d0c8a52-6f1b-5f4e-9d55-0e1a4b7c6d21")


def verify_job(metrics: xr.Dataset, *, specs: Mapping[str, Spec] | None = None, **meta: str | int | float) -> Any:
    """Give the document of a job: measurements, blobs, metrics, specs and meta, ready for JSON.

    Parameters
    ----------
    metrics
        A gathered run, or one of several merged (``metrics.sel(run=...)``).
    specs
        By full metric name; those of the house when absent. Each becomes one threshold per level, or two (``_low`` and
        ``_high``) for the sense near.
    **meta
        Added to the job's metadata.

    Returns
    -------
    dict
        A missing measurement has the value None, and its blob leaves out places without a value.

    Raises
    ------
    BadInput
        When `metrics` holds several runs: a job is about one.
    """
    if metrics.sizes.get(RUN, 1) > 1:
        raise BadInput(
            f"a job is about one run, and these are {metrics.sizes[RUN]}",
            hint=f"choose one, as in metrics.sel(run={str(metrics[RUN].values[0])!r})",
        )
    label = str(metrics[RUN].values.ravel()[0]) if RUN in metrics.coords else ""
    names = [str(name) for name in metrics.data_vars if not str(name).endswith(f".{RAN}")]
    units = {name: str(metrics[name].attrs.get("unit", "")) for name in names}
    tables = {name: tidy(metrics, [name]) for name in names}
    blobs = {name: _blob(name, tables[name], units[name], label) for name in names}
    known = house_specs() if specs is None else specs
    return {
        "measurements": [_measurement(name, tables[name], units[name], blobs[name]) for name in names],
        "blobs": [blob for blob in blobs.values() if blob["data"]],
        "metrics": [_metric(name, str(metrics[name].attrs.get("description", "")), units[name]) for name in names],
        "specs": [spec for name in names if name in known for spec in _specs(known[name])],
        "meta": {"statistic": "median", **({"run": label} if label else {}), **meta},
    }


def _measurement(name: str, table: Table, unit: str, blob: Mapping[str, Any]) -> dict[str, Any]:
    values = np.asarray(table["value"])
    finite = values[np.isfinite(values)]
    return {
        "metric": name,
        "identifier": uuid.uuid5(SPACE, f"measurement {blob['identifier']}").hex,
        "value": float(np.median(finite)) if finite.size else None,
        "unit": unit,
        "blob_refs": [blob["identifier"]] if blob["data"] else [],
    }


def _blob(name: str, table: Table, unit: str, label: str) -> dict[str, Any]:
    there = table[np.isfinite(np.asarray(table["value"]))]
    data = {}
    places = [place for place in PLACES if place != RUN and len(there) and not np.ma.getmaskarray(there[place]).any()]
    for place in places:
        data[place] = _datum([int(v) for v in there[place]], "", place, f"{place} of each value")
    if places:
        data["values"] = _datum([float(v) for v in there["value"]], unit, name, "measurements behind the median")
    return {"identifier": uuid.uuid5(SPACE, f"blob {label} {name} {data}").hex, "name": name, "data": data}


def _datum(value: list[int] | list[float], unit: str, label: str, description: str) -> dict[str, Any]:
    return {"value": value, "unit": unit, "label": label, "description": description}


def _metric(name: str, description: str, unit: str) -> dict[str, Any]:
    return {
        "name": name,
        "description": description,
        "unit": unit,
        "tags": [name.partition(".")[0]],
        "reference": {"doc": None, "page": None, "url": None},
    }


def _specs(spec: Spec) -> list[dict[str, Any]]:
    documents = []
    for level in LEVELS:
        low, high = spec.limits(level)
        sides = [(">=", low, "_low"), ("<=", high, "_high")]
        closed = [side for side in sides if math.isfinite(side[1])]
        documents += [
            {
                "name": f"{spec.metric}.{level}{suffix if len(closed) > 1 else ''}",
                "type": "threshold",
                "threshold": {"value": edge, "unit": spec.unit, "operator": operator},
                "metadata_query": {},
                "tags": [level],
            }
            for operator, edge, suffix in closed
        ]
    return documents
