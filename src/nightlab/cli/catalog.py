"""What can be opened by name, and bringing it here."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightlab.cli import completion
from nightlab.cli.common import FAILED, MISSING, JsonOption, VerboseOption, exit_codes, show

if TYPE_CHECKING:
    from nightlab.data.download import Fetched
    from nightlab.data.sources.check import Listed

app = typer.Typer(name="catalog", help="What can be opened by name.", no_args_is_help=True)

CatalogOption = Annotated[
    str,
    typer.Option(
        "--catalog",
        "-c",
        help="A catalogue of ours, or the path of one of your own.",
        autocompletion=completion.catalogues,
    ),
]
NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(help="Entries or parts, such as stripe82; all when absent.", autocompletion=completion.entries),
]


@app.command("list")
def list_entries(
    names: NamesArgument = None,
    catalogue: CatalogOption = "nightlab",
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """List entries: what they give, what can be chosen, whether their data are here."""
    with exit_codes(verbose):
        from nightlab.data.sources.catalogue import open_catalog
        from nightlab.data.sources.check import listed

        rows = list(listed(open_catalog(catalogue), names or ()))
        if as_json:
            _print_json(rows)
            return
        _show(rows, entry=lambda r: r.name, gives=lambda r: r.gives, here=lambda r: r.state.value,
              parameters=lambda r: ", ".join(r.parameters), what=lambda r: r.description)  # fmt: skip
        if len(rows) == 1:
            print()
            for name, choice in rows[0].parameters.items():
                print(f"{name}   {choice}")


@app.command()
def check(
    names: NamesArgument = None,
    catalogue: CatalogOption = "nightlab",
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Open every entry and verify the checksums; exit with 3 when data are missing, with 1 when they are damaged."""
    with exit_codes(verbose):
        from nightlab.data.sources.catalogue import open_catalog
        from nightlab.data.sources.check import State, listed

        rows = list(listed(open_catalog(catalogue), names or (), read=True))
        if as_json:
            _print_json(rows)
        else:
            _show(rows, entry=lambda r: r.name, state=lambda r: r.state.value, gives=lambda r: r.gives,
                  note=lambda r: r.note)  # fmt: skip
        states = {row.state for row in rows}
        if states & {State.DAMAGED, State.FAILED}:
            raise typer.Exit(FAILED)
        if State.TO_FETCH in states:
            raise typer.Exit(MISSING)


@app.command()
def fetch(
    names: Annotated[
        list[str] | None, typer.Argument(help="Data sets or entries.", autocompletion=completion.data_sets)
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All data sets.")] = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Fetch real data sets into the cache, or list them; run again to resume."""
    with exit_codes(verbose):
        from astropy.table import Table

        from nightlab.data import download
        from nightlab.data.locate import data_set
        from nightlab.data.manifests import manifest
        from nightlab.data.sources.catalogue import open_catalog
        from nightlab.data.sources.check import data_sets

        wanted = [manifest(name) for name in data_sets(names or [], open_catalog())]
        rows = []
        for each in wanted:
            if names or everything:
                folder = str(download.fetch(each, listener=_progress()))
            else:
                try:
                    folder = str(data_set(each.name))
                except FileNotFoundError:
                    folder = ""
            rows.append((each.name, round(each.size / 1e6, 1), folder, each.title))
        show(Table(rows=rows, names=("data_set", "MB", "folder", "what")), as_json=as_json)


@app.command("export-v2")
def export(
    catalogue: Annotated[
        str,
        typer.Argument(
            help="A catalogue of ours, or the path of one of your own.", autocompletion=completion.catalogues
        ),
    ] = "nightlab",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; printed when absent.")] = None,
    verbose: VerboseOption = False,
) -> None:
    """Write a catalogue in the form of intake's second version."""
    with exit_codes(verbose):
        from nightlab.data.repository import writing
        from nightlab.data.sources.catalogue import open_catalog
        from nightlab.data.sources.export import export_v2

        text = export_v2(open_catalog(catalogue))
        if output is None:
            print(text, end="")
            return
        with writing(output.parent):
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text(text)
        print(output)


def _print_json(rows: list[Listed]) -> None:
    import json
    from dataclasses import asdict

    print(json.dumps([asdict(row) for row in rows], indent=1))


def _show(rows: list[Listed], **columns: Callable[[Listed], Any]) -> None:
    from astropy.table import Table

    if rows:
        show(Table({name: [of(row) for row in rows] for name, of in columns.items()}))


def _progress() -> Callable[[Fetched], None]:
    """Tell of a download on standard error: a line per tenth."""
    told = [-1]

    def listen(event: Fetched) -> None:
        tenth = 10 * event.done // max(event.total, 1)
        if tenth > told[0]:
            told[0] = tenth
            print(f"{event.data_set}   {10 * tenth} % of {event.total / 1e6:.1f} MB", file=sys.stderr)

    return listen
