import astropy.units as u
import numpy as np
import pytest
from isr_scenes import Camera
from lsst.images import Image

from nightlab.errors import AllMasked, BadInput, ShapeError
from nightlab.stages.single_frame.builders import (
    BuildConfig,
    DefectConfig,
    build_bias,
    build_dark,
    build_flat,
    find_defects,
    measure_crosstalk,
)
from nightlab.stages.single_frame.isr import Calibrations, IsrConfig, defect_mask, remove_signature


class Bench:
    """A camera on a test stand: a fixed pattern, a dark current and a response, and frames taken of them."""

    def __init__(self, seed=7, ny=60, nx=70):
        self.camera = Camera(ny, nx)
        self.rng = np.random.default_rng(seed)
        shape = self.camera.box.shape
        self.pattern = self.rng.normal(0.0, 3.0, shape)  # adu
        self.dark = self.rng.gamma(2.0, 0.1, shape)  # electron / s
        self.dark[20:22, 30] = 40.0
        self.response = 1.0 + 0.03 * self.rng.standard_normal(shape)
        self.response[:, 90] = 0.3
        self.response /= self.response.mean()

    def frame(self, *, light=0.0, seconds=0.0, hits=0):
        """Take one frame; `light` in electrons on a pixel of mean response."""
        electrons = self.rng.poisson(self.response * light + self.dark * seconds).astype(float)
        if hits:
            places = self.rng.integers(0, electrons.size, hits)
            electrons.ravel()[places] += 5000.0
        seen = electrons / self.camera.gain_map() + self.pattern
        return self.camera.image(self.camera.read_out(self.camera.sections(seen), rng=self.rng), exposure_time=seconds)


@pytest.fixture(scope="module")
def bench():
    return Bench()


@pytest.fixture(scope="module")
def bias(bench):
    return build_bias([bench.frame(hits=3) for _ in range(12)])


@pytest.fixture(scope="module")
def dark(bench, bias):
    return build_dark([bench.frame(seconds=500.0, hits=40) for _ in range(6)], Calibrations(bias=bias))


@pytest.fixture(scope="module")
def flat(bench, bias, dark):
    frames = [bench.frame(light=20_000.0, seconds=5.0, hits=20) for _ in range(8)]
    return build_flat(frames, Calibrations(bias=bias, dark=dark))


def test_the_combined_bias_is_the_pattern_to_the_noise_of_its_frames(bench, bias):
    off = (bias.array - bench.pattern) * bench.camera.gain_map()
    assert bias.unit == u.adu
    # the median of a row's overscan adds the noise of 12 pixels to that of the pixel
    expected = bench.camera.read_noise / np.sqrt(12) * np.sqrt(1 + 1.57 / 12)
    assert off.std() == pytest.approx(expected, rel=0.05)
    assert abs(off.mean()) < 3 * expected / np.sqrt(2 * 60)
    left = remove_signature(bench.frame(), Calibrations(bias=bias), IsrConfig()).pixels
    assert left.std() < 2.0 * bench.camera.read_noise


def test_the_combined_dark_is_the_current_and_knows_no_cosmic_rays(bench, dark):
    assert dark.unit == u.electron / u.s
    off = dark.array - bench.dark
    noise = np.sqrt((bench.dark * 500.0 + 1.4 * bench.camera.read_noise**2) / 6) / 500.0
    assert 0.9 < (off / noise).std() < 1.15
    # one hit in one frame of six would be 1.7 electron/s
    assert np.abs(off)[bench.dark < 5].max() < 0.5


def test_the_combined_flat_is_the_response(bench, flat):
    assert flat.array.mean() == pytest.approx(1.0, abs=1e-6)
    off = flat.array / bench.response - 1
    assert off.std() == pytest.approx(1 / np.sqrt(8 * 20_000.0), rel=0.25)
    # a frame of the same lamp is flat to its photon noise
    frame = remove_signature(bench.frame(light=20_000.0), Calibrations(flat=flat), IsrConfig())
    assert abs(np.median(frame.pixels) / 20_000.0 - 1) < 0.01


def test_gain_and_flat_together_make_one_even_detector(bench, bias, dark, flat):
    known = Calibrations(bias=bias, dark=dark, flat=flat)
    frame = remove_signature(bench.frame(light=5000.0, seconds=30.0), known, IsrConfig())
    medians = [np.median(section) for section in bench.camera.sections(frame.pixels)]
    np.testing.assert_allclose(np.array(medians) / np.mean(medians), 1.0, atol=0.01)


def test_hot_pixels_and_dull_columns_are_found_and_little_else(bench, dark, flat):
    defects = find_defects(dark, flat, DefectConfig(bright=4.8, min_dark_current=5.0, dark=8.0))
    mask = defect_mask(defects, bench.camera.box)
    truth = (bench.dark > 5.0) | (bench.response < 0.8)
    assert mask[truth].all()
    assert (mask & ~truth).sum() <= 2
    assert defects.colnames == ["x0", "y0", "width", "height"]


@pytest.mark.parametrize(
    ("rows", "filled"),
    [
        (list(range(0, 120, 2)), True),  # every other pixel
        (list(range(0, 40)) + list(range(60, 80)), True),  # a gap of 20
        (list(range(0, 40)) + list(range(80, 100)), False),  # a gap of 40
        (list(range(0, 60, 2)), False),  # too few for a column
    ],
)  # fmt: skip
def test_columns_with_many_bad_pixels_are_filled(rows, filled):
    values = np.random.default_rng(1).normal(0.0, 1.0, (120, 40)).clip(-3, 3)
    values[rows, 7] = 1000.0
    defects = find_defects(Image(values, unit=u.electron / u.s), None, DefectConfig(bright=20.0, column=45))
    mask = defect_mask(defects, Image(values).bbox)
    expected = np.zeros(values.shape, bool)
    expected[rows, 7] = True
    if filled:
        expected[min(rows) : max(rows) + 1, 7] = True
    assert (mask == expected).all()


def test_crosstalk_is_measured_to_a_millionth(bench):
    camera, rng = Camera(80, 80, read_noise=0.1), np.random.default_rng(3)
    names = [a.name for a in camera.amplifiers]
    true = {(a, b): rng.uniform(1e-4, 3e-4) for a in names for b in names if a != b}
    true["A0", "A1"] = 0.0
    raws = []
    for _ in range(4):
        light = [np.zeros((80, 80)) for _ in range(4)]
        for k, section in enumerate(light):
            place = slice(16 * k + 2, 16 * k + 14)
            section[place, 10:60] = 12_345.0
        seen = [each + sum(true[a, b] * light[j] for j, b in enumerate(names) if a != b)
                for a, each in zip(names, light, strict=True)]  # fmt: skip
        raws.append(camera.image(camera.read_out(seen, rng=rng)))
    table = measure_crosstalk(raws, threshold=10_000.0, config=IsrConfig())
    assert len(table) == 12
    for row in table:
        found = row["linear"] - true[row["victim"], row["source"]]
        assert abs(found) < 1e-6
        assert row["n_pixels"] > 1000
    assert table[(table["victim"] == "A0") & (table["source"] == "A1")]["linear"][0] == 0.0
    frame = remove_signature(raws[0], Calibrations(crosstalk=table), IsrConfig(crosstalk_mask=1e9))
    ghosts = frame.pixels / camera.gain_map()
    assert np.abs(ghosts[ghosts < 6000].mean()) < 0.02


def test_builders_say_what_they_cannot_use(bench, bias):
    one = bench.frame()
    with pytest.raises(BadInput, match="1 frames"):
        build_bias([one])
    other = Camera(30, 30)
    small = other.image(other.read_out(other.sections(np.ones(other.box.shape)), rng=np.random.default_rng(1)))
    with pytest.raises(BadInput, match="several detectors"):
        build_bias([one, one, small])
    with pytest.raises(BadInput, match="no time"):
        build_dark([one] * 3, Calibrations(bias=bias))
    with pytest.raises(BadInput, match="exposure time"):
        build_dark([_without_time(bench)] * 3, Calibrations(bias=bias))
    with pytest.raises(BadInput, match="median"):
        build_flat([one] * 3, Calibrations(bias=bias))
    with pytest.raises(BadInput, match="no frame"):
        find_defects(None, None)
    with pytest.raises(ShapeError):
        find_defects(bias, Image(np.ones((3, 3))))
    with pytest.raises(AllMasked):
        find_defects(Image(np.full((9, 9), np.nan)), None)
    with pytest.raises(BadInput, match="above"):
        measure_crosstalk([one], threshold=1e5, config=IsrConfig())
    assert BuildConfig().min_frames == 3


def _without_time(bench):
    camera = bench.camera
    light = bench.rng.uniform(0, 5, camera.box.shape)
    return camera.image(camera.read_out(camera.sections(light), rng=bench.rng), exposure_time=np.nan)


def test_a_pixel_that_no_frame_has_is_no_number_and_becomes_bad(bench):
    frames = [bench.frame(light=20_000.0) for _ in range(3)]
    for frame in frames:
        frame.image.array[10, 10] = np.nan
    flat = build_flat(frames, Calibrations())
    assert np.isnan(flat.array[10, 10])
    seen = remove_signature(bench.frame(light=20_000.0), Calibrations(flat=flat), IsrConfig())
    assert np.argwhere(seen.planes["BAD"]).tolist() == [[10, 10]]
