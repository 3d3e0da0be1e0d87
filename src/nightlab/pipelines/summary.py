"""What a finished run has to say: one table per band, recovery against the truth, where things are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from astropy.table import Table

from nightlab.errors import MissingData
from nightlab.quality import Recovery, recover

if TYPE_CHECKING:
    import xarray as xr

    from nightlab.data.runs import Run

BANDS = "ugrizy"

#: Columns of the table a run ends with: title -> metric.
COLUMNS = {
    "sources": "single_frame.n_sources",
    "fwhm": "single_frame.psf_fwhm",
    "astrometry": "single_frame.astrometric_scatter",
    "zero point": "single_frame.zero_point",
    "zp scatter": "single_frame.zero_point_scatter",
    "zp - own": "single_frame.zero_point_offset",
    "m5": "single_frame.m5",
    "kernel stars": "difference.n_kernel_stars",
    "noise ratio": "difference.noise_ratio",
    "noise corr": "difference.noise_correlation",
    "DIASources +": "dia_source.n_positive",
    "DIASources -": "dia_source.n_negative",
    "on blank sky": "dia_source.n_blank",
}


def band_table(metrics: xr.Dataset, columns: dict[str, str] | None = None) -> Table:
    """Give one row per band: medians over visits and detectors.

    Parameters
    ----------
    metrics
        A gathered run.
    columns
        Metric by column title; those that the run lacks are left out. `COLUMNS` when absent.

    Returns
    -------
    astropy.table.Table
        Columns band, visits, then one per metric, in the metrics' units.
    """
    if "visit_band" not in metrics.coords:
        return Table(names=("band", "visits"), dtype=(str, int))
    chosen = COLUMNS if columns is None else columns
    bands = np.array([str(band) for band in metrics["visit_band"].values])
    rows = []
    for band in sorted(set(bands), key=lambda b: BANDS.find(b)):
        visits = metrics.isel(visit=np.flatnonzero(bands == band))
        values = [_median(visits[name]) for name in chosen.values() if name in visits]
        rows.append((band, int((bands == band).sum()), *values))
    titles = [title for title, name in chosen.items() if name in metrics]
    table = Table(rows=rows, names=("band", "visits", *titles))
    for title in titles:
        table[title].unit = metrics[chosen[title]].attrs.get("unit") or None
    return table


def _median(values: xr.DataArray) -> float:
    finite = values.values[np.isfinite(values.values.astype(float))]
    return float(np.median(finite)) if finite.size else math.nan


def recovery(run: Run, survey: str | Path) -> Recovery:
    """Hold a run on a simulated survey against its truth, over all science visits; one that failed counts as missed.

    Parameters
    ----------
    run
        Of ``ApPipe``.
    survey
        Folder of the simulated survey.

    Raises
    ------
    MissingData
        When the truth tables or the run's products are absent.
    """
    path = Path(survey) / "truth_sources.parquet"
    if not path.is_file():
        raise MissingData(f"{path} is not there", hint="simulate the survey again", path=str(path))
    truth = Table.read(path)
    truth = truth[np.isfinite(np.asarray(truth["snr_difference"], float))]
    truth.rename_column("objectId", "id")
    return recover(truth, run.get("dia_source"), run.get("dia_object"))
