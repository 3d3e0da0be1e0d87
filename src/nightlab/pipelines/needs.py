"""What a quantum still has to work on when something before it failed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from lsst.daf.butler import Quantum
from lsst.pipe.base.pipeline_graph import PipelineGraph, TaskNode


@dataclass(frozen=True, kw_only=True)
class Need:
    """Quanta that make one input of another quantum.

    Attributes
    ----------
    makers
        One per dataset that is made in the same run.
    others
        Datasets that are there already.
    minimum
        Fewest datasets the stage accepts; for an input that is no list, all of them.
    """

    makers: tuple[UUID, ...]
    others: int
    minimum: int


def minima(node: TaskNode) -> dict[str, int | None]:
    """Give, by dataset type, the fewest datasets a stage accepts in a list; None where it reads a single one."""
    connections = node.get_connections()
    free: frozenset[str] = getattr(connections, "may_be_empty", frozenset())
    read = {name: getattr(connections, name) for name in connections.inputs}
    return {row.name: (0 if name in free else row.minimum) if row.multiple else None for name, row in read.items()}


def needs_of(stages: PipelineGraph, quanta: Mapping[UUID, tuple[str, Quantum]]) -> dict[UUID, list[Need]]:
    """Find out which of some quanta make what the others read.

    Parameters
    ----------
    stages
        The pipeline.
    quanta
        Label and quantum by id.

    Returns
    -------
    dict
        For every quantum, one `Need` per input that another quantum makes.
    """
    maker = {ref.id: key for key, (_, quantum) in quanta.items() for refs in quantum.outputs.values() for ref in refs}
    fewest = {label: minima(stages.tasks[label]) for label in {label for label, _ in quanta.values()}}
    needs: dict[UUID, list[Need]] = {}
    for key, (label, quantum) in quanta.items():
        needs[key] = []
        for kind, refs in quantum.inputs.items():
            if kind.name not in fewest[label]:
                continue
            makers = tuple(maker[ref.id] for ref in refs if ref.id in maker)
            minimum = fewest[label][kind.name]
            if makers:
                need = Need(
                    makers=makers,
                    others=len(refs) - len(makers),
                    minimum=len(refs) if minimum is None else minimum,
                )
                needs[key].append(need)
    return needs


def lacking(needs: Iterable[Need], lost: Mapping[UUID, UUID]) -> tuple[bool, list[UUID]]:
    """Tell whether a quantum can be run without what is lost.

    Parameters
    ----------
    needs
        Of the quantum.
    lost
        Quanta without results, and the failure behind each.

    Returns
    -------
    tuple of bool and list
        Whether it can, and the failures behind what it lacks, each once.
    """
    needs = list(needs)
    gone = [maker for need in needs for maker in need.makers if maker in lost]
    there = sum(len(need.makers) + need.others for need in needs) - len(gone)
    enough = all(
        need.others + sum(maker not in lost for maker in need.makers) >= need.minimum
        for need in needs
        if any(maker in lost for maker in need.makers)
    )
    return not gone or (enough and there > 0), list(dict.fromkeys(lost[maker] for maker in gone))
