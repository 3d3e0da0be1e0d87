"""One quantum, executed: in this process or in a worker that dies with its parent."""

from __future__ import annotations

import contextlib
import logging
import pickle
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Literal
from uuid import UUID

from lsst.daf.butler import Butler, Quantum
from lsst.pipe.base.pipeline_graph import TaskNode
from lsst.pipe.base.single_quantum_executor import SingleQuantumExecutor

from nightlab.errors import NightLabError, WriteFailed
from nightlab.pipelines.tasks import causes, read_error, write_error

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where quanta read and write."""

    repo: str
    output_run: str
    inputs: tuple[str, ...]

    def open(self) -> Butler:
        """Open the repository; results are looked for in the output run first."""
        return Butler.from_config(
            self.repo, run=self.output_run, collections=[self.output_run, *self.inputs], writeable=True
        )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a quantum ended; `idle` when there was nothing to do, `kept` when what an earlier run made still stands."""

    state: Literal["done", "idle", "kept", "failed", "blocked"]
    message: str = ""
    error: str = ""
    details: str = ""
    seconds: float = 0.0


def execute(butler: Butler, node: TaskNode, quantum: Quantum, quantum_id: UUID) -> Outcome:
    """Run one quantum; whatever an earlier attempt at it left behind is removed first.

    A failure leaves its log in the repository and nothing else.
    """
    start = time.perf_counter()
    # which quanta are complete has been decided already; here all of them are to be made
    executor = SingleQuantumExecutor(butler=butler, clobber_outputs=True)
    try:
        result = executor.execute(node, quantum, quantum_id)
    except Exception as error:
        details = traceback.format_exc()
        _discard(butler, node, quantum)
        known = _known(error, node.label, butler)
        message = str(known) if known else f"{type(error).__name__}: {error}"
        return Outcome(
            state="failed",
            message=message,
            error=type(known or error).__name__,
            details=details,
            seconds=time.perf_counter() - start,
        )
    seconds = time.perf_counter() - start
    told = result.task_metadata[node.label] if result.task_metadata is not None else {}
    if result.adjusted_no_work:
        return Outcome(state="idle", message="nothing to work on: an earlier stage made no input for it")
    if "no_work" in told:
        return Outcome(state="idle", message=str(told["no_work"]), seconds=seconds)
    return Outcome(state="done", seconds=seconds)


def _known(error: Exception, stage: str, butler: Butler) -> NightLabError | None:
    """Find the error of ours that an exception is or comes down to."""
    # the Butler wraps what its formatters raise
    ours = next((link for link in causes(error) if isinstance(link, NightLabError)), None)
    known = ours or write_error(error, f"a product of {stage}")
    if isinstance(known, WriteFailed) and not known.facts.get("path"):
        roots = [root.ospath for root in butler.get_datastore_roots().values() if root is not None]
        return WriteFailed(f"{known.message}, in the repository {', '.join(roots)}", hint=known.hint, path=roots[0])
    return known or read_error(error, stage)


def _discard(butler: Butler, node: TaskNode, quantum: Quantum) -> None:
    """Remove what a failed quantum had written before it failed."""
    log = node.log_output.dataset_type_name if node.log_output else ""
    try:
        refs = [ref for refs in quantum.outputs.values() for ref in refs if ref.datasetType.name != log]
        left = [ref for ref, there in butler.stored_many(refs).items() if there]
        if left:
            butler.pruneDatasets(left, disassociate=True, unstore=True, purge=True)
    except Exception:
        # the next attempt clobbers what is left; the reason of the failure must not be lost over it
        _LOG.warning("outputs of a failed quantum of %s could not be removed", node.label, exc_info=True)


def main() -> None:
    """Serve quanta to a parent, whose end of the pipe is the command line's argument."""
    channel = int(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    # the details go to the log in the repository; the parent wants to see only what is wrong
    logging.getLogger().handlers[0].setLevel(logging.WARNING)
    logging.getLogger("numba").setLevel(logging.WARNING)
    logging.captureWarnings(True)
    with Connection(channel) as connection, contextlib.suppress(EOFError, BrokenPipeError):
        place, nodes = pickle.loads(connection.recv_bytes())
        butler = place.open()
        while True:
            label, quantum, quantum_id = pickle.loads(connection.recv_bytes())
            connection.send(execute(butler, nodes[label], quantum, quantum_id))
