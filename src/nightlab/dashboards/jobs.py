"""Long work off the page: calls in a process of their own, what they tell on the way, and an end on demand."""

from __future__ import annotations

import contextlib
import pickle
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from nightlab.errors import BadInput, NightLabError, StageFailed
from nightlab.pipelines.events import StageEvent
from nightlab.pipelines.runner import Worker, bury, start_worker

#: Lines of the log that a page keeps; all of them are in the file beside the run.
LINES = 5000
#: How often a page looks for news [ms]: five times a second, however many events there were.
PERIOD = 200
#: How long a call that was asked to stop may take to do so before its process is ended [s].
GRACE = 0.5
_MAIN = "from nightlab.dashboards.errands import main; main()"

State = Literal["running", "stopping", "done", "failed", "cancelled"]


class Job:
    """One call: what became of it and what it has told. Written by one thread, read by any.

    Attributes
    ----------
    state
        ``stopping``: asked to stop and not ended yet.
    result
        What the call returned.
    error
        What it raised.
    details
        Traceback of what it raised.
    """

    def __init__(self, cleanup: Callable[[], None] | None = None) -> None:
        self.state: State = "running"
        self.result: Any = None
        self.error: NightLabError | None = None
        self.details = ""
        self.lines: deque[str] = deque(maxlen=LINES)
        self._cleanup = cleanup
        self._events: list[StageEvent] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._tidied = threading.Event()
        self._begin = time.monotonic()
        self._seconds = 0.0

    @property
    def active(self) -> bool:
        """Whether it has not ended."""
        return not self._ended.is_set()

    @property
    def seconds(self) -> float:
        """Wall time so far."""
        return time.monotonic() - self._begin if self.active else self._seconds

    def take(self) -> list[StageEvent]:
        """Give the events that came since the last time."""
        with self._lock:
            events, self._events = self._events, []
        return events

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end; whether it came."""
        return self._ended.wait(seconds)

    def heard(self, kind: str, what: Any) -> bool:
        """Take a message of the process; True when it is the last one."""
        match kind:
            case "event":
                with self._lock:
                    self._events.append(what)
            case "line":
                self.lines.append(str(what))
            case "done":
                self.result = what
                self.end("cancelled" if self.state == "stopping" else "done")
            case "failed":
                self.error, self.details = what
                self.end("failed")
        return kind in ("done", "failed")

    def end(self, state: State) -> None:
        """Close the books; then what a killed process has left half-done is cleared away."""
        self._seconds = time.monotonic() - self._begin
        self.state = state
        self._ended.set()
        try:
            if state == "cancelled" and self._cleanup is not None:
                self._cleanup()
        except (NightLabError, OSError) as error:
            self.lines.append(f"could not tidy up: {error}; the next run will")
        finally:
            self._tidied.set()

    def wait_tidied(self, seconds: float | None = None) -> bool:
        """Wait until nothing half-done is left; whether that was in time."""
        return self._tidied.wait(seconds)


class Desk:
    """The worker process of one session: it imports once, does one call at a time, and is replaced when cancelled.

    The process dies with the desk, with this process, and when the session is closed.

    Parameters
    ----------
    *imports
        Modules the worker imports before it is asked for anything.
    """

    def __init__(self, *imports: str) -> None:
        self.imports = imports
        self.job: Job | None = None
        self._worker: Worker | None = None
        self._lock = threading.RLock()
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether a call is under way."""
        return self.job is not None and self.job.active

    @property
    def process(self) -> int | None:
        """Process id of the worker; None when there is none."""
        return self._worker.process.pid if self._worker is not None else None

    def warm(self) -> None:
        """Start the worker ahead of the first call."""
        with self._lock:
            if self._worker is None and not self._closed:
                worker = start_worker(pickle.dumps(self.imports), _MAIN)
                self._worker = worker
                # a desk that is forgotten takes its process along
                weakref.finalize(self, worker.process.kill)

    def start(self, function: str, *, cleanup: Callable[[], None] | None = None, **arguments: Any) -> Job:
        """Begin a call in the worker.

        Parameters
        ----------
        function
            ``module:name`` of what is called with an `Errand` and the arguments.
        cleanup
            Called when the process had to be killed.
        **arguments
            Plain things that can be pickled.

        Raises
        ------
        BadInput
            When a call is under way already.
        """
        with self._lock:
            if self.busy:
                raise BadInput("something is running already", hint="wait for it, or cancel it")
            if self._closed:
                raise BadInput("this session is closed", hint="reload the page")
            self.warm()
            assert self._worker is not None
            if self.job is not None:
                self.job.wait_tidied(20)
            job = self.job = Job(cleanup)
            # a worker that is gone by now shows when its answer is waited for
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._worker.connection.send_bytes(pickle.dumps((function, arguments)))
            threading.Thread(target=self._listen, args=(self._worker, job), daemon=True).start()
        return job

    def cancel(self, grace: float = GRACE) -> None:
        """End the call: it is asked to stop, and its process ended when it has not done so after `grace` seconds."""
        with self._lock:
            job, worker = self.job, self._worker
            if job is None or worker is None or not job.active or job.state == "stopping":
                return
            job.state = "stopping"
        if grace > 0:
            with contextlib.suppress(OSError):
                worker.connection.send_bytes(pickle.dumps("stop"))
            timer = threading.Timer(grace, lambda: worker.process.kill() if job.active else None)
            timer.daemon = True
            timer.start()
        else:
            worker.process.kill()

    def close(self) -> None:
        """End the call and the worker, for good."""
        with self._lock:
            self._closed = True
            worker, self._worker = self._worker, None if not self.busy else self._worker
            busy = self.busy
        if worker is not None:
            worker.process.kill()
            if not busy:
                bury(worker)

    def _listen(self, worker: Worker, job: Job) -> None:
        """Hand what the worker says to the job, until it has ended."""
        try:
            while not job.heard(*worker.connection.recv()):
                pass
        except (EOFError, OSError):
            reason = bury(worker)
            with self._lock:
                self._worker = None
            if job.state != "stopping" and not self._closed:
                job.error = StageFailed(f"the worker process died ({reason})", hint="run it again")
                job.end("failed")
            else:
                job.end("cancelled")
                self.warm()
