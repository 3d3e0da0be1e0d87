"""What can go wrong with a single frame, and what is said about it: an error of ours, a mask plane or a metric.

No PSF stars: `NoPsf`, here and in test_psf_fit (too few alike); a supplied PSF without a width: `NoPsf`, here.
PSF stars not among the sources: `NoPsf` when none is, metric ``n_psf_stars_matched``, here.
All centroids flagged: `BadInput`, metric ``flagged_centroids``, here.
Too few stars for the aperture correction: metric ``n_aperture_correction_stars`` is 0, fluxes stay as they are, here.
No reference coverage: `NoOverlap`, test_calibrate and tests/pipelines/test_bad_input.
False match in a crowded field: `FalseMatch`, test_calibrate.
Projection that diverges at the corners: lower degree, metric ``astrometric_corner_error``, here.
Image of NaN: `AllMasked`, test_calibrate and test_isr.
Dead amplifier: BAD, metric ``n_dead_amplifiers``, here and (dead, NaN, noisy) in test_isr_corrections.
Saturated field: `AllMasked`, metric ``saturated_fraction``, here and in tests/pipelines/test_bad_input.
Explosion of cosmic rays: `BadInput`, here and in test_cosmic_rays.
Constant image: `BadInput`, test_calibrate; raw, `AllMasked`, test_isr_corrections.
Overflow of 16 bit: SATURATED or BAD, here for corrected frames, test_isr_corrections for raw ones.
Missing gain or read noise: `BadInput`; missing exposure time: `BadInput` where a dark needs it (test_isr_corrections),
else the begin stands for the middle; here.
Amplifier that is there twice: `BadInput` with both names, here (mirrored) and in test_isr_corrections.
Background that takes an extended galaxy: it does not, test_background.
"""

import warnings

import numpy as np
import pytest
from isr_scenes import Camera
from single_frame_scenes import Field, moffat

from nightlab.errors import AllMasked, BadInput, NoPsf
from nightlab.images.build import midpoint_mjd_tai
from nightlab.images.psf import PolynomialPsf
from nightlab.images.wcs import pixel_to_radec
from nightlab.numeric.sphere import separation
from nightlab.stages.single_frame import CalibrateConfig, calibrate
from nightlab.stages.single_frame.isr import Calibrations, IsrConfig, remove_signature


def values(result):
    return {name: float(v.values.ravel()[0]) for name, v in result.metrics.items()}


def told(error):
    """Check that an error says what was found and what to do."""
    assert error.value.hint
    assert error.value.facts
    return error.value


@pytest.fixture(scope="module")
def raw_camera():
    return Camera(300, 250, gains=(1.5, 1.5, 1.5, 1.5))


@pytest.fixture(scope="module")
def raw_pixels(raw_camera, field):
    """The field of stars as read out, in adu: its sky is 200 and its noise that of 1.5 electrons per adu."""
    rng = np.random.default_rng(6)
    clean = field.pixels - 200.0
    light = rng.poisson(np.maximum(1.5 * (clean + 200.0), 0.0)) / 1.5
    return raw_camera.read_out(raw_camera.sections(light), rng=rng)


def test_a_psf_narrower_than_a_pixel_is_no_psf():
    scene = Field(seed=8, n=20)
    dot = np.zeros((41, 41))
    dot[20, 20] = 1.0
    scene.psf = PolynomialPsf(coefficients=dot[None], order=0, bbox=scene.box)
    with pytest.raises(NoPsf, match="has no width") as error:
        calibrate(scene.image())
    told(error)


def test_without_stars_there_is_no_psf():
    faint = Field(seed=8, n=40, fluxes=(100.0, 200.0))
    with pytest.raises(NoPsf, match="3 stars") as error:
        calibrate(faint.image(psf=False))
    assert told(error).facts["needed"] == 3


def test_psf_stars_must_be_among_the_sources(field):
    result = calibrate(field.image(psf=False))
    assert values(result)["n_psf_stars"] > 20
    assert values(result)["n_psf_stars_matched"] == values(result)["n_psf_stars"]
    deaf = CalibrateConfig(detect={"threshold": 1e5})
    with pytest.raises(NoPsf, match=r"none of the \d+ stars behind the PSF is among the 0 sources") as error:
        calibrate(field.image(psf=False), config=deaf)
    told(error)


def test_positions_that_do_not_settle_are_an_error_when_none_does(field):
    assert values(calibrate(field.image()))["flagged_centroids"] < 0.05
    with pytest.raises(BadInput, match="none of the positions of 150 sources settled") as error:
        calibrate(field.image(), config=CalibrateConfig(measure={"max_shift": 1e-6}))
    told(error)
    # a PSF that is three times too wide
    wide = Field(seed=8)
    wide.psf = PolynomialPsf(coefficients=moffat(41, 8.0)[None], order=0, bbox=wide.box)
    assert values(calibrate(wide.image()))["flagged_centroids"] > 0.3


def test_without_bright_stars_fluxes_are_not_corrected_and_that_is_said(field):
    few = Field(seed=8, n=2, fluxes=(5e4, 1e5))
    result = calibrate(few.image())
    assert len(result.source) >= 2
    assert values(result)["n_aperture_correction_stars"] == 0
    assert np.isnan(values(result)["aperture_correction"])
    x, y = few.x, few.y
    np.testing.assert_allclose(result.visit_image.aperture_corrections["psfFlux"](x=x, y=y), 1.0)
    measured = values(calibrate(field.image()))
    assert measured["n_aperture_correction_stars"] >= 10
    assert np.isfinite(measured["aperture_correction"])


@pytest.mark.parametrize("n", [20, 40])
def test_a_projection_does_not_diverge_where_no_star_was_matched(field, n):
    rng = np.random.default_rng(n)
    reference = field.reference()[field.y < 200][:n]
    assert len(reference) == n
    for name in ("ra", "dec"):
        reference[name] += rng.normal(0.0, 0.05 / 3600, n)
    corners = np.array([0.0, 499.0, 0.0, 499.0]), np.array([0.0, 0.0, 599.0, 599.0])

    def solve(**settings):
        result = calibrate(field.image(), reference=reference, config=CalibrateConfig(astrometry=settings))
        fitted = pixel_to_radec(result.visit_image.sky_projection, *corners)
        miss = separation(*pixel_to_radec(field.projection, *corners), *fitted).max()
        return miss, values(result)["astrometric_corner_error"] / 1e3

    miss, claimed = solve()
    assert claimed <= 0.3
    assert miss < 0.3
    assert miss < 4.0 * claimed
    unguarded, claimed = solve(max_corner_error=1e9)
    assert unguarded < 4.0 * claimed
    if n == 40:  # enough for six terms, and worthless where there is no star
        assert unguarded > 0.5


def test_the_error_at_the_corners_is_that_of_the_fit(field):
    """Among many noisy references the truth lies within the error that is claimed."""
    pulls = []
    corners = np.array([0.0, 499.0, 0.0, 499.0]), np.array([0.0, 0.0, 599.0, 599.0])
    for seed in range(4):
        reference = field.reference()
        rng = np.random.default_rng(seed)
        for name in ("ra", "dec"):
            reference[name] += rng.normal(0.0, 0.1 / 3600, len(reference))
        result = calibrate(field.image(), reference=reference)
        fitted = pixel_to_radec(result.visit_image.sky_projection, *corners)
        miss = separation(*pixel_to_radec(field.projection, *corners), *fitted)
        pulls.append(miss / (values(result)["astrometric_corner_error"] / 1e3))
    # two coordinates of unit variance at most
    assert 0.3 < np.sqrt(np.mean(np.square(pulls))) < 2.0


def test_a_dead_amplifier_is_bad_and_the_rest_is_calibrated(raw_camera, raw_pixels):
    whole = calibrate(raw_camera.image(raw_pixels))
    assert values(whole)["n_dead_amplifiers"] == 0
    pixels = raw_pixels.copy()
    pixels[:300, :250] = 1000.0
    result = calibrate(raw_camera.image(pixels))
    assert values(result)["n_dead_amplifiers"] == 1
    bad = result.visit_image.mask.get("BAD")
    assert bad[:300, :250].all()
    assert bad.sum() == 300 * 250
    # sources elsewhere are what they were
    table, before = result.source, whole.source
    assert not ((table["x"].value < 249.5) & (table["y"].value < 299.5)).any()
    far = (before["x"].value > 262) & (before["snr"] > 100)
    assert far.sum() > 20
    distance = np.hypot(*(before[name].value[far][:, None] - table[name].value[None, :] for name in ("x", "y")))
    assert (distance.min(axis=1) < 0.1).all()
    ratio = table["psfFlux"].value[distance.argmin(axis=1)] / before["psfFlux"].value[far]
    assert np.median(ratio) == pytest.approx(1.0, abs=0.01)


def test_an_amplifier_that_is_not_a_number_counts_as_dead(raw_camera, raw_pixels):
    pixels = raw_pixels.copy()
    pixels[:300, :262] = np.nan
    assert values(calibrate(raw_camera.image(pixels)))["n_dead_amplifiers"] == 1


@pytest.mark.parametrize("flip", [(1, -1), (-1, 1), (-1, -1)])
def test_an_amplifier_that_is_there_twice_but_mirrored_is_refused(raw_camera, raw_pixels, flip):
    pixels = raw_pixels.copy()
    pixels[308:608, 262:512] = pixels[:300, :250][:: flip[0], :: flip[1]]
    with pytest.raises(BadInput, match="A0 and A3 have the same pixels, mirrored") as error:
        calibrate(raw_camera.image(pixels))
    assert told(error).facts["amplifiers"] == ("A0", "A3")


def test_a_saturated_field_is_named_and_a_part_is_counted(field):
    planes = {"SATURATED": np.ones(field.pixels.shape, bool)}
    with pytest.raises(AllMasked, match="all are masked or saturated"):
        calibrate(field.image(planes=planes))
    planes["SATURATED"][:, 100:] = False
    result = calibrate(field.image(planes=planes))
    assert values(result)["saturated_fraction"] == pytest.approx(0.2)
    inside = result.source["x"].value < 95
    assert inside.any()
    assert result.source["pixelFlags_saturated"][inside].all()


def test_an_explosion_of_cosmic_rays_is_named(field):
    rng = np.random.default_rng(3)
    struck = field.pixels + 5e3 * (rng.random(field.pixels.shape) < 0.12)
    with pytest.raises(BadInput, match="look like cosmic rays, more than 30000") as error:
        calibrate(field.image(pixels=struck))
    assert told(error).facts["found"] > 30000


def test_what_ran_over_in_a_corrected_frame_is_marked():
    scene = Field(seed=9, n=30, fluxes=(1e4, 2e4))
    star = 4e5 * moffat(41, 6.0)
    pixels, variance = scene.pixels.copy(), scene.variance.copy()
    pixels[200:241, 150:191] += star
    variance[200:241, 150:191] += star / scene.gain
    limit = 2.0**12
    over = pixels >= limit
    assert 9 < over.sum() < 200
    # the saturation level catches a ring only
    wrapped = np.where(over, pixels % limit, pixels)
    ring = over & (np.hypot(*(np.indices(pixels.shape) - np.array([220, 170])[:, None, None])) > 1.5)
    assert ring.sum() < over.sum()
    frame = calibrate(scene.image(pixels=wrapped, variance=variance, planes={"SATURATED": ring})).visit_image
    assert frame.mask.get("SATURATED")[over].all()
    # and a signed integer wraps to values that no light has
    signed = pixels.copy()
    signed[over] -= 65_536.0
    result = calibrate(scene.image(pixels=signed, variance=variance))
    np.testing.assert_array_equal(result.visit_image.mask.get("BAD"), over)
    assert np.abs(result.visit_image.image.array[over]).max() == 0.0


@pytest.mark.parametrize("facts", [{"gains": (np.nan,) * 4}, {"gains": (0.0,) * 4}, {"read_noise": np.nan}])
def test_amplifiers_need_gain_and_read_noise(facts):
    camera = Camera(**facts)
    raw = camera.image(np.random.default_rng(2).normal(1000.0, 3.0, camera.raw_shape))
    with pytest.raises(BadInput, match=r"gain .* and read noise") as error:
        calibrate(raw)
    assert told(error).facts["amplifier"] == "A0"


def test_a_corrected_frame_of_unknown_gain_is_calibrated(field):
    known, unknown = (calibrate(field.image(metadata={"gain": gain})) for gain in (field.gain, np.nan))
    assert len(unknown.source) > 140
    np.testing.assert_array_equal(known.source["psfFlux"], unknown.source["psfFlux"])


def test_an_unknown_exposure_time_costs_nothing_but_a_dark(raw_camera, raw_pixels):
    raw = raw_camera.image(raw_pixels, exposure_time=np.nan)
    assert midpoint_mjd_tai(raw) == 6e4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = calibrate(raw)
    np.testing.assert_array_equal(
        result.visit_image.image.array, calibrate(raw_camera.image(raw_pixels)).visit_image.image.array
    )
    assert np.isnan(result.visit_image.summary_stats.expTime)
    dark = raw_camera.image(raw_pixels).image[raw_camera.box]
    with pytest.raises(BadInput, match="exposure time"):
        remove_signature(raw, Calibrations(dark=dark), IsrConfig())
