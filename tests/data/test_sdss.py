import gzip

import numpy as np
import pytest
from astropy.coordinates.matrix_utilities import rotation_matrix
from astropy.io import fits

from nightlab.data.instruments.sdss import (
    INSTRUMENT,
    find_frame,
    published_positions,
    read_raw,
    read_record,
)
from nightlab.errors import BadInput, CorruptFile, MissingData
from nightlab.images.build import midpoint_mjd_tai, visit_of
from nightlab.images.psf import psf_stamps
from nightlab.images.wcs import pixel_to_radec


def test_pixels_lose_the_soft_bias_and_keep_the_sky(sdss_field):
    image = read_raw(sdss_field.frame)
    np.testing.assert_array_equal(image.image.array, sdss_field.dn)
    np.testing.assert_allclose(image.variance.array, sdss_field.dn / 4.0 + 2.0, rtol=1e-6)
    assert image.unit == "adu"
    assert image.band == "g"
    assert visit_of(image) == 1234 * 100_000 + 56 * 10 + 1
    assert image.detector.id == 1 + 6 * 4


def test_mask_spans_fill_inclusive_runs_of_columns(sdss_field):
    mask = read_raw(sdss_field.frame).mask
    expected = {name: np.zeros((48, 64), bool) for name in ("INTERPOLATED", "SATURATED", "COSMIC_RAY", "SUSPECT")}
    expected["INTERPOLATED"][3, 5:8] = expected["INTERPOLATED"][0, 63] = expected["INTERPOLATED"][1, 60:] = True
    expected["SATURATED"][10, 20] = expected["SATURATED"][11, 19:22] = True
    expected["COSMIC_RAY"][30, 2:10] = True
    expected["SUSPECT"][40, 40:42] = expected["SUSPECT"][20, 30:33] = True
    expected["DETECTION_EDGE"] = np.zeros((48, 64), bool)
    expected["DETECTION_EDGE"][:, :2] = expected["DETECTION_EDGE"][0] = True
    for name, plane in expected.items():
        np.testing.assert_array_equal(mask.get(name), plane, err_msg=name)


def test_psf_is_the_sum_of_the_components(sdss_field):
    psf = read_raw(sdss_field.frame).psf
    x, y = np.array([0.0, 63.0, 30.0]), np.array([0.0, 10.0, 47.0])
    row, column = (y + 0.5) / 1000, (x + 0.5) / 1000
    stamps = psf_stamps(psf, x, y, centred=True)
    for k in range(3):
        direct = sum(
            image * sum(w[i, j] * row[k] ** i * column[k] ** j for i in range(2) for j in range(3))
            for image, w in zip(sdss_field.images, sdss_field.weights, strict=True)
        )
        np.testing.assert_allclose(stamps[k], direct / direct.sum(), atol=1e-8)


def test_positions_are_the_great_circle_rotated_by_node_and_inclination(sdss_field):
    t = sdss_field.terms
    x, y = np.array([0.0, 63.0, 20.0]), np.array([0.0, 47.0, 5.0])
    row, column = y + 0.5, x + 0.5
    bent = {
        name: old + sum(t[f"d{name}{k}"] * column**k for k in range(4))
        for name, old in (("Row", row), ("Col", column))
    }
    mu = np.deg2rad(t["a"] + t["b"] * bent["Row"] + t["c"] * bent["Col"] - sdss_field.node)
    nu = np.deg2rad(t["d"] + t["e"] * bent["Row"] + t["f"] * bent["Col"])
    circle = np.array([np.cos(mu) * np.cos(nu), np.sin(mu) * np.cos(nu), np.sin(nu)])
    # astropy's matrices rotate the frame; the vector turns the other way
    turn = rotation_matrix(-sdss_field.node, "z", unit="deg") @ rotation_matrix(
        -sdss_field.inclination, "x", unit="deg"
    )
    sky = turn @ circle
    ra, dec = published_positions(find_frame(sdss_field.frame), x, y)
    np.testing.assert_allclose(ra, np.rad2deg(np.arctan2(sky[1], sky[0])) % 360, atol=1e-11)
    np.testing.assert_allclose(dec, np.rad2deg(np.arcsin(sky[2])), atol=1e-11)
    projection = read_raw(sdss_field.frame).sky_projection
    fitted = pixel_to_radec(projection, x, y)
    np.testing.assert_allclose(fitted, [ra, dec], atol=1e-3 / 3.6e6)


def test_zero_point_counts_the_exposure_time_and_the_air(sdss_field):
    facts = read_raw(sdss_field.frame).metadata
    assert facts["zeroPoint"] == pytest.approx(24.5 - 0.2 * 1.25 + 2.5 * np.log10(53.9), abs=1e-5)
    assert facts["gain"] == 4.0
    assert facts["saturation"] == 50000.0


def test_exposure_ends_when_the_middle_row_is_read(sdss_field):
    record = read_record(sdss_field.frame)
    end = (4.6e9 + 24 * 0.026322) / 86400
    assert record.mjd_end == pytest.approx(end, abs=1e-8)
    assert record.mjd_begin == pytest.approx(end - 53.9 / 86400, abs=1e-8)
    image = read_raw(sdss_field.frame)
    assert midpoint_mjd_tai(image) == pytest.approx(end - 26.95 / 86400, abs=1e-8)
    assert record.airmass == pytest.approx(1.25)


def test_record_knows_where_the_frame_lies(sdss_field):
    record = read_record(sdss_field.frame)
    corners = pixel_to_radec(
        read_raw(sdss_field.frame).sky_projection, [-0.5, 63.5, 63.5, -0.5], [-0.5, -0.5, 47.5, 47.5]
    )
    np.testing.assert_allclose(record.corners.T, corners, atol=1e-9)
    # rows run along the great circle, which leaves its node at the inclination
    assert record.rotation == pytest.approx(90.0 - sdss_field.inclination, abs=0.3)


@pytest.mark.parametrize(
    ("what", "word"), [("mask", "mask"), ("psf", "PSF"), ("astrometry", "astrometric"), ("photometry", "photometric")]
)
def test_a_missing_companion_is_named_with_a_remedy(sdss_field, what, word):
    gone = getattr(sdss_field, what)
    gone.unlink()
    with pytest.raises(MissingData, match=word) as caught:
        read_raw(sdss_field.frame)
    assert str(gone.parent) in str(caught.value)
    assert "fetch it" in caught.value.hint


@pytest.mark.parametrize("what", ["frame", "mask", "psf", "astrometry", "photometry"])
@pytest.mark.parametrize("keep", [0.0, 0.45, 0.9])
def test_a_truncated_file_is_named(sdss_field, what, keep):
    path = getattr(sdss_field, what)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(CorruptFile) as caught:
        read_raw(sdss_field.frame)
    assert str(path) in str(caught.value)


def test_truncated_pixels_behind_a_sound_gzip_are_noticed(sdss_field):
    data = gzip.decompress(sdss_field.frame.read_bytes())
    sdss_field.frame.write_bytes(gzip.compress(data[: 2880 + 3000]))
    with pytest.raises(CorruptFile, match=r"fpC-001234-g2-0056\.fit\.gz"):
        read_raw(sdss_field.frame)


def test_a_mask_of_another_size_is_refused(sdss_field):
    with fits.open(sdss_field.mask, mode="update") as hdus:
        hdus[0].header["MASKROWS"] = 1000
    with pytest.raises(CorruptFile, match="size"):
        read_raw(sdss_field.frame)


def test_a_solution_without_the_field_is_refused(sdss_field):
    with fits.open(sdss_field.astrometry, mode="update") as hdus:
        hdus[10].data["field"] = [1, 2]
    with pytest.raises(CorruptFile, match="field 56"):
        read_raw(sdss_field.frame)


def test_other_names_and_absent_frames_are_refused(tmp_path):
    with pytest.raises(BadInput, match="not the name"):
        read_raw(tmp_path / "image.fits")
    with pytest.raises(MissingData, match="is missing"):
        read_raw(tmp_path / "1/40/corr/4/fpC-000001-r4-0001.fit")


def test_detectors_and_filters_are_those_of_the_camera():
    assert len(INSTRUMENT.detectors) == 30
    assert INSTRUMENT.detector_max == 30
    names = {detector.full_name: detector.id for detector in INSTRUMENT.detectors}
    assert (names["r4"], names["i4"], names["u4"], names["z4"], names["g4"]) == (3, 9, 15, 21, 27)
    assert list(INSTRUMENT.filters.values()) == list("ugriz")


LSST_IDS = {
    (4192, 300): dict(zip("ugriz", (131001259, 131004384, 131007509, 131010634, 131013759), strict=True)),
    (6377, 399): dict(zip("ugriz", (199282512, 199285637, 199288762, 199291887, 199295012), strict=True)),
}


@pytest.fixture(scope="module")
def lsst_sources(stripe82):
    lines = (stripe82 / "expected/Linux64/detected-sources.txt").read_text().splitlines()
    names = lines[0].lstrip("#").split()
    wanted = ["coord_ra", "coord_dec", "base_SdssCentroid_x", "base_SdssCentroid_y"]
    wanted += ["base_PsfFlux_instFlux", "base_PsfFlux_instFluxErr"]
    rows = [line.split() for line in lines[1:] if line]
    exposure = np.array([int(row[0]) >> 31 for row in rows])
    return exposure, {name: np.array([float(row[names.index(name)]) for row in rows]) for name in wanted}


@pytest.mark.real_data
@pytest.mark.parametrize("run_field", list(LSST_IDS))
@pytest.mark.parametrize("band", "ugriz")
def test_positions_agree_with_the_lsst_stack(stripe82, lsst_sources, run_field, band):
    run, field = run_field
    exposure, columns = lsst_sources
    frame = find_frame(stripe82 / f"input/{run}/40/corr/4/fpC-{run:06d}-{band}4-{field:04d}.fit.gz")
    snr = columns["base_PsfFlux_instFlux"] / columns["base_PsfFlux_instFluxErr"]
    use = (exposure == LSST_IDS[run_field][band]) & (snr > 20)
    assert use.sum() > 15
    ra, dec = published_positions(frame, columns["base_SdssCentroid_x"][use], columns["base_SdssCentroid_y"][use])
    east = (ra - columns["coord_ra"][use]) * 3600
    north = (dec - columns["coord_dec"][use]) * 3600
    # the stack fitted its own WCS to the reference stars of each frame
    assert abs(np.median(east)) < 0.1
    assert abs(np.median(north)) < 0.1


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("run", "field", "band", "expected"), [(4192, 300, "r", 5.64), (6377, 399, "g", 4.55), (6377, 399, "i", 6.49)]
)
def test_noise_of_real_frames_is_as_expected(stripe82, run, field, band, expected):
    image = read_raw(stripe82 / f"input/{run}/40/corr/4/fpC-{run:06d}-{band}4-{field:04d}.fit.gz")
    assert image.bbox.shape == (1489, 2048)
    assert np.sqrt(np.median(image.variance.array)) == pytest.approx(expected, abs=0.01)
    # SDSS interpolates over what is saturated
    saturated = image.mask.get("SATURATED")
    assert saturated.sum() > 100
    assert image.mask.get("INTERPOLATED")[saturated].mean() > 0.95
    assert image.image.array[~saturated].max() < image.metadata["saturation"]
    assert image.image.array[saturated].mean() > 5 * np.median(image.image.array)
