import numpy as np
import pytest
from scipy.signal import fftconvolve

from nightlab.errors import ShapeError, TooFewStars
from nightlab.numeric.convolution import SpatialKernel, chebyshev_surface, convolve, convolve_stamps
from nightlab.numeric.matching_kernel import FitRules, fit_matching_kernel, gaussian_basis, scaled_basis
from nightlab.numeric.spectra import (
    Noise,
    chain,
    measured_autocorrelation,
    noise_root,
    noise_spectrum,
    whitening_kernel,
)

SHAPE = (300, 320)


def gaussian(sigma, half):
    r = np.arange(-half, half + 1)
    g = np.exp(-0.5 * (r / sigma) ** 2)
    return np.outer(g, g) / g.sum() ** 2


def field(sigma, x, y, flux):
    gy, gx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image = np.zeros(SHAPE)
    for a, b, f in zip(x, y, flux, strict=True):
        image += f / (2 * np.pi * sigma**2) * np.exp(-0.5 * ((gx - a) ** 2 + (gy - b) ** 2) / sigma**2)
    return image


def star_list(n=40, seed=11, low=2000, high=20000):
    rng = np.random.default_rng(seed)
    return rng.uniform(30, SHAPE[1] - 30, n), rng.uniform(30, SHAPE[0] - 30, n), rng.uniform(low, high, n)


def test_basis_is_normalised():
    basis = gaussian_basis(scaled_basis(2.2, 3.3))
    assert len(basis) == 15 + 6 + 6
    assert basis[0].sum() == pytest.approx(1.0)
    np.testing.assert_allclose(basis[1:].sum(axis=(1, 2)), 0.0, atol=1e-12)
    np.testing.assert_allclose((basis[1:] ** 2).sum(axis=(1, 2)), 1.0)


def test_widths_follow_the_psfs():
    wider = scaled_basis(2.0, 4.0)
    assert wider.sigmas == pytest.approx((np.sqrt(12) / 2, np.sqrt(12), 2 * np.sqrt(12)))
    assert wider.half_width == 17
    assert scaled_basis(2.0, 2.0).sigmas == pytest.approx((0.7, 1.4, 2.8))
    assert scaled_basis(2.4, 2.0).degrees == (3, 3, 3)


def test_convolution_equals_the_library_and_varies_as_told():
    rng = np.random.default_rng(5)
    image, kernel = rng.normal(size=SHAPE), rng.normal(size=(7, 7))
    np.testing.assert_allclose(convolve(image, kernel), fftconvolve(image, kernel, mode="same"), atol=1e-9)
    images = rng.normal(size=(3, 7, 7))
    varying = SpatialKernel(images=images, order=1, shape=SHAPE)
    out = convolve(image, varying)
    y, x = 100, 200
    expected = (varying.at(np.array([x]), np.array([y]))[0][::-1, ::-1] * image[y - 3 : y + 4, x - 3 : x + 4]).sum()
    assert out[y, x] == pytest.approx(expected)
    with pytest.raises(ShapeError, match="belongs to"):
        convolve(image[:-1], varying)


def test_stamps_are_convolved_like_images():
    rng = np.random.default_rng(6)
    stamps, kernel = rng.normal(size=(4, 15, 15)), rng.normal(size=(5, 5))
    expected = [fftconvolve(s, kernel, mode="same") for s in stamps]
    np.testing.assert_allclose(convolve_stamps(stamps, kernel), expected, atol=1e-10)


def test_kernel_of_two_gaussians_is_recovered():
    x, y, flux = star_list()
    template, science = field(2.0, x, y, flux), 1.3 * field(2.5, x, y, flux)
    fit = fit_matching_kernel(
        template, science, np.full(SHAPE, 1.0), np.ones(SHAPE, bool), x, y, gaussian_basis(scaled_basis(2.0, 2.5))
    )
    assert fit.kernel_sum == pytest.approx(1.3, rel=1e-3)
    truth = 1.3 * gaussian(1.5, fit.kernel.half_width)
    assert np.abs(fit.kernel.centre() - truth).max() < 0.02 * truth.max()
    assert np.abs(science - convolve(template, fit.kernel))[30:-30, 30:-30].max() < 0.01 * science.max()


def test_background_is_recovered():
    """The acceptance row: six coefficients to 30 %."""
    rng = np.random.default_rng(7)
    x, y, flux = star_list(60)
    truth = np.array([20.0, 6.0, -5.0, 4.0, 3.0, -4.0])
    template = field(2.0, x, y, flux) + rng.normal(size=SHAPE)
    science = field(2.3, x, y, flux) + rng.normal(size=SHAPE) + chebyshev_surface(truth, 2, SHAPE)
    fit = fit_matching_kernel(
        template,
        science,
        np.full(SHAPE, 2.0),
        np.ones(SHAPE, bool),
        x,
        y,
        gaussian_basis(scaled_basis(2.0, 2.3)),
        reference_variance=np.ones(SHAPE),
        rules=FitRules(background_order=2),
    )
    np.testing.assert_allclose(fit.background, truth, rtol=0.3)


@pytest.mark.parametrize(("low", "sigma"), [(350, 2.0), (700, 1.1)])
def test_noise_of_the_reference_does_not_bias_the_kernel_sum(low, sigma):
    """Faint, lonely stars, S/N 40 to 160: plain least squares is off by two to four percent."""
    rng = np.random.default_rng(8)
    gx, gy = np.meshgrid(np.arange(32, SHAPE[1] - 31, 42.0), np.arange(32, SHAPE[0] - 31, 42.0))
    rules = FitRules(background_order=0, order=0)
    basis = gaussian_basis(scaled_basis(sigma, sigma))
    sums = []
    for _ in range(5):
        x, y = gx.ravel() + rng.uniform(-0.5, 0.5, gx.size), gy.ravel() + rng.uniform(-0.5, 0.5, gx.size)
        clean = field(sigma, x, y, rng.uniform(low, 1.5 * low, x.size))
        images = [clean + rng.normal(size=SHAPE) for _ in range(2)]
        arguments = (*images, np.full(SHAPE, 2.0), np.ones(SHAPE, bool), x, y, basis)
        plain = fit_matching_kernel(*arguments, rules=rules)
        honest = fit_matching_kernel(*arguments, reference_variance=np.ones(SHAPE), rules=rules)
        sums.append((plain.kernel_sum, honest.kernel_sum))
    plain_bias, honest_bias = np.mean(sums, axis=0) - 1
    assert abs(honest_bias) < 0.013 < abs(plain_bias)


def test_variable_and_moving_stars_are_cast_out_or_survived():
    rng = np.random.default_rng(9)
    x, y, flux = star_list(40)
    now = flux.copy()
    now[:3] *= 1.5
    template = field(2.0, x, y, flux) + rng.normal(size=SHAPE)
    science = field(2.4, x + rng.normal(0, 0.05, 40), y + rng.normal(0, 0.05, 40), now) + rng.normal(size=SHAPE)
    fit = fit_matching_kernel(
        template,
        science,
        np.full(SHAPE, 2.0),
        np.ones(SHAPE, bool),
        x,
        y,
        gaussian_basis(scaled_basis(2.0, 2.4)),
        reference_variance=np.ones(SHAPE),
    )
    assert not fit.used[:3].any()
    assert fit.kernel_sum == pytest.approx(1.0, abs=0.01)
    assert fit.used.sum() > 25


def test_too_few_stars_say_so():
    x, y, flux = star_list(2)
    image = field(2.0, x, y, flux)
    with pytest.raises(TooFewStars, match="2 of 2") as caught:
        fit_matching_kernel(
            image, image, np.ones(SHAPE), np.ones(SHAPE, bool), x, y, gaussian_basis(scaled_basis(2.0, 2.0))
        )
    assert caught.value.facts == {"found": 2, "needed": 3}


def matched_kernel():
    """Kernel between Gaussians of 2.2 and 3.3 px, as in the acceptance table."""
    return gaussian(np.sqrt(3.3**2 - 2.2**2), 15)


@pytest.mark.parametrize(("science", "template"), [(0.04, 0.04), (0.08, 0.04), (0.04, 0.08), (1.0, 100.0)])
def test_whitened_noise_is_white_and_of_the_predicted_variance(science, template):
    rng = np.random.default_rng(10)
    kernel = matched_kernel()
    noise = rng.normal(0, science**0.5, (512, 512)) - convolve(rng.normal(0, template**0.5, (512, 512)), kernel)
    psi = whitening_kernel([Noise(variance=science), Noise(variance=template, kernel=kernel)], half_width=30)
    assert psi.sum() == pytest.approx(1.0)
    white = convolve(noise, psi)[40:-40, 40:-40]
    raw = measured_autocorrelation(noise[40:-40, 40:-40], np.ones(white.shape, bool), 10)
    after = measured_autocorrelation(white, np.ones(white.shape, bool), 10)
    after[10, 10] = 0
    assert np.abs(after).max() < 0.02
    assert white.var() == pytest.approx(science + template, rel=0.03)
    if template == 100.0:
        np.testing.assert_allclose(raw[10, 11:14], [0.55, 0.49, 0.40], atol=0.02)


def test_a_template_correlated_before_is_whitened_too():
    rng = np.random.default_rng(12)
    box = np.ones((3, 3)) / 9
    own = chain(box, box)
    own = own / own[2, 2]
    template = convolve(rng.normal(size=(512, 512)), box)
    noise = rng.normal(0, 0.2, (512, 512)) - template
    psi = whitening_kernel([Noise(variance=0.04), Noise(variance=1 / 9, autocorrelation=own)], half_width=30)
    white = convolve(noise, psi)[40:-40, 40:-40]
    after = measured_autocorrelation(white, np.ones(white.shape, bool), 8)
    after[8, 8] = 0
    assert np.abs(after).max() < 0.02
    assert white.var() == pytest.approx(0.04 + 1.0, rel=0.03)  # the white equivalent of box-smoothed unit noise is 1


def test_root_and_spectrum_agree_with_the_correlation():
    own = np.array([[0.0, 0.1, 0.0], [0.1, 1.0, 0.1], [0.0, 0.1, 0.0]])
    root = noise_root(own)
    product = chain(root, root)
    middle = product.shape[0] // 2
    ratio = product[middle - 1 : middle + 2, middle - 1 : middle + 2] / product[middle, middle]
    np.testing.assert_allclose(ratio, own, atol=0.002)
    assert (root**2).sum() == pytest.approx(1 / own.sum(), rel=0.002)
    assert noise_spectrum([Noise(variance=2.0, kernel=matched_kernel())], 64).mean() == pytest.approx(
        2.0 * (matched_kernel() ** 2).sum()
    )
