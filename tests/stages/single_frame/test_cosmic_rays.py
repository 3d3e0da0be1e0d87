import numpy as np
import pytest
from astropy import units as u
from scipy.ndimage import binary_dilation
from single_frame_scenes import Field, Sersic

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


@pytest.mark.parametrize("fwhm", [1.8, 2.6, 4.0])
def test_faint_parts_of_tracks_are_found_and_stars_are_not(fwhm):
    scene = Field(seed=6, n=150, fwhm=fwhm, fluxes=(1e3, 2e5))
    charge = cosmic_rays(scene.pixels.shape, 150, np.random.default_rng(11)) / scene.gain
    scene.variance = scene.variance + charge / scene.gain
    hit = remove_cosmic_rays(frame_of(scene, charge), scene.stamp, CosmicRayConfig())[0].planes["COSMIC_RAY"]
    struck = charge > 5 * np.sqrt(54.0)
    near = binary_dilation(charge > 0, iterations=2)
    assert struck.sum() > 500
    assert hit[struck].mean() > 0.93
    assert (hit & ~near).sum() <= 3
    y, x = np.indices(charge.shape)
    cores = (np.hypot(x[..., None] - scene.x, y[..., None] - scene.y) < max(1.0, fwhm / 2)).any(axis=-1) & ~near
    assert cores.sum() > 300
    assert not hit[cores].any()


def test_rays_on_a_galaxy_and_beside_a_bright_star_are_found():
    scene = Field(seed=6, n=30, fwhm=3.0, fluxes=(1e4, 1e5))
    galaxy = Sersic(x=250.0, y=300.0, flux=2e6, half_light_radius=40, n=1)
    light = galaxy.draw(scene.pixels.shape)
    scene.variance = scene.variance + light / scene.gain
    noise = np.random.default_rng(5).normal(size=light.shape) * np.sqrt(light / scene.gain)
    # dots all over the galaxy, and one 5 pixels from each star
    charge = np.zeros(light.shape)
    charge[260:345:12, 210:295:12] = 600.0
    charge[np.rint(scene.y).astype(int), np.rint(scene.x).astype(int) + 5] = 600.0
    assert light[charge > 0].max() > 400.0
    scene.variance = scene.variance + charge / scene.gain
    hit = remove_cosmic_rays(frame_of(scene, light + noise + charge), scene.stamp, CosmicRayConfig())[0]
    found = hit.planes["COSMIC_RAY"]
    assert found[charge > 0].mean() > 0.9
    assert (found & (charge == 0)).sum() <= 3


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
