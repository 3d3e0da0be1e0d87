"""What happens in a run, as one stream of events, and two ways to show it."""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TextIO

_ORDER = ("exposure", "visit", "detector", "tract", "patch", "band")

State = Literal["started", "done", "failed", "skipped", "blocked"]


@dataclass(frozen=True, kw_only=True)
class StageEvent:
    """One thing that happened to one quantum.

    Attributes
    ----------
    stage
        Label of the stage.
    data_id
        What the quantum works on; empty for a remark about the whole stage.
    state
        ``skipped``: complete before this run, or nothing to do; ``blocked``: something before it failed.
    done, total
        Quanta of the run that are settled by now, in whatever way, and all of them.
    stage_done, stage_total
        The same for this stage alone.
    message
        The error's or a remark's own words.
    seconds
        Wall time of the quantum; 0 unless done or failed.
    run
        Output run it belongs to.
    """

    stage: str
    data_id: Mapping[str, int | str] = field(default_factory=dict)
    state: State
    done: int
    total: int
    stage_done: int = 0
    stage_total: int = 0
    message: str = ""
    seconds: float = 0.0
    run: str = ""


Listener = Callable[[StageEvent], None]


def label(data_id: Mapping[str, int | str]) -> str:
    """Write a data id for people: ``visit 12 detector 3``; the instrument goes without saying unless it is all."""
    shown = [key for key in data_id if key not in ("instrument", "skymap")] or list(data_id)
    shown.sort(key=lambda key: (_ORDER.index(key) if key in _ORDER else len(_ORDER), key))
    return " ".join(f"{key} {data_id[key]}" for key in shown)


def silent_listener(event: StageEvent) -> None:
    """Show nothing."""


def plain_listener(stream: TextIO | None = None, *, verbose: bool = False) -> Listener:
    """Make a listener that writes one line per settled quantum.

    Parameters
    ----------
    stream
        Where to; standard error unless given.
    verbose
        Whether starts are told too.
    """
    target = stream or sys.stderr

    def listen(event: StageEvent) -> None:
        if event.state == "started" and not verbose:
            return
        parts = [f"[{event.done}/{event.total}]", event.stage, label(event.data_id), event.state]
        if event.seconds:
            parts.append(f"{event.seconds:.1f} s")
        line = " ".join(part for part in parts if part)
        target.write(f"{line}: {event.message}\n" if event.message else f"{line}\n")
        target.flush()

    return listen


@contextlib.contextmanager
def rich_listener() -> Iterator[Listener]:
    """Show live bars on a terminal, one per stage, and a line for whatever went wrong.

    Yields
    ------
    Callable
        The listener; the bars go when the context is left.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    colours = {"failed": "red", "blocked": "yellow", "skipped": "dim"}
    with Progress(*columns, console=console) as progress:
        bars = {}
        troubles: Counter[str] = Counter()

        def listen(event: StageEvent) -> None:
            if event.stage not in bars:
                bars[event.stage] = progress.add_task(event.stage, total=event.stage_total, note="")
            note = label(event.data_id) if event.state == "started" else ""
            if event.state in ("failed", "blocked"):
                troubles[event.stage] += 1
            if troubles[event.stage]:
                note = f"{troubles[event.stage]} not made  {note}"
            progress.update(bars[event.stage], completed=event.stage_done, total=event.stage_total, note=note)
            if event.message and event.state in colours:
                text = f"{event.stage} {label(event.data_id)} {event.state}: {event.message}"
                console.print(text, style=colours[event.state], markup=False, highlight=False)

        yield listen
