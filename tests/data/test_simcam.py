import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS, FITSFixedWarning

from nightlab.data.instruments.simcam import read_calibration, read_raw, read_record
from nightlab.errors import BadInput, CorruptFile, MissingData
from nightlab.images.build import has_psf, midpoint_mjd_tai
from nightlab.images.wcs import pixel_to_radec


@pytest.fixture
def raw(survey):
    return sorted((survey / "raw").glob("*.fits"))[0]


def test_raw_keeps_all_pixels_and_knows_its_amplifiers(raw):
    image = read_raw(raw)
    with fits.open(raw) as hdus:
        np.testing.assert_array_equal(image.image.array, hdus["RAW"].data)
        table = hdus["AMPLIFIERS"].data.copy()
    assert image.unit == "adu"
    assert not has_psf(image)
    assert image.detector.bbox.shape == (128, 128)
    assert image.bbox.shape[1] > 128
    assert [amplifier.name for amplifier in image.detector.amplifiers] == [name.strip() for name in table["NAME"]]
    covered = np.zeros((128, 128), int)
    for amplifier, row in zip(image.detector.amplifiers, table, strict=True):
        covered[amplifier.bbox.y.start : amplifier.bbox.y.stop, amplifier.bbox.x.start : amplifier.bbox.x.stop] += 1
        geometry = amplifier.assembled_raw_geometry
        overscan = image.image[geometry.serial_overscan_bbox].array
        data = image.image[geometry.data_bbox].array
        # the overscan saw no sky
        assert np.median(data) > np.median(overscan) + 10
        assert geometry.data_bbox.shape == amplifier.bbox.shape
        assert geometry.flip_x == row["FLIP_X"]
        assert amplifier.nominal_calibrations.gain == row["GAIN"]
    assert (covered == 1).all()


def test_nominal_pointing_is_on_the_assembled_grid(raw):
    image = read_raw(raw)
    x, y = np.array([0.0, 127.0]), np.array([0.0, 127.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        expected = WCS(fits.getheader(raw)).all_pix2world(x, y, 0)
    np.testing.assert_allclose(pixel_to_radec(image.sky_projection, x, y), expected, atol=1e-9)


def test_record_and_image_agree(raw):
    image, record, header = read_raw(raw), read_record(raw), fits.getheader(raw)
    assert record.visit == image.obs_info.visit_id == header["VISIT"]
    assert record.physical_filter == image.physical_filter == "sim_r"
    assert midpoint_mjd_tai(image) == pytest.approx(header["MJD-MID"], abs=1e-8)
    # the day begins at noon
    assert record.day_obs == int(Time(header["MJD-MID"] - 0.5, format="mjd").strftime("%Y%m%d"))
    assert image.metadata["role"] == header["ROLE"]
    # the region is somewhat larger than the detector
    ra, dec = pixel_to_radec(image.sky_projection, [-0.5, 127.5, 127.5, -0.5], [-0.5, -0.5, 127.5, 127.5])
    assert np.ptp(record.corners[:, 1]) > np.ptp(dec)
    assert np.ptp(record.corners[:, 0]) > np.ptp(ra)


def test_calibrations_know_what_they_are_for(survey):
    bias = read_calibration(survey / "calib/bias_0.fits")
    flat = read_calibration(survey / "calib/flat_r_0.fits")
    assert (bias.kind, bias.detector, bias.physical_filter) == ("bias", 0, None)
    assert (flat.kind, flat.detector, flat.physical_filter) == ("flat", 0, "sim_r")
    assert flat.image.array.mean() == pytest.approx(1.0, abs=1e-3)
    assert bias.image.array.shape == (128, 128)
    with pytest.raises(BadInput, match=r"dark_0\.fits"):
        read_calibration(survey / "calib/dark_0.fits")
    with pytest.raises(MissingData, match=r"bias_9\.fits"):
        read_calibration(survey / "calib/bias_9.fits")


def test_truncated_raw_is_named(raw, tmp_path):
    short = tmp_path / raw.name
    for keep in (100, 9000, 30000):
        short.write_bytes(raw.read_bytes()[:keep])
        with pytest.raises(CorruptFile, match=raw.name):
            read_raw(short)
