"""Raws of the Rubin Observatory's cameras: geometry from headers; tables of crosstalk and defects."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.time import Time
from lsst.images import Box

from nightlab.data.ingest import ingest
from nightlab.data.instruments import instrument
from nightlab.data.instruments.lsstcam import AMPLIFIERS, assembled_box, read_crosstalk, read_defects, segments
from nightlab.data.locate import data_set
from nightlab.data.repository import make_repository
from nightlab.errors import BadInput, CorruptFile, MissingData
from nightlab.images.wcs import pixel_to_radec
from nightlab.stages.single_frame.crosstalk import crosstalk_matrices
from nightlab.stages.single_frame.isr import Calibrations, IsrConfig, defect_mask, remove_signature

WIDTH, HEIGHT, PRESCAN, OVERSCAN = 6, 5, 2, 4
SEGMENTS = [f"Segment1{n}" for n in range(8)] + [f"Segment0{n}" for n in reversed(range(8))]


def write(path, *, truth=None, drop=(), mend=(), **cards):
    """Write a raw frame of a small CCD of sixteen segments, those below flipped along x, those above along both."""
    facts = {"INSTRUME": "lsstCam", "DAYOBS": "20190322", "SEQNUM": 2, "CONTRLLR": "C", "RAFTBAY": "R22",
             "CCDSLOT": "S11", "IMGTYPE": "FLAT", "TESTTYPE": "FLAT", "EXPTIME": 3.0, "MJD-OBS": 58564.64654981485,
             "FILTER": "SDSSi", "FILTER2": "empty", "CCDGAIN": 1.0, "CCDNOISE": 10.0,
             "LSST_NUM": "ITL-3800C-207", "DETSIZE": f"[1:{8 * WIDTH},1:{2 * HEIGHT}]"}  # fmt: skip
    header = fits.Header({key: value for key, value in (facts | cards).items() if key not in drop})
    truth = np.arange(2 * HEIGHT * 8 * WIDTH, dtype=float).reshape(2 * HEIGHT, 8 * WIDTH) if truth is None else truth
    hdus = [fits.PrimaryHDU(header=header)]
    for name in SEGMENTS:
        top, column = name[-2] == "0", int(name[-1])
        x0, y0 = column * WIDTH, HEIGHT if top else 0
        light = truth[y0 : y0 + HEIGHT, x0 : x0 + WIDTH][:: -1 if top else 1, ::-1]
        pixels = np.full((HEIGHT + 3, PRESCAN + WIDTH + OVERSCAN), 1000.0 + column, np.float32)
        pixels[:HEIGHT, PRESCAN : PRESCAN + WIDTH] += light
        hdu = fits.ImageHDU(pixels, name=name)
        along_y = f"{2 * HEIGHT}:{HEIGHT + 1}" if top else f"1:{HEIGHT}"
        hdu.header.update(
            DATASEC=f"[{PRESCAN + 1}:{PRESCAN + WIDTH},1:{HEIGHT}]", DETSEC=f"[{x0 + WIDTH}:{x0 + 1},{along_y}]"
        )
        hdus.append(hdu)
    for number, key, value in mend:
        hdus[number].header[key] = value
    fits.HDUList(hdus).writeto(path)
    return path


def real(name="lsst-raw-headers-and-calibs"):
    try:
        return data_set(name)
    except MissingData as error:
        pytest.skip(str(error))


def test_segments_are_put_together_as_they_were(tmp_path):
    image = instrument("LSSTCam").read_raw(write(tmp_path / "raw.fits"))
    assert [a.name for a in image.detector.amplifiers] == list(AMPLIFIERS)
    assert image.bbox == Box.from_shape((2 * (HEIGHT + 3), 8 * (PRESCAN + WIDTH + OVERSCAN)))
    assert image.detector.bbox == Box.from_shape((2 * HEIGHT, 8 * WIDTH))
    frame = remove_signature(image, Calibrations(), IsrConfig(max_read_noise=1e9))
    truth = np.arange(2 * HEIGHT * 8 * WIDTH).reshape(2 * HEIGHT, 8 * WIDTH)
    np.testing.assert_allclose(frame.pixels, truth)


def test_overscans_surround_the_light(tmp_path):
    amplifier = instrument("LSSTCam").read_raw(write(tmp_path / "raw.fits")).detector.amplifiers[9]
    geometry = amplifier.assembled_raw_geometry
    assert amplifier.name == "C06"
    y, x = HEIGHT + 3, 6 * (PRESCAN + WIDTH + OVERSCAN)
    assert geometry.data_bbox == Box.factory[y : y + HEIGHT, x + PRESCAN : x + PRESCAN + WIDTH]
    assert (
        geometry.serial_overscan_bbox
        == Box.factory[y : y + HEIGHT, x + PRESCAN + WIDTH : x + PRESCAN + WIDTH + OVERSCAN]
    )
    assert (
        geometry.parallel_overscan_bbox == Box.factory[y + HEIGHT : y + HEIGHT + 3, x + PRESCAN : x + PRESCAN + WIDTH]
    )
    assert (geometry.flip_x, geometry.flip_y) == (True, True)


def test_a_record_has_the_numbers_of_the_observatory(tmp_path):
    record = instrument("LSSTCam").read_record(write(tmp_path / "raw.fits"))
    assert (record.exposure, record.visit, record.detector) == (3019032200002, 19032220002, 94)
    assert (record.physical_filter, record.observation_type, record.sequence) == ("SDSSi", "flat", 2)
    assert record.mjd_begin == pytest.approx(Time(58564.64654981485, format="mjd", scale="utc").tai.mjd, abs=1e-9)
    assert record.day_obs == 20190322
    own = instrument("LSSTCam").read_record(
        write(tmp_path / "own.fits", CONTRLLR="O", TIMESYS="TAI", FILTER2="ND_OD0.5")
    )
    assert (own.exposure, own.visit, own.mjd_begin) == (2019032200002, 19032200002, 58564.64654981485)
    assert own.physical_filter == "SDSSi~ND_OD0.5"


@pytest.mark.parametrize(("word", "kind"), [("BIAS", "bias"), ("DARK", "dark"), ("FLAT", "flat"), (None, "unknown")])
def test_what_does_not_see_the_sky_is_no_visit(tmp_path, word, kind):
    path = write(tmp_path / "raw.fits", IMGTYPE=word, drop=() if word else ("IMGTYPE",))
    butler = make_repository(tmp_path / "repo", "LSSTCam")
    (ref,) = ingest(butler, "LSSTCam", [path])
    (exposure,) = butler.query_dimension_records("exposure", instrument="LSSTCam")
    assert (exposure.observation_type, exposure.can_see_sky) == (kind, False)
    assert not butler.query_dimension_records("visit", instrument="LSSTCam", explain=False)
    assert butler.get(ref).metadata["nominalGain"]


def test_frames_of_the_sky_are_read_where_one_ccd_looks_along_the_axis(tmp_path):
    sky = {"IMGTYPE": "OBJECT", "RA": 30.0, "DEC": -20.0, "ROTPA": 45.0, "AMSTART": 1.3, "FILTER": "SDSSr_65mm"}
    path = write(tmp_path / "raw.fits", INSTRUME="LATISS", **sky)
    image, record = instrument("LATISS").read_raw(path), instrument("LATISS").read_record(path)
    centre = pixel_to_radec(image.sky_projection, image.detector.bbox.x.center, image.detector.bbox.y.center)
    np.testing.assert_allclose(centre, [30.0, -20.0], atol=1e-9)
    assert (image.band, record.sees_sky, record.airmass) == ("r", True, 1.3)
    # whatever the rotation, the frame lies inside
    assert np.ptp(record.corners[:, 1]) > 0.19
    many = write(tmp_path / "many.fits", **sky)
    assert np.ptp(instrument("LSSTCam").read_record(many).corners[:, 1]) > 3.5
    with pytest.raises(BadInput, match="a frame of the sky"):
        instrument("LSSTCam").read_raw(many)


@pytest.mark.parametrize(
    ("cards", "word"),
    [
        ({"INSTRUME": "COMCAM"}, "is of COMCAM, not of LSSTCam"),
        ({"CCDSLOT": "S33"}, "CCD R22_S33"),
        ({"CONTRLLR": "Z"}, "controller 'Z'"),
        ({"SEQNUM": 20_000}, "number 20000"),
        ({"mend": [(3, "DETSEC", "[12:7,1:5]")]}, "overlap or leave gaps"),
        ({"mend": [(3, "DETSEC", "[18:14,1:5]")]}, "must be of one size"),
        ({"mend": [(3, "DETSEC", "nowhere")]}, "no image section"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, cards, word):
    with pytest.raises(BadInput, match=word):
        instrument("LSSTCam").read_raw(write(tmp_path / "raw.fits", **cards))


def test_damaged_files_are_named(tmp_path):
    with pytest.raises(CorruptFile, match="SEQNUM"):
        instrument("LSSTCam").read_record(write(tmp_path / "lacking.fits", drop=("SEQNUM",)))
    path = write(tmp_path / "short.fits")
    whole = path.read_bytes()
    # within the data of a segment; and between two, which astropy takes for the end of a file
    for keep, word in ((50_000, r"short\.fits"), (2880 + 6 * 5760, "its segments fill")):
        path.write_bytes(whole[:keep])
        with pytest.raises(CorruptFile, match=word):
            instrument("LSSTCam").read_raw(path)
    fits.PrimaryHDU(header=fits.getheader(tmp_path / "lacking.fits") + fits.Header({"SEQNUM": 3})).writeto(
        tmp_path / "none.fits"
    )
    with pytest.raises(BadInput, match="0 segments"):
        instrument("LSSTCam").read_raw(tmp_path / "none.fits")


def test_detectors_are_numbered_as_the_observatory_does():
    names = {record.full_name: record for record in instrument("LSSTCam").detectors}
    assert len(names) == 205
    assert {name: names[name].id for name in ("R01_S00", "R10_S02", "R22_S21", "R43_S22", "R00_SG0", "R44_SW1")} == {
        "R01_S00": 0, "R10_S02": 29, "R22_S21": 97, "R43_S22": 188, "R00_SG0": 189, "R44_SW1": 204
    }  # fmt: skip
    assert (names["R00_SG0"].purpose, names["R44_SW1"].purpose) == ("GUIDE", "WAVEFRONT")
    assert len(instrument("LSSTComCam").detectors) == 9


def write_crosstalk(path, unit, *, gains=True, ratios=True, obstype="CROSSTALK", namp=16):
    rng = np.random.default_rng(4)
    linear, quadratic = rng.normal(1e-4, 1e-5, (16, 16)), rng.normal(-2e-10, 1e-11, (16, 16))
    gain = rng.uniform(0.8, 2.0, 16)
    valid = np.ones((16, 16), bool)
    valid[3, 5] = False
    linear[2, 9] = np.nan
    table = Table({"CT_COEFFS": [linear.ravel()], "CT_ERRORS": [np.full(256, 1e-6)], "CT_VALID": [valid.ravel()],
                   "CT_COEFFS_SQR": [quadratic.ravel()]})  # fmt: skip
    if gains:
        table["CT_FIT_GAINS"] = [gain]
    if ratios:
        table["CT_AMP_GAIN_RATIOS"] = [(gain[None, :] / gain[:, None]).ravel()]
    table.meta = {"OBSTYPE": obstype, "NAMP": namp, "CROSSTALK_RATIOS_UNITS": unit, "DETECTOR": 94}
    table.write(path, format="ascii.ecsv")
    linear[3, 5] = linear[2, 9] = quadratic[3, 5] = quadratic[2, 9] = 0.0
    return linear, quadratic, gain


def test_crosstalk_in_adu_is_taken_as_it_is(tmp_path):
    linear, quadratic, _ = write_crosstalk(tmp_path / "x.ecsv", "adu")
    found = crosstalk_matrices(read_crosstalk(tmp_path / "x.ecsv"), AMPLIFIERS)
    off = ~np.eye(16, dtype=bool)
    np.testing.assert_allclose(found[0], np.where(off, linear, 0.0))
    np.testing.assert_allclose(found[1], np.where(off, quadratic, 0.0))


@pytest.mark.parametrize("given", [False, True])
def test_crosstalk_in_electrons_gives_the_same_ghosts_in_adu(tmp_path, given):
    linear, quadratic, gain = write_crosstalk(tmp_path / "x.ecsv", "electron", gains=not given)
    table = read_crosstalk(tmp_path / "x.ecsv", dict(zip(AMPLIFIERS, gain, strict=True)) if given else None)
    found = crosstalk_matrices(table, AMPLIFIERS)
    signal = np.random.default_rng(5).uniform(1e3, 1e5, 16)  # adu
    off = ~np.eye(16, dtype=bool)
    electrons = signal * gain
    ghosts = (linear * off) @ electrons + (quadratic * off) @ electrons**2
    np.testing.assert_allclose(found[0] @ signal + found[1] @ signal**2, ghosts / gain, rtol=1e-10)
    assert table["quadratic"].unit == "1 / adu"


def test_ratios_of_gains_suffice_for_the_linear_part(tmp_path):
    linear, _, gain = write_crosstalk(tmp_path / "x.ecsv", "electron", gains=False)
    table = read_crosstalk(tmp_path / "x.ecsv")
    assert "quadratic" not in table.colnames
    row = table[(table["victim"] == "C11") & (table["source"] == "C03")]
    at = AMPLIFIERS.index("C11"), AMPLIFIERS.index("C03")
    assert row["linear"][0] == pytest.approx(linear[at] * gain[at[1]] / gain[at[0]])


def test_tables_that_do_not_serve_are_refused(tmp_path):
    write_crosstalk(tmp_path / "bare.ecsv", "electron", gains=False, ratios=False)
    with pytest.raises(BadInput, match="neither gains nor their ratios"):
        read_crosstalk(tmp_path / "bare.ecsv")
    with pytest.raises(BadInput, match="no positive gain of C11"):
        read_crosstalk(tmp_path / "bare.ecsv", {name: float(name != "C11") for name in AMPLIFIERS})
    write_crosstalk(tmp_path / "volt.ecsv", "volt")
    with pytest.raises(BadInput, match="'volt'"):
        read_crosstalk(tmp_path / "volt.ecsv")
    write_crosstalk(tmp_path / "eight.ecsv", "adu", namp=8)
    with pytest.raises(BadInput, match="for 8 amplifiers"):
        read_crosstalk(tmp_path / "eight.ecsv")
    write_crosstalk(tmp_path / "other.ecsv", "adu", obstype="LINEARIZER")
    for reader in (read_crosstalk, read_defects):
        with pytest.raises(BadInput, match="holds LINEARIZER"):
            reader(tmp_path / "other.ecsv")
        with pytest.raises(MissingData, match="is missing"):
            reader(tmp_path / "none.ecsv")
        (tmp_path / "text.ecsv").write_text("no table at all\n")
        with pytest.raises(CorruptFile, match="no ECSV table"):
            reader(tmp_path / "text.ecsv")


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize(
    ("camera", "folder", "count", "kinds"),
    [
        ("LSSTCam", "lsstCam", 4, {"bias", "flat"}),
        ("LSSTComCam", "comCam", 1, {"bias"}),
        ("LATISS", "latiss", 1, {"unknown"}),
    ],
)
def test_real_raws_have_sixteen_amplifiers_that_fill_the_ccd(camera, folder, count, kinds):
    paths = sorted((real() / "raw" / folder).rglob("*.fits"))
    assert len(paths) == count
    found = set()
    for path in paths:
        record, image = instrument(camera).read_record(path), instrument(camera).read_raw(path)
        found.add(record.observation_type)
        # file and folder are called so by the observatory's own software
        assert record.detector == int(path.stem.split("det")[1])
        header = fits.getheader(path)
        assert record.day_obs == int(header["DAYOBS"])
        sides = header["DETSIZE"].strip("[]").split(",")
        assert image.detector.bbox == Box.from_shape((int(sides[1].split(":")[1]), int(sides[0].split(":")[1])))
        assert len(image.detector.amplifiers) == 16
        for amplifier in image.detector.amplifiers:
            geometry = amplifier.assembled_raw_geometry
            assert geometry.bbox.contains(geometry.data_bbox)
            assert geometry.serial_overscan_bbox.x.start == geometry.data_bbox.x.stop
    assert found == kinds


@pytest.mark.real_data
def test_segments_of_test_stands_are_laid_out_by_the_same_code():
    for path in sorted((real() / "raw/ts3").rglob("*.fits")):
        with fits.open(path) as hdus:
            amplifiers, pixels = segments(hdus, 1.0, 10.0)
            bias = hdus[1].header["BIASSEC"]
            width, height = hdus[1].header["NAXIS1"], hdus[1].header["NAXIS2"]
        assert pixels.shape == (2 * height, 8 * width)
        assert assembled_box(amplifiers).shape in ((4000, 4072), (4004, 4096))
        # their first segment is at the top left
        serial = amplifiers[0].assembled_raw_geometry.serial_overscan_bbox
        assert f"[{serial.x.start + 1}:{serial.x.stop},{serial.y.start - height + 1}:{serial.y.stop - height}]" == bias


@pytest.mark.real_data
def test_real_crosstalk_is_strongest_between_neighbours():
    paths = sorted((real() / "calib").glob("*/crosstalk/*/*.ecsv"))
    assert len(paths) == 5
    for path in paths:
        table = read_crosstalk(path)
        linear, quadratic = crosstalk_matrices(table, AMPLIFIERS)
        neighbours = [linear[k, k + 1] for k in range(15) if k != 7] + [linear[k + 1, k] for k in range(15) if k != 7]
        far = [linear[a, b] for a in range(8) for b in range(8) if abs(a - b) > 3]
        assert 5e-5 < np.median(neighbours) < 4e-4
        assert np.abs(np.median(far)) < 2e-5
        assert ("quadratic" in table.colnames) == ("lsstCam" in str(path))
        assert np.abs(quadratic).max() < 1e-8


@pytest.mark.real_data
def test_real_defects_cover_a_segment():
    table = read_defects(real() / "calib/latiss/defects/rxx_s00/20180101T000000.ecsv")
    where = defect_mask(table, Box.from_shape((4000, 4072)))
    assert where.sum() == 509 * 2000
    assert where[:2000, 3562:4071].all()
