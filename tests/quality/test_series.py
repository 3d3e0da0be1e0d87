import numpy as np
import pytest
import xarray as xr
from toy_metrics import night

from nightlab.errors import BadInput
from nightlab.quality import gather, merge_runs, per_detector, series
from nightlab.report import Metric, report

NAME = "single_frame.n_sources"


@pytest.fixture
def counts():
    """Three visits of three detectors: 10 v + d, one failed, one detector that did not run."""
    frames = [
        report({"n_sources": Metric("Sources.")}, {"n_sources": None if (v, d) == (2, 0) else 10 * v + d},
               room="single_frame", visit=v, detector=d, band="r")
        for v in (1, 2, 3) for d in (0, 1, 5) if (v, d) != (3, 5)
    ]  # fmt: skip
    return gather(frames).metrics


@pytest.mark.parametrize(
    ("statistic", "values", "detectors"),
    [
        ("median", [11, 23, 30.5], [-1, -1, -1]),
        ("mean", [12, 23, 30.5], [-1, -1, -1]),
        ("worst", [10, 21, 30], [0, 1, 0]),
    ],
)
def test_a_value_per_visit(counts, statistic, values, detectors):
    table = series(counts, NAME, statistic=statistic)
    assert list(table["visit"]) == [1, 2, 3]
    assert list(table["value"]) == values
    assert list(table["detector"]) == detectors
    assert list(table["least"]) == [10, 21, 30]
    assert list(table["most"]) == [15, 25, 31]
    assert list(table["n"]) == [3, 2, 2]
    assert list(table["unknown"]) == [0, 1, 0]


def test_each_detector_on_its_own_and_what_failed_stays_a_gap(counts):
    table = series(counts, NAME, statistic="each")
    assert len(table) == 8
    row = table[(table["visit"] == 2) & (table["detector"] == 0)]
    assert np.isnan(row["value"][0])
    assert row["unknown"][0] == 1


def test_metrics_without_visits_have_places_too():
    patches = [report({"coverage": Metric("x")}, {"coverage": p}, tract=4, patch=p, band="g") for p in (0, 1)]
    metrics = gather(template_metrics=patches).metrics
    assert list(series(metrics, "template.coverage")["place"]) == ["tract 4 patch 0", "tract 4 patch 1"]
    both = merge_runs({"a": night([1]), "b": night([1])})
    table = series(both, "association.n_objects")
    assert list(table["run"]) == ["a", "b"]
    assert list(table["place"]) == ["run", "run"]
    assert len(per_detector(both, "association.n_objects")) == 0


def test_an_unknown_metric_and_an_empty_one():
    with pytest.raises(BadInput, match="no metric nope"):
        series(xr.Dataset(), "nope")
    metrics = night([1])
    metrics["difference.ran"][:] = False
    assert len(series(metrics, "difference.noise_ratio")) == 0


def test_detectors_are_summed_up_by_percentiles(counts):
    table = per_detector(counts, NAME)
    assert list(table["detector"]) == [0, 1, 5]
    assert list(table["median"]) == [20, 21, 20]
    assert list(table["n"]) == [2, 3, 2]
    assert list(table["unknown"]) == [1, 0, 0]
    assert (table["least"][1], table["most"][1]) == (11, 31)


def test_a_visit_the_stage_did_not_work_on_is_a_gap():
    metrics = night([1, 2, 3])
    metrics["difference.ran"].loc[{"visit": 2}] = False
    table = series(metrics, "difference.noise_ratio")
    assert list(table["visit"]) == [1, 2, 3]
    assert np.isnan(table["value"][1])
    assert (table["n"][1], table["unknown"][1], table["band"][1]) == (0, 0, "g")


def test_ids_stay_exact():
    metrics = night([1, 2]).assign_coords(visit=np.array([2**60 + 1, 2**60 + 2]))
    assert list(series(metrics, "difference.noise_ratio")["place"]) == [str(2**60 + 1), str(2**60 + 2)]
