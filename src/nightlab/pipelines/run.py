"""Run a pipeline on a repository, with progress, and take it up again where it stopped."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy.exc
from lsst.daf.butler import Butler, MissingCollectionError

from nightlab.errors import BadInput, MissingData, NightLabError, RunLocked, StageFailed, WriteFailed
from nightlab.pipelines.events import Listener, StageEvent, State, label, silent_listener
from nightlab.pipelines.graph import (
    Plan,
    build_graph,
    config_changes,
    data_id,
    load_pipeline,
    make_plan,
    pipeline_graph,
    where,
)
from nightlab.pipelines.runner import run_quanta, work_of
from nightlab.pipelines.tasks import write_error
from nightlab.pipelines.worker import Outcome, Place

_READ_ONLY = ("readonly", "read-only", "unable to open")


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """A quantum that has no results, why, and the command that tries it again."""

    stage: str
    data_id: Mapping[str, int | str]
    message: str
    error: str = ""
    command: str = ""
    details: str = ""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What became of a run.

    Attributes
    ----------
    pipeline, repo, output_run
        What was run, where, and where the results are.
    total, existing, done
        Quanta of the query; those that were complete before; those made now.
    idle
        Quanta with nothing to do, old and new, such as an image that no template covers.
    failed, blocked
        Quanta that raised, and those that could not start because of them.
    seconds
        Wall time.
    stopped
        Whether the run was asked to stop before its end.
    """

    pipeline: str
    repo: str
    output_run: str
    total: int
    existing: int
    done: int
    idle: tuple[Trouble, ...] = ()
    failed: tuple[Trouble, ...] = ()
    blocked: tuple[Trouble, ...] = ()
    seconds: float = 0.0
    stopped: bool = False

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for is there."""
        return not (self.failed or self.blocked or self.stopped)

    @property
    def exit_code(self) -> int:
        """0 when all is there, 1 when a stage failed or the run was stopped."""
        return 0 if self.ok else 1

    def check(self) -> RunReport:
        """Return the report itself, or raise `StageFailed` when a quantum failed."""
        if self.failed:
            first = self.failed[0]
            raise StageFailed(
                f"{len(self.failed)} of {self.total} quanta failed; first {first.stage} {label(first.data_id)}: "
                f"{first.message}",
                hint=f"again: {first.command}",
                failed=len(self.failed),
                blocked=len(self.blocked),
            )
        return self

    def text(self) -> str:
        """Write the report for people."""
        if self.existing == self.total and not self.failed:
            lines = [f"{self.pipeline}: nothing to do, all {self.total} quanta are in {self.output_run}"]
        else:
            counts = {"made": self.done, "there before": self.existing, "failed": len(self.failed)}
            counts |= {"blocked": len(self.blocked)}
            said = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "made")
            end = "stopped" if self.stopped else "finished"
            lines = [f"{self.pipeline} {end} in {self.seconds:.1f} s: {said}, of {self.total} in {self.output_run}"]
        lines += [f"  nothing to do: {item.stage} {label(item.data_id)}: {item.message}" for item in self.idle]
        for item in self.failed:
            lines += [f"  failed: {item.stage} {label(item.data_id)}: {item.message}", f"    again: {item.command}"]
        for stage, count in Counter(item.stage for item in self.blocked).items():
            lines.append(f"  blocked: {count} of {stage}, which need what failed")
        if self.blocked:
            labels = " AND ".join(f"{key}={value!r}" for key, value in self.failed[0].data_id.items())
            lines.append(f"  to go on without: add to the query AND NOT ({labels})")
        return "\n".join(lines)


def run(
    pipeline: str,
    repo: str | Path,
    *,
    query: str = "",
    output_run: str,
    inputs: Sequence[str],
    jobs: int = 2,
    listener: Listener = silent_listener,
    config: Mapping[str, Any] | None = None,
    stop: threading.Event | None = None,
) -> RunReport:
    """Run a pipeline; running it again completes what is missing and does nothing else.

    Parameters
    ----------
    pipeline
        Name or YAML file, optionally with ``#stage``.
    repo
        Folder (or configuration file) of the Butler repository.
    query
        Butler expression that selects the data, such as ``instrument='SimCam' AND visit IN (1, 2)``.
    output_run
        Collection the results go to; made when needed.
    inputs
        Collections that are read, first match first.
    jobs
        Quanta at once.
    listener
        Told about every event.
    config
        Values by ``stage.knob``.
    stop
        Set it from another thread to end the run after the quanta that are running.

    Returns
    -------
    RunReport
        Failures are in the report; the quanta that do not need what failed are run all the same.

    Raises
    ------
    MissingData
        When the repository, a collection or all data are missing.
    BadInput
        When query or config are wrong, or the config is not the one the output run was made with.
    RunLocked
        When another process writes into the same output run.
    WriteFailed
        When the repository cannot be written.
    """
    begin = time.monotonic()
    stages = pipeline_graph(load_pipeline(pipeline, config))
    place = Place(repo=str(repo), output_run=output_run, inputs=tuple(inputs))
    with output_lock(repo, output_run), _writing(repo):
        butler = _open(place)
        try:
            plan = make_plan(build_graph(stages, butler, query), butler)
            _prepare(butler, plan)
        finally:
            butler.close()
        return _execute(plan, place, pipeline, jobs, listener, stop, config or {}, begin)


@contextlib.contextmanager
def output_lock(repo: str | Path, output_run: str) -> Iterator[None]:
    """Keep everybody else out of an output run; the lock goes with the process, however that ends.

    Raises
    ------
    RunLocked
        When somebody is in it.
    WriteFailed
        When the repository is read-only.
    """
    root = Path(repo) if Path(repo).is_dir() else Path(repo).parent
    if not root.is_dir():
        raise MissingData(f"there is no repository at {repo}", hint="check the path", path=str(repo))
    file = root / ".nightlab" / f"{output_run.replace('/', '__')}.lock"
    try:
        file.parent.mkdir(exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise write_error(error, "the lock of the output run") or error from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip()
            raise RunLocked(
                f"another process ({holder or 'unknown'}) is writing into {output_run} of {root}",
                hint="wait for it, or choose another output run",
                output_run=output_run,
                holder=holder,
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {os.uname().nodename}".encode())
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _writing(repo: str | Path) -> Iterator[None]:
    """Turn what a repository says when it cannot be written into an error of ours."""
    try:
        yield
    except NightLabError:
        raise
    except (OSError, sqlalchemy.exc.DatabaseError) as error:
        if failed := write_error(error, f"the repository {repo}"):
            raise failed from error
        if any(word in str(error) for word in (*_READ_ONLY, "disk is full")):
            hint = "make room or get the right to write there"
            raise WriteFailed(f"the repository {repo} could not be written: {error}", hint=hint) from error
        raise


def _open(place: Place) -> Butler:
    """Open the repository and make sure that the output run and all inputs are there."""
    try:
        butler = Butler.from_config(place.repo, writeable=True)
    except FileNotFoundError as error:
        raise MissingData(f"there is no repository at {place.repo}: {error}", hint="check the path") from error
    try:
        for name in place.inputs:
            butler.collections.get_info(name)
    except MissingCollectionError as error:
        known = ", ".join(sorted(butler.collections.query("*")))
        raise MissingData(f"{error} in {place.repo}", hint=f"there are {known}") from error
    if butler.collections.register(place.output_run):
        butler.registry.refresh()
    butler.close()
    return place.open()


def _prepare(butler: Butler, plan: Plan) -> None:
    """Refuse a changed configuration; else record it and clear what no longer stands."""
    changes = config_changes(plan.graph, butler)
    if changes:
        raise BadInput(
            f"{butler.run} was made with another configuration: {'; '.join(changes)}",
            hint="choose a new output run, or go back to the old values",
            changes=changes,
        )
    if not plan.to_do:
        return
    plan.graph.pipeline_graph.register_dataset_types(butler, include_packages=True)
    plan.graph.init_output_run(butler)
    if plan.stale:
        butler.pruneDatasets(plan.stale, disassociate=True, unstore=True, purge=True)


def _execute(
    plan: Plan,
    place: Place,
    pipeline: str,
    jobs: int,
    listener: Listener,
    stop: threading.Event | None,
    config: Mapping[str, Any],
    begin: float,
) -> RunReport:
    """Run what is to be done, tell the listener, and collect the report."""
    quanta = plan.graph.build_execution_quanta()
    labels = {key: str(info["task_label"]) for key, info in plan.graph.quantum_only_xgraph.nodes.items()}
    totals, count = Counter(labels.values()), Counter(labels[key] for key in plan.complete)
    troubles: dict[str, list[Trouble]] = {"idle": [], "failed": [], "blocked": []}
    made = 0

    def tell(key: UUID, state: State, message: str = "", seconds: float = 0.0) -> None:
        listener(
            StageEvent(
                stage=labels[key],
                data_id=data_id(quanta[key]),
                state=state,
                done=count.total(),
                total=len(labels),
                stage_done=count[labels[key]],
                stage_total=totals[labels[key]],
                message=message,
                seconds=seconds,
            )
        )

    def note(kind: str, key: UUID, outcome: Outcome) -> None:
        troubles[kind].append(
            Trouble(
                stage=labels[key],
                data_id=data_id(quanta[key]),
                message=outcome.message,
                error=outcome.error,
                details=outcome.details,
                command=_command(pipeline, labels[key], place, where(quanta[key]), config),
            )
        )

    def settled(key: UUID, outcome: Outcome, blocked: list[UUID]) -> None:
        nonlocal made
        count[labels[key]] += 1
        if outcome.state == "done":
            made += 1
            tell(key, "done", seconds=outcome.seconds)
            return
        note(outcome.state, key, outcome)
        tell(key, "failed" if outcome.state == "failed" else "skipped", outcome.message, outcome.seconds)
        why = Outcome(state="failed", message=f"needs {labels[key]} {label(data_id(quanta[key]))}, which failed")
        for other in blocked:
            count[labels[other]] += 1
            note("blocked", other, why)
            tell(other, "blocked", why.message)

    for stage, there in count.items():
        text = f"{there} of {totals[stage]} complete already"
        shown = {"stage_done": there, "stage_total": totals[stage], "message": text}
        listener(StageEvent(stage=stage, state="skipped", done=count.total(), total=len(labels), **shown))  # type: ignore[arg-type]
    for key, message in plan.no_work.items():
        note("idle", key, Outcome(state="idle", message=message))
    if plan.to_do:
        work = work_of(plan, place)
        run_quanta(plan, work, jobs=jobs, started=lambda key: tell(key, "started"), settled=settled, stop=stop)
    return RunReport(
        pipeline=pipeline,
        repo=place.repo,
        output_run=place.output_run,
        total=len(labels),
        existing=len(plan.complete),
        done=made,
        seconds=time.monotonic() - begin,
        stopped=count.total() < len(labels),
        **{kind: tuple(items) for kind, items in troubles.items()},
    )


def _command(pipeline: str, stage: str, place: Place, query: str, config: Mapping[str, Any]) -> str:
    """Write the command that runs one quantum again."""
    knobs = [part for key, value in config.items() for part in ("--set", f"{key}={value}")]
    name = f"{pipeline.partition('#')[0]}#{stage}"
    words = ["nightlab", "run", name, "-b", place.repo, "-o", place.output_run, "-d", query, *knobs]
    return shlex.join(words)
