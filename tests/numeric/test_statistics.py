import numpy as np
import pytest
from scipy import stats

from nightlab.numeric.photometry import resized_stamps
from nightlab.numeric.statistics import chance_of, robust_width


def test_robust_width_is_scipys_and_ignores_a_few_wild_values():
    values = np.random.default_rng(2).normal(3.0, 2.0, 4001)
    assert robust_width(values) == pytest.approx(stats.median_abs_deviation(values, scale=1 / 1.4826))
    assert robust_width(np.append(values, [1e9] * 40)) == pytest.approx(2.0, rel=0.06)
    assert np.isnan(robust_width([]))


def test_stamps_are_cut_and_padded_about_their_middle():
    stamps = np.arange(50.0).reshape(2, 5, 5)
    np.testing.assert_array_equal(resized_stamps(stamps, 1), stamps[:, 1:4, 1:4])
    wide = resized_stamps(stamps, 4)
    assert wide.shape == (2, 9, 9)
    np.testing.assert_array_equal(wide[:, 2:7, 2:7], stamps)
    assert wide.sum() == stamps.sum()
    np.testing.assert_array_equal(resized_stamps(stamps[0], 2), stamps[0])


@pytest.mark.parametrize("expected", [0.0, 1e-9, 0.3, 5.0, 200.0])
@pytest.mark.parametrize("n", [-3, 0, 1, 2, 20])
def test_chance_of_is_poissons_law(n, expected):
    assert chance_of(n, expected) == pytest.approx(stats.poisson.sf(n - 1, expected), rel=1e-12, abs=0)
