"""Fit our tables to the schema of the prompt database."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas
from astropy.table import Table
from numpy.typing import NDArray

from nightlab.errors import BadInput

TYPES: dict[str, type[np.generic]] = {
    "long": np.int64,
    "int": np.int32,
    "short": np.int16,
    "double": np.float64,
    "float": np.float32,
    "boolean": np.bool_,
}
MADE_BY_THE_DATABASE = {"pixelId", "validityStartMjdTai", "validityEndMjdTai"}
PROCESSED = "timeProcessedMjdTai"


def conform(
    table: Table,
    definition: Any,
    *,
    constants: Mapping[str, float] | None = None,
    extra: Collection[str] | None = None,
) -> pandas.DataFrame:
    """Make the rows that the database can take.

    Parameters
    ----------
    table
        Rows with names as in the schema.
    definition
        A table definition of the database library.
    constants
        Values of columns that the table does not have.
    extra
        Columns of the table that the schema has no place for and that may be dropped; `None` drops any.

    Returns
    -------
    pandas.DataFrame
        The columns of the schema that are known, in its order and types. Counts that nobody measured are 0.

    Raises
    ------
    BadInput
        When a column is unknown, one that the database needs is missing, or a needed number is not finite.
    """
    wanted = [column for column in definition.columns if column.name not in MADE_BY_THE_DATABASE]
    unknown = sorted(set(table.colnames) - {column.name for column in wanted} - set(extra or table.colnames))
    if unknown:
        raise BadInput(
            f"{definition.name} has no column {', '.join(unknown)}",
            hint="rename them, or name them in `extra_columns` to leave them out of the database",
            unknown=unknown,
        )
    constants = constants or {}
    columns: dict[str, NDArray[Any]] = {}
    missing = []
    for column in wanted:
        if column.name in table.colnames:
            columns[column.name] = _cast(table[column.name], str(column.datatype.value), column.nullable)
        elif column.name in constants:
            columns[column.name] = np.full(len(table), constants[column.name], TYPES[str(column.datatype.value)])
        elif not column.nullable and column.value is None:
            if column.name == "bboxSize" or column.name.endswith("Ndata"):
                columns[column.name] = np.zeros(len(table), TYPES[str(column.datatype.value)])
            else:
                missing.append(column.name)
    if missing:
        raise BadInput(f"{definition.name} needs {', '.join(missing)}, which the table lacks", missing=missing)
    for column in wanted:
        values = columns.get(column.name)
        if not column.nullable and values is not None and values.dtype.kind == "f" and not np.isfinite(values).all():
            n = int((~np.isfinite(values)).sum())
            raise BadInput(
                f"{n} rows for {definition.name} have no finite {column.name}, which the database needs",
                hint="drop them, or find out why they have none",
                column=column.name,
                rows=n,
            )
    return pandas.DataFrame(columns)


def digest(frame: pandas.DataFrame, keys: list[str]) -> str:
    """Identify rows by content: sixteen hexadecimal digits; neither row order nor the time of processing matters."""
    ordered = frame.sort_values(keys, kind="stable")
    content = hashlib.sha256(str(len(ordered)).encode())
    for name in sorted(set(ordered.columns) - {PROCESSED}):
        values = ordered[name].to_numpy()
        data = "\0".join(map(str, values)).encode() if values.dtype.kind == "O" else values.tobytes()
        content.update(name.encode() + b"\0" + data)
    return content.hexdigest()[:16]


def _cast(column: Any, datatype: str, nullable: bool) -> NDArray[Any]:
    masked = np.ma.getmaskarray(column) if isinstance(column, np.ma.MaskedArray) else None
    kind = TYPES.get(datatype)
    if kind is None:
        values = np.asarray(column).astype(str).astype(object)
        if masked is not None:
            values[masked] = None
        return values
    if masked is None or not masked.any():
        return np.asarray(column).astype(kind)
    if issubclass(kind, np.floating):
        return np.asarray(np.ma.filled(column.astype(kind), np.nan))
    if not nullable:
        raise BadInput(f"{int(masked.sum())} rows have no {column.name}, which the database needs")
    values = np.asarray(column).astype(kind).astype(object)
    values[masked] = None
    return values
