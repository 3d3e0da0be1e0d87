import numpy as np
import pytest

from nightlab.simulate.config import SurveyConfig
from nightlab.simulate.optics import tangent_plane
from nightlab.simulate.sky import fluxes_at, make_sky, positions_at
from nightlab.simulate.visit import plan_visits

CONFIG = SurveyConfig(bands=("g", "r"))
VISITS = plan_visits(CONFIG)
SKY = make_sky(CONFIG, VISITS)


def _of(kind):
    return SKY[np.asarray(SKY["kind"]) == kind]


def test_every_object_has_an_id_a_place_and_magnitudes():
    assert len(np.unique(SKY["objectId"])) == len(SKY)
    for name in ("ra", "dec", "epoch", "pmRa", "pmDec", "g_mag", "r_mag"):
        assert np.isfinite(SKY[name]).all(), name
    counts = {kind: len(_of(kind)) for kind in ("star", "variable", "galaxy", "transient", "mover")}
    assert counts["variable"] == 20
    assert counts["mover"] == 12
    assert counts["transient"] == 100
    assert counts["star"] > 600
    assert counts["galaxy"] > 1500


def test_star_counts_grow_as_the_power_law_asks():
    r = np.asarray(_of("star")["r_mag"])
    # 10^(0.2 m): one magnitude brighter holds 10^-0.2 of the whole, less what is brighter than the limit
    expected = (10 ** (0.2 * 23.5) - 10 ** (0.2 * 15.5)) / (10 ** (0.2 * 24.5) - 10 ** (0.2 * 15.5))
    assert (r < 23.5).mean() == pytest.approx(expected, abs=4.0 * np.sqrt(0.25 / r.size))


def test_transients_are_dark_in_the_template_and_bright_later():
    transients = _of("transient")
    template = [v.mjd for v in VISITS if v.role == "template"]
    science = [v.mjd for v in VISITS if v.role == "science"]
    assert max(fluxes_at(transients, "r", mjd).max() for mjd in template) == 0.0
    late = fluxes_at(transients, "r", science[-1])
    peak = 10 ** (-0.4 * (np.asarray(transients["r_mag"]) - 31.4))
    assert (late > 0).all()
    assert (late <= peak * (1 + 1e-12)).all()
    assert np.median(late / peak) > 0.3


def test_half_of_the_transients_sit_on_galaxies():
    transients, galaxies = _of("transient"), _of("galaxy")
    hosted = transients[np.asarray(transients["hostId"]) > 0]
    assert 0.3 < len(hosted) / len(transients) < 0.7
    host = galaxies[np.searchsorted(galaxies["objectId"], hosted["hostId"])]
    offset = [
        float(np.hypot(*tangent_plane(t["ra"], t["dec"], g["ra"], g["dec"]))) / g["diskRadius"]
        for t, g in zip(hosted, host, strict=True)
    ]
    assert max(offset) < 3.0
    assert np.median(offset) < 1.0


def test_variables_keep_their_mean_and_their_amplitude():
    variables = _of("variable")
    mean = np.asarray(variables["r_mag"])
    dates = 61500.0 + np.linspace(0.0, 500.0, 4001)
    magnitude = np.array([31.4 - 2.5 * np.log10(fluxes_at(variables, "r", mjd)) for mjd in dates])
    np.testing.assert_allclose(magnitude.mean(axis=0), mean, atol=0.02)
    swing = np.ptp(magnitude, axis=0) / np.asarray(variables["amplitude"])
    assert ((swing > 0.8) & (swing < 1.1)).all()


def test_movers_cross_many_pixels_between_visits_but_hardly_trail():
    movers = _of("mover")
    rate = np.hypot(movers["pmRa"], movers["pmDec"]) / 1000.0 / 365.25 / 24.0  # arcsec per hour
    assert (rate * 0.5 > 5 * 0.25).all()
    assert ((rate * 30.0 / 3600.0) < 0.3 * 0.9).mean() > 0.8
    at = positions_at(movers, float(movers["epoch"][0]))
    assert at[0][0] == pytest.approx(movers["ra"][0])


def test_a_star_moves_by_its_proper_motion():
    star = _of("star")[:50]
    ra, dec = positions_at(star, float(star["epoch"][0]) + 3652.5)
    east = (ra - np.asarray(star["ra"])) * np.cos(np.deg2rad(np.asarray(star["dec"]))) * 3.6e6
    np.testing.assert_allclose(east, 10.0 * np.asarray(star["pmRa"]), atol=1e-3)
    np.testing.assert_allclose((dec - np.asarray(star["dec"])) * 3.6e6, 10.0 * np.asarray(star["pmDec"]), atol=1e-3)


def test_more_galaxies_do_not_change_the_stars():
    other = make_sky(CONFIG.model_copy(update={"galaxy_density": 5.0}), VISITS)
    stars = other[np.asarray(other["kind"]) == "star"]
    np.testing.assert_array_equal(stars["ra"], _of("star")["ra"])
    moved = make_sky(CONFIG.model_copy(update={"seed": 5}), VISITS)
    assert not np.isin(np.asarray(moved["ra"]), np.asarray(SKY["ra"])).any()
