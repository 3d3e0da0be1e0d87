"""Arrays by name: stamps, kernels and blends from npz, npy and FITS; metrics from zarr and netCDF; FITS headers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nightlab.data.sources.place import Place
from nightlab.errors import BadInput, CorruptFile

if TYPE_CHECKING:
    import xarray as xr
    from astropy.io.fits import Header
    from dask.delayed import Delayed

type Arrays = dict[str, np.ndarray]


def read_arrays(
    place: Place,
    *,
    dims: Mapping[str, list[str]] | None = None,
    coords: Mapping[str, list[Any]] | None = None,
    units: Mapping[str, str] | None = None,
    hdu: int | str = 0,
    stack: bool = False,
) -> xr.Dataset:
    """Read arrays that belong together.

    Parameters
    ----------
    place
        An npz, npy or FITS file.
    dims
        Names of the axes by array; the array of an npy or FITS file is called ``values``.
    coords
        Labels along an axis, such as the bands.
    units
        Units by array.
    hdu
        Number or name of the HDU, of a FITS file.
    stack
        Whether to stack all HDUs of that name along a new first axis.

    Returns
    -------
    xarray.Dataset
        Structured arrays are left out; they are tables.

    Raises
    ------
    MissingData, CorruptFile
        When the file is absent or damaged.
    """
    import xarray as xr

    path = place.file()
    found = _load(path, hdu, stack)
    axes, units = dims or {}, units or {}
    variables = {}
    for name, values in found.items():
        names = axes.get(name, [f"{name}_{k}" for k in range(values.ndim)])
        if len(names) != values.ndim:
            raise BadInput(f"{name} has {values.ndim} axes and {len(names)} names", hint="mend the catalogue entry")
        variables[name] = (names, values, {"units": units[name]} if name in units else {})
    return xr.Dataset(variables, coords=dict(coords or {}), attrs={"file": path.name})


def _load(path: Path, hdu: int | str, stack: bool) -> Arrays:
    from nightlab.data.instruments.base import fits_file

    if path.suffix not in (".npz", ".npy"):
        with fits_file(path, needed="an array") as hdus:
            if stack:
                planes = [_native(other.data) for other in hdus if other.name == hdu]
                return {"values": np.stack(planes)}
            return {"values": _native(hdus[hdu].data)}
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"values": loaded}
        with loaded:
            return {name: loaded[name] for name in loaded.files if loaded[name].dtype.names is None}
    except (OSError, ValueError, EOFError) as error:
        raise CorruptFile(f"cannot read arrays from {path}: {error}", hint="fetch it again", path=str(path)) from error


def _native(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))


def arrays_later(place: Place, **options: Any) -> xr.Dataset:
    """Give the same dataset with its arrays as dask arrays; the files are small, so they are read at once."""
    return read_arrays(place, **options).chunk()


def open_metrics(place: Place, **options: Any) -> xr.Dataset:
    """Open metrics, or any labelled arrays, from a zarr store or a netCDF file, values still on disk.

    Parameters
    ----------
    place
        The store or file.
    **options
        For `xarray.open_dataset`.

    Returns
    -------
    xarray.Dataset
        Its arrays are dask arrays.
    """
    import xarray as xr

    path = place.file()
    zarr = path.is_dir() or path.suffix == ".zip"
    try:
        return xr.open_dataset(path, engine="zarr" if zarr else "h5netcdf", chunks={}, **options)
    except (OSError, ValueError, LookupError) as error:
        raise CorruptFile(
            f"cannot read metrics from {path}: {error}", hint="make them again", path=str(path)
        ) from error


def read_metrics(place: Place, **options: Any) -> xr.Dataset:
    """Read metrics, or any labelled arrays, into memory; otherwise as `open_metrics`."""
    with open_metrics(place, **options) as found:
        return found.load()


def read_header(place: Place, *, hdu: int = 0) -> Header:
    """Read a FITS header, from a FITS file or from YAML as the LSST metadata translators keep it.

    Parameters
    ----------
    place
        The file.
    hdu
        Number of the HDU, of a FITS file.

    Returns
    -------
    astropy.io.fits.Header

    Raises
    ------
    MissingData, CorruptFile
        When the file is absent or damaged.
    """
    from nightlab.data.instruments.base import fits_file

    path = place.file()
    if path.suffix not in (".yaml", ".yml"):
        with fits_file(path, needed="a header") as hdus:
            return hdus[hdu].header.copy()
    return _yaml_header(path)


def _yaml_header(path: Path) -> Header:
    import yaml
    from astropy.io.fits import Card, Header

    class Loader(yaml.SafeLoader):
        """Reads tagged lists and mappings as plain ones."""

    Loader.add_multi_constructor(
        "lsst.",
        lambda loader, _, node: (
            loader.construct_mapping(node, deep=True)
            if isinstance(node, yaml.MappingNode)
            else loader.construct_sequence(node, deep=True)
        ),
    )
    try:
        told = yaml.load(path.read_text(), Loader=Loader)
        # a list of [name, type, value, comment], or a plain mapping
        rows = [(row[0], row[2]) for row in told] if isinstance(told, list) else list(told.items())
    except (OSError, yaml.YAMLError, LookupError, TypeError, AttributeError) as error:
        raise CorruptFile(f"cannot read a header from {path}: {error}", hint="fetch it again") from error
    header = Header()
    for name, value in rows:
        for one in value if isinstance(value, list) else [value]:
            known = one if isinstance(one, str | int | float | bool) or one is None else str(one)
            # longer names than FITS allows are kept the way FITS keeps them
            header.append(Card(name if len(name) <= 8 else f"HIERARCH {name}", known), end=True)
    return header


def header_later(place: Place, **options: Any) -> Delayed:
    """Give a `dask.delayed.Delayed` that reads the header when it is computed."""
    from dask.delayed import delayed

    return delayed(read_header)(place, **options)
