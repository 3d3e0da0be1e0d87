import numpy as np
import pytest
from astropy.table import Table
from lsst.images import Box, DifferenceImage
from lsst.images.psfs import GaussianPointSpreadFunction

from nightlab.errors import BadInput, NoPsf, ShapeError
from nightlab.images.build import midpoint_mjd_tai, observation, visit_image
from nightlab.images.camera import make_detector
from nightlab.images.psf import psf_stamps
from nightlab.images.wcs import pixel_to_radec, tan_projection
from nightlab.numeric.sphere import unit_vectors
from nightlab.stages.association import ForcedConfig, force_photometry

BOX = Box.factory[100:220, 300:440]  # (y, x), off the origin on purpose
SIZE = 15
PSF = GaussianPointSpreadFunction(1.6, stamp_size=SIZE, bounds=BOX)
SHARP = GaussianPointSpreadFunction(1.2, stamp_size=SIZE, bounds=BOX)


def _image(pixels, variance=None, *, psf=PSF, planes=None, box=BOX, unit="nJy"):
    detector = make_detector("SimCam", 3, "R3", box, pixel_scale=0.2, visit=42)
    return visit_image(
        pixels,
        variance=np.full(pixels.shape, 4.0) if variance is None else variance,
        planes=planes or {},
        unit=unit,
        projection=tan_projection(0.0, -5, x=370, y=160, scale=0.2, frame=detector.frame, bbox=box),
        psf=psf,
        bbox=box,
        detector=detector,
        band="r",
        info=observation(
            "SimCam", visit=42, detector=3, physical_filter="sim_r", mjd_tai=60000.0, exposure_time=30.0, ra=0, dec=-5
        ),
    )


def _difference(pixels, variance=None, **changes):
    return DifferenceImage._from_visit_image(_image(pixels, variance, **changes), None, None)


def _objects(projection, x, y, n_sources=2):
    table = Table()
    table["diaObjectId"] = 1000 + np.arange(len(x))
    table["ra"], table["dec"] = pixel_to_radec(projection, x, y)
    table["nDiaSources"] = np.broadcast_to(n_sources, len(x))
    return table


def _paint(x, y, flux, psf=PSF):
    pixels = np.zeros(BOX.shape)
    for a, b, f, stamp in zip(x, y, flux, psf_stamps(psf, x, y), strict=True):
        i, j, h = int(np.rint(b)) - 100, int(np.rint(a)) - 300, SIZE // 2
        pixels[i - h : i + h + 1, j - h : j + h + 1] += f * stamp
    return pixels


X, Y = np.array([330.3, 360.0, 370.49, 400.7, 420.2]), np.array([120.1, 150.4, 170.0, 190.2, 130.9])
FLUX, SCIENCE = np.array([100.0, -40.0, 7.0, 3000.0, 0.0]), np.array([500.0, 60.0, 10.0, 1e5, 20.0])


def _scene():
    difference = _difference(_paint(X, Y, FLUX))
    science = _image(_paint(X, Y, SCIENCE, SHARP), psf=SHARP)
    return difference, science, _objects(science.sky_projection, X, Y)


def test_fluxes_of_lone_stars_are_exact():
    difference, science, objects = _scene()
    made = force_photometry(difference, science, objects).dia_forced_source
    np.testing.assert_allclose(made["psfFlux"], FLUX, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(made["scienceFlux"], SCIENCE, rtol=1e-5)
    # sigma^2 n_eff with n_eff = 4 pi sigma_psf^2 of a Gaussian
    np.testing.assert_allclose(made["psfFluxErr"], 2.0 * np.sqrt(4 * np.pi) * 1.6, rtol=1e-3)
    assert made["psfFlux"].unit == "nJy"
    assert not made["psfFlux_flag"].any()


def test_fluxes_equal_direct_sums_in_noise():
    rng = np.random.default_rng(2)
    variance = rng.uniform(1, 9, BOX.shape)
    difference = _difference(rng.normal(0, 1, BOX.shape) * np.sqrt(variance), variance)
    science = _image(_paint(X, Y, SCIENCE))
    made = force_photometry(difference, science, _objects(science.sky_projection, X, Y)).dia_forced_source
    image, noise = difference.image.array.astype(float), difference.variance.array.astype(float)
    for row, x, y, p in zip(made, X, Y, psf_stamps(PSF, X, Y), strict=True):
        i, j = int(np.rint(y)) - 107, int(np.rint(x)) - 307
        cut = np.s_[i : i + SIZE, j : j + SIZE]
        assert row["psfFlux"] == pytest.approx((p * image[cut]).sum() / (p**2).sum(), abs=1e-5)
        assert row["psfFluxErr"] == pytest.approx(np.sqrt((p**2 * noise[cut]).sum()) / (p**2).sum(), rel=1e-6)


def test_only_objects_on_the_image_with_a_history_are_measured():
    difference, science, _ = _scene()
    # five on the image, three off it (one only just), one on the far side of the sky, one without position
    x, y = np.append(X, [299.4, 500.0, -4000.0]), np.append(Y, [150.0, 150.0, 90.0])
    objects = _objects(science.sky_projection, x, y, [2, 3, 1, 7, 2, 5, 5, 5])
    far = objects[:2].copy()
    far["diaObjectId"], far["ra"], far["dec"] = [5000, 5001], [180.0, np.nan], [5.0, 0.0]
    everything = Table(np.concatenate([objects.as_array(), far.as_array()]))
    made = force_photometry(difference, science, everything[::-1])
    table = made.dia_forced_source
    assert table["diaObjectId"].tolist() == [1000, 1001, 1003, 1004]
    assert table["diaForcedSourceId"].tolist() == [4200300000, 4200300001, 4200300002, 4200300003]
    assert made.metrics["n_below_history"].item() == 1
    one = force_photometry(difference, science, objects, ForcedConfig(history_threshold=1))
    assert len(one.dia_forced_source) == one.metrics["n_forced"].item() == 5


def test_rows_say_where_and_when():
    difference, science, objects = _scene()
    table = force_photometry(difference, science, objects).dia_forced_source
    assert set(table["visit"]) == {42}
    assert set(table["detector"]) == {3}
    assert set(table["band"]) == {"r"}
    assert set(table["midpointMjdTai"]) == {midpoint_mjd_tai(science)}
    turn = unit_vectors(table["ra"], table["dec"]) @ unit_vectors(0.0, -5.0)
    assert (turn > np.cos(np.deg2rad(20 / 3600))).all()  # on both sides of RA 0
    assert (np.asarray(table["ra"]) > 359).any()


def test_edges_and_missing_pixels_are_flagged():
    pixels = np.ones(BOX.shape)
    pixels[50, 60] = np.nan  # (x, y) = (360, 150), at the heart of the second object
    planes = {"NO_DATA": np.zeros(BOX.shape, bool)}
    planes["NO_DATA"][80:100, 80:100] = True
    science = _image(np.ones(BOX.shape))
    x, y = np.array([330.0, 360.0, 390.0, 300.4, 306.0, 366.0]), np.array([120.0, 150.0, 190.0, 150.0, 160.0, 156.0])
    made = force_photometry(_difference(pixels, planes=planes), science, _objects(science.sky_projection, x, y))
    table = made.dia_forced_source
    assert table["psfFlux_flag"].tolist() == [False, True, True, True, False, False]
    assert table["psfFlux_flag_edge"].tolist() == [False, False, False, True, True, False]
    np.testing.assert_array_equal(np.isnan(table["psfFlux"]), table["psfFlux_flag"])
    np.testing.assert_array_equal(np.isnan(table["psfFluxErr"]), table["psfFlux_flag"])
    # a flat image of 1: sum(P) / sum(P^2) = n_eff, also where the rim of the PSF is lost
    np.testing.assert_allclose(table["psfFlux"][[0, 4, 5]], 4 * np.pi * 1.6**2, rtol=0.02)
    assert table["scienceFlux_flag"].tolist() == [False, False, False, True, False, False]
    assert made.metrics["n_flagged"].item() == 3


def test_pulls_of_pure_noise_are_one_wide():
    rng = np.random.default_rng(6)
    grid = np.stack(np.meshgrid(np.linspace(310, 430, 12), np.linspace(110, 210, 10))).reshape(2, -1)
    difference, science = _difference(rng.normal(0, 2, BOX.shape)), _image(np.ones(BOX.shape))
    made = force_photometry(difference, science, _objects(science.sky_projection, *grid))
    # 120 pulls: the MAD is good to 1.17 / sqrt(120) = 0.11
    assert made.metrics["pull_width"].item() == pytest.approx(1.0, abs=0.33)
    assert dict(made.metrics.sizes) == {"visit": 1, "detector": 1, "band": 1}


def test_no_objects_leave_an_empty_table_that_knows_its_image():
    difference, science, objects = _scene()
    made = force_photometry(difference, science, objects[:0]).dia_forced_source
    assert len(made) == 0
    assert made.meta["visit"] == 42
    assert made.meta["midpointMjdTai"] == midpoint_mjd_tai(science)
    assert made.colnames == force_photometry(difference, science, objects).dia_forced_source.colnames


def test_images_that_do_not_belong_together_are_refused():
    difference, _, objects = _scene()
    other = Box.factory[0:120, 0:140]
    with pytest.raises(ShapeError, match="covers"):
        force_photometry(difference, _image(np.ones(other.shape), box=other), objects)
    with pytest.raises(BadInput, match="adu"):
        force_photometry(difference, _image(np.ones(BOX.shape), unit="adu"), objects)
    with pytest.raises(NoPsf):
        force_photometry(difference, _image(np.ones(BOX.shape), psf=None), objects)
