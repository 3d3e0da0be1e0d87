import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io.fits import Header
from astropy.wcs import WCS
from lsst.images import Box

from nightlab.errors import TooFewStars
from nightlab.images.camera import make_detector
from nightlab.images.wcs import (
    fit_projection,
    fits_header,
    jacobian,
    pixel_scale,
    pixel_to_radec,
    radec_to_pixel,
    tan_projection,
)

BOX = Box.from_shape((300, 400))
FRAME = make_detector("SimCam", 3, "R3", BOX, pixel_scale=0.25, visit=42).frame


def _pointing(ra=359.999, dec=0.5, rotation=10.0):
    return tan_projection(ra, dec, x=200, y=150, scale=0.25, rotation=rotation, frame=FRAME, bbox=BOX)


def _stars(n=200):
    rng = np.random.default_rng(1)
    return rng.uniform(0, 400, n), rng.uniform(0, 300, n)


@pytest.mark.parametrize("dec", [0.5, 70.0, -89.9])
def test_a_pointing_is_north_up_east_left_and_has_its_scale(dec):
    projection = _pointing(dec=dec, rotation=0.0)
    ra, d = pixel_to_radec(projection, [200, 200, 201], [150, 151, 150])
    assert d[1] - d[0] == pytest.approx(0.25 / 3600, rel=1e-6)
    step = SkyCoord(ra[0], d[0], unit="deg").spherical_offsets_to(SkyCoord(ra[2], d[2], unit="deg"))[0].arcsec
    assert step == pytest.approx(-0.25, rel=1e-6)
    assert pixel_scale(projection, 200, 150) == pytest.approx(0.25, rel=1e-6)


def test_rotation_turns_the_y_axis_from_north_to_east():
    derivative = jacobian(_pointing(rotation=10.0), 200, 150) * 3600
    np.testing.assert_allclose(
        derivative[:, 1], 0.25 * np.array([np.sin(np.deg2rad(10)), np.cos(np.deg2rad(10))]), rtol=1e-6
    )


def test_a_cubic_distortion_is_fitted_to_a_microarcsecond_and_inverts():
    x, y = _stars()
    distorted = x + 1e-6 * (x - 200) * ((x - 200) ** 2 + (y - 150) ** 2)
    ra, dec = pixel_to_radec(_pointing(), distorted, y)
    fit = fit_projection(x, y, ra, dec, frame=FRAME, bbox=BOX, order=3)
    ra_fit, dec_fit = pixel_to_radec(fit, x, y)
    assert np.abs((ra_fit - ra + 180) % 360 - 180).max() * 3.6e9 < 1.0
    back = radec_to_pixel(fit, ra_fit, dec_fit)
    np.testing.assert_allclose(back, [x, y], atol=1e-4)
    poor = fit_projection(x, y, ra, dec, frame=FRAME, bbox=BOX, order=1)
    assert np.abs(pixel_to_radec(poor, x, y)[1] - dec).max() * 3.6e6 > 100.0


def test_the_fits_header_of_a_fit_agrees_with_astropy():
    x, y = _stars()
    ra, dec = pixel_to_radec(_pointing(ra=120.0), x + 1e-4 * (x - 200) ** 2, y)
    fit = fit_projection(x, y, ra, dec, frame=FRAME, bbox=BOX, order=2)
    theirs = WCS(Header(fits_header(fit, BOX))).all_pix2world(x, y, 0)
    np.testing.assert_allclose(theirs, pixel_to_radec(fit, x, y), atol=1e-9)


def test_weights_let_a_fit_ignore_a_wrong_match():
    x, y = _stars()
    ra, dec = pixel_to_radec(_pointing(ra=120.0), x, y)
    weights = np.ones_like(x)
    dec[7] += 1.0
    weights[7] = 0.0
    fit = fit_projection(x, y, ra, dec, frame=FRAME, bbox=BOX, order=2, weights=weights)
    error = np.delete(pixel_to_radec(fit, x, y)[1] - dec, 7)
    assert np.abs(error).max() * 3.6e9 < 1.0


def test_too_few_matches_are_refused_with_both_numbers():
    with pytest.raises(TooFewStars, match="order 2 needs 9 matches, found 8"):
        fit_projection(*np.zeros((4, 8)), frame=FRAME, bbox=BOX, order=2)


def test_no_positions_map_to_no_positions():
    assert [part.shape for part in pixel_to_radec(_pointing(), [], [])] == [(0,), (0,)]
    assert [part.shape for part in radec_to_pixel(_pointing(), [], [])] == [(0,), (0,)]
