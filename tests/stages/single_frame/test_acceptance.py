"""Numbers that single-frame processing has to reach on simulated truth, beside those in the tests of its parts."""

from types import SimpleNamespace

import astropy.units as u
import numpy as np
import pytest
from astropy.table import Table
from lsst.images import Box
from lsst.images.psfs import GaussianPointSpreadFunction
from scipy.spatial import cKDTree
from single_frame_scenes import Field, frame_of, moffat, scatter

from nightlab.images.psf import PolynomialPsf, shift_stamps
from nightlab.images.wcs import pixel_to_radec, tan_projection
from nightlab.numeric.moments import adaptive_moments, moment_errors
from nightlab.numeric.photometry import add_stamps
from nightlab.numeric.sphere import match
from nightlab.stages.single_frame import CalibrateConfig, calibrate
from nightlab.stages.single_frame.astrometry import AstrometryConfig, calibrate_astrometry
from nightlab.stages.single_frame.detect import Peaks
from nightlab.stages.single_frame.frame import Frame
from nightlab.stages.single_frame.measure import MeasureConfig, measure

SIGMA = 2.0


def gaussian(side, sigma, x=0.0, y=0.0):
    r = np.arange(side) - side // 2
    stamp = np.exp(-0.5 * ((r[None, :] - x) ** 2 + (r[:, None] - y) ** 2) / sigma**2)
    return stamp / stamp.sum()


def measured(pixels, variance, x, y):
    """Measure stars of a Gaussian PSF, from a third of a pixel off; the sources, and which of them each star is."""
    psf = GaussianPointSpreadFunction(SIGMA, bounds=Box.from_shape(pixels.shape), stamp_size=31)
    frame = Frame(pixels=pixels, variance=variance, planes={}, x0=0, y0=0, unit=u.electron, gain=1.0)
    start = Peaks(x=x + 0.3, y=y - 0.2, significance=np.full(x.size, 100.0), detected=np.zeros(pixels.shape, bool))
    found = measure(frame, start, psf, SIGMA, MeasureConfig())
    return found, cKDTree(np.stack([found.x, found.y], axis=1)).query(np.stack([x, y], axis=1))[1]


def stars(rng, rows, flux, noise):
    """Copies of one star on a grid, each at its own place in its pixel."""
    step, n = 40, rows**2
    yy, xx = np.divmod(np.arange(n), rows)
    x, y = step * (xx + 0.5) + rng.uniform(-0.5, 0.5, n), step * (yy + 0.5) + rng.uniform(-0.2, 0.2, n)
    pixels = np.zeros((step * rows, step * rows))
    for k in range(n):
        xi, yi = int(np.rint(x[k])), int(np.rint(y[k]))
        stamp = gaussian(31, SIGMA, x[k] - xi, y[k] - yi)
        add_stamps(pixels, flux * stamp[None], np.ones(1), np.array([xi]), np.array([yi]))
    return pixels + noise * rng.normal(size=pixels.shape), x, y


def test_places_and_fluxes_without_noise():
    pixels, x, y = stars(np.random.default_rng(1), 6, 1e5, 0.0)
    found, of = measured(pixels, np.ones_like(pixels), x, y)
    assert found.x[of] == pytest.approx(x, rel=1e-4)
    assert found.y[of] == pytest.approx(y, rel=1e-4)
    assert found.flux == pytest.approx(1e5, rel=1e-3)
    assert found.moments[:, :2] == pytest.approx(SIGMA**2, rel=1e-4)
    assert found.moments[:, 2] == pytest.approx(0.0, abs=1e-4 * SIGMA**2)


def test_errors_are_the_scatter_and_means_are_unbiased():
    pixels, x, y = stars(np.random.default_rng(2), 33, 2e4, 10.0)
    found, of = measured(pixels, np.full_like(pixels, 100.0), x, y)
    n = x.size
    assert n == found.x.size == np.unique(of).size > 1000
    for miss, error in ((found.x[of] - x, found.x_err), (found.y[of] - y, found.y_err)):
        assert np.mean(error) == pytest.approx(np.std(miss), rel=0.2)
        assert abs(np.mean(miss)) < 3 * np.std(miss) / np.sqrt(n)
    miss = found.flux - 2e4
    assert np.mean(found.flux_err) == pytest.approx(np.std(miss), rel=0.1)
    assert abs(np.mean(miss)) < 2 * np.std(miss) / np.sqrt(n)


def test_errors_of_moments_are_their_scatter():
    rng = np.random.default_rng(3)
    n, flux = 12_000, 1e4
    r = np.arange(-14, 15)
    xx, yy, xy = 5.0, 3.5, 1.0
    det = xx * yy - xy**2
    q = (yy * r[None, :] ** 2 - 2 * xy * r[None, :] * r[:, None] + xx * r[:, None] ** 2) / det
    star = flux * np.exp(-0.5 * q) / (2 * np.pi * np.sqrt(det))
    variance = np.broadcast_to(25.0 + star, (n, 29, 29))
    seen = star + rng.normal(size=variance.shape) * np.sqrt(variance)
    moments, _, failed = adaptive_moments(seen, np.zeros(n), np.zeros(n), guess=2.0)
    assert not failed.any()
    truth = np.array([[xx, yy, xy]])
    errors = moment_errors(variance[:1], np.zeros((1, 2)), truth, np.array([flux]))[0]
    interval = 0.5 * np.subtract(*np.percentile(moments, [84.135, 15.865], axis=0))
    assert errors == pytest.approx(interval, rel=0.03)


def test_a_subtracted_star_leaves_little_but_noise():
    scene = Field(seed=31, n=120, fwhm=3.5, fluxes=(2e3, 1e5), spacing=24.0)
    result = calibrate(scene.image(psf=False))
    scale = 10 ** (0.4 * (31.4 - float(result.metrics["zero_point"].item())))
    if not np.isfinite(scale):  # no zero point is known: instrumental units
        scale = 1.0
    image, psf = result.visit_image, PolynomialPsf.from_piff(result.visit_image.psf)
    rows = result.source[(result.source["snr"] > 50) & result.source["detect_isIsolated"]]
    assert len(rows) > 60
    x, y = rows["x"].value, rows["y"].value
    xi, yi = np.rint(x).astype(int), np.rint(y).astype(int)
    models = shift_stamps(psf.grids(x, y), x - xi, y - yi)
    left = image.image.array.astype(float)
    flux = rows["psfFlux"].value / image.aperture_corrections["psfFlux"](x=x, y=y)
    add_stamps(left, models, -flux, xi, yi)
    chi = left / np.sqrt(image.variance.array)
    core = np.abs(np.stack([chi[b - 6 : b + 7, a - 6 : a + 7] for a, b in zip(xi, yi, strict=True)]))
    assert core.max() < 5.6
    assert np.sqrt((core**2).mean()) < 1.15


def test_six_stars_and_a_galaxy_are_calibrated_from_nothing():
    """The smallest frame: three stars make the PSF, and all numbers are good to a per cent."""
    rng = np.random.default_rng(32)
    shape, sky = (300, 300), 100.0
    flux = np.array([3e4, 5e4, 8e4, 4e3, 5e3, 6e3])
    x, y = scatter(rng, 7, *shape, 60.0)
    pixels = np.full(shape, sky)
    for k in range(6):
        xi, yi = int(np.rint(x[k])), int(np.rint(y[k]))
        stamp = gaussian(41, SIGMA, x[k] - xi, y[k] - yi)
        add_stamps(pixels, flux[k] * stamp[None], np.ones(1), np.array([xi]), np.array([yi]))
    galaxy = moffat(81, 9.0, e=0.15, beta=4.0)
    add_stamps(pixels, 4e4 * galaxy[None], np.ones(1), np.rint(x[6:]).astype(int), np.rint(y[6:]).astype(int))
    scene = Field(seed=1, n=1, shape=shape)
    scene.variance = pixels / 4.0 + 1.0
    scene.pixels = pixels + rng.normal(size=shape) * np.sqrt(scene.variance)
    scene.x, scene.y, scene.flux = x[:6], y[:6], flux
    config = CalibrateConfig(psf={"min_snr": 300.0}, background={"cell": 100}, astrometry={"order": 1})
    result = calibrate(scene.image(psf=False), reference=scene.reference(27.0), config=config)
    source = result.source
    assert source["calib_psf_used"].sum() == 3
    assert result.visit_image.summary_stats.psfSigma == pytest.approx(SIGMA, rel=0.01)
    assert float(result.metrics["zero_point"].item()) == pytest.approx(27.0, abs=0.01)
    ra, dec = pixel_to_radec(scene.projection, scene.x, scene.y)
    i, j, _ = match(ra, dec, source["ra"].value, source["dec"].value, 0.5)
    assert len(i) == 6
    east = (source["ra"].value[j] - ra[i]) * np.cos(np.deg2rad(dec[i])) * 3.6e6
    north = (source["dec"].value[j] - dec[i]) * 3.6e6
    assert np.hypot(east, north).max() < 35
    bright = scene.flux[i] > 1e4
    truth = scene.flux[i] * 10 ** (0.4 * (31.4 - 27.0))
    assert source["psfFlux"].value[j][bright] == pytest.approx(truth[bright], rel=0.01)
    for ours, theirs in ((source["x"].value[j], scene.x[i]), (source["y"].value[j], scene.y[i])):
        assert ours == pytest.approx(theirs, rel=0.01)


def test_isolated_stars_are_found_and_placed():
    scene = Field(seed=33, n=420, shape=(1000, 1000), fluxes=(2e2, 2e4), spacing=26.0)
    area = 1.0 / (scene.stamp**2).sum()
    snr = scene.flux / np.sqrt(area * (200.0 / scene.gain + 4.0))
    result = calibrate(scene.image(), reference=scene.reference(27.0))
    source = result.source
    ra, dec = pixel_to_radec(scene.projection, scene.x, scene.y)
    i, j, _ = match(ra, dec, source["ra"].value, source["dec"].value, 0.5)
    found = np.isin(np.arange(scene.x.size), i)
    at_ten = (snr > 9) & (snr < 13)
    assert at_ten.sum() > 20
    assert found[at_ten].mean() >= 0.95
    assert found[snr > 10].mean() >= 0.99
    sharp = source["snr"][j] > 100
    assert sharp.sum() > 100
    for miss in (
        (source["ra"].value[j] - ra[i]) * np.cos(np.deg2rad(dec[i])) * 3.6e6,
        (source["dec"].value[j] - dec[i]) * 3.6e6,
    ):
        assert np.sqrt((miss[sharp] ** 2).mean()) <= 10.0


def test_depth_does_not_depend_on_the_unit():
    scene = Field(seed=34, n=100)
    one = calibrate(scene.image(), reference=scene.reference(27.0))
    gain = scene.gain
    scaled = scene.image(pixels=scene.pixels * gain, variance=scene.variance * gain**2, metadata={"gain": 1.0})
    other = calibrate(scaled, reference=scene.reference(27.0))
    m5 = float(one.metrics["m5"].item())
    assert m5 == pytest.approx(float(other.metrics["m5"].item()), abs=1e-6)
    assert float(one.metrics["effective_time"].item()) == pytest.approx(30 * 10 ** (0.8 * (m5 - 24.7)))
    assert one.visit_image.summary_stats.effTime == pytest.approx(30 * 10 ** (0.8 * (m5 - 24.7)))


def test_a_radial_distortion_is_fitted_to_milliarcseconds():
    """A distortion of 1e-7 per pixel squared over 3001 pixels, as in the tests of the LSST stack's astrometry."""
    side, n = 3001, 900
    box = Box.from_shape((side, side))
    frame = frame_of(box)
    nominal = tan_projection(30.0, -10.0, x=side / 2, y=side / 2, scale=0.2, frame=frame, bbox=box)
    rng = np.random.default_rng(35)
    x, y = rng.uniform(0, side - 1, (2, n))

    def sky(px, py):
        dx, dy = px - side / 2, py - side / 2
        stretch = 1 + 1e-7 * np.hypot(dx, dy)
        return pixel_to_radec(nominal, side / 2 + dx * stretch, side / 2 + dy * stretch)

    ra, dec = sky(x, y)
    reference = Table({"refId": np.arange(n), "ra": ra, "dec": dec, "r_flux": np.linspace(1e5, 1e6, n)})
    good = np.ones(n, bool)
    sources = SimpleNamespace(
        x=x, y=y, x_err=np.full(n, 1e-4), y_err=np.full(n, 1e-4), flux=np.linspace(1e3, 1e4, n),
        flux_err=np.full(n, 1.0), snr=np.linspace(1e3, 1e4, n), clean=lambda: good, extendedness=np.zeros(n),
        centroid_flag=~good, isolated=good,
    )  # fmt: skip
    found = calibrate_astrometry(sources, reference, nominal, box, 60000.0, "r", AstrometryConfig(order=7))
    assert len(found.source) == n

    def miss(px, py):
        one, two = sky(px, py), pixel_to_radec(found.projection, px, py)
        east = (two[0] - one[0]) * np.cos(np.deg2rad(one[1]))
        return np.hypot(east, two[1] - one[1]) * 3.6e6

    grid = np.linspace(0, side - 1, 40)
    px, py = (g.ravel() for g in np.meshgrid(grid, grid))
    corners = np.array([0.0, side - 1.0, 0.0, side - 1.0]), np.array([0.0, 0.0, side - 1.0, side - 1.0])
    assert np.sqrt((miss(px, py) ** 2).mean()) < 2.0
    assert miss(*corners).max() < 3.8


def test_a_zero_point_follows_the_detector_on_demand():
    scene = Field(seed=36, n=260, shape=(800, 800), fluxes=(3e3, 6e4), spacing=24.0)

    def response(x, y):
        return 1.0 + 0.06 * (x / 400 - 1) - 0.04 * (y / 400 - 1) ** 2

    y, x = np.mgrid[:800, :800]
    falling = scene.image(
        pixels=200.0 + (scene.pixels - 200.0) * response(x, y), variance=scene.variance * response(x, y) ** 2
    )
    reference = scene.reference(27.0)
    results = [
        calibrate(falling, reference=reference, config=CalibrateConfig(photometry={"zero_point_order": order}))
        for order in (0, 2)
    ]
    scatter = []
    for result in results:
        table = result.source
        i, j, _ = match(table["ra"].value, table["dec"].value, reference["ra"], reference["dec"], 0.5)
        bright = table["snr"][i] > 100
        assert bright.sum() > 100
        ratio = table["psfFlux"].value[i][bright] / reference["r_flux"][j][bright]
        scatter.append(np.std(ratio[np.abs(ratio - 1) < 0.2]))
    assert scatter[0] > 0.03
    assert scatter[1] < 0.012
    image = results[1].visit_image
    scaling = image.photometric_scaling
    truth = 10 ** (0.4 * 4.4) / response(x, y)
    assert scaling.render(image.bbox, dtype=np.float64).array == pytest.approx(truth, rel=0.015)
    level = image.backgrounds.subtracted.field.render().array
    assert level == pytest.approx(200.0 * truth, rel=0.03)
    assert image.variance.array[5, 5] / image.variance.array[5, 795] == pytest.approx(1.0, rel=0.08)
