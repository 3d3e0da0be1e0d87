"""Run things: pipelines, a pair of files, a simulation, the demonstration."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nightlab.cli.common import (
    USAGE,
    DataOption,
    JobsOption,
    PlainOption,
    QueryOption,
    RepoOption,
    SetOption,
    VerboseOption,
    exit_codes,
    listening,
    show,
)
from nightlab.errors import BadInput, MissingData

if TYPE_CHECKING:
    from nightlab.pipelines.night import Night

REAL_SKY = "nightlab run ApPipe --data stripe82"


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
    with exit_codes(verbose):
        from nightlab.pipelines.night import run as run_night

        with listening(plain) as listener:
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
    from nightlab.data.runs import open_run
    from nightlab.pipelines.summary import band_table

    report = night.report
    for told in night.reports:
        print(told.text())
    with contextlib.suppress(MissingData):
        table = band_table(open_run(night.repository, report.output_run).metrics())
        print()
        show(table)
    print(f"\nproducts   {night.repository}, run {report.output_run}")
    print(f"metrics    nightlab metrics show {night.repository} {report.output_run}")
    if night.exit_code:
        raise typer.Exit(night.exit_code)


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
    with exit_codes(verbose):
        from nightlab.pipelines.pair import check_output, subtract_files, write_pair
        from nightlab.quality import summarise

        check_output(output, overwrite=overwrite)
        start = time.perf_counter()
        result = subtract_files(science, template)
        image, table = write_pair(result, output, overwrite=overwrite)
        show(summarise(result.metrics)["metric", "unit", "median", "target", "verdict"])
        print(f"\n{len(result.dia_source)} sources changed, in {time.perf_counter() - start:.1f} s")
        print(f"difference   {image}\nsources      {table}")


def simulate(
    directory: Annotated[Path, typer.Argument(help="Where to write the survey.")],
    preset: Annotated[str, typer.Option(help="tiny, small, medium or large.")] = "small",
    seed: Annotated[int | None, typer.Option(help="Another sky.")] = None,
    verbose: VerboseOption = False,
) -> None:
    """Simulate a survey with truth tables."""
    with exit_codes(verbose):
        from nightlab.simulate import PRESETS
        from nightlab.simulate import simulate_survey as make

        if preset not in PRESETS:
            raise BadInput(f"there is no preset {preset}", hint=f"there are {', '.join(PRESETS)}")
        config = PRESETS[preset] if seed is None else PRESETS[preset].model_copy(update={"seed": seed})
        start = time.perf_counter()
        survey = make(directory, config)
        raws = sum(name.startswith("raw/") for name in survey.paths)
        print(f"{raws} raw frames in {directory}, {time.perf_counter() - start:.1f} s")


def demo(
    directory: Annotated[Path, typer.Argument(help="Where everything goes.")] = Path("demo"),
    jobs: JobsOption = 2,
    plain: PlainOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Simulate a small survey, run Templates and ApPipe on it, and say what was injected and what was found."""
    with exit_codes(verbose):
        from nightlab.pipelines.demo import run_demo

        with listening(plain) as listener:
            text = run_demo(directory, jobs=jobs, listener=listener)
        print(text)
        print(f"\nnow on real sky   {REAL_SKY}")
