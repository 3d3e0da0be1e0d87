"""Rows of a large table on the server: ordered, filtered, and read a page at a time. No browser in here."""

from __future__ import annotations

import io
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.table import Table
from numpy.typing import NDArray

from nightlab.errors import BadInput

Bools = NDArray[np.bool_]
Ints = NDArray[np.integer[Any]]

MISSING = "–"
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    "=": operator.eq,
}
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_ONE = re.compile(rf"^(>=|<=|!=|>|<|=)?\s*({_NUMBER})$")
_BETWEEN = re.compile(rf"^({_NUMBER})\s*(?:\.\.|…)\s*({_NUMBER})$")
_YES, _NO = {"yes", "true", "1", "y"}, {"no", "false", "0", "n"}
_DECIMALS = {"deg": 6, "d": 5, "arcsec": 3, "mag": 3, "pix": 2}


@dataclass(frozen=True)
class RowColumn:
    """A column as people see it.

    Attributes
    ----------
    name
        Its name in the data.
    title, unit, help
        Heading, unit and one sentence for the tooltip.
    numeric
        Whether it is a number, and stands to the right.
    """

    name: str
    title: str
    unit: str = ""
    help: str = ""
    numeric: bool = True


class Rows:
    """The rows of a table, with an order and a filter.

    Parameters
    ----------
    table
        Columns of one value per row; an `astropy.table.Table` lends its units, formats and descriptions.
    id_column
        The column that names a row: integers of up to 64 bits, or text. Outside this class an id is always text.

    Raises
    ------
    BadInput
        When there is no such column.
    """

    def __init__(self, table: Table | Mapping[str, Any], id_column: str) -> None:
        names = list(table.colnames if isinstance(table, Table) else table)
        if id_column not in names:
            raise BadInput(f"the table has no column {id_column}", hint=f"it has {', '.join(names) or 'no columns'}")
        self.id_column = id_column
        self.units: dict[str, str] = {}
        self._format: dict[str, Any] = {}
        self._values: dict[str, NDArray[Any]] = {}
        self._missing: dict[str, Bools | None] = {}
        self._orders: dict[str, tuple[NDArray[np.int32], int]] = {}
        for name in names:
            self._take(name, table[name])
        self.length = len(self._values[id_column])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._values[name]

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return list(self._values)

    def _take(self, name: str, column: Any) -> None:
        unit = getattr(column, "unit", None)
        self.units[name] = "" if unit is None else str(unit)
        self._format[name] = getattr(column, "format", None)
        mask = np.ma.getmaskarray(column) if isinstance(column, np.ma.MaskedArray) else None
        values = np.asarray(np.ma.getdata(column))
        if values.dtype.byteorder not in ("=", "|"):
            values = values.astype(values.dtype.newbyteorder("="))
        if values.dtype.kind == "f":
            nan = np.isnan(values)
            mask = nan if mask is None else mask | nan
        if values.dtype.kind == "O":
            values = values.astype(str)
        self._values[name] = values
        self._missing[name] = mask if mask is not None and mask.any() else None

    def columns(
        self, titles: Mapping[str, str] | None = None, helps: Mapping[str, str] | None = None
    ) -> list[RowColumn]:
        """Describe the columns for a reader; names stand in for titles that are not given."""
        titles, helps = titles or {}, helps or {}
        return [
            RowColumn(
                name,
                titles.get(name, name),
                _plain_unit(self.units[name]),
                helps.get(name, ""),
                values.dtype.kind in "iuf" and name != self.id_column,
            )
            for name, values in self._values.items()
        ]

    def order(self, by: str = "", *, descending: bool = False) -> NDArray[np.int32]:
        """All rows in order of a column, as (n,) row numbers; missing values come last either way."""
        if not by:
            return np.arange(self.length, dtype=np.int32)
        if by not in self._orders:
            values, missing = self._values[by], self._missing[by]
            order = np.argsort(values, kind="stable").astype(np.int32)
            n_missing = 0
            if missing is not None:
                last = missing[order]
                order, n_missing = np.concatenate([order[~last], order[last]]), int(last.sum())
            self._orders[by] = order, n_missing
        order, n_missing = self._orders[by]
        if not descending:
            return order
        known = self.length - n_missing
        return np.concatenate([order[:known][::-1], order[known:]])

    def matching(self, filters: Mapping[str, str]) -> Bools:
        """Rows that fit what people typed above the columns, as (n,) booleans.

        Numbers take ``> 5``, ``<= 3``, ``1 .. 10``, ``= 4`` or ``none`` (no value); yes-or-no columns ``yes`` or
        ``no``; text whatever it contains, and ``= r`` for the whole of it.

        Raises
        ------
        BadInput
            When a filter cannot be understood or its column does not exist.
        """
        keep = np.ones(self.length, dtype=bool)
        for name, text in filters.items():
            if text.strip():
                keep &= self._fits(name, text.strip().replace("−", "-"))
        return keep

    def _fits(self, name: str, text: str) -> Bools:
        if name not in self._values:
            raise BadInput(f"there is no column {name}", hint=f"there are {', '.join(self._values)}")
        values, missing = self._values[name], self._missing[name]
        there = np.ones(self.length, dtype=bool) if missing is None else ~missing
        if text.lower() in ("none", "nan", MISSING):
            return ~there
        if values.dtype.kind == "b":
            if text.lower() not in _YES | _NO:
                raise BadInput(f"{name} is yes or no, not {text!r}")
            return there & (values == (text.lower() in _YES))
        if values.dtype.kind in "iuf":
            return there & _number_fits(values, text, name)
        if text.startswith("="):
            return there & (np.char.lower(values) == text[1:].strip().lower())
        return there & (np.char.find(np.char.lower(values), text.lower()) >= 0)

    def find(self, row_id: str) -> int:
        """Row number of an id; -1 where there is none."""
        values = self._values[self.id_column]
        if values.dtype.kind in "iu":
            if not re.fullmatch(r"-?\d{1,20}", row_id):
                return -1
            number = int(row_id)
            info = np.iinfo(values.dtype)
            if not info.min <= number <= info.max:
                return -1
            found = np.flatnonzero(values == values.dtype.type(number))
        else:
            found = np.flatnonzero(values == row_id)
        return int(found[0]) if found.size else -1

    def ids(self, rows: Ints | Sequence[int]) -> list[str]:
        """Ids of rows, as text."""
        return [str(value) for value in self._values[self.id_column][np.asarray(rows, dtype=int)].tolist()]

    def text(self, name: str, rows: Ints | Sequence[int]) -> list[str]:
        """Values of rows as people read them; a dash where there is none."""
        rows = np.asarray(rows, dtype=int)
        values, missing = self._values[name][rows], self._missing[name]
        gone = np.zeros(rows.size, dtype=bool) if missing is None else missing[rows]
        write = _writer(values.dtype.kind, self.units[name], self._format[name])
        return [MISSING if lost else write(value) for value, lost in zip(values.tolist(), gone, strict=True)]

    def export(self, rows: Ints, kind: str) -> io.BytesIO:
        """Write rows as a file with full precision: ``csv``, or ``parquet`` with units in the field metadata."""
        import pyarrow as pa
        import pyarrow.csv
        import pyarrow.parquet

        arrays, fields = [], []
        for name, values in self._values.items():
            missing = self._missing[name]
            array = pa.array(values[rows], mask=None if missing is None else missing[rows])
            arrays.append(array)
            fields.append(pa.field(name, array.type, metadata={"unit": self.units[name]}))
        table, out = pa.table(arrays, schema=pa.schema(fields)), io.BytesIO()
        if kind == "csv":
            pyarrow.csv.write_csv(table, out)
        elif kind == "parquet":
            pyarrow.parquet.write_table(table, out)
        else:
            raise BadInput(f"cannot write {kind}", hint="csv or parquet")
        out.seek(0)
        return out


def _number_fits(values: NDArray[Any], text: str, name: str) -> Any:
    if between := _BETWEEN.match(text):
        low, high = (_as_number(part, values.dtype) for part in between.groups())
        return (values >= low) & (values <= high)
    if not (one := _ONE.match(text)):
        raise BadInput(f"cannot read {text!r} as a filter of {name}", hint="for example > 5, <= 3, 1 .. 10, none")
    return _COMPARE[one.group(1) or "="](values, _as_number(one.group(2), values.dtype))


def _as_number(text: str, dtype: np.dtype[Any]) -> int | float:
    # an id of 64 bits must not pass through a float
    return int(text) if dtype.kind in "iu" and re.fullmatch(r"[-+]?\d+", text) else float(text)


def _plain_unit(unit: str) -> str:
    return unit.replace("pix2", "pix²").replace(" / d", "/d")


def _writer(kind: str, unit: str, given: Any) -> Callable[[Any], str]:
    if given:
        return (lambda value: given % value) if "%" in str(given) else (lambda value: _braced(given, value))
    if kind == "b":
        return lambda value: "yes" if value else "no"
    if kind != "f":
        return str
    decimals = _DECIMALS.get(unit)
    return significant if decimals is None else (lambda value: f"{value:.{decimals}f}".replace("-", "−", 1))


def _braced(given: str, value: Any) -> str:
    return given.format(value) if "{" in given else format(value, given)


def significant(value: float, digits: int = 4) -> str:
    """A number with a few significant digits and no exponent where it can be read without."""
    if not np.isfinite(value):
        return "∞" if value > 0 else "−∞" if value < 0 else MISSING
    size = abs(value)
    if size >= 10**9 or 0 < size < 1e-4:
        text = f"{value:.{digits - 1}e}"
    elif size >= 10 ** (digits - 1):
        text = f"{value:,.0f}"
    else:
        text = f"{value:.{digits}g}"
    return text.replace("-", "−", 1)
