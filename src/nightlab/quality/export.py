"""Metrics on their way to other programs: netCDF, zarr, CSV, a job of lsst.verify. Written whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import xarray as xr

from nightlab.errors import BadInput, MissingData, WriteFailed
from nightlab.quality.merge import tidy
from nightlab.quality.verify import verify_job

Format = Literal["netcdf", "zarr", "csv", "verify"]

#: By the end of a file's name.
SUFFIXES: dict[str, Format] = {".nc": "netcdf", ".zarr": "zarr", ".csv": "csv", ".json": "verify"}


def export_metrics(
    metrics: xr.Dataset,
    path: str | Path,
    *,
    format: Format | None = None,  # noqa: A002
    overwrite: bool = False,
) -> Path:
    """Write metrics for other programs.

    Parameters
    ----------
    metrics
        A gathered run, or several merged (not for ``verify``, whose jobs are about one).
    path
        The file, or for zarr the folder, to make.
    format
        ``netcdf``, ``zarr``, ``csv`` (one row per measurement) or ``verify`` (JSON of an lsst.verify job); by the end
        of the name, ``.nc``, ``.zarr``, ``.csv``, ``.json``, when absent.
    overwrite
        Whether to replace what is there.

    Returns
    -------
    pathlib.Path
        What was written.

    Raises
    ------
    BadInput
        When the format is unknown or the file exists already.
    MissingData
        When the folder to write in does not exist.
    WriteFailed
        When it cannot be written; nothing half-written is left behind.
    """
    path = Path(path)
    kind = format or SUFFIXES.get(path.suffix)
    if kind not in _WRITERS:
        known = ", ".join(f"{suffix} ({name})" for suffix, name in SUFFIXES.items())
        raise BadInput(f"metrics are not written as {format or path.name}", hint=f"known are {known}", path=str(path))
    if path.exists() and not overwrite:
        raise BadInput(f"{path} exists already", hint="choose another name, or say overwrite", path=str(path))
    if not path.absolute().parent.is_dir():
        raise MissingData(f"there is no folder {path.parent}", hint="make it first", path=str(path.parent))
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        _WRITERS[kind](metrics, part)
        _replace(part, path)
    except OSError as error:
        raise WriteFailed(f"cannot write {path}: {error}", hint="check space and rights", path=str(path)) from error
    finally:
        _remove(part)
    return path


def text_of(metrics: xr.Dataset, format: Literal["csv", "verify"]) -> str:  # noqa: A002
    """Give the text of a CSV file or of a verify job, for a download.

    Parameters
    ----------
    metrics, format
        As in `export_metrics`.
    """
    if format == "csv":
        import io

        text = io.StringIO()
        _rows(metrics, csv.writer(text, lineterminator="\n"))
        return text.getvalue()
    return json.dumps(verify_job(metrics), indent=1, sort_keys=True, allow_nan=False)


def _netcdf(metrics: xr.Dataset, path: Path) -> None:
    _plain(metrics).to_netcdf(path, engine="h5netcdf")


def _zarr(metrics: xr.Dataset, path: Path) -> None:
    _plain(metrics).to_zarr(path, mode="w", consolidated=False, zarr_format=3)


def _csv(metrics: xr.Dataset, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        _rows(metrics, csv.writer(file, lineterminator="\n"))


def _rows(metrics: xr.Dataset, writer: object) -> None:
    table = tidy(metrics)
    columns = []
    for name in table.colnames:
        hidden = np.ma.getmaskarray(table[name])
        values = np.ma.getdata(table[name]).tolist()
        columns.append(["" if gone else value for gone, value in zip(hidden, values, strict=True)])
    writer.writerow(table.colnames)  # type: ignore[attr-defined]
    writer.writerows(zip(*columns, strict=True))  # type: ignore[attr-defined]


def _verify(metrics: xr.Dataset, path: Path) -> None:
    path.write_text(text_of(metrics, "verify"), encoding="utf-8")


_WRITERS: dict[str, Callable[[xr.Dataset, Path], None]] = {
    "netcdf": _netcdf,
    "zarr": _zarr,
    "csv": _csv,
    "verify": _verify,
}


def _plain(metrics: xr.Dataset) -> xr.Dataset:
    """With coordinates of text as every format knows it, and nothing left of the file they were read from."""
    plain = metrics.copy()
    for name, coordinate in plain.coords.items():
        if coordinate.dtype.kind in "TOU":
            plain = plain.assign_coords({name: coordinate.astype(object).astype(str)})
    return plain.drop_encoding()


def _replace(part: Path, path: Path) -> None:
    """Move what was written to its place; a folder cannot replace a folder in one step, so the old one steps aside."""
    if not path.is_dir():
        os.replace(part, path)
        return
    aside = part.with_name(f"{part.name}.old")
    path.rename(aside)
    try:
        part.rename(path)
    except OSError:
        aside.rename(path)
        raise
    shutil.rmtree(aside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
