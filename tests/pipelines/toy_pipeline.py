"""A pipeline of cheap stages on small tables, and a repository made by hand for it."""

import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydantic
from astropy.table import Table
from astropy.time import Time, TimeDelta
from lsst.daf.butler import Butler, CollectionType, DatasetType, Timespan
from lsst.sphgeom import ConvexPolygon, HtmPixelization, LonLat, UnitVector3d
from pydantic import Field

from nightlab.config import Config
from nightlab.errors import NoOverlap, TooFewStars
from nightlab.pipelines.table import Dataset, Stage
from nightlab.pipelines.tasks import make_task

VISIT = ("instrument", "visit", "detector")
EXPOSURE = ("instrument", "exposure", "detector")
NIGHT = ("instrument",)
TABLE = {"storage_class": "ArrowAstropy", "kind": "output"}
VISITS = (1, 2, 3, 4)
DETECTORS = (0, 1)


class Inner(Config):
    threshold: float = Field(5.0, gt=0, le=100, description="Threshold [sigma].")


class MeasureConfig(Config):
    gain: float = Field(2.0, gt=0, description="Gain [electron/adu].")
    method: str = Field("mean", description="How.")
    orders: tuple[int, ...] = Field((1, 2), description="Orders.")
    limit: float | None = Field(None, ge=0, description="Limit [adu]; None for no limit.")
    detect: Inner = Field(Inner(), description="Detection.")
    bare_visit: int = Field(0, description="Visit without overlap.")

    @pydantic.model_validator(mode="after")
    def _together(self) -> "MeasureConfig":
        if self.gain > 50 and self.detect.threshold > 50:
            raise ValueError("gain and threshold cannot both be large")
        return self


def measure(raw, bias=None, reference=None, config=MeasureConfig()):
    """Values and their matrix product: BLAS is in it on purpose."""
    visit = int(raw["visit"][0])
    with open(os.environ.get("TOY_JOURNAL", os.devnull), "a") as journal:
        journal.write(f"measure {visit}\n")
    time.sleep(float(os.environ.get("TOY_SECONDS", "0")))
    if str(visit) in os.environ.get("TOY_FAIL", "").split(","):
        raise TooFewStars(f"visit {visit} has 2 stars, 10 are needed", hint="lower the threshold")
    if visit == config.bare_visit:
        raise NoOverlap(f"nothing covers visit {visit}")
    if flag := os.environ.get("TOY_KILL"):
        _die_once(Path(flag), visit)
    values = np.asarray(raw["value"]) * config.gain - (0 if bias is None else bias["level"][0])
    matrix = np.outer(values, values) / len(values)
    table = Table({"visit": raw["visit"], "value": (matrix @ values) / values.sum()})
    table["n_reference"] = 0 if reference is None else len(reference)
    if size := int(os.environ.get("TOY_BIG", "0")):
        table = Table({"visit": np.full(size, visit), "value": np.random.default_rng(visit).random(size)})
    return SimpleNamespace(table=table, summary={"sum": float(values.sum())})


def _die_once(flag: Path, visit: int) -> None:
    """Kill this process as the kernel would, the first time (or each time when the flag says so) visit 2 comes by."""
    if visit == 2 and flag.exists():
        if flag.read_text() == "once":
            flag.unlink()
        os.kill(os.getpid(), 9)


def stack(tables, tract, patch):
    return SimpleNamespace(stacked=Table({"tract": [tract], "patch": [patch], "sum": [sum(map(_sum, tables))]}))


def join(tables, summaries=()):
    order = [int(table["visit"][0]) for table in tables]
    with open(os.environ.get("TOY_JOURNAL", os.devnull), "a") as journal:
        journal.write("join\n")
    return SimpleNamespace(
        joined=Table({"visit": order, "sum": [_sum(table) for table in tables]}),
    )


def check(table, joined):
    return SimpleNamespace(checked=Table({"visit": table["visit"][:1], "total": [joined["sum"].sum()]}))


def _sum(table) -> float:
    return float(np.asarray(table["value"]).sum())


STAGES = {
    "measure": Stage(
        name="toy_measure",
        function="toy_pipeline:measure",
        config="toy_pipeline:MeasureConfig",
        dimensions=VISIT,
        inputs={
            "raw": Dataset(
                name="toy_raw", storage_class="ArrowAstropy", dimensions=("instrument", "exposure", "detector")
            ),
            "bias": Dataset(
                name="toy_bias",
                storage_class="ArrowAstropy",
                dimensions=("instrument", "detector"),
                kind="calibration",
                minimum=0,
            ),
            "reference": Dataset(
                name="toy_reference",
                storage_class="ArrowAstropy",
                dimensions=("htm7",),
                kind="prerequisite",
                many=True,
                minimum=0,
                combine="nightlab.pipelines.combine:stack_shards",
            ),
        },
        outputs={
            "table": Dataset(name="toy_table", dimensions=VISIT, **TABLE),
            "summary": Dataset(
                name="toy_summary", storage_class="StructuredDataDict", dimensions=VISIT, kind="output"
            ),
        },
        no_work=("NoOverlap",),
    ),
    "stack": Stage(
        name="toy_stack",
        function="toy_pipeline:stack",
        dimensions=("skymap", "tract", "patch", "band"),
        inputs={"tables": Dataset(name="toy_table", storage_class="ArrowAstropy", dimensions=VISIT, many=True)},
        outputs={
            "stacked": Dataset(
                name="toy_stacked",
                storage_class="ArrowAstropy",
                dimensions=("skymap", "tract", "patch", "band"),
                kind="output",
            )
        },
        data_id=("tract", "patch"),
    ),
    "join": Stage(
        name="toy_join",
        function="toy_pipeline:join",
        dimensions=("instrument",),
        inputs={
            "tables": Dataset(name="toy_table", storage_class="ArrowAstropy", dimensions=VISIT, many=True),
            "summaries": Dataset(
                name="toy_summary", storage_class="StructuredDataDict", dimensions=VISIT, many=True, minimum=0
            ),
        },
        outputs={
            "joined": Dataset(
                name="toy_joined", storage_class="ArrowAstropy", dimensions=("instrument",), kind="output"
            )
        },
    ),
    "check": Stage(
        name="toy_check",
        function="toy_pipeline:check",
        dimensions=VISIT,
        inputs={
            "table": Dataset(name="toy_table", storage_class="ArrowAstropy", dimensions=VISIT),
            "joined": Dataset(name="toy_joined", storage_class="ArrowAstropy", dimensions=NIGHT),
        },
        outputs={"checked": Dataset(name="toy_checked", dimensions=VISIT, **TABLE)},
    ),
}

for _stage in STAGES.values():
    make_task(_stage, globals())

YAML = """
description: toy
tasks:
  measure: {class: toy_pipeline.ToyMeasureTask}
  stack: {class: toy_pipeline.ToyStackTask}
  join: {class: toy_pipeline.ToyJoinTask}
"""
WITH_CHECK = f"{YAML}  check: {{class: toy_pipeline.ToyCheckTask}}\n"
INPUTS = ("Toy/raw", "Toy/calib", "refcats")


def _box(ra: float, dec: float, half: float) -> ConvexPolygon:
    corners = [(ra - half, dec - half), (ra + half, dec - half), (ra + half, dec + half), (ra - half, dec + half)]
    return ConvexPolygon([UnitVector3d(LonLat.fromDegrees(*corner)) for corner in corners])


def make_repository(root: Path) -> Path:
    """Four visits of two detectors on two patches, a bias and two shards of a reference catalogue."""
    Butler.makeRepo(str(root))
    butler = Butler.from_config(str(root), writeable=True)
    registry = butler.registry
    instrument = {"instrument": "Toy"}
    registry.insertDimensionData(
        "instrument",
        {
            **instrument,
            "class_name": "toy",
            "visit_max": 10**6,
            "exposure_max": 10**6,
            "detector_max": 10,
            "visit_system": 0,
        },
    )
    registry.insertDimensionData("physical_filter", {**instrument, "physical_filter": "toy_r", "band": "r"})
    for detector in DETECTORS:
        registry.insertDimensionData("detector", {**instrument, "id": detector, "full_name": f"D{detector}"})
    registry.insertDimensionData("visit_system", {**instrument, "id": 0, "name": "one-to-one"})
    registry.insertDimensionData("day_obs", {**instrument, "id": 20260101})
    registry.insertDimensionData(
        "skymap", {"name": "toy_sky", "hash": b"toy", "tract_max": 1, "patch_nx_max": 2, "patch_ny_max": 1}
    )
    registry.insertDimensionData("tract", {"skymap": "toy_sky", "id": 0, "region": _box(10.0, 0.0, 1.0)})
    for patch in (0, 1):
        place = {"cell_x": patch, "cell_y": 0, "region": _box(9.5 + patch, 0.0, 0.49)}
        registry.insertDimensionData("patch", {"skymap": "toy_sky", "tract": 0, "id": patch, **place})
    for visit in VISITS:
        _insert_visit(registry, visit)
    _fill(butler)
    butler.close()
    return root


def _insert_visit(registry, visit: int) -> None:
    begin = Time(60000.0 + visit, format="mjd", scale="tai")
    span = Timespan(begin, begin + TimeDelta(30.0, format="sec"))
    common = {"instrument": "Toy", "day_obs": 20260101, "physical_filter": "toy_r", "id": visit}
    common |= {"exposure_time": 30.0, "timespan": span}
    registry.insertDimensionData("group", {"instrument": "Toy", "name": str(visit)})
    registry.insertDimensionData(
        "exposure",
        {**common, "group": str(visit), "obs_id": str(visit)},
    )
    registry.insertDimensionData(
        "visit",
        {
            **common,
            "id": visit,
            "name": str(visit),
            "exposure_time": 30.0,
            "timespan": span,
            "region": _box(10.0, 0.0, 0.9),
        },
    )
    registry.insertDimensionData("visit_definition", {"instrument": "Toy", "exposure": visit, "visit": visit})
    registry.insertDimensionData("visit_system_membership", {"instrument": "Toy", "visit_system": 0, "visit": visit})
    for detector in DETECTORS:
        registry.insertDimensionData(
            "visit_detector_region",
            {"instrument": "Toy", "visit": visit, "detector": detector, "region": _box(9.5 + detector, 0.0, 0.4)},
        )


def _fill(butler: Butler) -> None:
    universe = butler.dimensions
    types = {
        name: DatasetType(name, dims, "ArrowAstropy", universe=universe, isCalibration=calibration)
        for name, dims, calibration in (
            ("toy_raw", ("instrument", "exposure", "detector"), False),
            ("toy_bias", ("instrument", "detector"), True),
            ("toy_reference", ("htm7",), False),
        )
    }
    for kind in types.values():
        butler.registry.registerDatasetType(kind)
    for run in ("Toy/raw", "Toy/bias", "refcats"):
        butler.collections.register(run)
    rng = np.random.default_rng(1)
    for visit in VISITS:
        for detector in DETECTORS:
            table = Table({"visit": np.full(50, visit), "value": rng.uniform(1, 2, 50)})
            butler.put(table, types["toy_raw"], instrument="Toy", exposure=visit, detector=detector, run="Toy/raw")
    bias = butler.put(Table({"level": [0.5]}), types["toy_bias"], instrument="Toy", detector=0, run="Toy/bias")
    butler.collections.register("Toy/calib", CollectionType.CALIBRATION)
    butler.registry.certify("Toy/calib", [bias], Timespan(None, None))
    for shard in sorted(shards(0))[:2]:
        butler.put(Table({"refId": np.arange(3) + shard}), types["toy_reference"], htm7=shard, run="refcats")


def shards(detector: int) -> set[int]:
    """Pixels of the reference catalogue that touch a detector."""
    ranges = HtmPixelization(7).envelope(_box(9.5 + detector, 0.0, 0.4))
    return {index for begin, end in ranges for index in range(begin, end)}
