"""Run things: pipelines, a pair of files, a simulation, the demonstration."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from nightlab.cli import completion
from nightlab.cli.common import (
    USAGE,
    DataOption,
    JobsOption,
    JsonOption,
    PlainOption,
    QueryOption,
    QuietOption,
    RepoOption,
    SetOption,
    VerboseOption,
    exit_codes,
    listening,
    print_json,
    records,
    show,
)
from nightlab.errors import BadInput, MissingData

if TYPE_CHECKING:
    from astropy.table import Table

    from nightlab.pipelines.night import Night

BRIGHTEST = 20
REAL_SKY = "nightlab run ApPipe --data stripe82"


def run(
    pipeline: Annotated[
        str,
        typer.Argument(
            help="SingleFrame, Templates or ApPipe; ApPipe#subtract for one stage.",
            autocompletion=completion.pipelines,
        ),
    ],
    data: DataOption = None,
    repository: RepoOption = None,
    query: QueryOption = "",
    output: Annotated[str, typer.Option("--output", "-o", help="Output run; runs/PIPELINE when absent.")] = "",
    jobs: JobsOption = 2,
    survey: Annotated[
        Path | None, typer.Option("--survey", help="Folder of the entry's files, such as a simulated survey's.")
    ] = None,
    knobs: SetOption = None,
    dry: Annotated[bool, typer.Option("--dry-run", help="Count what would run, and run nothing.")] = False,
    as_json: JsonOption = False,
    plain: PlainOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Run a pipeline on a catalogue entry or on a repository; run again to resume.

    A part of a pipeline reads what the stages before it have made from its own output run, and what is not there from
    runs/PIPELINE. Knobs come from --set STAGE.FIELD=VALUE, from variables such as NIGHTLAB__SUBTRACT__KERNEL_ORDER,
    and from the pipeline, the first of them that says anything.
    """
    if data is None and repository is None:
        print("nightlab: name the data with --data ENTRY or the repository with --repository", file=sys.stderr)
        raise typer.Exit(USAGE)
    with exit_codes(verbose):
        from nightlab.pipelines import night as nights

        asked: dict[str, Any] = {
            "query": query,
            "output_run": output,
            "overrides": _knobs(pipeline, knobs, quiet=quiet),
        }
        if dry:
            show(nights.preview(pipeline, data, repository, **asked), as_json=as_json)
            return
        with listening(plain, quiet=quiet) as listener:
            night = nights.run(pipeline, data, repository, survey=survey, jobs=jobs, listener=listener, **asked)
        if as_json:
            print_json(_told(night))
        elif quiet:
            for report in night.reports:
                if not report.ok:
                    print(report.text(), file=sys.stderr)
        else:
            _tell(night)
        if night.exit_code:
            raise typer.Exit(night.exit_code)


def _knobs(pipeline: str, assignments: list[str] | None, *, quiet: bool) -> dict[str, dict[str, str]]:
    """Collect knobs: what the environment says, then what was typed."""
    from nightlab.pipelines.night import stages_for

    knobs: dict[str, dict[str, str]] = {}
    given = environment_knobs(os.environ)
    for (stage, field), value in given.items():
        # a variable is there for all commands; it need not mean this one
        if stage in stages_for(pipeline):
            knobs.setdefault(stage, {})[field] = value
            if not quiet:
                print(f"from the environment: {stage}.{field}={value}", file=sys.stderr)
    for assignment in assignments or []:
        path, equals, value = assignment.partition("=")
        stage, dot, field = path.partition(".")
        if not (equals and dot and stage and field):
            raise BadInput(f"--set takes STAGE.FIELD=VALUE, not {assignment}", hint="nightlab stages STAGE lists them")
        knobs.setdefault(stage, {})[field] = value
    return knobs


def environment_knobs(environment: Mapping[str, str]) -> dict[tuple[str, str], str]:
    """Read knobs from variables: ``NIGHTLAB__SUBTRACT__STARS__MIN_SNR=30`` is ``subtract.stars.min_snr=30``.

    Raises
    ------
    BadInput
        When a variable names no stage.
    """
    from nightlab.pipelines.table import STAGES

    found = {}
    for name, value in environment.items():
        prefix, *path = name.lower().split("__")
        if prefix != "nightlab" or not path:
            continue
        stage, *fields = path
        if stage not in STAGES or not fields or not all(fields):
            raise BadInput(f"the variable {name} names no knob", hint="write NIGHTLAB__STAGE__FIELD, or unset it")
        found[stage, ".".join(fields)] = value
    return found


def _tell(night: Night) -> None:
    """Print what a run leaves: what failed, one row per band, and where things are."""
    report = night.report
    for told in night.reports:
        print(told.text())
    table = _by_band(night)
    if table is not None:
        print()
        show(table)
    print(f"\nproducts   {night.repository}, run {report.output_run}")
    print(f"metrics    nightlab metrics show {night.repository} {report.output_run}")


def _by_band(night: Night) -> Table | None:
    from nightlab.data.runs import open_run
    from nightlab.pipelines.summary import band_table

    with contextlib.suppress(MissingData):
        return band_table(open_run(night.repository, night.report.output_run).metrics())
    return None


def _told(night: Night) -> dict[str, Any]:
    """Tell the same as plain things."""
    table = _by_band(night)
    return {
        "repository": str(night.repository),
        "runs": list(night.runs),
        "apdb": None if night.apdb is None else str(night.apdb),
        "ok": night.exit_code == 0,
        "reports": [dataclasses.asdict(report) for report in night.reports],
        "bands": [] if table is None else records(table),
    }


def subtract(
    science: Annotated[Path, typer.Argument(help="FITS image with a WCS.")],
    template: Annotated[Path, typer.Argument(help="Earlier FITS image of the same sky.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Difference image to write.")] = Path(
        "difference.fits"
    ),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")] = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
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
        metrics = summarise(result.metrics)["metric", "unit", "median", "target", "verdict"]
        changed = result.dia_source["ra", "dec", "x", "y", "psfFlux", "psfFluxErr", "snr"]
        if as_json:
            files = {"difference_image": str(image), "dia_source": str(table)}
            print_json({**files, "changed": records(changed), "metrics": records(metrics)})
            return
        if quiet:
            return
        show(metrics)
        brightest = changed[np.argsort(-np.abs(changed["snr"]), kind="stable")[:BRIGHTEST]]
        print(f"\n{len(changed)} sources changed, in {time.perf_counter() - start:.1f} s", end="")
        print(f"; the {BRIGHTEST} most significant:" if len(changed) > BRIGHTEST else "")
        if len(changed):
            show(brightest)
        print(f"\ndifference   {image}\nsources      {table}")


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
    as_json: JsonOption = False,
    plain: PlainOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Simulate a small survey, run Templates and ApPipe on it, and say what was injected and what was found."""
    with exit_codes(verbose):
        from nightlab.pipelines.demo import run_demo

        with listening(plain, quiet=quiet) as listener:
            text = run_demo(directory, jobs=jobs, listener=listener)
        if as_json:
            print_json(_recovered(directory))
        elif not quiet:
            print(text)
            print(f"\nnow on real sky   {REAL_SKY}")


def _recovered(directory: Path) -> dict[str, Any]:
    """Tell what was injected and what was found, and hold the metrics against their targets."""
    from nightlab.data.runs import open_run
    from nightlab.pipelines.summary import recovery
    from nightlab.quality import summarise

    made = open_run(directory / "repository")
    found = recovery(made, directory / "survey")
    return {
        "repository": str(made.repository),
        "run": made.name,
        "injected": found.injected,
        "recovered": found.recovered,
        "objects": found.objects,
        "genuine": found.genuine,
        "metrics": records(summarise(made.metrics())),
    }
