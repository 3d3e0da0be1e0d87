"""Metrics of several runs side by side, and other shapes of the same numbers: a tree, a long table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from astropy.table import MaskedColumn, Table, vstack

from nightlab.errors import BadInput
from nightlab.quality.gather import RAN
from nightlab.specs import house_specs

RUN = "run"
PLACES = ("run", "visit", "detector", "tract", "patch")


def merge_runs(runs: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Put the metrics of runs side by side.

    Parameters
    ----------
    runs
        Gathered metrics by what people call the run.

    Returns
    -------
    xarray.Dataset
        The union of variables and of places, with a first dimension ``run``. What a run did not do is NaN, and False
        in ``room.ran``. Targets are those of the house's specs of today.

    Raises
    ------
    BadInput
        When there is none, one is merged already, two give a metric in different units, or a visit in different bands.
    """
    if not runs:
        raise BadInput("there are no metrics to merge", hint="give at least one run")
    for label, metrics in runs.items():
        if RUN in metrics.dims:
            raise BadInput(f"{label} is several runs already", hint="merge all of them at once", run=label)
    _check_units(runs)
    bands = _bands(runs)
    parts = [_ready(metrics).expand_dims({RUN: [label]}) for label, metrics in runs.items()]
    merged = xr.concat(
        parts, dim=RUN, join="outer", data_vars="all", coords="minimal", compat="override", combine_attrs="override"
    )
    for name in merged.data_vars:
        variable = merged[name].transpose(RUN, ...)
        variable.attrs = next(metrics[name].attrs for metrics in runs.values() if name in metrics)
        merged[name] = variable.fillna(0).astype(bool) if _says_ran(name) else variable
    if bands:
        merged = merged.assign_coords(visit_band=("visit", [bands.get(int(v), "") for v in merged["visit"].values]))
    return stamp(merged)


def stamp(metrics: xr.Dataset) -> xr.Dataset:
    """Write the house's specs of today, at the level minimum, on the metrics that have one.

    Parameters
    ----------
    metrics
        Variables named ``room.metric``; not modified.
    """
    stamped = metrics.copy()
    for name, spec in house_specs().items():
        if name in stamped and str(stamped[name].attrs.get("unit", "")) == spec.unit:
            stamped[name] = stamped[name].assign_attrs(spec.attrs())
    return stamped


def by_room(metrics: xr.Dataset) -> xr.DataTree:
    """Give the metrics as a tree of one level: a node per room, its variables under their short names.

    Parameters
    ----------
    metrics
        Variables named ``room.metric``.
    """
    rooms = sorted({str(name).partition(".")[0] for name in metrics.data_vars})
    nodes = {
        room: metrics[[name for name in metrics.data_vars if str(name).startswith(f"{room}.")]].rename(
            {name: str(name).partition(".")[2] for name in metrics.data_vars if str(name).startswith(f"{room}.")}
        )
        for room in rooms
    }
    return xr.DataTree.from_dict(nodes)


def tidy(metrics: xr.Dataset, names: Sequence[str] | None = None) -> Table:
    """Give one row per measurement that was tried.

    Parameters
    ----------
    metrics
        A gathered run, or several merged.
    names
        Which metrics; all when absent.

    Returns
    -------
    astropy.table.Table
        Columns run, visit, detector, tract, patch (masked where they do not apply), band, metric, value, unit. Places
        where the stage did not run have no row; a measurement that failed has NaN.
    """
    chosen = [str(name) for name in (metrics.data_vars if names is None else names) if not _says_ran(name)]
    parts = [_long(metrics, name) for name in chosen]
    return vstack(parts, metadata_conflicts="silent") if parts else _empty()


def _long(metrics: xr.Dataset, name: str) -> Table:
    variable = metrics[name]
    ran = metrics.get(f"{name.rpartition('.')[0]}.{RAN}")
    mask = np.ones(variable.shape, bool) if ran is None else np.broadcast_to(ran.values, variable.shape)
    where = np.nonzero(np.atleast_1d(mask))
    count = len(where[0])
    table = Table()
    for place in PLACES:
        text = place == RUN
        if place in variable.dims:
            values = variable[place].values[where[variable.dims.index(place)]]
            table[place] = MaskedColumn(values.astype(str) if text else values.astype(np.int64))
        else:
            fill: Any = np.zeros(count, "U1" if text else np.int64)
            table[place] = MaskedColumn(fill, mask=np.full(count, not text))
    table["band"] = _band(metrics, variable, where, count)
    table["metric"] = np.full(count, name)
    table["value"] = np.atleast_1d(variable.values)[where].astype(float)
    table["unit"] = np.full(count, str(variable.attrs.get("unit", "")), dtype="U16")
    return table


def _band(metrics: xr.Dataset, variable: xr.DataArray, where: tuple[Any, ...], count: int) -> np.ndarray:
    if "band" in variable.dims:
        return variable["band"].values[where[variable.dims.index("band")]].astype("U4")
    if "visit" in variable.dims and "visit_band" in metrics.coords:
        return metrics["visit_band"].values.astype("U4")[where[variable.dims.index("visit")]]
    return np.full(count, "", dtype="U4")


def _empty() -> Table:
    names = (*PLACES, "band", "metric", "value", "unit")
    return Table(names=names, dtype=("U1", int, int, int, int, "U4", "U1", float, "U1"))


def _says_ran(name: Any) -> bool:
    return str(name).rpartition(".")[2] == RAN


def _ready(metrics: xr.Dataset) -> xr.Dataset:
    """Without what does not survive an outer join: bands along visits, and booleans."""
    plain = metrics.drop_vars("visit_band", errors="ignore")
    return plain.assign({name: plain[name].astype(float) for name in plain.data_vars if _says_ran(name)})


def _check_units(runs: Mapping[str, xr.Dataset]) -> None:
    seen: dict[str, tuple[str, str]] = {}
    for label, metrics in runs.items():
        for name, variable in metrics.data_vars.items():
            unit = str(variable.attrs.get("unit", ""))
            first, other = seen.setdefault(str(name), (label, unit))
            if unit != other:
                raise BadInput(
                    f"{name} is in {other or 'no unit'} in {first} and in {unit or 'no unit'} in {label}",
                    hint="make one of the runs again with the same version, or compare them one by one",
                    metric=str(name),
                )


def _bands(runs: Mapping[str, xr.Dataset]) -> dict[int, str]:
    bands: dict[int, str] = {}
    for label, metrics in runs.items():
        if "visit_band" not in metrics.coords:
            continue
        for visit, band in zip(metrics["visit"].values, metrics["visit_band"].values, strict=True):
            if bands.setdefault(int(visit), str(band)) != str(band):
                raise BadInput(
                    f"visit {int(visit)} is in band {band} in {label} and in band {bands[int(visit)]} in another run",
                    hint="these runs are of different instruments; look at them one by one",
                    visit=int(visit),
                )
    return bands
