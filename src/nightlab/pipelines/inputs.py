"""The arguments of a stage, read by hand: what a pipeline would give it."""

from __future__ import annotations

from typing import Any

from lsst.daf.butler import DataCoordinate, DataIdValueError, DatasetRef

from nightlab.data.runs import Run
from nightlab.errors import BadInput, MissingData
from nightlab.pipelines.table import STAGES, Dataset, load


def stage_inputs(stage: str, run: Run, **data_id: int | str) -> dict[str, Any]:
    """Read what a stage is called with, so that ``function(**stage_inputs(...))`` does what the pipeline did.

    Parameters
    ----------
    stage
        A row of the table of stages, such as ``subtract``.
    run
        Whose products are taken; what the run has not made itself is taken from where the pipeline took it.
    **data_id
        Which piece of work: ``visit`` and ``detector`` for most stages; nothing for those that work on a whole night.

    Returns
    -------
    dict
        By argument name; without the configuration. Lists are in the order of their data ids.

    Raises
    ------
    BadInput
        When there is no such stage, or the data id is not one of its work.
    MissingData
        When an input that it needs is not there.
    """
    if stage not in STAGES:
        raise BadInput(f"there is no stage {stage!r}", hint=f"there are {', '.join(STAGES)}", stage=stage)
    row = STAGES[stage]
    where = _expanded(run, row.dimensions, data_id)
    arguments: dict[str, Any] = {name: where[name] for name in row.data_id}
    for argument, dataset in row.inputs.items():
        refs = sorted(_refs(run, dataset, where), key=lambda ref: ref.dataId.required_values)
        if len(refs) < dataset.minimum:
            told = ", ".join(f"{name}={where[name]}" for name in where.dimensions.required)
            raise MissingData(
                f"{run.label} has no {dataset.name} for {stage} of {told}",
                hint=f"it has {', '.join(run.types()) or 'nothing yet'}",
                dataset=dataset.name,
            )
        values = [run.butler.get(ref) for ref in refs]
        if dataset.combine:
            arguments[argument] = load(dataset.combine)(values) if values else None
        else:
            arguments[argument] = values if dataset.many else next(iter(values), None)
    return arguments


def _expanded(run: Run, dimensions: tuple[str, ...], data_id: dict[str, int | str]) -> DataCoordinate:
    """Complete a data id: the instrument and sky map when there is only one, and what follows from the rest."""
    given = dict(data_id)
    for name in ("instrument", "skymap"):
        if name in dimensions and name not in given:
            records = list(run.butler.query_dimension_records(name, explain=False))
            if len(records) == 1:
                given[name] = records[0].name
    wanted = run.butler.dimensions.conform(dimensions)
    if set(given) != set(wanted.required) | (set(given) & set(wanted.names)):
        raise BadInput(
            f"{', '.join(data_id) or 'nothing'} does not say which piece of work",
            hint=f"name {', '.join(name for name in wanted.required if name not in ('instrument', 'skymap'))}",
        )
    try:
        return run.butler.registry.expandDataId(given, dimensions=wanted)
    except DataIdValueError as error:
        told = ", ".join(f"{name}={value}" for name, value in data_id.items())
        raise MissingData(f"{run.repository} knows no {told}", hint="see run.visits()") from error


def _refs(run: Run, dataset: Dataset, where: DataCoordinate) -> list[DatasetRef]:
    """Find the datasets of one argument: those of the same labels, those over the same sky, or all of the run."""
    if not run.butler.registry.queryDatasetTypes([dataset.name]):
        return []
    labels = dict(where.required)
    if "visit" in labels:
        labels["exposure"] = labels["visit"]  # every exposure is a visit of the same number
    if dataset.kind == "calibration":
        known = {name: where[name] for name in dataset.dimensions if name in where.dimensions.names}
        ref = run.butler.find_dataset(
            dataset.name, known, collections=run.collections, timespan=where.records["visit"].timespan
        )
        return [] if ref is None else [ref]
    chosen = {name: value for name, value in labels.items() if name in dataset.dimensions}
    over = {name: value for name, value in labels.items() if name in ("instrument", "visit", "detector")}
    # pieces of the sky are those that the detector covers, or, for a patch, the visits that cover it
    chosen |= over if {"patch", "htm7"} & set(dataset.dimensions) else {}
    chosen |= labels if "patch" in labels and dataset.many else {}
    text = " AND ".join(f"{name} = {value!r}" for name, value in chosen.items())
    # what other runs have made of other visits is no part of this one
    for collections in ([run.name], run.collections) if dataset.many else (run.collections,):
        refs = run.butler.query_datasets(
            dataset.name, collections=collections, where=text, find_first=True, explain=False, limit=None
        )
        if refs:
            return refs
    return []
