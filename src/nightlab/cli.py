"""The command line: ``nightlab run``, ``subtract``, ``simulate``, ``metrics``, ``stages``, ``demo``.

Exit codes: 0 done, 1 a stage failed, 2 usage, 3 data missing, 4 a target was missed.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel

from nightlab import __version__
from nightlab.errors import BadInput, MissingData, NightLabError

if TYPE_CHECKING:
    from astropy.table import Table

    from nightlab.pipelines.events import Listener
    from nightlab.pipelines.night import Night

app = typer.Typer(
    name="nightlab",
    help="A laboratory for a survey telescope's night.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

REAL_SKY = "nightlab run ApPipe --data stripe82"
FAILED, USAGE, MISSING, MISSED = 1, 2, 3, 4

DataOption = Annotated[str | None, typer.Option("--data", help="An entry of the catalogue: simulated, stripe82.")]
RepoOption = Annotated[Path | None, typer.Option("--repository", "-b", help="A Butler repository of your own.")]
QueryOption = Annotated[str, typer.Option("--query", "-d", help="Which visits, as a Butler expression.")]
JobsOption = Annotated[int, typer.Option("--jobs", "-j", min=1, help="How many processes work at once.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="A knob: STAGE.FIELD=VALUE; may be repeated.")]
PlainOption = Annotated[bool, typer.Option("--plain", help="One line per step instead of live bars.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks.")]


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@contextlib.contextmanager
def _exit_codes(verbose: bool = False) -> Iterator[None]:
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
        codes = {BadInput: USAGE, MissingData: MISSING}
        raise typer.Exit(codes.get(type(error), FAILED)) from None
    except KeyboardInterrupt:
        print("nightlab: interrupted; the same command goes on from here", file=sys.stderr)
        raise typer.Exit(130) from None


@contextlib.contextmanager
def _listener(plain: bool) -> Iterator[Listener]:
    from nightlab.pipelines.events import plain_listener, rich_listener

    if plain or not sys.stderr.isatty():
        yield plain_listener()
    else:
        with rich_listener() as listener:
            yield listener


def _show(table: Table, *, as_json: bool = False) -> None:
    """Print a table for people, words to the left and numbers to the right; or as JSON records."""
    if as_json:
        records = [{name: _plain(row[name]) for name in table.colnames} for row in table]
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


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and value != value else value


@app.command()
def run(
    pipeline: Annotated[str, typer.Argument(help="SingleFrame, Templates or ApPipe; ApPipe#subtract for one stage.")],
    data: DataOption = None,
    repository: RepoOption = None,
    query: QueryOption = "",
    output: Annotated[str, typer.Option("--output", "-o", help="Output run; runs/PIPELINE when absent.")] = "",
    jobs: JobsOption = 2,
    survey: Annotated[
        Path | None, typer.Option("--survey", help="Folder of the entry's files, such as a simulated survey's.")
    ] = None,
    knobs: SetOption = None,
    plain: PlainOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Run a pipeline on a catalogue entry or on a repository; run again to resume."""
    if data is None and repository is None:
        print("nightlab: name the data with --data ENTRY or the repository with --repository", file=sys.stderr)
        raise typer.Exit(USAGE)
    with _exit_codes(verbose):
        from nightlab.pipelines.night import run as run_night

        with _listener(plain) as listener:
            night = run_night(
                pipeline,
                data,
                repository,
                survey=survey,
                query=query,
                output_run=output,
                jobs=jobs,
                overrides=_knobs(knobs),
                listener=listener,
            )
        _tell(night)


def _knobs(assignments: list[str] | None) -> dict[str, dict[str, str]]:
    knobs: dict[str, dict[str, str]] = {}
    for assignment in assignments or []:
        path, equals, value = assignment.partition("=")
        stage, dot, field = path.partition(".")
        if not (equals and dot and stage and field):
            print(f"nightlab: --set takes STAGE.FIELD=VALUE, not {assignment}", file=sys.stderr)
            raise typer.Exit(USAGE)
        knobs.setdefault(stage, {})[field] = value
    return knobs


def _tell(night: Night) -> None:
    """Print what a run leaves: what failed, one row per band, and where things are."""
    from nightlab.data.repository import open_repository
    from nightlab.pipelines.summary import band_table, run_metrics

    report = night.report
    for told in night.reports:
        print(told.text())
    with contextlib.suppress(MissingData):
        table = band_table(run_metrics(open_repository(night.repository), report.output_run))
        print()
        _show(table)
    print(f"\nproducts   {night.repository}, run {report.output_run}")
    print(f"metrics    nightlab metrics {night.repository} {report.output_run}")
    if night.exit_code:
        raise typer.Exit(night.exit_code)


@app.command()
def subtract(
    science: Annotated[Path, typer.Argument(help="FITS image with a WCS.")],
    template: Annotated[Path, typer.Argument(help="Earlier FITS image of the same sky.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Difference image to write.")] = Path(
        "difference.fits"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    verbose: VerboseOption = False,
) -> None:
    """Difference two FITS images and list what changed."""
    with _exit_codes(verbose):
        from nightlab.pipelines.pair import check_output, subtract_files, write_pair
        from nightlab.quality import summarise

        check_output(output, overwrite=overwrite)
        start = time.perf_counter()
        result = subtract_files(science, template)
        image, table = write_pair(result, output, overwrite=overwrite)
        _show(summarise(result.metrics)["metric", "unit", "median", "target", "verdict"])
        print(f"\n{len(result.dia_source)} sources changed, in {time.perf_counter() - start:.1f} s")
        print(f"difference   {image}\nsources      {table}")


@app.command()
def simulate(
    directory: Annotated[Path, typer.Argument(help="Where to write the survey.")],
    preset: Annotated[str, typer.Option(help="small, medium or large.")] = "small",
    seed: Annotated[int | None, typer.Option(help="Another sky.")] = None,
    verbose: VerboseOption = False,
) -> None:
    """Simulate a survey with truth tables."""
    with _exit_codes(verbose):
        from nightlab.simulate import PRESETS
        from nightlab.simulate import simulate_survey as make

        if preset not in PRESETS:
            raise BadInput(f"there is no preset {preset}", hint=f"there are {', '.join(PRESETS)}")
        config = PRESETS[preset] if seed is None else PRESETS[preset].model_copy(update={"seed": seed})
        start = time.perf_counter()
        survey = make(directory, config)
        raws = sum(name.startswith("raw/") for name in survey.paths)
        print(f"{raws} raw frames in {directory}, {time.perf_counter() - start:.1f} s")


@app.command()
def metrics(
    repository: Annotated[Path, typer.Argument(help="Butler repository.")],
    output_run: Annotated[str, typer.Argument(metavar="RUN", help="Output run.")] = "runs/ApPipe",
    by_band: Annotated[bool, typer.Option("--by-band", help="One row per band.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 4 when a target is missed.")] = False,
    as_json: JsonOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Print what a run measured: pass, fail or unknown."""
    with _exit_codes(verbose):
        from nightlab.data.repository import open_repository
        from nightlab.pipelines.summary import band_table, run_metrics
        from nightlab.quality import summarise

        dataset = run_metrics(open_repository(repository), output_run)
        table = band_table(dataset) if by_band else summarise(dataset)
        _show(table, as_json=as_json)
        if check and "fail" in list(summarise(dataset)["verdict"]):
            raise typer.Exit(MISSED)


@app.command()
def stages(
    name: Annotated[str | None, typer.Argument(help="One stage, with its knobs.")] = None, as_json: JsonOption = False
) -> None:
    """List the stages, or the inputs, outputs and knobs of one."""
    from astropy.table import Table

    from nightlab.pipelines.table import STAGES, load

    if name is None:
        rows = [(s.name, ", ".join(s.dimensions), ", ".join(d.name for d in s.inputs.values()),
                 ", ".join(d.name for d in s.outputs.values())) for s in STAGES.values()]  # fmt: skip
        _show(Table(rows=rows, names=("stage", "per", "reads", "makes")), as_json=as_json)
        return
    if name not in STAGES:
        print(f"nightlab: there is no stage {name}; there are {', '.join(STAGES)}", file=sys.stderr)
        raise typer.Exit(USAGE)
    stage = STAGES[name]
    print(f"{stage.function.replace(':', '.')}\n")
    if stage.config:
        knobs = list(_knob_rows(load(stage.config)()))
        _show(Table(rows=knobs, names=("knob", "default", "meaning")), as_json=as_json)


def _knob_rows(config: BaseModel, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield path, default and meaning of every knob, those of nested configurations under their own paths."""
    for name, info in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            yield from _knob_rows(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(value), info.description or ""


@app.command()
def demo(
    directory: Annotated[Path, typer.Argument(help="Where everything goes.")] = Path("demo"),
    jobs: JobsOption = 2,
    plain: PlainOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Simulate a small survey, run Templates and ApPipe on it, and say what was injected and what was found."""
    with _exit_codes(verbose):
        from nightlab.pipelines.demo import run_demo

        with _listener(plain) as listener:
            text = run_demo(directory, jobs=jobs, listener=listener)
        print(text)
        print(f"\nnow on real sky   {REAL_SKY}")


def main() -> None:
    """Enter the command line."""
    app()


if __name__ == "__main__":
    main()
