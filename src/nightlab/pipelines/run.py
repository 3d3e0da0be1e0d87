"""Run a pipeline on a repository, with progress, and take it up again where it stopped."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy.exc
from lsst.daf.butler import Butler, DatasetRef, MissingCollectionError

from nightlab.errors import BadInput, MissingData, NightLabError, RunLocked
from nightlab.pipelines.events import Listener, silent_listener
from nightlab.pipelines.graph import Plan, build_graph, load_pipeline, make_plan, pipeline_graph, refuse_changes
from nightlab.pipelines.ledger import RunReport, close_ledger, open_ledger, settle, tell
from nightlab.pipelines.runner import run_quanta, work_of
from nightlab.pipelines.tasks import write_error
from nightlab.pipelines.worker import Place

# as the Butler names a file until it is whole
_TEMPORARY = re.compile(r"[a-z0-9_]{16}.+\.tmp(\.\w+)*")


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
    if not re.fullmatch(r"\w[\w.+-]*(/\w[\w.+-]*)*", output_run):
        raise BadInput(f"{output_run!r} cannot be the name of an output run", hint="for example: runs/ApPipe")
    stages = pipeline_graph(load_pipeline(pipeline, config))
    place = Place(repo=str(repo), output_run=output_run, inputs=tuple(inputs))
    with output_lock(repo, output_run), _writing(repo):
        butler = _open(place)
        try:
            plan = make_plan(build_graph(stages, butler, query), butler)
            _prepare(butler, plan)
        finally:
            butler.close()
        ledger = open_ledger(plan, place, pipeline=pipeline, config=config or {}, listener=listener)
        if plan.to_do:
            run_quanta(
                plan,
                work_of(plan, place),
                jobs=jobs,
                started=lambda key: tell(ledger, key, "started"),
                settled=lambda key, outcome, blocked: settle(ledger, key, outcome, blocked),
                stop=stop,
            )
            _clear(place, [ref for key in ledger.discarded for ref in plan.provisional[key]])
        return close_ledger(ledger, time.monotonic() - begin)


def _clear(place: Place, refs: list[DatasetRef]) -> None:
    """Remove products that rest on something that could not be made again, and what killed workers have left."""
    with place.open() as butler:
        if refs:
            butler.pruneDatasets(refs, disassociate=True, unstore=True, purge=True)
        _sweep(butler, place.output_run)


def tidy(repo: str | Path, output_run: str) -> None:
    """Remove the unfinished files of a run that was killed.

    Raises
    ------
    RunLocked
        When another process is writing into the output run.
    """
    with output_lock(repo, output_run), Butler.from_config(str(repo), writeable=True) as butler:
        _sweep(butler, output_run)


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
    file = _lock_file(root, output_run)
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
        # who holds it is good to know; a disk too full to say so will be noticed where it matters
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {os.uname().nodename}".encode())
        yield
    finally:
        os.close(descriptor)


def holder(repo: str | Path, output_run: str) -> str:
    """Say who is writing into an output run: ``process 12 on host``; empty when nobody is."""
    try:
        with _lock_file(Path(repo), output_run).open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read(200).strip() or "another process"
    except FileNotFoundError:
        return ""
    return ""


def _lock_file(root: Path, output_run: str) -> Path:
    return root / ".nightlab" / f"{output_run.replace('/', '__')}.lock"


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
    refuse_changes(plan.graph, butler)
    if not plan.to_do:
        return
    plan.graph.pipeline_graph.register_dataset_types(butler, include_packages=True)
    plan.graph.init_output_run(butler)
    _sweep(butler, str(butler.run))
    if plan.stale:
        butler.pruneDatasets(plan.stale, disassociate=True, unstore=True, purge=True)


def _sweep(butler: Butler, output_run: str) -> None:
    """Remove what processes that were killed while writing have left; thanks to the lock, nobody is writing now."""
    for root in butler.get_datastore_roots().values():
        if root is not None and root.isLocal:
            for file in Path(root.ospath, output_run).rglob("*.tmp*"):
                if _TEMPORARY.fullmatch(file.name):
                    file.unlink(missing_ok=True)
