"""The other side of a desk: the worker process, which knows nothing of pages."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import pickle
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TextIO

from nightlab.errors import NightLabError, StageFailed
from nightlab.pipelines.events import Listener, StageEvent, plain_listener
from nightlab.pipelines.table import load


@dataclass(frozen=True, kw_only=True)
class Errand:
    """What a call gets besides its arguments.

    Attributes
    ----------
    tell
        Sends an event to the page.
    say
        Sends a line to the page's log.
    stop
        Set when the page wants the call to end.
    memory
        Lives as long as the process: inputs that the next call may want again.
    """

    tell: Listener
    say: Any
    stop: threading.Event
    memory: dict[Any, Any] = field(default_factory=dict)


def main() -> None:
    """Do one call after the other; end when the page does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(int(sys.argv[1]))
    lock = threading.Lock()
    calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
    stop = threading.Event()

    def send(kind: str, what: Any) -> None:
        message = pickle.dumps((kind, what))
        with lock, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.send_bytes(message)

    def hear() -> None:
        try:
            while True:
                message = pickle.loads(connection.recv_bytes())
                if message == "stop":
                    stop.set()
                else:
                    stop.clear()
                    calls.put(message)
        except (EOFError, OSError):
            # nobody is there any more; runs can be killed at any time and taken up again
            os._exit(0)

    imports = pickle.loads(connection.recv_bytes())
    threading.Thread(target=hear, daemon=True).start()
    for module in imports:
        importlib.import_module(module)
    _tell_warnings(send)
    errand = Errand(tell=lambda event: _event(send, event), say=lambda text: send("line", text), stop=stop)
    while True:
        function, arguments = calls.get()
        try:
            send("done", load(function)(errand, **arguments))
        except NightLabError as error:
            send("failed", (error, traceback.format_exc()))
        except Exception as error:
            send("failed", (StageFailed(f"{type(error).__name__}: {error}"), traceback.format_exc()))


def _event(send: Any, event: StageEvent) -> None:
    send("event", event)
    if event.state != "started":
        plain_listener(_Lines(send))(event)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Lines:
    """What a listener takes for a stream."""

    send: Any

    def write(self, text: str) -> None:
        self.send("line", f"{time.strftime('%H:%M:%S')} {text.rstrip()}")

    def flush(self) -> None:
        """Nothing is held back."""


def _tell_warnings(send: Any) -> None:
    """Let warnings and worse appear in the page's log."""
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: send("line", f"{record.levelname}: {record.getMessage()}")  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    logging.captureWarnings(True)


def run_pipeline(
    errand: Errand,
    *,
    pipeline: str,
    data: str | None,
    repository: str,
    query: str,
    output_run: str,
    jobs: int,
    overrides: Mapping[str, Mapping[str, Any]],
) -> Any:
    """Run a pipeline as the command line does, with its log in a file beside the lock of the output run.

    Returns
    -------
    nightlab.pipelines.night.Night
    """
    from nightlab.pipelines.night import run

    errand.say(f"{time.strftime('%H:%M:%S')} {pipeline} into {output_run}: preparing")
    journal = _Journal(log_file(repository, output_run))

    def listen(event: StageEvent) -> None:
        journal.listen(event)
        errand.tell(event)

    try:
        night = run(
            pipeline,
            data,
            repository,
            query=query,
            output_run=output_run,
            jobs=jobs,
            overrides=overrides,
            listener=listen,
            stop=errand.stop,
        )
        for report in night.reports:
            for line in report.text().splitlines():
                errand.say(line)
                journal.write(line)
    finally:
        journal.close()
    return night


class _Journal:
    """A log in a file that is opened when the first thing happens: only then is there a folder for sure."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._stream: TextIO | None = None

    def write(self, text: str) -> None:
        if self._stream is None:
            self._file.parent.mkdir(exist_ok=True)
            self._stream = self._file.open("a")
        self._stream.write(f"{time.strftime('%H:%M:%S')} {text.rstrip()}\n")
        self._stream.flush()

    def flush(self) -> None:
        """Nothing is held back."""

    def listen(self, event: StageEvent) -> None:
        if event.state != "started":
            plain_listener(self)(event)  # type: ignore[arg-type]

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()


def log_file(repository: str | Path, output_run: str) -> Path:
    """Where the whole log of a run that was started from a page is kept."""
    return Path(repository) / ".nightlab" / f"{output_run.replace('/', '__')}.log"
