import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS

from nightlab.data.instruments.generic import INSTRUMENT, read_generic, read_record
from nightlab.errors import AllMasked, BadInput, CorruptFile, MissingData, ShapeError
from nightlab.images.build import has_psf, midpoint_mjd_tai
from nightlab.images.psf import psf_stamps
from nightlab.images.wcs import pixel_scale, pixel_to_radec

SHAPE = (40, 60)


def header(kind="TAN", **cards):
    wcs = WCS(naxis=2)
    wcs.wcs.crval = 210.5, -45.2
    wcs.wcs.crpix = 25.0, 12.0
    wcs.wcs.cd = np.array([[-7e-5, 2e-6], [3e-6, 7.1e-5]])
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.cunit = "deg", "deg"
    made = wcs.to_header()
    made["RADESYS"] = "ICRS"
    if kind == "SIP":
        made["CTYPE1"], made["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
        made.update(A_ORDER=2, B_ORDER=2, A_2_0=2e-4, B_1_1=-3e-4, B_0_2=1e-4)
    if kind == "TPV":
        made["CTYPE1"], made["CTYPE2"] = "RA---TPV", "DEC--TPV"
        made.update(PV1_1=1.0, PV2_1=1.0, PV1_4=0.02, PV2_6=-0.03, PV1_0=0.0, PV2_0=0.0)
    made.update(**cards)
    return made


@pytest.fixture
def pixels():
    return np.random.default_rng(3).normal(500.0, 10.0, SHAPE).astype(np.float32)


@pytest.mark.parametrize("kind", ["TAN", "SIP", "TPV"])
def test_positions_agree_with_astropy(tmp_path, pixels, kind):
    path = tmp_path / "image.fits"
    fits.PrimaryHDU(pixels, header(kind)).writeto(path)
    image = read_generic(path)
    x, y = np.array([0.0, 59.0, 30.2, 5.5]), np.array([0.0, 39.0, 3.0, 35.1])
    expected = WCS(fits.getheader(path)).all_pix2world(x, y, 0)
    np.testing.assert_allclose(pixel_to_radec(image.sky_projection, x, y), expected, atol=1e-8)
    plain = WCS(header("TAN")).all_pix2world(x, y, 0)
    if kind != "TAN":
        assert np.abs(np.array(plain) - expected).max() > 1e-7
    np.testing.assert_array_equal(image.image.array, pixels)
    assert image.detector.id == 0
    assert pixel_scale(image.sky_projection, 30, 20) == pytest.approx(0.2538, abs=0.002)


def test_what_the_header_says_is_kept(tmp_path, pixels):
    cards = {"FILTER": "SDSS r' 1234", "EXPTIME": 120.0, "DATE-OBS": "2024-03-01T04:05:06", "AIRMASS": 1.3}
    cards |= {"BUNIT": "electron", "SATURATE": 530.0, "VISIT": 77}
    path = tmp_path / "image.fits.gz"
    fits.PrimaryHDU(pixels, header(**cards)).writeto(path)
    image = read_generic(path)
    assert (image.band, image.physical_filter, image.unit) == ("r", "generic_r", "electron")
    begin = Time("2024-03-01T04:05:06", scale="utc").tai.mjd
    assert midpoint_mjd_tai(image) == pytest.approx(begin + 60.0 / 86400, abs=1e-9)
    assert image.obs_info.visit_id == 77
    np.testing.assert_array_equal(image.mask.get("SATURATED"), pixels >= 530)
    assert 0 < image.mask.get("SATURATED").sum() < 50
    assert image.metadata["timeKnown"]
    assert not has_psf(image)


def test_an_image_that_says_nothing_still_has_a_name(tmp_path, pixels):
    path = tmp_path / "image.fits"
    fits.PrimaryHDU(pixels, header()).writeto(path)
    image, record = read_generic(path), read_record(path)
    assert (image.band, image.unit, image.metadata["timeKnown"]) == ("unknown", "adu", False)
    assert record.visit == image.obs_info.visit_id
    assert 0 < record.visit < INSTRUMENT.visit_max
    assert record.physical_filter in INSTRUMENT.filters


def test_noise_is_scatter_plus_poisson(tmp_path):
    rng = np.random.default_rng(11)
    signal = np.zeros((200, 200))
    signal[80:84, 80:84] = 40_000.0
    pixels = signal + 1000.0 + np.linspace(0, 20, 200) + rng.normal(0, 8.0, signal.shape)
    path = tmp_path / "image.fits"
    fits.PrimaryHDU(pixels.astype(np.float32), header(GAIN=2.0)).writeto(path)
    variance = read_generic(path).variance.array
    assert np.sqrt(np.min(variance)) == pytest.approx(8.0, rel=0.03)
    assert np.median(variance[80:84, 80:84]) == pytest.approx(64 + 40_000 / 2.0, rel=0.01)


def test_companion_extensions_are_used(tmp_path, pixels):
    mask = np.zeros(SHAPE, np.int16)
    mask[4, 5] = 3
    weight = np.full(SHAPE, 0.25, np.float32)
    weight[7] = 0.0
    path = tmp_path / "image.fits"
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(mask, name="DQ"), fits.ImageHDU(weight, name="IVAR")]
    hdus.insert(1, fits.ImageHDU(pixels, header(), name="SCI"))
    fits.HDUList(hdus).writeto(path)
    image = read_generic(path)
    np.testing.assert_array_equal(image.mask.get("BAD"), mask != 0)
    np.testing.assert_array_equal(image.variance.array[8:], np.float32(4.0))
    assert image.mask.get("NO_DATA")[7].all()
    assert not image.mask.get("NO_DATA")[8:].any()
    assert np.isinf(image.variance.array[7]).all()


def test_arguments_win_over_extensions(tmp_path, pixels):
    path = tmp_path / "image.fits"
    hdus = [fits.PrimaryHDU(pixels, header()), fits.ImageHDU(np.full(SHAPE, 3.0, np.float32), name="ERR")]
    fits.HDUList(hdus).writeto(path)
    assert (read_generic(path).variance.array == 9.0).all()
    y, x = np.mgrid[-5:6, -5:6]
    stamp = np.exp(-(x**2 + y**2) / 5.0)
    mask = np.zeros(SHAPE, bool)
    mask[1, 2] = True
    image = read_generic(path, mask=mask, variance=np.full(SHAPE, 16.0), psf=stamp)
    assert (image.variance.array == 16.0).all()
    np.testing.assert_array_equal(image.mask.get("BAD"), mask)
    np.testing.assert_allclose(psf_stamps(image.psf, [30.0], [20.0])[0], stamp / stamp.sum(), atol=1e-9)
    with pytest.raises(ShapeError, match=r"variance is \(2, 2\)"):
        read_generic(path, variance=np.ones((2, 2)))


def test_pixels_that_are_not_numbers_have_no_data(tmp_path, pixels):
    pixels[3, 4], pixels[5, 6] = np.nan, np.inf
    path = tmp_path / "image.fits"
    fits.PrimaryHDU(pixels, header(GAIN=1.5)).writeto(path)
    image = read_generic(path)
    assert np.argwhere(image.mask.get("NO_DATA")).tolist() == [[3, 4], [5, 6]]
    assert np.isfinite(image.variance.array[~image.mask.get("NO_DATA")]).all()


def test_big_endian_integers_and_idle_axes_are_read(tmp_path):
    cube = np.arange(2400, dtype=">i2").reshape(1, 40, 60)
    path = tmp_path / "image.fits"
    fits.PrimaryHDU(cube, header()).writeto(path)
    np.testing.assert_array_equal(read_generic(path).image.array, cube[0].astype(np.float32))


def test_the_largest_integer_is_saturated(tmp_path):
    counts = np.full((20, 30), 500, np.uint16)
    counts[4:7, 5:8], counts[10, 10] = 65_535, 65_534
    for name, array in (("integers", counts), ("floats", counts.astype(np.float32))):
        fits.PrimaryHDU(array, header()).writeto(tmp_path / f"{name}.fits")
    image = read_generic(tmp_path / "integers.fits")
    assert image.mask.get("SATURATED")[4:7, 5:8].all()
    assert image.mask.get("SATURATED").sum() == 9
    assert not read_generic(tmp_path / "floats.fits").mask.get("SATURATED").any()


def test_refusals_name_the_file_and_say_what_to_do(tmp_path, pixels):
    path = tmp_path / "image.fits"
    with pytest.raises(MissingData, match=r"image\.fits is missing"):
        read_generic(path)
    fits.PrimaryHDU(pixels).writeto(path)
    with pytest.raises(BadInput, match="no celestial WCS") as caught:
        read_generic(path)
    assert "astrometry" in caught.value.hint
    fits.PrimaryHDU(np.full_like(pixels, np.nan), header()).writeto(path, overwrite=True)
    with pytest.raises(AllMasked, match=r"image\.fits"):
        read_generic(path)
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([fits.Column("a", "J", array=[1])])]).writeto(
        path, overwrite=True
    )
    with pytest.raises(BadInput, match="no two-dimensional image"):
        read_generic(path)
    fits.PrimaryHDU(pixels, header()).writeto(path, overwrite=True)
    path.write_bytes(path.read_bytes()[:6000])
    with pytest.raises(CorruptFile, match=r"image\.fits"):
        read_generic(path)
    path.write_text("not a FITS file at all")
    with pytest.raises(CorruptFile, match=r"image\.fits"):
        read_generic(path)
