"""The grid of data ids: one cell per quantum, coloured by what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.events import Tap
from bokeh.models import (
    ColumnDataSource,
    CustomJSHover,
    FixedTicker,
    HoverTool,
    LinearAxis,
    LinearColorMapper,
)
from numpy.typing import NDArray

from nightlab.dashboards.overview.board import COLOURS, SIGNS, WORDS, Board, Key, Status, data_id_of, group_of
from nightlab.dashboards.style import figure
from nightlab.pipelines.events import label

#: With at most this many data ids every one has a row of its own; beyond, detectors are columns.
ROWS = 36
#: Signs are drawn in at most this many cells.
SIGNED = 1200
_BLANK = 255
_TICKS = 40
_FAINT = "rgba(128, 128, 128, 0.22)"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where the cells of one kind of data id are.

    Attributes
    ----------
    stages
        Those that work on this kind.
    rows
        Labels of the rows, first at the top.
    columns
        Stage and, where detectors or bands are columns, its label; None for a gap between stages.
    place
        Row and column by stage and key.
    """

    stages: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[tuple[str, str] | None, ...]
    place: dict[tuple[str, Key], tuple[int, int]]


def plan_grid(board: Board, group: str) -> Plan:
    """Arrange the cells of a board that are of one kind (``visit``, ``patch`` or ``night``)."""
    stages = tuple(stage for stage in board.stages if group_of(stage) == group)
    keys: list[Key] = sorted({key for stage in stages for key in board.cells.get(stage, {})}, key=_order)
    if len(keys) <= ROWS or any(len(key) < 2 for key in keys):
        rows = {key: number for number, key in enumerate(keys)}
        columns: list[tuple[str, str] | None] = [(stage, "") for stage in stages]
        place = {(stage, key): (rows[key], column) for column, stage in enumerate(stages) for key in keys}
        texts = [label(data_id_of(stages[0], key)) for key in keys]
    else:
        heads = sorted({key[:-1] for key in keys}, key=_order)
        tails = sorted({key[-1] for key in keys}, key=lambda part: _order((part,)))
        row_of = {head: number for number, head in enumerate(heads)}
        tail_of = {tail: number for number, tail in enumerate(tails)}
        columns, place = [], {}
        for stage in stages:
            first = len(columns)
            columns += [(stage, str(tail)) for tail in tails]
            columns.append(None)
            place |= {(stage, key): (row_of[key[:-1]], first + tail_of[key[-1]]) for key in keys}
        columns = columns[:-1]
        texts = [label(data_id_of(stages[0], head)) for head in heads]
    return Plan(stages=stages, rows=tuple(texts), columns=tuple(columns), place=place)


def codes(board: Board, plan: Plan) -> NDArray[np.uint8]:
    """Give the states as (rows, columns) small integers; 255 where there is no quantum."""
    grid = np.full((len(plan.rows), len(plan.columns)), _BLANK, dtype=np.uint8)
    for stage in plan.stages:
        for key, status in board.cells.get(stage, {}).items():
            grid[plan.place[stage, key]] = status
    return grid


class Grid:
    """A picture of the states; a click on a cell tells stage and data id.

    Parameters
    ----------
    group
        Kind of data ids.
    clicked
        Called with stage and key.
    """

    def __init__(self, group: str, clicked: Callable[[str, Key], None]) -> None:
        self.group = group
        self.plan: Plan | None = None
        self._keys: frozenset[tuple[str, Key]] = frozenset()
        self._at: dict[tuple[int, int], tuple[str, Key]] = {}
        self._clicked = clicked
        self._image = ColumnDataSource({"image": [np.zeros((1, 1), np.uint8)], "dw": [1], "dh": [1]})
        self._signs = ColumnDataSource({"x": [], "y": [], "sign": []})
        self._chosen = ColumnDataSource({"x": [], "y": []})
        self._hover = CustomJSHover(args={"rows": [], "columns": [], "words": list(WORDS.values())}, code=_HOVER)
        self.figure = self._make()

    def _make(self) -> Any:
        palette = [_FAINT, *(COLOURS[status] for status in list(Status)[1:])]
        mapper = LinearColorMapper(palette=palette, low=0, high=len(palette) - 1, high_color="rgba(0, 0, 0, 0)")
        hover = HoverTool(tooltips="@image{custom}", formatters={"@image": self._hover}, point_policy="follow_mouse")
        made = figure(
            f"states of the pieces of work, {self.group} by stage",
            x_axis_location="above",
            y_axis_location="left",
            tools="reset,save,wheel_zoom,pan",
            height=200,
            outline_line_color=None,
            name=f"grid-{self.group}",
        )
        image = made.image(
            "image", x=0, y=0, dw="dw", dh="dh", source=self._image, color_mapper=mapper, anchor="bottom_left"
        )
        hover.renderers = [image]
        made.add_tools(hover)
        made.rect("x", "y", 1, 1, source=self._chosen, fill_color=None, line_color="#e0a100", line_width=3)
        made.text(
            "x", "y", "sign", source=self._signs, text_align="center", text_baseline="middle", text_color="white",
            text_font_size="12px",
        )  # fmt: skip
        for grid in made.grid:
            grid.update(level="annotation", grid_line_color="white", grid_line_alpha=0.75, grid_line_width=2)
        made.axis.major_tick_line_color = None
        made.axis.minor_tick_line_color = None
        made.axis.axis_line_color = None
        made.on_event(Tap, self._tap)
        return made

    def _tap(self, event: Any) -> None:
        if self.plan is None or event.x is None:
            return
        spot = (len(self.plan.rows) - 1 - int(np.floor(event.y)), int(np.floor(event.x)))
        if spot in self._at:
            self._clicked(*self._at[spot])

    def show(self, board: Board, chosen: tuple[str, Key] | None = None) -> int:
        """Draw a board, frame a chosen cell, and give the number of all cells."""
        keys = frozenset((stage, key) for stage in board.stages for key in board.cells.get(stage, {})
                         if group_of(stage) == self.group)  # fmt: skip
        if self.plan is None or keys != self._keys:
            self._keys, self.plan = keys, plan_grid(board, self.group)
            self._at = {spot: cell for cell, spot in self.plan.place.items()}
            self._label(self.plan)
        grid = codes(board, self.plan)
        # the first row is at the top, and pictures start at the bottom
        flipped = grid[::-1]
        self._image.data = {"image": [flipped], "dw": [grid.shape[1]], "dh": [grid.shape[0]]}
        y, x = np.nonzero((flipped != _BLANK) & (flipped != Status.MISSING))
        if len(y) > SIGNED:
            y = x = np.zeros(0, dtype=int)
        signs = [SIGNS[Status(int(code))] for code in flipped[y, x]]
        self._signs.data = {"x": x + 0.5, "y": y + 0.5, "sign": signs}
        self._choose(chosen)
        return int((grid != _BLANK).sum())

    def _choose(self, cell: tuple[str, Key] | None) -> None:
        """Frame a cell."""
        spot = self.plan.place.get(cell) if self.plan and cell else None
        if spot is None or self.plan is None:
            self._chosen.data = {"x": [], "y": []}
        else:
            self._chosen.data = {"x": [spot[1] + 0.5], "y": [len(self.plan.rows) - 0.5 - spot[0]]}

    def _label(self, plan: Plan) -> None:
        rows, columns = len(plan.rows), len(plan.columns)
        made = self.figure
        made.x_range.update(start=0, end=max(columns, 1), bounds=(0, max(columns, 1)))
        made.y_range.update(start=0, end=max(rows, 1), bounds=(0, max(rows, 1)))
        made.height = int(np.clip(64 + 24 * rows, 90, 380)) if rows <= ROWS else 380
        step = -(-max(rows, 1) // _TICKS)
        _ticks(made.yaxis[0], {rows - 0.5 - row: plan.rows[row] for row in range(0, rows, step)})
        middles = {}
        for stage in plan.stages:
            places = [place for place, column in enumerate(plan.columns) if column and column[0] == stage]
            if places:
                middles[(places[0] + places[-1] + 1) / 2] = stage.replace("_", "\n")
        _ticks(made.xaxis[0], middles)
        # lines part the cells where these are few
        few = rows <= ROWS and columns <= 2 * ROWS
        made.xgrid[0].update(ticker=FixedTicker(ticks=list(range(columns + 1))), visible=few)
        made.ygrid[0].update(ticker=FixedTicker(ticks=list(range(rows + 1))), visible=few)
        self._hover.args = {
            "rows": list(plan.rows[::-1]),
            "columns": [f"{column[0]} {column[1]}".strip() if column else "" for column in plan.columns],
            "words": list(WORDS.values()),
        }


def _ticks(axis: LinearAxis, labels: Mapping[float, str]) -> None:
    axis.ticker = FixedTicker(ticks=list(labels))
    axis.major_label_overrides = dict(labels)


def _order(key: Sequence[int | str]) -> tuple[tuple[bool, int, str], ...]:
    """Numbers by size, before words."""
    return tuple((isinstance(part, str), 0 if isinstance(part, str) else part, str(part)) for part in key)


_HOVER = """
const x = Math.floor(special_vars.data_x ?? special_vars.x), y = Math.floor(special_vars.data_y ?? special_vars.y)
if (!columns[x] || rows[y] === undefined || value > 250) return ""
return `${columns[x]} · ${rows[y]}: ${words[value] ?? ""}`
"""
