"""PipelineTasks made from the table of stages: ``pipetask run -t nightlab.pipelines.tasks.CalibrateTask:calibrate``.

The classes are made when first asked for (`CalibrateTask`, `CalibrateTaskConfig`, `CalibrateTaskConnections`, one
trio per row), so that a pipeline imports the rooms it runs and no others. They have importable names: they can be
pickled, written in YAML and found by `pipetask`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import sys
import types
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any, ClassVar

import lsst.pex.config as pex
import pydantic
import sqlalchemy.exc
from lsst.daf.butler import DatasetRef, FileIntegrityError
from lsst.pipe.base import (
    InputQuantizedConnection,
    NoWorkFound,
    OutputQuantizedConnection,
    PipelineTask,
    PipelineTaskConfig,
    PipelineTaskConnections,
    QuantumContext,
    connectionTypes,
)

from nightlab.errors import CorruptFile, NightLabError, WriteFailed
from nightlab.pipelines.configs import ModelMixin, config_fields
from nightlab.pipelines.table import STAGES, Dataset, Stage, load, task_name

_KINDS: dict[str, type] = {
    "input": connectionTypes.Input,
    "prerequisite": connectionTypes.PrerequisiteInput,
    "calibration": connectionTypes.PrerequisiteInput,
    "init-output": connectionTypes.InitOutput,
    "output": connectionTypes.Output,
}
# it is only looked for to find packages of another kind of installation
logging.getLogger("lsst.utils.packages").addFilter(lambda record: "eups" not in record.getMessage())
# what the system says when it has no room or no right to write
_DATABASE_SAYS = ("readonly", "read-only", "unable to open", "is full")
_CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


class StageConnections(PipelineTaskConnections, dimensions=()):  # type: ignore[call-arg]
    """Connections of a stage; arguments that may be empty do not make a quantum disappear."""

    def adjustQuantum(  # noqa: N802, D102
        self, inputs: dict[str, Any], outputs: dict[str, Any], label: str, data_id: Any
    ) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        wanted = {name: pair for name, pair in inputs.items() if name not in self.may_be_empty or pair[1]}
        return super().adjustQuantum(wanted, outputs, label, data_id)

    may_be_empty: ClassVar[frozenset[str]] = frozenset()


class StageTask(PipelineTask):
    """A stage on a repository: read the inputs, call the function, write the results."""

    ConfigClass = PipelineTaskConfig
    _DefaultName = "stage"
    stage: ClassVar[Stage]

    def run(self, **arguments: Any) -> Any:
        """Call the stage's function with its configuration, on one thread."""
        function = load(self.stage.function)
        if self.stage.config:
            arguments["config"] = self.config.model()
        with one_thread():
            return function(**arguments)

    def runQuantum(  # noqa: N802, D102
        self, butlerQC: QuantumContext, inputRefs: InputQuantizedConnection, outputRefs: OutputQuantizedConnection
    ) -> None:
        refs = {name: getattr(inputRefs, name, None) for name in self.stage.inputs}
        self.metadata["inputs"] = inputs_digest(_flatten(refs.values()))
        try:
            arguments = {name: self._read(butlerQC, refs[name], row) for name, row in self.stage.inputs.items()}
            arguments.update((name, butlerQC.quantum.dataId[name]) for name in self.stage.data_id)
            result = self.run(**arguments)
        except NightLabError as error:
            if type(error).__name__ not in self.stage.no_work:
                raise
            self.metadata["no_work"] = str(error)
            raise NoWorkFound(str(error)) from error
        for name, row in self.stage.outputs.items():
            if row.kind == "output":
                _write(butlerQC, getattr(result, name), getattr(outputRefs, name))

    @staticmethod
    def _read(butler: QuantumContext, refs: Any, row: Dataset) -> Any:
        if refs is None or (isinstance(refs, list) and not refs):
            return [] if row.many and not row.combine else None
        if isinstance(refs, list):
            # the Butler gives them in no order; results must not depend on it
            refs = sorted(refs, key=_order)
        value = butler.get(refs)
        return load(row.combine)(value) if row.combine else value


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep BLAS, OpenMP and numba on one thread: their sums depend on how many share them, bit for bit."""
    import threadpoolctl  # type: ignore[import-untyped]

    numba = sys.modules.get("numba")
    before = numba.get_num_threads() if numba else 0
    with threadpoolctl.threadpool_limits(limits=1):
        if numba:
            numba.set_num_threads(1)
        try:
            yield
        finally:
            if numba:
                numba.set_num_threads(before)


def inputs_digest(refs: Iterable[DatasetRef]) -> str:
    """Name a set of datasets, whatever their order."""
    text = ",".join(sorted({str(ref.id) for ref in refs}))
    # the metadata take a text of nothing but digits for a number
    return f"sha256-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def write_error(error: BaseException, what: str) -> WriteFailed | None:
    """Say which file could not be written, when that is what is behind an exception; else None."""
    for link in causes(error):
        full = isinstance(link, sqlalchemy.exc.DatabaseError) and any(word in str(link) for word in _DATABASE_SAYS)
        if full or (isinstance(link, OSError) and link.errno in _CANNOT_WRITE):
            path = getattr(link, "filename", None) or ""
            reason = str(getattr(link, "orig", "") or getattr(link, "strerror", "") or link)
            return WriteFailed(
                f"{what} could not be written{f' to {path}' if path else ''}: {reason}",
                hint="make room or get the right to write there, then run the same command again",
                path=str(path),
            )
    return None


def read_error(error: BaseException, what: str) -> CorruptFile | None:
    """Say which file is not as it was stored, when that is what is behind an exception; else None."""
    for link in causes(error):
        if isinstance(link, FileIntegrityError):
            return CorruptFile(
                f"{what} cannot read one of its inputs: {' '.join(str(link).split())}",
                hint="the file was cut short or changed after it was stored; restore it, or choose a new output run",
            )
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what it came from, and so on."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or link.__context__


def _write(butler: QuantumContext, value: Any, ref: DatasetRef) -> None:
    try:
        butler.put(value, ref)
    except Exception as error:
        labels = ", ".join(f"{key}={ref.dataId[key]}" for key in ref.dataId.dimensions.required)
        failed = write_error(error, f"{ref.datasetType.name} of {labels}")
        if failed is None:
            raise
        raise failed from error


def _flatten(values: Iterable[Any]) -> Iterator[DatasetRef]:
    for value in values:
        for ref in value if isinstance(value, list) else [value] if value is not None else []:
            yield getattr(ref, "datasetRef", ref)


def _order(ref: Any) -> tuple[Any, ...]:
    return tuple(getattr(ref, "datasetRef", ref).dataId.required_values)


def make_task(stage: Stage, namespace: MutableMapping[str, Any]) -> type[StageTask]:
    """Make the task, config and connections classes of one row and put them into a module's globals.

    Parameters
    ----------
    stage
        The row.
    namespace
        Globals of the module under whose name the classes can be imported; it must hold ``__name__``.

    Returns
    -------
    type
        The task class.
    """
    name = task_name(stage.name)

    def publish(kind: type) -> Any:
        kind.__module__ = namespace["__name__"]
        kind.__qualname__ = kind.__name__
        namespace[kind.__name__] = kind
        return kind

    rows = {**stage.inputs, **stage.outputs}
    if len(rows) < len(stage.inputs) + len(stage.outputs):
        raise TypeError(f"an argument and a result of {stage.name} share a name")
    empty = frozenset(key for key, row in stage.inputs.items() if row.kind == "input" and not row.minimum)
    members = {key: _connection(row) for key, row in rows.items()} | {"may_be_empty": empty}
    connections = publish(
        types.new_class(
            f"{name}Connections", (StageConnections,), {"dimensions": stage.dimensions}, lambda ns: ns.update(members)
        )
    )
    knobs: dict[str, Any] = {}
    if stage.config:
        model = load(stage.config)
        knobs = {"model_class": model, **_nested_fields(f"{name}Config", model, publish)}
    config = publish(
        types.new_class(
            f"{name}Config",
            (ModelMixin, PipelineTaskConfig),
            {"pipelineConnections": connections},
            lambda ns: ns.update(knobs),
        )
    )
    body = {
        "ConfigClass": config,
        "_DefaultName": stage.name,
        "stage": stage,
        "__doc__": f"{stage.function} on a repository.",
    }
    return publish(types.new_class(name, (StageTask,), {}, lambda ns: ns.update(body)))


def _connection(row: Dataset) -> Any:
    keywords: dict[str, Any] = {
        "name": row.name,
        "storageClass": row.storage_class,
        "doc": f"{row.name} of {', '.join(row.dimensions) or 'the run'}",
    }
    if row.kind != "init-output":
        keywords.update(dimensions=row.dimensions, multiple=row.many)
    if row.kind in ("input", "prerequisite", "calibration"):
        keywords.update(deferLoad=row.deferred, minimum=row.minimum)
    if row.kind == "input":
        # the Butler wants at least one; adjustQuantum of StageConnections knows better
        keywords["minimum"] = max(1, row.minimum)
    if row.kind == "calibration":
        keywords["isCalibration"] = True
    return _KINDS[row.kind](**keywords)


def _nested_fields(owner: str, model: type[pydantic.BaseModel], publish: Any) -> dict[str, pex.Field]:
    def nested(name: str, inner: type[pydantic.BaseModel]) -> type[pex.Config]:
        title = owner + "".join(word.capitalize() for word in name.split("_"))
        fields = {"model_class": inner, **_nested_fields(title, inner, publish)}
        kind: type[pex.Config] = publish(
            types.new_class(title, (ModelMixin, pex.Config), {}, lambda ns: ns.update(fields))
        )
        return kind

    return config_fields(model, nested)


def __getattr__(name: str) -> Any:
    for stage in STAGES.values():
        if name.startswith(task_name(stage.name)):
            make_task(stage, globals())
            if name in globals():
                return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *(task_name(name) for name in STAGES)})
