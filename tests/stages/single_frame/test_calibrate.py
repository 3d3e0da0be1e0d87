import numpy as np
import pytest
from astropy.table import Table
from lsst.images import VisitImage
from scipy.ndimage import uniform_filter
from single_frame_scenes import Field, frame_of

from nightlab.errors import AllMasked, BadInput, FalseMatch, NoOverlap, NoPsf, TooFewStars
from nightlab.images.wcs import pixel_to_radec, tan_projection
from nightlab.numeric.moments import adaptive_moments
from nightlab.numeric.photometry import aperture_fraction
from nightlab.numeric.sphere import match, separation
from nightlab.stages.single_frame import METRICS, CalibrateConfig, calibrate


def values(result):
    return {name: float(v.values.ravel()[0]) for name, v in result.metrics.items()}


@pytest.fixture(scope="module")
def calibrated(field):
    return calibrate(field.image(), reference=field.reference(27.3))


@pytest.fixture(scope="module")
def from_raw(survey):
    return calibrate(survey["raw"], survey["bias"], survey["flat"], survey["reference"])


def test_zero_point_and_fluxes_of_a_corrected_frame(field, calibrated):
    measured = values(calibrated)
    # the scale of all fluxes is that of a 12 pixel aperture; the reference has total fluxes
    inside = aperture_fraction(field.stamp[None], np.zeros(1), np.zeros(1), 12.0)[0]
    assert measured["zero_point"] == pytest.approx(27.3 - 2.5 * np.log10(inside), abs=0.005)
    assert measured["zero_point_scatter"] < 0.03
    assert measured["sky_noise_ratio"] == pytest.approx(1.0, abs=0.01)
    assert calibrated.visit_image.unit == "nJy"
    reference = field.reference(27.3)
    table = calibrated.source
    i, j, _ = match(table["ra"].value, table["dec"].value, reference["ra"], reference["dec"], 0.5)
    assert len(i) > 0.97 * len(reference)
    bright = table["snr"][i] > 100
    ratio = table["psfFlux"].value[i][bright] / reference["r_flux"][j][bright]
    assert bright.sum() > 50
    assert np.median(ratio) == pytest.approx(1.0, abs=2e-3)
    assert 1.4826 * np.median(np.abs(ratio - np.median(ratio))) < 0.01


def light_within(radius, sub=9, side=41, fwhm=2.6, beta=3.5):
    """Part of the star of `Field` inside a circle, from its profile drawn fine and spread by a pixel."""
    r = (np.arange(side * sub) + 0.5) / sub - side / 2
    scale = fwhm / (2 * np.sqrt(2 ** (1 / beta) - 1))
    q = r[None, :] ** 2 + r[:, None] ** 2
    fine = uniform_filter((1 + q / scale**2) ** -beta, sub)
    return fine[q <= radius**2].sum() / fine.sum()


def test_all_fluxes_of_a_star_are_the_same(field, calibrated):
    reference = field.reference(27.3)
    table = calibrated.source
    i, j, _ = match(table["ra"].value, table["dec"].value, reference["ra"], reference["dec"], 0.5)
    bright = (table["snr"][i] > 100) & table["detect_isIsolated"][i]
    assert bright.sum() > 40
    rows, truth = table[i][bright], reference["r_flux"][j][bright]
    for name in ("psf", "gaussian", "kron", "ap12"):
        ratio = rows[f"{name}Flux"].value / truth
        noise = np.median(rows[f"{name}FluxErr"].value / truth)
        # the Kron flux is cut where the light is faint: it need not be better than a per cent
        assert np.median(ratio) == pytest.approx(1.0, abs=0.01 if name == "kron" else 0.004), name
        assert 1.4826 * np.median(np.abs(ratio - np.median(ratio))) < 0.01 + 1.5 * noise, name
    for radius in (3, 6, 9):
        seen = np.median(rows[f"ap{radius:02d}Flux"].value / truth)
        assert seen == pytest.approx(light_within(radius) / light_within(12), abs=0.003), radius
    assert not rows["gaussianFlux_flag"].any()


def test_shapes_are_those_of_the_psf_and_neighbours_make_a_blend(field, calibrated):
    table = calibrated.source
    expected = adaptive_moments(field.stamp[None], np.zeros(1), np.zeros(1), guess=1.2)[0][0]
    bright = (table["snr"] > 200) & table["detect_isIsolated"]
    assert bright.sum() > 30
    for name, value in zip(("ixx", "iyy"), expected[:2], strict=True):
        assert np.median(table[f"{name}PSF"][bright]) == pytest.approx(value, rel=0.01)
        assert np.median(table[name][bright]) == pytest.approx(value, rel=0.01)
    assert np.nanmedian(table["blendedness"][bright]) < 1e-3
    pixels = field.pixels - 200.0
    double = field.pixels + np.roll(pixels, 4, axis=1)
    blends = calibrate(field.image(pixels=double, variance=2 * field.variance)).source
    strong = blends["snr"] > 200
    assert np.nanmedian(blends["blendedness"][strong]) > 0.02


def test_a_colour_term_brings_the_reference_to_the_cameras_band(field, calibrated):
    colour = np.random.default_rng(6).uniform(-0.3, 1.2, field.flux.size)
    reference = field.reference(27.3)
    ours = 31.4 - 2.5 * np.log10(reference["r_flux"])
    # m = r + 0.02 - 0.1 (r - i) + 0.03 (r - i)^2, solved for r
    theirs = ours - (0.02 - 0.1 * colour + 0.03 * colour**2)
    reference["r_flux"] = 10 ** (0.4 * (31.4 - theirs))
    reference["i_flux"] = 10 ** (0.4 * (31.4 - (theirs - colour)))
    term = CalibrateConfig(photometry={"colour_terms": ("g:g-r:1:1", "r:r-i:0.02:-0.1:0.03")})
    blind, seeing = (
        values(calibrate(field.image(), reference=reference, config=c)) for c in (CalibrateConfig(), term)
    )
    truth = values(calibrated)["zero_point"]
    assert seeing["zero_point"] == pytest.approx(truth, abs=1e-3)
    assert seeing["zero_point_scatter"] < 0.6 * blind["zero_point_scatter"]
    assert abs(blind["zero_point"] - truth) > 0.005
    del reference["i_flux"]
    with pytest.raises(BadInput, match="needs i_flux"):
        calibrate(field.image(), reference=reference, config=term)
    with pytest.raises(ValueError, match="is no colour term"):
        CalibrateConfig(photometry={"colour_terms": ("r-i:0.1",)})


def test_sources_know_their_footprints(field, calibrated):
    footprints, table = calibrated.footprints, calibrated.source
    np.testing.assert_array_equal(footprints.mask(1), calibrated.visit_image.mask.get("DETECTED"))
    assert values(calibrated)["n_footprints"] == len(footprints) > 100
    inside = table["footprint"] >= 0
    assert inside.mean() > 0.99
    np.testing.assert_array_equal(footprints.at(table["x"].value, table["y"].value), table["footprint"])
    assert (table["nPeaks"][inside] >= 1).all()
    alone = table["detect_isIsolated"] & inside
    assert np.median(table["nPeaks"][alone]) == 1


def test_the_threshold_and_the_level_follow_empty_sky(field, calibrated):
    measured = values(calibrated)
    assert measured["sky_source_noise_ratio"] == pytest.approx(1.0, abs=0.04)
    assert abs(measured["sky_source_offset"]) < 0.25
    noise = np.random.default_rng(8).normal(size=field.pixels.shape)
    correlated = 200.0 + uniform_filter(noise, 3) * 3 * np.sqrt(np.median(field.variance))
    frame = field.image(pixels=correlated, variance=np.full_like(correlated, np.median(field.variance)))
    blind = calibrate(frame, config=CalibrateConfig(detect={"sky_sources": 0}))
    seeing = calibrate(frame)
    assert values(seeing)["sky_source_noise_ratio"] > 1.5
    assert len(blind.source) > 200
    assert len(seeing.source) < 10


def test_holes_are_detected_on_demand(field):
    pixels = 400.0 - field.pixels
    frame = field.image(pixels=pixels)
    both = calibrate(frame, config=CalibrateConfig(detect={"polarity": "both"}))
    negative = both.footprints.chosen(both.footprints.sign < 0)
    xi, yi = (np.rint(values).astype(int) for values in (field.x, field.y))
    bright = field.flux > 2000
    assert (negative.at(field.x, field.y)[bright] >= 0).all()
    assert (negative.peak_significance < 0).all()
    assert len(calibrate(frame).footprints) < 0.1 * len(negative)
    assert not both.visit_image.mask.get("DETECTED")[yi[bright], xi[bright]].any()


def test_pixels_are_calibrated_with_their_noise(field, calibrated):
    image = calibrated.visit_image
    factor = 10 ** (0.4 * (31.4 - values(calibrated)["zero_point"]))
    sky = ~image.mask.get("DETECTED")
    pixels = image.image.array[sky] / np.sqrt(image.variance.array[sky])
    assert abs(np.median(pixels)) < 0.02
    assert 1.4826 * np.median(np.abs(pixels)) == pytest.approx(1.0, abs=0.02)
    np.testing.assert_allclose(image.variance.array, field.variance * factor**2, rtol=0.03)
    level = image.backgrounds.subtracted.field.render().array / factor
    np.testing.assert_allclose(level, 200.0, atol=1.5)
    assert image.photometric_scaling(x=5.0, y=5.0) == pytest.approx(factor)


def test_variance_is_scaled_to_what_is_seen(field):
    result = calibrate(field.image(variance=field.variance / 4.0))
    assert values(result)["sky_noise_ratio"] == pytest.approx(2.0, abs=0.03)
    np.testing.assert_allclose(np.median(result.visit_image.variance.array), np.median(field.variance), rtol=0.03)
    with pytest.raises(BadInput, match="times what the variance plane says"):
        calibrate(field.image(variance=field.variance / 400.0))


def test_a_wrong_pointing_and_rotation_are_undone(field):
    raw = field.image()
    box = raw.bbox
    wrong = tan_projection(
        30.0 + 4.0 / 3600,
        -10.0 - 5.0 / 3600,
        x=250,
        y=300,
        scale=0.4,
        rotation=20.15,
        frame=raw.sky_projection.pixel_frame,
    )
    scene = Field(seed=8)
    scene.projection = wrong
    result = calibrate(scene.image(), reference=field.reference())
    x, y = np.array([20.0, 250.0, 480.0]), np.array([580.0, 300.0, 20.0])
    truth = pixel_to_radec(field.projection, x, y)
    fitted = pixel_to_radec(result.visit_image.sky_projection, x, y)
    assert separation(*truth, *fitted).max() < 0.02
    assert values(result)["pointing_error"] == pytest.approx(6.4, abs=0.8)
    assert values(result)["astrometric_scatter"] < 20
    assert box == result.visit_image.bbox


@pytest.mark.parametrize(
    ("shift", "turn", "mirrored"), [((60.0, -35.0), 0.0, False), ((5.0, 5.0), 90.0, False), ((20.0, 30.0), -7.0, True)]
)
def test_a_pointing_off_by_an_arcminute_turned_or_mirrored_is_found(field, shift, turn, mirrored):
    scene = Field(seed=8)
    scene.projection = tan_projection(
        30.0 + shift[0] / 3600, -10.0 + shift[1] / 3600, x=250, y=300, scale=0.4, rotation=20.0 + turn,
        frame=frame_of(scene.box),
    )  # fmt: skip
    reference = field.reference()

    def truth(x, y):
        return pixel_to_radec(field.projection, 499.0 - x if mirrored else x, y)

    reference["ra"], reference["dec"] = truth(field.x, field.y)
    result = calibrate(scene.image(), reference=reference)
    x, y = np.array([20.0, 250.0, 480.0]), np.array([580.0, 300.0, 20.0])
    assert separation(*truth(x, y), *pixel_to_radec(result.visit_image.sky_projection, x, y)).max() < 0.02
    assert values(result)["n_astrometric_matches"] > 0.9 * len(reference)
    assert values(result)["zero_point"] == pytest.approx(27.0, abs=0.03)


def test_a_dense_reference_of_other_stars_is_no_match(field):
    rng = np.random.default_rng(4)
    x, y = rng.uniform(-100, 600, 20_000), rng.uniform(-100, 700, 20_000)
    ra, dec = pixel_to_radec(field.projection, x, y)
    others = Table({"ra": ra, "dec": dec, "r_flux": np.exp(rng.uniform(5, 12, ra.size))})
    with pytest.raises(FalseMatch, match="would by accident"):
        calibrate(field.image(), reference=others)


@pytest.mark.parametrize(("ra", "dec"), [(0.0, 10.0), (30.0, 89.97), (200.0, -89.99)])
def test_astrometry_works_across_zero_and_over_the_poles(ra, dec):
    scene = Field(seed=8)
    scene.projection = tan_projection(
        ra, dec, x=250, y=300, scale=0.4, rotation=20.0, frame=frame_of(scene.box), bbox=scene.box
    )
    reference = scene.reference()
    result = calibrate(scene.image(), reference=reference)
    assert values(result)["n_astrometric_matches"] > 0.9 * len(reference)
    assert 0 < values(result)["astrometric_scatter"] < 20
    truth = pixel_to_radec(scene.projection, scene.x, scene.y)
    assert separation(*truth, *pixel_to_radec(result.visit_image.sky_projection, scene.x, scene.y)).max() < 0.05


def test_proper_motions_are_applied(field):
    moved = field.reference()
    years = (60000.0 + 15.0 / 86400 - 57388.5) / 365.25
    moved["pmRa"], moved["pmDec"] = 300.0, -200.0
    moved["ra"] -= 300.0 * years / 3.6e6 / np.cos(np.deg2rad(moved["dec"]))
    moved["dec"] += 200.0 * years / 3.6e6
    moved.meta["epoch"] = 57388.5
    result = calibrate(field.image(), reference=moved)
    truth = pixel_to_radec(field.projection, [250.0], [300.0])
    assert separation(*truth, *pixel_to_radec(result.visit_image.sky_projection, [250.0], [300.0]))[0] < 0.01


def test_without_a_reference_the_instruments_zero_point_holds(field):
    result = calibrate(field.image(metadata={"zeroPoint": 26.0}))
    assert values(result)["zero_point"] == 26.0
    assert result.visit_image.metadata["zeroPointOrigin"] == "instrument"
    assert np.isnan(values(result)["astrometric_scatter"])
    assert result.source["psfFlux"].unit == "nJy"


def test_without_any_zero_point_units_stay_instrumental(field):
    result = calibrate(field.image())
    assert result.visit_image.unit == "adu"
    assert result.source["psfFlux"].unit == "adu"
    assert set(result.source["band"]) == {"r"}
    assert "instrumental" in result.visit_image.metadata["photometry"]
    assert np.isnan(values(result)["zero_point"])


def test_bad_inputs_have_names(field):
    with pytest.raises(AllMasked, match="no usable pixel"):
        calibrate(field.image(pixels=np.full(field.pixels.shape, np.nan)))
    elsewhere = field.reference()
    elsewhere["ra"] += 3.0
    with pytest.raises(NoOverlap, match="none of the"):
        calibrate(field.image(), reference=elsewhere)
    random = field.reference()[:12]
    random["ra"] += np.linspace(-0.01, 0.01, 12)
    with pytest.raises(TooFewStars, match="matches"):
        calibrate(field.image(), reference=random)
    empty = Field(seed=2, n=1, fluxes=(10.0, 20.0))
    with pytest.raises(NoPsf):
        calibrate(empty.image(psf=False))
    with pytest.raises(BadInput, match="variance plane"):
        calibrate(field.image(pixels=np.full(field.pixels.shape, 7.0)))


def test_a_frame_without_sources_gives_an_empty_table():
    empty = Field(seed=2, n=1, fluxes=(10.0, 20.0))
    result = calibrate(empty.image(metadata={"zeroPoint": 25.0}))
    assert len(result.source) <= 3
    assert set(result.source.colnames) == set(calibrate(Field(seed=2).image()).source.colnames)


def test_same_input_same_table_and_nothing_changed(field, calibrated):
    raw = field.image()
    before = raw.image.array.copy(), raw.mask.array.copy(), raw.variance.array.copy()
    again = calibrate(raw, reference=field.reference(27.3))
    for array, now in zip(before, (raw.image.array, raw.mask.array, raw.variance.array), strict=True):
        np.testing.assert_array_equal(array, now)
    for name in again.source.colnames:
        np.testing.assert_array_equal(again.source[name], calibrated.source[name])
    np.testing.assert_array_equal(again.visit_image.image.array, calibrated.visit_image.image.array)


def test_raw_amplifiers_become_a_calibrated_image(survey, from_raw):
    measured = values(from_raw)
    assert from_raw.visit_image.bbox == survey["raw"].detector.bbox
    assert measured["zero_point"] == pytest.approx(survey["visits"]["zeroPoint"][0], abs=0.03)
    assert measured["sky_noise_ratio"] == pytest.approx(1.0, abs=0.02)
    assert measured["n_psf_stars"] >= 10
    assert measured["n_psf_stars_reserved"] == measured["n_psf_stars"]
    assert max(abs(measured[f"psf_{name}_residual_reserved"]) for name in ("size", "e1", "e2")) < 0.01
    assert measured["astrometric_scatter"] < 45
    assert measured["n_cosmic_rays"] >= 2
    truth = survey["sources"]
    stars = truth[(truth["kind"] == "star") & (truth["snr"] > 50)]
    table = from_raw.source
    i, j, _ = match(table["ra"].value, table["dec"].value, stars["ra"].data, stars["dec"].data, 0.5)
    assert len(i) > 0.9 * len(stars)
    assert np.median(table["psfFlux"].value[i] / np.asarray(stars["flux"])[j]) == pytest.approx(1.0, abs=0.015)


def test_the_image_survives_its_file(tmp_path, from_raw):
    path = tmp_path / "visit_image.fits"
    from_raw.visit_image.write(path)
    back = VisitImage.read(path)
    np.testing.assert_array_equal(back.image.array, from_raw.visit_image.image.array)
    assert back.summary_stats.zeroPoint == pytest.approx(values(from_raw)["zero_point"])
    assert back.psf.compute_kernel_image(x=200.0, y=200.0).array.sum() == pytest.approx(1.0, abs=0.02)
    assert back.backgrounds.subtracted.name == "sky"
    from_raw.source.write(tmp_path / "source.parquet")
    assert Table.read(tmp_path / "source.parquet").colnames == from_raw.source.colnames


def test_ids_and_metrics_follow_the_contract(survey, from_raw):
    table = from_raw.source
    visit = survey["raw"].obs_info.visit_id
    assert table["sourceId"][0] == visit * 100_000_000 + 1
    assert np.unique(table["sourceId"]).size == len(table)
    assert set(from_raw.metrics.data_vars) == set(METRICS)
    assert from_raw.metrics.sizes == {"visit": 1, "detector": 1, "band": 1}
    assert CalibrateConfig().digest == from_raw.visit_image.metadata["configDigest"]
