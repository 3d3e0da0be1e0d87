from dataclasses import replace

import numpy as np
import pytest
from astropy import units as u
from lsst.images import Box
from single_frame_scenes import moffat, scatter

from nightlab.data.instruments.sdss import read_raw
from nightlab.images.psf import PolynomialPsf
from nightlab.numeric.moments import adaptive_moments
from nightlab.numeric.photometry import add_stamps
from nightlab.stages.single_frame import psf_validation
from nightlab.stages.single_frame.background import BackgroundConfig, render, sky_field
from nightlab.stages.single_frame.frame import Frame, corrected_frame
from nightlab.stages.single_frame.psf import PsfConfig, StarPsf, StarStamps, fit_psf
from nightlab.stages.single_frame.psf_validation import ReservedStars, assign_folds, compare_shapes, reserve_stars

SHAPE = (900, 900)


@pytest.fixture
def rng():
    return np.random.default_rng(12)


def fwhm_at(x, y, change, bend):
    p, q = np.asarray(x) / SHAPE[1] - 0.5, np.asarray(y) / SHAPE[0] - 0.5
    return 2.8 * (1.0 + change * p + bend * (p * p + q * q))


def starry(seed, *, n=150, change=0.1, bend=0.15, shear=0.04):
    """A sky-subtracted frame of stars of S/N 50 to 1000 whose width and ellipticity vary."""
    rng = np.random.default_rng(seed)
    x, y = scatter(rng, n, SHAPE[1], SHAPE[0], 30.0)
    flux = np.exp(rng.uniform(np.log(3e3), np.log(2.5e5), n))
    e = shear * (y / SHAPE[0] - 0.5) ** 2
    xi, yi = np.rint(x).astype(int), np.rint(y).astype(int)
    clean = np.zeros(SHAPE)
    places = zip(fwhm_at(x, y, change, bend), x - xi, y - yi, e, strict=True)
    add_stamps(clean, np.stack([moffat(41, w, a, b, e=d) for w, a, b, d in places]), flux, xi, yi)
    variance = (clean + 200.0) / 4.0
    pixels = clean + rng.normal(size=SHAPE) * np.sqrt(variance)
    return Frame(pixels=pixels, variance=variance, planes={}, x0=0, y0=0, unit=u.adu, gain=4.0)


def fitted(frame, config):
    return fit_psf(frame, np.full(frame.shape, 50.0), Box.from_shape(frame.shape), config)


def true_size(fwhm):
    stamps = np.stack([moffat(41, w) for w in fwhm])
    nothing = np.zeros(len(stamps))
    moments, _, _ = adaptive_moments(stamps, nothing, nothing, guess=1.2)
    return moments[:, 0] + moments[:, 1]


def gaussians(covariance, dx, dy, side=31):
    """Point-sampled Gaussians of flux 1: their adaptive moments are their covariance."""
    r = np.arange(side) - side // 2
    u_, v = r[None, None, :] - dx[:, None, None], r[None, :, None] - dy[:, None, None]
    inverse = np.linalg.inv(covariance)
    q = inverse[0, 0] * u_**2 + 2 * inverse[0, 1] * u_ * v + inverse[1, 1] * v**2
    return np.exp(-0.5 * q) / (2 * np.pi * np.sqrt(np.linalg.det(covariance)))


@pytest.mark.parametrize(("n", "folds"), [(5, 5), (17, 5), (100, 3), (101, 2)])
def test_every_star_is_in_one_fold_and_folds_are_alike(rng, n, folds):
    x, y = rng.uniform(0, 1000, (2, n))
    fold = assign_folds(x, y, folds)
    counts = np.bincount(fold, minlength=folds)
    assert counts.sum() == n
    assert counts.size == folds
    assert np.ptp(counts) <= 1


def test_the_order_of_the_list_does_not_matter(rng):
    x, y = rng.uniform(0, 1000, (2, 40))
    mixed = rng.permutation(40)
    np.testing.assert_array_equal(assign_folds(x, y, 5)[mixed], assign_folds(x[mixed], y[mixed], 5))


def test_every_star_is_kept_from_one_fit(monkeypatch):
    config = PsfConfig()
    stars = fitted(starry(5, n=60), config)
    seen = []

    def spy(data, variance, x, *rest):
        seen.append(np.isin(stars.x, x))
        return fit_grid(data, variance, x, *rest)

    fit_grid = psf_validation.fit_grid
    monkeypatch.setattr(psf_validation, "fit_grid", spy)
    reserved = reserve_stars(stars, config)
    assert len(seen) == 5
    assert ((~np.array(seen)).sum(axis=0) == 1).all()
    assert reserved.x.size == stars.x.size
    assert np.isfinite(reserved.size).all()


def bare_stars(rng, pixels, dx, dy, grid):
    stamps = StarStamps(cutouts=1e4 * pixels, dx=dx, dy=dy, centred=pixels, variance=np.full(pixels.shape, 1e-6))
    x, y = rng.uniform(100, 800, (2, len(dx)))
    return StarPsf(psf=PolynomialPsf(coefficients=grid, order=0, bbox=Box.from_shape(SHAPE)), x=x, y=y, stamps=stamps)


@pytest.mark.parametrize("growth", [0.0, 0.03])
def test_a_known_error_of_size_and_ellipticity_is_measured(rng, growth):
    dx, dy = rng.uniform(-0.5, 0.5, (2, 50))
    star, model = np.array([[4.2, 0.1], [0.1, 3.8]]), 4.0 * (1.0 + growth) * np.eye(2)
    stars = bare_stars(rng, gaussians(star, dx, dy), dx, dy, gaussians(model, np.zeros(1), np.zeros(1)))
    seen = compare_shapes(stars, gaussians(model, dx, dy))
    np.testing.assert_allclose(seen.size, 1.0 / (1.0 + growth) - 1.0, atol=1e-5)
    np.testing.assert_allclose(seen.e1, 0.4 / 8.0, atol=1e-5)
    np.testing.assert_allclose(seen.e2, 0.2 / 8.0, atol=1e-5)
    # the area of the noise of a Gaussian is 4 pi sigma^2
    np.testing.assert_allclose(seen.snr, np.sqrt(1e6 / (4.0 * np.pi * 4.0 * (1.0 + growth))), rtol=1e-3)


def test_pixels_without_data_are_missing_in_the_model_too(rng):
    dx, dy = rng.uniform(-0.5, 0.5, (2, 20))
    whole = gaussians(4.0 * np.eye(2), dx, dy)
    holed = whole.copy()
    holed[:10, 15, 17] = np.nan
    seen = compare_shapes(bare_stars(rng, holed, dx, dy, whole[:1]), whole)
    np.testing.assert_allclose(np.stack([seen.size, seen.e1, seen.e2]), 0.0, atol=1e-9)


def test_reserved_stars_are_as_a_good_model_says():
    config = PsfConfig()
    tested = ReservedStars.joined([reserve_stars(fitted(starry(seed), config), config) for seed in range(20, 26)])
    assert tested.size.size > 800
    assert np.isfinite(tested.size).all()
    assert abs(tested.summary()["psf_size_residual_reserved"]) < 2e-3
    # of all stars, the noise of the mean ellipticity is as large as the bar: bright ones tell
    values = tested.where(tested.snr > 200).summary()
    for name, bar in (("size", 2e-3), ("e1", 5e-4), ("e2", 5e-4)):
        assert values[f"psf_{name}_residual_reserved_error"] < bar / 2
        assert abs(values[f"psf_{name}_residual_reserved"]) < bar


@pytest.mark.parametrize("fwhm", [2.3, 3.3, 4.5])
def test_interpolation_leaves_no_bias_of_size(fwhm):
    rng = np.random.default_rng(3)
    x, y = scatter(rng, 60, SHAPE[1], SHAPE[0], 80.0)
    xi, yi = np.rint(x).astype(int), np.rint(y).astype(int)
    stamps = np.stack([moffat(61, fwhm, a, b) for a, b in zip(x - xi, y - yi, strict=True)])
    pixels = rng.normal(size=SHAPE)
    add_stamps(pixels, stamps, np.full(60, 3e5), xi, yi)
    frame = Frame(pixels=pixels, variance=np.full(SHAPE, 1.0), planes={}, x0=0, y0=0, unit=u.adu, gain=4.0)
    config = PsfConfig()
    reserved = reserve_stars(fitted(frame, config), config)
    assert abs(reserved.summary()["psf_size_residual_reserved"]) < 5e-4


def test_a_constant_model_of_a_varying_psf_is_found_out():
    frame = starry(7, change=0.2, bend=0.0, shear=0.0)
    wrong = PsfConfig(order=0, size_tolerance=0.3)
    stars = fitted(frame, wrong)
    reserved = reserve_stars(stars, wrong)
    truth = true_size(fwhm_at(reserved.x, reserved.y, 0.2, 0.0))
    bright = reserved.snr > 150
    assert np.ptp(truth[bright]) / truth.mean() > 0.3
    # star / model follows the truth from end to end of the detector
    slope = np.polyfit(truth[bright] / truth[bright].mean(), 1.0 + reserved.size[bright], 1)[0]
    level = np.median((1.0 + reserved.size[bright]) / (truth[bright] / truth[bright].mean()))
    assert slope == pytest.approx(level, rel=0.02)
    right = PsfConfig(order=2, size_tolerance=0.3)
    reserved = reserve_stars(fitted(frame, right), right)
    truth = true_size(fwhm_at(reserved.x, reserved.y, 0.2, 0.0))
    bright = reserved.snr > 150
    assert abs(np.polyfit(truth[bright] / truth.mean(), reserved.size[bright], 1)[0]) < 0.02


@pytest.mark.parametrize(("n", "config"), [(4, PsfConfig()), (40, PsfConfig(folds=0)), (40, PsfConfig(folds=1))])
def test_without_a_test_residuals_are_unknown(n, config):
    stars = fitted(starry(9, n=n), config)
    assert stars.x.size >= 3
    values = reserve_stars(stars, config).summary()
    assert values.pop("n_psf_stars_reserved") == 0
    assert len(values) == 6
    assert np.isnan(list(values.values())).all()


@pytest.mark.real_data
def test_stripe82_stars_are_as_the_model_of_the_others_says(stripe82, benchmark):
    tested = []
    for run, band in benchmark.STACK_EXPOSURES:
        frame = corrected_frame(read_raw(benchmark.frame_path(stripe82, run, band)))
        box = Box.from_shape(frame.shape)
        good = frame.usable & ~frame.flagged("SATURATED", "INTERPOLATED")
        sky = render(sky_field(frame.pixels, good, box, BackgroundConfig(), None), frame)
        variance = np.full(frame.shape, np.median(frame.variance[good]))
        stars = fit_psf(replace(frame, pixels=frame.pixels - sky), variance, box, PsfConfig())
        tested.append(reserve_stars(stars, PsfConfig()))
    values = ReservedStars.joined(tested).summary()
    assert values["n_psf_stars_reserved"] > 400
    for name, bar in (("size", 5e-3), ("e1", 2e-3), ("e2", 2e-3)):
        assert abs(values[f"psf_{name}_residual_reserved"]) < bar
        assert values[f"psf_{name}_residual_reserved_error"] < 2e-3
