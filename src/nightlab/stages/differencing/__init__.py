"""Image differencing: subtract a template, detect and measure what changed."""

from nightlab.stages.differencing.detect import METRICS as DETECT_METRICS
from nightlab.stages.differencing.detect import DetectConfig, DiaSources, detect_dia_sources
from nightlab.stages.differencing.kernel_stars import StarConfig
from nightlab.stages.differencing.subtract import METRICS as SUBTRACT_METRICS
from nightlab.stages.differencing.subtract import Difference, SubtractConfig, subtract

METRICS = SUBTRACT_METRICS | DETECT_METRICS

__all__ = [
    "DETECT_METRICS",
    "METRICS",
    "SUBTRACT_METRICS",
    "DetectConfig",
    "DiaSources",
    "Difference",
    "StarConfig",
    "SubtractConfig",
    "detect_dia_sources",
    "subtract",
]
