import math

import numpy as np
import pytest
import xarray as xr
from astropy.table import Table

from nightlab.errors import BadInput
from nightlab.quality import gather, judge, recover, summarise, verdicts
from nightlab.report import Metric, report

METRICS = {
    "seeing": Metric("Width of a star.", "arcsec"),
    "ratio": Metric("Measured over expected."),
    "count": Metric("How many."),
}
TARGETS = {
    "seeing": {"target": 1.0, "sense": "lower"},
    "ratio": {"target": 1.0, "sense": "near", "tolerance": 0.05},
}


def aimed(values, **labels):
    """A stage's report with targets of its own, which the house has no specs for."""
    made = report(METRICS, values, **labels)
    return made.assign({name: made[name].assign_attrs(attrs) for name, attrs in TARGETS.items()})


@pytest.mark.parametrize(
    ("value", "sense", "target", "verdict"),
    [
        (0.9, "lower", 1.0, "pass"),
        (1.1, "lower", 1.0, "fail"),
        (1.1, "higher", 1.0, "pass"),
        (0.9, "higher", 1.0, "fail"),
        (1.04, "near", 1.0, "pass"),
        (0.94, "near", 1.0, "fail"),
        (math.nan, "lower", 1.0, "unknown"),
        (math.inf, "lower", 1.0, "unknown"),
        (3.0, "none", math.nan, "none"),
    ],
)
def test_judge(value, sense, target, verdict):
    assert judge(value, {"sense": sense, "target": target, "tolerance": 0.05}) == verdict


def test_a_missing_measurement_is_unknown_and_never_passes():
    dataset = aimed({"seeing": None, "count": 3}, visit=1, detector=0)
    table = verdicts(dataset)
    assert list(table["metric"]) == ["seeing", "ratio"]
    assert list(table["verdict"]) == ["unknown", "unknown"]


def test_report_refuses_a_metric_nobody_declared():
    with pytest.raises(KeyError, match="no such metric: seing"):
        report(METRICS, {"seing": 1.0})


def test_gather_keeps_every_value_units_and_the_places_where_nothing_ran():
    frames = [
        aimed({"seeing": s, "ratio": 1.0, "count": v}, visit=v, detector=d, band=b)
        for v, d, b, s in [(1, 0, "r", 0.8), (2, 1, "g", 1.3), (3, 0, "r", math.nan)]
    ]
    coadds = [report({"n_visits": Metric("Visits.")}, {"n_visits": 3}, tract=0, patch=p, band="r") for p in (0, 1)]
    metrics = gather(single_frame_metrics=frames[::-1], template_metrics=coadds).metrics
    seeing = metrics["single_frame.seeing"]
    assert seeing.attrs["unit"] == "arcsec"
    assert float(seeing.sel(visit=1, detector=0)) == 0.8
    assert str(metrics["visit_band"].sel(visit=2).item()) == "g"
    assert float(metrics["template.n_visits"].sel(tract=0, patch=1, band="r")) == 3
    assert bool(metrics["single_frame.ran"].sel(visit=2, detector=1))
    assert not bool(metrics["single_frame.ran"].sel(visit=2, detector=0))
    summary = {row["metric"]: row for row in summarise(metrics)}
    assert summary["single_frame.seeing"]["n"] == 3
    assert summary["single_frame.seeing"]["unknown"] == 1
    assert summary["single_frame.seeing"]["failed"] == 1
    assert summary["single_frame.seeing"]["verdict"] == "fail"
    assert summary["single_frame.ratio"]["verdict"] == "pass"
    assert summary["template.n_visits"]["n"] == 2


def test_gather_of_nothing_is_empty():
    assert isinstance(gather().metrics, xr.Dataset)
    assert len(summarise(gather().metrics)) == 0


def _sky():
    truth = Table(
        rows=[
            (1, "transient", visit, 10.0, 0.0, 20.0) for visit in (1, 2, 3)
        ] + [
            (2, "transient", 1, 10.01, 0.0, 20.0),
            (2, "transient", 2, 10.01, 0.0, 20.0),
            (3, "mover", 1, 10.02, 0.0, 30.0),
            (4, "variable", 1, 10.03, 0.0, 5.0),
        ],
        names=("id", "kind", "visit", "ra", "dec", "snr_difference"),
    )  # fmt: skip
    sources = Table(
        rows=[(100, 1, 10.0, 0.0), (100, 2, 10.0, 0.0), (101, 1, 10.02, 0.0), (102, 1, 9.9, 0.0), (102, 2, 9.9, 0.0)],
        names=("diaObjectId", "visit", "ra", "dec"),
    )
    objects = Table(rows=[(100, 2), (101, 1), (102, 2)], names=("diaObjectId", "nDiaSources"))
    return truth, sources, objects


def test_recovery_counts_by_hand():
    result = recover(*_sky())
    assert result.injected == {"mover": 1, "transient": 2, "variable": 0}
    assert result.recovered == {"mover": 1, "transient": 1, "variable": 0}
    assert result.completeness("transient") == 0.5
    assert np.isnan(result.completeness("variable"))
    assert (result.objects, result.genuine) == (2, 1)
    assert result.purity == 0.5


def test_recovery_of_an_empty_run_is_zero_not_nan():
    truth, sources, objects = _sky()
    result = recover(truth, sources[:0], objects[:0])
    assert result.recovered["transient"] == 0
    assert result.completeness("transient") == 0.0
    assert np.isnan(result.purity)


def test_recovery_says_which_column_is_missing():
    truth, sources, objects = _sky()
    truth.remove_column("kind")
    with pytest.raises(BadInput, match="no column kind"):
        recover(truth, sources, objects)
