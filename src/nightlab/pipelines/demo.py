"""The main job on a simulated night: simulate, build templates, difference, associate, and compare with the truth."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nightlab.data.runs import Run, open_run
from nightlab.errors import BadInput
from nightlab.pipelines.events import Listener, silent_listener
from nightlab.pipelines.night import run
from nightlab.pipelines.summary import recovery
from nightlab.quality import Recovery, summarise
from nightlab.simulate import PRESETS, simulate_survey

if TYPE_CHECKING:
    from astropy.table import Table

    from nightlab.pipelines.night import Night
    from nightlab.simulate import SurveyConfig

BRIGHTEST = 8


def run_demo(
    directory: str | Path,
    *,
    config: SurveyConfig = PRESETS["small"],
    jobs: int = 2,
    listener: Listener = silent_listener,
) -> str:
    """Simulate a survey, run ``Templates`` and ``ApPipe`` on it, and tell what came out.

    What is there already is not made again.

    Parameters
    ----------
    directory
        Holds the survey, the repository and the prompt database.
    config
        The survey.
    jobs
        Processes at once.
    listener
        Told about every step.

    Returns
    -------
    str
        The story, for people.

    Raises
    ------
    StageFailed
        When a quantum failed.
    """
    directory = Path(directory)
    begin = time.monotonic()
    survey = directory / "survey"
    if not (survey / "truth_sources.parquet").exists():  # the last file a survey writes
        simulate_survey(survey, config)
    simulated = time.monotonic()
    night = run("ApPipe", "simulated", directory / "repository", survey=survey, jobs=jobs, listener=listener)
    ended = time.monotonic()
    for report in night.reports:
        report.check()
    return "\n".join(
        [
            *_night(night, survey),
            f"simulated in {simulated - begin:.0f} s, pipelines ran in {ended - simulated:.0f} s on {jobs} processes",
        ]
    )


def demo_run(
    data: str = "simulated",
    size: str = "small",
    *,
    folder: str | Path = "nightlab-data",
    jobs: int = 2,
    listener: Listener = silent_listener,
) -> Run:
    """Open a finished ``ApPipe`` run by name, making first what is missing of it.

    Parameters
    ----------
    data
        ``simulated``, or another entry of the catalogue whose files are on this machine.
    size
        Of the simulated survey: a key of `nightlab.simulate.PRESETS`.
    folder
        Where repositories are kept: ``simulated-<size>`` or ``<data>`` below it.
    jobs
        Processes at once.
    listener
        Told about every step.

    Raises
    ------
    BadInput
        When there is no such entry or size.
    MissingData
        When the files of the entry are not on this machine.
    StageFailed
        When a quantum failed.
    """
    # the run remembers the place of its database: one place, one spelling
    folder = Path(folder).resolve()
    repository, survey = Path(folder, data), None
    if data == "simulated":
        if size not in PRESETS:
            raise BadInput(f"no survey is called {size!r}", hint=f"there are {', '.join(PRESETS)}", size=size)
        repository = Path(folder, f"{data}-{size}")
        survey = repository / "survey"
        if not (survey / "truth_sources.parquet").exists():  # the last file a survey writes
            simulate_survey(survey, PRESETS[size])
    night = run("ApPipe", data, repository, survey=survey, jobs=jobs, listener=listener)
    for report in night.reports:
        report.check()
    return open_run(night.repository, night.report.output_run)


def _night(night: Night, survey: Path) -> list[str]:
    made = open_run(night.repository, night.report.output_run)
    found = recovery(made, survey)
    metrics = made.metrics()
    return [
        "",
        *_recovered(found),
        "",
        *_objects(made.get("dia_object")),
        "",
        *_targets(summarise(metrics)),
        "",
        f"products   {night.repository}, runs {', '.join(night.runs)}",
        f"database   {night.apdb}",
        f"metrics    nightlab metrics show {night.repository} {made.name}",
    ]


def _recovered(found: Recovery) -> list[str]:
    lines = ["injected, with S/N > 10 in 2 science visits (movers: in one), and recovered as DIAObjects"]
    for kind in found.injected:
        share = f"{100 * found.completeness(kind):.1f} %" if found.injected[kind] else "-"
        lines.append(f"  {kind + 's':<12}{found.recovered[kind]:>4} of {found.injected[kind]:<4} {share}")
    share = f"{100 * found.purity:.1f} %" if found.objects else "-"
    lines.append(
        f"  purity      {found.genuine:>4} of {found.objects:<4} {share}   DIAObjects with 2 or more detections"
    )
    return lines


def _objects(objects: Table) -> list[str]:
    columns = [name for name in objects.colnames if name.endswith("_psfFluxMean")]
    flux = np.nan_to_num(np.array([np.asarray(objects[name], float) for name in columns])).max(axis=0)
    rows = np.argsort(-flux, kind="stable")[:BRIGHTEST]
    lines = [
        f"{len(objects)} DIAObjects; the brightest",
        "  diaObjectId            ra         dec   n   mean flux [nJy]",
    ]
    lines += [
        f"  {objects['diaObjectId'][i]:<18d}{objects['ra'][i]:>11.5f}{objects['dec'][i]:>12.5f}"
        f"{objects['nDiaSources'][i]:>4d}{flux[i]:>18.0f}"
        for i in rows
    ]
    return lines


def _targets(summary: Table) -> list[str]:
    judged = summary[np.asarray(summary["verdict"]) != "none"]
    lines = [f"  {'metric':<44}{'median':>10} {'worst':>10}  {'target':<14}{'verdict'}"]
    for row in judged:
        unit = f" [{row['unit']}]" if row["unit"] else ""
        name = f"{row['metric']}{unit}"
        lines.append(f"  {name:<44}{row['median']:>10.4g} {row['worst']:>10.4g}  {row['target']:<14}{row['verdict']}")
    return lines
