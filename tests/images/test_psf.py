import numpy as np
import pytest
from lsst.images import Box
from lsst.images.psfs import GaussianPointSpreadFunction

from nightlab.errors import BadInput
from nightlab.images.psf import (
    PolynomialPsf,
    effective_area,
    psf_sigma,
    psf_stamps,
    shift_stamps,
)

BOX = Box.from_shape((300, 400))
R = np.arange(-12, 13)


def _gaussian(sigma, dx=0.0, dy=0.0):
    stamp = np.exp(-0.5 * (((R - dx) / sigma)[None, :] ** 2 + ((R - dy) / sigma)[:, None] ** 2))
    return stamp / stamp.sum()


def _varying():
    coefficients = np.zeros((6, 25, 25))
    coefficients[0] = _gaussian(2.0)
    coefficients[1] = 0.3 * (_gaussian(2.5) - _gaussian(2.0))
    coefficients[4] = 0.5 * (_gaussian(2.2) - _gaussian(2.0))
    return PolynomialPsf(coefficients=coefficients, order=2, bbox=BOX)


def test_piff_draws_the_same_kernel_and_the_same_star():
    ours = _varying()
    theirs = ours.to_piff()
    np.testing.assert_allclose(
        psf_stamps(ours, [100], [200], centred=True)[0], theirs.compute_kernel_image(x=100, y=200).array, atol=1e-12
    )
    drawn = theirs.compute_stellar_image(x=100.3, y=200.6)
    np.testing.assert_allclose(psf_stamps(ours, [100.3], [200.6])[0], drawn.array, atol=1e-12)
    assert (drawn.bbox.x.start + 12, drawn.bbox.y.start + 12) == (100, 201)


def test_wrapping_and_unwrapping_loses_nothing():
    ours = _varying()
    back = PolynomialPsf.from_piff(ours.to_piff())
    np.testing.assert_array_equal(back.coefficients, ours.coefficients)
    assert (back.order, back.bbox) == (2, BOX)


def test_fit_recovers_the_model_that_made_the_stamps():
    rng = np.random.default_rng(3)
    x, y = rng.uniform(0, 400, 40), rng.uniform(0, 300, 40)
    ours = _varying()
    fit = PolynomialPsf.fit(x, y, ours.grids(x, y), order=2, bbox=BOX)
    np.testing.assert_allclose(fit.grids([50, 350], [20, 280]), ours.grids([50, 350], [20, 280]), atol=1e-8)


@pytest.mark.parametrize(("dx", "dy"), [(0.0, 0.0), (0.5, -0.25), (-0.4, 0.5)])
def test_shifted_gaussians_are_gaussians_elsewhere(dx, dy):
    shifted = shift_stamps(_gaussian(2.0)[None], np.array([dx]), np.array([dy]))[0]
    # a Lanczos kernel of order 5 is within 0.3 % of the ideal sinc below half the sampling frequency
    np.testing.assert_allclose(shifted, _gaussian(2.0, dx, dy), atol=3e-3 * _gaussian(2.0).max())


def test_gaussian_psfs_are_drawn_as_lsst_images_draws_them():
    psf = GaussianPointSpreadFunction(1.7, BOX, 25)
    stamp = psf_stamps(psf, [10.3], [20.8])[0]
    np.testing.assert_allclose(stamp, psf.compute_stellar_image(x=10.3, y=20.8).array, atol=1e-12)


def test_sizes_are_cropped_and_padded_about_the_centre():
    psf = _varying()
    full = psf_stamps(psf, [10.3], [20.8])[0]
    np.testing.assert_array_equal(psf_stamps(psf, [10.3], [20.8], size=11)[0], full[7:18, 7:18])
    padded = psf_stamps(psf, [10.3], [20.8], size=31)[0]
    np.testing.assert_array_equal(padded[3:-3, 3:-3], full)
    assert padded[:3].sum() == 0.0


def test_width_and_area_of_a_gaussian():
    psf = PolynomialPsf(coefficients=_gaussian(2.0)[None], order=0, bbox=BOX)
    assert psf_sigma(psf, 10, 10) == pytest.approx(2.0, rel=1e-3)
    assert effective_area(_gaussian(2.0)) == pytest.approx(4 * np.pi * 2.0**2, rel=1e-4)


def test_a_stamp_of_five_pixels_has_the_published_area():
    r = np.arange(-2, 3)
    stamp = np.exp(-0.5 * (r[:, None] ** 2 + r[None, :] ** 2) / 2.0**2)
    assert effective_area(stamp) == pytest.approx(23.089, abs=5e-4)


def test_coefficients_of_the_wrong_shape_are_refused():
    with pytest.raises(BadInput, match=r"order 1 needs \(3, k, k\)"):
        PolynomialPsf(coefficients=np.zeros((2, 5, 5)), order=1, bbox=BOX)
