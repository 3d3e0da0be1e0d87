import numpy as np
import pytest
from astropy import units as u
from lsst.images import Box
from single_frame_scenes import Field, moffat, scatter

from nightlab.errors import NoPsf
from nightlab.numeric.photometry import add_stamps
from nightlab.stages.single_frame.frame import Frame
from nightlab.stages.single_frame.psf import PsfConfig, fit_psf

SHAPE = (900, 900)


def varying_frame(seed, n=150, galaxies=0):
    """Stars whose width grows along x, among fewer galaxies."""
    rng = np.random.default_rng(seed)
    x, y = scatter(rng, n + galaxies, SHAPE[1], SHAPE[0], 25.0)
    flux = np.exp(rng.uniform(np.log(5e3), np.log(2e5), x.size))
    width = np.where(np.arange(x.size) < n, fwhm_at(x), rng.uniform(4.5, 8.0, x.size))
    xi, yi = np.rint(x).astype(int), np.rint(y).astype(int)
    clean = np.full(SHAPE, 0.0)
    stamps = np.stack([moffat(41, w, a, b) for w, a, b in zip(width, x - xi, y - yi, strict=True)])
    add_stamps(clean, stamps, flux, xi, yi)
    variance = (clean + 200.0) / 4.0
    pixels = clean + rng.normal(size=SHAPE) * np.sqrt(variance)
    return Frame(pixels=pixels, variance=variance, planes={}, x0=0, y0=0, unit=u.adu, gain=4.0), x[:n], y[:n]


def fwhm_at(x):
    return 2.8 + 0.3 * (np.asarray(x) / 900.0)


def test_a_varying_psf_is_recovered():
    frame, _, _ = varying_frame(1, galaxies=40)
    star = fit_psf(frame, np.full(SHAPE, 50.0), Box.from_shape(SHAPE), PsfConfig())
    assert star.psf.order == 2
    places = np.array([100.0, 450.0, 800.0])
    grids = star.psf.grids(places, np.full(3, 450.0))
    half = grids.shape[1] // 2
    for grid, x in zip(grids, places, strict=True):
        truth = moffat(41, fwhm_at(x))[20 - half : 21 + half, 20 - half : 21 + half]
        truth = truth / truth.sum()
        assert (grid**2).sum() == pytest.approx((truth**2).sum(), rel=0.01)
        assert np.abs(grid - truth).max() < 0.01 * truth.max()


def test_galaxies_are_not_among_the_stars():
    frame, x, y = varying_frame(2, galaxies=60)
    star = fit_psf(frame, np.full(SHAPE, 50.0), Box.from_shape(SHAPE), PsfConfig())
    distance = np.hypot(star.x[:, None] - x[None, :], star.y[:, None] - y[None, :]).min(axis=1)
    assert star.x.size > 60
    assert (distance < 0.5).all()


def test_few_stars_lower_the_order():
    frame, _, _ = varying_frame(3, n=9)
    assert fit_psf(frame, np.full(SHAPE, 50.0), Box.from_shape(SHAPE), PsfConfig()).psf.order == 0


def test_no_stars_no_psf():
    scene = Field(seed=1, n=2, fluxes=(200.0, 300.0))
    frame = Frame(pixels=scene.pixels - 200.0, variance=scene.variance, planes={}, x0=0, y0=0, unit=u.adu, gain=4.0)
    with pytest.raises(NoPsf, match="needs 3 stars"):
        fit_psf(frame, np.full(frame.shape, 54.0), scene.box, PsfConfig())
