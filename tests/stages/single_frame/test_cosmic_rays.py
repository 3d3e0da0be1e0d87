import numpy as np
import pytest
from astropy import units as u
from single_frame_scenes import Field

from nightlab.errors import BadInput
from nightlab.simulate.pixels import cosmic_rays
from nightlab.stages.single_frame.cosmic_rays import CosmicRayConfig, remove_cosmic_rays
from nightlab.stages.single_frame.frame import Frame


def frame_of(scene, extra=0.0):
    pixels = scene.pixels - 200.0 + extra
    return Frame(pixels=pixels, variance=scene.variance.copy(), planes={}, x0=0, y0=0, unit=u.adu, gain=scene.gain)


@pytest.mark.parametrize("fwhm", [2.3, 3.5])
def test_star_cores_are_left_alone(fwhm):
    scene = Field(seed=3, fwhm=fwhm, fluxes=(1e3, 3e5))
    frame, n = remove_cosmic_rays(frame_of(scene), scene.stamp, CosmicRayConfig())
    assert n <= 1
    xi, yi = np.rint(scene.x).astype(int), np.rint(scene.y).astype(int)
    assert not frame.planes["COSMIC_RAY"][yi, xi].any()


def test_tracks_are_found_and_taken_out():
    scene = Field(seed=4, n=40, fwhm=3.0)
    charge = cosmic_rays(scene.pixels.shape, 60, np.random.default_rng(9)) / scene.gain
    frame, n = remove_cosmic_rays(frame_of(scene, charge), scene.stamp, CosmicRayConfig())
    hit = frame.planes["COSMIC_RAY"]
    struck = charge > 10 * np.sqrt(54.0)
    assert struck.sum() > 100
    assert 30 < n < 90
    assert (hit & struck).sum() > 0.95 * struck.sum()
    assert (hit & (charge == 0)).sum() < 0.5 * hit.sum()
    left = (frame.pixels - (scene.pixels - 200.0))[struck]
    assert np.abs(left).sum() < 0.05 * charge[struck].sum()
    np.testing.assert_array_equal(frame.planes["INTERPOLATED"], hit)


def test_the_instruments_own_mask_is_trusted():
    scene = Field(seed=4, n=10)
    known = np.zeros(scene.pixels.shape, bool)
    known[10:12, 10] = known[50, 50] = True
    before = frame_of(scene).with_planes(COSMIC_RAY=known)
    frame, n = remove_cosmic_rays(before, scene.stamp, CosmicRayConfig())
    assert n == 2
    np.testing.assert_array_equal(frame.pixels, before.pixels)


def test_an_explosion_is_an_error():
    scene = Field(seed=4, n=10)
    charge = cosmic_rays(scene.pixels.shape, 60, np.random.default_rng(9))
    with pytest.raises(BadInput, match="look like cosmic rays"):
        remove_cosmic_rays(frame_of(scene, charge), scene.stamp, CosmicRayConfig(max_pixels=10))
