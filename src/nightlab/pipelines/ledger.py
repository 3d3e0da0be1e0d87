"""The books of a run: what was told, what went wrong, and the report at the end."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from lsst.daf.butler import Quantum

from nightlab.errors import StageFailed
from nightlab.pipelines.events import Listener, StageEvent, State, label
from nightlab.pipelines.graph import Plan, data_id, where
from nightlab.pipelines.worker import Outcome, Place


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
    partial
        Quanta whose results are there, but were made without what the failed ones should have given.
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
    partial: tuple[Trouble, ...] = ()
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
        if self.existing == self.total:
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
        lines += [f"  incomplete: {item.stage} {label(item.data_id)}: {item.message}" for item in self.partial]
        if self.partial:
            lines.append(
                "  to complete it: mend what failed and run the same command again; what rests on it is redone"
            )
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Accounts of one run; the counters and lists are filled as it goes on."""

    pipeline: str
    place: Place
    config: Mapping[str, Any]
    listener: Listener
    plan: Plan
    quanta: Mapping[UUID, Quantum]
    labels: Mapping[UUID, str]
    totals: Counter[str]
    count: Counter[str]
    idle: list[Trouble] = field(default_factory=list)
    failed: list[Trouble] = field(default_factory=list)
    blocked: list[Trouble] = field(default_factory=list)
    partial: list[Trouble] = field(default_factory=list)
    made: list[UUID] = field(default_factory=list)
    kept: list[UUID] = field(default_factory=list)
    discarded: list[UUID] = field(default_factory=list)


def open_ledger(plan: Plan, place: Place, *, pipeline: str, config: Mapping[str, Any], listener: Listener) -> Ledger:
    """Begin the books with what is complete already, and tell the listener."""
    labels = {key: str(info["task_label"]) for key, info in plan.graph.quantum_only_xgraph.nodes.items()}
    ledger = Ledger(
        pipeline=pipeline,
        place=place,
        config=config,
        listener=listener,
        plan=plan,
        quanta=plan.graph.build_execution_quanta(),
        labels=labels,
        totals=Counter(labels.values()),
        count=Counter(labels[key] for key in plan.complete),
    )
    for stage, there in ledger.count.items():
        total = ledger.totals[stage]
        listener(
            StageEvent(
                stage=stage,
                state="skipped",
                done=ledger.count.total(),
                total=len(labels),
                stage_done=there,
                stage_total=total,
                message=f"{there} of {total} complete already",
                run=place.output_run,
            )
        )
    for key, message in plan.no_work.items():
        ledger.idle.append(_trouble(ledger, key, Outcome(state="idle", message=message)))
    return ledger


def tell(ledger: Ledger, key: UUID, state: State, message: str = "", seconds: float = 0.0) -> None:
    """Tell the listener what happened to a quantum."""
    stage = ledger.labels[key]
    ledger.listener(
        StageEvent(
            stage=stage,
            data_id=data_id(ledger.quanta[key]),
            state=state,
            done=ledger.count.total(),
            total=len(ledger.labels),
            stage_done=ledger.count[stage],
            stage_total=ledger.totals[stage],
            message=message,
            seconds=seconds,
            run=ledger.place.output_run,
        )
    )


def settle(ledger: Ledger, key: UUID, outcome: Outcome, causes: list[UUID]) -> None:
    """Book how a quantum ended, and the failures because of which it lacked inputs."""
    ledger.count[ledger.labels[key]] += 1
    without = _names(ledger, causes)
    match outcome.state:
        case "blocked":
            outcome = Outcome(state="blocked", message=f"needs {without}, which failed")
            ledger.blocked.append(_trouble(ledger, key, outcome))
            tell(ledger, key, "blocked", outcome.message)
            if key in ledger.plan.provisional:
                ledger.discarded.append(key)
            return
        case "failed":
            ledger.failed.append(_trouble(ledger, key, outcome))
            tell(ledger, key, "failed", outcome.message, outcome.seconds)
            return
        case "idle":
            ledger.idle.append(_trouble(ledger, key, outcome))
            tell(ledger, key, "skipped", outcome.message, outcome.seconds)
            return
    message = f"without {without}, which failed" if causes else ""
    if causes:
        ledger.partial.append(_trouble(ledger, key, Outcome(state=outcome.state, message=f"made {message}")))
    if outcome.state == "kept":
        ledger.kept.append(key)
        tell(ledger, key, "skipped", f"complete already{message and ', '}{message}")
    else:
        ledger.made.append(key)
        tell(ledger, key, "done", message, outcome.seconds)


def _names(ledger: Ledger, keys: list[UUID], most: int = 3) -> str:
    """Name quanta for people: ``calibrate visit 3 detector 0, ... and 4 more``."""
    shown = [f"{ledger.labels[key]} {label(data_id(ledger.quanta[key]))}" for key in keys[:most]]
    more = len(keys) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def close_ledger(ledger: Ledger, seconds: float) -> RunReport:
    """Write the report."""
    return RunReport(
        pipeline=ledger.pipeline,
        repo=ledger.place.repo,
        output_run=ledger.place.output_run,
        total=len(ledger.labels),
        existing=len(ledger.plan.complete) + len(ledger.kept),
        done=len(ledger.made),
        idle=tuple(ledger.idle),
        failed=tuple(ledger.failed),
        blocked=tuple(ledger.blocked),
        partial=tuple(ledger.partial),
        seconds=seconds,
        stopped=ledger.count.total() < len(ledger.labels),
    )


def _trouble(ledger: Ledger, key: UUID, outcome: Outcome) -> Trouble:
    quantum = ledger.quanta[key]
    knobs = [part for name, value in ledger.config.items() for part in ("--set", f"{name}={value}")]
    name = f"{ledger.pipeline.partition('#')[0]}#{ledger.labels[key]}"
    place = ledger.place
    command = ["nightlab", "run", name, "-b", place.repo, "-o", place.output_run, "-d", where(quantum), *knobs]
    return Trouble(
        stage=ledger.labels[key],
        data_id=data_id(quantum),
        message=outcome.message,
        error=outcome.error,
        details=outcome.details,
        command=shlex.join(command),
    )
