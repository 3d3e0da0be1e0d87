"""What every command shares: options, exit codes, tables, progress."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from nightlab.cli import completion
from nightlab.errors import BadInput, DownloadFailed, MissingData, NightLabError

if TYPE_CHECKING:
    from astropy.table import Table

    from nightlab.pipelines.events import Listener

FAILED, USAGE, MISSING, MISSED = 1, 2, 3, 4

DataOption = Annotated[
    str | None,
    typer.Option("--data", help="An entry of the catalogue: simulated, stripe82.", autocompletion=completion.data),
]
RepoOption = Annotated[Path | None, typer.Option("--repository", "-b", help="A Butler repository of your own.")]
QueryOption = Annotated[str, typer.Option("--query", "-d", help="Which visits, as a Butler expression.")]
JobsOption = Annotated[int, typer.Option("--jobs", "-j", min=1, help="How many processes work at once.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="A knob: STAGE.FIELD=VALUE; may be repeated.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say only what went wrong.")]
PlainOption = Annotated[bool, typer.Option("--plain", help="One line per step instead of live bars.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks.")]


@contextlib.contextmanager
def exit_codes(verbose: bool = False) -> Iterator[None]:
    """Turn our errors into a message, a hint and an exit code."""
    try:
        yield
    except NightLabError as error:
        if verbose:
            traceback.print_exc()
        print(f"nightlab: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  try: {error.hint}", file=sys.stderr)
        # what is wrong with pixels or tables is a kind of bad input too, but not of what was typed
        codes = {BadInput: USAGE, MissingData: MISSING, DownloadFailed: MISSING}
        raise typer.Exit(codes.get(type(error), FAILED)) from None
    except KeyboardInterrupt:
        print("nightlab: interrupted; the same command goes on from here", file=sys.stderr)
        raise typer.Exit(130) from None


@contextlib.contextmanager
def listening(plain: bool, *, quiet: bool = False) -> Iterator[Listener]:
    """Show the events of a run: live bars on a terminal, plain lines elsewhere or where asked for, or nothing."""
    from nightlab.pipelines.events import plain_listener, rich_listener, silent_listener

    if quiet:
        yield silent_listener
    elif plain or not sys.stderr.isatty():
        yield plain_listener()
    else:
        with rich_listener() as listener:
            yield listener


def show(table: Table, *, as_json: bool = False) -> None:
    """Print a table for people, words to the left and numbers to the right; or as JSON records.

    On a terminal long texts are folded to its width; elsewhere every row is one line.
    """
    if as_json:
        print_json(records(table))
        return
    shown = table.copy()
    for name in shown.colnames:
        if shown[name].dtype.kind == "f":
            shown[name].info.format = ".4g"
    right = [column.dtype.kind in "fiu" for column in shown.itercols()]
    units = any(column.unit for column in shown.itercols())
    if sys.stdout.isatty():
        _show_folded(shown, right, units=units)
        return
    align = [">" if number else "<" for number in right]
    lines = shown.pformat(max_lines=-1, max_width=-1, align=align, show_unit=units)
    print("\n".join(line.rstrip() for line in lines))


def _show_folded(table: Table, right: list[bool], *, units: bool) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    grid = Grid(box=SIMPLE_HEAD, pad_edge=False)
    cells = []
    for column, number in zip(table.itercols(), right, strict=True):
        title = f"{column.info.name}\n{column.unit or ''}" if units else column.info.name
        grid.add_column(Text(title), justify="right" if number else "left", overflow="fold")
        cells.append([Text(text.strip()) for text in column.pformat(max_lines=-1, show_name=False)])
    for row in zip(*cells, strict=True):
        grid.add_row(*row)
    Console().print(grid)


def print_json(what: Any) -> None:
    """Print plain things as JSON."""
    print(json.dumps(what, indent=1))


def records(table: Table) -> list[dict[str, Any]]:
    """Turn a table into one dictionary per row."""
    return [{name: plain_value(row[name]) for name in table.colnames} for row in table]


def plain_value(value: Any) -> Any:
    """Turn a cell of a table into what JSON knows; what is masked or not finite becomes null."""
    if value is np.ma.masked:
        return None
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
