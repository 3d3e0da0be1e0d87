import numpy as np
import pytest
from single_frame_scenes import moffat

from nightlab.numeric.photometry import add_stamps
from nightlab.stages.single_frame.detect import find_peaks, significance, trim_kernel

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
