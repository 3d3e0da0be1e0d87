import numpy as np
import pytest
from astropy.stats import median_absolute_deviation
from astropy.table import MaskedColumn, Table
from scipy import stats

from nightlab.stages.association import flux_statistics, object_statistics, object_versions


def _table(ids, time, flux, error, band="r", visit=None):
    n = len(ids)
    table = Table()
    table["diaSourceId"] = np.arange(1, n + 1)
    table["diaObjectId"], table["visit"] = np.asarray(ids), np.arange(n) if visit is None else visit
    table["band"] = np.full(n, band) if isinstance(band, str) else np.asarray(band)
    table["midpointMjdTai"] = np.asarray(time, float)
    table["ra"], table["dec"] = np.full(n, 20.0), np.full(n, 30.0)
    table["raErr"] = table["decErr"] = np.full(n, 1e-5)
    for name in ("psfFlux", "scienceFlux"):
        table[name], table[name + "Err"] = np.asarray(flux, float), np.broadcast_to(np.asarray(error, float), n)
    return table


def _one(flux, error, time):
    found = flux_statistics(np.zeros(len(flux), int), np.asarray(time, float), np.asarray(flux), np.asarray(error), 1)
    return {name: values[0] for name, values in found.items()}


def test_ten_points_on_a_line():
    flux = np.linspace(-1, 1, 10)
    found = _one(flux, np.ones(10), np.linspace(0, 1, 10))
    expected = {
        "Mean": 0.0, "MeanErr": np.sqrt(1 / 10), "Ndata": 10, "Min": -1.0, "Max": 1.0, "ErrMean": 1.0, "Skew": 0.0,
        "Sigma": np.std(flux, ddof=1), "Chi2": np.sum(flux**2), "MAD": median_absolute_deviation(flux),
        "MaxSlope": 2.0, "LinearSlope": 2.0, "LinearIntercept": -1.0,
    }  # fmt: skip
    expected |= {f"Percentile{p:02d}": np.percentile(flux, p) for p in (5, 25, 50, 75, 95)}
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-7), name
    # by hand: d_i^2 = (10/9) f_i^2, all but the outermost pairs below 1
    delta = np.sqrt(10 / 9) * flux
    by_hand = np.mean(np.sign(delta**2 - 1) * np.sqrt(np.abs(delta**2 - 1)))
    assert found["StetsonJ"] == pytest.approx(by_hand, abs=1e-7)


def test_unequal_errors():
    rng = np.random.default_rng(0)
    flux, error, time = rng.normal(5, 2, 40), rng.uniform(0.5, 2, 40), np.sort(rng.uniform(60000, 60100, 40))
    found = _one(flux, error, time)
    mean = np.average(flux, weights=error**-2)
    assert found["Mean"] == pytest.approx(mean)
    assert found["Chi2"] == pytest.approx(np.sum(((flux - mean) / error) ** 2))
    assert found["Skew"] == pytest.approx(stats.skew(flux))
    slope, intercept = np.polyfit(time - 60050, flux, 1, w=1 / error)
    assert found["LinearSlope"] == pytest.approx(slope, rel=1e-7)
    assert found["LinearIntercept"] + 60050 * found["LinearSlope"] == pytest.approx(intercept, rel=1e-7)
    assert found["MaxSlope"] == pytest.approx(np.max(np.diff(flux) / np.diff(time)))


def test_stetson_j_is_drawn_to_the_bulk():
    # the robust mean ignores an outlier that the weighted mean follows: 9 points at 0, one at 100
    flux = np.append(np.zeros(9), 100.0)
    found = _one(flux, np.ones(10), np.arange(10))
    mean = 0.0
    for _ in range(100):
        delta = np.sqrt(10 / 9) * (flux - mean)
        mean = np.average(flux, weights=1 / (1 + (delta / 2) ** 2))
    excess = (np.sqrt(10 / 9) * (flux - mean)) ** 2 - 1
    assert found["StetsonJ"] == pytest.approx(np.mean(np.sign(excess) * np.sqrt(np.abs(excess))), rel=1e-4)
    assert found["StetsonJ"] > 9
    assert found["Mean"] == pytest.approx(10.0)


def test_too_few_points_give_nan_without_complaint():
    found = _one([3.0], [1.0], [60000.0])
    for name in ("Sigma", "MaxSlope", "LinearSlope", "LinearIntercept", "StetsonJ", "Skew"):
        assert np.isnan(found[name]), name
    assert (found["Mean"], found["MeanErr"], found["Min"], found["Max"], found["Ndata"]) == (3.0, 1.0, 3.0, 3.0, 1)
    nothing = _one([np.nan, 3.0], [1.0, 0.0], [60000.0, 60001.0])
    assert nothing["Ndata"] == 0
    assert all(np.isnan(value) for name, value in nothing.items() if name != "Ndata")


def test_one_time_on_two_detectors_has_no_slope():
    found = _one([1.0, 2.0, 4.0], [1.0, 1.0, 1.0], [60000.0, 60000.0, 60002.0])
    assert found["MaxSlope"] == pytest.approx(1.0)
    assert np.isnan(_one([1.0, 2.0], [1.0, 1.0], [60000.0, 60000.0])["MaxSlope"])
    assert np.isnan(_one([1.0, 2.0], [1.0, 1.0], [60000.0, 60000.0])["LinearSlope"])


def test_many_objects_at_once_equal_each_alone():
    rng = np.random.default_rng(4)
    n = 300
    table = _table(rng.integers(0, 25, n), rng.uniform(60000, 60010, n), rng.normal(0, 3, n), rng.uniform(1, 2, n),
                   band=rng.choice(["g", "r"], n))  # fmt: skip
    table["psfFlux"][::17] = np.nan
    whole = object_statistics(table)
    assert 0 not in whole["diaObjectId"]
    for row in whole:
        mine = table[(table["diaObjectId"] == row["diaObjectId"]) & np.isfinite(table["psfFlux"])]
        for band in ("g", "r"):
            part = mine[mine["band"] == band]
            part.sort("midpointMjdTai")
            alone = _one(part["psfFlux"], part["psfFluxErr"], part["midpointMjdTai"])
            for name, value in alone.items():
                np.testing.assert_allclose(row[f"{band}_psfFlux{name}"], value, rtol=1e-9, atol=1e-9, err_msg=name)


def test_bands_do_not_mix_and_time_order_is_made():
    table = _table([5] * 4, [60003, 60001, 60002, 60000], [8.0, 2.0, 30.0, 10.0], 1.0, band=["g", "g", "r", "r"])
    found = object_statistics(table)
    assert found["g_psfFluxMean"].tolist() == [5.0]
    assert found["r_psfFluxMean"].tolist() == [20.0]
    assert found["g_psfFluxMaxSlope"].tolist() == [3.0]
    assert found["g_scienceFluxSigma"][0] == pytest.approx(np.std([8, 2], ddof=1))
    assert (found["firstDiaSourceMjdTai"][0], found["lastDiaSourceMjdTai"][0]) == (60000.0, 60003.0)
    assert found["nDiaSources"].tolist() == [4]


def test_masked_values_are_missing():
    table = _table([1, 1], [60000, 60001], [4.0, 6.0], 1.0)
    table["psfFlux"] = MaskedColumn(table["psfFlux"], mask=[False, True])
    assert object_statistics(table)["r_psfFluxMean"].tolist() == [4.0]


def test_versions_know_only_the_past():
    rng = np.random.default_rng(9)
    visit = np.repeat([30, 10, 20], 20)
    time = np.repeat([60000.0, 60002.0, 60001.0], 20)
    table = _table(rng.integers(0, 8, 60), time, rng.normal(0, 1, 60), 1.0, visit=visit)
    versions = list(object_versions(table))
    assert [v.visit for v in versions] == [30, 20, 10]
    for version in versions:
        past = table[table["midpointMjdTai"] <= version.midpoint_mjd_tai]
        touched = np.unique(table["diaObjectId"][table["visit"] == version.visit])
        expected = object_statistics(past[np.isin(past["diaObjectId"], touched)])
        assert version.dia_object["diaObjectId"].tolist() == [i for i in touched.tolist() if i > 0]
        for name in expected.colnames:
            np.testing.assert_array_equal(version.dia_object[name], expected[name], err_msg=name)
    assert [v.visit for v in object_versions(table, {10, 30})] == [30, 10]
