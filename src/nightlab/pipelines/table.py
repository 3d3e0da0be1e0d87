"""The table of stages: what each one reads, writes and is called with.

One row per stage. From a row everything else follows: the PipelineTask (`nightlab.pipelines.tasks`), the local run
(`nightlab.pipelines.run`), forms and pages. Functions and configs are named, not imported, so reading the table is
cheap and needs no guest package.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["input", "prerequisite", "calibration", "init-output", "output"]

VISIT = ("instrument", "visit", "detector")
EXPOSURE = ("instrument", "exposure", "detector")
PATCH = ("skymap", "tract", "patch", "band")
NIGHT = ("instrument",)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """One argument or one result of a stage.

    Attributes
    ----------
    name
        Dataset type in the repository. It must not end in ``_log``, ``_metadata`` or ``_config``: the middleware would
        take a product of that name for one of its own.
    storage_class
        How it is kept there.
    dimensions
        What labels one of them.
    kind
        ``input`` is made by another stage or ingested and decides which quanta exist; ``prerequisite`` must be there
        before the graph is made; ``calibration`` is a prerequisite looked up by time.
    many
        Whether the argument is a list, in the order of the data ids.
    minimum
        Fewest that the stage accepts. With 0 a single one becomes None when absent.
    deferred
        Whether the function receives handles with a ``get`` instead of the objects.
    combine
        ``module:function`` that makes one object of many before the call; None when there are none.
    """

    name: str
    storage_class: str
    dimensions: tuple[str, ...]
    kind: Kind = "input"
    many: bool = False
    minimum: int = 1
    deferred: bool = False
    combine: str = ""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: a function, its knobs, and what binds its arguments and results to a repository.

    Attributes
    ----------
    name
        Label of the stage in pipelines.
    function
        ``module:function``; called with the inputs, `data_id` and ``config`` as keywords.
    config
        ``module:class`` of its configuration; empty for a function without knobs.
    dimensions
        What labels one quantum of its work.
    inputs
        By argument name.
    outputs
        By attribute of the result.
    data_id
        Dimensions whose values the function is called with.
    no_work
        Names of errors (of `nightlab.errors`) that mean "nothing to do here" and not "failed": they are reported, the
        quanta after them are skipped, and the rest of the run goes on.
    """

    name: str
    function: str
    config: str = ""
    dimensions: tuple[str, ...]
    inputs: Mapping[str, Dataset] = field(default_factory=dict)
    outputs: Mapping[str, Dataset] = field(default_factory=dict)
    data_id: tuple[str, ...] = ()
    no_work: tuple[str, ...] = ()


def load(dotted: str) -> Any:
    """Import what ``module:name`` names."""
    module, _, name = dotted.partition(":")
    return getattr(importlib.import_module(module), name)


def task_name(stage: str) -> str:
    """Name of the PipelineTask class of a stage: ``warp_template`` gives ``WarpTemplateTask``."""
    return "".join(word.capitalize() for word in stage.split("_")) + "Task"


def _visit(name: str, storage_class: str, **more: Any) -> Dataset:
    return Dataset(name=name, storage_class=storage_class, dimensions=VISIT, **more)


def _calibration(name: str, storage_class: str, *more: str) -> Dataset:
    """Row of something known about a detector for a span of time; there may be none."""
    dimensions = ("instrument", "detector", *more)
    return Dataset(name=name, storage_class=storage_class, dimensions=dimensions, kind="calibration", minimum=0)


def _out(name: str, storage_class: str, dimensions: tuple[str, ...]) -> Dataset:
    return Dataset(name=name, storage_class=storage_class, dimensions=dimensions, kind="output")


def _metrics(name: str, dimensions: tuple[str, ...]) -> Dataset:
    return _out(name, "XarrayDataset", dimensions)


_METRICS: dict[str, tuple[str, ...]] = {
    "single_frame_metrics": VISIT,
    "template_metrics": PATCH,
    "template_detector_metrics": VISIT,
    "difference_metrics": VISIT,
    "dia_source_metrics": VISIT,
    "association_metrics": NIGHT,
    "forced_metrics": VISIT,
}


def _gather(label: str, *names: str) -> Stage:
    """Row of the stage that collects the measurements of one pipeline."""
    return Stage(
        name=label,
        function="nightlab.quality:gather",
        dimensions=NIGHT,
        inputs={
            name: Dataset(name=name, storage_class="XarrayDataset", dimensions=_METRICS[name], many=True, minimum=0)
            for name in names
        },
        outputs={"metrics": _metrics("metrics", NIGHT)},
    )


_ROWS = (
    Stage(
        name="calibrate",
        function="nightlab.stages.single_frame:calibrate",
        config="nightlab.stages.single_frame:CalibrateConfig",
        dimensions=VISIT,
        inputs={
            "raw": Dataset(name="raw", storage_class="VisitImage", dimensions=EXPOSURE),
            "bias": _calibration("bias", "ImageV2"),
            "flat": _calibration("flat", "ImageV2", "physical_filter"),
            "dark": _calibration("dark", "ImageV2"),
            "defects": _calibration("defects", "ArrowAstropy"),
            "crosstalk": _calibration("crosstalk", "ArrowAstropy"),
            "linearity": _calibration("linearity", "ArrowAstropy"),
            "brighter_fatter": _calibration("brighter_fatter", "ImageV2"),
            "reference": Dataset(
                name="reference",
                storage_class="ArrowAstropy",
                dimensions=("htm7",),
                kind="prerequisite",
                many=True,
                minimum=0,
                combine="nightlab.pipelines.combine:stack_shards",
            ),
        },
        outputs={
            "visit_image": _out("visit_image", "VisitImage", VISIT),
            "source": _out("source", "ArrowAstropy", VISIT),
            "footprints": _out("source_footprint", "NightLabFootprints", VISIT),
            "metrics": _metrics("single_frame_metrics", VISIT),
        },
    ),
    Stage(
        name="build_template",
        function="nightlab.stages.templates:build_template",
        config="nightlab.stages.templates:TemplateConfig",
        dimensions=PATCH,
        inputs={
            "visit_images": _visit("visit_image", "VisitImage", many=True),
            "sky_map": Dataset(
                name="sky_map", storage_class="NightLabSkyMap", dimensions=("skymap",), kind="prerequisite"
            ),
        },
        outputs={
            "template_coadd": _out("template_coadd", "CellCoadd", PATCH),
            "metrics": _metrics("template_metrics", PATCH),
        },
        data_id=("tract", "patch"),
        no_work=("NoOverlap",),
    ),
    Stage(
        name="warp_template",
        function="nightlab.stages.templates:warp_template",
        config="nightlab.stages.templates:TemplateConfig",
        dimensions=VISIT,
        inputs={
            "visit_image": _visit("visit_image", "VisitImage"),
            # none at all is for the stage to report as NoOverlap, not for the graph to stumble over
            "template_coadd": Dataset(
                name="template_coadd",
                storage_class="CellCoadd",
                dimensions=PATCH,
                kind="prerequisite",
                many=True,
                minimum=0,
            ),
        },
        outputs={
            "template_detector": _out("template_detector", "DifferenceImage", VISIT),
            "metrics": _metrics("template_detector_metrics", VISIT),
        },
        no_work=("NoOverlap",),
    ),
    Stage(
        name="subtract",
        function="nightlab.stages.differencing:subtract",
        config="nightlab.stages.differencing:SubtractConfig",
        dimensions=VISIT,
        inputs={
            "science": _visit("visit_image", "VisitImage"),
            "template": _visit("template_detector", "DifferenceImage"),
            "source": _visit("source", "ArrowAstropy"),
        },
        outputs={
            "difference_image": _out("difference_image", "DifferenceImage", VISIT),
            "metrics": _metrics("difference_metrics", VISIT),
        },
    ),
    Stage(
        name="detect_dia_sources",
        function="nightlab.stages.differencing:detect_dia_sources",
        config="nightlab.stages.differencing:DetectConfig",
        dimensions=VISIT,
        inputs={
            "difference_image": _visit("difference_image", "DifferenceImage"),
            "visit_image": _visit("visit_image", "VisitImage"),
            "template_detector": _visit("template_detector", "DifferenceImage"),
        },
        outputs={
            "dia_source_unassociated": _out("dia_source_unassociated", "ArrowAstropy", VISIT),
            "metrics": _metrics("dia_source_metrics", VISIT),
        },
    ),
    Stage(
        name="associate",
        function="nightlab.stages.association:associate",
        config="nightlab.stages.association:AssociateConfig",
        dimensions=NIGHT,
        inputs={"dia_source_unassociated": _visit("dia_source_unassociated", "ArrowAstropy", many=True)},
        outputs={
            "dia_source": _out("dia_source", "ArrowAstropy", NIGHT),
            "dia_object": _out("dia_object", "ArrowAstropy", NIGHT),
            "metrics": _metrics("association_metrics", NIGHT),
        },
    ),
    Stage(
        name="force_photometry",
        function="nightlab.stages.association:force_photometry",
        config="nightlab.stages.association:ForcedConfig",
        dimensions=VISIT,
        inputs={
            "difference_image": _visit("difference_image", "DifferenceImage"),
            "visit_image": _visit("visit_image", "VisitImage"),
            "dia_object": Dataset(name="dia_object", storage_class="ArrowAstropy", dimensions=NIGHT),
        },
        outputs={
            "dia_forced_source": _out("dia_forced_source", "ArrowAstropy", VISIT),
            "metrics": _metrics("forced_metrics", VISIT),
        },
    ),
    Stage(
        name="fill_apdb",
        function="nightlab.data.apdb:fill_apdb",
        config="nightlab.data.apdb:ApdbConfig",
        dimensions=NIGHT,
        inputs={
            "dia_source": Dataset(name="dia_source", storage_class="ArrowAstropy", dimensions=NIGHT),
            "dia_object": Dataset(name="dia_object", storage_class="ArrowAstropy", dimensions=NIGHT),
            "dia_forced_source": _visit("dia_forced_source", "ArrowAstropy", many=True),
        },
        # pipe_base takes whatever ends in _log for a log of its own
        outputs={"apdb_log": _out("apdb_visits", "ArrowAstropy", NIGHT)},
    ),
    _gather("gather_single_frame_metrics", "single_frame_metrics"),
    _gather("gather_template_metrics", "single_frame_metrics", "template_metrics"),
    _gather(
        "gather_metrics",
        "single_frame_metrics",
        "template_detector_metrics",
        "difference_metrics",
        "dia_source_metrics",
        "association_metrics",
        "forced_metrics",
    ),
)

#: Every stage by name.
STAGES: dict[str, Stage] = {stage.name: stage for stage in _ROWS}
