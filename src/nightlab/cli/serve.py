"""Serve the explorers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from nightlab.cli.common import VerboseOption, exit_codes
from nightlab.errors import MissingData


def serve(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Where repositories are looked for; the working folder when absent.")
    ] = None,
    port: Annotated[int, typer.Option(help="Port; 0 for any that is free.")] = 5006,
    address: Annotated[
        str, typer.Option(help="What to listen on; other than localhost needs a password.")
    ] = "localhost",
    prefix: Annotated[str, typer.Option(help="Path the pages are served under, behind a proxy or hub.")] = "",
    origin: Annotated[list[str] | None, typer.Option(help="HOST:PORT browsers may connect from; repeatable.")] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="File whose first line is the password; or set NIGHTLAB_PASSWORD.")
    ] = None,
    warm: Annotated[bool, typer.Option("--warm", help="Load everything before saying that it is ready.")] = False,
    lifetime: Annotated[float, typer.Option(help="Seconds a session is kept after its browser has gone.")] = 60.0,
    show: Annotated[bool, typer.Option("--show", help="Open a browser.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Serve the explorers of all runs found; only to this machine unless told otherwise."""
    with exit_codes(verbose):
        from nightlab.dashboards.serve import serve as serve_pages

        serve_pages(
            folders or [Path()],
            port=port,
            address=address,
            prefix=prefix,
            origins=origin or (),
            password=_password(password_file),
            warm=warm,
            lifetime=lifetime,
            show=show,
            on_ready=lambda url: print(f"NightLab is at {url}   (ctrl-C ends it)", flush=True),
        )


def _password(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get("NIGHTLAB_PASSWORD") or None
    if not file.is_file():
        raise MissingData(f"{file} is not there", hint="write the password into its first line", path=str(file))
    return file.read_text().splitlines()[0].strip()
