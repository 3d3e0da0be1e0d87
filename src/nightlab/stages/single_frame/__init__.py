"""Single-frame processing: from one raw or corrected detector to a calibrated image and its sources."""

from nightlab.stages.single_frame.builders import (
    BuildConfig,
    DefectConfig,
    build_bias,
    build_dark,
    build_flat,
    find_defects,
    measure_crosstalk,
)
from nightlab.stages.single_frame.config import CalibrateConfig
from nightlab.stages.single_frame.isr import Calibrations
from nightlab.stages.single_frame.metrics import METRICS
from nightlab.stages.single_frame.stage import CalibratedFrame, calibrate
from nightlab.stages.single_frame.visit_astrometry import (
    DetectorPositions,
    VisitAstrometry,
    VisitAstrometryConfig,
    solve_visit,
)

__all__ = [
    "METRICS",
    "BuildConfig",
    "CalibrateConfig",
    "CalibratedFrame",
    "Calibrations",
    "DefectConfig",
    "DetectorPositions",
    "VisitAstrometry",
    "VisitAstrometryConfig",
    "build_bias",
    "build_dark",
    "build_flat",
    "calibrate",
    "find_defects",
    "measure_crosstalk",
    "solve_visit",
]
