"""A table of any length: sorted and filtered on the server, one page at a time in the browser, rows known by id.

The row under the pointer and the row on the server are the same because the browser only ever says an id, as text:
64-bit ids do not survive JavaScript's numbers, and row numbers do not survive sorting.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import panel as pn
import param
from astropy.table import Table
from numpy.typing import NDArray

from nightlab.dashboards.rows import Rows
from nightlab.errors import BadInput

Ints = NDArray[np.integer[Any]]
SAFE = ("./", "../", "/", "?", "https://", "http://")
_HERE = Path(__file__).parent


class Grid(pn.reactive.ReactiveHTML):
    """The page of rows in the browser."""

    content = param.Dict(default={}, doc="What to draw: one page of formatted rows and how they were chosen.")
    selected = param.List(default=[], item_type=str, doc="Ids of the selected rows.")
    asked = param.Dict(default={}, doc="The last wish of the reader: another page, order or filter.")
    file = param.Dict(default={}, doc="A file on its way to the reader: its name and content.")
    height_css = param.String(default="320px", doc="Height of the scrolling part.")

    _template: ClassVar[str] = """
    <div id="root" class="grid">
      <div id="scroller" class="scroller" style="max-height: ${height_css}"><table id="table"></table></div>
      <div id="pager" class="pager"></div>
    </div>"""
    _scripts: ClassVar[dict[str, Any]] = {
        "render": (_HERE / "tables.js").read_text(encoding="utf-8"),
        "content": "state.draw()",
        "selected": "state.mark()",
        "file": "if (data.file.base64) state.save()",
    }
    _stylesheets: ClassVar[list[Any]] = [(_HERE / "tables.css").read_text(encoding="utf-8")]


class BigTable(pn.viewable.Viewer):
    """A table of up to millions of rows.

    Parameters
    ----------
    table
        An `astropy.table.Table` or columns by name.
    id_column
        The column that names a row.
    shown
        Columns to show, in order; all when absent.
    titles, helps
        Headings and one-sentence explanations by column.
    links
        By column, a function that takes a row number and gives the address its cell leads to, or "".
    filename
        Stem of the files one may download.
    """

    selected = param.List(default=[], item_type=str, doc="Ids of the selected rows, as text; settable.")
    sort = param.String(default="", doc="Column of the order; empty for that of the data.")
    descending = param.Boolean(default=False, doc="Largest first.")
    filters = param.Dict(default={}, doc="What was typed above each column.")
    page = param.Integer(default=0, bounds=(0, None), doc="Page shown, from 0.")
    page_size = param.Integer(default=50, bounds=(1, 500), doc="Rows of a page.")
    keep = param.Array(default=None, allow_None=True, doc="(n,) booleans: rows that others let through; None for all.")

    def __init__(
        self,
        table: Table | Mapping[str, Any] | Rows,
        id_column: str = "",
        *,
        shown: Sequence[str] | None = None,
        titles: Mapping[str, str] | None = None,
        helps: Mapping[str, str] | None = None,
        links: Mapping[str, Callable[[int], str]] | None = None,
        filename: str = "table",
        height: str = "320px",
        message: str = "No rows: the filters let none through.",
        **params: Any,
    ) -> None:
        super().__init__(**params)
        self.filename, self.message = filename, message
        self._titles, self._helps, self._links = dict(titles or {}), dict(helps or {}), dict(links or {})
        self._grid = Grid(height_css=height, sizing_mode="stretch_width")
        self._grid.param.watch(self._heed, "asked")
        self._grid.param.watch(self._chosen, "selected")
        self.fill(table if isinstance(table, Rows) else Rows(table, id_column), shown)
        self.param.watch(self._choose, ["keep", "filters"])
        self.param.watch(self._arrange, ["sort", "descending"])
        self.param.watch(lambda *_: self._turn(), ["page", "page_size"])
        self.param.watch(self._reveal, "selected")

    def describe(
        self,
        *,
        titles: Mapping[str, str],
        helps: Mapping[str, str],
        links: Mapping[str, Callable[[int], str]],
        filename: str,
    ) -> None:
        """Take other headings, explanations and links, for the rows that `fill` brings next."""
        self._titles, self._helps, self._links, self.filename = dict(titles), dict(helps), dict(links), filename

    def fill(self, rows: Rows, shown: Sequence[str] | None = None) -> None:
        """Take other rows; order and column filters stay where the columns do, the selection stays."""
        self.rows = rows
        names = [name for name in (shown or rows.names) if name in rows.names]
        self._columns = [
            next(column for column in rows.columns(self._titles, self._helps) if column.name == name) for name in names
        ]
        with param.parameterized.discard_events(self):
            self.keep = None
            self.filters = {name: text for name, text in self.filters.items() if name in rows.names}
            self.sort = self.sort if self.sort in rows.names else ""
            self.page = 0
        self._choose()

    @property
    def filtered(self) -> Ints:
        """Row numbers that pass all filters, in the order shown."""
        return self._filtered

    @property
    def pages(self) -> int:
        """Number of pages."""
        return -(-self._filtered.size // self.page_size)

    def step(self, by: int) -> None:
        """Select a row further down, or up, in the order shown."""
        if not self._filtered.size:
            return
        row = self.rows.find(self.selected[0]) if self.selected else -1
        places = np.flatnonzero(self._filtered == row)
        to = int(places[0]) + by if places.size else (0 if by > 0 else self._filtered.size - 1)
        self.selected = self.rows.ids(self._filtered[[max(0, min(to, self._filtered.size - 1))]])

    def _choose(self, *_: Any) -> None:
        keep = np.ones(len(self.rows), dtype=bool) if self.keep is None else np.asarray(self.keep, dtype=bool)
        self._wrong: dict[str, str] = {}
        for name, text in self.filters.items():
            try:
                keep = keep & self.rows.matching({name: text})
            except BadInput as error:
                self._wrong[name] = str(error)
        self._kept = keep
        self._arrange()

    def _arrange(self, *_: Any) -> None:
        order = self.rows.order(self.sort, descending=self.descending)
        self._filtered = order if self._kept.all() else order[self._kept[order]]
        if self.page:
            self.page = 0  # draws
        else:
            self._turn()

    def _turn(self) -> None:
        page = max(0, min(self.page, self.pages - 1))
        rows = self._filtered[page * self.page_size : (page + 1) * self.page_size]
        cells = [self.rows.text(column.name, rows) for column in self._columns]
        self._grid.content = {
            "columns": [
                {"name": c.name, "title": c.title, "unit": c.unit, "help": c.help, "numeric": c.numeric}
                for c in self._columns
            ],
            "rows": [list(row) for row in zip(*cells, strict=True)],
            "ids": self.rows.ids(rows),
            "links": {
                str(k): self._addresses(c.name, rows) for k, c in enumerate(self._columns) if c.name in self._links
            },
            "page": page,
            "pages": self.pages,
            "total": int(self._filtered.size),
            "all": len(self.rows),
            "sort": self.sort,
            "descending": self.descending,
            "filters": dict(self.filters),
            "wrong": dict(self._wrong),
            "message": self.message,
        }

    def _addresses(self, name: str, rows: Ints) -> list[str]:
        found = [self._links[name](int(row)) for row in rows]
        return [address if address.startswith(SAFE) else "" for address in found]

    def _heed(self, event: Any) -> None:
        asked = event.new
        if "page" in asked:
            self.page = max(0, min(int(asked["page"]), self.pages - 1))
            self._turn()  # also when the page asked for does not exist: the number in the box goes back
        elif asked.get("sort") in self.rows.names:
            self.param.update(sort=asked["sort"], descending=bool(asked.get("descending")))
        elif "filter" in asked:
            self.filters = {**self.filters, str(asked["filter"]): str(asked.get("text", ""))}
        elif asked.get("clear"):
            self.filters = {}
        elif asked.get("download") in ("csv", "parquet"):
            content = self.rows.export(self.filtered, asked["download"]).getvalue()
            self._grid.file = {"name": f"{self.filename}.{asked['download']}", "base64": b64encode(content).decode()}
            self._grid.file = {}  # the server keeps no copy

    def _chosen(self, event: Any) -> None:
        if list(event.new) != self.selected:
            self.selected = [str(row) for row in event.new]

    def _reveal(self, *_: Any) -> None:
        """Turn to the page of the first selected row, if it is among those shown."""
        if self.selected:
            row = self.rows.find(self.selected[0])
            places = np.flatnonzero(self._filtered == row) if row >= 0 else np.zeros(0, int)
            if places.size:
                self.page = int(places[0]) // self.page_size
        if self._grid.selected != self.selected:
            self._grid.selected = list(self.selected)

    def __panel__(self) -> pn.viewable.Viewable:
        return self._grid
