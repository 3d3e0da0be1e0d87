import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from simcam_reading import TINY, assemble

from nightlab.errors import WriteFailed
from nightlab.simulate import PRESETS, simulate_survey
from nightlab.simulate.camera import bias_structure, chips, flat_response
from nightlab.simulate.exposure import expose, observe
from nightlab.simulate.raw import write_whole
from nightlab.simulate.sky import make_sky
from nightlab.simulate.visit import plan_visits


def _bytes(survey):
    return {name: path.read_bytes() for name, path in sorted(survey.paths.items())}


def _reduce(survey, visit):
    chip = chips(survey.config)[0]
    bias = fits.getdata(survey.paths["calib/bias_0"]).astype(float)
    flat = fits.getdata(survey.paths["calib/flat_r_0"]).astype(float)
    raw = fits.getdata(survey.paths[f"raw/{visit}_0"], "RAW").astype(float)
    return assemble(raw, chip.amplifiers, bias) / flat


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tiny, tmp_path):
    again = _bytes(simulate_survey(tmp_path / "again", TINY))
    assert again == _bytes(tiny)
    other = _bytes(simulate_survey(tmp_path / "other", TINY.model_copy(update={"seed": 7})))
    assert other.keys() == again.keys()
    assert all(other[name] != again[name] for name in again)


def test_a_frame_is_the_same_whether_or_not_others_were_made_before(tiny):
    visits, chip = plan_visits(TINY), chips(TINY)[0]
    last = visits[-1]
    scene = observe(last, chip, make_sky(TINY, visits), TINY)
    pixels = expose(scene, last, chip, flat_response(TINY, chip, "r"), bias_structure(TINY, chip), TINY)
    np.testing.assert_array_equal(pixels, fits.getdata(tiny.paths[f"raw/{last.visit}_0"], "RAW"))


def test_the_file_says_what_the_camera_is(tiny):
    chip = chips(TINY)[0]
    visit = tiny.tables["truth_visits"][1]
    with fits.open(tiny.paths[f"raw/{visit['visit']}_0"]) as hdus:
        header, rows = hdus[0].header, Table(hdus["AMPLIFIERS"].data)
        assert hdus["RAW"].data.shape == chip.raw_bbox.shape
        assert hdus["RAW"].data.dtype == np.uint16
        assert "CTYPE1" not in hdus["RAW"].header
    wanted = {"VISIT": visit["visit"], "BAND": "r", "FILTER": "sim_r", "ROLE": "science", "RA": visit["ra"]}
    assert {name: header[name] for name in wanted} == wanted
    assert header["MJD-MID"] == visit["mjd"]
    assert header["MJD-END"] - header["MJD-BEG"] == pytest.approx(30.0 / 86400.0, rel=1e-5)
    assert header["NAMPS"] == len(rows) == len(chip.amplifiers)
    for row, amplifier in zip(rows, chip.amplifiers, strict=True):
        geometry = amplifier.assembled_raw_geometry
        assert (row["BBOX_X0"], row["BBOX_Y1"]) == (amplifier.bbox.x.start, amplifier.bbox.y.stop)
        assert (row["DATA_X1"], row["SOVER_X0"]) == (geometry.data_bbox.x.stop, geometry.serial_overscan_bbox.x.start)
        assert (bool(row["FLIP_X"]), bool(row["FLIP_Y"])) == (geometry.flip_x, geometry.flip_y)
        assert row["GAIN"] == amplifier.nominal_calibrations.gain
        assert row["CORNER"] == amplifier.readout_corner.value


def test_tables_come_back_with_their_units(tiny):
    for name in ("reference", "truth_objects", "truth_visits", "truth_sources"):
        back = Table.read(tiny.paths[name])
        assert back.colnames == tiny.tables[name].colnames
        assert len(back) == len(tiny.tables[name]) > 0
        assert str(back["ra"].unit) == "deg"
    assert str(back["flux"].unit) == "nJy"


def test_a_band_of_detectors_and_amplifiers_of_any_number_works(tmp_path):
    config = TINY.model_copy(update={"bands": ("g", "i"), "detector_columns": 2, "ra": 0.0, "n_science": 1})
    survey = simulate_survey(tmp_path, config)
    assert sum(name.startswith("raw/") for name in survey.paths) == 2 * 2 * 2
    sources = survey.tables["truth_sources"]
    assert set(sources["detector"]) == {0, 1}
    assert set(sources["band"]) == {"g", "i"}
    assert np.ptp(sources["ra"]) > 350.0
    for column, size in (("x", 256), ("y", 256)):
        assert sources[column].min() >= -0.5
        assert sources[column].max() < size - 0.5


def test_the_nominal_wcs_is_wrong_by_about_the_pointing_error(small):
    for visit in small.tables["truth_visits"]["visit"]:
        rows = small.tables["truth_sources"][small.tables["truth_sources"]["visit"] == visit]
        header = fits.getheader(small.paths[f"raw/{visit}_0"])
        del header["NAXIS"]  # the primary HDU has no pixels of its own
        wcs = WCS(header)
        x, y = wcs.world_to_pixel_values(rows["ra"], rows["dec"])
        assert 0.4 < np.median(np.hypot(x - rows["x"], y - rows["y"])) * 0.25 < 1.3


def test_small_has_the_promised_transients_variables_and_movers(small):
    visits, sources = small.tables["truth_visits"], small.tables["truth_sources"]
    assert list(visits["role"]) == ["template"] * 3 + ["science"] * 5
    assert visits["satellite"].sum() == 1
    science = sources[np.isin(sources["visit"], visits["visit"][visits["role"] == "science"])]

    def often(kind, column, times):
        rows = science[(science["kind"] == kind) & (np.abs(science[column]) > 10)]
        return int((np.unique(rows["objectId"], return_counts=True)[1] >= times).sum())

    assert often("transient", "snr", 2) >= 60
    assert often("transient", "snr_difference", 2) >= 60
    assert often("variable", "snr_difference", 1) >= 15
    assert often("mover", "snr_difference", 1) >= 10


def test_stars_in_the_image_have_the_flux_and_the_noise_that_truth_predicts(small):
    visits, sources = small.tables["truth_visits"], small.tables["truth_sources"]
    pulls, fluxes = [], []
    for visit in visits["visit"][-3:]:
        image = _reduce(small, visit)
        per_njy = 10 ** (0.4 * (visits["zeroPoint"][visits["visit"] == visit][0] - 31.4))
        rows = sources[sources["visit"] == visit]
        for row in rows[((rows["kind"] == "star") | (rows["kind"] == "transient")) & (rows["snr"] > 10)]:
            x, y = float(row["x"]), float(row["y"])
            near = np.hypot(rows["x"] - x, rows["y"] - y) < 14
            if near.sum() > 1 or not (30 < x < 990 and 30 < y < 990) or row["flux"] * per_njy > 3e5:
                continue
            j, i = round(x), round(y)
            stamp = image[i - 15 : i + 16, j - 15 : j + 16]
            v, u = np.mgrid[-15:16, -15:16]
            # an independent PSF: a circular Moffat, sampled; the sky is taken from a ring
            radius = row["fwhm"] / (2 * np.sqrt(2 ** (1 / 3.5) - 1))
            fine = np.linspace(-0.4, 0.4, 5)
            du, dv = (w[..., None, None] + s for w, s in ((u - x + j, fine), (v - y + i, fine[:, None])))
            psf = ((1 + (du**2 + dv**2) / radius**2) ** -3.5).mean(axis=(2, 3)) * 2.5 / (np.pi * radius**2)
            sky = np.median(stamp[np.hypot(u, v) > 11])
            flux = (psf * (stamp - sky)).sum() / (psf**2).sum()
            if abs(flux / per_njy / row["flux"] - 1) < 0.5:  # not under a cosmic ray or the satellite
                pulls.append((flux / per_njy - row["flux"]) / (row["flux"] / row["snr"]))
                fluxes.append((flux / per_njy / row["flux"], row["snr"]))
    pulls, (ratio, snr) = np.array(pulls), np.array(fluxes).T
    assert len(pulls) > 40
    assert np.median(ratio[snr > 100]) == pytest.approx(1.0, abs=0.01)
    moderate = snr < 60  # above, the ellipticity that the circular PSF lacks begins to show
    assert 1.4826 * np.median(np.abs(pulls[moderate] - np.median(pulls[moderate]))) == pytest.approx(1.0, abs=0.35)


def test_background_noise_is_poisson_and_read_noise(small):
    visit = small.tables["truth_visits"][0]
    image = _reduce(small, visit["visit"])
    blocks = image[:1000, :1000].reshape(100, 10, 100, 10).swapaxes(1, 2).reshape(-1, 100)
    quiet = blocks[np.argsort(np.median(blocks, axis=1))[2000:4000]]
    deviation = 1.4826 * np.median(np.abs(quiet - np.median(quiet, axis=1, keepdims=True)))
    assert np.median(quiet) == pytest.approx(visit["sky"], rel=0.05)
    assert deviation == pytest.approx(np.sqrt(visit["sky"] + 36.0), rel=0.05)


def test_nothing_is_left_of_a_file_that_cannot_be_written(tmp_path):
    def fail(path):
        path.write_text("half")
        raise OSError("no space left on device")

    with pytest.raises(WriteFailed, match="no space left"):
        write_whole(tmp_path / "frame.fits", fail)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteFailed, match="cannot write"):
        simulate_survey(tmp_path / "file", TINY)


def test_presets_are_ready_and_distinct():
    assert set(PRESETS) == {"tiny", "small", "medium", "large"}
    assert len({config.digest for config in PRESETS.values()}) == 4
    assert PRESETS["large"].width == PRESETS["large"].height == 4096
    assert PRESETS["medium"].n_detectors > 1
    assert len(PRESETS["medium"].bands) > 1
