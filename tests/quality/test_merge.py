import numpy as np
import pytest
import xarray as xr
from toy_metrics import night

from nightlab.errors import BadInput
from nightlab.quality import by_room, compare_runs, house_specs, jumps, merge_runs, only_in, summarise, tidy


def test_runs_stand_side_by_side_and_what_one_lacks_is_nan(runs):
    merged = merge_runs(runs)
    noise = merged["difference.noise_ratio"]
    assert noise.dims == ("run", "visit", "detector")
    assert list(merged["run"].values) == ["a", "b"]
    assert list(merged["visit"].values) == list(range(1, 9))
    assert noise.sel(run="a", visit=3, detector=0) == runs["a"]["difference.noise_ratio"].sel(visit=3, detector=0)
    assert np.isnan(noise.sel(run="a", visit=8, detector=0))
    ran = merged["difference.ran"]
    assert ran.dtype == bool
    assert not ran.sel(run="a", visit=8).any()
    assert not ran.sel(detector=1).any()
    assert str(merged["visit_band"].sel(visit=8).item()) == "g"
    assert merged["association.n_objects"].dims == ("run",)
    assert noise.attrs == {
        **runs["a"]["difference.noise_ratio"].attrs,
        **house_specs()["difference.noise_ratio"].attrs(),
    }
    # the verdicts of both runs count, and no gap does
    row = {row["metric"]: row for row in summarise(merged)}["difference.noise_ratio"]
    assert (row["n"], row["unknown"], row["failed"], row["verdict"]) == (12, 0, 6, "fail")


def test_a_metric_that_only_one_run_has_is_unknown_in_the_other_not_passed(runs):
    poorer = {**runs, "b": runs["b"].drop_vars("single_frame.zero_point_scatter")}
    row = {row["metric"]: row for row in summarise(merge_runs(poorer))}["single_frame.zero_point_scatter"]
    assert (row["n"], row["unknown"], row["verdict"]) == (24, 12, "unknown")


def test_runs_of_different_stages_and_one_run_alone_merge(runs):
    only = {"a": runs["a"][["single_frame.n_sources", "single_frame.ran"]], "b": runs["b"]}
    assert np.isnan(merge_runs(only)["difference.noise_ratio"].sel(run="a")).all()
    assert merge_runs({"a": runs["a"]}).sizes["run"] == 1


def test_units_that_disagree_are_refused_in_words(runs):
    with pytest.raises(BadInput, match="zero_point_scatter is in mag in a and in mmag in c"):
        merge_runs({"a": runs["a"], "c": night([1], unit="mmag")})


def test_visits_of_two_cameras_and_merging_nothing_or_twice_are_refused(runs):
    with pytest.raises(BadInput, match="visit 1 is in band g in c and in band r in another"):
        merge_runs({"a": runs["a"], "c": night([1], bands="rg")})
    with pytest.raises(BadInput, match="no metrics to merge"):
        merge_runs({})
    with pytest.raises(BadInput, match="several runs already"):
        merge_runs({"ab": merge_runs(runs)})


def test_the_tree_has_a_node_per_room(runs):
    tree = by_room(runs["a"])
    assert set(tree.children) == {"single_frame", "difference", "association"}
    xr.testing.assert_identical(
        tree["difference/noise_ratio"].rename("x").variable, runs["a"]["difference.noise_ratio"].variable
    )


def test_the_long_table_has_a_row_per_place_that_ran(runs):
    table = tidy(merge_runs(runs))
    noise = table[table["metric"] == "difference.noise_ratio"]
    assert len(noise) == 12
    assert set(noise["detector"]) == {0}
    first = noise[(noise["run"] == "a") & (noise["visit"] == 3)]
    assert list(first["value"]) == [runs["a"]["difference.noise_ratio"].sel(visit=3, detector=0).item()]
    assert list(first["band"]) == ["r"]
    objects = table[table["metric"] == "association.n_objects"]
    assert len(objects) == 2
    assert objects["visit"].mask.all()
    assert len(tidy(xr.Dataset())) == 0
    exact = runs["a"].assign_coords(visit=np.arange(6) + 2**60 + 1)
    assert tidy(exact, ["difference.noise_ratio"])["visit"][0] == 2**60 + 1


def test_comparison_pairs_places_and_weighs_the_difference(runs):
    table = {row["metric"]: row for row in compare_runs(merge_runs(runs), "a", "b")}
    row = table["difference.noise_ratio"]
    assert (row["n_both"], row["only_a"], row["only_b"]) == (4, 2, 2)
    assert row["difference"] == pytest.approx(0.2, abs=0.01)
    assert 0 < row["error"] < 0.01
    assert row["significance"] == pytest.approx(row["difference"] / row["error"])
    assert row["change"] == "worse"
    assert (row["verdict_a"], row["verdict_b"]) == ("pass", "fail")
    assert table["single_frame.n_sources"]["significance"] == 0.0
    assert table["single_frame.n_sources"]["change"] == "same"
    # one value each says nothing about its error
    assert compare_runs(merge_runs(runs)[["association.n_objects"]], "a", "b")[0]["change"] == "same"
    back = {row["metric"]: row for row in compare_runs(merge_runs(runs), "b", "a")}
    assert back["difference.noise_ratio"]["change"] == "better"
    assert only_in(merge_runs(runs), "a", "b") == ([1, 2], [7, 8])


def test_comparison_of_runs_without_common_places_is_unknown(runs):
    table = compare_runs(merge_runs({"a": night([1, 2]), "b": night([3, 4])}), "a", "b")
    row = {row["metric"]: row for row in table}["difference.noise_ratio"]
    assert (row["n_both"], row["change"]) == (0, "unknown")
    assert np.isnan(row["significance"])
    with pytest.raises(BadInput, match=r"no run c.*there are a, b"):
        compare_runs(merge_runs(runs), "a", "c")


def test_two_differing_values_are_too_few_for_a_significance():
    merged = merge_runs({"a": night([1, 2]), "b": night([1, 2], noise=1.2)})
    row = {row["metric"]: row for row in compare_runs(merged, "a", "b")}["difference.noise_ratio"]
    assert row["difference"] == pytest.approx(0.2, abs=0.01)
    assert np.isnan(row["error"])
    assert row["change"] == "unknown"


@pytest.mark.parametrize("step", [0.5, -0.5])
def test_a_step_is_found_where_it_is(step):
    values = np.random.default_rng(5).normal(1.0, 0.02, 40)
    values[23:] += step
    values[10] = np.nan
    found = jumps(values)
    assert [index for index, _ in found] == [23]
    assert found[0][1] == pytest.approx(step, abs=0.05)


def test_noise_one_outlier_and_short_or_constant_series_have_no_step():
    rng = np.random.default_rng(6)
    quiet = [jumps(rng.normal(size=60)) for _ in range(50)]
    assert sum(map(len, quiet)) <= 1
    spike = rng.normal(size=40)
    spike[20] = 100.0
    assert jumps(spike) == []
    assert jumps(np.array([1.0, 1.0, 1.0, 5.0, 5.0])) == []
    assert jumps(np.ones(20)) == []
    assert jumps(np.full(20, np.nan)) == []


def test_a_step_between_constant_levels_is_found():
    assert [index for index, _ in jumps(np.r_[np.ones(10), np.full(10, 3.0)])] == [10]
