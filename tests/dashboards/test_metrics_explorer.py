import io
import json
import zipfile
from pathlib import Path

import bokeh.models as bm
import numpy as np
import pytest
import xarray as xr
from astropy.table import Table
from bokeh.plotting import figure as Figure  # noqa: N812

import nightlab as nl
from nightlab.dashboards.charts import find_jumps, positions, trend
from nightlab.dashboards.focal_plane import _projected, _tiles, focal_plane
from nightlab.dashboards.library import Library
from nightlab.dashboards.metrics import MetricsExplorer
from nightlab.dashboards.scorecard import metric_rows, number, stage_tiles
from nightlab.dashboards.states import Reason
from nightlab.data.runs import Run
from nightlab.errors import BadInput, MissingData
from nightlab.quality import gather, series, summarise
from nightlab.report import Metric, report

NOISE, SCATTER = "difference.noise_ratio", "single_frame.zero_point_scatter"


def night(visits=range(1, 9), detectors=(0,), *, noise=1.0, unit="mag", first_id=0):
    rng = np.random.default_rng(4)
    frames, differences = [], []
    for visit in visits:
        for detector in detectors:
            where = {"visit": first_id + visit, "detector": detector, "band": "gr"[visit % 2]}
            scatter = {"zero_point_scatter": 0.01 + 0.001 * rng.normal(), "m5": 24.0}
            meanings = {"zero_point_scatter": Metric("Scatter of bright stars.", unit), "m5": Metric("Depth.", "mag")}
            frames.append(report(meanings, scatter, room="single_frame", **where))
            ratio = {"noise_ratio": noise + 0.001 * rng.normal()}
            meaning = {"noise_ratio": Metric("Noise over <expected>.")}
            differences.append(report(meaning, ratio, room="difference", **where))
    return gather(frames, difference_metrics=differences).metrics


class ToyRun(Run):
    """A run whose metrics are in memory."""

    def __init__(self, metrics, name="runs/A", folder="toy"):
        self.repository, self.name, self._toy, self._folder = Path("/nowhere") / folder, name, metrics, folder

    folder = property(lambda self: self._folder)

    def metrics(self):
        if self._toy is None:
            raise MissingData(f"run {self.name} has no metrics", hint="finish it")
        return self._toy

    def visits(self):
        if self._toy is None:
            return Table(names=("visit", "detector", "band", "day_obs", "mjd", "detector_name"))
        rows = [(int(v), int(d), "r", 20260101 + int(v) // 4, 61000.0 + int(v), f"D{d}")
                for v in self._toy["visit"].values for d in self._toy["detector"].values]  # fmt: skip
        return Table(rows=rows, names=("visit", "detector", "band", "day_obs", "mjd", "detector_name"))


def explorer(metrics, other=None, **state):
    run = ToyRun(metrics)
    runs = [run] if other is None else [run, ToyRun(other, "runs/B")]
    made = MetricsExplorer(library=Library(runs), run=run, other=runs[1] if other is not None else None, **state)
    made.main()
    return made


def drawn(pane):
    """The Bokeh figures in a pane that is ready."""
    assert pane.state == "ready", pane.shown
    return [part.object for part in pane.shown.select() if hasattr(part, "object") and isinstance(part.object, Figure)]


def points(plot):
    return [r for r in plot.renderers if isinstance(r.glyph, bm.Scatter) and "place" in r.data_source.data]


def test_the_page_opens_on_what_is_worst_and_counts_by_stage():
    made = explorer(night(noise=1.3))
    assert made.metric == NOISE
    assert "<b>difference</b>" in made._tiles.markup
    assert "0 of 1 pass" in made._tiles.markup
    assert "1 fail" in made._tiles.markup
    assert "1 of 1 pass" in made._tiles.markup
    plot = drawn(made._trend)[0]
    assert {renderer.glyph.marker for renderer in points(plot)} == {"square", "triangle"}
    assert sum(len(renderer.data_source.data["x"]) for renderer in points(plot)) == 8
    assert "Noise over &lt;expected&gt;" in made._rows.markup
    assert "<expected>" not in made._rows.markup + made._heading.object


def test_a_click_on_a_stage_or_a_metric_draws_it():
    made = explorer(night())
    assert made.metric == NOISE
    made._tiles.clicked = "single_frame 1"
    assert made.metric == SCATTER
    assert drawn(made._trend)[0].yaxis[0].axis_label == "zero point scatter [mag]"
    made._rows.clicked = "single_frame.m5 1"
    assert made.metric == "single_frame.m5"
    assert "No target" in made._heading.object
    made.previous()
    assert made.metric == SCATTER
    made.previous()
    assert made.metric == NOISE
    made.following()
    assert made.metric == SCATTER


def test_a_point_says_its_data_id_and_leads_to_the_images():
    made = explorer(night(first_id=2**60), metric=NOISE)
    renderer = points(drawn(made._trend)[0])[0]
    assert renderer.data_source.data["place"][0].startswith(f"visit {2**60}"[:15])
    renderer.data_source.selected.indices = [1]
    visit = made.visit
    assert int(visit) > 2**60
    assert renderer.data_source.data["place"][1] == f"visit {visit}"
    assert f"./images?run=toy%3Aruns/A&amp;visit={visit}&amp;detector=0" in made._point.object
    assert f"./dia?run=toy%3Aruns/A&amp;visit={visit}" in made._point.object


def test_the_targets_of_all_levels_that_fit_are_drawn_and_the_level_decides():
    made = explorer(night(noise=1.03), metric=NOISE)
    assert "1 of 1 pass" in made._tiles.markup
    labels = {part.text for part in drawn(made._trend)[0].center if isinstance(part, bm.Label)}
    assert {"minimum", "design"} <= labels
    made.level = "design"
    assert "1 fail" in made._tiles.markup
    assert "design 1 ± 0.02" in made._heading.object


def test_missing_visits_are_gaps_and_unknown_values_are_crosses():
    metrics = night(range(1, 8))
    metrics["difference.ran"].loc[{"visit": 4}] = False
    metrics[NOISE].loc[{"visit": 6}] = np.nan
    plot = trend(series(metrics, NOISE), NOISE)
    lines = [r.data_source.data for r in plot.renderers if isinstance(r.glyph, bm.Line)]
    even = next(line for line in lines if 1.0 in line["x"])  # visits 2, 4, 6 are of one band
    assert list(even["x"]) == [1.0, 3.0, 5.0]
    assert list(np.isnan(even["y"])) == [False, True, True]
    crosses = [r.data_source.data["x"] for r in plot.renderers if getattr(r.glyph, "marker", "") == "x"]
    assert [x for each in crosses for x in each] == [5.0]
    assert plot.xaxis[0].major_label_overrides[3.0] == "4"


@pytest.mark.parametrize(
    ("metrics", "pane", "reason"),
    [
        (None, "_card", Reason.NOT_RUN),
        (xr.Dataset({"x": ("y", ["text"])}), "_card", Reason.SCHEMA_MISMATCH),
        (xr.Dataset(), "_card", Reason.SCHEMA_MISMATCH),
        (night() * np.nan, "_card", Reason.ALL_NAN),
    ],
)
def test_runs_without_usable_metrics_say_so(metrics, pane, reason):
    made = explorer(metrics)
    assert getattr(made, pane).state == "empty"
    assert getattr(made, pane).shown.reason == reason
    assert "error" not in {each.state for each in (made._card, made._list, made._trend, made._spread, made._versus)}


def test_without_a_run_nothing_is_made_up():
    made = MetricsExplorer(library=Library())
    made.main()
    assert made._card.shown.reason == Reason.NO_DATA_SELECTED
    assert made.table() is None


def test_a_metric_that_is_nan_everywhere_gives_its_reason():
    metrics = night()
    metrics[NOISE][:] = np.nan
    metrics[NOISE].attrs["reason"] = "no source-free pixel"
    made = explorer(metrics, metric=NOISE)
    assert made._trend.shown.reason == Reason.ALL_NAN
    assert "none of 8 places" in made._trend.shown.what
    assert made._trend.shown.what_to_do == "no source-free pixel"
    assert "1 unknown" in made._tiles.markup
    assert made._spread.state == "ready"


def test_one_value_is_drawn():
    made = explorer(night([3]))
    assert len(points(drawn(made._trend)[0])[0].data_source.data["x"]) == 1
    assert made._spread.state == "ready"


def test_all_detectors_come_first_and_one_can_be_chosen(monkeypatch):
    monkeypatch.setattr("nightlab.dashboards.metrics.outlines", lambda _, detectors: (_tiles(detectors), False))
    metrics = night(range(1, 5), detectors=(0, 1, 2, 7))
    metrics[NOISE].loc[{"detector": 7}] = np.nan
    made = explorer(metrics, metric=NOISE)
    boxes, camera = drawn(made._spread)
    patches = next(r for r in camera.renderers if isinstance(r.glyph, bm.Patches)).data_source
    assert list(patches.data["name"]) == ["D0", "D1", "D2", "D7"]
    assert patches.data["text"][3] == "no value"
    assert patches.data["hatch"] == [" ", " ", " ", "/"]
    assert list(boxes.xaxis[0].major_label_overrides.values()) == ["D0", "D1", "D2", "D7"]
    patches.selected.indices = [1]
    assert made.detector == "1"
    assert "detector D1" in made._heading.object
    assert set(made.table()["detector"]) == {1}
    made.detector = "99"
    assert made._trend.shown.reason == Reason.FILTERED_TO_ZERO
    made.reset()
    assert made._trend.state == "ready"


def test_two_runs_are_drawn_together_and_compared():
    made = explorer(night(range(1, 9)), night(range(3, 11), noise=1.2), metric=NOISE)
    renderers = points(drawn(made._trend)[0])
    assert {renderer.data_source.data["run"][0] for renderer in renderers} == {"toy · A", "toy · B"}
    assert {renderer.glyph.fill_color is None for renderer in renderers} == {True, False}
    assert made._versus.state == "ready"
    text = made._table.markup
    assert "2 visits only in A" in text
    assert "2 visits only in B" in text
    assert "pass → fail" in text
    assert text.index("noise_ratio") < text.index("zero_point_scatter")
    made.other = None
    assert {renderer.data_source.data["run"][0] for renderer in points(drawn(made._trend)[0])} == {""}


def test_units_that_disagree_are_refused_and_run_a_stays():
    made = explorer(night(), night(unit="mmag"))
    assert made._versus.state == "empty"
    assert "in mag in toy · A and in mmag in toy · B" in made._versus.shown.what
    assert made._trend.state == "ready"
    made = explorer(night(), None)
    made.other = ToyRun(None, "runs/C")
    assert made._versus.shown.reason == Reason.NOT_RUN
    assert made._trend.state == "ready"


def test_along_time_night_and_run():
    made = explorer(night(), night(range(3, 11)), metric=NOISE)
    made.other = None
    made.x = "time"
    assert drawn(made._trend)[0].xaxis[0].axis_label.startswith("MJD")
    made.x = "night"
    assert "2026-01-01" in drawn(made._trend)[0].xaxis[0].major_label_overrides.values()
    made.x = "run"  # all runs of the library
    assert list(drawn(made._trend)[0].xaxis[0].major_label_overrides.values()) == ["toy\nA", "toy\nB"]
    where, _, title = positions(made.table(), "time", {})
    assert title == "visit"  # nothing knows the times
    assert len(where) == len(made.table())


def test_jumps_are_marked():
    metrics = night(range(1, 41))
    metrics[NOISE].loc[{"visit": slice(21, None)}] += 0.02
    made = explorer(metrics, metric=NOISE, mark_jumps=True)
    assert [int(made.table()["visit"][row]) for row, _ in find_jumps(made.table())] in ([21, 22], [22, 21])
    assert any("+0.02" in part.text for part in drawn(made._trend)[0].center if isinstance(part, bm.Label))


def test_search_finds_words_of_names_and_meanings():
    made = explorer(night())
    made.search = "bright star"
    assert made._listed() == [SCATTER]
    made.search = "zero point"
    assert made._listed() == [SCATTER]
    made.search = "nothing like it"
    assert "No metric fits" in made._rows.markup
    made.search, made.show = "", "not passed"
    assert made._listed() == []
    # a target that nothing was measured for is listed too
    made.show = "all"
    assert "difference.kernel_sum" in made._rows.markup


def test_the_state_travels(monkeypatch):
    made = explorer(night(), metric=SCATTER, level="stretch", visit="3", mark_jumps=True)
    state = json.loads(json.dumps(made.state()))
    back = MetricsExplorer.from_state(state, made.library)
    assert back.state() == made.state()
    again = MetricsExplorer.from_query(made.query(), made.library)
    assert (again.metric, again.level, again.visit, again.run) == (SCATTER, "stretch", "3", made.run)
    assert "metric='single_frame.zero_point_scatter'" in made.as_code()
    with zipfile.ZipFile(made.bundle()) as packed:
        assert {"state.json", "view.py", "table.ecsv"} <= set(packed.namelist())


@pytest.mark.parametrize("kind", ["netcdf", "zarr", "csv", "verify"])
def test_the_buttons_export_what_is_shown(kind):
    made = explorer(night(), night(range(3, 11)))
    content = made._export(kind).read()
    if kind == "netcdf":
        assert xr.open_dataset(io.BytesIO(content), engine="h5netcdf").sizes["run"] == 2
    elif kind == "csv":
        assert content.decode().startswith("run,visit,detector")
    elif kind == "verify":
        assert json.loads(content)["meta"]["run"] == "toy · A"
    else:
        assert "zarr.json" in zipfile.ZipFile(io.BytesIO(content)).namelist()


def test_a_cell_shows_a_metric_by_one_line():
    pane = nl.plot_metric(night(), NOISE, height=200)
    assert isinstance(pane.object, Figure)
    assert pane.object.height == 200
    with pytest.raises(BadInput, match="no metric nope"):
        nl.plot_metric(night(), "nope")


def test_detectors_that_overlap_become_tiles():
    square = np.array([(1, -1e-3, -1e-3), (1, 1e-3, -1e-3), (1, 1e-3, 1e-3), (1, -1e-3, 1e-3)])
    apart = square + np.array([0, 3e-3, 0])
    placed = _projected({0: square, 1: apart})
    assert placed is not None
    assert np.mean(placed[1][0]) - np.mean(placed[0][0]) == pytest.approx(3e-3 * 180 * 60 / np.pi, rel=1e-3)
    assert _projected({0: square, 1: square + np.array([0, 1e-4, 0])}) is None


def test_the_camera_without_any_value_is_hatched():
    shapes = {0: ([0, 1, 1, 0], [0, 0, 1, 1]), 1: ([2, 3, 3, 2], [0, 0, 1, 1])}
    plot = focal_plane({0: np.nan}, shapes, NOISE)
    assert plot.renderers[0].data_source.data["text"] == ["no value", "no value"]
    assert plot.x_range.flipped


def test_numbers_are_short():
    assert [number(v) for v in (np.nan, 0.0, 0.000123, 32049.3, 1.5e6, 1219.4, 0.98765, 123.45)] == [
        "–", "0", "1.2e-4", "32049", "1.5e6", "1219", "0.988", "123.5",
    ]  # fmt: skip


def test_markup_is_escaped():
    odd = summarise(night().rename({NOISE: "difference.<b>'\""}))
    assert "<b>'" not in metric_rows(odd, {"difference.<b>'\"": '"><script>'}, {})
    assert "<script>" not in metric_rows(odd, {"difference.<b>'\"": '"><script>'}, {})
    assert "difference" in stage_tiles(odd)
