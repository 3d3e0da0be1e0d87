import json
import shutil

import numpy as np
import pytest
from dia_tables import BIG, many_sources, some_sources

from nightlab.columns import flags_among, words
from nightlab.dashboards.dia import EVERYTHING, IN_BOTH, ONLY_A, ONLY_B, DiaExplorer
from nightlab.dashboards.dia_data import BOTH, Cuts, DiaCatalogue, flags_in_words, read_search
from nightlab.dashboards.library import Library
from nightlab.dashboards.sky_map import MARKERS, SkyMap, density, shades, sky_points
from nightlab.dashboards.states import Nothing, Reason
from nightlab.data.runs import Run
from nightlab.errors import BadInput


@pytest.fixture(scope="module")
def run(night):
    return Run(night)


@pytest.fixture
def explorer():
    return DiaExplorer.from_tables(some_sources())


# what the catalogue answers


def test_objects_are_summaries_of_their_sources():
    made = DiaCatalogue(some_sources())
    assert made.objects.ids(range(4)) == [str(BIG + k) for k in range(4)]
    assert made.objects["nDiaSources"].tolist() == [3, 3, 3, 3]
    assert made.objects["snr"].tolist() == [50.0, 51.0, 52.0, 53.0]
    assert made.bands == ["g", "r"]
    assert set(made.objects["band"]) == {"g"}


@pytest.mark.parametrize(
    ("cuts", "sources", "objects"),
    [
        (Cuts(), 12, 4),
        (Cuts(bands=("r",)), 4, 4),
        (Cuts(without=("pixelFlags_saturated",)), 9, 3),
        (Cuts(having=("pixelFlags_saturated",)), 3, 1),
        (Cuts(snr_min=51.5), 2, 2),
        (Cuts(snr_min=20.0, detections_min=3), 8, 0),
        (Cuts(snr_min=20.0, detections_min=2), 8, 4),
        (Cuts(cone=(359.9, 1.0, 5.0)), 3, 1),
        (Cuts(cone=(0.0, 1.02, 250.0)), 9, 3),  # across RA 0
    ],
)
def test_cuts_let_through_what_they_say(cuts, sources, objects):
    made = DiaCatalogue(some_sources())
    assert made.source_mask(cuts).sum() == sources
    assert made.object_mask(cuts).sum() == objects


def test_two_catalogues_are_compared_by_position_exposure_by_exposure():
    all_of_them, some = some_sources(), some_sources()
    some = some[np.asarray(some["visit"]) != 102][3:]
    some["diaSourceId"] += 7  # other numbers, same places
    a, b = DiaCatalogue(all_of_them), DiaCatalogue(some)
    assert (a.against(b, "sources") == BOTH).sum() == len(some)
    assert (b.against(a, "sources") == BOTH).all()
    assert (a.against(b, "objects") == BOTH).sum() == len(b.objects)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("", None),
        (str(BIG), BIG),
        ("150.1 2.2", (150.1, 2.2, 10.0)),
        ("150.1, −2.2, 2 arcmin", (150.1, -2.2, 120.0)),
        ("10:00:24 -00:30:00 1'", (150.1, -0.5, 60.0)),
    ],
)
def test_searches_are_ids_or_circles(text, meaning):
    assert read_search(text) == (pytest.approx(meaning) if isinstance(meaning, tuple) else meaning)


@pytest.mark.parametrize("text", ["M31", "400 10", "10 95", "1 2 3 parsec", "__import__('os')", "1:2:3:4 5"])
def test_other_searches_are_refused(text):
    with pytest.raises(BadInput, match=r"read|sky"):
        read_search(text)


def test_every_flag_our_stages_set_has_words(run):
    flags = [*flags_among(run.get("dia_source").colnames), *flags_among(["scienceFlux_flag", "psfFlux_flag_edge"])]
    assert len(flags) > 15
    for flag in flags:
        assert words(flag).title != flag, flag
        assert words(flag).sentence.endswith("."), flag
    assert words("g_psfFluxMean").title == "g mean flux"
    assert words("strange") == ("strange", "")


def test_flags_are_told_with_how_often():
    table = some_sources()[-4:]
    assert [(title, n) for title, _, n in flags_in_words(table, ["pixelFlags_saturated"])] == [("saturated", 3)]


# the map


def test_the_map_counts_what_it_cannot_draw():
    rng = np.random.default_rng(1)
    n = MARKERS + 1
    ra, dec = rng.uniform(10, 20, n), rng.uniform(-5, 5, n)
    shown = SkyMap()
    shown.fill(sky_points(ra, dec, np.full(n, "r")))
    assert shown.drawn_as == "density"
    assert shown._density.data["image"][0].dtype == np.uint8
    shown.choose(np.arange(n) < MARKERS)
    assert shown.drawn_as == "markers"
    assert len(shown._markers.data["x"]) == MARKERS


def test_density_counts_every_point_once():
    x, y = np.array([0.1, 0.1, 0.9]), np.array([0.1, 0.1, 0.9])
    counts = density(x, y, (0, 1), (0, 1), 2, 2)
    assert counts.tolist() == [[2, 0], [0, 1]]
    assert shades(counts).tolist() == [[255, 0], [0, 1]]
    assert shades(np.zeros((2, 2), np.uint32)).max() == 0


def test_density_is_the_histogram():
    rng = np.random.default_rng(7)
    x, y = rng.uniform(-1, 2, (2, 20_000))
    x[:3], y[:3] = (0.0, 1.0, 1.0), (0.0, 0.5, 1.0)  # points on the edges count
    expected, _, _ = np.histogram2d(y, x, bins=(16, 32), range=((0, 1), (0, 1)))
    assert expected.sum() > 1000
    np.testing.assert_array_equal(density(x, y, (0, 1), (0, 1), 32, 16), expected)


def test_right_ascension_increases_to_the_left_and_crosses_zero():
    shown = SkyMap()
    shown.fill(sky_points(np.array([359.5, 0.5]), np.array([0.0, 0.2]), np.array(["r", "r"])))
    plot = shown._plot
    assert plot.x_range.start > plot.x_range.end
    assert plot.x_range.start - plot.x_range.end < 3
    shown.box = (359.2, 359.8, -1, 1)
    assert shown.inside().tolist() == [True, False]
    shown.box = (-0.8, 0.8, -1, 1)
    assert shown.inside().tolist() == [True, True]


def test_clicks_find_the_nearest_point_shown_and_nothing_far_away():
    shown = SkyMap()
    shown.fill(sky_points(np.array([10.0, 10.001, np.nan]), np.array([0.0, 0.0, 0.0]), np.array(["r"] * 3)))
    assert shown.nearest(10.00099, 0.0) == 1
    shown.choose(np.array([True, False, True]))
    assert shown.nearest(10.00099, 0.0, reach=1000) == 0
    assert shown.nearest(50.0, 50.0) == -1


# the explorer


def test_a_click_moves_map_table_curve_and_card_together(explorer):
    assert explorer.pane.state == "ready"
    explorer.map.picked = 2
    assert explorer.object == str(BIG + 2) == "1152921504606846979"
    assert explorer.grid.selected == [explorer.object]
    assert explorer.map._ring.data["y"] == [pytest.approx(1.02)]
    assert f"DIAObject {explorer.object}" in explorer.card_pane.shown.object
    assert explorer.curve.detected["psfFlux"].tolist() == [5200.0, 3200.0, 1200.0]
    explorer.grid.selected = [str(BIG)]
    assert explorer.object == str(BIG)
    assert explorer.map._ring.data["y"] == [pytest.approx(1.0)]


def test_a_chosen_source_brings_its_object_and_its_epoch(explorer):
    explorer.kind = "sources"
    explorer.grid.selected = [str(BIG + 1004)]
    assert (explorer.object, explorer.epoch) == (str(BIG + 1), "101:0")
    explorer.next_epoch()
    assert explorer.epoch == "102:0"
    assert explorer.curve.epoch == "102:0"
    explorer.next_row()
    assert (explorer.source, explorer.epoch) == (str(BIG + 1005), "102:0")


def test_a_box_on_the_map_filters_the_table(explorer):
    explorer.map.box = (359.89, 359.96, 0.9, 1.1)
    assert explorer.grid.filtered.size == 2
    assert explorer.box == (359.89, 359.96, 0.9, 1.1)
    explorer.reset()
    assert explorer.map.box is None
    assert explorer.grid.filtered.size == 4


def test_filters_down_to_nothing_say_so_and_can_be_undone(explorer):
    explorer.snr_min = 1e9
    assert explorer.grid.filtered.size == 0
    assert "filtered to nothing" in explorer.status.object
    explorer.reset()
    assert explorer.grid.filtered.size == 4
    assert "filtered" not in explorer.status.object


def test_the_search_box_goes_to_ids_and_circles_and_tells_what_it_cannot_read(explorer):
    explorer.search = str(BIG + 3)
    assert explorer.object == str(BIG + 3)
    assert explorer.grid.filtered.size == 4
    explorer.search = "359.9 1.0 5"
    assert explorer.grid.filtered.size == 1
    explorer.search = "Andromeda"
    assert "cannot read" in explorer.status.object
    explorer.search = "123456"
    assert "no object and no source 123456" in explorer.status.object


def test_a_source_of_no_object_stands_alone():
    table = some_sources()
    table["diaObjectId"][0] = 0
    explorer = DiaExplorer.from_tables(table, kind="sources")
    explorer.grid.selected = [str(BIG + 1000)]
    assert explorer.object == ""
    assert len(explorer.curve.detected) == 1
    assert "of no object" in explorer.card_pane.shown.object


@pytest.mark.parametrize(
    ("table", "reason", "told"),
    [
        (some_sources()[:0], Reason.NO_DATA_SELECTED, "no source"),
        (some_sources()["diaSourceId", "ra"], Reason.SCHEMA_MISMATCH, "visit, detector, band"),
    ],
)
def test_tables_that_cannot_be_explored_say_why(table, reason, told):
    explorer = DiaExplorer.from_tables(table)
    assert explorer.pane.state == "empty"
    assert explorer.pane.shown.reason == reason
    assert told in explorer.pane.shown.what
    explorer.reset()
    explorer.next_epoch()
    explorer.next_row()


def test_positions_that_are_all_nan_are_named():
    table = some_sources()
    table["ra"] = np.nan
    with pytest.raises(Nothing, match="12 sources has a finite position"):
        DiaCatalogue(table)


def test_fluxes_that_are_all_nan_leave_map_and_table_and_empty_the_curve():
    table = some_sources()
    for name in ("psfFlux", "psfFluxErr", "snr"):
        table[name] = np.nan
    explorer = DiaExplorer.from_tables(table)
    assert explorer.pane.state == "ready"
    assert explorer.curve.pane.shown.reason == Reason.ALL_NAN
    assert explorer.grid.filtered.size == 4


def test_one_row_is_a_catalogue():
    explorer = DiaExplorer.from_tables(some_sources()[:1])
    assert explorer.pane.state == "ready"
    assert explorer.grid.filtered.size == 1
    assert explorer.curve.curve.epochs == ["100:0"]


def test_a_million_sources_can_be_boxed_sorted_and_chosen():
    explorer = DiaExplorer.from_tables(many_sources(), kind="sources")
    assert explorer.map.drawn_as == "density"
    explorer.map.box = (60.0, 61.0, -31.0, -30.0)
    inside = explorer.grid.filtered
    assert 1000 < inside.size < 10_000
    rows = explorer.catalogue.sources
    assert (np.abs(rows["ra"][inside] - 60.5) <= 0.5).all()
    explorer.without = ["pixelFlags_bad"]
    assert not rows["pixelFlags_bad"][explorer.grid.filtered].any()
    explorer.grid.sort = "snr"
    chosen = explorer.grid.rows.ids(explorer.grid.filtered[:1])[0]
    explorer.grid.selected = [chosen]
    assert explorer.source == chosen
    assert len(explorer.curve.detected) == 2


# with a run


def test_a_run_gives_cutouts_forced_photometry_and_links(run):
    explorer = DiaExplorer.from_run(run)
    assert explorer.pane.state == "ready"
    assert explorer.triplet_pane.state == "ready"
    assert explorer.strip.frames
    assert len(explorer.curve.forced) or explorer.catalogue.objects["nDiaSources"].max() == 1
    explorer.kind = "sources"
    link = explorer._image_link(0)
    assert link.startswith("./images?run=")
    assert f"visit={explorer.catalogue.sources['visit'][0]}" in link
    explorer.plane = "focal plane"
    assert "focal plane" in explorer.map.points.x_label
    assert np.isfinite(explorer.map.points.x).any()


def test_state_reopens_the_same_view(run):
    explorer = DiaExplorer.from_run(run)
    explorer.kind = "sources"
    explorer.snr_min = 6.0
    explorer.grid.selected = [explorer.grid.rows.ids(explorer.grid.filtered[-1:])[0]]
    explorer.param.update(quantity="total flux", clock="date", film=True, box=(0.0, 360.0, -90.0, 90.0))
    state = json.loads(json.dumps(explorer.state()))
    again = DiaExplorer.from_state(state, explorer.library)
    assert again.state() == state
    assert not again.refused
    assert again.grid.filtered.tolist() == explorer.grid.filtered.tolist()
    assert again.curve.quantity == "total flux"
    query = explorer.query()
    linked = DiaExplorer.from_query(query, explorer.library)
    assert (linked.source, linked.epoch) == (explorer.source, explorer.epoch)
    names = {}
    exec("\n".join([*explorer.as_code().splitlines()[:-1], f"made = {explorer.as_code().splitlines()[-1]}"]), names)
    assert names["made"].state() == state


def test_a_run_without_sources_says_what_to_do(run):
    explorer = DiaExplorer.from_run(Run(run.repository, "runs/Templates"))
    assert explorer.pane.state == "empty"
    assert explorer.pane.shown.reason == Reason.NOT_RUN
    assert "nightlab run" in explorer.pane.shown.what_to_do


def test_a_run_against_itself_differs_in_nothing(run):
    explorer = DiaExplorer(library=Library([run]), run=run, other=run)
    explorer.only = IN_BOTH
    n = len(explorer.catalogue.objects)
    assert explorer.grid.filtered.size == n > 0
    explorer.only = ONLY_A
    assert explorer.grid.filtered.size == 0
    explorer.only = ONLY_B
    assert (explorer.side, explorer.grid.filtered.size) == ("B", 0)
    explorer.only = EVERYTHING
    assert explorer.grid.filtered.size == n


def test_a_lost_file_and_a_lost_database_are_named(run, tmp_path):
    lab = tmp_path / "lab"
    shutil.copytree(run.repository, lab)
    shutil.rmtree(lab / "apdb")
    copy = Run(lab)
    explorer = DiaExplorer.from_run(copy)
    assert explorer.pane.state == "ready"
    assert "no prompt database" in explorer.status.object
    assert explorer.curve.forced is not None
    for file in lab.glob("runs/ApPipe/dia_source/**/*.parq*"):
        file.unlink()
    explorer = DiaExplorer.from_run(copy)
    assert explorer.pane.state in ("empty", "error")
    assert explorer.card_pane.state == "empty"
