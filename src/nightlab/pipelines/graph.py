"""From a pipeline and a question to the quanta that are still to be run."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import networkx  # type: ignore[import-untyped]
from lsst.daf.butler import Butler, ButlerUserError, DatasetRef, Quantum
from lsst.pipe.base import Pipeline
from lsst.pipe.base.all_dimensions_quantum_graph_builder import AllDimensionsQuantumGraphBuilder
from lsst.pipe.base.pipeline_graph import PipelineGraph, TaskNode
from lsst.pipe.base.quantum_graph import PredictedQuantumGraph

import nightlab
from nightlab.errors import BadInput, MissingData
from nightlab.pipelines.tasks import inputs_digest

_NOT_MADE = "nothing to work on: an earlier stage made no input for it"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run consists of.

    Attributes
    ----------
    graph
        All quanta, including the complete ones.
    complete
        Quanta whose results are in the output run already and still stand.
    provisional
        Products of quanta whose results stand unless something before them is made anew: the last time, what they
        read from a quantum that failed was left out.
    to_do
        All but the complete ones, with their dependencies.
    no_work
        Of the complete ones, those that had nothing to do, and why.
    stale
        Datasets of the output run that rest on inputs which are no longer all there is; to be removed.
    """

    graph: PredictedQuantumGraph
    complete: frozenset[UUID]
    provisional: Mapping[UUID, tuple[DatasetRef, ...]]
    to_do: networkx.DiGraph
    no_work: Mapping[UUID, str]
    stale: tuple[DatasetRef, ...]


def pipeline_file(name: str) -> Path:
    """Find a pipeline by its name (``ApPipe``) or path.

    Raises
    ------
    BadInput
        When no pipeline is called so; the message lists those we have.
    MissingData
        When there is no such file.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        if path.is_file():
            return path
        raise MissingData(f"there is no pipeline file {path}", hint="check the path", path=str(path))
    package = Path(nightlab.__file__).parent
    folders = [package / "_share" / "pipelines", package.parent.parent / "pipelines"]
    known = sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})
    for folder in folders:
        if (folder / f"{name}.yaml").is_file():
            return folder / f"{name}.yaml"
    raise BadInput(f"there is no pipeline {name!r}", hint=f"known are {', '.join(known) or 'none'}", name=name)


def load_pipeline(name: str, config: Mapping[str, Any] | None = None) -> Pipeline:
    """Read a pipeline and set its knobs.

    Parameters
    ----------
    name
        Name or path, optionally followed by ``#stage,stage`` or ``#subset``.
    config
        Values by ``stage.knob`` (``calibrate.detect.threshold``); text is read as the knob's type.

    Raises
    ------
    MissingData
        When there is no such file.
    BadInput
        When there is no pipeline of that name, it has no such stage or knob, or a value is not allowed.
    """
    base, _, labels = name.partition("#")
    file = pipeline_file(base)
    whole = Pipeline.fromFile(str(file))
    known = [*whole.task_labels, *whole.subsets]
    unknown = [label for label in labels.split(",") if label and label not in known]
    if unknown:
        raise BadInput(f"{file.stem} has no stage {', '.join(unknown)}", hint=f"it has {', '.join(known)}")
    pipeline = Pipeline.from_uri(f"{file}#{labels}") if labels else whole
    for key, value in (config or {}).items():
        stage, _, knob = key.partition(".")
        if stage not in whole.task_labels or not knob:
            raise BadInput(
                f"{key!r} names no knob of {file.stem}",
                hint=f"write stage.knob; stages: {', '.join(whole.task_labels)}",
            )
        if stage in pipeline.task_labels:
            pipeline.addConfigOverride(stage, knob, value)
    return pipeline


def pipeline_graph(pipeline: Pipeline) -> PipelineGraph:
    """Apply the knobs and connect the stages.

    Raises
    ------
    BadInput
        When a value is not allowed or the stages do not fit together.
    """
    try:
        return pipeline.to_graph()
    except (ValueError, AttributeError, TypeError, NameError, SyntaxError, KeyError) as error:
        link: BaseException | None = error
        while link is not None:
            if isinstance(link, BadInput):
                raise link from None
            link = link.__cause__ or link.__context__
        reason = str(error).partition("\nFor more information")[0]
        if unknown := re.search(r"(\w+)TaskConfig\w* has no attribute (\w+)", reason):
            reason = f"{unknown[1]} has no knob {unknown[2]}"
        hint = "check what was given with --set; `nightlab stages STAGE` lists the knobs"
        raise BadInput(f"the pipeline cannot be set up: {' '.join(reason.split())}", hint=hint) from error


def build_graph(
    stages: PipelineGraph, butler: Butler, query: str, *, output_run: str | None = None
) -> PredictedQuantumGraph:
    """Find every quantum that a query selects, whether its results exist or not.

    Parameters
    ----------
    stages
        The pipeline.
    butler
        Its default collections are read.
    query
        Butler expression.
    output_run
        Where results would go; that of `butler` when absent. It need not exist.

    Raises
    ------
    BadInput
        When the query cannot be understood.
    MissingData
        When it selects nothing, or something every quantum needs is not there.
    """
    with _listening("lsst.pipe.base", logging.ERROR) as remarks:
        try:
            # outputs of an earlier attempt keep their ids; what becomes of them is decided by `make_plan`
            builder = AllDimensionsQuantumGraphBuilder(
                stages, butler, where=query, clobber=True, output_run=output_run
            )
            graph = builder.finish(attach_datastore_records=False).assemble()
        except FileNotFoundError as error:
            raise MissingData(f"the pipeline needs something that is not there: {error}") from error
        except (ButlerUserError, ValueError, LookupError) as error:
            raise BadInput(
                f"the query {query!r} does not work: {error}",
                hint="for example: instrument='SimCam' AND visit IN (1, 2) AND detector < 4",
                query=query,
            ) from error
    if not len(graph):
        # the builder explains itself with its source; what it counted or missed is told in plain lines
        lines = [line.strip() for line in "\n".join(remarks).splitlines()[1:]]
        source = re.compile(r"To reproduce|with butler|query[ .]|collections = |print|And then |[)(}{\]]")
        shown = [line for line in lines if line and not source.match(line)]
        raise MissingData(
            f"nothing to run: no data for {query or 'any query'!r} in {', '.join(butler.collections.defaults)}"
            + (f" ({'; '.join(shown[:2])})" if shown else ""),
            hint="check the query and that the inputs were ingested",
            query=query,
        )
    return graph


@contextlib.contextmanager
def _listening(name: str, level: int) -> Iterator[list[str]]:
    """Collect what a logger says instead of letting it interrupt the progress display."""
    heard: list[str] = []
    handler = logging.Handler(level)
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger(name)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield heard
    finally:
        logger.propagate = before
        logger.removeHandler(handler)


def make_plan(graph: PredictedQuantumGraph, butler: Butler) -> Plan:
    """Tell what is complete from what is to be done.

    A quantum is complete when its metadata is in the output run, everything before it is complete, no input from
    elsewhere came later, and, where its inputs are a matter of how much there is (many of them, or none that were of
    use), they are the same as then.
    """
    quanta = graph.build_execution_quanta()
    stored = _stored(graph, butler)
    made = {ref.id for quantum in quanta.values() for ref in _refs(quantum.outputs)}
    outside = _unique([ref for quantum in quanta.values() for ref in _refs(quantum.inputs) if ref.id not in made])
    tasks, xgraph = graph.pipeline_graph.tasks, graph.quantum_only_xgraph
    records = [quanta[key].outputs[tasks[info["task_label"]].metadata_output.dataset_type_name][0] for key, info in
               xgraph.nodes.items()]  # fmt: skip
    since = _registered(butler, [*outside.values(), *(ref for ref in records if ref.id in stored)])
    complete: set[UUID] = set()
    provisional: dict[UUID, tuple[DatasetRef, ...]] = {}
    no_work: dict[UUID, str] = {}
    stale: list[DatasetRef] = []
    for key in networkx.topological_sort(xgraph):
        node = tasks[xgraph.nodes[key]["task_label"]]
        quantum = quanta[key]
        [metadata] = quantum.outputs[node.metadata_output.dataset_type_name]
        if metadata.id not in stored:
            continue
        products = tuple(ref for ref in _refs(quantum.outputs) if ref.id in stored)
        own = {ref.datasetType.name for ref in products} & {edge.dataset_type_name for edge in node.outputs.values()}
        inputs = [ref for ref in _refs(quantum.inputs) if ref.id not in made or ref.id in stored]
        before = set(xgraph.predecessors(key))
        lists = _lists(node)
        stands = all(since[ref.id] <= since[metadata.id] for ref in inputs if ref.id in since)
        if not before <= complete:
            # what is read one by one must stand by itself; of what is read in lists some may never have been made
            needed = {ref.id for kind, refs in quantum.inputs.items() if kind.name not in lists for ref in refs}
            waiting = before - complete - provisional.keys()
            given = {ref.id for other in waiting for ref in _refs(quanta[other].outputs)}
            stands &= not given & (needed | {ref.id for ref in inputs})
        if stands and (lists or not own):
            told = butler.get(metadata).get(node.label, {})
            stands = "inputs" not in told or told["inputs"] == inputs_digest(inputs)
            if stands and not own:
                no_work[key] = str(told["no_work"]) if "no_work" in told else _NOT_MADE
        if not stands:
            stale.extend(products)
        elif before <= complete:
            complete.add(key)
        else:
            provisional[key] = products
    return Plan(
        graph=graph,
        complete=frozenset(complete),
        provisional=provisional,
        to_do=networkx.DiGraph(xgraph.subgraph(set(xgraph) - complete)),
        no_work={key: why for key, why in no_work.items() if key in complete},
        stale=tuple(_unique(stale).values()),
    )


def _lists(node: TaskNode) -> set[str]:
    """Dataset types of which a stage takes as many as there are."""
    connections = node.get_connections()
    read = [getattr(connections, name) for name in (*connections.inputs, *connections.prerequisiteInputs)]
    return {row.name for row in read if row.multiple}


def _registered(butler: Butler, refs: list[DatasetRef]) -> dict[UUID, Any]:
    """Times at which datasets came into the repository."""
    searches = sorted({(ref.datasetType.nameAndComponent()[0], ref.run) for ref in refs})
    times: dict[UUID, Any] = {}
    for name, run in searches:
        with butler.query() as query:
            rows = query.join_dataset_search(name, collections=run).general(
                butler.get_dataset_type(name).dimensions,
                dataset_fields={name: {"dataset_id", "ingest_date"}},
                find_first=False,
            )
            times.update((row[f"{name}.dataset_id"], row[f"{name}.ingest_date"]) for row in rows)
    wanted = {ref.id for ref in refs}
    return {key: time for key, time in times.items() if key in wanted}


def _refs(datasets: Mapping[Any, Any]) -> Iterator[DatasetRef]:
    for refs in datasets.values():
        yield from refs


def _unique(refs: list[DatasetRef]) -> dict[UUID, DatasetRef]:
    return {ref.id: ref for ref in refs}


def _stored(graph: PredictedQuantumGraph, butler: Butler) -> set[UUID]:
    """Ids of all products of the graph's stages that are in the output run."""
    names = {
        edge.dataset_type_name for node in graph.pipeline_graph.tasks.values() for edge in node.iter_all_outputs()
    }
    run = butler.run
    known = {kind.name for kind in butler.registry.queryDatasetTypes(names & set(graph.datasets_by_type))}
    found: set[UUID] = set()
    for name in sorted(known):
        found.update(
            ref.id for ref in butler.query_datasets(name, collections=run, find_first=False, explain=False, limit=None)
        )
    return found


def config_changes(graph: PredictedQuantumGraph, butler: Butler) -> list[str]:
    """List the knobs whose values differ from those the output run was made with."""
    changes = []
    for node in graph.pipeline_graph.tasks.values():
        name = node.init.config_output.dataset_type_name
        ref = butler.find_dataset(name, collections=butler.run) if butler.registry.queryDatasetTypes([name]) else None
        if ref is None:
            continue
        try:
            before = _flat(butler.get(ref).toDict())
        except ValueError as error:
            # the Butler's word for a file that its formatter cannot read: knobs have come or gone since
            changes.append(f"{node.label}: was run by another version of the stage ({error.__cause__ or error})")
            continue
        now = _flat(node.config.toDict())
        changes += [
            f"{node.label}.{key}: {before.get(key)!r} then, {now.get(key)!r} now"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        ]
    return changes


def refuse_changes(graph: PredictedQuantumGraph, butler: Butler) -> None:
    """Make sure that the output run was made with the knobs of the graph, or is new.

    Raises
    ------
    BadInput
        When it was not; the message names the knobs.
    """
    changes = config_changes(graph, butler)
    if changes:
        raise BadInput(
            f"{butler.run} was made with another configuration: {'; '.join(changes)}",
            hint="choose a new output run, or go back to the old values",
            changes=changes,
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


def where(quantum: Quantum) -> str:
    """Write the query that selects one quantum and no other."""
    return " AND ".join(f"{key}={value!r}" for key, value in data_id(quantum).items())


def data_id(quantum: Quantum) -> dict[str, int | str]:
    """Give the data id of a quantum as plain values."""
    coordinate = quantum.dataId
    if coordinate is None:
        return {}
    return {key: coordinate[key] for key in coordinate.dimensions.required}


def stage_names(text: str) -> str:
    """Strip a pipeline's path and ending: ``/x/ApPipe.yaml#subtract`` gives ``ApPipe``."""
    return re.sub(r"\.ya?ml$", "", Path(text.partition("#")[0]).name)
