"""One dataset for a whole run, from the small ones its stages leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

RAN = "ran"


@dataclass(frozen=True, kw_only=True)
class Gathered:
    """What `gather` returns.

    Attributes
    ----------
    metrics
        Variables ``room.metric`` over the dimensions their stage works on (visit and detector, tract and patch, or
        none), and ``room.ran``, True where the stage ran: a NaN there is a measurement that failed, elsewhere it is
        nothing at all. The coordinate ``visit_band`` runs along the visits.
    """

    metrics: xr.Dataset


def gather(
    single_frame_metrics: Sequence[xr.Dataset] = (),
    template_metrics: Sequence[xr.Dataset] = (),
    template_detector_metrics: Sequence[xr.Dataset] = (),
    difference_metrics: Sequence[xr.Dataset] = (),
    dia_source_metrics: Sequence[xr.Dataset] = (),
    association_metrics: Sequence[xr.Dataset] = (),
    forced_metrics: Sequence[xr.Dataset] = (),
) -> Gathered:
    """Merge the measurements of a run.

    Parameters
    ----------
    single_frame_metrics, template_metrics, template_detector_metrics, difference_metrics, dia_source_metrics, \
association_metrics, forced_metrics
        What the stages of these names reported, in any order; stages that did not run leave theirs empty.
    """
    rooms = {
        "single_frame": single_frame_metrics,
        "template": template_metrics,
        "template_detector": template_detector_metrics,
        "difference": difference_metrics,
        "dia_source": dia_source_metrics,
        "association": association_metrics,
        "forced": forced_metrics,
    }
    parts = [_merge(room, reports) for room, reports in rooms.items() if len(reports)]
    merged = xr.merge(parts, join="outer", compat="no_conflicts", combine_attrs="override") if parts else xr.Dataset()
    for name in merged.data_vars:
        if str(name).endswith(f".{RAN}"):
            # an outer join between rooms turns the missing into NaN, which would read as True
            merged[name] = merged[name].fillna(0).astype(bool)
    return Gathered(metrics=merged)


def _merge(room: str, reports: Sequence[xr.Dataset]) -> xr.Dataset:
    labelled = [_band_along_visit(report.assign({RAN: _true_like(report)})) for report in reports]
    whole = xr.combine_by_coords(labelled, join="outer", combine_attrs="drop_conflicts", fill_value=np.nan)
    if not isinstance(whole, xr.Dataset):
        whole = whole.to_dataset()
    whole[RAN] = whole[RAN].fillna(0).astype(bool)
    whole.attrs.pop("room", None)
    for name, variable in reports[0].data_vars.items():
        whole[name].attrs = variable.attrs
    return whole.rename({name: f"{room}.{name}" for name in whole.data_vars})


def _true_like(report: xr.Dataset) -> xr.DataArray:
    return xr.DataArray(np.ones(tuple(report.sizes.values())), dims=tuple(report.sizes), coords=report.coords)


def _band_along_visit(report: xr.Dataset) -> xr.Dataset:
    if "band" not in report.dims or "visit" not in report.dims:
        return report
    band = str(report["band"].item())
    return report.squeeze("band", drop=True).assign_coords(visit_band=("visit", [band] * report.sizes["visit"]))
