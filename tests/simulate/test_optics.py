import numpy as np
import pytest
from astropy.wcs import WCS

from nightlab.simulate.camera import chips
from nightlab.simulate.config import SurveyConfig
from nightlab.simulate.optics import pixel_to_radec, psf_shape, radec_to_pixel, shear_matrix
from nightlab.simulate.raw import raw_header
from nightlab.simulate.visit import plan_visits


@pytest.mark.parametrize("ra", [150.0, 0.001, 359.999])
def test_positions_go_to_pixels_and_back(ra):
    config = SurveyConfig(ra=ra, dec=-35.0, distortion=3.0)
    visit, chip = plan_visits(config)[0], chips(config)[0]
    x, y = np.random.default_rng(1).uniform(0, 1023, (2, 200))
    sky = pixel_to_radec(visit, chip, config, x, y)
    assert ((sky[0] >= 0) & (sky[0] < 360)).all()
    np.testing.assert_allclose(radec_to_pixel(visit, chip, config, *sky), (x, y), atol=1e-7)


def test_without_errors_the_header_is_the_truth():
    config = SurveyConfig(detector_columns=2, distortion=0.0, pointing_error=0.0, rotation_spread=20.0)
    visit, chip = plan_visits(config)[3], chips(config)[1]
    visit = visit.__class__(**{**visit.__dict__, "true_rotation": visit.rotation})
    wcs = WCS(raw_header(visit, chip, config))
    x, y = np.random.default_rng(1).uniform(0, 1023, (2, 50))
    ra, dec = wcs.pixel_to_world_values(x, y)
    np.testing.assert_allclose(radec_to_pixel(visit, chip, config, ra, dec), (x, y), atol=1e-6)


def test_the_distortion_is_what_was_asked_for_at_the_corner():
    config = SurveyConfig(distortion=2.0)
    plain = config.model_copy(update={"distortion": 0.0})
    visit, chip = plan_visits(config)[0], chips(config)[0]
    for x, y, share in ((1023.5, 1023.5, 1.0), (511.5, 511.5, 0.0), (767.5, 767.5, 1.0 / 8.0)):
        sky = pixel_to_radec(visit, chip, plain, x, y)
        u, v = radec_to_pixel(visit, chip, config, *sky)
        assert np.hypot(u - x, v - y) == pytest.approx(2.0 * share, abs=0.01)


def test_the_psf_varies_within_bounds_and_shears_keep_area():
    config = SurveyConfig()
    visit, chip = plan_visits(config)[0], chips(config)[0]
    x, y = np.random.default_rng(1).uniform(0, 1023, (2, 400))
    fwhm, e1, e2 = psf_shape(visit, chip, config, x, y)
    assert 0.7 * 0.9 / 0.25 < fwhm.min() < fwhm.max() < 1.1 * 1.1 / 0.25
    assert 1.005 < fwhm.max() / fwhm.min() < 1.2
    assert np.hypot(e1, e2).max() < 0.2
    assert e1.std() > 1e-4
    np.testing.assert_allclose(np.linalg.det(shear_matrix(e1, e2)), 1.0)


def test_visits_are_in_time_order_with_templates_first_and_differ():
    config = SurveyConfig(bands=("g", "r"), n_template=3, n_science=4)
    visits = plan_visits(config)
    assert len(visits) == 14
    assert [v.role for v in visits] == ["template"] * 6 + ["science"] * 8
    assert len({v.visit for v in visits}) == 14
    assert (np.diff([v.mjd for v in visits]) > 0).all()
    assert np.ptp([v.rotation for v in visits]) > 1.0
    assert all(0.7 <= v.seeing <= 1.1 for v in visits)
    errors = [np.hypot((v.true_ra - v.ra) * np.cos(np.deg2rad(v.dec)), v.true_dec - v.dec) * 3600 for v in visits]
    assert 0.5 < min(errors) < max(errors) < 1.1
    assert [v.satellite for v in visits if v.role == "template"] == [False] * 6
    assert sum(v.satellite for v in visits) == 2
    assert all(v.day_obs // 10000 == 2027 for v in visits)
