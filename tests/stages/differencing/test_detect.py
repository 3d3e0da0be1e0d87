import numpy as np
import pytest

from nightlab.errors import AllMasked, ShapeError
from nightlab.stages.differencing import DetectConfig, detect_dia_sources, subtract
from nightlab.stages.differencing.peaks import find_peaks, streaks


def value(result, name):
    return float(result.metrics[name].values.ravel()[0])


def run(science, template, **knobs):
    difference = subtract(science, template).difference_image
    return detect_dia_sources(difference, science, template, DetectConfig(**knobs))


def nearest(table, x, y):
    distance = np.hypot(table["x"].value - x, table["y"].value - y)
    return int(distance.argmin()), float(distance.min())


NEW = [(60.3, 70.8, 1000.0), (180.6, 90.2, 1000.0), (130.1, 200.4, 1000.0)]


def test_transients_are_found_with_the_right_flux(sky):
    """1000 counts at noise 1: flux to 2.5 %, place to a fraction of a pixel, each sign."""
    plain, changed = sky.visit(2.0, 1.0, seed=1), sky.visit(2.0, 1.0, seed=2, visit=8, extra=NEW)
    for science, template, sign in ((changed, plain, 1), (plain, changed, -1)):
        table = run(science, template).dia_source_unassociated
        fluxes = []
        for x, y, counts in NEW:
            row, distance = nearest(table, x, y)
            assert distance < 0.3
            assert bool(table["isNegative"][row]) == (sign < 0)
            assert not table["isDipole"][row]
            assert not table["pixelFlags_cr"][row]
            assert abs(table["psfFlux"].value[row] - sign * counts) < 4 * table["psfFluxErr"].value[row]
            fluxes.append(table["psfFlux"].value[row])
        assert np.mean(fluxes) == pytest.approx(sign * 1000.0, rel=0.025)
        # unit-weight PSF photometry of two images of unit noise
        row, _ = nearest(table, *NEW[0][:2])
        assert table["psfFluxErr"].value[row] == pytest.approx(np.sqrt(2 * 4 * np.pi) * 2.0, rel=0.1)


def test_every_measurement_is_where_the_contract_says(sky):
    table = run(sky.visit(2.0, seed=1, extra=NEW), sky.visit(2.0, seed=2, visit=8)).dia_source_unassociated
    wanted = {
        "diaSourceId",
        "visit",
        "detector",
        "band",
        "midpointMjdTai",
        "x",
        "y",
        "xErr",
        "yErr",
        "ra",
        "dec",
        "raErr",
        "decErr",
        "psfFlux",
        "psfFluxErr",
        "apFlux",
        "apFluxErr",
        "scienceFlux",
        "scienceFluxErr",
        "templateFlux",
        "templateFluxErr",
        "snr",
        "psfChi2",
        "psfNdata",
        "ixx",
        "iyy",
        "ixy",
        "isNegative",
        "isDipole",
        "dipoleLength",
        "dipoleAngle",
        "bboxSize",
        "pixelFlags_edge",
        "pixelFlags_saturated",
        "pixelFlags_saturatedCenter",
        "pixelFlags_cr",
        "pixelFlags_bad",
        "pixelFlags_interpolated",
        "pixelFlags_interpolatedCenter",
        "pixelFlags_nodata",
        "pixelFlags_saturatedTemplate",
        "pixelFlags_streak",
        "pixelFlags_highVariance",
        "centroid_flag",
        "psfFlux_flag",
        "shape_flag",
        "diaObjectId",
    }
    assert wanted <= set(table.colnames)
    assert table["diaSourceId"][0] == (7 * 1000 + 3) * 100000 + 1
    row, _ = nearest(table, *NEW[0][:2])
    assert table["ra"].unit == "deg"
    assert table["scienceFlux"].value[row] == pytest.approx(1000.0, abs=40)
    assert table["templateFlux"].value[row] == pytest.approx(0.0, abs=40)
    assert table["apFlux"].value[row] == pytest.approx(1000.0, abs=6 * table["apFluxErr"].value[row])
    assert table["psfChi2"][row] / table["psfNdata"][row] == pytest.approx(1.0, abs=0.3)
    assert table["ixx"].value[row] == pytest.approx(4.0, rel=0.35)
    scatter = np.hypot(table["xErr"].value[row], table["yErr"].value[row])
    assert 0.01 < scatter < 0.2


def test_displaced_stars_are_dipoles(sky):
    """Template shifted by one pixel against the kernel's own registration: every star is a dipole of one pixel."""
    from nightlab.stages.differencing.dipoles import fit_dipoles
    from nightlab.stages.differencing.measure import Plane

    rng = np.random.default_rng(4)
    x, y = np.array([60.0, 130.0, 190.0]), np.array([70.0, 180.0, 100.0])
    stars = [[(a + s, b, 4000.0) for a, b in zip(x, y, strict=True)] for s in (0.5, -0.5)]
    sky_only = type(sky)(n=0)
    science, template = (sky_only.draw(2.0, extra=s) + rng.normal(size=sky.shape) for s in stars)
    from lsst.images import Box
    from lsst.images.psfs import GaussianPointSpreadFunction

    psf = GaussianPointSpreadFunction(2.0, bounds=Box.from_shape(sky.shape), stamp_size=25)
    x0, y0 = x.astype(int), y.astype(int)
    planes = [
        Plane.of(image, np.full(sky.shape, noise), psf, x0, y0, 12, (0, 0))
        for image, noise in ((science - template, 2.0), (science, 1.0), (template, 1.0))
    ]
    fit = fit_dipoles(*planes, (x + 2, y, x - 2, y))
    np.testing.assert_allclose(fit.x_positive - fit.x_negative, 1.0, rtol=0.1)
    np.testing.assert_allclose(fit.positive, 4000.0, rtol=0.02)
    np.testing.assert_allclose(fit.negative, 4000.0, rtol=0.02)
    np.testing.assert_allclose(0.5 * (fit.x_positive + fit.x_negative), x, atol=0.05)


def test_stars_that_moved_are_flagged_as_dipoles(big_sky):
    moved = [(270.0, 50.0, 6000.0), (340.0, 460.0, 6000.0), (330.0, 130.0, 6000.0), (90.0, 340.0, 6000.0)]
    before = [(x - 1.0, y, f) for x, y, f in moved]
    table = run(
        big_sky.visit(2.2, seed=1, extra=moved), big_sky.visit(2.2, seed=2, visit=8, extra=before)
    ).dia_source_unassociated
    for x, y, flux in moved:
        row, distance = nearest(table, x - 0.5, y)
        assert distance < 0.5
        assert table["isDipole"][row]
        assert table["dipoleLength"].value[row] == pytest.approx(0.2, rel=0.12)
        assert table["dipoleMeanFlux"].value[row] == pytest.approx(flux, rel=0.05)
        assert abs(table["dipoleAngle"].value[row]) < 10


def test_noise_makes_as_many_sources_as_gauss_says(draw_visit, big_sky):
    result = run(big_sky.visit(2.0, 1.0, seed=11), big_sky.visit(2.0, 1.0, seed=12, visit=8), threshold=4.0)
    assert value(result, "score_noise") == pytest.approx(1.0, abs=0.05)
    expected = value(result, "n_blank_expected")
    # six pairs of images, so that the count means something; the approximation itself is good to some tens of percent
    total, promised = value(result, "n_blank"), expected
    for seed in range(13, 23, 2):
        more = run(big_sky.visit(2.0, 1.0, seed=seed), big_sky.visit(2.0, 1.0, seed=seed + 1, visit=8), threshold=4.0)
        total, promised = total + value(more, "n_blank"), promised + value(more, "n_blank_expected")
    assert promised > 20
    assert 0.5 < total / promised < 2.0


def test_cosmic_rays_are_told_from_stars(sky):
    hit = np.zeros(sky.shape)
    hit[150, 60] = 400.0
    hit[200, 220] = 300.0
    table = run(
        sky.visit(2.0, seed=1, extra=NEW, background=hit), sky.visit(2.0, seed=2, visit=8)
    ).dia_source_unassociated
    for x, y in ((60, 150), (220, 200)):
        row, distance = nearest(table, x, y)
        assert distance < 1.5
        assert table["pixelFlags_cr"][row]
    assert not any(table["pixelFlags_cr"][nearest(table, x, y)[0]] for x, y, _ in NEW)


def test_trails_are_marked_and_stars_are_not():
    rng = np.random.default_rng(6)
    score = rng.normal(size=(300, 300))
    gy, gx = np.mgrid[:300, :300]
    distance = (gx - 150) * np.sin(0.5) - (gy - 140) * np.cos(0.5)
    along = (gx - 150) * np.cos(0.5) + (gy - 140) * np.sin(0.5)
    trail = (np.abs(distance) < 1.5) & (np.abs(along) < 80)
    score += 12 * trail + 100 * np.exp(-0.5 * ((gx - 60) ** 2 + (gy - 230) ** 2) / 9)
    found = streaks(score, np.zeros(score.shape, bool))
    assert found[trail].mean() > 0.99
    assert found.sum() < 3 * trail.sum()
    assert not found[215:245, 45:75].any()
    assert not streaks(score, trail).any()


def test_peaks_of_both_signs_share_a_footprint():
    score = np.zeros((40, 40))
    score[20, 15], score[20, 18], score[5, 5] = 8.0, -7.0, 6.0
    peaks = find_peaks(score, 5.0)
    assert peaks.score.tolist() == [8.0, -7.0, 6.0]
    assert peaks.label[0] == peaks.label[1] != peaks.label[2]


def test_tables_are_identical_bit_for_bit(sky):
    pair = sky.visit(2.0, seed=1, extra=NEW), sky.visit(2.0, seed=2, visit=8)
    one, other = (run(*pair).dia_source_unassociated for _ in range(2))
    for name in one.colnames:
        np.testing.assert_array_equal(np.asarray(one[name]), np.asarray(other[name]))


def test_an_empty_difference_gives_an_empty_table(sky):
    """No source is a result: all columns, no row."""
    result = run(sky.visit(2.0, seed=1), sky.visit(2.0, seed=2, visit=8), threshold=50.0)
    assert len(result.dia_source_unassociated) == 0
    assert "psfFlux" in result.dia_source_unassociated.colnames
    assert value(result, "n_dia_sources") == 0


def test_refusals(sky, draw_visit):
    science, template = sky.visit(2.0, seed=1), sky.visit(2.0, seed=2, visit=8)
    difference = subtract(science, template).difference_image
    with pytest.raises(ShapeError, match="share their pixels"):
        detect_dia_sources(difference, draw_visit(sky.draw(2.0)[:-3], 1.0, 2.0), template)
    difference.image.array[:] = np.nan
    with pytest.raises(AllMasked, match="no data"):
        detect_dia_sources(difference, science, template)
