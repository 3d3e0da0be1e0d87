"""HSC: exposures the pipelines calibrated, and the headers of raw frames."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS
from lsst.images import Box

import nightlab as nl
from nightlab.data.instruments import hsc
from nightlab.data.locate import data_set
from nightlab.errors import BadInput, CorruptFile, MissingData
from nightlab.images.build import has_psf, midpoint_mjd_tai
from nightlab.images.wcs import pixel_to_radec, radec_to_pixel
from nightlab.stages.single_frame.config import CalibrateConfig
from nightlab.stages.single_frame.psf import PsfConfig

SHAPE = (30, 50)
ORIGIN = (700, 1200)  # y, x
PLANES = {"BAD": 0, "SAT": 4, "INTRP": 2, "CR": 3, "EDGE": 1, "DETECTED": 5, "UNMASKEDNAN": 6, "BRIGHT_OBJECT": 9}


def sip():
    return {"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP", "CRVAL1": 151.3, "CRVAL2": 1.6, "CRPIX1": 860.0,
            "CRPIX2": 2004.0, "CD1_1": 1.6e-7, "CD1_2": -4.62e-5, "CD2_1": -4.66e-5, "CD2_2": 1e-7, "CUNIT1": "deg",
            "CUNIT2": "deg", "RADESYS": "ICRS", "A_ORDER": 2, "A_2_0": 5e-7, "A_1_1": 1.5e-6, "A_0_2": 2e-7,
            "B_ORDER": 2, "B_2_0": 1e-6, "B_1_1": 3e-7, "B_0_2": 2e-6, "AP_ORDER": 1, "AP_0_0": 0.01, "BP_ORDER": 1,
            "BP_0_0": 0.02}  # fmt: skip


def write(path, *, kinds=("IMAGE", "MASK", "VARIANCE"), origin="A", **cards):
    """Write an exposure with one pixel of every plane, in row 0."""
    primary = fits.Header({"FLUXMAG0": 1e11, "EXPTIME": 30.0, "TIME-MID": "2014-03-28T09:50:21.5Z", "FILTER": "HSC-R"})
    primary.update(cards)
    for key in [key for key, value in cards.items() if value is None]:
        del primary[key]
    rng = np.random.default_rng(8)
    bits = np.zeros(SHAPE, np.uint16)
    for bit in PLANES.values():
        bits[0, bit] = 1 << bit
    planes = {"IMAGE": rng.normal(0, 5, SHAPE).astype(np.float32), "MASK": bits,
              "VARIANCE": np.full(SHAPE, 25.0, np.float32)}  # fmt: skip
    hdus = [fits.PrimaryHDU(header=primary)]
    for kind in kinds:
        header = fits.Header(sip() | {"EXTTYPE": kind})
        if origin == "A":
            header.update(
                CRVAL1A=ORIGIN[1], CRVAL2A=ORIGIN[0], CRPIX1A=1, CRPIX2A=1, CTYPE1A="LINEAR", CTYPE2A="LINEAR"
            )
        else:
            header.update(LTV1=-ORIGIN[1], LTV2=-ORIGIN[0])
        if kind == "MASK":
            header.update({("HIERARCH " if len(name) > 5 else "") + f"MP_{name}": bit for name, bit in PLANES.items()})
        hdus.append(fits.ImageHDU(planes[kind], header))
    fits.HDUList(hdus).writeto(path)
    return path


def real(name):
    try:
        return data_set(name)
    except MissingData as error:
        pytest.skip(str(error))


@pytest.fixture
def path(tmp_path):
    return write(tmp_path / "HSC-0904024-050.fits")


def test_planes_are_found_by_their_names(path):
    image = hsc.read_raw(path)
    expected = {"BAD": 0, "SATURATED": 4, "INTERPOLATED": 2, "COSMIC_RAY": 3, "DETECTION_EDGE": 1, "DETECTED": 5,
                "UNMASKED_NAN": 6, "SUSPECT": None}  # fmt: skip
    for name, column in expected.items():
        found = np.argwhere(image.mask.get(name)).tolist()
        assert found == ([] if column is None else [[0, column]]), name
    assert (image.variance.array == 25.0).all()
    assert image.metadata["zeroPoint"] == pytest.approx(27.5)
    assert not has_psf(image)


@pytest.mark.parametrize("origin", ["A", "LTV"])
def test_pixels_keep_their_place_on_the_ccd(tmp_path, origin):
    image = hsc.read_raw(write(tmp_path / "HSC-0904024-050.fits", origin=origin))
    assert image.bbox == Box.from_shape(SHAPE, start=ORIGIN)
    assert image.detector.bbox == hsc.CHIP
    x, y = (grid.ravel() for grid in image.bbox.meshgrid(7))
    ra, dec = pixel_to_radec(image.sky_projection, x, y)
    plain = fits.Header({key: value for key, value in sip().items() if not key.startswith(("AP", "BP"))})
    expected = WCS(plain).all_pix2world(x - ORIGIN[1], y - ORIGIN[0], 0)
    np.testing.assert_allclose((ra, dec), expected, rtol=0, atol=1e-9)
    # the inverse of the header is wrong by 0.01 pixel, and not used
    np.testing.assert_allclose(radec_to_pixel(image.sky_projection, ra, dec), (x, y), rtol=0, atol=1e-4)


def test_visit_ccd_filter_and_time_come_through(path, tmp_path):
    record, image = hsc.read_record(path), hsc.read_raw(path)
    assert (record.visit, record.detector, record.physical_filter, image.band) == (904024, 50, "HSC-R", "r")
    middle = Time("2014-03-28T09:50:21.5", scale="utc").tai.mjd
    assert midpoint_mjd_tai(image) == pytest.approx(middle, abs=1e-9)
    assert image.metadata["timeKnown"]
    later = write(
        tmp_path / "some.fits", **{"EXP-ID": "HSCB12345600", "DET-ID": 7, "DATE-AVG": "2014-03-28T09:50:56.5"}
    )
    record = hsc.read_record(later)
    assert (record.visit, record.detector) == (1_123_456, 7)
    assert record.mjd_begin + 15 / 86400 == pytest.approx(middle, abs=1e-9)


def test_what_was_lost_is_said_to_be(tmp_path):
    unset = {"TIME-MID": "1969-12-31T23:59:51.999918240Z", "EXPTIME": 0.0, "FLUXMAG0": 0.0, "FILTER": "_unknown_"}
    image = hsc.read_raw(write(tmp_path / "HSC-0904024-050.fits", **unset))
    assert "zeroPoint" not in image.metadata
    assert not image.metadata["timeKnown"]
    assert (image.physical_filter, image.band) == ("hsc_unknown", "unknown")


def test_refusals_say_what_is_wrong(tmp_path, path):
    with pytest.raises(MissingData, match="is missing"):
        hsc.read_raw(tmp_path / "HSC-0000001-001.fits")
    with pytest.raises(BadInput, match="is of DECam, not of HSC"):
        hsc.read_raw(write(tmp_path / "HSC-0000002-001.fits", INSTRUME="DECam"))
    with pytest.raises(BadInput, match="no planes IMAGE, MASK and VARIANCE"):
        hsc.read_record(write(tmp_path / "HSC-0000003-001.fits", kinds=("IMAGE",)))
    with pytest.raises(BadInput, match="which visit and CCD"):
        hsc.read_raw(write(tmp_path / "nameless.fits"))
    with pytest.raises(BadInput, match="CCD 112"):
        hsc.read_raw(write(tmp_path / "HSC-0000004-112.fits"))
    path.write_bytes(path.read_bytes()[:12_000])
    with pytest.raises(CorruptFile, match=path.name):
        hsc.read_raw(path)


def raw_header(**cards):
    facts = {"EXP-ID": "HSCA90402400", "DET-ID": 50, "EXPTIME": 30.0, "MJD-STR": 56598.26106374757,
             "DATA-TYP": "OBJECT", "FILTER01": "HSC-i", "OBJECT": "STRIPE82L", "RA2000": "21:22:59.982",
             "DEC2000": "+00:30:00.07", "AIRMASS": 1.12, "NAXIS1": 2144, "NAXIS2": 4241, "CTYPE1": "RA---TAN",
             "CTYPE2": "DEC--TAN", "CRPIX1": 1024.5, "CRPIX2": 4395.167, "CRVAL1": 320.749925, "CRVAL2": 0.500019,
             "CD1_1": 0.0, "CD1_2": 4.7222e-5, "CD2_1": -4.7222e-5, "CD2_2": 0.0}  # fmt: skip
    return fits.Header(facts | cards)


def test_a_raw_header_is_enough_for_a_record():
    record = hsc.raw_header_record(raw_header())
    assert (record.visit, record.detector, record.physical_filter) == (904024, 50, "HSC-I")
    assert record.mjd_begin == pytest.approx(Time(56598.26106374757, format="mjd", scale="utc").tai.mjd, abs=1e-9)
    assert record.ra == pytest.approx(320.749925, abs=1e-6)
    assert record.dec == pytest.approx(0.5000194, abs=1e-6)
    footprint = WCS(raw_header()).calc_footprint(axes=(2144, 4241), center=False)
    for corner in footprint:
        assert np.abs(record.corners - corner).max(axis=1).min() < 1e-8
    bias = hsc.raw_header_record(raw_header(**{"DATA-TYP": "BIAS"}))
    assert (bias.observation_type, bias.sees_sky) == ("bias", False)
    with pytest.raises(BadInput, match="EXP-ID"):
        hsc.raw_header_record(raw_header(**{"EXP-ID": "SUPA01234567"}))


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "visit", "detector", "physical_filter"),
    [("hsc", 904024, 50, "HSC-I"), ("hsc-HSCA04090107", 40900, 37, "HSC-R")],
)
def test_real_raw_headers_become_records(name, visit, detector, physical_filter):
    real("lsst-raw-headers-and-calibs")
    record = hsc.raw_header_record(nl.open_catalog()["lsst.header"](frame=name).read())
    assert (record.visit, record.detector, record.physical_filter) == (visit, detector, physical_filter)
    assert np.isfinite(record.corners).all()


@pytest.fixture
def calexp():
    return real("satellite-trail-cutouts") / "hsc-calexp/HSC-0908120-056-small.fits"


@pytest.mark.real_data
def test_a_real_exposure_is_read(calexp):
    image = hsc.read_raw(calexp)
    assert image.bbox == Box.from_shape((200, 200), start=(100, 100))
    assert (image.obs_info.visit_id, image.detector.id) == (908120, 56)
    with fits.open(calexp) as hdus:
        bits, header = hdus[2].data, hdus[2].header
        np.testing.assert_array_equal(image.mask.get("DETECTED"), (bits >> header["MP_DETECTED"]) & 1 == 1)
        np.testing.assert_array_equal(image.mask.get("CROSSTALK"), (bits >> header["MP_CROSSTALK"]) & 1 == 1)
        expected = WCS(hdus[1].header)
    x, y = (grid.ravel() for grid in image.bbox.meshgrid(6))
    ra, dec = pixel_to_radec(image.sky_projection, x, y)
    np.testing.assert_allclose((ra, dec), expected.all_pix2world(x - 100, y - 100, 0), rtol=0, atol=1e-9)
    np.testing.assert_allclose(radec_to_pixel(image.sky_projection, ra, dec), (x, y), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.real_data
def test_calibrate_takes_a_real_exposure(calexp):
    image = hsc.read_raw(calexp)
    # the piece has three stars, none of them bright
    result = nl.calibrate(image, config=CalibrateConfig(psf=PsfConfig(min_snr=10.0)))
    values = {key.removeprefix("single_frame."): float(np.ravel(v)[0]) for key, v in result.metrics.items()}
    assert values["sky_noise_ratio"] == pytest.approx(1.0, abs=0.08)
    assert abs(values["sky_level"]) < 0.1 * values["sky_noise"]
    assert 0.5 < values["psf_fwhm"] < 1.0
    theirs = image.mask.get("DETECTED")
    assert (theirs & result.visit_image.mask.get("DETECTED")).sum() > 0.95 * theirs.sum()
