"""Apertures against areas and integrals that are known, and against what other libraries draw."""

import galsim
import numpy as np
import pytest

from nightlab.numeric.galaxy_photometry import gaussian_flux, kron_flux, sinc_aperture_flux
from nightlab.numeric.moments import adaptive_moments

RNG = np.random.default_rng(20131)
HALF = 24
DX, DY = RNG.uniform(-0.5, 0.5, (2, 12))


def gaussians(xx, yy, xy=0.0, flux=1000.0, half=HALF):
    """Sampled elliptical Gaussians at the places of the module."""
    grid = np.arange(-half, half + 1)
    u, v = grid[None, None, :] - DX[:, None, None], grid[None, :, None] - DY[:, None, None]
    det = xx * yy - xy**2
    q = (yy * u**2 - 2 * xy * u * v + xx * v**2) / det
    return flux * np.exp(-0.5 * q) / (2 * np.pi * np.sqrt(det))


@pytest.mark.parametrize("radius", [2.0, 3.0, 6.0, 9.0])
def test_the_weights_of_a_sinc_aperture_sum_to_its_area(radius):
    flat = np.ones((len(DX), 2 * HALF + 1, 2 * HALF + 1))
    area, error = sinc_aperture_flux(flat, flat, DX, DY, radius)
    assert area == pytest.approx(np.pi * radius**2, rel=1e-3)
    assert np.all(error > 0)


@pytest.mark.parametrize("radius", [2.0, 3.0, 4.5, 6.0, 9.0])
def test_a_sinc_aperture_integrates_a_gaussian_wherever_it_lies_in_its_pixel(radius):
    sigma = 1.6
    stamps = gaussians(sigma**2, sigma**2)
    flux, _ = sinc_aperture_flux(stamps, np.ones_like(stamps), DX, DY, radius)
    assert flux == pytest.approx(1000.0 * (1 - np.exp(-0.5 * (radius / sigma) ** 2)), rel=1e-3)


def test_the_error_of_a_sinc_aperture_is_the_scatter_of_noise():
    noise = RNG.normal(0, 3.0, (4000, 25, 25))
    places = RNG.uniform(-0.5, 0.5, (2, 4000))
    flux, error = sinc_aperture_flux(noise, np.full_like(noise, 9.0), *places, 4.5)
    assert np.std(flux / error) == pytest.approx(1.0, abs=0.05)


def test_pixels_without_data_add_nothing_to_a_sinc_aperture():
    stamps = gaussians(2.0, 2.0)
    holed = stamps.copy()
    holed[:, :, :4] = np.nan
    flux, error = sinc_aperture_flux(holed, np.ones_like(holed), DX, DY, 6.0)
    assert flux == pytest.approx(sinc_aperture_flux(stamps, np.ones_like(stamps), DX, DY, 6.0)[0], rel=1e-4)
    assert np.isfinite(error).all()


def test_gaussian_flux_is_exact_on_a_gaussian_and_its_error_is_the_scatter():
    stamps = gaussians(4.0, 3.0, 1.0)
    moments, centres, failed = adaptive_moments(stamps, DX, DY, guess=1.5)
    assert not failed.any()
    flux, error, _ = gaussian_flux(stamps, np.ones_like(stamps), centres, moments)
    assert flux == pytest.approx(1000.0, rel=1e-3)
    noisy = stamps[:1] + RNG.normal(0, 1.0, (4000, *stamps.shape[1:]))
    places, shapes = np.repeat(centres[:1], 4000, axis=0), np.repeat(moments[:1], 4000, axis=0)
    many, errors, _ = gaussian_flux(noisy, np.ones_like(noisy), places, shapes)
    assert np.std((many - 1000.0) / errors) == pytest.approx(1.0, abs=0.05)
    assert abs(np.mean(many) - 1000.0) < 2 * error[0] / np.sqrt(4000) + 1.0


def kron(image, x, y, moments, smallest=0.0, factor=2.5):
    n = len(x)
    nothing = np.zeros((n, 3, 3))
    return kron_flux(
        image, np.ones_like(image), nothing, np.zeros(n), x, y, moments, 6.0, factor, np.full(n, smallest)
    )


def test_the_kron_radius_of_a_gaussian_is_the_mean_of_its_radius():
    image = np.zeros((121, 121))
    x = np.array([60.3])
    y = np.array([59.8])
    yy, xx = np.mgrid[:121, :121]
    image += 5000.0 / (2 * np.pi * 9.0) * np.exp(-0.5 * ((xx - x) ** 2 + (yy - y) ** 2) / 9.0)
    flux, error, radius, flag = kron(image, x, y, np.array([[9.0, 9.0, 0.0]]))
    assert radius[0] == pytest.approx(np.sqrt(np.pi / 2) * 3.0, rel=1e-3)
    assert flux[0] == pytest.approx(5000.0 * (1 - np.exp(-0.5 * (2.5 * np.sqrt(np.pi / 2)) ** 2)), rel=1e-3)
    # parts of pixels at the rim are spread evenly over 0 to 1, so that their squares sum to a sixth less
    area, rim = np.pi * (2.5 * radius[0]) ** 2, 2 * np.pi * 2.5 * radius[0]
    assert error[0] == pytest.approx(np.sqrt(area - rim / 6), rel=2e-3)
    assert not flag.any()


@pytest.mark.parametrize("shear", [0.0, 0.3])
def test_a_kron_flux_holds_nine_tenths_of_a_galaxy(shear):
    """Kron (1980): an ellipse of 2.5 radii holds more than 90 per cent of an exponential disc's light."""
    galaxy = galsim.Exponential(half_light_radius=5.0, flux=2e4).shear(g1=shear, g2=0.5 * shear)
    seen = galsim.Convolve(galaxy, galsim.Moffat(beta=3, fwhm=3.5))
    image = seen.drawImage(nx=221, ny=221, scale=1.0).array.astype(float)
    stamp = image[110 - 40 : 110 + 41, 110 - 40 : 110 + 41]
    moments, _, failed = adaptive_moments(stamp[None], np.zeros(1), np.zeros(1), guess=4.0)
    assert not failed[0]
    flux, _, _, flag = kron(image, np.array([110.0]), np.array([110.0]), moments)
    assert 0.90 < flux[0] / 2e4 < 1.0
    assert not flag[0]


def test_a_kron_ellipse_is_never_smaller_than_that_of_a_point_source_and_says_so():
    empty = np.random.default_rng(5).normal(-2.0, 1.0, (81, 81))
    flux, _, radius, flag = kron(empty, np.array([40.0]), np.array([40.0]), np.array([[4.0, 4.0, 0.0]]), smallest=1.25)
    assert flag[0]
    assert radius[0] == pytest.approx(2.5)
    assert flux[0] == pytest.approx(empty[40 - 6 : 47, 40 - 6 : 47].mean() * np.pi * 6.25**2, rel=0.3)


def test_a_kron_flux_leaves_the_image_as_it_was_and_counts_the_source_alone():
    yy, xx = np.mgrid[:101, :101]
    star = np.exp(-0.5 * ((xx - 50) ** 2 + (yy - 50) ** 2) / 4.0) / (2 * np.pi * 4.0)
    stamp = star[50 - 20 : 71, 50 - 20 : 71][None]
    residual = np.zeros((101, 101))
    flux, _, _, _ = kron_flux(
        residual, np.ones_like(residual), stamp, np.array([700.0]), np.array([50.0]), np.array([50.0]),
        np.array([[4.0, 4.0, 0.0]]), 6.0, 2.5, np.zeros(1),
    )  # fmt: skip
    # light is summed in pixels, which spread it by their own variance of 1/12
    inside = 1 - np.exp(-0.5 * (2.5 * 2.0 * np.sqrt(np.pi / 2)) ** 2 / (4 + 1 / 12))
    assert flux[0] == pytest.approx(700.0 * inside, rel=1e-3)
    assert np.abs(residual).max() < 1e-12
