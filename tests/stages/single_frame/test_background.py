import numpy as np
import pytest
import sep
from lsst.images import Box
from single_frame_scenes import Field, Sersic

from nightlab.errors import AllMasked
from nightlab.stages.single_frame import calibrate
from nightlab.stages.single_frame.background import BackgroundConfig, extended_sources, sky_field

SHAPE = (640, 512)
BOX = Box.from_shape(SHAPE)


def test_flat_sky_is_recovered_to_a_tenth_of_a_count():
    pixels = np.random.default_rng(1).normal(1000.0, 10.0, SHAPE)
    model = sky_field(pixels, np.ones(SHAPE, bool), BOX, BackgroundConfig(), None).render().array
    assert abs(np.median(model) - 1000.0) < 0.1
    assert np.abs(model - 1000.0).max() < 1.0


def test_a_gradient_survives_bright_unmasked_sources():
    rng = np.random.default_rng(2)
    y, x = np.indices(SHAPE)
    truth = 300.0 + 0.05 * x - 0.03 * y
    pixels = truth + rng.normal(0, 5, SHAPE)
    pixels[rng.integers(0, 640, 300), rng.integers(0, 512, 300)] += 1e4
    model = sky_field(pixels, np.ones(SHAPE, bool), BOX, BackgroundConfig(), None).render().array
    assert np.abs(model - truth).max() < 1.0


def test_masked_cells_take_the_level_of_their_neighbours():
    pixels = np.full(SHAPE, 50.0)
    good = np.ones(SHAPE, bool)
    pixels[:128, :128], good[:128, :128] = 1e5, False
    model = sky_field(pixels, good, BOX, BackgroundConfig(), None).render().array
    np.testing.assert_allclose(model, 50.0)


def test_nothing_but_mask_is_refused():
    with pytest.raises(AllMasked, match="no cell"):
        sky_field(np.zeros(SHAPE), np.zeros(SHAPE, bool), BOX, BackgroundConfig(), None)


WIDE = (900, 1100)
SKY = 200.0


@pytest.fixture(scope="module")
def stars():
    return Field(seed=5, n=150, shape=WIDE, sky=SKY)


def sky_of(stars, pixels, variance):
    result = calibrate(stars.image(pixels=pixels, variance=variance, metadata={"zeroPoint": 31.4}))
    return result.visit_image.backgrounds.subtracted.field.render().array


def with_galaxy(stars, galaxy):
    light = galaxy.draw(WIDE)
    noise = np.random.default_rng(1).normal(size=WIDE) * np.sqrt(light / stars.gain)
    return stars.pixels + light + noise, stars.variance + light / stars.gain


@pytest.mark.parametrize(
    ("n", "radius", "flux", "bar"),
    [(1, 20, 3e5, 0.02), (1, 30, 2e6, 0.02), (1, 60, 2e6, 0.03), (4, 20, 2e6, 0.02), (4, 30, 2e6, 0.02)],
)
def test_a_galaxy_keeps_its_flux(stars, n, radius, flux, bar, record_property):
    galaxy = Sersic(x=520.3, y=470.8, flux=flux, half_light_radius=radius, n=n)
    pixels, variance = with_galaxy(stars, galaxy)
    near = galaxy.distance(WIDE) < 3 * radius
    truth = galaxy.inside(3 * radius)
    # of the drawing itself
    assert galaxy.draw(WIDE)[near].sum() == pytest.approx(truth, rel=3e-3)
    lost = (sky_of(stars, pixels, variance) - SKY)[near].sum() / truth
    peer = (sep.Background(pixels, bw=128, bh=128, fw=3, fh=3).back() - SKY)[near].sum() / truth
    record_property("lost", f"{lost:.4f}, with the background of sep {peer:.4f}")
    assert abs(lost) < bar
    assert peer > 0
    assert abs(lost) < max(peer, 0.005)


def test_the_sky_of_a_field_of_stars_is_found_to_a_tenth_of_a_count(stars):
    off = sky_of(stars, stars.pixels, stars.variance) - SKY
    assert abs(off.mean()) < 0.1
    assert off.std() < 0.02 * np.sqrt(np.median(stars.variance))
    assert np.abs(off).max() < 0.2 * np.sqrt(np.median(stars.variance))


def test_a_sky_that_is_neither_flat_nor_quadratic_is_followed(stars):
    y, x = np.indices(WIDE)
    u, v = x / WIDE[1] - 0.5, y / WIDE[0] - 0.5
    sky = 30.0 * u - 20.0 * v - 80.0 * np.hypot(u, v) ** 3
    miss = sky_of(stars, stars.pixels + sky, stars.variance) - SKY - sky
    assert np.ptp(sky) > 40
    assert miss.std() < 0.25
    assert np.abs(miss[64:-64, 64:-64]).max() < 1.0


def test_what_is_extended_is_marked_and_blank_sky_hardly():
    rng = np.random.default_rng(3)
    galaxy = Sersic(x=500.0, y=450.0, flux=1e6, half_light_radius=30, n=1)
    good = np.ones(WIDE, bool)
    noise = rng.normal(SKY, 7.0, WIDE)
    assert extended_sources(noise, good, BackgroundConfig()).mean() < 0.15
    marked = extended_sources(noise + galaxy.draw(WIDE), good, BackgroundConfig())
    # out to where its light is less than a tenth of the noise of a pixel
    light = galaxy.draw(WIDE)
    assert marked[light > 0.7].all()
    assert marked[galaxy.distance(WIDE) > 300].mean() < 0.15
    assert not extended_sources(noise, np.zeros(WIDE, bool), BackgroundConfig()).any()
    assert not extended_sources(noise[:40, :40], good[:40, :40], BackgroundConfig()).any()


def test_a_gap_in_the_mesh_is_bridged_along_the_gradient():
    y, x = np.indices(SHAPE)
    truth = 100.0 + 0.1 * x + 0.05 * y
    good = np.ones(SHAPE, bool)
    good[256:384, 128:384] = False
    model = sky_field(np.where(good, truth, 1e6), good, BOX, BackgroundConfig(), None).render().array
    assert np.abs(model - truth).max() < 6.0
    assert abs((model - truth)[256:384, 128:384].mean()) < 1.5
