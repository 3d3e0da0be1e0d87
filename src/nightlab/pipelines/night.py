"""A night by name: prepare the data, make the templates it needs, run the pipeline."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import batched
from pathlib import Path
from typing import Any

from astropy.table import Table
from lsst.daf.butler import Butler, DataCoordinate

from nightlab.data.catalogs import prepare, prepared_in
from nightlab.data.instruments import INSTRUMENTS
from nightlab.data.repository import input_collections, open_repository
from nightlab.data.runs import TEMPLATES_RUN, apdb_folder
from nightlab.errors import BadInput, MissingData
from nightlab.pipelines.events import Listener, silent_listener
from nightlab.pipelines.graph import (
    build_graph,
    load_pipeline,
    make_plan,
    pipeline_graph,
    refuse_changes,
    stage_names,
)
from nightlab.pipelines.ledger import RunReport
from nightlab.pipelines.run import run as run_pipeline

TEMPLATES = "Templates"


@dataclass(frozen=True, kw_only=True)
class Night:
    """What a run leaves behind and where.

    Attributes
    ----------
    report
        Of the pipeline that was asked for, or of ``Templates`` when that made no template at all.
    repository
        Folder of the Butler repository.
    runs
        Output runs, in the order they were made.
    apdb
        Prompt database, when the pipeline fills one.
    files
        Folder the raws came from, when the repository was made from a catalogue entry.
    templates
        Report of ``Templates``, when it was run on the way.
    """

    report: RunReport
    repository: Path
    runs: tuple[str, ...]
    apdb: Path | None = None
    files: Path | None = None
    templates: RunReport | None = None

    @property
    def reports(self) -> tuple[RunReport, ...]:
        """Reports of everything that was run, in order."""
        return (self.report,) if self.templates in (None, self.report) else (self.templates, self.report)

    @property
    def exit_code(self) -> int:
        """0 when all is there, 1 when a stage failed or the run was stopped."""
        return max(report.exit_code for report in self.reports)


@dataclass(frozen=True, kw_only=True)
class _Source:
    """A repository and the questions to ask of it."""

    repository: Path
    collections: tuple[str, ...]
    everything: str
    science: str
    template: str = ""
    files: Path | None = None


def run(
    pipeline: str,
    data: str | None = None,
    repository: str | Path | None = None,
    *,
    survey: str | Path | None = None,
    query: str = "",
    output_run: str = "",
    jobs: int = 2,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    listener: Listener = silent_listener,
    stop: threading.Event | None = None,
) -> Night:
    """Run a pipeline on an entry of the catalogue or on a repository; again to resume.

    ``ApPipe`` needs templates: where ``Templates`` has not been finished, it is run first, on the entry's template
    visits. A template visit that fails is left out; it is tried again the next time, and differences that lack it are
    then made again.

    A part of a pipeline, such as ``ApPipe#subtract``, reads what the stages before it have made from its own output
    run, and what is not there from that of the whole pipeline, ``runs/ApPipe``.

    Parameters
    ----------
    pipeline
        Name or YAML file, optionally with ``#stage``.
    data
        Entry of the catalogue, such as ``simulated`` or ``stripe82``.
    repository
        Folder of the repository; ``nightlab-data/<data>`` when absent.
    survey
        Files of the entry, where it does not know them by itself.
    query
        Narrows down what is run: a Butler expression such as ``visit IN (1, 2) AND detector < 4``.
    output_run
        Collection for the results; ``runs/<pipeline>`` when absent.
    jobs
        Quanta at once.
    overrides
        Values by stage and knob.
    listener
        Told about every event.
    stop
        Set it from another thread to end the run after the quanta that are running.

    Returns
    -------
    Night

    Raises
    ------
    MissingData
        When the entry's files, the repository or all data of the query are missing.
    BadInput
        When a name, query or value is wrong, or the output run was made with other values.
    RunLocked
        When another process is writing into the same output run.
    WriteFailed
        When the repository cannot be written.
    """
    name = stage_names(pipeline)
    stages = load_pipeline(pipeline).task_labels
    knobs = _knobs(pipeline, overrides or {})
    source = _source(data, repository, survey)
    calling: dict[str, Any] = {"jobs": jobs, "listener": listener, "stop": stop}
    runs: tuple[str, ...] = ()
    first: RunReport | None = None
    if name == "ApPipe" and "warp_template" in stages:
        runs = (TEMPLATES_RUN,)
        first = _templates(source, knobs[TEMPLATES], **calling)
        if first is not None and (first.stopped or not _left(source.repository, "template_coadd")[0]):
            return Night(report=first, repository=source.repository, runs=runs, files=source.files, templates=first)
    output = output_run or f"runs/{name}"
    config = knobs[name]
    apdb = None
    if "fill_apdb" in stages:
        apdb = Path(config.setdefault("fill_apdb.uri", str(apdb_folder(source.repository, output))))
    report = run_pipeline(
        pipeline,
        source.repository,
        query=_question(source, name, query),
        output_run=output,
        inputs=_inputs(source, pipeline, output),
        config=config,
        **calling,
    )
    runs = tuple(dict.fromkeys((*runs, output)))
    return Night(
        report=report, repository=source.repository, runs=runs, apdb=apdb, files=source.files, templates=first
    )


def _templates(source: _Source, config: Mapping[str, Any], **calling: Any) -> RunReport | None:
    """Make the templates, unless they are finished or nobody said of which visits."""
    if not source.template or _finished(source.repository):
        return None
    return run_pipeline(
        TEMPLATES,
        source.repository,
        query=source.template,
        output_run=TEMPLATES_RUN,
        inputs=source.collections,
        config=config,
        **calling,
    )


def stages_for(pipeline: str) -> set[str]:
    """Name the stages whose knobs can be set for a pipeline: its own, all of it, and those of the templates it needs.

    Raises
    ------
    BadInput, MissingData
        When there is no such pipeline.
    """
    return set().union(*_stages(pipeline).values())


def _stages(pipeline: str) -> dict[str, set[str]]:
    """Name the stages of the pipelines that are going to run."""
    name = stage_names(pipeline)
    whole = {name: pipeline.partition("#")[0]} | ({TEMPLATES: TEMPLATES} if name == "ApPipe" else {})
    return {title: set(load_pipeline(file).task_labels) for title, file in whole.items()}


def _knobs(pipeline: str, overrides: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Sort values by the pipelines, of those that are going to run, whose stages they are for."""
    stages = _stages(pipeline)
    known = sorted(set().union(*stages.values()))
    unknown = sorted(set(overrides) - set(known))
    if unknown:
        raise BadInput(
            f"there is no stage {', '.join(unknown)} to set a knob of", hint=f"there are {', '.join(known)}"
        )
    return {
        title: {
            f"{stage}.{knob}": value for stage in labels & set(overrides) for knob, value in overrides[stage].items()
        }
        for title, labels in stages.items()
    }


def preview(
    pipeline: str,
    data: str | None = None,
    repository: str | Path | None = None,
    *,
    query: str = "",
    output_run: str = "",
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Table:
    """Say what `run` would do with the same arguments. Nothing is written.

    Returns
    -------
    astropy.table.Table
        One row per stage: the output run, its quanta, and how many of them are there already and to do. An earlier
        stage that makes less than expected leaves less to do.

    Raises
    ------
    MissingData
        When the repository of the entry has not been prepared yet, and whenever `run` would.
    BadInput
        Whenever `run` would.
    """
    name = stage_names(pipeline)
    stages = load_pipeline(pipeline).task_labels
    knobs = _knobs(pipeline, overrides or {})
    if data is not None:
        folder = Path(repository or Path("nightlab-data", data))
        try:
            prepared_in(folder)
        except MissingData as error:
            hint = "run it once without --dry-run; what is there is not made again"
            raise MissingData(f"{folder} is not prepared yet, and a dry run makes nothing", hint=hint) from error
    source = _source(data, repository, None)
    rows: list[tuple[str, str, int, int, int]] = []
    if name == "ApPipe" and "warp_template" in stages and source.template and not _finished(source.repository):
        rows += _forecast(
            source, TEMPLATES, knobs[TEMPLATES], query=source.template, output=TEMPLATES_RUN, inputs=source.collections
        )
    output = output_run or f"runs/{name}"
    rows += _forecast(
        source,
        pipeline,
        knobs[name],
        query=_question(source, name, query),
        output=output,
        inputs=_inputs(source, pipeline, output),
    )
    return Table(rows=rows, names=("output run", "stage", "quanta", "there", "to do"))


def _forecast(
    source: _Source, pipeline: str, config: Mapping[str, Any], *, query: str, output: str, inputs: Sequence[str]
) -> list[tuple[str, str, int, int, int]]:
    """Count quanta by stage, in the order in which they would run."""
    config = dict(config)
    stages = load_pipeline(pipeline)
    if "fill_apdb" in stages.task_labels:
        config.setdefault("fill_apdb.uri", str(apdb_folder(source.repository, output)))
    with open_repository(source.repository) as butler:
        new = output not in butler.collections.query("*")
    place = {"run": None, "collections": inputs} if new else {"run": output, "collections": [output, *inputs]}
    with Butler.from_config(str(source.repository), writeable=False, **place) as butler:
        graph = build_graph(pipeline_graph(load_pipeline(pipeline, config)), butler, query, output_run=output)
        labels = Counter(str(info["task_label"]) for info in graph.quantum_only_xgraph.nodes.values())
        there: Counter[str] = Counter()
        if not new:
            refuse_changes(graph, butler)
            nodes = graph.quantum_only_xgraph.nodes
            there.update(str(nodes[key]["task_label"]) for key in make_plan(graph, butler).complete)
    return [
        (output, stage, labels[stage], there[stage], labels[stage] - there[stage])
        for stage in graph.pipeline_graph.tasks
        if labels[stage]
    ]


def _question(source: _Source, name: str, query: str) -> str:
    """Join what the pipeline works on with what was asked for."""
    base = {TEMPLATES: source.template or source.science, "SingleFrame": source.everything}.get(name, source.science)
    return " AND ".join(part for part in (base, f"({query})" if query else "") if part)


def _inputs(source: _Source, pipeline: str, output: str) -> tuple[str, ...]:
    """Give the collections a pipeline reads: for a part of one what the whole has made, then templates."""
    name = stage_names(pipeline)
    with open_repository(source.repository) as butler:
        there = set(butler.collections.query("runs/*"))
    wanted = [f"runs/{name}"] if "#" in pipeline else []
    wanted += [TEMPLATES_RUN] if name != TEMPLATES else []
    return (*(run for run in dict.fromkeys(wanted) if run in there and run != output), *source.collections)


def _finished(repository: Path) -> bool:
    """Whether ``Templates`` got to its end (the gathered metrics are the last thing it writes) and nothing failed."""
    stages = load_pipeline(TEMPLATES).task_labels
    kinds = [f"{stage}_{kind}" for stage in stages for kind in ("log", "metadata")]
    gathered, *left = _left(repository, "metrics", *kinds)
    # a quantum that fails leaves its log and no metadata
    return bool(gathered) and not any(logs - metadata for logs, metadata in batched(left, 2))


def _left(repository: Path, *names: str) -> list[set[DataCoordinate]]:
    """Find the data ids for which ``Templates`` has left datasets, by their names."""
    with open_repository(repository) as butler:
        if TEMPLATES_RUN not in butler.collections.query("runs/*"):
            return [set() for _ in names]
        known = {kind.name for kind in butler.registry.queryDatasetTypes(names)}
        ask = partial(butler.query_datasets, collections=TEMPLATES_RUN, find_first=False, explain=False, limit=None)
        return [{ref.dataId for ref in ask(name)} if name in known else set() for name in names]


def _source(data: str | None, repository: str | Path | None, survey: str | Path | None) -> _Source:
    if data is None and repository is None:
        raise BadInput(
            "neither data nor a repository were named", hint="name an entry, such as simulated, or a folder"
        )
    if data is not None:
        prepared = prepare(data, repository or Path("nightlab-data", data), survey=survey)
    else:
        try:
            prepared = prepared_in(repository)  # type: ignore[arg-type]
        except MissingData:
            return _own(Path(repository).absolute())  # type: ignore[arg-type]
    return _Source(
        repository=Path(prepared.repository),
        collections=tuple(prepared.collections),
        everything=f"instrument = '{prepared.instrument}'",
        science=prepared.science_query,
        template=prepared.template_query,
        files=Path(prepared.files),
    )


def _own(repository: Path) -> _Source:
    """Describe a repository that somebody filled by hand."""
    with open_repository(repository) as butler:
        names = sorted(record.name for record in butler.query_dimension_records("instrument", explain=False))
        there = set(butler.collections.query("*"))
    known = [name for name in names if name in INSTRUMENTS]
    wanted = [collection for name in known for collection in input_collections(name)]
    collections = tuple(name for name in dict.fromkeys(wanted) if name in there)
    if not collections:
        raise MissingData(
            f"{repository} has no data of an instrument we know; it has {', '.join(names) or 'no instrument'}",
            hint=f"ingest raws of {', '.join(sorted(INSTRUMENTS))}",
        )
    base = f"instrument IN ({', '.join(repr(name) for name in known)})"
    return _Source(repository=repository, collections=collections, everything=base, science=base)
