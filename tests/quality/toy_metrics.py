import numpy as np

from nightlab.quality import gather
from nightlab.report import Metric, report

FRAME = {"zero_point_scatter": Metric("Scatter of bright stars.", "mag"), "n_sources": Metric("Sources.")}
DIFFERENCE = {"noise_ratio": Metric("Noise over the expected one.")}


def night(visits, detectors=(0, 1), *, noise=1.0, scatter=0.01, unit="mag", bands="gr"):
    """Metrics of a run whose frames all ran, and whose differences ran in detector 0 only."""
    rng = np.random.default_rng(1)
    frame = {**FRAME, "zero_point_scatter": Metric("Scatter of bright stars.", unit)}
    frames, differences = [], []
    for visit in visits:
        band = bands[visit % len(bands)]
        for detector in detectors:
            values = {"zero_point_scatter": scatter + 0.001 * rng.normal(), "n_sources": 100 + detector}
            labels = {"visit": visit, "detector": detector, "band": band}
            frames.append(report(frame, values, room="single_frame", **labels))
        value = {"noise_ratio": noise + 0.001 * rng.normal()}
        differences.append(report(DIFFERENCE, value, room="difference", visit=visit, detector=detectors[0], band=band))
    association = report({"n_objects": Metric("Objects.")}, {"n_objects": 7}, room="association")
    return gather(frames, difference_metrics=differences, association_metrics=[association]).metrics
