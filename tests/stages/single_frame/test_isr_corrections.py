import astropy.units as u
import numpy as np
import pytest
from astropy.table import Table
from isr_scenes import SERIAL, Camera
from lsst.images import Image

from nightlab.errors import AllMasked, BadInput, ShapeError
from nightlab.stages.single_frame.brighter_fatter import remove_brighter_fatter
from nightlab.stages.single_frame.isr import (
    Calibrations,
    IsrConfig,
    defect_mask,
    overscan_noise,
    remove_signature,
)
from nightlab.stages.single_frame.linearity import linearize
from nightlab.stages.single_frame.overscan import OverscanConfig, ParallelOverscanConfig, overscan_level


@pytest.fixture
def camera():
    return Camera()


@pytest.fixture
def rng():
    return np.random.default_rng(82)


# overscan


@pytest.mark.parametrize(
    "method", ["median_per_row", "mean_per_row", "median", "mean", "chebyshev", "legendre", "spline"]
)
def test_every_method_finds_a_flat_level(method, rng):
    level = overscan_level(2.0 + rng.normal(0.0, 0.01, (400, 60)), OverscanConfig(method=method, order=3))
    assert level.shape == (400,)
    assert abs(level.mean() - 2.0) < 0.001


@pytest.mark.parametrize("method", ["chebyshev", "legendre", "spline"])
def test_a_smooth_level_is_followed_with_less_noise_than_row_by_row(method, rng):
    row = np.linspace(-1.0, 1.0, 500)
    true = 1000.0 + 8.0 * row - 5.0 * row**3
    pixels = true[:, None] + rng.normal(0.0, 4.0, (500, 20))
    pixels[100:103] += 5000.0  # charge that trails a saturated star
    smooth = overscan_level(pixels, OverscanConfig(method=method, order=4))
    per_row = overscan_level(pixels, ParallelOverscanConfig(method="median_per_row"))
    clean = np.r_[0:95, 108:500]
    assert np.std(smooth - true) < 0.25
    assert np.std((smooth - true)[clean]) < 0.3 * np.std((per_row - true)[clean])


def test_outliers_and_trailing_charge_do_not_lift_the_mean(rng):
    pixels = 100.0 + rng.normal(0.0, 3.0, (300, 40))
    pixels[:, :3] += 50.0
    pixels[rng.random(pixels.shape) < 0.01] += 2000.0
    level = overscan_level(pixels, OverscanConfig(method="mean_per_row", skip=3))
    assert abs(level.mean() - 100.0) < 0.1


def test_rows_without_overscan_are_told_and_bad_requests_refused():
    pixels = np.full((20, 8), 5.0)
    pixels[4] = np.nan
    assert np.isnan(overscan_level(pixels, OverscanConfig())).tolist() == [row == 4 for row in range(20)]
    assert np.isfinite(overscan_level(pixels, OverscanConfig(method="legendre", order=1))).all()
    assert np.isnan(overscan_level(np.full((20, 8), np.nan), OverscanConfig(method="spline"))).all()
    with pytest.raises(BadInput, match="skip"):
        overscan_level(pixels, OverscanConfig(skip=8))
    with pytest.raises(BadInput, match="too few"):
        overscan_level(pixels[:3], OverscanConfig(method="legendre", order=5))


def test_serial_and_parallel_levels_are_both_taken_off(camera, rng):
    light = rng.uniform(0.0, 8.0, camera.box.shape)
    raw = camera.image(camera.read_out(camera.sections(light), level=2.0, parallel=4.5))
    config = IsrConfig(parallel_overscan=ParallelOverscanConfig(method="median_per_row"))
    frame = remove_signature(raw, Calibrations(), config)
    np.testing.assert_allclose(frame.pixels / camera.gain_map(), light, atol=0.001)
    serial_only = remove_signature(raw, Calibrations(), IsrConfig())
    np.testing.assert_allclose(serial_only.pixels / camera.gain_map(), light + 4.5, atol=0.001)


# the whole chain


def test_bias_dark_and_flat_give_back_the_light(camera, rng):
    truth = rng.uniform(50.0, 30_000.0, camera.box.shape)
    flat = 1.0 + 0.05 * rng.standard_normal(camera.box.shape)
    dark, bias = rng.uniform(0.0, 2.0, camera.box.shape), rng.normal(0.0, 5.0, camera.box.shape)
    gain = camera.gain_map()
    seen = (truth * flat + 30.0 * dark) / gain + bias
    raw = camera.image(camera.read_out(camera.sections(seen)))
    known = Calibrations(
        bias=Image(bias, bbox=camera.box, unit=u.adu),
        dark=Image(dark, bbox=camera.box, unit=u.electron / u.s),
        flat=Image(flat, bbox=camera.box),
    )
    frame = remove_signature(raw, known, IsrConfig())
    # the raw is kept in single precision
    np.testing.assert_allclose(frame.pixels, truth, rtol=1e-5, atol=0.02)
    electrons = truth * flat + 30.0 * dark
    np.testing.assert_allclose(frame.variance, (electrons + camera.read_noise**2) / flat**2, rtol=2e-5)
    as_electrons = Calibrations(
        bias=Image(bias * gain, bbox=camera.box, unit=u.electron), dark=known.dark, flat=known.flat
    )
    np.testing.assert_allclose(remove_signature(raw, as_electrons, IsrConfig()).pixels, frame.pixels, atol=0.02)


def test_read_noise_is_what_the_overscan_says(camera, rng):
    camera = Camera(200, 100)
    raw = camera.image(camera.read_out(camera.sections(np.zeros(camera.box.shape)), rng=rng))
    noise = overscan_noise(raw, IsrConfig())
    assert list(noise) == ["A0", "A1", "A2", "A3"]
    np.testing.assert_allclose(list(noise.values()), camera.read_noise, rtol=0.06)
    frame = remove_signature(raw, Calibrations(), IsrConfig())
    assert frame.pixels.std() < 2.0 * camera.read_noise
    assert frame.pixels.std() > 0.9 * camera.read_noise


def test_a_dark_needs_an_exposure_time_and_frames_must_fit(camera):
    raw = camera.image(camera.read_out(camera.sections(np.ones(camera.box.shape))), exposure_time=np.nan)
    dark = Image(np.zeros(camera.box.shape), bbox=camera.box)
    with pytest.raises(BadInput, match="exposure time"):
        remove_signature(raw, Calibrations(dark=dark), IsrConfig())
    with pytest.raises(ShapeError, match="dark"):
        remove_signature(
            camera.image(camera.read_out(camera.sections(np.ones(camera.box.shape)))),
            Calibrations(dark=Image(np.zeros((3, 3)))),
            IsrConfig(),
        )


# amplifiers that are broken


def test_a_dead_amplifier_is_bad_and_the_others_are_not(camera, rng):
    pixels = camera.read_out(camera.sections(np.full(camera.box.shape, 100.0)), rng=rng)
    pixels[: camera.ny, : camera.nx] = 1000.0
    frame = remove_signature(camera.image(pixels), Calibrations(), IsrConfig())
    assert frame.planes["BAD"][: camera.ny, : camera.nx].all()
    assert frame.planes["BAD"].sum() == camera.ny * camera.nx
    pixels[:] = 1000.0
    with pytest.raises(AllMasked):
        remove_signature(camera.image(pixels), Calibrations(), IsrConfig())


def test_an_amplifier_that_is_not_a_number_is_named_as_such(camera, rng):
    pixels = camera.read_out(camera.sections(np.full(camera.box.shape, 100.0)), rng=rng)
    pixels[: camera.ny, : camera.nx + SERIAL] = np.nan
    frame = remove_signature(camera.image(pixels), Calibrations(), IsrConfig())
    assert frame.planes["UNMASKED_NAN"].sum() == camera.ny * camera.nx
    assert np.isfinite(frame.pixels).all()


def test_a_noisy_amplifier_is_bad(camera, rng):
    pixels = camera.read_out(camera.sections(np.full(camera.box.shape, 100.0)), rng=rng)
    pixels[: camera.ny, : camera.nx + SERIAL] += rng.normal(0.0, 60.0, (camera.ny, camera.nx + SERIAL))
    frame = remove_signature(camera.image(pixels), Calibrations(), IsrConfig())
    assert frame.planes["BAD"].sum() == camera.ny * camera.nx


def test_an_amplifier_that_is_there_twice_is_refused(camera, rng):
    pixels = camera.read_out(camera.sections(np.full(camera.box.shape, 100.0)), rng=rng)
    half = pixels.shape[1] // 2
    pixels[:, half:] = pixels[:, :half]
    with pytest.raises(BadInput, match="A0 and A1"):
        remove_signature(camera.image(pixels), Calibrations(), IsrConfig())


def test_the_core_of_a_star_that_ran_over_counts_as_saturated(rng):
    camera = Camera(saturation=30_000.0)
    y, x = np.mgrid[: 2 * camera.ny, : 2 * camera.nx]
    star = 90_000.0 * np.exp(-0.5 * ((y - 20) ** 2 + (x - 20) ** 2) / 16.0)
    whole = camera.read_out(camera.sections(star), rng=rng)
    wrapped = np.rint(whole).astype(np.int64).astype(np.uint16)
    assert wrapped[20, 20] < 30_000 < whole[20, 20]
    frame = remove_signature(camera.image(wrapped.astype(float)), Calibrations(), IsrConfig(saturation_grow=0.0))
    assert frame.planes["SATURATED"].sum() == (whole >= 30_000).sum()
    assert frame.planes["SATURATED"][20, 20]


def test_pixels_that_were_read_with_the_wrong_sign_are_bad(camera, rng):
    light = np.zeros(camera.box.shape)
    light[10:13, 10:13] = 50_000.0
    pixels = camera.read_out(camera.sections(light), rng=rng).astype(np.uint16).view(np.int16).astype(float)
    frame = remove_signature(camera.image(pixels), Calibrations(), IsrConfig())
    assert (frame.planes["BAD"] == (light > 0)).all()


# crosstalk


def crosstalk_table(camera, rng, *, quadratic=0.0):
    names = [a.name for a in camera.amplifiers]
    rows = [(a, b, rng.uniform(1e-4, 3e-4), quadratic) for a in names for b in names if a != b]
    return Table(rows=rows, names=("victim", "source", "linear", "quadratic"))


@pytest.mark.parametrize("quadratic", [0.0, 1e-9])
def test_ghosts_of_a_bright_source_go(camera, rng, quadratic):
    table = crosstalk_table(camera, rng, quadratic=quadratic)
    sections = [rng.normal(0.0, 0.1, (camera.ny, camera.nx)) for _ in range(4)]
    for k, section in enumerate(sections):
        section[5 + k, 7 * k : 7 * k + 5] += 12_345.0
    seen = [each.copy() for each in sections]
    for victim, source, linear, square in table.iterrows():
        b = sections[int(source[1])]
        seen[int(victim[1])] += linear * b + square * b**2
    raw = camera.image(camera.read_out(seen))
    frame = remove_signature(raw, Calibrations(crosstalk=table), IsrConfig())
    left = frame.pixels / camera.gain_map()
    for got, true in zip(camera.sections(left), sections, strict=True):
        assert np.abs(got - true)[true < 1e4].max() < 0.02
    without = remove_signature(raw, Calibrations(), IsrConfig()).pixels / camera.gain_map()
    assert max(np.abs(g - t)[t < 1e4].max() for g, t in zip(camera.sections(without), sections, strict=True)) > 1.0


def test_ghosts_of_saturated_sources_are_marked(camera, rng):
    table = crosstalk_table(camera, rng)
    light = np.zeros(camera.box.shape)
    light[5, 6] = 50_000.0
    frame = remove_signature(
        camera.image(camera.read_out(camera.sections(light), rng=rng)), Calibrations(crosstalk=table), IsrConfig()
    )
    # the same moment of reading in the three other amplifiers
    far_y, far_x = 2 * camera.ny - 1 - 5, 2 * camera.nx - 1 - 6
    assert {tuple(place) for place in np.argwhere(frame.planes["CROSSTALK"])} == {
        (5, far_x),
        (far_y, 6),
        (far_y, far_x),
    }


def test_a_crosstalk_table_of_another_camera_is_refused(camera, rng):
    raw = camera.image(camera.read_out(camera.sections(np.ones(camera.box.shape)), rng=rng))
    with pytest.raises(BadInput, match="C99"):
        remove_signature(
            raw,
            Calibrations(crosstalk=Table(rows=[("C99", "A0", 1e-4)], names=("victim", "source", "linear"))),
            IsrConfig(),
        )
    with pytest.raises(BadInput, match="lacks linear"):
        remove_signature(
            raw, Calibrations(crosstalk=Table(rows=[("A1", "A0")], names=("victim", "source"))), IsrConfig()
        )


# linearity


def test_a_squared_lineariser_undoes_what_it_was_measured_on():
    # mu = F t + k2 t^2, stored as -k2 / F^2
    rate, k2 = 1000.0, -5e-6 * 1000.0**2
    time = np.linspace(1.0, 40.0, 30)
    table = Table(rows=[("A0", 2, -k2 / rate**2)], names=("amplifier", "power", "coefficient"))
    left = linearize(rate * time + k2 * time**2, table, "A0") / (rate * time) - 1
    # the inverse of a parabola is not one: twice the square of the deviation is left
    deviation = k2 * time / rate
    np.testing.assert_allclose(left, -2 * deviation**2, atol=2 * np.abs(deviation).max() ** 3)


def test_a_curve_gives_back_the_light_between_its_points():
    true = np.linspace(0.0, 60_000.0, 500)
    read = true + 30.0 * np.sin(true / 9000.0)
    knots = np.linspace(0.0, 60_000.0, 40)
    shape = knots + 30.0 * np.sin(knots / 9000.0)
    table = Table({"amplifier": ["A1"] * 40, "signal": shape, "deviation": shape - knots})
    np.testing.assert_allclose(linearize(read, table, "A1"), true, atol=0.01)


@pytest.mark.parametrize(
    ("rows", "names", "found"),
    [
        ([("A0", 1.0)], ("amplifier", "factor"), "needs"),
        ([("A0", 1, 0.1)], ("amplifier", "power", "coefficient"), "below 2"),
        ([("A7", 2, 0.1)], ("amplifier", "power", "coefficient"), "amplifier A0"),
        ([("A0", 2, np.nan)], ("amplifier", "power", "coefficient"), "finite"),
        ([("A0", 5.0, 0.1), ("A0", 4.0, 0.1)], ("amplifier", "signal", "deviation"), "rise"),
    ],
)
def test_linearity_tables_that_cannot_be_used_are_refused(rows, names, found):
    with pytest.raises(BadInput, match=found):
        linearize(np.ones(3), Table(rows=rows, names=names), "A0")


def test_linearity_is_applied_in_each_amplifier_by_its_own_curve(camera, rng):
    light = rng.uniform(0.0, 20_000.0, camera.box.shape)
    table = Table({"amplifier": ["A0", "A1", "A2", "A3"], "power": [2] * 4, "coefficient": [1e-6, 2e-6, 3e-6, 4e-6]})
    raw = camera.image(camera.read_out(camera.sections(light)))
    frame = remove_signature(raw, Calibrations(linearity=table), IsrConfig())
    sections = zip(camera.sections(frame.pixels / camera.gain_map()), camera.sections(light), strict=True)
    for k, (got, read) in enumerate(sections):
        np.testing.assert_allclose(got, read + (k + 1) * 1e-6 * read**2, atol=0.01)


# brighter-fatter


def exposed_with_repulsion(light, kernel, steps=60):
    """Collect light in steps; the charge collected so far moves the borders of pixels, as in a real sensor."""
    from scipy.signal import fftconvolve

    charge = np.zeros_like(light)
    for _ in range(steps):
        potential = fftconvolve(charge, kernel, mode="same")
        for axis in (0, 1):
            shift = np.diff(potential, axis=axis)
            mean = (
                np.take(light, range(1, light.shape[axis]), axis) + np.take(light, range(light.shape[axis] - 1), axis)
            ) / 2
            flow = mean * shift / steps
            padded = np.pad(flow, [(1, 1) if k == axis else (0, 0) for k in (0, 1)])
            charge -= np.diff(padded, axis=axis)
        charge += light / steps
    return charge


def test_stars_of_all_fluxes_have_one_size_again(hsc_kernel_like):
    y, x = np.mgrid[:101, :101] - 50.0
    profile = np.exp(-0.5 * (x**2 + y**2) / 2.0**2)
    slopes = {}
    for corrected in (False, True):
        sizes = []
        for peak in (1000.0, 40_000.0, 80_000.0):
            seen = exposed_with_repulsion(peak * profile, hsc_kernel_like)
            if corrected:
                fixed = remove_brighter_fatter(seen, hsc_kernel_like, np.ones(seen.shape, bool))
                assert abs(fixed.sum() / seen.sum() - 1) < 1e-9
                seen = fixed
            sizes.append((seen * (x**2 + y**2)).sum() / seen.sum())
        slopes[corrected] = (sizes[2] - sizes[0]) / sizes[0]
    assert slopes[False] > 0.003
    assert abs(slopes[True]) < 0.1 * slopes[False]


@pytest.fixture
def hsc_kernel_like():
    """A kernel of the strength measured for HSC: -4.65e-7 in the middle, falling off as the potential of a charge."""
    y, x = np.mgrid[-8:9, -8:9]
    return -4.65e-7 / (1.0 + (x**2 + y**2)) ** 0.75


def test_a_flat_field_is_left_alone_and_lost_pixels_take_no_part(hsc_kernel_like):
    flat = np.full((64, 64), 30_000.0)
    usable = np.ones(flat.shape, bool)
    np.testing.assert_allclose(remove_brighter_fatter(flat, hsc_kernel_like, usable), flat)
    star = flat.copy()
    star[30:34, 30:34] += 20_000.0
    usable[10:20, 10:20] = False
    star[~usable] = np.nan
    out = remove_brighter_fatter(star, hsc_kernel_like, usable)
    assert np.isnan(out[~usable]).all()
    assert np.isfinite(out[usable]).all()
    assert out[30, 31] > star[30, 31]


@pytest.mark.parametrize(
    "kernel", [np.zeros((4, 4)), np.zeros((3, 5)), np.full((3, 3), np.nan), np.full((3, 3), -1.0)]
)
def test_kernels_that_cannot_be_are_refused(kernel):
    image = np.random.default_rng(1).uniform(0.0, 1e5, (32, 32))
    with pytest.raises(BadInput):
        remove_brighter_fatter(image, kernel, np.ones(image.shape, bool))


# defects


def test_boxes_become_a_mask(camera):
    table = Table(
        rows=[(3, 4, 2, 1), (3, 4, 1, 5), (-5, 0, 6, 2), (95, 70, 100, 100)], names=("x0", "y0", "width", "height")
    )
    mask = defect_mask(table, camera.box)
    expected = np.zeros(camera.box.shape, bool)
    expected[4:5, 3:5] = expected[4:9, 3:4] = expected[0:2, 0:1] = expected[70:80, 95:100] = True
    assert (mask == expected).all()
    with pytest.raises(BadInput, match="height"):
        defect_mask(table["x0", "y0", "width"], camera.box)
