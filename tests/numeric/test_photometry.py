import galsim
import numpy as np
import pytest
import sep

from nightlab.numeric import moments, photometry


def gaussian(side, x, y, sigma):
    v, u = np.indices((side, side))
    stamp = np.exp(-0.5 * ((u - x) ** 2 + (v - y) ** 2) / sigma**2)
    return stamp / stamp.sum()


def test_stamps_leave_nan_outside_the_image():
    image = np.arange(12.0).reshape(3, 4)
    stamp = photometry.cut_stamps(image, np.array([0]), np.array([2]), 1)[0]
    expected = np.array([[np.nan, 4, 5], [np.nan, 8, 9], [np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(stamp, expected)


def test_added_stamps_come_back_when_cut():
    image = np.zeros((30, 30))
    stamps = np.stack([gaussian(7, 3, 3, 1.2), gaussian(7, 3.3, 2.9, 1.2)])
    x, y = np.array([6, 22]), np.array([8, 20])
    photometry.add_stamps(image, stamps, np.array([2.0, 5.0]), x, y)
    np.testing.assert_allclose(photometry.cut_stamps(image, x, y, 3), stamps * np.array([2.0, 5.0])[:, None, None])


def test_psf_flux_is_exact_without_noise_and_its_error_is_the_scatter():
    rng = np.random.default_rng(11)
    psf = np.repeat(gaussian(21, 10.2, 9.7, 1.6)[None], 4000, axis=0)
    variance = np.full_like(psf, 9.0)
    clean, _, used = photometry.psf_flux(500.0 * psf, variance, psf)
    np.testing.assert_allclose(clean, 500.0, rtol=1e-12)
    assert (used == 441).all()
    noisy, error, _ = photometry.psf_flux(500.0 * psf + rng.normal(0, 3, psf.shape), variance, psf)
    pulls = (noisy - 500.0) / error
    assert abs(pulls.mean()) < 3 / np.sqrt(4000)
    assert pulls.std() == pytest.approx(1.0, abs=0.05)


def test_psf_flux_ignores_pixels_without_data():
    psf = gaussian(11, 5, 5, 1.5)[None]
    stamp = 100.0 * psf
    stamp[0, 5, 6] = np.nan
    flux, _, used = photometry.psf_flux(stamp, np.ones_like(psf), psf)
    assert flux[0] == pytest.approx(100.0)
    assert used[0] == 120
    assert np.isnan(photometry.psf_flux(np.full_like(psf, np.nan), np.ones_like(psf), psf)[0][0])


@pytest.mark.parametrize("radius", [3.0, 6.0, 12.0])
def test_apertures_agree_with_the_area_of_a_circle_and_with_sep(radius):
    image = np.random.default_rng(5).normal(10, 1, (60, 60))
    x, y = np.array([30.0, 29.6, 25.3]), np.array([30.0, 30.2, 31.8])
    ones, _, missing = photometry.aperture_flux(np.ones_like(image), np.ones_like(image), x, y, radius)
    np.testing.assert_allclose(ones, np.pi * radius**2, rtol=3e-3)
    assert (missing == 0).all()
    ours, error, _ = photometry.aperture_flux(image, np.full_like(image, 4.0), x, y, radius)
    theirs, their_error, _ = sep.sum_circle(image, x, y, radius, err=2.0, subpix=0)
    np.testing.assert_allclose(ours, theirs, rtol=3e-3)
    np.testing.assert_allclose(error, their_error, rtol=0.08)  # sep weighs rim pixels once, not squared


def test_aperture_counts_what_it_misses():
    flux, _, missing = photometry.aperture_flux(
        np.ones((20, 20)), np.ones((20, 20)), np.array([0.0]), np.array([0.0]), 3.0
    )
    assert flux[0] == pytest.approx(np.pi * 9 / 4 + 3.0 + 0.25, abs=0.1)
    assert missing[0] > 15


def test_two_overlapping_stars_are_separated():
    truth = np.array([[20.3, 20.1], [22.6, 21.0]])
    fluxes = np.array([1000.0, 400.0])
    image = sum(f * gaussian(41, x, y, 1.3) for f, (x, y) in zip(fluxes, truth, strict=True))
    x, y = np.array([20.0, 23.0]), np.array([20.0, 21.0])
    flux = np.zeros(2)
    for _ in range(60):
        xi, yi = np.rint(x).astype(int), np.rint(y).astype(int)
        psf = np.stack([gaussian(21, 10 + a - i, 10 + b - j, 1.3) for a, b, i, j in zip(x, y, xi, yi, strict=True)])
        residual = image.copy()
        photometry.add_stamps(residual, psf, -flux, xi, yi)
        dx, dy = photometry.sweep_point_sources(residual, psf, x, y, flux, np.array([0, 1]), 4.0)
        x, y = x + np.clip(dx, -0.3, 0.3), y + np.clip(dy, -0.3, 0.3)
    np.testing.assert_allclose(np.stack([x, y], 1), truth, atol=2e-3)
    np.testing.assert_allclose(flux, fluxes, rtol=2e-3)


def test_centroid_error_is_that_of_a_gaussian():
    # for a Gaussian of width s in noise n the error of the centroid is n sqrt(8 pi) s^2 / f (King 1983, PASP 95, 163)
    psf = gaussian(61, 30, 30, 4.0)[None]
    ex, ey = photometry.centroid_errors(np.full_like(psf, 4.0), psf, np.array([1000.0]))
    expected = 2.0 * np.sqrt(8 * np.pi) * 4.0**2 / 1000.0
    assert ex[0] == pytest.approx(expected, rel=0.05)
    assert ey[0] == pytest.approx(expected, rel=0.05)


def test_growing_covers_a_disc():
    mask = np.zeros((15, 15), bool)
    mask[7, 7] = True
    v, u = np.indices(mask.shape) - 7
    np.testing.assert_array_equal(photometry.grow(mask, 3.2), u**2 + v**2 <= 3.2**2)


def test_adaptive_moments_agree_with_hsm():
    objects = [
        galsim.Gaussian(sigma=1.7).shear(g1=0.1, g2=-0.05),
        galsim.Moffat(beta=3.5, fwhm=3.0).shear(g1=-0.08, g2=0.12),
        galsim.Sersic(n=1.0, half_light_radius=3.0).shear(g1=0.3),
    ]
    shifts = [(0.21, -0.33), (0.0, 0.4), (-0.2, 0.1)]
    images = [o.shift(a, b).drawImage(nx=51, ny=51, scale=1.0) for o, (a, b) in zip(objects, shifts, strict=True)]
    theirs = [image.FindAdaptiveMom() for image in images]
    stamps = np.stack([image.array for image in images]).astype(float)
    values, centres, failed = moments.adaptive_moments(stamps, np.zeros(3), np.zeros(3), guess=1.5)
    assert not failed.any()
    for row, centre, hsm in zip(values, centres, theirs, strict=True):
        det = row[0] * row[1] - row[2] ** 2
        assert det**0.25 == pytest.approx(hsm.moments_sigma, rel=1e-4)
        assert (row[0] - row[1]) / (row[0] + row[1]) == pytest.approx(hsm.observed_e1, abs=1e-4)
        assert 2 * row[2] / (row[0] + row[1]) == pytest.approx(hsm.observed_e2, abs=1e-4)
        assert centre == pytest.approx([hsm.moments_centroid.x - 26, hsm.moments_centroid.y - 26], abs=1e-3)


def test_moments_of_nothing_are_flagged():
    values, centres, failed = moments.adaptive_moments(
        np.full((2, 15, 15), np.nan), np.zeros(2), np.zeros(2), guess=1.5
    )
    assert failed.all()
    assert np.isnan(values).all()
    assert np.isnan(centres).all()
