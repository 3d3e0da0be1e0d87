import numpy as np
import pytest
from scipy.ndimage import uniform_filter
from scipy.signal import convolve
from single_frame_scenes import moffat

from nightlab.numeric.photometry import add_stamps
from nightlab.stages.single_frame.detect import find_peaks, significance, sky_sources, trim_kernel
from nightlab.stages.single_frame.psf import gaussian_kernel

KERNEL = trim_kernel(moffat(31, 3.0), 5)
SHAPE = (400, 400)


def test_noise_becomes_a_unit_gaussian():
    rng = np.random.default_rng(1)
    variance = np.full(SHAPE, 49.0)
    seen = significance(rng.normal(0, 7, SHAPE), np.ones(SHAPE, bool), variance, KERNEL)
    inner = seen[8:-8, 8:-8]
    assert inner.std() == pytest.approx(1.0, abs=0.02)
    assert abs(inner.mean()) < 0.02


def test_significance_is_that_of_an_optimal_filter_and_ignores_bad_pixels():
    image = np.zeros(SHAPE)
    add_stamps(image, KERNEL[None] * 100.0, np.ones(1), np.array([200]), np.array([200]))
    expected = 100.0 * np.sqrt((KERNEL**2).sum()) / 2.0
    good, variance = np.ones(SHAPE, bool), np.full(SHAPE, 4.0)
    assert significance(image, good, variance, KERNEL)[200, 200] == pytest.approx(expected, rel=1e-4)
    good[200, 202] = False
    image[200, 202] = np.nan
    rest = (KERNEL**2).sum() - KERNEL[5, 7] ** 2
    seen = significance(image, good, variance, KERNEL)
    assert seen[200, 200] == pytest.approx(100.0 * np.sqrt(rest) / 2.0, rel=1e-4)


def test_blended_peaks_are_separate():
    image = np.zeros(SHAPE)
    stamps = np.repeat(moffat(31, 3.0)[None], 3, axis=0)
    x, y = np.array([100, 106, 300]), np.array([100, 100, 300])
    add_stamps(image, stamps, np.array([5e3, 3e3, 2e3]), x, y)
    peaks = find_peaks(significance(image, np.ones(SHAPE, bool), np.full(SHAPE, 25.0), KERNEL), 5.0, 3.0)
    np.testing.assert_allclose(np.sort(peaks.x), x, atol=0.5)
    assert peaks.detected[y, x].all()
    assert peaks.detected.sum() < 2000


def test_an_empty_sky_gives_nothing():
    peaks = find_peaks(np.zeros(SHAPE), 5.0, 3.0)
    assert peaks.x.size == 0
    assert not peaks.detected.any()


def expected_maxima(threshold, sigma, area):
    """Peaks of smoothed Gaussian noise above a threshold (Kaiser's form of Bardeen et al. 1986, ApJ 304, 15)."""
    density = 2 ** (-5 / 2) * np.pi ** (-3 / 2) * sigma**-2
    return area * density * threshold * np.exp(-(threshold**2) / 2)


@pytest.mark.parametrize("threshold", [3.5, 4.0])
def test_false_detections_are_as_many_as_gaussian_noise_has(threshold):
    sigma, side = 1.5, 1024
    kernel = gaussian_kernel(sigma)
    found = 0
    fields = 3 if threshold < 4 else 12
    for seed in range(fields):
        noise = np.random.default_rng(seed).normal(0, 3.0, (side, side))
        seen = significance(noise, np.ones_like(noise, bool), np.full_like(noise, 9.0), kernel)
        found += find_peaks(seen, threshold, 3.0).x.size
    expected = fields * expected_maxima(threshold, sigma, side**2)
    assert expected > 100
    assert found == pytest.approx(expected, rel=0.3)


def test_sky_sources_see_correlated_noise_and_a_wrong_level():
    noise = np.random.default_rng(3).normal(0, 2.0, (800, 800))
    smooth = uniform_filter(noise, 3) * 3  # each pixel as noisy as before, and like its neighbours
    assert smooth.std() == pytest.approx(2.0, rel=0.02)
    good, variance = np.ones_like(noise, bool), np.full_like(noise, 4.0)
    filtered = np.sqrt((convolve(KERNEL, np.ones((3, 3))) ** 2).sum() / (KERNEL**2).sum() / 9)
    for pixels, scale in ((noise, 1.0), (smooth, filtered)):
        level = 0.4
        found = sky_sources(significance(pixels + level, good, variance, KERNEL), good, 20_000, 1)
        assert found.scale == pytest.approx(scale, rel=0.03)
        assert found.offset == pytest.approx(level / (2.0 * np.sqrt((KERNEL**2).sum())), abs=0.15 * scale)
    few = sky_sources(noise, np.zeros_like(good), 1000, 1)
    assert (few.scale, few.offset, few.snr.size) == (1.0, 0.0, 0)
    assert few.metrics()["sky_source_noise_ratio"] is None
