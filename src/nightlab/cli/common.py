"""What every command shares: options, exit codes, tables, progress."""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightlab.errors import BadInput, DownloadFailed, MissingData, NightLabError

if TYPE_CHECKING:
    from astropy.table import Table

    from nightlab.pipelines.events import Listener

FAILED, USAGE, MISSING, MISSED = 1, 2, 3, 4

DataOption = Annotated[str | None, typer.Option("--data", help="An entry of the catalogue: simulated, stripe82.")]
RepoOption = Annotated[Path | None, typer.Option("--repository", "-b", help="A Butler repository of your own.")]
QueryOption = Annotated[str, typer.Option("--query", "-d", help="Which visits, as a Butler expression.")]
JobsOption = Annotated[int, typer.Option("--jobs", "-j", min=1, help="How many processes work at once.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="A knob: STAGE.FIELD=VALUE; may be repeated.")]
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
def listening(plain: bool) -> Iterator[Listener]:
    """Show the events of a run: live bars on a terminal, plain lines elsewhere or where asked for."""
    from nightlab.pipelines.events import plain_listener, rich_listener

    if plain or not sys.stderr.isatty():
        yield plain_listener()
    else:
        with rich_listener() as listener:
            yield listener


def show(table: Table, *, as_json: bool = False) -> None:
    """Print a table for people, words to the left and numbers to the right; or as JSON records."""
    if as_json:
        records = [{name: plain_value(row[name]) for name in table.colnames} for row in table]
        print(json.dumps(records, indent=1))
        return
    shown = table.copy()
    for name in shown.colnames:
        if shown[name].dtype.kind == "f":
            shown[name].info.format = ".4g"
    align = [">" if column.dtype.kind in "fiu" else "<" for column in shown.itercols()]
    lines = shown.pformat(
        max_lines=-1, max_width=-1, align=align, show_unit=any(column.unit for column in shown.itercols())
    )
    print("\n".join(line.rstrip() for line in lines))


def plain_value(value: Any) -> Any:
    """Turn a cell of a table into what JSON knows; NaN becomes null."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and value != value else value
