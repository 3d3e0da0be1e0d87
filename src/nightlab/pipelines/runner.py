"""Quanta in the order of their dependencies, in this process or in a pool of workers that can be repaired."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from typing import IO, cast
from uuid import UUID

from lsst.daf.butler import Quantum
from lsst.pipe.base.graph_walker import GraphWalker

from nightlab.pipelines.graph import Plan
from nightlab.pipelines.needs import lacking, needs_of
from nightlab.pipelines.worker import Outcome, Place, execute

#: Sums must not depend on how many threads share them; set before a worker imports anything.
_THREADS = "OMP_NUM_THREADS OPENBLAS_NUM_THREADS MKL_NUM_THREADS NUMBA_NUM_THREADS VECLIB_MAXIMUM_THREADS"
ONE_THREAD = dict.fromkeys(_THREADS.split(), "1")
# not ``-m``: then the worker's answers would be of a class of ``__main__``
_MAIN = """
import sys
from nightlab.pipelines.leash import die_with_parent
die_with_parent(int(sys.argv[2]))  # before the long imports
from nightlab.pipelines.worker import main
main()
"""
# so that a request to stop is seen while quanta run [s]
_PATIENCE = 0.2
_GRACE = 5.0

Submit = Callable[[UUID], None]
Collect = Callable[[], list[tuple[UUID, Outcome]]]
Settled = Callable[[UUID, Outcome, list[UUID]], None]


@dataclass(frozen=True, kw_only=True)
class Worker:
    """A process that executes quanta: how to talk to it, and what it says on standard error."""

    process: subprocess.Popen[bytes]
    connection: Connection
    stderr: IO[bytes]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a pool has to execute: tasks by label, quanta by id with their label."""

    place: Place
    nodes: dict[str, object]
    quanta: dict[UUID, tuple[str, Quantum]]


def work_of(plan: Plan, place: Place) -> Work:
    """Collect what `plan` still has to do."""
    quanta = plan.graph.build_execution_quanta()
    labels = plan.graph.quantum_only_xgraph.nodes
    return Work(
        place=place,
        nodes=dict(plan.graph.pipeline_graph.tasks.items()),
        quanta={key: (labels[key]["task_label"], quanta[key]) for key in plan.to_do},
    )


def run_quanta(
    plan: Plan,
    work: Work,
    *,
    jobs: int,
    started: Callable[[UUID], None],
    settled: Settled,
    stop: threading.Event | None = None,
) -> None:
    """Execute what is to be done, up to `jobs` quanta at once.

    Parameters
    ----------
    plan, work
        The dependencies and the quanta.
    jobs
        Processes; with 1, or when there is next to nothing to do, everything happens in this one.
    started, settled
        Called as quanta start, and as they end together with the failures because of which they lack an input. A
        quantum is blocked when it cannot do without; else it is run with what there is.
    stop
        When set, nothing new is started.
    """
    order = {label: place for place, label in enumerate(plan.graph.pipeline_graph.tasks)}

    def rank(key: UUID) -> tuple[int, str]:
        label, quantum = work.quanta[key]
        return order[label], str(quantum.dataId)

    needs = needs_of(plan.graph.pipeline_graph, work.quanta)
    lost: dict[UUID, UUID] = {}
    changed: set[UUID] = set()
    jobs = min(jobs, len(work.quanta))
    alone = jobs < 2 or len(work.quanta) <= 2
    walker = GraphWalker(plan.to_do.copy())
    queue: deque[UUID] = deque()
    active: set[UUID] = set()

    def end(key: UUID, outcome: Outcome, causes: list[UUID]) -> None:
        if outcome.state in ("failed", "blocked"):
            lost[key] = causes[0] if outcome.state == "blocked" else key
        if outcome.state != "kept" and (key not in lost or key in plan.provisional):
            changed.add(key)
        walker.finish(key)
        settled(key, outcome, causes)

    with _here(work) if alone else _pool(work, jobs) as (submit, collect):
        for ready in walker:
            for key in sorted(ready, key=rank):
                can, causes = lacking(needs[key], lost)
                if not can:
                    end(key, Outcome(state="blocked"), causes)
                elif key in plan.provisional and changed.isdisjoint(plan.to_do.predecessors(key)):
                    end(key, Outcome(state="kept"), causes)
                else:
                    queue.append(key)
            if stop is not None and stop.is_set():
                queue.clear()
                if not active:
                    return
            while queue and len(active) < (1 if alone else jobs):
                key = queue.popleft()
                active.add(key)
                started(key)
                submit(key)
            for key, outcome in collect() if active else []:
                active.discard(key)
                end(key, outcome, lacking(needs[key], lost)[1])


@contextlib.contextmanager
def _here(work: Work) -> Iterator[tuple[Submit, Collect]]:
    """Execute quanta in this process, one after the other."""
    butler = work.place.open()
    waiting: list[UUID] = []

    def collect() -> list[tuple[UUID, Outcome]]:
        results = []
        while waiting:
            key = waiting.pop()
            label, quantum = work.quanta[key]
            results.append((key, execute(butler, work.nodes[label], quantum, key)))  # type: ignore[arg-type]
        return results

    try:
        yield waiting.append, collect
    finally:
        butler.close()


@contextlib.contextmanager
def _pool(work: Work, jobs: int) -> Iterator[tuple[Submit, Collect]]:
    """Execute quanta in processes that import once; one that is killed is replaced and its quantum tried again."""
    hello = pickle.dumps((work.place, work.nodes))
    idle: list[Worker] = []
    busy: dict[Connection, tuple[Worker, UUID]] = {}
    tried: set[UUID] = set()

    def submit(key: UUID) -> None:
        worker = idle.pop() if idle else start_worker(hello)
        busy[worker.connection] = (worker, key)
        label, quantum = work.quanta[key]
        # a worker that is gone by now shows when its answer is waited for
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            worker.connection.send_bytes(pickle.dumps((label, quantum, key)))

    def collect() -> list[tuple[UUID, Outcome]]:
        results = []
        for connection in wait(list(busy), timeout=_PATIENCE):
            worker, key = busy.pop(cast(Connection, connection))
            try:
                results.append((key, worker.connection.recv()))
                idle.append(worker)
            except (EOFError, ConnectionResetError):
                reason = bury(worker)
                if key in tried:
                    message = f"the worker process died twice on it ({reason}); it may pass alone, with --jobs 1"
                    results.append((key, Outcome(state="failed", message=message, error="WorkerDied")))
                else:
                    tried.add(key)
                    submit(key)
        return results

    try:
        yield submit, collect
    finally:
        workers = [*idle, *(worker for worker, _ in busy.values())]
        _stop(workers)


def start_worker(hello: bytes, main: str = _MAIN) -> Worker:
    """Start a process that sees what this one can import, on one thread.

    Parameters
    ----------
    hello
        Pickled; the first thing it is told.
    main
        Python that it runs; its end of the pipe and this process's id are the arguments.
    """
    ours, theirs = Pipe()
    stderr = tempfile.TemporaryFile()  # noqa: SIM115
    paths = [os.path.abspath(path) for path in sys.path]
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(paths)}
    # not by multiprocessing: that would import the caller's script again, and share its fate at Ctrl-C
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", main, str(theirs.fileno()), str(os.getpid())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=stderr,
        stderr=stderr,
        env=environment,
        process_group=0,
    )
    theirs.close()
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        ours.send_bytes(hello)
    return Worker(process=process, connection=ours, stderr=stderr)


def bury(worker: Worker) -> str:
    """Clean up after a worker that is gone, or is to go, and say why it went."""
    worker.connection.close()
    worker.process.kill()
    code = worker.process.wait()
    worker.stderr.seek(0)
    lines = worker.stderr.read().decode(errors="replace").strip().splitlines()
    worker.stderr.close()
    reason = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"{reason}; {lines[-1]}" if lines else reason


def _stop(workers: list[Worker]) -> None:
    """End workers: the idle ones leave when their pipe closes, the others are told to."""
    for worker in workers:
        worker.connection.close()
        worker.process.terminate()
    for worker in workers:
        try:
            worker.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()
        worker.stderr.close()
