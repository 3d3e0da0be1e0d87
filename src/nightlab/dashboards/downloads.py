"""Metrics as a file for the browser."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightlab.quality import export_metrics

if TYPE_CHECKING:
    import xarray as xr


def download(metrics: xr.Dataset, kind: Any) -> io.BytesIO:
    """Write metrics in a format of `nightlab.quality.export_metrics`; a zarr store is packed into one zip file.

    Parameters
    ----------
    metrics
        A gathered run, or several merged.
    kind
        ``netcdf``, ``zarr``, ``csv`` or ``verify``.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = export_metrics(metrics, Path(folder) / "metrics", format=kind)
        if path.is_file():
            return io.BytesIO(path.read_bytes())
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            for member in sorted(each for each in path.rglob("*") if each.is_file()):
                archive.write(member, member.relative_to(path))
        packed.seek(0)
        return packed
