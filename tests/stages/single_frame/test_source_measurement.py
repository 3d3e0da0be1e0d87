import numpy as np
from astropy import units as u
from scipy.spatial import cKDTree
from single_frame_scenes import Field

from nightlab.stages.single_frame.detect import find_peaks, significance, trim_kernel
from nightlab.stages.single_frame.frame import Frame
from nightlab.stages.single_frame.measure import MeasureConfig, measure


def run(scene, planes=None):
    frame = Frame(
        pixels=scene.pixels - 200.0, variance=scene.variance, planes=planes or {}, x0=0, y0=0, unit=u.adu, gain=4.0
    )
    sky = np.full(frame.shape, 54.0)
    peaks = find_peaks(significance(frame.pixels, frame.usable, sky, trim_kernel(scene.stamp, 5)), 5.0, 3.0)
    sources = measure(frame, peaks, scene.psf, 1.2, MeasureConfig())
    found = np.stack([sources.x, sources.y], axis=1)
    distance, index = cKDTree(found).query(np.stack([scene.x, scene.y], axis=1))
    return sources, distance, index


def test_positions_and_fluxes_scatter_as_their_errors_say():
    scene = Field(seed=21, n=400, shape=(900, 800), spacing=16.0)
    sources, distance, index = run(scene)
    assert (distance < 1.0).mean() > 0.99
    near = distance < 1.0
    flux_pull = (sources.flux[index] - scene.flux)[near] / sources.flux_err[index][near]
    x_pull = (sources.x[index] - scene.x)[near] / sources.x_err[index][near]
    assert abs(np.mean(flux_pull)) < 0.25
    assert 0.9 < 1.4826 * np.median(np.abs(flux_pull)) < 1.15
    assert 0.85 < 1.4826 * np.median(np.abs(x_pull)) < 1.25
    bright = near & (scene.flux > 2e4)
    assert abs(np.median(sources.flux[index][bright] / scene.flux[bright]) - 1) < 2e-3
    assert np.nanmean(sources.extendedness[index][near]) < 0.02
    assert sources.centroid_flag[index][near].mean() < 0.01


def test_close_pairs_have_the_right_fluxes():
    scene = Field(seed=22, n=80, shape=(700, 700), spacing=30.0, fluxes=(3e3, 3e4))
    pair = Field(seed=22, n=80, shape=(700, 700), spacing=30.0, fluxes=(3e3, 3e4))
    # the same field again, 4.4 pixel to the right and without its own sky and noise
    shift = 4
    pair.pixels = np.roll(pair.pixels - 200.0, (1, shift), axis=(0, 1))
    scene.pixels = scene.pixels + pair.pixels
    scene.variance = scene.variance * 2
    sources, distance, index = run(scene)
    inside = (scene.x < 690) & (distance < 0.5)
    assert inside.mean() > 0.95
    ratio = sources.flux[index][inside] / scene.flux[inside]
    assert abs(np.median(ratio) - 1) < 0.01
    assert 1.4826 * np.median(np.abs(ratio - 1)) < 0.04
    assert not sources.isolated[index][inside].any()


def test_flags_say_what_is_wrong():
    scene = Field(seed=23, n=30)
    planes = {
        name: np.zeros(scene.pixels.shape, bool) for name in ("SATURATED", "INTERPOLATED", "NO_DATA", "COSMIC_RAY")
    }
    xi, yi = np.rint(scene.x).astype(int), np.rint(scene.y).astype(int)
    bright = np.argsort(-scene.flux)[:4]
    planes["SATURATED"][yi[bright[0]], xi[bright[0]]] = True
    planes["INTERPOLATED"][yi[bright[1]], xi[bright[1]] + 3] = True
    planes["NO_DATA"][yi[bright[2]] + 3, xi[bright[2]]] = True
    planes["COSMIC_RAY"][yi[bright[3]], xi[bright[3]] + 2] = True
    sources, distance, index = run(scene, planes)
    assert (distance[bright] < 1).all()
    flags = {name: set(np.flatnonzero(sources.flags[name])) for name in sources.flags}
    assert flags["saturatedCenter"] == flags["saturated"] == {index[bright[0]]}
    assert flags["interpolated"] == {index[bright[1]]}
    assert flags["interpolatedCenter"] == set()
    assert flags["nodata"] == {index[bright[2]]}
    assert flags["cr"] == {index[bright[3]]}
    assert not sources.clean()[index[bright[[0, 2, 3]]]].any()


def test_galaxies_are_extended():
    scene = Field(seed=24, n=60, fluxes=(1e4, 1e5))
    wide = Field(seed=24, n=60, fluxes=(1e4, 1e5), fwhm=3.6)
    wide.psf, wide.stamp = scene.psf, scene.stamp
    for frame, expected in ((scene, 0.0), (wide, 1.0)):
        sources, _, index = run(frame)
        assert np.mean(sources.extendedness[index]) == expected
