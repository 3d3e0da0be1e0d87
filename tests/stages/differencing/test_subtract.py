import numpy as np
import pytest
import scipy.ndimage as ndi
from lsst.images import DifferenceImage

from nightlab.errors import BadInput, BandMismatch, NoOverlap, ShapeError, TooFewStars
from nightlab.images.psf import psf_sigma
from nightlab.numeric.convolution import chebyshev_surface
from nightlab.numeric.spectra import measured_autocorrelation
from nightlab.stages.differencing import StarConfig, SubtractConfig, subtract
from nightlab.stages.differencing.kernel_stars import select_stars


def value(result, name):
    return float(result.metrics[name].values.ravel()[0])


def inner(difference, margin=24):
    return difference.image.array[margin:-margin, margin:-margin].astype(float)


def blank(sky, margin=24):
    gy, gx = np.mgrid[: sky.shape[0], : sky.shape[1]]
    free = np.ones(sky.shape, bool)
    for x, y in zip(sky.x, sky.y, strict=True):
        free &= np.hypot(gx - x, gy - y) > 14
    return free[margin:-margin, margin:-margin]


def test_equal_psfs_leave_twice_the_noise_and_nothing_else(sky):
    result = subtract(sky.visit(2.4, seed=1), sky.visit(2.4, seed=2, visit=8))
    left = inner(result.difference_image)
    free = blank(sky)
    assert abs(left[free].mean()) < 5 * np.sqrt(2 / free.sum())
    assert left.std() == pytest.approx(np.sqrt(2), rel=0.1)
    assert value(result, "kernel_sum") == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("science", "template"), [(2.4, 2.0), (2.0, 2.4), (2.8, 2.0)])
@pytest.mark.parametrize("noise", [(1.0, 1.0), (1.0, 0.1), (0.1, 0.1)])
def test_variance_plane_tells_the_truth(sky, science, template, noise):
    result = subtract(sky.visit(science, noise[0], seed=1), sky.visit(template, noise[1], seed=2, visit=8))
    difference = result.difference_image
    expected = sum(noise)
    free = blank(sky)
    assert np.median(difference.variance.array[24:-24, 24:-24]) == pytest.approx(expected, rel=0.05)
    assert inner(difference)[free].std() == pytest.approx(np.sqrt(expected), rel=0.05)
    assert value(result, "noise_ratio") == pytest.approx(1.0, abs=0.05)
    assert value(result, "template_convolved") == float(template < science)


def test_both_orders_agree(sky):
    """Convolving either image gives the same difference, within the noise of two kernels."""
    pair = sky.visit(2.4, seed=1), sky.visit(2.4, seed=2, visit=8)
    one, other = (subtract(*pair, config=SubtractConfig(convolve=mode)) for mode in ("template", "science"))
    apart = inner(one.difference_image) - inner(other.difference_image)
    assert np.abs(apart).max() < 5 * 2
    assert apart.std() < 2.0


def test_difference_changes_sign_with_its_inputs(sky):
    a, b = sky.visit(2.2, seed=1), sky.visit(2.6, seed=2, visit=8)
    total = inner(subtract(a, b).difference_image) + inner(subtract(b, a).difference_image)
    assert total.std() < 0.35 * np.sqrt(2)


def test_background_goes(sky):
    surface = chebyshev_surface(np.array([30.0, 10.0, -6.0, 5.0, 4.0, -3.0]), 2, sky.shape)
    result = subtract(sky.visit(2.4, seed=1, background=surface), sky.visit(2.0, seed=2, visit=8))
    free = blank(sky)
    left = inner(result.difference_image)
    assert left[free].std() == pytest.approx(np.sqrt(2), rel=0.1)
    assert abs(ndi.uniform_filter(left, 25)[free]).max() < 1.5


@pytest.mark.parametrize("variances", [(0.04, 0.04), (0.08, 0.04), (0.04, 0.08), (1.0, 100.0)])
def test_decorrelated_noise_is_white(big_sky, variances):
    """The acceptance table: PSFs of 3.3 and 2.2 px; the last row is the hardest."""
    science, template = variances
    result = subtract(
        big_sky.visit(3.3, science, seed=1),
        big_sky.visit(2.2, template, seed=2, visit=8),
        config=SubtractConfig(convolve="template"),
    )
    raw = subtract(
        big_sky.visit(3.3, science, seed=1),
        big_sky.visit(2.2, template, seed=2, visit=8),
        config=SubtractConfig(convolve="template", decorrelate=False),
    )
    free = blank(big_sky, 40)
    left = inner(result.difference_image, 40)
    correlation = measured_autocorrelation(left, free, 10)
    before = measured_autocorrelation(inner(raw.difference_image, 40), free, 10)
    correlation[10, 10] = 0
    assert left[free].var() == pytest.approx(science + template, rel=0.05)
    assert np.nanmedian(result.difference_image.variance.array) == pytest.approx(science + template, rel=0.02)
    assert np.abs(correlation).max() < 0.03
    if template == 100.0:
        assert (before[10, 11:14] > 0.2).all()
    assert raw.difference_image.variance.array[256, 256] < 0.75 * (science + template)


def test_psf_of_the_difference_matches_a_new_star(big_sky):
    new = [(250.3, 260.6, 20000.0)]
    science = big_sky.visit(3.0, 0.01, seed=1, extra=new)
    result = subtract(science, big_sky.visit(2.2, 0.04, seed=2, visit=8)).difference_image
    from nightlab.images.psf import psf_stamps

    stamp = psf_stamps(result.psf, [250.3], [260.6], size=31)[0]
    data = result.image.array[261 - 15 : 261 + 16, 250 - 15 : 250 + 16]
    flux = (stamp * data).sum() / (stamp**2).sum()
    assert flux == pytest.approx(20000.0, rel=0.01)
    assert np.abs(data - flux * stamp).max() < 0.01 * data.max() + 5 * np.sqrt(0.05)
    assert psf_sigma(result.psf, 250.0, 260.0) < 3.0  # whitening sharpens


def test_template_planes_are_renamed_and_holes_grow(sky):
    holes = np.zeros(sky.shape, bool)
    holes[:, :60] = True
    saturated = np.zeros(sky.shape, bool)
    saturated[128:131, 128:131] = True
    template = sky.visit(2.0, seed=2, visit=8, planes={"NO_DATA": holes, "SATURATED": saturated})
    difference = subtract(sky.visit(2.6, seed=1), template).difference_image
    assert np.isnan(difference.image.array[:, :60]).all()
    assert difference.mask.get("NO_DATA")[100, 61]
    assert not difference.mask.get("NO_DATA")[100, 75]
    assert np.isfinite(difference.image.array[~difference.mask.get("NO_DATA")]).all()
    assert difference.mask.get("SAT_TEMPLATE")[129, 129]
    assert not difference.mask.get("SATURATED").any()


def test_result_survives_a_file(sky, tmp_path):
    result = subtract(sky.visit(2.4, seed=1), sky.visit(2.0, seed=2, visit=8)).difference_image
    result.write(tmp_path / "difference.fits")
    back = DifferenceImage.read(tmp_path / "difference.fits")
    np.testing.assert_array_equal(back.image.array, result.image.array)
    assert back.kernel.compute_kernel_image(x=100, y=90).array.sum() == pytest.approx(
        result.metadata["kernel_sum"], rel=1e-6
    )


def test_it_is_reproducible_to_the_bit(sky):
    pair = sky.visit(2.4, seed=1), sky.visit(2.0, seed=2, visit=8)
    one, other = subtract(*pair).difference_image, subtract(*pair).difference_image
    np.testing.assert_array_equal(one.image.array, other.image.array)


def test_refusals(sky, draw_visit):
    science = sky.visit(2.0)
    with pytest.raises(BandMismatch, match="band r and the template in g"):
        subtract(science, draw_visit(sky.draw(2.0), 1.0, 2.0, band="g"))
    with pytest.raises(ShapeError, match="has pixels"):
        subtract(science, draw_visit(sky.draw(2.0)[:-1], 1.0, 2.0))
    with pytest.raises(BadInput, match="adu"):
        subtract(science, draw_visit(sky.draw(2.0), 1.0, 2.0, unit="adu"))
    with pytest.raises(NoOverlap, match="covers 0"):
        subtract(science, sky.visit(2.0, planes={"NO_DATA": np.ones(sky.shape, bool)}))
    with pytest.raises(TooFewStars, match="it needs 3"):
        subtract(draw_visit(np.zeros(sky.shape) + np.random.default_rng(1).normal(size=sky.shape), 1.0, 2.0), science)


def test_stars_are_spread_over_the_image():
    from astropy.table import Table

    rng = np.random.default_rng(3)
    table = Table({"x": rng.uniform(0, 512, 500), "y": rng.uniform(0, 512, 500), "snr": rng.uniform(60, 500, 500)})
    table["pixelFlags_saturated"] = table["snr"] > 400
    config = StarConfig(per_cell=4, wanted=1, isolation=0.0)
    x, y = select_stars(table, (512, 512), config)
    cells = np.bincount((y // 256).astype(int) * 2 + (x // 256).astype(int))
    assert cells.tolist() == [4, 4, 4, 4]
    taken = np.isin(np.asarray(table["x"]), x)
    assert not table["pixelFlags_saturated"][taken].any()
