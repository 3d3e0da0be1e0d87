import numpy as np
import pytest
from astropy.table import Table
from bokeh.models import Scatter
from dia_tables import some_sources

from nightlab.dashboards.curves import best_period, calendar, curve, magnitude
from nightlab.dashboards.light_curves import LightCurve, light_curve_figure, light_curve_plot
from nightlab.dashboards.states import Nothing, Reason
from nightlab.dashboards.style import BANDS


def points(flux, error=10.0, band="r", **more):
    n = len(flux)
    return Table(
        {
            "midpointMjdTai": 60000.0 + np.arange(n),
            "band": [band] * n if isinstance(band, str) else band,
            "psfFlux": np.asarray(flux, float),
            "psfFluxErr": np.full(n, float(error)),
            "visit": 100 + np.arange(n),
            "detector": np.zeros(n, int),
            **more,
        }
    )


def test_magnitudes_are_ab_of_nanojanskys():
    made = curve(points([3631e9, 1000.0]), quantity="difference magnitude").bands["r"]
    np.testing.assert_allclose(made.value, [0.0, 23.9], atol=1e-3)
    assert magnitude(np.array([1.0]))[0] == 31.4


@pytest.mark.parametrize(
    ("flux", "kind", "brightness"),
    [
        (1000.0, "point", 1000.0),
        (-1000.0, "negative", 1000.0),  # drawn at its size, and said to be negative
        (5.0, "limit", 35.0),  # flux + 3 sigma
        (-5.0, "limit", 30.0),  # a negative flux does not deepen the limit
        (0.0, "limit", 30.0),
    ],
)
def test_no_flux_becomes_a_nan_magnitude(flux, kind, brightness):
    made = curve(points([flux]), quantity="difference magnitude").bands["r"]
    assert made.kind.tolist() == [kind]
    assert made.value[0] == pytest.approx(magnitude(np.array([brightness]))[0])
    assert np.isfinite([made.low, made.high]).all()


def test_fluxes_are_drawn_as_they_are_negative_ones_too():
    made = curve(points([5.0, -7.0], error=2.0)).bands["r"]
    assert made.value.tolist() == [5.0, -7.0]
    assert made.low.tolist() == [3.0, -9.0]
    assert set(made.kind) == {"point"}


def test_what_has_no_value_is_counted_not_drawn():
    made = curve(points([1.0, np.nan, 3.0]))
    assert made.left_out == 1
    assert made.bands["r"].value.tolist() == [1.0, 3.0]
    assert "1 without a finite value" in light_curve_figure(made).title.text


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (points([]), Reason.NO_DATA_SELECTED),
        (points([np.nan, np.nan]), Reason.ALL_NAN),
        (Table({"band": ["r"]}), Reason.SCHEMA_MISMATCH),
    ],
)
def test_a_curve_without_points_says_why(table, reason):
    with pytest.raises(Nothing) as told:
        curve(table)
    assert told.value.state.reason == reason


def test_a_missing_column_is_named():
    with pytest.raises(Nothing, match="scienceFlux, scienceFluxErr"):
        curve(points([1.0]), quantity="total flux")
    view = LightCurve(points([1.0]), quantity="total flux")
    assert view.pane.state == "empty"
    view.quantity = "difference flux"
    assert view.pane.state == "ready"


def test_bands_keep_their_look_and_order_and_count():
    made = curve(points([1.0, 2.0, 3.0], band=["z", "g", "g"]), points([4.0], band="g"))
    assert list(made.bands) == ["g", "z"]
    figure = light_curve_figure(made)
    assert [item.label.value for item in figure.legend[0].items] == ["g  2 + 1 forced", "z  1"]
    for item in figure.legend[0].items:
        marks = [r.glyph for r in item.renderers if isinstance(r.glyph, Scatter)]
        assert {mark.line_color for mark in marks} == {BANDS[item.name].colour}
        assert {mark.marker for mark in marks} == {BANDS[item.name].marker}


def test_limits_hide_with_their_band_and_point_down():
    made = curve(points([1000.0, 1.0]), quantity="difference magnitude")
    view = LightCurve(points([1000.0, 1.0]), quantity="difference magnitude")
    figure = view._panes[0].object
    limits = [r for r in figure.renderers if getattr(r.glyph, "marker", "") == "inverted_triangle"]
    assert len(limits) == 1
    assert limits[0].glyph.fill_color is None
    view.hidden = ["r"]
    assert not limits[0].visible
    view.hidden = []
    assert limits[0].visible
    without = light_curve_figure(made, limits=False)
    assert not [r for r in without.renderers if getattr(r.glyph, "marker", "") == "inverted_triangle"]


def test_one_epoch_has_no_line_and_cannot_be_folded():
    view = LightCurve(points([1000.0]), folded=True)
    assert len(view._panes) == 1
    assert not [r for r in view._panes[0].object.renderers if type(r.glyph).__name__ == "Line"]
    with pytest.raises(Nothing, match="five epochs"):
        best_period(view.curve)


def test_the_period_of_a_sine_is_found_and_folds_it():
    rng = np.random.default_rng(4)
    time = np.sort(rng.uniform(0, 100, 60))
    table = points(1000 * np.sin(2 * np.pi * time / 3.7))
    table["midpointMjdTai"] = 60000.0 + time
    assert best_period(curve(table)) == pytest.approx(3.7, rel=0.01)
    view = LightCurve(table, folded=True, period=3.7)
    assert len(view._panes) == 2
    assert "phase" in view._panes[1].object.xaxis[0].axis_label


@pytest.mark.parametrize(("clock", "first"), [("MJD", 60000.0), ("days since first", 0.0), ("date", 1677283200000.0)])
def test_clocks_agree(clock, first):
    figure = light_curve_figure(curve(points([1.0, 2.0])), clock=clock)
    assert figure.tags[0][0].data["x"][0] == first
    assert calendar(60000.0) == "2023-02-25 00:00:00"


def test_magnitudes_point_up_when_bright():
    assert light_curve_figure(curve(points([1e4]), quantity="difference magnitude")).y_range.flipped
    assert not light_curve_figure(curve(points([1e4]))).y_range.flipped


def test_a_click_on_a_point_chooses_its_epoch_and_rings_it():
    view = LightCurve(points([1.0, 2.0, 3.0]))
    source, ring = view._panes[0].object.tags[0][0], view._panes[0].object.tags[1]
    source.selected.indices = [1]
    assert view.epoch == "101:0"
    assert list(ring.data["y"]) == [2.0]
    view.step(1)
    assert view.epoch == "102:0"
    view.step(1)
    assert view.epoch == "102:0"
    view.step(-5)
    assert view.epoch == "100:0"


def test_the_one_liner_draws_a_table():
    sources = some_sources()
    made = light_curve_plot(sources[:3], quantity="total magnitude")
    assert made.pane.state == "ready"
    assert made.curve.magnitudes
