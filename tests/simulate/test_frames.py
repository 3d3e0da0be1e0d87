import numpy as np
import pytest

from nightlab.errors import BadInput
from nightlab.simulate import small_pair


def test_a_pair_shows_the_same_stars_through_two_psfs():
    pair = small_pair(4, noise=False, n_transients=0)
    total = pair.stars["flux"].sum()
    assert pair.science.sum() == pytest.approx(total, rel=1e-6)
    assert pair.template.sum() == pytest.approx(total, rel=1e-6)
    assert pair.template.max() > 1.3 * pair.science.max()


def test_transients_are_in_one_frame_only():
    pair = small_pair(4, noise=False, n_stars=0)
    flux = np.asarray(pair.transients["flux"])
    assert (flux < 0).sum() == 2
    assert pair.science.sum() == pytest.approx(flux[flux > 0].sum(), rel=1e-6)
    assert pair.template.sum() == pytest.approx(-flux[flux < 0].sum(), rel=1e-6)
    assert (np.abs(pair.transients["snr"]) > 5).all()


def test_noise_has_the_variance_that_is_said():
    noisy, clean = small_pair(8), small_pair(8, noise=False)
    for frame in ("science", "template"):
        pull = (getattr(noisy, frame) - getattr(clean, frame)) / np.sqrt(getattr(noisy, f"{frame}_variance"))
        assert pull.std() == pytest.approx(1.0, abs=0.01)
    assert not np.array_equal(noisy.science, small_pair(9).science)
    np.testing.assert_array_equal(noisy.science, small_pair(8).science)


def test_a_shift_moves_the_template():
    still, moved = (small_pair(3, noise=False, shift=shift).template for shift in ((0.0, 0.0), (2.0, -1.0)))
    np.testing.assert_allclose(moved[20:-20, 20:-20], np.roll(still, (-1, 2), (0, 1))[20:-20, 20:-20], atol=1e-6)


def test_a_stamp_is_not_a_frame():
    with pytest.raises(BadInput, match="too small"):
        small_pair(size=32)
