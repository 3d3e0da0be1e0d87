"""What became of every quantum of a run: read from the repository, kept up to date by events."""

from __future__ import annotations

import enum
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lsst.daf.butler import Butler, DatasetRef

from nightlab.pipelines.events import StageEvent
from nightlab.pipelines.graph import load_pipeline
from nightlab.pipelines.table import NIGHT, PATCH, STAGES, VISIT

if TYPE_CHECKING:
    from nightlab.data.runs import Run

#: Pipelines we ship.
PIPELINES = ("SingleFrame", "Templates", "ApPipe")
_MIDDLEWARE = ("_log", "_metadata", "_config")

Key = tuple[int | str, ...]


class Status(enum.IntEnum):
    """What became of a quantum; the larger, the more worth knowing."""

    MISSING = 0
    DONE = 1
    IDLE = 2
    BLOCKED = 3
    FAILED = 4
    RUNNING = 5


#: Words, colours (white is readable on them) and signs of the states.
WORDS = {
    Status.MISSING: "not made",
    Status.DONE: "done",
    Status.IDLE: "nothing to do",
    Status.BLOCKED: "blocked",
    Status.FAILED: "failed",
    Status.RUNNING: "running",
}
COLOURS = {
    Status.MISSING: "#66737b",
    Status.DONE: "#257a4b",
    Status.IDLE: "#4a7f74",
    Status.BLOCKED: "#96690a",
    Status.FAILED: "#c0392b",
    Status.RUNNING: "#2a6f97",
}
SIGNS = {
    Status.MISSING: "○",
    Status.DONE: "●",
    Status.IDLE: "◌",
    Status.BLOCKED: "◆",
    Status.FAILED: "✕",
    Status.RUNNING: "◐",
}
_OF_EVENT = {
    "started": Status.RUNNING,
    "done": Status.DONE,
    "skipped": Status.IDLE,
    "failed": Status.FAILED,
    "blocked": Status.BLOCKED,
}


@dataclass(kw_only=True)
class Board:
    """State of the quanta of a pipeline.

    Attributes
    ----------
    pipeline
        Its name, ``ApPipe`` or ``ApPipe#subtract``.
    stages
        Labels, in the order of their work.
    cells
        State by stage and data id (in the order of the stage's dimensions, without instrument and sky map).
    totals
        Quanta of a stage where a run has told; else those that are known.
    messages, seconds
        What was said about a quantum, and its wall time.
    """

    pipeline: str
    stages: tuple[str, ...]
    cells: dict[str, dict[Key, Status]] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    messages: dict[tuple[str, Key], str] = field(default_factory=dict)
    seconds: dict[tuple[str, Key], float] = field(default_factory=dict)

    def apply(self, events: Iterable[StageEvent]) -> None:
        """Take over what happened."""
        for event in events:
            if event.stage not in self.stages:
                continue
            self.totals[event.stage] = event.stage_total
            if not event.data_id:
                continue
            key = key_of(event.stage, event.data_id)
            status = _OF_EVENT[event.state]
            if event.state == "skipped" and event.message.startswith("complete already"):
                status = Status.DONE
            self.cells.setdefault(event.stage, {})[key] = status
            if event.message:
                self.messages[event.stage, key] = event.message
            if event.seconds:
                self.seconds[event.stage, key] = event.seconds

    def stopped(self) -> None:
        """Nothing is at work any more."""
        for cells in self.cells.values():
            cells.update({key: Status.MISSING for key, status in cells.items() if status is Status.RUNNING})

    def counts(self, stage: str) -> Counter[Status]:
        """Count the quanta of a stage by state."""
        counts = Counter(self.cells.get(stage, {}).values())
        more = self.totals.get(stage, 0) - counts.total()
        if more > 0:
            counts[Status.MISSING] += more
        return counts

    def status(self, stage: str) -> Status:
        """State of a stage as a whole: the one most worth knowing of its quanta."""
        counts = self.counts(stage)
        if counts[Status.RUNNING] or counts[Status.FAILED]:
            return Status.RUNNING if counts[Status.RUNNING] else Status.FAILED
        if counts[Status.BLOCKED]:
            return Status.BLOCKED
        settled = counts[Status.DONE] + counts[Status.IDLE]
        return Status.DONE if settled and not counts[Status.MISSING] else Status.MISSING

    def settled(self, stage: str) -> tuple[int, int]:
        """Count the quanta of a stage that are through, and all of them."""
        counts = self.counts(stage)
        return counts[Status.DONE] + counts[Status.IDLE], counts.total()


def key_of(stage: str, data_id: Mapping[str, Any]) -> Key:
    """Give the cell of a data id: its values in the order of the stage's dimensions."""
    names = key_names(stage)
    return tuple(data_id[name] for name in names if name in data_id)


def key_names(stage: str) -> tuple[str, ...]:
    """Name the dimensions of a stage's cells: instrument and sky map go without saying unless they are all."""
    dimensions = STAGES[stage].dimensions if stage in STAGES else VISIT
    return tuple(name for name in dimensions if name not in ("instrument", "skymap")) or dimensions


def group_of(stage: str) -> str:
    """Name the kind of data ids a stage works on: ``visit``, ``patch`` or ``night``."""
    return {VISIT: "visit", PATCH: "patch", NIGHT: "night"}.get(STAGES[stage].dimensions, "night")


def stages_of(pipeline: str) -> tuple[str, ...]:
    """Labels of a pipeline's stages in the order of their work.

    Raises
    ------
    BadInput
        When there is no such pipeline or stage.
    """
    return tuple(load_pipeline(pipeline).task_labels)


def pipeline_of(run: Run) -> str:
    """Guess the pipeline that made a run: by its name, else by the stages whose knobs it has recorded."""
    last = run.name.rpartition("/")[2]
    for name in PIPELINES:
        if last == name:
            return name
    refs = run.fresh().query_all_datasets(run.name, find_first=False, limit=None)
    names = {ref.datasetType.name for ref in refs}
    made = {name.removesuffix("_config") for name in names if name.endswith("_config")}
    fits = {name: set(stages_of(name)) for name in PIPELINES}
    return next((name for name in PIPELINES if made and made <= fits[name]), "ApPipe")


def read_board(run: Run | None, pipeline: str) -> Board:
    """Read from the repository what became of every quantum.

    A quantum is done when its metadata and products are there, had nothing to do when it has metadata alone, and has
    failed when it left a log and nothing else. What other stages of the same kind have worked on and this one has not,
    is not made.

    Parameters
    ----------
    run
        The output run; None before there is one.
    pipeline
        Name of the pipeline, perhaps with ``#stage``.
    """
    board = Board(pipeline=pipeline, stages=stages_of(pipeline))
    if run is None:
        return board
    found = _found(run.fresh(), run.name)
    for stage in board.stages:
        logs, metadata = found.get(f"{stage}_log", set()), found.get(f"{stage}_metadata", set())
        products = [found[row.name] for row in STAGES[stage].outputs.values() if row.name in found]
        made = set().union(*products) if products else set()
        board.cells[stage] = {
            **dict.fromkeys(logs - metadata, Status.FAILED),
            **{key: Status.DONE if key in made else Status.IDLE for key in metadata},
        }
    for group in {group_of(stage) for stage in board.stages}:
        members = [stage for stage in board.stages if group_of(stage) == group]
        known = set().union(*(board.cells[stage] for stage in members))
        for stage in members:
            board.cells[stage] = {**dict.fromkeys(known, Status.MISSING), **board.cells[stage]}
    return board


def _found(butler: Butler, name: str) -> dict[str, set[Key]]:
    """Data ids by dataset type of everything in a run."""
    found: dict[str, set[Key]] = {}
    for ref in butler.query_all_datasets(name, find_first=False, limit=None):
        if not ref.datasetType.name.endswith("_config"):
            found.setdefault(ref.datasetType.name, set()).add(_key(ref))
    return found


def _key(ref: DatasetRef) -> Key:
    values = dict(ref.dataId.required)
    names = {frozenset(names): names for names in (VISIT, PATCH, NIGHT)}.get(frozenset(values), tuple(values))
    shown = tuple(name for name in names if name not in ("instrument", "skymap")) or names
    return tuple(values[name] for name in shown)


def data_id_of(stage: str, key: Key) -> dict[str, int | str]:
    """Give the data id of a cell, without instrument and sky map."""
    return dict(zip(key_names(stage), key, strict=False))


def reproduce(
    pipeline: str, repository: str, output_run: str, *, query: str = "", jobs: int = 2, knobs: Iterable[str] = ()
) -> str:
    """Write the command that does the same on a command line."""
    command = ["nightlab", "run", pipeline, "--repository", repository, "--output", output_run]
    command += ["--query", query] if query else []
    command += ["--jobs", str(jobs)] if jobs != 2 else []
    command += [part for text in knobs for part in ("--set", text)]
    return shlex.join(command)


def where(data_id: Mapping[str, int | str], instrument: str = "") -> str:
    """Write the query that selects one data id."""
    whole = {**({"instrument": instrument} if instrument else {}), **data_id}
    return " AND ".join(f"{name}={value!r}" for name, value in whole.items())
