import numpy as np
from astropy.coordinates import SkyCoord
from hypothesis import given
from hypothesis import strategies as st

from nightlab.numeric.sphere import match, radec_of, separation, unit_vectors


def test_separation_agrees_with_astropy_near_a_pole_and_across_zero():
    ra, dec = np.array([10.0, 359.9999, 80.0]), np.array([89.99, 0.0, -30.0])
    ra2, dec2 = np.array([190.0, 0.0001, 80.001]), np.array([89.995, 0.0001, -30.001])
    theirs = SkyCoord(ra, dec, unit="deg").separation(SkyCoord(ra2, dec2, unit="deg")).arcsec
    np.testing.assert_allclose(separation(ra, dec, ra2, dec2), theirs, rtol=1e-9)


def test_vectors_and_degrees_are_inverse():
    ra, dec = np.array([0.0, 123.4, 359.9]), np.array([-89.0, 0.0, 45.0])
    np.testing.assert_allclose(radec_of(3.0 * unit_vectors(ra, dec)), [ra, dec], atol=1e-12)


def test_pairs_are_mutual_nearest_neighbours_across_the_wrap_and_nan_never_matches():
    i, j, angle = match([359.99999, 10.0, np.nan, 10.0001], [0, 0, 0, 0], [0.00001, 10.00001, 50], [0, 0, np.nan], 1.0)
    assert i.tolist() == [0, 1]
    assert j.tolist() == [0, 1]
    np.testing.assert_allclose(angle, [0.072, 0.036], rtol=1e-5)


def test_nothing_matches_nothing():
    assert [len(part) for part in match([], [], [1.0], [1.0], 1.0)] == [0, 0, 0]


@given(seed=st.integers(0, 2**32 - 1))
def test_matching_ignores_row_order(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0, 0.01, (2, 30)), rng.uniform(0, 0.01, (2, 40))
    order = rng.permutation(40)
    i, j, _ = match(*a, *b, 3.0)
    k, m, _ = match(*a, *b[:, order], 3.0)
    np.testing.assert_array_equal(i, k)
    np.testing.assert_array_equal(j, order[m])
