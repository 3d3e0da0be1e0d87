"""What a run measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nightlab.cli.common import MISSED, JsonOption, VerboseOption, exit_codes, show


def metrics(
    repository: Annotated[Path, typer.Argument(help="Butler repository.")],
    output_run: Annotated[str, typer.Argument(metavar="RUN", help="Output run.")] = "runs/ApPipe",
    by_band: Annotated[bool, typer.Option("--by-band", help="One row per band.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 4 when a target is missed.")] = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Print what a run measured: pass, fail or unknown."""
    with exit_codes(verbose):
        from nightlab.data.repository import open_repository
        from nightlab.pipelines.summary import band_table, run_metrics
        from nightlab.quality import summarise

        dataset = run_metrics(open_repository(repository), output_run)
        table = band_table(dataset) if by_band else summarise(dataset)
        show(table, as_json=as_json)
        if check and "fail" in list(summarise(dataset)["verdict"]):
            raise typer.Exit(MISSED)
