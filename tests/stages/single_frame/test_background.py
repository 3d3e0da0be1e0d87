import numpy as np
import pytest
from lsst.images import Box

from nightlab.errors import AllMasked
from nightlab.stages.single_frame.background import BackgroundConfig, sky_field

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
