import galsim
import numpy as np
import pytest

from nightlab.simulate.optics import MOFFAT_BETA, shear_matrix
from nightlab.simulate.pixels import cosmic_rays, draw_galaxies, draw_gaussians, draw_stars, satellite_trail


def _one(*values):
    return tuple(np.array([value], float) for value in values)


def _galsim_image(profile, shape, x, y):
    image = galsim.Image(np.zeros(shape), xmin=0, ymin=0)
    profile.drawImage(image, scale=1.0, center=(x, y), method="auto", dtype=float)
    return image.array


def _psf(fwhm, e1, e2):
    return galsim.Moffat(beta=MOFFAT_BETA, fwhm=fwhm).shear(g1=e1, g2=e2)


@pytest.mark.parametrize(("x", "y"), [(60.0, 60.0), (59.63, 60.41)])
@pytest.mark.parametrize(("fwhm", "e1", "e2"), [(2.8, 0.0, 0.0), (4.2, 0.05, -0.03)])
def test_a_star_has_its_flux_and_the_shape_galsim_gives_it(x, y, fwhm, e1, e2):
    image = np.zeros((121, 121))
    draw_stars(image, *_one(x, y, 1.0e6, fwhm, e1, e2))
    assert image.sum() == pytest.approx(1.0e6, rel=3e-4)
    wanted = _galsim_image(_psf(fwhm, e1, e2).withFlux(1.0e6), image.shape, x, y)
    # galsim cuts its transform at 1e-3
    np.testing.assert_allclose(image[30:91, 30:91], wanted[30:91, 30:91], atol=1e-3 * wanted.max())


def test_a_faint_star_keeps_its_flux_and_one_beyond_the_edge_still_shines_in():
    image = np.zeros((80, 80))
    draw_stars(image, *_one(40.2, 39.7, 50.0, 3.4, 0.02, 0.0))
    assert image.sum() == pytest.approx(50.0, rel=5e-4)
    beyond = np.zeros((80, 80))
    draw_stars(beyond, *_one(-3.0, 40.0, 1.0e5, 3.4, 0.0, 0.0))
    assert 1000.0 < beyond.sum() < 3.0e4


@pytest.mark.parametrize(("bulge_fraction", "radius"), [(0.0, 2.0), (0.4, 3.0), (1.0, 1.5)])
def test_a_galaxy_is_the_one_galsim_draws(bulge_fraction, radius):
    image = np.zeros((257, 257))
    x, y, fwhm, e1, e2 = 128.3, 127.8, 3.2, 0.03, 0.02
    shape = shear_matrix(0.2, -0.1)
    draw_galaxies(image, *_one(x, y, 1.0e5, bulge_fraction), 0.5 * radius * shape, radius * shape, *_one(fwhm, e1, e2))
    bulge = galsim.Spergel(nu=-0.6, half_light_radius=0.5 * radius, flux=max(bulge_fraction, 1e-9))
    disk = galsim.Exponential(half_light_radius=radius, flux=max(1.0 - bulge_fraction, 1e-9))
    profile = galsim.Convolve((bulge + disk).shear(g1=0.2, g2=-0.1), _psf(fwhm, e1, e2)) * 1.0e5
    wanted = _galsim_image(profile, image.shape, x, y)
    np.testing.assert_allclose(image, wanted, atol=3e-3 * wanted.max())
    assert image.sum() == pytest.approx(1.0e5, rel=1e-6)


def test_a_gaussian_has_flux_centre_and_width():
    image = np.zeros((61, 61))
    draw_gaussians(image, *_one(30.3, 28.8, 5.0e3, 1.7))
    y, x = np.mgrid[:61, :61]
    assert image.sum() == pytest.approx(5.0e3, rel=1e-9)
    assert (image * x).sum() / 5.0e3 == pytest.approx(30.3, abs=1e-6)
    # a pixel adds the variance of a unit box
    assert (image * (y - 28.8) ** 2).sum() / 5.0e3 == pytest.approx(1.7**2 + 1.0 / 12.0, rel=1e-6)


def test_a_trail_carries_its_brightness_per_pixel_of_length():
    trail = satellite_trail((201, 101), 50.0, 100.0, 0.0, 300.0, 4.0)
    np.testing.assert_allclose(trail.sum(axis=0), 300.0, rtol=1e-4)
    slanted = satellite_trail((201, 201), 100.0, 100.0, np.pi / 4, 300.0, 4.0)
    # a column is crossed over sqrt(2) pixels of length
    assert slanted[:, 100].sum() == pytest.approx(300.0 * np.sqrt(2.0), rel=1e-3)


def test_cosmic_rays_are_as_many_as_asked_and_leave_sharp_tracks():
    from scipy.ndimage import label

    charge = cosmic_rays((512, 512), 25, np.random.default_rng(3))
    _, n = label(charge > 0, structure=np.ones((3, 3)))
    assert 20 <= n <= 25
    assert charge.min() == 0.0
    assert charge.max() > 400.0
