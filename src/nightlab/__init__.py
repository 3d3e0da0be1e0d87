"""NightLab: a laboratory for a survey telescope's night.

The verbs and nouns below are imported when first used, so that ``import nightlab as nl`` costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOME = {
    "calibrate": "nightlab.stages.single_frame",
    "CalibrateConfig": "nightlab.stages.single_frame",
    "build_template": "nightlab.stages.templates",
    "TemplateConfig": "nightlab.stages.templates",
    "warp_template": "nightlab.stages.templates",
    "subtract": "nightlab.stages.differencing",
    "SubtractConfig": "nightlab.stages.differencing",
    "detect_dia_sources": "nightlab.stages.differencing",
    "DetectConfig": "nightlab.stages.differencing",
    "associate": "nightlab.stages.association",
    "AssociateConfig": "nightlab.stages.association",
    "force_photometry": "nightlab.stages.association",
    "simulate_survey": "nightlab.simulate",
    "compare_runs": "nightlab.quality",
    "export_metrics": "nightlab.quality",
    "plot_metric": "nightlab.dashboards.charts",
    "gather": "nightlab.quality",
    "recover": "nightlab.quality",
    "summarise": "nightlab.quality",
    "verdicts": "nightlab.quality",
    "data_set": "nightlab.data.locate",
    "read_generic": "nightlab.data.instruments.generic",
    "open_catalog": "nightlab.data.sources.catalogue",
    "open_repository": "nightlab.data.repository",
    "Run": "nightlab.data.runs",
    "open_run": "nightlab.data.runs",
    "metrics": "nightlab.data.runs",
    "light_curve": "nightlab.data.runs",
    "cone_search": "nightlab.data.runs",
    "run": "nightlab.pipelines.night",
    "demo_run": "nightlab.pipelines.demo",
    "stage_inputs": "nightlab.pipelines.inputs",
    "VisitImage": "lsst.images",
    "DifferenceImage": "lsst.images",
}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nightlab' has no attribute {name!r}; it has {', '.join(sorted(_HOME))}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
