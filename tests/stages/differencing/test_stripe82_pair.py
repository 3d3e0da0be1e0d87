"""Two epochs of one field, three years apart: noise, blank sky, and the asteroids that are known to be there."""

import numpy as np
import pytest
import sep

from nightlab.data.instruments.sdss import read_raw
from nightlab.images.build import visit_image
from nightlab.images.skymap import SkyMap, TractGrid
from nightlab.images.wcs import fits_header
from nightlab.stages.differencing import detect_dia_sources, subtract
from nightlab.stages.templates import build_template, warp_template


def calibrated(folder, run, field):
    """Sky taken off and fluxes in nJy by the published zero point; enough to subtract."""
    raw = read_raw(folder / f"input/{run}/40/corr/4/fpC-{run:06d}-r4-{field:04d}.fit.gz")
    pixels = np.ascontiguousarray(raw.image.array)
    scale = 10 ** (0.4 * (31.4 - raw.metadata["zeroPoint"]))
    return visit_image(
        (pixels - sep.Background(pixels, bw=128, bh=128).back()) * scale,
        variance=raw.variance.array * scale**2,
        planes={name: raw.mask.get(name) for name in raw.mask.schema.names},
        unit="nJy",
        projection=raw.sky_projection,
        psf=raw.psf,
        detector=raw.detector,
        band=raw.band,
        info=raw.obs_info,
    )


@pytest.fixture(scope="module")
def epochs(stripe82):
    science, before = calibrated(stripe82, 6377, 399), calibrated(stripe82, 4192, 300)
    grid = TractGrid(
        tract=0,
        header=fits_header(before.sky_projection, before.bbox),
        shape=(1489, 2048),
        patch=(1000, 1024),
        border=50,
        cell=(100, 128),
    )
    sky_map = SkyMap(name="stripe82", tracts=(grid,))
    patches = [build_template([before], sky_map, 0, patch).template_coadd for patch, _, _ in grid.patches()]
    template = warp_template(science, patches).template_detector
    difference = subtract(science, template)
    return difference, detect_dia_sources(difference.difference_image, science, template)


def value(result, name):
    return float(result.metrics[name].values.ravel()[0])


@pytest.mark.real_data
def test_noise_is_what_the_inputs_promise(epochs):
    difference, _ = epochs
    assert value(difference, "noise_std_ratio") == pytest.approx(1.0, abs=0.05)
    assert value(difference, "noise_correlation") < 0.03
    # zero points from the reference catalogue differ by 0.005 mag from the published ones used here
    assert value(difference, "kernel_sum") == pytest.approx(1.005, abs=0.01)
    assert value(difference, "star_residual_ratio") < 0.1


@pytest.mark.real_data
def test_blank_sky_stays_blank_and_asteroids_are_found(epochs):
    _, found = epochs
    table = found.dia_source_unassociated
    assert value(found, "blank_ratio") <= 5
    assert 20 < len(table) < 230  # a public Alard-Lupton code finds 119 positive and 111 negative peaks here
    for ra, dec, negative in ((351.7034, 0.1974, True), (351.684, 0.152, False), (351.584, -0.005, False)):
        distance = np.hypot(table["ra"].value - ra, table["dec"].value - dec) * 3600
        row = int(distance.argmin())
        assert distance[row] < 3  # they move
        assert bool(table["isNegative"][row]) == negative
        assert not table["isDipole"][row]
        assert not table["pixelFlags_cr"][row]
        assert table["snr"][row] > 10
