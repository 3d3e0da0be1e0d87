"""Single-frame processing: from one raw or corrected detector to a calibrated image and its sources."""

from nightlab.stages.single_frame.config import CalibrateConfig
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
    "CalibrateConfig",
    "CalibratedFrame",
    "DetectorPositions",
    "VisitAstrometry",
    "VisitAstrometryConfig",
    "calibrate",
    "solve_visit",
]
