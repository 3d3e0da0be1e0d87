"""Tables by name: FITS, text, shards of a reference catalogue, parquet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from nightlab.data.sources.place import Place
from nightlab.errors import BadInput, CorruptFile

if TYPE_CHECKING:
    import dask.dataframe
    import pandas
    import pyarrow
    from astropy.table import Table
    from dask.delayed import Delayed

#: What `astropy.table.Table.read` calls the formats we know, by our name for them.
TEXT = {"ecsv": "ascii.ecsv", "columns": "ascii.no_header", "commented": "ascii.commented_header"}
FORMATS = ("fits", "npz", "reference", *TEXT)


def read_table(
    place: Place,
    *,
    format: str = "fits",  # noqa: A002 - what astropy calls it
    hdu: int = 1,
    member: str = "",
    names: list[str] | None = None,
    units: dict[str, str] | None = None,
) -> Table:
    """Read a table.

    Parameters
    ----------
    place
        Its file; a folder of shards for ``reference``.
    format
        ``fits``, ``ecsv``, ``columns`` (text without names), ``commented`` (names behind a ``#``), ``npz`` (a
        structured array) or ``reference`` (the sharded reference catalogue of the LSST stack).
    hdu
        Number of the HDU, of a FITS file.
    member
        Name of the array, of an npz file.
    names
        Names of the columns, where the file has none.
    units
        Units by column, where the file has none.

    Returns
    -------
    astropy.table.Table

    Raises
    ------
    MissingData, CorruptFile
        When the file is absent or damaged.
    BadInput
        When the format is none of these.
    """
    if format not in FORMATS:
        raise BadInput(f"no table format is called {format!r}", hint=f"known are {', '.join(FORMATS)}")
    path = place.file()
    if format == "reference":
        from nightlab.data.catalogs import read_lsst_reference

        return read_lsst_reference(path)
    table = _read(path, format, hdu, member, names)
    for name, unit in (units or {}).items():
        table[name].unit = unit
    return table


def _read(path: Path, format: str, hdu: int, member: str, names: list[str] | None) -> Table:  # noqa: A002
    import numpy as np
    from astropy.table import Table

    from nightlab.data.instruments.base import fits_file

    if format == "fits":
        with fits_file(path, needed="a table") as hdus:
            return Table.read(hdus[hdu], unit_parse_strict="silent")
    try:
        if format == "npz":
            with np.load(path) as arrays:
                return Table(arrays[member])
        return Table.read(path, format=TEXT[format], **({"names": names} if names else {}))
    except (OSError, ValueError, LookupError) as error:
        raise CorruptFile(
            f"cannot read a table from {path}: {error}", hint="fetch it again", path=str(path)
        ) from error


def table_later(place: Place, **options: Any) -> Delayed:
    """Give a `dask.delayed.Delayed` that reads the table when it is computed; such files cannot be read in parts."""
    from dask.delayed import delayed

    return delayed(read_table)(place, **options)


def read_parquet(place: Place, *, columns: list[str] | None = None) -> Table:
    """Read a parquet table.

    Parameters
    ----------
    place
        Its file.
    columns
        Those wanted; all when absent.

    Returns
    -------
    astropy.table.Table
        With the units the file carries. Absent numbers are NaN, other absent values are masked.
    """
    import pyarrow
    import pyarrow.parquet

    path = place.file()
    try:
        return _from_arrow(pyarrow.parquet.read_table(path, columns=columns))
    except (OSError, pyarrow.ArrowException) as error:
        raise CorruptFile(
            f"cannot read a table from {path}: {error}", hint="fetch it again", path=str(path)
        ) from error


def _from_arrow(table: pyarrow.Table) -> Table:
    """Turn an Arrow table into one of astropy, nulls and all."""
    import numpy as np
    import pyarrow
    from astropy.table import MaskedColumn
    from lsst.daf.butler.formatters.parquet import arrow_to_astropy

    absent: dict[str, np.ndarray] = {}
    for k, name in enumerate(table.column_names):
        column = table[name]
        if not column.null_count:
            continue
        if pyarrow.types.is_null(column.type):
            filled = pyarrow.nulls(len(column), pyarrow.float64()).fill_null(float("nan"))
        elif pyarrow.types.is_floating(column.type):
            filled = column.fill_null(float("nan"))
        else:
            absent[name] = column.is_null().to_numpy()
            # some value of the column's own type; it is masked
            kept = column.drop_null()
            filled = column.fill_null(kept[0]) if len(kept) else column
        table = table.set_column(k, table.schema.field(k).with_type(filled.type), filled)
    found = arrow_to_astropy(table)
    for name, mask in absent.items():
        found[name] = MaskedColumn(found[name], mask=mask)
    return found


def parquet_later(place: Place, *, columns: list[str] | None = None) -> dask.dataframe.DataFrame:
    """Give a `dask.dataframe.DataFrame` with a partition per row group of the file; units stay behind in the file."""
    import dask.dataframe
    import pyarrow.parquet

    path = str(place.file())
    groups = range(pyarrow.parquet.read_metadata(path).num_row_groups)
    return dask.dataframe.from_map(_row_group, groups, path=path, wanted=columns)


def _row_group(group: int, *, path: str, wanted: list[str] | None) -> pandas.DataFrame:
    """Read one row group; what pandas says there about an index may contradict the columns, so it is not looked at."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        return file.read_row_group(group, columns=wanted).to_pandas(ignore_metadata=True)
