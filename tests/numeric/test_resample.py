import numpy as np
import pytest

from nightlab.errors import BadInput, ShapeError
from nightlab.numeric.resample import PixelMap, lanczos_table, noise_autocorrelation, resample, warp_stamps


def affine_map(shape, matrix, shift, step=16):
    """Input = matrix @ (x, y) + shift on a lattice."""
    ny, nx = shape
    rows = np.arange(-(-(ny - 1) // step) + 1) * step
    columns = np.arange(-(-(nx - 1) // step) + 1) * step
    gx, gy = np.meshgrid(columns, rows)
    (a, b), (c, d) = matrix
    return PixelMap(x=a * gx + b * gy + shift[0], y=c * gx + d * gy + shift[1], step=step, shape=shape)


def rotation(degrees):
    t = np.deg2rad(degrees)
    return ((np.cos(t), -np.sin(t)), (np.sin(t), np.cos(t)))


def stars(shape, x, y, sigma, flux=1000.0):
    gy, gx = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape)
    for a, b in zip(x, y, strict=True):
        image += flux / (2 * np.pi * sigma**2) * np.exp(-0.5 * ((gx - a) ** 2 + (gy - b) ** 2) / sigma**2)
    return image


def blank(shape, n_bytes=1):
    return np.ones(shape), np.zeros((*shape, n_bytes), np.uint8)


def test_weights_sum_to_one_and_are_exact_on_pixels():
    for order in (3, 4, 5):
        table = lanczos_table(order)
        np.testing.assert_allclose(table.sum(axis=1), 1.0, atol=1e-12)
        assert table[0, order - 1] == 1.0


def test_identity_returns_the_input():
    rng = np.random.default_rng(1)
    image = rng.normal(size=(50, 60)).astype(np.float32)
    variance, mask = rng.uniform(1, 2, size=(50, 60)).astype(np.float32), np.zeros((50, 60, 1), np.uint8)
    mask[7, 9] = 4
    out = resample(image, variance, mask, affine_map((50, 60), np.eye(2), (0, 0)))
    np.testing.assert_array_equal(out.image, image)
    np.testing.assert_array_equal(out.variance, variance)
    np.testing.assert_array_equal(out.mask, mask)
    assert not out.no_data.any()


def test_it_equals_the_sum_written_out():
    """A brute-force twin of one output pixel."""
    rng = np.random.default_rng(2)
    image, (variance, mask) = rng.normal(size=(20, 20)), blank((20, 20))
    out = resample(image, variance, mask, affine_map((20, 20), np.eye(2), (0.3, 0.7)), order=4)
    u, v = np.arange(20) - 10.3, np.arange(20) - 10.7

    def lanczos(t):
        return np.where(np.abs(t) < 4, np.sinc(t) * np.sinc(t / 4), 0)

    weights = np.outer(lanczos(v), lanczos(u))
    weights /= weights.sum()
    assert out.image[10, 10] == pytest.approx((weights * image).sum(), abs=2e-3)
    assert out.variance[10, 10] == pytest.approx((weights**2).sum(), rel=2e-3)


@pytest.mark.parametrize("scale", [1.0, 0.9, 1.1])
def test_stars_keep_flux_and_place(scale):
    shape, sigma = (120, 130), 2.0
    image = stars(shape, [65.2], [60.7], sigma)
    matrix = scale * np.array(rotation(20.0))
    shift = np.array([65.0, 60.0]) - matrix @ [64.0, 59.0]
    out = resample(image, *blank(shape), affine_map(shape, matrix, shift)).image
    total = np.nansum(out)
    gy, gx = np.mgrid[: shape[0], : shape[1]]
    expected = np.linalg.solve(matrix, np.array([65.2, 60.7]) - shift)
    assert total == pytest.approx(1000.0, rel=2e-3)
    assert np.nansum(out * gx) / total == pytest.approx(expected[0], abs=0.01)
    assert np.nansum(out * gy) / total == pytest.approx(expected[1], abs=0.01)
    # second moments shrink with the pixels
    spread = np.nansum(out * (gx - expected[0]) ** 2) / total
    assert spread == pytest.approx((sigma / scale) ** 2, rel=0.01)


def test_what_leaves_the_input_is_no_data_and_masks_reach_as_far_as_their_weight():
    image, (variance, mask) = np.ones((40, 40)), blank((40, 40))
    mask[20, 20] = 2
    image[10, 10] = np.nan
    out = resample(image, variance, mask, affine_map((40, 40), np.eye(2), (5.5, 0.0)))
    assert out.no_data[:, -8:].all()
    assert np.isnan(out.image[10, 5])
    assert not out.no_data[10, 12]
    assert (out.mask[20, 12:18, 0] == 2).all()
    assert out.mask.sum() == 2 * 6
    np.testing.assert_allclose(out.image[25:, :30], 1.0, atol=1e-6)


@pytest.mark.parametrize("order", [3, 5])
def test_noise_is_as_correlated_as_predicted(order):
    shape = (400, 420)
    mapping = affine_map(shape, rotation(3.0), (20.3, -10.6))
    rng = np.random.default_rng(3)
    out = resample(rng.normal(size=shape), *blank(shape), mapping, order=order)
    predicted = noise_autocorrelation(mapping, order=order)
    noise = np.where(out.no_data, 0.0, out.image)
    centre = noise.shape[0] * noise.shape[1]
    measured = np.fft.ifft2(np.abs(np.fft.fft2(noise, (512, 512))) ** 2).real
    for dy, dx in [(0, 1), (1, 0), (1, 1), (0, 2), (2, 1), (3, 0)]:
        assert measured[dy, dx] / measured[0, 0] == pytest.approx(predicted[7 + dy, 7 + dx], abs=0.01)
    assert predicted[7, 8] > 0.05
    assert np.nanmean(out.variance) == pytest.approx(measured[0, 0] / (centre - out.no_data.sum()), rel=0.02)


def test_correlated_input_noise_stays_in_the_prediction():
    shape = (300, 300)
    rng = np.random.default_rng(4)
    white = rng.normal(size=(302, 302))
    correlated = (white[1:-1, 1:-1] + 0.5 * white[1:-1, 2:] + 0.5 * white[2:, 1:-1]).astype(np.float32)
    own = np.zeros((5, 5))
    own[2, 2] = 1.5
    own[2, 1] = own[2, 3] = own[1, 2] = own[3, 2] = 0.5
    own[1, 3] = own[3, 1] = 0.25
    mapping = affine_map(shape, np.eye(2), (0.4, 0.5))
    out = resample(correlated, *blank(shape), mapping)
    predicted = noise_autocorrelation(mapping, input_autocorrelation=own / 1.5)
    inner = out.image[10:-10, 10:-10]
    for dy, dx in [(0, 1), (1, 0), (1, -1), (0, 2)]:
        a = inner[: 280 - dy, max(0, -dx) : 280 - max(0, dx)]
        b = inner[dy:, max(0, dx) : 280 - max(0, -dx)]
        assert (a * b).mean() / inner.var() == pytest.approx(predicted[7 + dy, 7 + dx], abs=0.015)


def test_stamps_are_turned():
    r = np.arange(-12, 13)
    stamp = np.exp(-0.5 * ((r[None, :] / 3.0) ** 2 + (r[:, None] / 1.8) ** 2))
    turned = warp_stamps(stamp[None], np.array([rotation(90.0)]))[0]
    np.testing.assert_allclose(turned, stamp.T / stamp.sum(), atol=1e-5)


def test_refusals():
    with pytest.raises(ShapeError, match="share a grid"):
        resample(
            np.ones((5, 5)), np.ones((5, 6)), np.zeros((5, 5, 1), np.uint8), affine_map((5, 5), np.eye(2), (0, 0))
        )
    with pytest.raises(BadInput, match="order 2"):
        resample(np.ones((5, 5)), *blank((5, 5)), affine_map((5, 5), np.eye(2), (0, 0)), order=2)
    with pytest.raises(ShapeError, match="do not cover"):
        PixelMap(x=np.ones((2, 2)), y=np.ones((2, 2)), step=8, shape=(20, 20))
