"""DECam: Community Pipeline images with their masks and weights, and exposures the LSST pipelines calibrated."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS
from lsst.images import Box
from numpy.polynomial import chebyshev

import nightlab as nl
from nightlab.data.ingest import ingest
from nightlab.data.instruments import decam, instrument
from nightlab.data.locate import data_set
from nightlab.data.repository import make_repository
from nightlab.errors import BadInput, CorruptFile, MissingData, ShapeError
from nightlab.images.build import has_psf
from nightlab.images.psf import psf_sigma, psf_stamps
from nightlab.images.wcs import pixel_to_radec, radec_to_pixel
from nightlab.stages.single_frame.config import CalibrateConfig

SHAPE = (40, 60)
NAME = "c4d_240102_030405_ooi_r_ls9.N3.fits"


def tpv():
    """Make a header of a WCS with distortions, the reference pixel far outside as on a mosaic."""
    wcs = {"CTYPE1": "RA---TPV", "CTYPE2": "DEC--TPV", "CRVAL1": 187.03, "CRVAL2": 25.56, "CRPIX1": -1222.2,
           "CRPIX2": 3716.3, "CD1_1": -1.36e-7, "CD1_2": 7.285e-5, "CD2_1": -7.288e-5, "CD2_2": -1.33e-7,
           "PV1_0": 6e-4, "PV1_1": 1.0058, "PV1_2": -4.6e-4, "PV1_4": 8e-4, "PV1_5": -1.4e-4, "PV1_6": -5.7e-4,
           "PV1_7": -0.011, "PV1_8": 8.6e-5, "PV1_9": -0.0045, "PV1_10": -0.0014, "PV2_0": -3e-4, "PV2_1": 1.005,
           "PV2_2": 1e-4, "PV2_4": -0.0022, "PV2_5": -1.3e-4, "PV2_6": 3.2e-4, "PV2_7": -0.0108,
           "PV2_10": 2.6e-4}  # fmt: skip
    return wcs | {"CUNIT1": "deg", "CUNIT2": "deg"}


@pytest.fixture
def exposure(tmp_path):
    """Write an exposure with every data-quality code once, in row 0."""
    return write(tmp_path)


def write(folder, *, drop=(), codes=None, weight=None, **cards):
    rng = np.random.default_rng(2)
    facts = {"INSTRUME": "DECam", "EXPNUM": 634850, "EXPTIME": 131.0, "MJD-OBS": 57841.19389557, "TIMESYS": "UTC",
             "FILTER": "r DECam SDSS c0002 6415.0 1480.0", "PLVER": "V4.8.2", "RADESYS": "FK5", "AIRMASS": 1.77,
             "CENTRA": 187.0348, "CENTDEC": 25.56, "OBJECT": "field"}  # fmt: skip
    image = {"CCDNUM": 34, "GAINA": 3.8, "GAINB": 4.0, "SATURATE": 52_000.0, "FWHM": 4.7, "MAGZERO": 30.2} | tpv()
    primary, image = fits.Header(facts | cards), fits.Header(image)
    for key in drop:
        primary.remove(key, ignore_missing=True)
        image.remove(key, ignore_missing=True)
    if codes is None:
        codes = np.zeros(SHAPE, np.int32)
        codes[0, :9] = range(9)
    if weight is None:
        weight = np.full(SHAPE, 1 / 36.0, np.float32)
        weight[codes != 0] = 0.0
    pixels = rng.normal(150.0, 6.0, SHAPE).astype(np.float32)
    pixels[0, 3] = 52_150.0
    for kind, plane in (("ooi", pixels), ("ood", codes), ("oow", weight)):
        hdus = [fits.PrimaryHDU(header=primary), fits.ImageHDU(plane, image, name="N3")]
        fits.HDUList(hdus).writeto(folder / NAME.replace("ooi", kind))
    return folder / NAME


def real(name):
    try:
        return data_set(name)
    except MissingData as error:
        pytest.skip(str(error))


def test_codes_become_planes_by_name(exposure):
    mask = decam.read_raw(exposure).mask
    expected = {"BAD": [1], "NO_DATA": [2], "SATURATED": [3, 4], "COSMIC_RAY": [5], "SUSPECT": [6, 7, 8]}
    for name, columns in expected.items():
        assert np.argwhere(mask.get(name)).tolist() == [[0, column] for column in columns], name


def test_unknown_codes_and_pixels_without_weight_are_bad(tmp_path):
    codes, weight = np.zeros(SHAPE, np.int32), np.ones(SHAPE, np.float32)
    codes[2, 2], weight[4, 4] = 77, 0.0
    mask = decam.read_raw(write(tmp_path, codes=codes, weight=weight)).mask
    assert np.argwhere(mask.get("BAD")).tolist() == [[2, 2], [4, 4]]


def test_variance_is_one_over_weight_and_estimated_where_there_is_none(exposure):
    image = decam.read_raw(exposure)
    np.testing.assert_allclose(image.variance.array[1:], 36.0, rtol=1e-6)
    # a saturated pixel of 52 000 adu over the sky, at 3.9 electrons per adu
    assert image.variance.array[0, 3] == pytest.approx(36.0 + 52_000.0 / 3.9, rel=1e-3)
    assert np.isfinite(image.variance.array).all()


def test_positions_agree_with_astropy_there_and_back(exposure):
    projection = decam.read_raw(exposure).sky_projection
    x, y = (grid.ravel() for grid in Box.from_shape(SHAPE).meshgrid(7))
    ra, dec = pixel_to_radec(projection, x, y)
    expected = WCS(fits.Header(tpv())).all_pix2world(x, y, 0)
    np.testing.assert_allclose((ra, dec), expected, rtol=0, atol=1e-9)
    np.testing.assert_allclose(radec_to_pixel(projection, ra, dec), (x, y), rtol=0, atol=1e-4)


def test_header_facts_come_through(exposure):
    record, image = decam.read_record(exposure), decam.read_raw(exposure)
    assert (record.visit, record.detector, record.physical_filter) == (634850, 34, "decam_r")
    assert (image.detector.name, image.band, image.unit) == ("N3", "r", "adu")
    assert record.mjd_begin == pytest.approx(Time(57841.19389557, format="mjd", scale="utc").tai.mjd, abs=1e-9)
    assert record.mjd_end == pytest.approx(record.mjd_begin + 131 / 86400, abs=1e-9)
    assert (record.ra, record.dec, record.airmass) == (187.0348, 25.56, 1.77)
    assert dict(image.metadata) == {"gain": pytest.approx(3.9), "saturation": 52_000.0, "fwhm": 4.7, "zeroPoint": 30.2}
    assert not has_psf(image)


def test_ccds_have_the_names_of_the_focal_plane():
    names = decam.NAMES
    assert len(names) == len(set(names)) == 62
    # as the headers of these CCDs have it
    assert {n: names[n - 1] for n in (20, 23, 25, 28, 33, 34)} == {
        20: "S9", 23: "S12", 25: "S1", 28: "S4", 33: "N2", 34: "N3"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("word", "name"), [("Y DECam c0005", "decam_Y"), ("VR DECam c0007", "decam_VR"), ("i", "decam_i")]
)
def test_filters_are_named_by_their_first_word(tmp_path, word, name):
    image = decam.read_raw(write(tmp_path, FILTER=word))
    assert image.physical_filter == name
    assert image.band == decam.FILTERS[name]


@pytest.mark.parametrize(("kind", "word"), [("ood", "data-quality mask"), ("oow", "weight map")])
def test_companions_that_are_missing_damaged_or_of_another_size_are_named(exposure, kind, word):
    other = exposure.with_name(exposure.name.replace("ooi", kind))
    whole = other.read_bytes()
    other.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptFile, match=other.name):
        decam.read_raw(exposure)
    other.unlink()
    with pytest.raises(MissingData, match=word):
        decam.read_raw(exposure)
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(np.ones((3, 4), np.float32))]).writeto(other)
    with pytest.raises(ShapeError, match=r"\(3, 4\) but the image is \(40, 60\)"):
        decam.read_raw(exposure)


@pytest.mark.parametrize(
    ("cards", "word"),
    [
        ({"INSTRUME": "Mosaic3"}, "is of Mosaic3, not of DECam"),
        ({"PLVER": "V2.0"}, "version 'V2.0'"),
        ({"FILTER": "H alpha"}, "decam_H"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path, cards, word):
    with pytest.raises(BadInput, match=word):
        decam.read_raw(write(tmp_path, **cards))


def test_files_that_are_not_one_ccd_are_refused(tmp_path, exposure):
    lacking = tmp_path / "lacking"
    lacking.mkdir()
    with pytest.raises(CorruptFile, match="EXPNUM"):
        decam.read_record(write(lacking, drop=("EXPNUM",)))
    renamed = exposure.rename(exposure.with_name("image.fits"))
    with pytest.raises(BadInput, match="not the name of an image of the Community Pipeline"):
        decam.read_raw(renamed)
    with fits.open(renamed) as hdus:
        hdus.append(hdus[1].copy())
        hdus.writeto(tmp_path / "two.fits")
    with pytest.raises(BadInput, match="holds 2 CCDs"):
        decam.read_raw(tmp_path / "two.fits")


def test_an_exposure_is_ingested_and_comes_back(tmp_path, exposure):
    butler = make_repository(tmp_path / "repo", "DECam")
    (ref,) = ingest(butler, "DECam", [exposure])
    image = butler.get(ref)
    np.testing.assert_array_equal(image.image.array, fits.getdata(exposure, 1))
    (visit,) = butler.query_dimension_records("visit", instrument="DECam")
    assert (visit.id, visit.physical_filter) == (634850, "decam_r")


@pytest.mark.real_data
def test_every_real_cutout_is_read_and_its_wcs_is_that_of_astropy():
    paths = sorted(real("decam-multiepoch-cutouts").glob("field-*/images/decam/CP/*/*/*_ooi_*.fits"))
    assert len(paths) == 13
    for path in paths:
        image = decam.read_raw(path)
        assert image.detector.name == path.name.split(".")[-2]
        x, y = (grid.ravel() for grid in image.bbox.meshgrid(6))
        ra, dec = pixel_to_radec(image.sky_projection, x, y)
        header = fits.getheader(path, 1)
        np.testing.assert_allclose((ra, dec), WCS(header).all_pix2world(x, y, 0), rtol=0, atol=1e-9)
        np.testing.assert_allclose(radec_to_pixel(image.sky_projection, ra, dec), (x, y), rtol=0, atol=1e-4)
        flagged = (image.mask.array != 0).any(axis=-1)
        weight = fits.getdata(path.with_name(path.name.replace("_ooi_", "_oow_")))
        # the pipeline gives no weight to exactly those pixels that have a code
        np.testing.assert_array_equal(flagged, weight == 0)


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "zero_point"),
    [
        ("V4.8.2/CP20170328/c4d_170329_044212_ooi_g_ls9.N3", 30.036),
        ("V4.8.2a/CP20180127/c4d_180128_083845_ooi_r_ls9.N3", None),
    ],
)
def test_calibrate_finds_what_the_pipeline_found(name, zero_point):
    path = real("decam-multiepoch-cutouts") / f"field-186/images/decam/CP/{name}.fits"
    image, header = decam.read_raw(path), fits.getheader(path) + fits.getheader(path, 1)
    result = nl.calibrate(image)
    values = {key.removeprefix("single_frame."): float(np.ravel(v)[0]) for key, v in result.metrics.items()}
    # three stars against the median of the whole CCD
    assert 2.35482 * values["psf_sigma"] == pytest.approx(header["FWHM"], rel=0.04)
    assert values["sky_level"] == pytest.approx(header["AVSKY"], rel=0.06)
    assert values["sky_noise_ratio"] == pytest.approx(1.0, abs=0.04)
    assert values["sky_noise"] == pytest.approx(header["AVSIG"], rel=0.08)
    if zero_point is not None:
        assert header["MAGZERO"] == values["zero_point"] == zero_point
        # MAGZPT is of one second
        assert zero_point == pytest.approx(header["MAGZPT"] + 2.5 * np.log10(131.0), abs=2e-3)
        assert values["m5"] == pytest.approx(24.0, abs=0.2)


@pytest.fixture
def calibrated():
    return real("satellite-trail-cutouts") / "cutout_calexp-0941420_23.fits"


@pytest.mark.real_data
def test_an_exposure_of_the_lsst_pipelines_brings_planes_zero_point_and_psf(calibrated):
    image, record = instrument("DECam").read_raw(calibrated), decam.read_record(calibrated)
    header = fits.getheader(calibrated)
    assert (record.visit, record.detector, image.detector.name, image.band) == (941420, 23, "S12", "g")
    # DATE-OBS and MJD-OBS are UTC although TIMESYS says TAI; DATE-AVG, by the pipelines, is TAI
    begin = Time(header["DATE-OBS"], scale="utc").tai.mjd
    assert record.mjd_begin == pytest.approx(begin, abs=1e-8)
    # MAGZERO is of one second
    assert image.metadata["zeroPoint"] == pytest.approx(header["MAGZERO"] + 2.5 * np.log10(120.0), abs=1e-3)
    with fits.open(calibrated) as hdus:
        bits = hdus[2].data
        for theirs, ours in (
            ("SAT", "SATURATED"),
            ("CR", "COSMIC_RAY"),
            ("EDGE", "DETECTION_EDGE"),
            ("INTRP", "INTERPOLATED"),
        ):
            np.testing.assert_array_equal(image.mask.get(ours), (bits >> hdus[2].header[f"MP_{theirs}"]) & 1 == 1)
        np.testing.assert_array_equal(image.variance.array, hdus[3].data)
        expected = WCS(hdus[1].header)
    x, y = (grid.ravel() for grid in image.bbox.meshgrid(6))
    ra, dec = pixel_to_radec(image.sky_projection, x, y)
    np.testing.assert_allclose((ra, dec), expected.all_pix2world(x, y, 0), rtol=0, atol=1e-9)
    np.testing.assert_allclose(radec_to_pixel(image.sky_projection, ra, dec), (x, y), rtol=0, atol=1e-4)


@pytest.mark.real_data
def test_the_psf_of_components_is_their_sum(calibrated):
    psf = decam.read_raw(calibrated).psf
    at = {"x": 300.0, "y": 2500.0}
    with fits.open(calibrated) as hdus:
        grid = [at["x"] / 1024 - 1, at["y"] / 2048 - 1]
        total = np.zeros((31, 31))
        for image, weight in zip(hdus[11].data, hdus[10].data, strict=True):
            c = weight["coefficients"]
            table = np.array([[c[0], c[2], c[5]], [c[1], c[4], 0.0], [c[3], 0.0, 0.0]])
            total += image["image"].reshape(31, 31) * chebyshev.chebval2d(*grid, table)
    stamp = psf_stamps(psf, [at["x"]], [at["y"]], centred=True)[0]
    np.testing.assert_allclose(stamp, total / total.sum(), atol=1e-9)
    assert 2.35482 * psf_sigma(psf, **at) == pytest.approx(4.87, abs=0.03)


@pytest.mark.slow
@pytest.mark.real_data
def test_calibrate_takes_an_exposure_of_the_lsst_pipelines(calibrated):
    image = decam.read_raw(calibrated)
    result = nl.calibrate(image, config=CalibrateConfig())
    values = {key.removeprefix("single_frame."): float(np.ravel(v)[0]) for key, v in result.metrics.items()}
    assert values["zero_point"] == image.metadata["zeroPoint"]
    assert abs(values["sky_level"]) < 0.2 * values["sky_noise"]
    assert values["sky_noise_ratio"] == pytest.approx(1.0, abs=0.05)
    theirs = image.mask.get("DETECTED") & ~image.mask.get("DETECTION_EDGE")
    assert (theirs & result.visit_image.mask.get("DETECTED")).sum() > 0.8 * theirs.sum()
