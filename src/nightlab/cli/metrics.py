"""What a run measured: shown, held against its targets, sent elsewhere."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nightlab.cli.common import MISSED, JsonOption, VerboseOption, exit_codes, show

if TYPE_CHECKING:
    import xarray as xr

app = typer.Typer(help="What a run measured.", no_args_is_help=True)


class Level(enum.StrEnum):
    """How much is asked."""

    MINIMUM = "minimum"
    DESIGN = "design"
    STRETCH = "stretch"


RepositoryArgument = Annotated[Path, typer.Argument(help="Butler repository.")]
RunArgument = Annotated[str, typer.Argument(metavar="[RUN]", help="Output run.")]
LevelOption = Annotated[Level, typer.Option("--level", help="Which targets.")]
SpecsOption = Annotated[Path | None, typer.Option("--specs", help="Targets of your own, a YAML file.")]


@app.command("show")
def show_metrics(
    repository: RepositoryArgument,
    output_run: RunArgument = "runs/ApPipe",
    by_band: Annotated[bool, typer.Option("--by-band", help="One row per band.")] = False,
    against: Annotated[str, typer.Option(metavar="RUN", help="Another run of the repository to compare with.")] = "",
    level: LevelOption = Level.MINIMUM,
    specs: SpecsOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Print what a run measured: medians, worst values, pass, fail or unknown."""
    with exit_codes(verbose):
        from nightlab.pipelines.summary import band_table
        from nightlab.quality import compare_runs, merge_runs, summarise

        metrics, knobs = _read(repository, output_run), _knobs(level, specs)
        if against:
            both = merge_runs({against: _read(repository, against), output_run: metrics})
            show(compare_runs(both, against, output_run, **knobs), as_json=as_json)
        else:
            show(band_table(metrics) if by_band else summarise(metrics, **knobs), as_json=as_json)


@app.command("check")
def check_metrics(
    repository: RepositoryArgument,
    output_run: RunArgument = "runs/ApPipe",
    level: LevelOption = Level.MINIMUM,
    specs: SpecsOption = None,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Hold a run against its targets; exit with 4 when one is missed. Targets that nothing measured are told too."""
    with exit_codes(verbose):
        from nightlab.quality import house_specs, summarise, target_text, unmatched

        metrics, knobs = _read(repository, output_run), _knobs(level, specs)
        table = summarise(metrics, **knobs)
        table = table[table["verdict"] != "none"][
            "metric", "unit", "n", "unknown", "worst", "target", "failed", "verdict"
        ]
        missed = bool((table["verdict"] == "fail").any())
        known = knobs["specs"] or house_specs()
        table = _widened(table)
        for name in unmatched(metrics, known)[0]:
            spec = known[name]
            table.add_row(
                (name, spec.unit, 0, 0, float("nan"), target_text(spec.attrs(level.value)), 0, "not measured")
            )
        show(table, as_json=as_json)
        if missed:
            raise typer.Exit(MISSED)


@app.command("export")
def export(
    repository: RepositoryArgument,
    output_runs: Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="Output runs.")] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File: .nc, .zarr, .csv, or .json for lsst.verify.")
    ] = Path("metrics.nc"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Write the metrics of one run, or of several side by side, for other programs."""
    with exit_codes(verbose):
        from nightlab.quality import export_metrics, merge_runs

        found = {name: _read(repository, name) for name in output_runs or ["runs/ApPipe"]}
        metrics = merge_runs(found) if len(found) > 1 else next(iter(found.values()))
        print(export_metrics(metrics, output, overwrite=overwrite))


def _read(repository: Path, run: str) -> xr.Dataset:
    from nightlab.data.runs import open_run

    return open_run(repository, run).metrics()


def _knobs(level: Level, specs: Path | None) -> dict[str, Any]:
    from nightlab.quality import load_specs

    return {"level": level.value, "specs": load_specs(specs) if specs else None}


def _widened(table: Any) -> Any:
    """A copy whose columns of text have room for longer words."""
    wide = table.copy()
    for name in wide.colnames:
        if wide[name].dtype.kind == "U":
            wide[name] = wide[name].astype("U64")
    return wide
