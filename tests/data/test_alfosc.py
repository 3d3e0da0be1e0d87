"""ALFOSC and STE3 raws, and a raw camera that starts from nothing: biases and flats in, calibrations out."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.time import Time
from astropy.wcs import WCS
from lsst.daf.butler import DatasetNotFoundError, Timespan
from lsst.images import Box

from nightlab.data.ingest import certify, ingest
from nightlab.data.instruments import alfosc, instrument, saao
from nightlab.data.instruments.frames import section
from nightlab.data.locate import data_set
from nightlab.data.repository import make_repository
from nightlab.errors import BadInput, CorruptFile, MissingData
from nightlab.images.wcs import pixel_to_radec
from nightlab.stages.single_frame.builders import BuildConfig, build_bias, build_flat
from nightlab.stages.single_frame.isr import Calibrations, IsrConfig, needs_isr, overscan_noise, remove_signature
from nightlab.stages.single_frame.overscan import ParallelOverscanConfig

ISR = IsrConfig(parallel_overscan=ParallelOverscanConfig(method="median"))
CONFIG = BuildConfig(isr=ISR)
GAIN, READ_NOISE, LEVEL = 0.5, 4.0, 900.0
WINDOW, BINNING = "[101:140, 2001:2102]", (1, 2)
SHAPE = (51, 40)


def write_alfosc(path, signal, *, seed=0, drop=(), **cards):
    """Write a window at the top of the chip: rows 1000 to 1025 of the binned chip see light, 1034 to 1046 do not."""
    rng = np.random.default_rng(seed)
    electrons = np.zeros(SHAPE)
    electrons[:26] = signal
    adu = LEVEL + (rng.poisson(electrons) + rng.normal(0.0, READ_NOISE, SHAPE)) / GAIN
    adu[2, 3] = -7.0
    primary = fits.PrimaryHDU()
    facts = {"INSTRUME": "ALFOSC_FASU", "DATE-OBS": "2024-05-06T02:03:04.5", "EXPTIME": 10.0, "IMAGETYP": "OBJECT",
             "FILENAME": "ALHe050012.fits", "RA": 150.0, "DEC": 20.0, "AIRMASS": 1.2, "DETXBIN": BINNING[0],
             "DETYBIN": BINNING[1], "DETWIN1": WINDOW, "ALGRNM": "Open_(Lyot)", "FAFLTNM": "Open",
             "FBFLTNM": "r'_SDSS 618_148", "ALFLTNM": "Open", "AMPLMODE": "D"}  # fmt: skip
    facts |= cards
    image = fits.ImageHDU(np.rint(adu).astype(np.int32).view(np.uint32), name="im1")
    image.header.update(GAIN=GAIN, RDNOISE=READ_NOISE, CCDNAME="CCD14", CTYPE1="X", CTYPE2="Y")
    for key, value in facts.items():
        if key not in drop:
            primary.header[key] = value
    for key in drop:
        image.header.remove(key, ignore_missing=True)
    fits.HDUList([primary, image]).writeto(path)
    return path


def real(name):
    try:
        return data_set(name)
    except MissingData as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("text", "box", "flips"),
    [
        ("[1:3,4:4]", Box.factory[3:4, 0:3], (False, False)),
        ("[ 17: 528,   1: 520]", Box.factory[0:520, 16:528], (False, False)),
        ("[509:1,4000:2001]", Box.factory[2000:4000, 0:509], (True, True)),
    ],
)
def test_sections_count_from_one_and_may_run_backwards(text, box, flips):
    assert section(text) == (box, *flips)
    with pytest.raises(BadInput, match="no image section"):
        section(text[1:])


def test_a_window_keeps_its_place_on_the_binned_chip(tmp_path):
    image = alfosc.read_raw(write_alfosc(tmp_path / "ALHe050012.fits", 1000.0))
    assert image.bbox == Box.factory[1000:1051, 100:140]
    assert image.detector.bbox == Box.factory[1000:1026, 100:140]
    (amplifier,) = image.detector.amplifiers
    geometry = amplifier.assembled_raw_geometry
    assert geometry.parallel_overscan_bbox == Box.factory[1034:1047, 100:140]
    assert not geometry.bbox.contains(geometry.serial_overscan_bbox)
    assert needs_isr(image)
    assert overscan_noise(image, ISR)["D"] == pytest.approx(READ_NOISE, rel=0.1)
    frame = remove_signature(image, Calibrations(), ISR)
    assert (frame.y0, frame.x0) == (1000, 100)
    assert np.median(frame.pixels) == pytest.approx(1000.0, abs=3.0)


def test_numbers_below_zero_come_back_from_their_wrap(tmp_path):
    image = alfosc.read_raw(write_alfosc(tmp_path / "ALHe050012.fits", 0.0))
    assert image.image.array[2, 3] == -7.0
    assert image.image.array.max() < 2000


def test_a_science_frame_has_a_filter_a_time_and_a_pointing(tmp_path):
    path = write_alfosc(tmp_path / "ALHe050012.fits", 10.0)
    record, image = alfosc.read_record(path), alfosc.read_raw(path)
    assert (record.exposure, record.sequence, record.day_obs) == (2405050012, 12, 20240505)
    assert (record.physical_filter, image.band, record.observation_type) == ("alfosc_r", "r", "science")
    begin = Time("2024-05-06T02:03:04.5", scale="utc").tai.mjd
    assert record.mjd_begin == pytest.approx(begin, abs=1e-10)
    assert record.mjd_end == pytest.approx(begin + 10.0 / 86400, abs=1e-10)
    assert image.metadata["nominalWcs"]
    middle = pixel_to_radec(image.sky_projection, image.detector.bbox.x.center, image.detector.bbox.y.center)
    np.testing.assert_allclose(middle, [150.0, 20.0], atol=1e-10)
    # binned pixels are twice as high as they are wide
    ra, dec = record.corners.T
    assert np.ptp(dec) * 3600 == pytest.approx(26 * 2 * alfosc.PIXEL_SCALE, rel=1e-4)
    assert np.ptp(ra) * np.cos(np.deg2rad(20)) * 3600 == pytest.approx(40 * alfosc.PIXEL_SCALE, rel=1e-4)


def test_a_wcs_of_the_header_is_used_at_the_place_of_the_window(tmp_path):
    path = write_alfosc(tmp_path / "ALHe050012.fits", 10.0)
    with fits.open(path, mode="update") as hdus:
        hdus[1].header.update(CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRVAL1=150.1, CRVAL2=20.1, CRPIX1=5.0,
                              CRPIX2=7.0, CD1_1=-6e-5, CD1_2=0.0, CD2_1=1e-6, CD2_2=1.2e-4, CUNIT1="deg",
                              CUNIT2="deg")  # fmt: skip
    image = alfosc.read_raw(path)
    assert not image.metadata["nominalWcs"]
    x, y = np.array([0.0, 20.0, 39.0]), np.array([0.0, 25.0, 3.0])
    expected = WCS(fits.getheader(path, 1)).all_pix2world(x, y, 0)
    np.testing.assert_allclose(pixel_to_radec(image.sky_projection, x + 100, y + 1000), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("cards", "name"),
    [
        ({"FBFLTNM": "Open"}, "alfosc_open"),
        ({"ALGRNM": "Grism_#4"}, "alfosc_grism4"),
        ({"FBFLTNM": "V_Bes 530_80"}, "alfosc_V"),
        ({"FBFLTNM": "i_int 797_157"}, "alfosc_i"),
        ({"FBFLTNM": "H_alpha 656_3"}, "alfosc_other"),
        ({"FAFLTNM": "WG345 356_LP"}, "alfosc_other"),
    ],
)
def test_what_is_in_the_beam_names_the_filter(tmp_path, cards, name):
    record = alfosc.read_record(write_alfosc(tmp_path / "ALHe050012.fits", 10.0, **cards))
    assert record.physical_filter == name
    assert name in alfosc.INSTRUMENT.filters


@pytest.mark.parametrize(
    ("word", "kind"),
    [("BIAS", "bias"), ("FLAT,LAMP", "flat"), ("FLAT,SKY", "flat"), ("WAVE,LAMP", "arc"), ("DARK", "dark")],
)
def test_what_does_not_see_the_sky_has_no_place_on_it(tmp_path, word, kind):
    record = alfosc.read_record(write_alfosc(tmp_path / "ALHe050012.fits", 10.0, IMAGETYP=word, drop=("RA", "DEC")))
    assert record.observation_type == kind
    assert not record.sees_sky
    assert record.corners.shape == (0, 2)
    assert np.isnan([record.ra, record.dec]).all()
    image = alfosc.read_raw(tmp_path / "ALHe050012.fits")
    assert image.obs_info.observation_type == kind
    assert image.obs_info.tracking_radec is None


def test_refusals_say_what_is_wrong(tmp_path):
    with pytest.raises(MissingData, match=r"none\.fits is missing"):
        alfosc.read_raw(tmp_path / "none.fits")
    other = write_alfosc(tmp_path / "other.fits", 1.0, INSTRUME="FIES")
    for reader in (alfosc.read_raw, alfosc.read_record):
        with pytest.raises(BadInput, match="is of FIES, not of ALFOSC"):
            reader(other)
    nameless = write_alfosc(tmp_path / "nameless.fits", 1.0, drop=("FILENAME",))
    with pytest.raises(BadInput, match="has no FILENAME"):
        alfosc.read_record(nameless)
    timeless = write_alfosc(tmp_path / "timeless.fits", 1.0, drop=("DATE-OBS",))
    with pytest.raises(CorruptFile, match="DATE-OBS"):
        alfosc.read_record(timeless)
    cut = write_alfosc(tmp_path / "cut.fits", 1.0, DETWIN1="[101:150, 2001:2102]")
    with pytest.raises(BadInput, match=r"does not have the \(51, 40\) pixels"):
        alfosc.read_raw(cut)
    short = tmp_path / "short.fits"
    short.write_bytes(cut.read_bytes()[:7000])
    with pytest.raises(CorruptFile, match=r"short\.fits"):
        alfosc.read_raw(short)


def ingested(tmp_path, paths):
    butler = make_repository(tmp_path / "repo", "ALFOSC")
    ingest(butler, "ALFOSC", paths)
    return butler


def raws_of(butler, kind):
    """Read the raws of one type of observation back, in order of time."""
    records = [
        r for r in butler.query_dimension_records("exposure", instrument="ALFOSC") if r.observation_type == kind
    ]
    return [
        butler.get("raw", instrument="ALFOSC", exposure=record.id, detector=0, collections="ALFOSC/raw")
        for record in sorted(records, key=lambda record: record.id)
    ], records


def test_only_what_sees_the_sky_is_a_visit(tmp_path):
    paths = [
        write_alfosc(tmp_path / "ALHe050001.fits", 0.0, FILENAME="ALHe050001.fits", IMAGETYP="BIAS", EXPTIME=0.0),
        write_alfosc(tmp_path / "ALHe050002.fits", 9.0, FILENAME="ALHe050002.fits"),
    ]
    butler = ingested(tmp_path, paths)
    assert ingest(butler, "ALFOSC", paths) == []
    bias, science = sorted(butler.query_dimension_records("exposure", instrument="ALFOSC"), key=lambda r: r.id)
    assert (bias.observation_type, bias.can_see_sky, bias.tracking_ra) == ("bias", False, None)
    assert (science.observation_type, science.can_see_sky, science.tracking_ra) == ("science", True, 150.0)
    # a span of no length would overlap nothing
    assert not bias.timespan.isEmpty()
    for element in ("visit", "visit_definition", "visit_detector_region"):
        (record,) = butler.query_dimension_records(element, instrument="ALFOSC")
        assert getattr(record, "visit", getattr(record, "id", None)) == science.id


def test_a_frame_of_the_sky_without_a_place_is_refused(tmp_path, monkeypatch):
    path = write_alfosc(tmp_path / "ALHe050012.fits", 9.0)
    nowhere = alfosc.RawRecord(**(vars(alfosc.read_record(path)) | {"corners": np.full((4, 2), np.nan)}))
    monkeypatch.setattr("nightlab.data.ingest.instrument_named", lambda _: replace_reader(nowhere))
    butler = make_repository(tmp_path / "repo", "ALFOSC")
    with pytest.raises(BadInput, match="does not say where"):
        ingest(butler, "ALFOSC", [path])


def replace_reader(record):
    facts = vars(alfosc.INSTRUMENT) | {"read_record": lambda _: record}
    return type(alfosc.INSTRUMENT)(**facts)


def start_from_nothing(butler):
    """Build bias and flat from what is ingested, certify both around their frames, and give the span."""
    biases, records = raws_of(butler, "bias")
    flats, lamp_records = raws_of(butler, "flat")
    bias = build_bias(biases, CONFIG)
    flat = build_flat(flats, Calibrations(bias=bias), CONFIG)
    times = [record.timespan.begin.tai.mjd for record in (*records, *lamp_records)]
    span = min(times) - 0.5, max(times) + 0.5
    physical_filter = lamp_records[0].physical_filter
    assert certify(butler, "ALFOSC", "bias", [({"detector": 0}, bias)], span) == 1
    assert certify(butler, "ALFOSC", "flat", [({"detector": 0, "physical_filter": physical_filter}, flat)], span) == 1
    return bias, flat, span, lamp_records[0]


def check_found(butler, bias, flat, span, lamp):
    """Find the calibrations by the time of an exposure: inside the span, not outside."""
    of = {"instrument": "ALFOSC", "detector": 0, "collections": "ALFOSC/calib"}
    np.testing.assert_array_equal(butler.get("bias", exposure=lamp.id, **of).array, bias.array)
    np.testing.assert_array_equal(butler.get("flat", exposure=lamp.id, **of).array, flat.array)
    assert butler.get("bias", exposure=lamp.id, **of).bbox == bias.bbox
    for moment, there in ((span[0] + 1e-3, 1), (span[1] - 1e-3, 1), (span[0] - 1.0, 0), (span[1] + 1.0, 0)):
        timespan = Timespan(*(Time(moment + after, format="mjd", scale="tai") for after in (0.0, 1e-4)))
        for name, more in (("bias", {}), ("flat", {"physical_filter": lamp.physical_filter})):
            assert (butler.find_dataset(name, timespan=timespan, **of, **more) is not None) == there


def test_a_camera_starts_from_nothing(tmp_path):
    pattern = 1.0 + 0.1 * np.sin(np.arange(SHAPE[1]) / 3.0)
    paths = [
        write_alfosc(tmp_path / f"ALHe0500{n}.fits", 0.0, seed=n, FILENAME=f"ALHe0500{n}.fits", IMAGETYP="BIAS",
                     EXPTIME=0.0, **{"DATE-OBS": f"2024-05-05T18:{n}:00"})
        for n in range(10, 15)
    ]  # fmt: skip
    paths += [
        write_alfosc(tmp_path / f"ALHe0500{n}.fits", 40_000.0 * pattern, seed=n, FILENAME=f"ALHe0500{n}.fits",
                     IMAGETYP="FLAT,LAMP", **{"DATE-OBS": f"2024-05-05T18:{n}:00"})
        for n in range(20, 24)
    ]  # fmt: skip
    later = write_alfosc(tmp_path / "ALHe100001.fits", 9.0, FILENAME="ALHe100001.fits",
                         **{"DATE-OBS": "2024-05-10T23:00:00"})  # fmt: skip
    butler = ingested(tmp_path, [*paths, later])
    bias, flat, span, lamp = start_from_nothing(butler)
    # the pixel that wraps in every frame is what it is
    assert np.std(np.delete(bias.array.ravel(), 2 * SHAPE[1] + 3)) < 3 * READ_NOISE / GAIN / np.sqrt(5)
    np.testing.assert_allclose(np.nanmedian(flat.array, axis=0), pattern / pattern.mean(), rtol=0.01)
    check_found(butler, bias, flat, span, lamp)
    with pytest.raises(DatasetNotFoundError):
        butler.get("bias", instrument="ALFOSC", detector=0, exposure=2405100001, collections="ALFOSC/calib")


@pytest.mark.real_data
def test_the_nordic_optical_telescope_starts_from_nothing(tmp_path):
    folder = real("not-alfosc-raw-ccd")
    butler = ingested(tmp_path, [*folder.glob("bias/*.fits"), *folder.glob("flat/*.fits")])
    assert not butler.query_dimension_records("visit", instrument="ALFOSC", explain=False)
    biases, records = raws_of(butler, "bias")
    assert len(biases) == 6
    assert {record.exposure_time for record in records} == {0.002}
    # one or two pixels of a bias have wrapped
    assert all(1 <= (image.image.array < 0).sum() <= 2 for image in biases)
    # 31.5 adu between pairs of biases, at the gain of the header
    noise = [overscan_noise(image, ISR)["D"] for image in biases]
    np.testing.assert_allclose(noise, 31.5 * 0.16, rtol=0.06)
    bias, flat, span, lamp = start_from_nothing(butler)
    assert lamp.physical_filter == "alfosc_grism4"
    assert bias.bbox == flat.bbox == Box.factory[0:1026, 850:1250]
    assert np.isfinite(flat.array).mean() > 0.999
    assert np.nanmean(flat.array) == pytest.approx(1.0, abs=1e-3)
    check_found(butler, bias, flat, span, lamp)


def write_ste3(path, **cards):
    header = fits.Header()
    header.update({"INSTRUME": "STE3 CCD", "DATE-OBS": "2013-07-13", "UT": "00:57:33", "EXPTIME": 150.04,
                   "FILTERS": 48, "IMAGETYP": "object", "OBJECT": "rf0420", "RA_OBS": 331.0334, "DEC_OBS": -0.9253,
                   "SECZ": 1.176, "TRIMSEC": "[  17: 36,   1: 30]", "BIASSEC": "[   4:  13,   1: 30]", "GAIN": 1.9,
                   "RDNOISE": 5.0})  # fmt: skip
    header.update(cards)
    rng = np.random.default_rng(1)
    pixels = 200.0 + rng.normal(0.0, 5.0 / 1.9, (30, 40))
    pixels[:, 16:36] += 100.0
    fits.PrimaryHDU(np.rint(pixels).astype(np.uint16), header).writeto(path)
    return path


def test_ste3_has_its_overscan_on_the_left(tmp_path):
    path = write_ste3(tmp_path / "a.fits")
    record, image = saao.read_record(path), saao.read_raw(path)
    assert image.detector.bbox == Box.factory[0:30, 16:36]
    assert overscan_noise(image, IsrConfig())["A"] == pytest.approx(5.0, rel=0.15)
    frame = remove_signature(image, Calibrations(), IsrConfig())
    assert np.median(frame.pixels) == pytest.approx(190.0, abs=2.0)
    begin = Time("2013-07-13T00:57:33", scale="utc").tai.mjd
    assert record.mjd_begin == pytest.approx(begin, abs=1e-9)
    assert record.exposure == round(begin * 86400)
    assert (record.physical_filter, image.band, image.metadata["nominalWcs"]) == ("ste3_48", "unknown", True)
    assert saao.read_record(write_ste3(tmp_path / "b.fits", IMAGETYP="zero")).observation_type == "bias"
    with pytest.raises(BadInput, match="not of SAAO-STE3"):
        saao.read_raw(write_ste3(tmp_path / "c.fits", INSTRUME="STE4 CCD"))
    with pytest.raises(CorruptFile, match="could not convert") as caught:
        saao.read_raw(write_ste3(tmp_path / "d.fits", GAIN="none"))
    assert "d.fits" in str(caught.value)


@pytest.mark.real_data
def test_a_real_frame_of_ste3():
    image = instrument("SAAO-STE3").read_raw(real("not-alfosc-raw-ccd") / "saao-raw/a8280271.fits")
    assert image.detector.bbox.shape == (520, 512)
    # the header says 5.0
    assert overscan_noise(image, IsrConfig())["A"] == pytest.approx(5.8, abs=0.3)
    frame = remove_signature(image, Calibrations(), IsrConfig())
    assert np.median(frame.pixels) == pytest.approx(1.9 * (301 - 214), rel=0.05)
