"""Fields of stars are recognised under turns, mirrors, shifts and scales, and noise is not."""

import numpy as np
import pytest

from nightlab.numeric.patterns import find_similarity

CENTRE = (1024.0, 2048.0)


def field(seed, *, turn=0.0, flip=False, scale=1.0, shift=(0.0, 0.0), n=150, common=0.5, strangers=200, noise=0.3):
    """Sources, and references of which only some are the same stars, in no common order."""
    rng = np.random.default_rng(seed)
    here = rng.uniform((0, 0), (2048, 4096), (n, 2))
    c, s = np.cos(np.deg2rad(turn)), np.sin(np.deg2rad(turn))
    matrix = scale * np.array([[c, -s], [s, c]]) @ np.diag([-1.0 if flip else 1.0, 1.0])
    there = (here - CENTRE) @ matrix.T + CENTRE + shift + rng.normal(0, noise, here.shape)
    kept = np.flatnonzero(rng.random(n) < common)
    everything = np.concatenate([there[kept], rng.uniform((-1500, -1500), (3500, 5600), (strangers, 2))])
    order = rng.permutation(len(everything))
    partner = np.full(n, -1)
    partner[kept] = np.argsort(order)[: kept.size]
    return here, everything[order], matrix, partner


def find(here, there, **more):
    options = {"centre": CENTRE, "tolerance": 2.0, "max_shift": 220.0, "flips": True} | more
    return find_similarity(*here.T, *there.T, **options)


@pytest.mark.parametrize(
    ("turn", "flip", "scale", "shift"),
    [
        (0.0, False, 1.0, (0.0, 0.0)),
        (0.4, False, 1.0, (12.0, -7.0)),
        (90.0, False, 1.0, (3.0, 3.0)),
        (-179.5, True, 0.995, (-100.0, 150.0)),
        (33.0, True, 1.007, (180.0, 90.0)),
    ],
)
def test_turn_mirror_scale_and_shift_are_found(turn, flip, scale, shift):
    here, there, matrix, partner = field(7, turn=turn, flip=flip, scale=scale, shift=shift)
    found = find(here, there)
    assert found.flipped is flip
    assert (found.rotation - turn + 180) % 360 - 180 == pytest.approx(0, abs=0.05)
    assert found.scale == pytest.approx(scale, abs=5e-4)
    np.testing.assert_allclose(found.matrix, matrix, atol=1e-3)
    np.testing.assert_allclose(found(*(np.array([v]) for v in CENTRE)), np.add(CENTRE, shift)[:, None], atol=0.5)
    assert found.source.size >= 5
    np.testing.assert_array_equal(found.reference, partner[found.source])


def test_a_tenth_in_common_is_enough_near_the_pointing():
    here, there, _, partner = field(11, n=120, common=0.12, strangers=250, shift=(20.0, 15.0), turn=0.2)
    found = find(here, there, max_shift=60.0, max_rotation=1.0, flips=False)
    assert found.source.size >= 8
    assert (found.reference == partner[found.source]).mean() > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_recognised_in_noise(seed):
    rng = np.random.default_rng(seed)
    here, there = rng.uniform(0, 2048, (80, 2)), rng.uniform(-500, 2500, (150, 2))
    assert find(here, there) is None


def test_crowding_does_not_make_a_match():
    """With a reference every few tolerances everything matches something; that is no evidence."""
    rng = np.random.default_rng(3)
    here, there = rng.uniform(0, 300, (60, 2)), rng.uniform(-50, 350, (4000, 2))
    assert find(here, there, max_shift=30.0, max_rotation=1.0, flips=False) is None


@pytest.mark.parametrize("n", [0, 1, 2])
def test_too_few_positions_are_no_pattern(n):
    rng = np.random.default_rng(5)
    assert find(rng.uniform(0, 2000, (n, 2)), rng.uniform(0, 2000, (50, 2))) is None
    assert find(np.full((10, 2), 5.0), rng.uniform(0, 2000, (50, 2))) is None


def test_limits_are_kept():
    here, there, _, _ = field(13, turn=5.0)
    assert find(here, there, max_rotation=1.0) is None
    assert find(here, there, max_rotation=6.0).rotation == pytest.approx(5.0, abs=0.05)
