import astropy.units as u
import numpy as np
import pytest
from lsst.images import Box, Image, Mask, MaskedImage, TractFrame
from lsst.images.psfs import GaussianPointSpreadFunction

from nightlab.images.planes import TEMPLATE_PLANES, VISIT_PLANES
from nightlab.images.warp import (
    CORRELATION_KEY,
    correlation_text,
    integer_shift,
    pixel_map,
    read_correlation,
    warp,
    warp_psf,
)
from nightlab.images.wcs import pixel_to_radec, radec_to_pixel, tan_projection

BOX = Box.factory[100:400, 50:370]


def projection(ra=30.0, rotation=0.0, scale=0.2):
    frame = TractFrame(skymap="test", tract=0, bbox=Box.from_shape((1000, 1000)))
    return tan_projection(ra, 10.0, x=200.0, y=250.0, scale=scale, rotation=rotation, frame=frame)


def masked_image(seed=1, own=None):
    rng = np.random.default_rng(seed)
    pixels = rng.normal(size=(300, 320)).astype(np.float32)
    image = Image(pixels, bbox=BOX, unit=u.nJy, sky_projection=own or projection())
    mask = Mask(schema=VISIT_PLANES, bbox=BOX)
    saturated = np.zeros((300, 320), bool)
    saturated[100:104, 50:53] = True
    mask.set("SATURATED", saturated)
    return MaskedImage(image, mask=mask, variance=Image(np.ones((300, 320), np.float32), bbox=BOX, unit=u.nJy**2))


def test_lattice_is_fine_enough_everywhere():
    target, source = projection(30.003, 40.0), projection()
    mapping = pixel_map(target, source, BOX, BOX)
    rng = np.random.default_rng(2)
    x, y = rng.uniform(0, 319, 500), rng.uniform(0, 299, 500)
    ra, dec = pixel_to_radec(target, x + BOX.x.start, y + BOX.y.start)
    true_x, true_y = radec_to_pixel(source, ra, dec)
    got_x, got_y = mapping.at(x, y)
    assert np.hypot(got_x - true_x + BOX.x.start, got_y - true_y + BOX.y.start).max() < 1e-3


def test_same_projection_copies_and_names_survive():
    image = masked_image()
    out = warp(image, projection(), Box.factory[110:410, 45:300], schema=TEMPLATE_PLANES, max_misalignment=0.3)
    assert out.copied
    np.testing.assert_array_equal(out.image[:290, 5:], image.image.array[10:, :250])
    assert out.no_data[290:].all()
    assert out.no_data[:, :5].all()
    assert out.mask.get("SATURATED").sum() == 12
    assert out.mask.get("SATURATED")[90, 55]
    assert (out.mask.get("NO_DATA") == out.no_data).all()


def test_rotation_moves_flux_to_where_the_sky_is():
    image = masked_image()
    r = np.arange(320)[None, :] - 170.0, np.arange(300)[:, None] - 140.0
    image.image.array[:] = 100 * np.exp(-0.5 * (r[0] ** 2 + r[1] ** 2) / 4.0)
    target = projection(30.002, 33.0, 0.22)
    box = Box.factory[0:500, 0:500]
    out = warp(image, target, box, schema=TEMPLATE_PLANES)
    assert not out.copied
    assert integer_shift(out.mapping, 0.3) is None
    ra, dec = pixel_to_radec(projection(), [170.0 + BOX.x.start], [140.0 + BOX.y.start])
    x, y = radec_to_pixel(target, ra, dec)
    flat = np.where(out.no_data, 0, out.image)
    gy, gx = np.mgrid[:500, :500]
    assert flat.sum() == pytest.approx(image.image.array.sum(), rel=2e-3)
    assert (flat * gx).sum() / flat.sum() == pytest.approx(x[0], abs=0.01)
    assert (flat * gy).sum() / flat.sum() == pytest.approx(y[0], abs=0.01)


def test_psf_follows_the_pixels():
    psf = GaussianPointSpreadFunction(2.0, bounds=BOX, stamp_size=31)
    mapping = pixel_map(projection(30.0, 0.0, 0.1), projection(), Box.factory[100:500, 100:500], BOX)
    stamps, valid = warp_psf(psf, mapping, BOX, np.array([100.0, 5000.0]), np.array([200.0, 200.0]))
    assert valid.tolist() == [True, False]
    r = np.arange(-15, 16)
    assert (stamps[0] * r[None, :] ** 2).sum() == pytest.approx(16.0, rel=0.05)  # 4 px; the stamp's corners are cut
    assert stamps[0].sum() == pytest.approx(1.0)


def test_correlation_travels_as_text():
    image = masked_image()
    out = warp(image, projection(30.0005, 10.0), BOX, schema=TEMPLATE_PLANES)
    image.metadata[CORRELATION_KEY] = correlation_text(out.correlation)
    np.testing.assert_allclose(read_correlation(image), out.correlation, atol=1e-6)
    assert read_correlation(masked_image()) is None
    again = warp(image, projection(30.0005, 10.0), BOX, schema=TEMPLATE_PLANES)
    assert again.correlation[7, 8] > out.correlation[7, 8] > 0.05
