import json

import numpy as np
import pytest
from lsst.images import Box, DetectorFrame
from lsst.images.cells import CellCoadd
from lsst.images.psfs import GaussianPointSpreadFunction
from scipy.ndimage import maximum_filter

from nightlab.errors import BadInput, BandMismatch, NoOverlap
from nightlab.images.build import observation, visit_image
from nightlab.images.camera import make_detector
from nightlab.images.psf import psf_stamps
from nightlab.images.skymap import SkyMap, TractGrid
from nightlab.images.warp import read_correlation
from nightlab.images.wcs import fits_header, radec_to_pixel, tan_projection
from nightlab.stages.templates import TemplateConfig, build_template, warp_template

RA, DEC, SCALE, SHAPE = 150.0, 2.0, 0.2, (240, 260)
RNG = np.random.default_rng(1)
LATTICE = np.meshgrid(np.linspace(-19, 19, 5), np.linspace(-17, 17, 5))
STARS = (  # a jittered lattice, so that every star stands alone
    RA + (LATTICE[0].ravel() + RNG.uniform(-1, 1, 25)) / 3600,
    DEC + (LATTICE[1].ravel() + RNG.uniform(-1, 1, 25)) / 3600,
    RNG.uniform(5e3, 5e4, 25),
)


def visit(
    number,
    *,
    rotation=0.0,
    offset=(0.0, 0.0),
    sigma=2.0,
    noise=1.0,
    extra=None,
    band="r",
    unit="nJy",
    stars=STARS,
    detector=1,
):
    """One exposure of the same stars, anywhere near the field centre."""
    box = Box.from_shape(SHAPE)
    projection = tan_projection(
        RA + offset[0] / 3600,
        DEC + offset[1] / 3600,
        x=130.0,
        y=120.0,
        scale=SCALE,
        rotation=rotation,
        frame=DetectorFrame(instrument="Test", visit=number, detector=detector, bbox=box),
        bbox=box,
    )
    x, y = radec_to_pixel(projection, stars[0], stars[1])
    gy, gx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    pixels = np.random.default_rng(number).normal(0, noise**0.5, SHAPE)
    for a, b, f in zip(x, y, stars[2], strict=True):
        pixels += f / (2 * np.pi * sigma**2) * np.exp(-0.5 * ((gx - a) ** 2 + (gy - b) ** 2) / sigma**2)
    if extra is not None:
        pixels = pixels + extra
    info = observation(
        "Test",
        visit=number,
        detector=detector,
        physical_filter="test_r",
        mjd_tai=6e4,
        exposure_time=30.0,
        ra=RA,
        dec=DEC,
    )
    return visit_image(
        pixels,
        variance=np.full(SHAPE, noise),
        unit=unit,
        projection=projection,
        psf=GaussianPointSpreadFunction(sigma, bounds=box, stamp_size=31),
        detector=make_detector("Test", detector, f"d{detector}", box, pixel_scale=SCALE, visit=number),
        band=band,
        info=info,
    )


def sky_map(rotation=0.0, shape=(320, 320), patch=(160, 160)):
    projection = tan_projection(
        RA, DEC, x=160.0, y=160.0, scale=SCALE, rotation=rotation, frame=_frame(), bbox=Box.from_shape(shape)
    )
    header = fits_header(projection, Box.from_shape(shape))
    grid = TractGrid(tract=4, header=header, shape=shape, patch=patch, border=20, cell=(40, 40))
    return SkyMap(name="test", tracts=(grid,))


def _frame():
    from lsst.images import TractFrame

    return TractFrame(skymap="test", tract=4, bbox=Box.from_shape((320, 320)))


def patches(images, skies, **knobs):
    tract = skies.tracts[0]
    return [
        build_template(images, skies, 4, patch, TemplateConfig(**knobs)).template_coadd
        for patch, _, _ in tract.patches()
    ]


def value(result, name):
    return float(result.metrics[name].values.ravel()[0])


def star_fluxes(image, sigma, half=9):
    """Sums of 19 x 19 pixels on every star well inside, over truth."""
    x, y = radec_to_pixel(image.sky_projection, STARS[0], STARS[1])
    ix, iy = np.rint(x).astype(int) - image.bbox.x.start, np.rint(y).astype(int) - image.bbox.y.start
    ratios = []
    for k in range(len(ix)):
        lonely = np.sort(np.hypot(x - x[k], y - y[k]))[1] > 24
        cut = image.image.array[max(iy[k] - half, 0) : iy[k] + half + 1, max(ix[k] - half, 0) : ix[k] + half + 1]
        if lonely and cut.shape == (2 * half + 1,) * 2 and np.isfinite(cut).all():
            ratios.append(cut.sum() / STARS[2][k])
    return np.array(ratios)


def test_one_visit_on_its_own_grid_comes_back_unchanged():
    """Aligned grids are copied, through the tract and back, without a seam."""
    image = visit(1)
    template = warp_template(image, patches([image], sky_map()))
    assert value(template, "copied") == 1
    np.testing.assert_allclose(template.template_detector.image.array, image.image.array, rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(template.template_detector.variance.array, 1.0, rtol=1e-6)
    assert not template.template_detector.mask.get("NO_DATA").any()
    assert read_correlation(template.template_detector).sum() == pytest.approx(1.0)


@pytest.mark.parametrize("rotation", [0.0, 93.0])
def test_flux_and_psf_survive_two_resamplings(rotation):
    science = visit(9, rotation=20.0, noise=0.01)
    template = warp_template(science, patches([visit(1, noise=0.01)], sky_map(rotation))).template_detector
    ratios = star_fluxes(template, 2.0)
    assert len(ratios) > 8
    assert np.median(ratios) == pytest.approx(1.0, abs=0.002)
    assert np.abs(ratios - 1).max() < 0.01
    stamp = psf_stamps(template.psf, [130.0], [120.0], centred=True)[0]
    r = np.arange(stamp.shape[0]) - stamp.shape[0] // 2
    weight = np.exp(-0.5 * np.add.outer(r**2, r**2) / 16)
    moment = (stamp * weight * r[None, :] ** 2).sum() / (stamp * weight).sum()
    assert 1 / (1 / moment - 1 / 16) == pytest.approx(4.0, rel=0.02)


def test_noise_of_the_result_is_as_recorded():
    nothing = (STARS[0], STARS[1], np.zeros(25))
    images = [visit(n, offset=(0.31 * n, -0.13 * n), stars=nothing) for n in range(1, 5)]
    coadds = patches(images, sky_map(12.0, patch=(320, 320)))
    coadd = coadds[0]
    inner = coadd.image.array[120:240, 120:240]
    assert inner.std() == pytest.approx(np.sqrt(np.median(coadd.variance.array[120:240, 120:240])), rel=0.04)
    own = read_correlation(coadd)
    measured = (inner[:, 1:] * inner[:, :-1]).mean() / inner.var()
    assert measured == pytest.approx(own[7, 8], abs=0.02)
    assert own[7, 8] > 0.05


def test_artefacts_seen_once_are_clipped_and_stars_are_not():
    trail = np.zeros(SHAPE)
    trail[np.arange(20, 220), np.arange(30, 230)] = 60.0
    trail[np.arange(20, 220), np.arange(31, 231)] = 60.0
    hits = np.zeros(SHAPE)
    hits[[50, 111, 190], [200, 64, 120]] = 500.0
    clean = [
        visit(n, sigma=s, offset=(0.21 * n, 0.3 * n))
        for n, s in zip(range(1, 6), (1.8, 2.2, 2.0, 1.9, 2.1), strict=True)
    ]
    dirty = [*clean[:2], visit(3, sigma=2.0, offset=(0.63, 0.9), extra=trail + hits), *clean[3:]]
    skies = sky_map(patch=(320, 320))
    reference, result = (build_template(images, skies, 4, 0) for images in (clean, dirty))
    left = result.template_coadd.image.array - reference.template_coadd.image.array
    sigma = np.sqrt(np.nanmedian(reference.template_coadd.variance.array))
    unclipped = build_template(dirty, skies, 4, 0, TemplateConfig(clip=1e9)).template_coadd.image.array
    touched = np.abs(unclipped - reference.template_coadd.image.array) > 3 * sigma
    assert touched.sum() > 300
    dark = touched & (maximum_filter(reference.template_coadd.image.array, 7) < 20 * sigma)
    assert (np.abs(left[dark]) > 3 * sigma).mean() < 0.02
    assert (np.abs(left[touched]) > 3 * sigma).mean() < 0.12  # what lies on stars is spared
    assert np.nanmean(np.abs(left[dark])) < 1.0 * sigma
    assert result.template_coadd.mask.get("CLIPPED")[touched].mean() > 0.9
    ratios = star_fluxes(reference.template_coadd, 2.0)
    assert np.median(ratios) == pytest.approx(1.0, abs=0.002)
    assert value(reference, "clipped_fraction") < 0.002


def test_psf_of_an_average_is_the_average_psf():
    images = [visit(1, sigma=1.6, noise=1.0), visit(2, sigma=2.4, noise=4.0)]
    coadd = build_template(images, sky_map(patch=(320, 320)), 4, 0).template_coadd
    stamp = coadd.psf.compute_kernel_image(x=160, y=160).array
    r = np.arange(stamp.shape[0]) - stamp.shape[0] // 2
    one, two = (np.exp(-0.5 * np.add.outer(r**2, r**2) / s**2) / (2 * np.pi * s**2) for s in (1.6, 2.4))
    np.testing.assert_allclose(stamp, 0.8 * one + 0.2 * two, atol=3e-4)


def test_detectors_of_one_visit_are_one_visit_and_share_a_mosaic():
    """Two detectors side by side, in any order, give the sky of both."""
    images = [visit(n, offset=(15.0 * side, 0.0), detector=d) for n in (1, 2) for d, side in ((1, -1), (2, 1))]
    skies = sky_map(patch=(320, 320))
    one, other = (build_template(order, skies, 4, 0) for order in (images, images[::-1]))
    assert value(one, "n_visits") == 2
    assert json.loads(one.template_coadd.metadata["visits"]) == [1, 2]
    np.testing.assert_array_equal(one.template_coadd.image.array, other.template_coadd.image.array)
    alone = build_template(images[::2], skies, 4, 0)
    assert value(one, "coverage") > 1.2 * value(alone, "coverage")
    ratios = star_fluxes(one.template_coadd, 2.0)
    assert len(ratios) > 8
    assert np.median(ratios) == pytest.approx(1.0, abs=0.005)


def test_what_no_patch_covers_is_no_data():
    science = visit(9, offset=(12.0, 0.0))
    skies = sky_map()
    template = warp_template(science, patches([visit(1)], skies)[:2]).template_detector
    lost = template.mask.get("NO_DATA")
    assert 0.3 < lost.mean() < 0.9
    assert np.isfinite(template.image.array[~lost]).all()
    assert np.isnan(template.image.array[lost]).all()


def test_coadd_survives_a_file(tmp_path):
    coadd = build_template([visit(1), visit(2)], sky_map(patch=(320, 320)), 4, 0).template_coadd
    coadd.write(tmp_path / "coadd.fits")
    back = CellCoadd.read(tmp_path / "coadd.fits")
    np.testing.assert_array_equal(back.image.array, coadd.image.array)
    np.testing.assert_allclose(read_correlation(back), read_correlation(coadd))


def test_refusals():
    skies = sky_map()
    with pytest.raises(BadInput, match="no visit image"):
        build_template([], skies, 4, 0)
    with pytest.raises(BandMismatch, match="g, r"):
        build_template([visit(1), visit(2, band="g")], skies, 4, 0)
    with pytest.raises(BadInput, match="cannot be averaged"):
        build_template([visit(1), visit(2, unit="adu")], skies, 4, 0)
    with pytest.raises(NoOverlap, match="touches patch"):
        build_template([visit(1, offset=(500.0, 0.0))], skies, 4, 0)
    coadds = patches([visit(1)], skies)
    with pytest.raises(BandMismatch, match="band g"):
        warp_template(visit(9, band="g"), coadds)
    with pytest.raises(NoOverlap, match="covers visit 9"):
        warp_template(visit(9, offset=(500.0, 0.0)), coadds)
    with pytest.raises(NoOverlap, match="no template patch"):
        warp_template(visit(9), [])
